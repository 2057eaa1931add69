#include "support/scratch.hpp"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

namespace modelpool::test {

namespace {

const std::string kPrefix = "modelpool-test-";

// What tests that were killed could not remove: directories that carry the PID of nobody.
void sweep() {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm", ignored)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with(kPrefix)) continue;
    const int pid = std::atoi(name.c_str() + kPrefix.size());
    if (pid > 0 && kill(pid, 0) != 0 && errno == ESRCH)
      std::filesystem::remove_all(entry.path(), ignored);
  }
}

// What backends write is kept where programs keep their state: not in the home of who runs tests.
class StateHome {
 public:
  StateHome()
      : dir_("/dev/shm/" + kPrefix + std::to_string(getpid()) + "-state"), owner_(getpid()) {
    setenv("XDG_STATE_HOME", dir_.c_str(), 1);
  }
  ~StateHome() {
    std::error_code ignored;
    if (getpid() == owner_) std::filesystem::remove_all(dir_, ignored);
  }

 private:
  std::string dir_;
  pid_t owner_;
};
const StateHome kStateHome;

}  // namespace

Scratch::Scratch() {
  static const bool swept = (sweep(), true);
  static_cast<void>(swept);
  std::string pattern = "/dev/shm/" + kPrefix + std::to_string(getpid()) + "-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  dir_ = pattern;
}

Scratch::~Scratch() {
  std::error_code ignored;
  std::filesystem::remove_all(dir_, ignored);
}

bool eventually(const std::function<bool()>& condition, std::chrono::nanoseconds patience) {
  const auto until = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return condition();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

void write_file(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

}  // namespace modelpool::test
