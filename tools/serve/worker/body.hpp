// The body of a request, received whole before the pool is asked and kept until the answer begins:
// in memory, beyond that in a file without a name. One alone always has room: the config allows no
// body_limit beyond that.
//
// Safety: the loop's thread. Files are written and mapped by it.
//
// Crash: the file has no name, so nothing is left.
//
// Errors: 413 too large for what is configured; 503 no room for bodies now.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "between/fd.hpp"
#include "config/door.hpp"
#include "wire/refusal.hpp"

namespace modelpool::serve {

// What all bodies of a process hold.
struct BodyBudget {
  std::uint64_t memory_bytes = 0;
  std::uint64_t disk_bytes = 0;
};

class Body {
 public:
  Body(const config::Serve& config, BodyBudget& held) : config_(config), held_(held) {}
  Body(const Body&) = delete;
  Body& operator=(const Body&) = delete;
  ~Body() { drop(); }

  Checked<> append(std::string_view bytes);
  // Errors: 503. REQUIRES: nothing is appended after it.
  Checked<> finish();
  std::string_view whole() const;  // after finish
  std::uint64_t size() const { return memory_.size() + on_disk_; }
  void drop();

 private:
  Checked<> spill();
  Checked<> write_out(std::string_view bytes);

  const config::Serve& config_;
  BodyBudget& held_;
  std::string memory_;
  Fd file_;
  void* mapped_ = nullptr;
  std::uint64_t on_disk_ = 0;
};

}  // namespace modelpool::serve
