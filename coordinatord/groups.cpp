#include "groups.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>

#include "base/shortage.hpp"
#include "base/time.hpp"
#include "thread.hpp"

namespace modelpool::coordinator {
namespace {

// A member's end makes its group due again: at once if it was the last one known, for then the backend
// may be gone and somebody waits for its place; else not more often than this.
constexpr std::uint64_t kRescanMin_ns = 2 * kMillisecond_ns;
// Without a known member to wait for (no descriptor could be had), or with a signal that could not be
// sent, look again after this.
constexpr std::uint64_t kBlindRescan_ns = 200 * kMillisecond_ns;
// Each such look after which there has to be another doubles the time to that, so often.
constexpr int kInVainMax = 4;
constexpr int kPassesMax =
    16;  // of one scan, while signals were sent or nobody is left to be proved
// On a busy host somebody always ends between being listed and being asked: this often it is looked
// again, then the look is believed.
constexpr int kUnsettledPassesMax = 8;
constexpr std::uint64_t kExecMax_ns = kSecond_ns;
// Without a thread of its own: how often its owner looks, and tries for one.
constexpr std::uint64_t kWithoutThread_ns = 20 * kMillisecond_ns;
constexpr std::uint64_t kTryAgain_ns = kSecond_ns;

void bump(const Fd& bell) {
  const std::uint64_t one = 1;
  static_cast<void>(!write(bell.get(), &one, sizeof one));
}

// What /proc/PID/FILE holds; nullopt with errno if it cannot be read.
std::optional<std::string> read_proc(pid_t pid, const char* file) {
  const Fd fd(open(("/proc/" + std::to_string(pid) + "/" + file).c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return std::nullopt;
  std::string text;
  std::array<char, 16384> chunk;
  for (;;) {
    const ssize_t got = read(fd.get(), chunk.data(), chunk.size());
    if (got < 0) return std::nullopt;
    if (got == 0) return text;
    text.append(chunk.data(), static_cast<std::size_t>(got));
  }
}

enum class Token { kNo, kYes, kHidden };  // hidden: nobody could tell now

// A process whose first thread has left shows its environment through the others.
std::optional<std::string> read_environ(pid_t pid) {
  auto environment = read_proc(pid, "environ");
  bool is_without = environment ? environment->empty() : errno == ESRCH;
  if (!is_without) return environment;
  std::error_code error;
  std::filesystem::directory_iterator task("/proc/" + std::to_string(pid) + "/task", error);
  for (; task != end(task) && is_without; task.increment(error)) {
    environment = read_proc(pid, ("task/" + task->path().filename().string() + "/environ").c_str());
    is_without = environment ? environment->empty() : errno == ESRCH;
  }
  return environment;
}

Token read_token(pid_t pid, const std::string& token) {
  auto environment = read_environ(pid);
  if (!environment) return errno == EACCES || errno == EPERM ? Token::kNo : Token::kHidden;
  if (environment->empty()) return Token::kHidden;
  environment->insert(0, 1, '\0');
  environment->push_back('\0');
  const std::string entry = std::string(1, '\0') + "MODELPOOL_BACKEND=" + token + '\0';
  return environment->find(entry) == std::string::npos ? Token::kNo : Token::kYes;
}

// The kernel is replacing its program: for a moment it has neither environment nor arguments, or what
// was opened was the old one's. A kernel's thread never has any.
bool is_between_programs(const ProcessStat& stat) {
  constexpr pid_t kKernelThreads = 2;
  if (stat.pid == kKernelThreads || stat.parent == kKernelThreads) return false;
  const auto arguments = read_proc(stat.pid, "cmdline");
  if (arguments && arguments->empty()) return true;
  const auto environment = read_proc(stat.pid, "environ");
  return environment && !environment->empty();
}

std::uint64_t proc_inode(pid_t pid) {
  struct stat directory;
  return stat(("/proc/" + std::to_string(pid)).c_str(), &directory) == 0 ? directory.st_ino : 0;
}

void drain(const Fd& bell) {
  std::uint64_t count;
  static_cast<void>(!read(bell.get(), &count, sizeof count));
}

}  // namespace

Result<std::unique_ptr<Groups>> Groups::make() {
  Fd work(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  Fd vanished(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!work || !vanished)
    return fail_errno(errno, "create an eventfd", shortage_advice(Needs::kDescriptor, errno));
  return std::unique_ptr<Groups>(
      new Groups(above_stdio(std::move(work)), above_stdio(std::move(vanished))));
}

Result<> Groups::start() {
  if (thread_.joinable()) return {};
  try_again_ns_ = now_ns() + kTryAgain_ns;
  auto thread = start_thread([this] { run(); });
  if (!thread) return fail(thread.error());
  thread_ = std::move(*thread);
  return {};
}

std::uint64_t Groups::look_again_ns(std::uint64_t now_ns) {
  if (thread_.joinable()) return kNever_ns;
  if (now_ns >= try_again_ns_ && start()) return kNever_ns;
  pass(0);
  return now_ns + kWithoutThread_ns;
}

Groups::Groups(Fd work_bell, Fd vanished_bell)
    : work_bell_(std::move(work_bell)), vanished_bell_(std::move(vanished_bell)) {}

Groups::~Groups() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  bump(work_bell_);
  if (thread_.joinable()) thread_.join();
}

void Groups::order(GroupJob job) {
  {
    const std::lock_guard lock(mutex_);
    orders_.push_back(std::move(job));
  }
  bump(work_bell_);
}

void Groups::spare(std::set<pid_t> pids) {
  const std::lock_guard lock(mutex_);
  spared_ = std::move(pids);
}

void Groups::forget(BackendRef backend) {
  {
    const std::lock_guard lock(mutex_);
    forgotten_.push_back(backend);
    std::erase(vanished_, backend);
  }
  bump(work_bell_);
}

std::vector<BackendRef> Groups::vanished() {
  drain(vanished_bell_);
  const std::lock_guard lock(mutex_);
  return vanished_;
}

void Groups::run() {
  static_cast<void>(list_starts());  // now, rather than while somebody waits for the first place
  while (pass(kNever_ns)) {
  }
}

bool Groups::pass(std::uint64_t wait_max_ns) {
  // What to wait for: orders, and the end of every member known.
  std::vector<pollfd> waits{{work_bell_.get(), POLLIN, 0}};
  std::vector<Watched*> owners{nullptr};
  std::uint64_t next_ns = kNever_ns;
  for (auto& [packed, watched] : all_) {
    if (watched.vanished) continue;
    if (watched.due) {
      next_ns = std::min(next_ns, next_scan_ns(watched));
      continue;
    }
    for (auto& [pid, member] : watched.members) {
      if (!member.handle) continue;
      waits.push_back({member.handle.fd(), POLLIN, 0});
      owners.push_back(&watched);
    }
    if (watched.again) next_ns = std::min(next_ns, next_scan_ns(watched));
  }
  const std::uint64_t now = now_ns();
  next_ns = std::min(next_ns, add_ns(now, wait_max_ns));
  const timespec timeout{static_cast<time_t>(age_ns(next_ns, now) / kSecond_ns),
                         static_cast<long>(age_ns(next_ns, now) % kSecond_ns)};
  ppoll(waits.data(), waits.size(), next_ns == kNever_ns ? nullptr : &timeout, nullptr);
  for (std::size_t i = 1; i < waits.size(); ++i) {
    if (waits[i].revents != 0) owners[i]->due = true;
  }
  drain(work_bell_);

  std::set<pid_t> spared;
  {
    const std::lock_guard lock(mutex_);
    if (stop_) return false;
    for (GroupJob& job : orders_) {
      Watched& watched = all_[pack_ref(job.backend)];
      watched.job = std::move(job);
      watched.due = true;
      watched.scanned_ns = 0;
      watched.vanished = false;
    }
    orders_.clear();
    for (const BackendRef ref : forgotten_) all_.erase(pack_ref(ref));
    forgotten_.clear();
    spared = spared_;
  }
  spared.insert(getpid());
  spared.insert(getppid());  // who supervises it is no backend

  for (auto& [packed, watched] : all_) {
    if (watched.vanished || !(watched.due || watched.again)) continue;
    if (now_ns() < next_scan_ns(watched)) continue;
    const bool was_due = watched.due;
    scan(&watched, spared);
    watched.in_vain = was_due ? 0 : std::min(watched.in_vain + 1, kInVainMax);
    if (!watched.vanished) continue;
    const std::lock_guard lock(mutex_);
    if (std::find(vanished_.begin(), vanished_.end(), watched.job.backend) == vanished_.end()) {
      vanished_.push_back(watched.job.backend);
    }
    bump(vanished_bell_);
  }
  return true;
}

bool Groups::any_lives(const Watched& watched) {
  return std::any_of(watched.members.begin(), watched.members.end(), [](const auto& entry) {
    return entry.second.handle.liveness() != Liveness::kDead;
  });
}

std::uint64_t Groups::next_scan_ns(const Watched& watched) {
  if (!watched.due) return watched.scanned_ns + (kBlindRescan_ns << watched.in_vain);
  const bool last_has_ended = !watched.members.empty() && !any_lives(watched);
  return last_has_ended ? 0 : watched.scanned_ns + kRescanMin_ns;
}

void Groups::drop_dead_members(Watched* watched) {
  std::erase_if(watched->members, [](const auto& entry) {
    return entry.second.handle.liveness() == Liveness::kDead;
  });
}

bool Groups::list_starts() {
  const auto pids = list_pids();
  if (!pids) return false;
  std::vector<Start> starts;
  starts.reserve(pids->size());
  auto known = starts_.begin();
  for (const pid_t pid : *pids) {  // in the order of their numbers
    // The inode first: if another process takes the number in between, the time is too late, not too
    // early.
    Start start{pid, proc_inode(pid)};
    while (known != starts_.end() && known->pid < pid) ++known;
    if (known != starts_.end() && known->pid == pid && known->inode == start.inode) {
      start.ticks = known->ticks;
      start.has_ended = known->has_ended;
      start.hidden_since_ns = known->hidden_since_ns;
    } else if (const auto stat = read_stat(pid)) {
      start.ticks = stat->start_ticks;
    } else {
      start.inode = 0;
    }
    if (start.inode == 0) start.ticks = UINT64_MAX;  // not known: as young as can be
    starts.push_back(start);
  }
  starts_ = std::move(starts);
  return true;
}

// What it cannot tell counts as "perhaps", which is not signalled (P7) and not gone (P3).
Groups::Belongs Groups::belongs(const Watched& watched, pid_t pid, const Number& number,
                                bool is_older) {
  const GroupJob& job = watched.job;
  const pid_t group = getpgid(pid);
  if (group < 0 && errno == ESRCH) return Belongs::kEnded;
  const bool in_group = group == job.group || (!is_older && getsid(pid) == job.process.pid);
  const Token token = job.token.empty() || is_older ? Token::kNo : read_token(pid, job.token);
  const bool has_token = token == Token::kYes;
  if (!in_group && token == Token::kNo) return Belongs::kNo;
  const auto stat = read_stat(pid);
  // Gone meanwhile, or not to be read now, as without descriptors.
  if (!stat) return getpgid(pid) < 0 && errno == ESRCH ? Belongs::kEnded : Belongs::kPerhaps;
  // A zombie whose other threads run is alive.
  if (stat->is_zombie() && stat->threads <= 1) return Belongs::kEnded;
  if (!in_group && !has_token) return is_between_programs(*stat) ? Belongs::kHidden : Belongs::kNo;
  if (has_token || number.taken) return Belongs::kYes;
  // Without the token (setproctitle overwrites it, an exec hides it for a moment) only the number of
  // group and session speaks for it; that stays in use while they have members.
  return number.reused ? Belongs::kNo : Belongs::kPerhaps;
}

// One look at everyone.
Groups::Look Groups::find_members(Watched* watched) {
  const GroupJob& job = watched->job;
  Look look;
  Number number;
  if (const auto first = read_stat(job.process.pid)) {
    // A number that is used again may have the same start time: its pidfd tells. A zombie has none.
    const auto handle = ProcessHandle::open(job.process.pid);
    number.taken = first->start_ticks == job.process.start_ticks &&
                   (!handle || handle->identity().is(job.process));
    number.reused = !number.taken;
  }
  // A living member of the group keeps its number taken too.
  for (const auto& [pid, member] : watched->members) {
    const auto stat = read_stat(pid);
    number.taken |=
        stat && stat->group == job.group && member.handle.liveness() == Liveness::kAlive;
  }

  bool first_had_ended = false;
  if (!watched->members.contains(job.process.pid)) {
    auto first = ProcessHandle::open(job.process);
    if (first.liveness == Liveness::kAlive)
      watched->members[job.process.pid].handle = std::move(first.handle);
    look.whole &= first.liveness != Liveness::kUnknown;
    first_had_ended = first.liveness == Liveness::kDead;
  }
  if (job.group == 0) return look;
  if (!list_starts()) return {false, true, false};
  for (Start& start : starts_) {
    const pid_t pid = start.pid;
    if (pid <= 1 || start.has_ended || watched->members.contains(pid)) continue;
    const bool is_older = start.ticks < job.process.start_ticks;
    Belongs found = belongs(*watched, pid, number, is_older);
    if (found == Belongs::kYes) {
      // Opened first, examined again after: what was examined is what is held (P7).
      auto handle = ProcessHandle::open(pid);
      if (handle) {
        found = belongs(*watched, pid, number, is_older);
        if (found == Belongs::kYes) watched->members[pid].handle = std::move(*handle);
      } else {
        found = handle.error().system == ESRCH ? Belongs::kEnded : Belongs::kPerhaps;
      }
    }
    if (found == Belongs::kEnded) {
      // Since it was listed, for all we know, and it may have left a child.
      start.has_ended = start.inode != 0 && getpgid(pid) >= 0;
      look.settled &= pid == job.process.pid && first_had_ended;
    }
    look.whole &= found != Belongs::kPerhaps;
    if (found != Belongs::kHidden) continue;
    // No exec takes that long: it has no environment, and no token.
    if (start.hidden_since_ns == 0) start.hidden_since_ns = now_ns();
    look.hidden |= now_ns() - start.hidden_since_ns < kExecMax_ns;
  }
  // Out of descriptors or memory, everybody looks absent.
  look.whole &= read_stat(getpid()).has_value();
  return look;
}

void Groups::scan(Watched* watched, const std::set<pid_t>& spared) {
  const GroupJob& job = watched->job;
  watched->due = false;
  watched->again = false;
  watched->scanned_ns = now_ns();
  for (int pass = 0; pass < kPassesMax; ++pass) {
    drop_dead_members(watched);  // who is dead before the look cannot fork during it
    const bool had_members = !watched->members.empty();
    const Look look = find_members(watched);
    const bool has_members = !watched->members.empty();
    if (job.first_signalled) {
      if (const auto it = watched->members.find(job.process.pid); it != watched->members.end()) {
        it->second.signalled = job.signal;
      }
    }
    drop_dead_members(watched);
    bool sent = false;
    for (auto& [pid, member] : watched->members) {
      if (job.signal == 0 || member.signalled == job.signal || spared.contains(pid)) continue;
      const auto uid = read_uid(pid);
      if (uid && *uid != geteuid()) continue;  // counts, but is not ours to signal
      const bool was_sent = uid && member.handle.signal(job.signal).has_value();
      if (was_sent) member.signalled = job.signal;
      // Out of descriptors or forbidden now: it is owed, unless its end comes first.
      watched->again |= !was_sent;
      sent |= was_sent;
    }
    if (watched->members.empty()) {
      const bool is_settled = look.settled && !look.hidden;
      if (look.whole && !is_settled && pass < kUnsettledPassesMax) continue;
      if (!look.whole) {
        watched->again = true;
        return;
      }
      if (look.hidden) break;
      if (!had_members && !has_members) {
        watched->vanished = true;
        return;
      }
      continue;  // the last member may have forked after the listing: only a look that began and
                 // ended without anybody proves that nobody is left
    }
    // What a member forked while it was being found is found by the next pass.
    if (!sent) return;
  }
  watched->due = true;
}

}  // namespace modelpool::coordinator
