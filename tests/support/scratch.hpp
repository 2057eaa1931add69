// A directory of the test's own on a tmpfs, gone with everything in it when the test ends, also
// when it fails; and waiting for conditions instead of sleeping.
#pragma once

#include <chrono>
#include <functional>
#include <string>

namespace modelpool::test {

class Scratch {
 public:
  Scratch();
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  const std::string& dir() const { return dir_; }  // 0700, under /dev/shm
  std::string path(const std::string& name) const { return dir_ + "/" + name; }

 private:
  std::string dir_;
};

// Generous: a wait that runs into it has failed, however slow the machine.
inline constexpr std::chrono::seconds kPatience{30};

// Looks until `condition` holds or the patience is over. Returns whether it holds.
bool eventually(const std::function<bool()>& condition,
                std::chrono::nanoseconds patience = kPatience);

std::string read_file(const std::string& path);
void write_file(const std::string& path, const std::string& text);

}  // namespace modelpool::test
