// A text that is made now and then by one of several processes, and read by all of them.
//
// Safety: any process that has the memory by fork; in each of them one thread.
//
// Crash: who makes it holds a lock that the kernel drops with him, and what he had half written
// nobody reads: the next one makes it.
//
// Errors: without memory each process makes its own, and keeps it by itself.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "between/fd.hpp"

namespace modelpool::serve {

class SharedText {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;  // of all processes
  struct Made {
    std::string text;
    TimePoint since;
  };

  SharedText();
  SharedText(const SharedText&) = delete;
  SharedText& operator=(const SharedText&) = delete;
  ~SharedText();

  // Is there one that was begun later than so?
  bool is_newer(TimePoint than) const;
  // nullopt: there is none, or it is being written.
  std::optional<Made> read() const;
  // Is it for this process to make the next one? Then end() is to follow. False: another does.
  bool begin();
  void write(const Made& made);  // REQUIRES: begin()
  void end();                    // nothing where it was another

 private:
  // A page; the text stands behind it.
  struct Head {
    std::atomic<std::uint64_t> sequence;  // odd: it is being written
    std::atomic<std::int64_t> since_ns;   // 0: none was made
    std::atomic<std::uint64_t> bytes;
  };
  bool lock(short kind);

  Fd fd_;
  Head* head_ = nullptr;
};

}  // namespace modelpool::serve
