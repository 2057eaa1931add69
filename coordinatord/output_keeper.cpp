#include "output_keeper.hpp"

#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <optional>
#include <utility>

#include "base/time.hpp"
#include "protocol/slots.hpp"
#include "trouble.hpp"

namespace modelpool::coordinator {
namespace {

constexpr std::uint64_t kLookEvery_ns = kSecond_ns;
constexpr std::chrono::milliseconds kAnswerMax{50};

std::optional<std::uint64_t> size_of(const std::string& path) {
  struct stat info {};
  if (lstat(path.c_str(), &info) != 0) return std::nullopt;
  return static_cast<std::uint64_t>(info.st_size);
}

// It is not this user's to cut, or not to be seen from here; what else is wrong may pass.
bool is_anothers(const Error& error) {
  return error.code == Errc::kPermission || error.code == Errc::kInvalid ||
         error.system == EACCES || error.system == EPERM || error.system == EROFS ||
         error.system == ELOOP || error.system == ENOENT;
}

}  // namespace

Result<std::unique_ptr<OutputKeeper>> OutputKeeper::make() {
  auto bell = Bell::make();
  if (!bell) return fail(bell.error());
  Fd inotify = above_stdio(Fd(inotify_init1(IN_CLOEXEC | IN_NONBLOCK)));
  return std::unique_ptr<OutputKeeper>(new OutputKeeper(std::move(*bell), std::move(inotify)));
}

OutputKeeper::~OutputKeeper() {
  if (!helper_.is_running()) return;
  {
    const MutexLock lock(mutex_);
    orders_.stop = true;
  }
  bell_.ring();
  helper_.join();
}

void OutputKeeper::look_after(const Snapshot& snapshot, std::uint64_t max_bytes) {
  const auto has_log = [](const BackendView& b) { return b.live() && !b.log.empty(); };
  std::uint64_t told = max_bytes;
  for (const BackendView& b : snapshot.backends) {
    if (has_log(b)) told = (told ^ (pack_ref(b.ref) + b.log.size())) * 0x9e3779b97f4a7c15;
  }
  if (told == told_) return;
  std::vector<Log> logs;
  for (const BackendView& b : snapshot.backends) {
    if (has_log(b)) logs.push_back({pack_ref(b.ref), b.log, b.model});
  }
  if (!helper_.is_running() && logs.empty()) return;
  if (!is_running()) return;
  {
    const MutexLock lock(mutex_);
    orders_.logs = std::move(logs);
    orders_.max_bytes = max_bytes;
    orders_.is_new = true;
  }
  told_ = told;
  bell_.ring();
}

bool OutputKeeper::is_running() {
  if (helper_.is_running()) return true;
  if (!helper_.is_to_be_tried(now_ns())) return false;
  const auto started = helper_.start([this] { run(); });
  if (!started)
    warn_of("output", started.error().text + "; output is not cut, and it is tried again");
  return started.has_value();
}

std::vector<std::string> OutputKeeper::last_lines(const std::string& path, const std::string& model,
                                                  std::size_t lines) {
  if (path.empty() || !is_running()) return {};
  std::uint64_t mine;
  {
    const MutexLock lock(mutex_);
    mine = ++orders_.asked;
    orders_.question = {0, path, model};
    orders_.lines = lines;
  }
  bell_.ring();
  const auto until = std::chrono::steady_clock::now() + kAnswerMax;
  const MutexLock lock(mutex_);
  while (orders_.answered < mine) {
    if (answered_.wait_until(mutex_, until) == std::cv_status::timeout) break;
  }
  return orders_.answered >= mine ? orders_.answer : std::vector<std::string>();
}

// --- The thread ----------------------------------------------------------------------------------

void OutputKeeper::run() {
  std::uint64_t looked_ns = 0;
  while (take_orders()) {
    answer();
    const std::uint64_t now = now_ns();
    bool any_grows = std::any_of(watched_.begin(), watched_.end(), [](const Watched& one) {
      return one.watch < 0 && !one.is_left_alone;
    });
    if (any_grows && now >= add_ns(looked_ns, kLookEvery_ns)) {
      looked_ns = now;
      any_grows = false;
      for (Watched& one : watched_) any_grows |= look_at(&one);
    }
    const std::uint64_t wait_ns = age_ns(add_ns(looked_ns, kLookEvery_ns), now_ns());
    pollfd events[] = {{bell_.fd(), POLLIN, 0}, {inotify_.get(), POLLIN, 0}};
    poll(events, 2, any_grows ? static_cast<int>(wait_ns / kMillisecond_ns) + 1 : -1);
    bell_.drain();
    take_changes();
  }
}

bool OutputKeeper::take_orders() {
  std::vector<Log> logs;
  {
    const MutexLock lock(mutex_);
    if (orders_.stop) return false;
    if (!orders_.is_new) return true;
    orders_.is_new = false;
    max_bytes_ = orders_.max_bytes;
    logs = std::move(orders_.logs);
  }
  std::vector<Watched> watched;
  for (Log& log : logs) {
    if (max_bytes_ == 0) break;
    const auto known = std::find_if(watched_.begin(), watched_.end(), [&](const Watched& one) {
      return one.log.backend == log.backend && one.log.path == log.path;
    });
    watched.emplace_back();
    if (known == watched_.end()) {
      watched.back().log = std::move(log);
    } else {
      watched.back() = std::move(*known);
      known->watch = -1;
    }
  }
  for (const Watched& one : watched_) {
    if (one.watch >= 0) inotify_rm_watch(inotify_.get(), one.watch);
  }
  watched_ = std::move(watched);
  return true;
}

void OutputKeeper::answer() {
  Log question;
  std::size_t lines = 0;
  std::uint64_t asked = 0;
  {
    const MutexLock lock(mutex_);
    if (orders_.answered == orders_.asked) return;
    asked = orders_.asked;
    question = orders_.question;
    lines = orders_.lines;
  }
  const auto log = ModelLog::open(question.path, question.model);
  std::vector<std::string> found;
  if (log) found = modelpool::last_lines(*log, lines);
  const MutexLock lock(mutex_);
  orders_.answered = asked;
  orders_.answer = std::move(found);
  answered_.notify_all();
}

// What rested was written: it is looked at each second from now on.
void OutputKeeper::take_changes() {
  alignas(inotify_event) std::array<char, 4096> buffer;
  ssize_t got;
  while (inotify_ && (got = read(inotify_.get(), buffer.data(), buffer.size())) > 0) {
    for (ssize_t at = 0; at < got;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer.data() + at);
      at += static_cast<ssize_t>(sizeof *event + event->len);
      for (Watched& one : watched_) {
        if (one.watch == event->wd) one.watch = -1;
      }
    }
  }
}

