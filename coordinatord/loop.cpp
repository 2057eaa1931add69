#include "loop.hpp"

#include <fcntl.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/text.hpp"
#include "base/time.hpp"
#include "config.hpp"
#include "log.hpp"
#include "protocol/acquisition.hpp"
#include "protocol/histories.hpp"
#include "thread.hpp"

namespace modelpool::coordinator {
namespace {

// Scans in a row that found more to do, before the loop looks at its other events.
constexpr int kRoundsMax = 64;
constexpr std::uint64_t kAgain_ns = kMillisecond_ns;
// Before a deadline it wakes once and only looks at what will be due: after a long sleep all of that
// comes out of cold caches, and the signal would be sent 0.2 ms later.
constexpr std::uint64_t kRehearsal_ns = 500 * kMicrosecond_ns;
constexpr int kWithoutTimer_ms = 100;
// How long the end of a backend waits for its exit status, which its parent records.
constexpr std::uint64_t kReapWait_ns = 50 * kMillisecond_ns;
constexpr std::uint64_t kLockRetry_ns = 10 * kMillisecond_ns;

sigset_t handled_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1}) sigaddset(&set, signal);
  return set;
}

bool set_timer(const Fd& timer, std::uint64_t at_ns, std::uint64_t every_ns) {
  itimerspec spec{};
  if (at_ns != kNever_ns) {
    at_ns = std::max<std::uint64_t>(at_ns, 1);  // 0 would disarm it
    spec.it_value = {static_cast<time_t>(at_ns / kSecond_ns),
                     static_cast<long>(at_ns % kSecond_ns)};
    spec.it_interval = {static_cast<time_t>(every_ns / kSecond_ns),
                        static_cast<long>(every_ns % kSecond_ns)};
  }
  return timerfd_settime(timer.get(), TFD_TIMER_ABSTIME, &spec, nullptr) == 0;
}

std::string summary(const Snapshot& s) {
  return "backends " + std::to_string(s.live()) + ", workers " + std::to_string(s.workers.size()) +
         ", leases " + std::to_string(s.leases.size()) + ", waiting " +
         std::to_string(s.waiters.size());
}

// "idle_timeout 15m -> 2s (set)": what changed for the pool, and where that came from.
std::string difference(const Settings& before, const Settings& after) {
  std::string text;
  for (const SettingInfo& info : kSettings) {
    if (before.get(info.id) == after.get(info.id)) continue;
    if (!text.empty()) text += ", ";
    const Origin origin =
        after.pool.has(info.id) ? after.pool.origin[static_cast<std::size_t>(info.id)] : Origin{};
    text += std::string(info.name) + " " + format_setting(info, before.get(info.id)) + " -> " +
            format_setting(info, after.get(info.id)) + " (" + origin_text(after, origin) + ")";
  }
  const bool same_rules = before.rule_count == after.rule_count &&
                          std::memcmp(before.rules.data(), after.rules.data(),
                                      sizeof before.rules) == 0;  // no padding in a Rule
  if (!same_rules) text += text.empty() ? "model rules" : ", model rules";
  return text;
}

void drain(const Fd& fd) {
  std::array<char, 4096> buffer;
  while (read(fd.get(), buffer.data(), buffer.size()) > 0) {
  }
}

// What was set while the config waited to be published is newer than the config.
void keep_later_sets(const Settings& found, const Settings& now, Settings* config) {
  for (const SettingInfo& info : kSettings) {
    const Origin origin = now.pool.origin[static_cast<std::size_t>(info.id)];
    if (!now.pool.has(info.id) || origin.kind != OriginKind::kSet) continue;
    const bool was_there =
        found.pool.has(info.id) && found.get(info.id) == now.get(info.id) &&
        found.pool.origin[static_cast<std::size_t>(info.id)].kind == OriginKind::kSet;
    if (!was_there) config->pool.set(info.id, now.get(info.id), origin);
  }
}

