// Where programs of the coordinator's own are.
//
// Safety: any thread.
//
// Errors: a path at which nothing is; empty where this program's own place is not known.
#pragma once

#include <filesystem>
#include <string>

namespace modelpool::coordinator {

// PREFIX/libexec/modelpool/NAME, seen from this program, which may have been moved with its tree.
std::filesystem::path libexec_path(const std::string& name);

// The one beside this program, as in a build, else the one in libexec.
std::string find_own_program(const std::string& name);

}  // namespace modelpool::coordinator
