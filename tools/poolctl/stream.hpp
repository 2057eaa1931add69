// Output that goes on until its reader has enough: `list --watch`, `events --follow`.
//
// Safety: one thread, one Stream a process. From its construction on SIGINT and SIGTERM end the
// program with 0, at once while it waits, after the write while it prints.
//
// Crash: nothing to leave behind.
//
// Errors: a reader that went away is no error; print() says so.
#pragma once

#include <cstdint>
#include <string_view>

#include "common.hpp"

namespace modelpool::poolctl {

class Stream {
 public:
  Stream();
  // Writes all of it. False: nobody reads any more, or it could not be written (then it says why).
  bool print(std::string_view text);
  bool has_reader() const;
  // Waits for the next event of the pool, at most until then, less if woken.
  void wait(const Segment& segment, std::uint32_t seen_bell, std::uint64_t until_ns);
  // Waits until the descriptor (-1: none) is readable, which it returns, or the time is over.
  bool wait_readable(int fd, std::uint64_t at_most_ns);
  // 0, or 3 after output that failed.
  int exit_code() const { return exit_code_; }

 private:
  int exit_code_ = kDone;
};

}  // namespace modelpool::poolctl
