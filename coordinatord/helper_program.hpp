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

struct HelperProgram {
  Fd socket;  // nonblocking
  ProcessHandle process;

  // `kind` of socket: SOCK_STREAM, or SOCK_SEQPACKET, which keeps messages apart. With this
  // process's environment, but for what is this process's alone, or with none.
  static Result<HelperProgram> start(const std::string& path, int kind, bool with_environment);
};

}  // namespace modelpool::coordinator