bool OutputKeeper::look_at(Watched* watched) const {
  if (watched->watch >= 0 || watched->is_left_alone) return false;
  const auto log = ModelLog::open(watched->log.path, watched->log.model);
  if (log && !watched->is_begun) log->finish_cut();
  watched->is_begun = true;
  const auto cut = log ? log->cut(max_bytes_) : fail(log.error());
  if (!cut) {
    watched->is_left_alone = is_anothers(cut.error());
    warn_of("output", cut.error().text);
    return !watched->is_left_alone;
  }
  if (*cut == ModelLog::Cut::kDropped) {
    warn_of("output",
            "there is no room to keep what was cut off " + watched->log.path + ": it is lost");
  }
  const std::optional<std::uint64_t> found = size_of(watched->log.path);
  if (!found) {
    watched->is_left_alone = true;
    warn_of("output",
            watched->log.path + " was removed: the backend writes on, and nobody sees it");
    return false;
  }
  const std::uint64_t size = *found;
  if (size != watched->size || *cut != ModelLog::Cut::kNotDue) {
    watched->size = size;
    return true;
  }
  rest(watched);
  return watched->watch < 0;
}

void OutputKeeper::rest(Watched* watched) const {
  if (!inotify_) return;
  watched->watch = inotify_add_watch(inotify_.get(), watched->log.path.c_str(),
                                     IN_MODIFY | IN_ONESHOT | IN_DONT_FOLLOW);
  // Written before it was watched: nobody else would say so.
  if (watched->watch < 0 || size_of(watched->log.path) == watched->size) return;
  inotify_rm_watch(inotify_.get(), watched->watch);
  watched->watch = -1;
}

}  // namespace modelpool::coordinator