// Nobody else would: who stood there has stood in line again.
bool free_stray_waiters(const Segment& segment, const Snapshot& snapshot) {
  bool freed = false;
  for (const StrayWaiter& stray : snapshot.stray_waiters) {
    std::uint64_t word = stray.word;
    if (!segment.waiter(stray.row).state.compare_exchange_strong(
            word, pack_half(high_half(word), 0), std::memory_order_seq_cst)) {
      continue;
    }
    spdlog::warn("waiter row {} was damaged: it is free again", stray.row);
    freed = true;
  }
  return freed;
}

// The lock that makes this coordinator the only one: on the segment's own descriptor, so that it
// ends with the process, whatever ends that.
Result<Fd> take_singleton(const Segment& segment) {
  Fd file(open(segment.path().c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC));
  if (!file) return fail_errno(errno, "open " + escape(segment.path()));
  struct stat info;
  if (fstat(file.get(), &info) != 0 || info.st_ino != segment.inode() ||
      info.st_dev != segment.device()) {
    return fail(Errc::kReplaced, "unable to serve pool " + segment.name() +
                                     ": it was replaced just now; start again");
  }
  if (flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return fail_errno(errno, "lock " + escape(segment.path()));
    const CoordinatorIdentity first = read_coordinator(segment);
    return fail(Errc::kBusy, "unable to serve pool " + segment.name() + ": process " +
                                 (first.epoch == 0 ? std::string("(unknown)")
                                                   : std::to_string(first.process.pid)) +
                                 " is its coordinator already; stop that one first");
  }
  return file;
}

}  // namespace

Loop::Loop(const Options& options, Notifier notifier, std::shared_ptr<Segment> segment,
           Fd singleton)
    : options_(options),
      notifier_(std::move(notifier)),
      segment_(std::move(segment)),
      singleton_(std::move(singleton)),
      reader_(segment_),
      recorder_(segment_) {}

Result<std::unique_ptr<Loop>> Loop::make(const Options& options, const Settings& settings,
                                         Notifier notifier) {
  SegmentOptions where;
  where.dir = options.dir;
  where.capacities = options.capacities.values;
  where.settings = &settings;
  auto segment = Segment::attach(options.pool, where);
  if (!segment) return fail(segment.error());
  const Settings found = (*segment)->settings().settings.load();
  auto singleton = take_singleton(**segment);
  if (!singleton) return fail(singleton.error());
  std::unique_ptr<Loop> loop(
      new Loop(options, std::move(notifier), std::move(*segment), std::move(*singleton)));
  if (auto ok = loop->set_up(); !ok) return fail(ok.error());
  loop->become_coordinator();
  loop->apply(settings, found);
  loop->warn_of_other_capacities();
  return loop;
}

