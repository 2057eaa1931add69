// A program of the coordinator's own for what may hang: found beside coordinatord or in its libexec
// directory, executed with nothing inherited but one end of a socket that keeps messages apart.
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

#include "base/process.hpp"

namespace modelpool::coordinator {

class HelperProgram {
 public:
  explicit HelperProgram(std::string name) : name_(std::move(name)) {}
  ~HelperProgram() { end(); }
  HelperProgram(const HelperProgram&) = delete;
  HelperProgram& operator=(const HelperProgram&) = delete;

  Result<> start();
  bool is_running() const { return static_cast<bool>(socket_); }
  int fd() const { return socket_.get(); }  // readable when it has said something, or has ended
  pid_t pid() const { return process_.identity().pid; }

  // False: it cannot take it now.
  bool send(std::string_view message);
  // The next that it has said, of so many bytes at most. It does not run any more if it has ended.
  std::optional<std::string> receive(std::size_t max_bytes);
  // SIGKILL, and reaped.
  void end();

 private:
  std::string name_;
  Fd socket_;
  ProcessHandle process_;
};

}  // namespace modelpool::coordinator
