// Tells when the pool's name may lead elsewhere: its file or a directory on the way was removed or
// renamed, or something was mounted over them. By events; by looking once a second where there are
// none.
//
// Safety: one thread. Whether the name is lost is for the owner to look at; this only says when.
//
// Errors: none; degraded() says what it does without and how to give it that.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/time.hpp"

namespace modelpool::coordinator {

class NameWatch {
 public:
  explicit NameWatch(const std::string& path);

  int events() const { return inotify_.get(); }  // readable; -1: none
  int mounts() const { return mounts_.get(); }   // has EPOLLPRI; -1: none
  void drain();
  std::uint64_t look_again_ns(std::uint64_t now_ns) const;   // kNever_ns: events will tell
  const std::string& degraded() const { return degraded_; }  // "": it is not

 private:
  void watch_file_and_directories(const std::string& path);

  Fd inotify_;
  Fd mounts_;
  std::string degraded_;
};

}  // namespace modelpool::coordinator
