// The outermost frame of a program: an exception that a library throws, at start or later, and
// output that nobody could take are a message and an exit code, never an abort and never silence.
// Descriptors 0, 1 and 2 that it was started without are opened before anything else is (fd.hpp).
// A file that may not grow (ulimit -f) is an error of the write: SIGXFSZ is ignored.
//
// Safety: main() calls it once, before threads of the program's own.
//
// Errors: "PROGRAM: unable to go on: WHAT", "PROGRAM: unable to write the output: WHY", on stderr.
#pragma once

#include <functional>

namespace modelpool {

struct ProgramExits {
  int faulty;   // an exception nobody expected, or output that could not be written
  int refused;  // memory or threads ran out: the same may work later
};

// body()'s exit code, or one of `exits` after a message. A reader that went away is no error.
int run_program(const char* name, ProgramExits exits, const std::function<int()>& body);

}  // namespace modelpool
