#include "name_watch.hpp"

#include <fcntl.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/proc.hpp"
#include "base/shortage.hpp"
#include "base/text.hpp"

namespace modelpool::coordinator {
namespace {

constexpr std::uint64_t kLookEvery_ns = kSecond_ns;

std::string describe(const std::string& what, Needs needed, int error) {
  const std::string advice = shortage_advice(needed, error);
  return "unable to " + what + ": " + std::strerror(error) + (advice.empty() ? "" : "; " + advice);
}

}  // namespace

NameWatch::NameWatch(const std::string& path) {
  inotify_ = above_stdio(Fd(inotify_init1(IN_CLOEXEC | IN_NONBLOCK)));
  if (!inotify_) {
    degraded_ = describe("be told when the pool's name is lost", Needs::kInotifyInstance, errno);
    return;
  }
  watch_file_and_directories(path);
  mounts_ = open_above_stdio(AT_FDCWD, own_proc_path("mountinfo").c_str(), O_RDONLY | O_NONBLOCK);
  if (!mounts_ && degraded_.empty())
    degraded_ = describe("be told of mounts", Needs::kDescriptor, errno);
}

void NameWatch::watch_file_and_directories(const std::string& path) {
  const auto watch = [this](const std::string& what, std::uint32_t events) {
    if (inotify_add_watch(inotify_.get(), what.c_str(), events) >= 0 || !degraded_.empty()) return;
    degraded_ = describe("watch " + escape(what), Needs::kInotifyWatch, errno);
  };
  watch(path, IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF);
  std::error_code error;
  const std::filesystem::path file = std::filesystem::weakly_canonical(path, error);
  for (auto dir = (error ? std::filesystem::path(path) : file).parent_path();
       dir != dir.root_path(); dir = dir.parent_path()) {
    watch(dir, IN_DELETE_SELF | IN_MOVE_SELF);
  }
}

void NameWatch::drain() {
  std::array<char, 4096> buffer;
  while (inotify_ && read(inotify_.get(), buffer.data(), buffer.size()) > 0) {
  }
}

std::uint64_t NameWatch::look_again_ns(std::uint64_t now_ns) const {
  return degraded_.empty() ? kNever_ns : add_ns(now_ns, kLookEvery_ns);
}

}  // namespace modelpool::coordinator
