// A program of this package that works for the coordinator and must not hold anything of it: it
// gets a socket as stdin and stdout, and nothing else. No lock, no signal mask, no directory, no
// group: whatever becomes of it, the coordinator can end, and the next one can take its lock (P10).
//
// Safety: one owner.
//
// Crash: it sees its stdin end when the coordinator does.
//
// Errors: kSystem, why it cannot be started.
#pragma once

#include <string>

#include "base/fd.hpp"
#include "base/process.hpp"
#include "modelpool/result.hpp"

namespace modelpool::coordinator {

// Where it is: what the variable `override_name` says; else beside this program, else in its
// libexec directory. It need not be there.
std::string find_helper_program(const std::string& name, const char* override_name);

struct HelperProgram {
  Fd socket;  // nonblocking
  ProcessHandle process;

  static Result<HelperProgram> start(const std::string& path);
};

}  // namespace modelpool::coordinator
