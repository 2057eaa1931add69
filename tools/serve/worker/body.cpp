#include "worker/body.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace modelpool::serve {
namespace {

tl::unexpected<Refusal> no_room(const std::string& why) {
  auto refusal = refuse(503, "no_room_for_body", "unable to keep the request's body: " + why);
  refusal.value().retry_after_s = 1;
  return refusal;
}

Fd unnamed_file(const std::string& dir) {
  Fd file(open(dir.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (file || (errno != EOPNOTSUPP && errno != EISDIR)) return file;
  std::string path = dir + "/poolserve.XXXXXX";
  file = Fd(mkostemp(path.data(), O_CLOEXEC));
  if (file) unlink(path.c_str());
  return file;
}

}  // namespace

Checked<> Body::append(std::string_view bytes) {
  if (!file_ && memory_.size() + bytes.size() > config_.body_memory_bytes) {
    if (auto ok = spill(); !ok) return ok;
  }
  if (file_) return write_out(bytes);
  const bool has_others = held_.memory_bytes > memory_.size();
  if (has_others && held_.memory_bytes + bytes.size() > config_.bodies_memory_bytes)
    return no_room("the bodies of other requests fill bodies_memory");
  held_.memory_bytes += bytes.size();
  memory_.append(bytes);
  return {};
}

Checked<> Body::spill() {
  file_ = unnamed_file(config_.body_dir);
  if (!file_) return no_room("no file in " + config_.body_dir + ": " + std::strerror(errno));
  held_.memory_bytes -= memory_.size();
  return write_out(std::exchange(memory_, {}));
}

Checked<> Body::write_out(std::string_view bytes) {
  const bool has_others = held_.disk_bytes > on_disk_;
  if (has_others && held_.disk_bytes + bytes.size() > config_.bodies_disk_bytes)
    return no_room("the bodies of other requests fill bodies_disk");
  held_.disk_bytes += bytes.size();
  on_disk_ += bytes.size();
  while (!bytes.empty()) {
    const ssize_t written = write(file_.get(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return no_room(config_.body_dir + ": " + std::strerror(errno));
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  return {};
}

Checked<> Body::finish() {
  if (on_disk_ == 0) return {};
  mapped_ = mmap(nullptr, on_disk_, PROT_READ, MAP_PRIVATE, file_.get(), 0);
  if (mapped_ == MAP_FAILED) {
    mapped_ = nullptr;
    return no_room(std::strerror(errno));
  }
  return {};
}

std::string_view Body::whole() const {
  if (mapped_ != nullptr) return {static_cast<const char*>(mapped_), on_disk_};
  return memory_;
}

void Body::drop() {
  if (mapped_ != nullptr) munmap(mapped_, on_disk_);
  mapped_ = nullptr;
  file_.reset();
  held_.memory_bytes -= memory_.size();
  held_.disk_bytes -= std::exchange(on_disk_, 0);
  std::string().swap(memory_);
}

}  // namespace modelpool::serve
