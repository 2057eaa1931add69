// How many connections each worker of a generation has: in memory that they share, so that none
// takes much more than its part, and that all together keep to max_connections.
//
// Safety: each worker writes its own cell; others read it. Made before the fork.
//
// Crash: the master clears the cell of a worker that has died; without a master it stays, and the
// others take a little more than they would.
//
// Errors: none; without memory nobody is held back.
#pragma once

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <utility>

#include "between/fd.hpp"
#include "between/memory_file.hpp"

namespace modelpool::serve {

class Balance {
 public:
  explicit Balance(unsigned workers)
      : workers_(workers), fd_(open_memory_file("poolserve balance")) {
    if (fd_ && ftruncate(fd_.get(), bytes()) == 0) map();
  }
  // That of the program before.
  Balance(unsigned workers, Fd fd) : workers_(workers), fd_(std::move(fd)) {
    struct stat file {};
    if (fd_ && fstat(fd_.get(), &file) == 0 && file.st_size == bytes()) map();
  }
  Balance(const Balance&) = delete;
  Balance& operator=(const Balance&) = delete;
  ~Balance() {
    if (cells_ != nullptr) munmap(cells_, static_cast<std::size_t>(bytes()));
  }

  const Fd& fd() const { return fd_; }
  // relaxed, all: a hint
  void set(unsigned worker, std::uint32_t connections) {
    if (cells_ != nullptr && worker < workers_)
      cells_[worker].store(connections, std::memory_order_relaxed);
  }
  std::uint32_t sum() const {
    std::uint32_t all = 0;
    for (unsigned i = 0; cells_ != nullptr && i < workers_; ++i)
      all += cells_[i].load(std::memory_order_relaxed);
    return all;
  }
  // Has a worker with so many more than its part?
  bool is_ahead(std::uint32_t connections) const {
    if (workers_ == 0) return false;
    const std::uint32_t mean = sum() / workers_;
    return connections > mean + mean / 8 + 8;
  }

 private:
  off_t bytes() const { return static_cast<off_t>(workers_ * sizeof(std::atomic<std::uint32_t>)); }
  void map() {
    void* const page = mmap(nullptr, static_cast<std::size_t>(bytes()), PROT_READ | PROT_WRITE,
                            MAP_SHARED, fd_.get(), 0);
    if (page != MAP_FAILED) cells_ = static_cast<std::atomic<std::uint32_t>*>(page);
  }

  unsigned workers_;
  Fd fd_;
  std::atomic<std::uint32_t>* cells_ = nullptr;
};

}  // namespace modelpool::serve