Result<> Loop::set_up() {
  auto watch = Watch::make();
  if (!watch) return fail(watch.error());
  watch_ = std::make_unique<Watch>(std::move(*watch));

  const sigset_t signals = handled_signals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // before the threads start, which inherit it
  signal(SIGPIPE, SIG_IGN);
  auto groups = Groups::make();
  if (!groups) return fail(groups.error());
  groups_ = std::move(*groups);

  epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  signals_.reset(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  timer_.reset(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  watchdog_.reset(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  bell_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  name_.reset(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  for (const Fd* fd : {&epoll_, &signals_, &timer_, &watchdog_, &bell_, &name_}) {
    if (!*fd) return fail_errno(errno, "create the coordinator's descriptors");
  }
  if (inotify_add_watch(name_.get(), segment_->path().c_str(),
                        IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF) < 0) {
    return fail_errno(errno, "watch " + escape(segment_->path()));
  }
  for (const int fd : {signals_.get(), timer_.get(), watchdog_.get(), bell_.get(), name_.get(),
                       watch_->fd(), groups_->fd()}) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0)
      return fail_errno(errno, "watch a descriptor");
  }
  if (const std::uint64_t every = notifier_.watchdog_interval_ns(); every != 0) {
    static_cast<void>(set_timer(watchdog_, now_ns() + every, every));
  }
  // Read before the first scan: a ring that comes after it is one to look for.
  std::uint32_t seen = segment_->coordinator().doorbell.load(std::memory_order_seq_cst);
  auto ringing = start_thread([this, seen]() mutable {
    const HalfWord& doorbell = segment_->coordinator().doorbell;
    while (!doorbell_stop_.load(std::memory_order_seq_cst)) {
      futex_wait(doorbell, seen, kNever_ns);
      const std::uint32_t now = doorbell.load(std::memory_order_seq_cst);
      if (now == seen) continue;
      seen = now;
      const std::uint64_t one = 1;
      static_cast<void>(!write(bell_.get(), &one, sizeof one));
    }
  });
  if (!ringing) return fail(ringing.error());
  doorbell_ = std::move(*ringing);
  return {};
}

void Loop::become_coordinator() {
  CoordinatorRecord& record = segment_->coordinator();
  const ProcessIdentity self = own_identity();
  const std::uint64_t before = record.epoch.load(std::memory_order_seq_cst);
  epoch_ = (static_cast<std::uint32_t>(before) + 1) & StateWord::kOwnerMask;
  if (epoch_ == 0) epoch_ = 1;
  // The identity first, the epoch last: who proves this identity dead has read this epoch (P10).
  record.pid.store(static_cast<std::uint32_t>(self.pid), std::memory_order_seq_cst);
  record.start_ticks.store(self.start_ticks, std::memory_order_seq_cst);
  record.pidfd_inode.store(self.pidfd_inode, std::memory_order_seq_cst);
  record.started_ns.store(now_ns(), std::memory_order_seq_cst);
  record.leaving.store(0, std::memory_order_seq_cst);
  record.wanted.store(0, std::memory_order_seq_cst);
  record.epoch.store(epoch_, std::memory_order_seq_cst);
  enforcer_ = std::make_unique<Enforcer>(segment_, epoch_, watch_.get(), groups_.get(), &recorder_);

  EventData event;
  event.kind = EventKind::kCoordinatorStarted;
  event.pid = static_cast<std::uint32_t>(self.pid);
  event.count = epoch_;
  recorder_.write(event);
  const Snapshot& snapshot = reader_.read();
  if (before != 0) {
    EventData recovered;
    recovered.kind = EventKind::kRecovered;
    recovered.count = snapshot.live();
    set_field(&recovered.text, "found " + summary(snapshot));
    recorder_.write(recovered);
  }
  watch_->refresh(snapshot);
  enforcer_->examine_after_restart(snapshot);
  wake_everyone(*segment_);  // who waited for a coordinator waits for this one now
}

// What `poolctl set` changed stays until file or flags change; `found` is what held before they did.
void Loop::apply(const Settings& settings, const Settings& found) {
  if (found.config_hash == settings.config_hash) return;
  pending_ = std::make_unique<Settings>(settings);
  pending_since_ = found;
  publish_pending();
}

// They are fixed by whoever creates the pool: what is asked for afterwards would be ignored in silence.
void Loop::warn_of_other_capacities() const {
  for (const CapacityInfo& info : kCapacities) {
    const std::uint32_t wanted = options_.capacities.values.*info.member;
    const std::uint32_t found = segment_->capacities().*info.member;
    if (!options_.capacities.has(info) || found == wanted) continue;
    spdlog::warn(
        "the pool was created with {} {}, not {}: to change that, `poolctl --pool {} remove` it "
        "and start again",
        found, info.name, wanted, segment_->name());
  }
}

void Loop::publish_pending() {
  if (!pending_) return;
  auto lock = lock_for(segment_->lock(), 0);
  if (!lock) return;  // tried again by timer: the coordinator does not wait for the mutex
  auto& published = segment_->settings().settings;
  const Settings before = published.load();
  keep_later_sets(pending_since_, before, pending_.get());
  reset_changed_cooldowns(*segment_, *lock, before, *pending_);
  published.publish(*pending_);
  pending_.reset();
  unlooked_ = true;
}

Loop::~Loop() {
  doorbell_stop_.store(true, std::memory_order_seq_cst);
  if (doorbell_.joinable()) {
    ring(*segment_);
    doorbell_.join();
  }
}

int Loop::run() {
  notifier_.ready("serving pool " + segment_->name());
  spdlog::info("serving pool {} ({}), epoch {}", segment_->name(), escape(segment_->path()),
               epoch_);
  for (;;) {
    const std::uint64_t wake = scan();
    if (ending_ == Ending::kLeave) break;
    if (ending_ == Ending::kStopBackends || ending_ == Ending::kReplaced) {
      if (count_live(*segment_) == 0) break;
    }
    wait_until(wake);
  }
  leave();
  return ending_ == Ending::kReplaced ? kExitNoPool : kExitDone;
}

// Looks and acts until there is nothing more to do. Returns when something may be due next.
std::uint64_t Loop::scan() {
  CoordinatorRecord& record = segment_->coordinator();
  for (int round = 0; round < kRoundsMax; ++round) {
    unlooked_ = false;
    store_horizon(*segment_, kNever_ns);
    publish_pending();
    const Snapshot& snapshot = reader_.read();
    if (snapshot.settings_generation != record.settings_noted.load(std::memory_order_relaxed)) {
      EventData event;
      event.kind = EventKind::kSettingsChanged;
      event.count = snapshot.settings_generation;
      if (settings_before_ && snapshot.settings)
        set_field(&event.text, difference(*settings_before_, *snapshot.settings));
      recorder_.write(event);
      record.settings_noted.store(snapshot.settings_generation, std::memory_order_relaxed);
      wake_everyone(*segment_);
    }
    settings_before_ = snapshot.settings;
    watch_->refresh(snapshot);
    groups_->spare(attached_processes(*segment_));

    Facts facts;
    facts.stamp_resolution_ns = stamp_lag_max_ns();
    facts.epoch = epoch_;
    facts.ending = ending_ == Ending::kStopBackends || ending_ == Ending::kReplaced;
    facts.exited = watch_->exited();
    facts.dead_workers = watch_->dead_workers();
    facts.vanished = groups_->vanished();
    for (const BackendRef ref : facts.exited) {
      const BackendView* b = snapshot.find(ref);
      if (b == nullptr || b->exit_status != 0 || !(b->traits & kTraitToken)) continue;
      facts.unreaped.emplace_back(ref, watch_->ended_ns(ref) + kReapWait_ns);
    }
    const Decision decision = decide(snapshot, facts);

    // Before the scan that would wait on it, or that scan could miss the lease's end.
    const bool wants_more = (decision.wanted & ~record.wanted.load(std::memory_order_relaxed)) != 0;
    store_wanted(*segment_, decision.wanted);
    const bool carried_out = enforcer_->carry_out(decision, snapshot);
    const bool changed = free_stray_waiters(*segment_, snapshot) || carried_out;
    record.last_scan_ns.store(snapshot.now_ns, std::memory_order_relaxed);
    record.scans.fetch_add(1, std::memory_order_relaxed);
    if (changed || wants_more || unlooked_) continue;

    tell_status(snapshot);
    std::uint64_t wake = std::min({decision.wake_ns, enforcer_->retry_ns(), watch_->retry_ns()});
    if (pending_) wake = std::min(wake, now_ns() + kLockRetry_ns);
    store_horizon(*segment_, wake);
    facts.ahead_ns = age_ns(decision.wake_ns, snapshot.now_ns);
    if (facts.ahead_ns <= kRehearsal_ns) enforcer_->rehearse(decide(snapshot, facts), snapshot);
    return wake;
  }
  return now_ns() + kAgain_ns;
}

void Loop::wait_until(std::uint64_t wake_ns) {
  const std::uint64_t rehearsal_ns = wake_ns - std::min(wake_ns, kRehearsal_ns);
  const std::uint64_t at_ns =
      wake_ns != kNever_ns && now_ns() < rehearsal_ns ? rehearsal_ns : wake_ns;
  // Without its timer it looks again soon rather than never.
  const int timeout_ms = set_timer(timer_, at_ns, 0) ? -1 : kWithoutTimer_ms;
  std::array<epoll_event, 16> events;
  int count;
  do {
    count = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
  } while (count < 0 && errno == EINTR);
  for (int i = 0; i < count; ++i) {
    const int fd = events[static_cast<std::size_t>(i)].data.fd;
    if (fd == signals_.get()) handle_signals();
    if (fd == timer_.get()) drain(timer_);
    if (fd == bell_.get()) drain(bell_);
    if (fd == watchdog_.get()) {
      drain(watchdog_);
      notifier_.watchdog();  // the loop came round: a scan lies between any two of these
    }
    if (fd == name_.get()) {
      drain(name_);
      if (name_is_lost() && ending_ != Ending::kReplaced) {
        // From here on everyone knows, and nothing more is granted.
        segment_->line().replaced.store(1, std::memory_order_seq_cst);
        spdlog::error("the pool's name {} was removed or given to another: draining what is here",
                      escape(segment_->path()));
        ending_ = Ending::kReplaced;
        notifier_.stopping("pool replaced, draining");
      }
    }
  }
}

// By the descriptor, not by a path lookup alone: a change of root or mount is not a removal.
bool Loop::name_is_lost() const {
  struct stat by_fd;
  struct stat by_name;
  if (fstat(singleton_.get(), &by_fd) != 0) return false;
  if (by_fd.st_nlink == 0) return true;
  return stat(segment_->path().c_str(), &by_name) != 0 || by_name.st_ino != by_fd.st_ino ||
         by_name.st_dev != by_fd.st_dev;
}

void Loop::handle_signals() {
  signalfd_siginfo info;
  while (read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
    switch (info.ssi_signo) {
      case SIGHUP:
        reload();
        break;
      case SIGUSR1:
        log_table();
        break;
      default:
        if (ending_ == Ending::kNo && options_.stop_on_exit) {
          spdlog::info("leaving on {}: stopping all backends",
                       signal_text(static_cast<int>(info.ssi_signo)));
          ending_ = Ending::kStopBackends;
          // From here on nothing more is granted (admission reads it as: no coordinator).
          segment_->coordinator().leaving.store(kLeavingForGood, std::memory_order_seq_cst);
          wake_everyone(*segment_);  // who waits learns it now
        } else {
          // Also a second signal while the backends are being stopped.
          spdlog::info("leaving on {}: backends go on",
                       signal_text(static_cast<int>(info.ssi_signo)));
          ending_ = Ending::kLeave;
        }
        notifier_.stopping("leaving");
    }
  }
}

void Loop::reload() {
  notifier_.reloading();
  auto settings = load_config(options_.config_path, options_.flags);
  if (!settings) {
    spdlog::error("{}; the settings in force stay", settings.error().text);
  } else {
    pending_ = std::make_unique<Settings>(std::move(*settings));
    pending_since_ = segment_->settings().settings.load();
    publish_pending();
    spdlog::info("config read again");
  }
  notifier_.ready(status_);
}

void Loop::log_table() {
  const Snapshot& s = reader_.read();
  spdlog::info("table: {} live, limit {}, {} workers, {} leases, {} waiters", s.live(),
               s.max_backends(), s.workers.size(), s.leases.size(), s.waiters.size());
  for (const BackendView& b : s.backends) {
    spdlog::info("table: slot {} {} {} pid {} in flight {} last used {} ago{}", b.ref.index,
                 escape(b.model), backend_state_name(b.state.state), b.process.pid, b.in_flight,
                 format_age(age_ns(s.now_ns, b.last_used_ns)), b.pinned() ? " pinned" : "");
  }
}

void Loop::tell_status(const Snapshot& s) {
  std::string status = summary(s);
  if (status == status_) return;
  status_ = std::move(status);
  notifier_.status(status_);
}

void Loop::leave() {
  const Snapshot& s = reader_.read();
  for (const BackendView& b : s.backends) {
    if (b.state.state != BackendState::kEvicting) continue;
    if (reopen(*segment_, b.ref, b.state.owner)) wake_waiters(*segment_, hash_name(b.model));
  }
  CoordinatorRecord& record = segment_->coordinator();
  record.wanted.store(0, std::memory_order_seq_cst);
  record.leaving.store(1, std::memory_order_seq_cst);
  wake_everyone(*segment_);
  spdlog::info("left pool {}", segment_->name());
}

}  // namespace modelpool::coordinator
