// What the system has run out of, and how it is raised: for a program that cannot start without it.
//
// Safety: any thread. Reads /proc and limits of this process.
#pragma once

#include <string>
#include <string_view>

namespace modelpool {

// Whose shortage an errno of this kind of call means.
enum class Needs { kDescriptor, kThread, kInotifyInstance, kInotifyWatch, kEpollWatch };

// "its 1024 descriptors are used up; raise them with ulimit -n, or LimitNOFILE= in a unit"; empty
// if the errno tells of no shortage.
std::string shortage_advice(Needs needed, int error);
std::string proc_advice(int error);  // the same where a file of /proc could not be read

// Will the same call work later, once others have let go of something? Else it needs a person.
bool is_shortage(int error);

}  // namespace modelpool
