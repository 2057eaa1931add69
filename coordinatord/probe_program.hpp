// The program that probes for the coordinator, as somebody who is sent messages and answers them:
// found beside coordinatord or in its libexec directory.
//
// Safety: one thread, the one that reaps children: until that has, the program's number is its own.
//
// Crash: the program ends with the coordinator, by its socket and by PDEATHSIG.
//
// Errors: of start: kSystem, naming the program and what to do. Whatever happens later shows as a
// program that does not run.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "helper_program.hpp"

namespace modelpool::coordinator {

class ProbeProgram {
 public:
  explicit ProbeProgram(std::string name) : name_(std::move(name)) {}
  ~ProbeProgram() { end(); }
  ProbeProgram(const ProbeProgram&) = delete;
  ProbeProgram& operator=(const ProbeProgram&) = delete;

  Result<> start();
  bool is_running() const { return static_cast<bool>(program_.socket); }
  int fd() const {
    return program_.socket.get();
  }  // readable when it has said something, or has ended
  pid_t pid() const { return program_.process.identity().pid; }

  // False: it cannot take it now.
  bool send(std::string_view message);
  // The next that it has said, of so many bytes at most. It does not run any more if it has ended.
  std::optional<std::string> receive(std::size_t max_bytes);
  // SIGKILL, and reaped.
  void end();

 private:
  std::string name_;
  HelperProgram program_;
};

}  // namespace modelpool::coordinator
