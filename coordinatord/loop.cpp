#include "loop.hpp"

#include <fcntl.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/available.hpp"
#include "base/duration.hpp"
#include "base/proc.hpp"
#include "base/shortage.hpp"
#include "base/text.hpp"
#include "base/time.hpp"
#include "base/user.hpp"
#include "children.hpp"
#include "config/pool_file.hpp"
#include "judge/decision_text.hpp"
#include "judge/settling.hpp"
#include "log.hpp"
#include "protocol/acquisition.hpp"
#include "protocol/settings_change.hpp"
#include "segment/judge.hpp"
#include "segment/lost.hpp"
#include "succession.hpp"
#include "trouble.hpp"

namespace modelpool::coordinator {
namespace {

// Scans in a row that found more to do, before the loop looks at its other events.
constexpr int kRoundsMin = 8;
constexpr int kRoundsMax = 64;
constexpr std::uint64_t kRoundsTime_ns = 20 * kMillisecond_ns;
constexpr std::uint64_t kAgain_ns = kMillisecond_ns;
// What contradicts itself (damage) is decided and taken back without end: then less and less often,
// until the pauses are this many times as long as the scans, however slow those are.
constexpr std::uint64_t kAgainMax_ns = 256 * kMillisecond_ns;
constexpr std::uint64_t kPauseTimes = 4;
// Before a deadline it wakes once and only looks at what will be due: after a long sleep all of
// that comes out of cold caches, and the signal would be sent 0.2 ms later. So early that the
// ending thread has found the members by then: /proc takes it 0.5 ms where 150 processes run.
constexpr std::uint64_t kRehearsal_ns = 2 * kMillisecond_ns;
// However often it is woken, it looks at the name no more often than this without an event of it.
constexpr std::uint64_t kNameCheckEvery_ns = kSecond_ns;
// How long the end of a backend waits for its exit status, which its parent records.
constexpr std::uint64_t kReapWait_ns = 50 * kMillisecond_ns;
constexpr std::uint64_t kLockRetry_ns = 10 * kMillisecond_ns;

sigset_t handled_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGCHLD}) sigaddset(&set, signal);
  return set;
}

bool set_timer(const Fd& timer, std::uint64_t at_ns) {
  itimerspec spec{};
  if (at_ns != kNever_ns) {
    at_ns = std::max<std::uint64_t>(at_ns, 1);  // 0 would disarm it
    spec.it_value = {static_cast<time_t>(at_ns / kSecond_ns),
                     static_cast<long>(at_ns % kSecond_ns)};
  }
  return timer && timerfd_settime(timer.get(), TFD_TIMER_ABSTIME, &spec, nullptr) == 0;
}

// Without its timer: what epoll_wait counts in, rounded up (P8); -1 is for ever.
int timeout_ms(std::uint64_t at_ns) {
  constexpr std::uint64_t kMost_ms = 3'600'000;
  if (at_ns == kNever_ns) return -1;
  return static_cast<int>(
      std::min(kMost_ms, (age_ns(at_ns, now_ns()) + kMillisecond_ns - 1) / kMillisecond_ns));
}

Result<Fd> need(Fd fd, const std::string& what) {
  if (fd) return above_stdio(std::move(fd));
  return fail_errno(errno, "create the coordinator's " + what,
                    shortage_advice(Needs::kDescriptor, errno));
}

std::string summary(const Snapshot& s) {
  return "backends " + std::to_string(s.live()) + ", workers " + std::to_string(s.workers.size()) +
         ", leases " + std::to_string(s.leases.size()) + ", waiting " +
         std::to_string(s.waiters.size());
}

// "idle_timeout 15m -> 2s (set)": what changed for the pool, and where that came from.
std::string difference(const PoolSettings& before, const PoolSettings& after) {
  std::string text;
  for (const SettingInfo& info : kSettings) {
    if (before.shown(info.id) == after.shown(info.id)) continue;
    if (!text.empty()) text += ", ";
    text += std::string(info.name) + " " + escape(before.shown(info.id)) + " -> " +
            escape(after.shown(info.id)) + " (" +
            origin_text(after.config_path, after.pool.origin(info.id)) + ")";
  }
  return text;
}

// What `poolctl set` changed survives a restart: whoever reads the file alone would not expect it.
void tell_of_sets(const PoolSettings& config, const PoolSettings& found) {
  for (const SettingInfo& info : kSettings) {
    if (found.pool.origin(info.id).kind != OriginKind::kSet) continue;
    if (found.shown(info.id) == config.shown(info.id)) continue;
    spdlog::info(
        "{} is {} by `poolctl set`, not {} as file and flags say; SIGHUP applies these again",
        info.name, escape(found.shown(info.id)), escape(config.shown(info.id)));
  }
}

void drain(const Fd& fd) {
  std::array<char, 4096> buffer;
  while (read(fd.get(), buffer.data(), buffer.size()) > 0) {
  }
}

// What was set while the config waited to be published is newer than the config.
void keep_later_sets(const PoolSettings& found, const PoolSettings& now, Settings* config) {
  config->foreign = now.foreign;
  for (const SettingEntry& entry : now.pool.entries()) {
    if (entry.origin.kind != OriginKind::kSet) continue;
    const SettingEntry* const before = found.pool.find(entry.id);
    if (before == nullptr || *before != entry) config->pool.set(entry);
  }
}

Result<> check_settings(const Segment& segment, const PoolSettings& settings) {
  const std::uint64_t unknown = settings.unknown_to_judge();
  if (unknown == 0) return {};
  return fail(Errc::kIncompatible,
              "unable to serve pool " + segment.name() + ": it uses " +
                  settings_text(unknown, settings) +
                  ", which this program does not know; start a newer coordinatord");
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
    // acquire: written before the row's state
    wake_first(segment, segment.waiter(stray.row).model_hash.load(std::memory_order_acquire));
    freed = true;
  }
  return freed;
}

// One look at everything and its effects, for the meters.
class ScanTimer {
 public:
  ScanTimer(const MeterRow& meters, std::uint64_t begun_ns)
      : meters_(meters), begun_ns_(begun_ns) {}
  ScanTimer(const ScanTimer&) = delete;
  ScanTimer& operator=(const ScanTimer&) = delete;
  ~ScanTimer() { meters_.observe(Meter::kScanTime, age_ns(now_ns(), begun_ns_)); }

 private:
  const MeterRow& meters_;
  const std::uint64_t begun_ns_;
};

void store_features(CoordinatorRecord& record) {
  const std::array<std::uint64_t, 3> features = known_features();
  // release: before the epoch
  for (std::size_t i = 0; i < features.size(); ++i)
    record.features[i].store(features[i], std::memory_order_release);
}

// The lock that makes this coordinator the only one: on the segment's own descriptor, so that it
// ends with the process, whatever ends that.
Result<Fd> take_singleton(const Segment& segment) {
  Fd file = open_above_stdio(AT_FDCWD, segment.path().c_str(), O_RDWR | O_APPEND | O_NOFOLLOW);
  if (!file)
    return fail_errno(errno, "open " + escape(segment.path()),
                      shortage_advice(Needs::kDescriptor, errno));
  struct stat info;
  if (fstat(file.get(), &info) != 0 || info.st_ino != segment.inode() ||
      info.st_dev != segment.device()) {
    return fail(Errc::kReplaced, "unable to serve pool " + segment.name() +
                                     ": it was replaced just now; start again");
  }
  if (flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return fail_errno(errno, "lock " + escape(segment.path()));
    const JudgeView judge = look_at_judge(segment.coordinator(), now_ns());
    const std::string pid = std::to_string(judge.identity.process.pid);
    const bool hangs = judge.state == JudgeState::kHangs;
    return fail(Errc::kBusy, "unable to serve pool " + segment.name() + ": process " +
                                 (judge.identity.epoch == 0 ? std::string("(unknown)") : pid) +
                                 " is its coordinator already" +
                                 (hangs ? ", and hangs; was it stopped? kill -CONT " + pid +
                                              ", or kill -KILL " + pid + ", which loses nothing"
                                        : "; stop that one first"));
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
      lock_(segment_),
      reader_(segment_),
      recorder_(segment_),
      pressure_(
          segment_, [] { return read_available_bytes(); }, [] { return read_total_bytes(); }),
      again_ns_(kAgain_ns) {}

Result<std::unique_ptr<Loop>> Loop::make(const Options& options, const Settings& settings,
                                         Notifier notifier) {
  if (auto ok = check_process_access(); !ok) return fail(ok.error());
  auto predecessor = find_predecessor(options);
  if (!predecessor) return fail(predecessor.error());
  if (*predecessor) {
    Predecessor& lost = **predecessor;
    std::unique_ptr<Loop> loop(
        new Loop(options, std::move(notifier), std::move(lost.segment), std::move(lost.singleton)));
    if (auto ok = loop->set_up(); !ok) return fail(ok.error());
    loop->become_coordinator();
    return loop;
  }
  if (auto ok = end_orphans(options, settings); !ok) return fail(ok.error());
  SegmentOptions where;
  where.dir = options.dir;
  where.capacities = options.capacities.values;
  where.settings = &settings;
  auto segment = Segment::attach(options.pool, where);
  if (!segment) return fail(segment.error());
  const PoolSettings found = read_pool_settings(**segment);
  auto singleton = take_singleton(**segment);
  if (!singleton) return fail(singleton.error());
  (*segment)->set_home(home_of((*segment)->path()));
  if (auto ok = check_settings(**segment, found); !ok) return fail(ok.error());
  if (auto fits = SettingsImage::make(settings, (*segment)->settings_copy_words()); !fits)
    return fail(fits.error());
  std::unique_ptr<Loop> loop(
      new Loop(options, std::move(notifier), std::move(*segment), std::move(*singleton)));
  if (auto ok = loop->set_up(); !ok) return fail(ok.error());
  loop->become_coordinator();
  loop->apply(settings, found);
  loop->warn_of_other_capacities();
  return loop;
}

Result<> Loop::watch(int fd, std::uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (fd < 0 || epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) return {};
  return fail_errno(errno, "watch a descriptor", shortage_advice(Needs::kEpollWatch, errno));
}

Result<> Loop::set_up() {
  auto processes = Watch::make();
  if (!processes) return fail(processes.error());
  watch_ = std::make_unique<Watch>(std::move(*processes));

  const sigset_t signals = handled_signals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // before the threads start, which inherit it
  signal(SIGPIPE, SIG_IGN);
  signal(SIGCHLD, SIG_DFL);  // ignored, children would be reaped before their backend is judged
  auto endings = Endings::make(segment_);
  if (!endings) return fail(endings.error());
  endings_ = std::move(*endings);
  auto output = OutputKeeper::make();
  if (!output) return fail(output.error());
  output_ = std::move(*output);
  auto probes = Probes::make(segment_, &recorder_);
  if (!probes) return fail(probes.error());
  probes_ = std::move(*probes);
  sampler_ = std::make_unique<Sampler>(segment_);
  stopper_ = std::make_unique<Stopper>(segment_, watch_.get(), endings_.get());
  auto doorbell = Doorbell::make(segment_);
  if (!doorbell) return fail(doorbell.error());
  doorbell_ = std::move(*doorbell);

  auto epoll = need(Fd(epoll_create1(EPOLL_CLOEXEC)), "epoll set");
  if (!epoll) return fail(epoll.error());
  epoll_ = std::move(*epoll);
  auto signal_fd = need(Fd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK)), "signalfd");
  if (!signal_fd) return fail(signal_fd.error());
  signals_ = std::move(*signal_fd);
  timer_ = above_stdio(Fd(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)));
  if (!timer_)
    spdlog::warn("unable to create a timer: {}; deadlines are met to the millisecond",
                 std::strerror(errno));
  name_ = std::make_unique<NameWatch>(segment_->path());
  warn_of_degraded_name();

  for (const int fd : {signals_.get(), timer_.get(), doorbell_->fd(), name_->events(), watch_->fd(),
                       endings_->fd(), probes_->fd()}) {
    if (auto ok = watch(fd, EPOLLIN); !ok) return ok;
  }
  if (auto ok = watch(name_->mounts(), EPOLLPRI); !ok) return ok;
  if (const std::uint64_t every = notifier_.watchdog_interval_ns(); every != 0)
    watchdog_due_ns_ = now_ns() + every;
  for (const auto& started : {doorbell_->start(), endings_->start()}) {
    if (!started) warn_of("thread", started.error().text + "; doing without, and trying again");
  }
  return {};
}

void Loop::become_coordinator() {
  CoordinatorRecord& record = segment_->coordinator();
  const ProcessIdentity self = own_identity();
  const std::uint64_t before = record.epoch.load(std::memory_order_seq_cst);
  epoch_ = StateWord::next_epoch(static_cast<std::uint32_t>(before));
  // The identity first, the epoch last: who proves this identity dead has read this epoch (P10).
  record.pid.store(static_cast<std::uint32_t>(self.pid), std::memory_order_seq_cst);
  record.start_ticks.store(self.start_ticks, std::memory_order_seq_cst);
  record.pidfd_inode.store(self.pidfd_inode, std::memory_order_seq_cst);
  record.started_ns.store(now_ns(), std::memory_order_seq_cst);
  record.leaving.store(0, std::memory_order_seq_cst);
  record.wanted.store(0, std::memory_order_seq_cst);
  begin_scan();
  store_features(record);
  record.epoch.store(epoch_, std::memory_order_seq_cst);
  // The process that found the name gone may have said so, or an earlier coordinator, and it came
  // back.
  segment_->line().replaced.store(0, std::memory_order_seq_cst);
  record.last_progress_ns.store(now_ns(), std::memory_order_relaxed);
  enforcer_ = std::make_unique<Enforcer>(segment_, epoch_, watch_.get(), stopper_.get(), &recorder_,
                                         output_.get(), probes_.get(), &pressure_);

  recorder_.catch_up();
  EventData event;
  event.kind = EventKind::kCoordinatorStarted;
  event.pid = static_cast<std::uint32_t>(self.pid);
  event.count = epoch_;
  recorder_.write(event);
  const Snapshot& snapshot = reader_.read();
  remember_settings(snapshot);
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

// What `poolctl set` changed stays until file or flags change; `found` is what held before they
// did.
void Loop::apply(const Settings& settings, const PoolSettings& found) {
  if (found.config_hash == settings.config_hash) return tell_of_sets(settings, found);
  pending_ = std::make_unique<Settings>(settings);
  pending_since_ = found;
  publish_pending();
}

// The creator of the pool fixes them: what is asked for afterwards would be ignored in silence.
void Loop::warn_of_other_capacities() const {
  for (const config::CapacityInfo& info : config::kCapacities) {
    const std::uint32_t wanted = options_.capacities.values.*info.member;
    const std::uint32_t found = segment_->capacities().*info.member;
    if (!options_.capacities.has(info) || found == wanted) continue;
    const std::string& path = segment_->path();
    spdlog::warn(
        "the pool was created with {} {}, not {}: to change that, `{}` and start again", found,
        info.name, wanted,
        command_on_pool("poolctl", segment_->name(), path.substr(0, path.rfind('/')), "remove"));
  }
}

void Loop::publish_pending() {
  if (!pending_) return;
  const auto published = edit_settings(*segment_, 0, [&](Settings& settings) {
    Settings next = *pending_;
    keep_later_sets(pending_since_, settings, &next);
    settings = std::move(next);
  });
  // Tried again by timer: the coordinator does not wait for the mutex.
  if (!published && published.error().code == Errc::kBusy)
    return lock_.was_held("change the settings", published.error());
  lock_.was_free();
  if (!published) spdlog::error("{}; the settings in force stay", published.error().text);
  note_config(published.has_value());
  pending_.reset();
  unlooked_ = true;
}

// What the next change is compared with. Of a new pool that is the defaults; what was changed while
// no coordinator looked is not known.
void Loop::remember_settings(const Snapshot& snapshot) {
  const std::uint64_t noted =
      segment_->coordinator().settings_noted.load(std::memory_order_relaxed);
  if (noted == 0) {
    settings_before_ = std::make_shared<const PoolSettings>();
    rules_before_ = snapshot.rule_count == 0 ? snapshot.rules_hash : ~snapshot.rules_hash;
  } else if (noted == snapshot.settings_generation) {
    settings_before_ = snapshot.settings;
    rules_before_ = snapshot.rules_hash;
  }
}

// Tells everyone of settings that were published since the last scan. A coordinator that does not
// know one that it must know leaves.
void Loop::note_settings(const Snapshot& snapshot) {
  Word& noted = segment_->coordinator().settings_noted;
  if (snapshot.settings_generation != noted.load(std::memory_order_relaxed)) {
    EventData event;
    event.kind = EventKind::kSettingsChanged;
    event.count = snapshot.settings_generation;
    std::string text = "changed while no coordinator looked";
    if (settings_before_ && snapshot.settings) {
      text = difference(*settings_before_, *snapshot.settings);
      if (rules_before_ != snapshot.rules_hash)
        text += text.empty() ? "model rules" : ", model rules";
    }
    set_field(&event.text, text.empty() ? "no value changed" : text);
    recorder_.write(event);
    noted.store(snapshot.settings_generation, std::memory_order_relaxed);
    wake_everyone(*segment_);
  }
  settings_before_ = snapshot.settings;
  rules_before_ = snapshot.rules_hash;
  if (ending_ != Ending::kNo || !snapshot.settings) return;
  if (auto ok = check_settings(*segment_, *snapshot.settings); !ok) {
    spdlog::error("{}; backends go on", ok.error().text);
    misses_settings_ = true;
    ending_ = Ending::kLeave;
    notifier_.stopping("leaving");
  }
}

Loop::~Loop() = default;

int Loop::run() {
  if (const std::string hidden = hidden_processes(); !hidden.empty()) {
    spdlog::warn(
        "{}; what a backend leaves of such is not noticed, so give /proc the option gid= of a "
        "group "
        "that {} is in",
        hidden, user_name(geteuid()));
  }
  notifier_.ready("serving pool " + segment_->name());
  check_name();
  spdlog::info("serving pool {} ({}), epoch {}", segment_->name(), escape(segment_->path()),
               epoch_);
  for (;;) {
    segment_->coordinator().last_progress_ns.store(now_ns(), std::memory_order_relaxed);
    const std::uint64_t wake = scan();
    if (ending_ == Ending::kLeave) break;
    if (ending_ == Ending::kStopBackends || ending_ == Ending::kReplaced) {
      if (count_live(*segment_) == 0) break;
    }
    wait_until(wake);
    note_lateness();
  }
  leave();
  if (ending_ == Ending::kReplaced) {
    spdlog::warn(
        "everything of the pool that has lost the name {} is gone: the next coordinatord makes a "
        "new one",
        escape(segment_->path()));
  }
  if (misses_settings_) return kExitNoPool;
  return ending_ == Ending::kReplaced || abandoned_ ? kExitFinding : kExitDone;
}

// Others see by these that it looks (judge.hpp).
void Loop::begin_scan() {
  CoordinatorRecord& record = segment_->coordinator();
  if (record.working_since_ns.load(std::memory_order_relaxed) == 0) {
    record.working_since_ns.store(now_ns(), std::memory_order_release);
  }
  // The number before the time: a ring in between keeps its number, and is one to look for.
  record.answered.store(record.doorbell.load(std::memory_order_seq_cst), std::memory_order_release);
  record.rung_ns.store(0, std::memory_order_release);
  store_horizon(*segment_, kNever_ns);
}

// Looks and acts until there is nothing more to do. Returns when something may be due next.
std::uint64_t Loop::scan() {
  CoordinatorRecord& record = segment_->coordinator();
  const std::uint64_t scans_began_ns = now_ns();
  const auto scans_ns = [&] { return age_ns(now_ns(), scans_began_ns); };
  for (int round = 0; round < kRoundsMin || (round < kRoundsMax && scans_ns() < kRoundsTime_ns);
       ++round) {
    unlooked_ = false;
    begin_scan();
    publish_pending();
    const std::uint64_t began_ticks = boot_ticks();
    stopper_->take_reports();
    probes_->take_answers();
    sampler_->take();
    const Snapshot& snapshot = reader_.read();
    const ScanTimer timer(recorder_.meters(), snapshot.now_ns);
    enforcer_->settle_counted_backends(snapshot);
    note_settings(snapshot);
    if (misses_settings_) return 0;
    watch_->refresh(snapshot);

    Facts facts;
    facts.stamp_resolution_ns = stamp_lag_max_ns();
    facts.epoch = epoch_;
    facts.ending = ending_ == Ending::kStopBackends || ending_ == Ending::kReplaced;
    facts.exited = watch_->exited();
    facts.dead_workers = watch_->dead_workers();
    facts.stopped_workers = watch_->stopped_workers();
    if (standstill_.examine(*segment_, snapshot)) {
      spdlog::info("everything stood still for {}: that counts against no request, load or grace",
                   format_age(age_ns(standstill_.found().back().ended_ns,
                                     standstill_.found().back().began_ns)));
    }
    facts.standstills = standstill_.found();
    facts.vanished = stopper_->vanished();
    facts.unanswered = probes_->unanswered(snapshot);
    facts.short_loads = enforcer_->take_short_loads();
    facts.devices.sample = sampler_->latest();
    facts.devices.listed = find_listed(*segment_, snapshot, facts.devices.sample);
    sampler_->hurry_until(settles_until_ns(snapshot));
    facts.devices.baselines_from_ns = baselines_from_ns_;
    facts.host = pressure_.look(snapshot);
    for (const BackendRef ref : facts.exited) {
      const BackendView* b = snapshot.find(ref);
      if (b == nullptr || b->exit_status != 0 || !(b->traits & kTraitToken)) continue;
      facts.unreaped.emplace_back(ref, watch_->ended_ns(ref) + kReapWait_ns);
    }
    const Decision decision = decide(snapshot, facts);
    if (spdlog::should_log(spdlog::level::debug)) {
      for (const Action& action : decision.actions)
        spdlog::debug("decided: {}", decision_text(action, snapshot));
    }

    // Before the scan that would wait on it, or that scan could miss the lease's end.
    const bool wants_more = (decision.wanted & ~record.wanted.load(std::memory_order_relaxed)) != 0;
    store_wanted(*segment_, decision.wanted);
    const bool carried_out = enforcer_->carry_out(decision, snapshot);
    pressure_.follow(decision, snapshot);
    baselines_from_ns_ = baselines_from_ns(baselines_from_ns_, decision, snapshot);
    const bool reaped = has_children_ && reap();
    const bool changed = free_stray_waiters(*segment_, snapshot) || carried_out || reaped;
    record.last_scan_ns.store(snapshot.now_ns, std::memory_order_relaxed);
    record.last_scan_ticks.store(began_ticks, std::memory_order_relaxed);
    record.scans.fetch_add(1, std::memory_order_relaxed);
    if (changed || wants_more || unlooked_) continue;

    again_ns_ = kAgain_ns;
    tell_status(snapshot);
    if (snapshot.settings) {
      output_->look_after(snapshot, snapshot.settings->get(Setting::kLogMax));
    }
    probes_->look_after(snapshot);
    measure(snapshot);
    due_ns_ = decision.wake_ns;
    std::uint64_t wake = std::min({decision.wake_ns, enforcer_->retry_ns(), watch_->retry_ns()});
    if (pending_) wake = std::min(wake, now_ns() + kLockRetry_ns);
    wake = std::min({wake, endings_->look_again_ns(now_ns()), probes_->wake_ns()});
    store_horizon(*segment_, wake);
    standstill_.sleeps(snapshot.now_ns, wake);
    facts.ahead_ns = age_ns(decision.wake_ns, snapshot.now_ns);
    if (facts.ahead_ns <= kRehearsal_ns) enforcer_->rehearse(decide(snapshot, facts), snapshot);
    return wake;
  }
  const std::uint64_t longest_ns = std::max(kAgainMax_ns, kPauseTimes * scans_ns());
  const std::uint64_t pause_ns = std::min(again_ns_, longest_ns);
  again_ns_ = std::min(2 * again_ns_, longest_ns);
  return now_ns() + pause_ns;
}

// Children that ended; those that lead a backend later, when it is gone. Has anything changed?
bool Loop::reap() {
  const Snapshot snapshot = SnapshotReader(segment_).read();
  std::set<pid_t> keep;
  for (const BackendView& b : snapshot.backends) {
    if (b.live() && b.process.pid > 1) keep.insert(b.process.pid);
  }
  bool changed = false;
  has_children_ = reap_children(keep, [&](pid_t pid, std::uint32_t how) {
    for (const BackendView& b : snapshot.backends) {
      if (b.process.pid != pid || b.exit_status != 0) continue;
      record_exit(*segment_, b.ref, how);
      changed = true;
    }
  });
  return changed;
}

// What was due, and when it is looked at: also a ring that came too late to help.
void Loop::note_lateness() {
  const std::uint64_t now = now_ns();
  if (due_ns_ > now) return;
  recorder_.meters().observe(Meter::kLateness, now - due_ns_);
  due_ns_ = kNever_ns;
}

void Loop::wait_until(std::uint64_t wake_ns) {
  const std::uint64_t now = now_ns();
  const std::uint64_t rehearsal_ns = wake_ns - std::min(wake_ns, kRehearsal_ns);
  std::uint64_t at_ns = wake_ns != kNever_ns && now < rehearsal_ns ? rehearsal_ns : wake_ns;
  at_ns = std::min({at_ns, watchdog_due_ns_, doorbell_->look_again_ns(now),
                    name_->look_again_ns(now), sampler_->look_again_ns()});
  segment_->coordinator().working_since_ns.store(0, std::memory_order_release);
  const bool is_set = set_timer(timer_, at_ns);
  if (!is_set && timer_)
    warn_of("timer", std::string("unable to set the timer: ") + std::strerror(errno));
  take_events(is_set ? -1 : timeout_ms(at_ns));
  segment_->coordinator().working_since_ns.store(now_ns(), std::memory_order_release);
  standstill_.wakes(now_ns());
  feed_watchdog();
  if (now_ns() >= add_ns(name_checked_ns_, kNameCheckEvery_ns)) check_name();
}

void Loop::take_events(int timeout_ms) {
  std::array<epoll_event, 16> events;
  int count;
  do {
    count = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
  } while (count < 0 && errno == EINTR);
  for (int i = 0; i < count; ++i) {
    const int fd = events[static_cast<std::size_t>(i)].data.fd;
    if (fd == signals_.get()) handle_signals();
    if (fd == timer_.get()) drain(timer_);
    if (fd == doorbell_->fd()) doorbell_->drain();
    if (fd == name_->events() || fd == name_->mounts()) {
      name_->drain();
      check_name();
    }
  }
}

void Loop::measure(const Snapshot& snapshot) {
  sampler_->look_after(snapshot);
  // When the program ends its socket goes from the set by itself.
  if (const auto watched = watch(sampler_->take_new_fd(), EPOLLIN); !watched)
    warn_of("sample", watched.error().text + "; its answers are looked for by time");
}

// The loop came round: a scan lies between any two of these.
void Loop::feed_watchdog() {
  const std::uint64_t now = now_ns();
  if (now < watchdog_due_ns_) return;
  notifier_.watchdog();
  watchdog_due_ns_ = now + notifier_.watchdog_interval_ns();
}

// --- The name ------------------------------------------------------------------------------------

void Loop::check_name() {
  name_checked_ns_ = now_ns();
  const bool was_lost = segment_->line().replaced.load(std::memory_order_relaxed) != 0;
  if (!was_lost && segment_->has_lost_name()) lose_name();
  if (!was_lost || !segment_->has_name()) return;
  // Watched first, then looked at again: who watches from now on is not told what happened before.
  watch_name();
  if (segment_->has_name()) regain_name();
}

void Loop::watch_name() {
  name_ = std::make_unique<NameWatch>(segment_->path());
  warn_of_degraded_name();
  for (const auto& watched : {watch(name_->events(), EPOLLIN), watch(name_->mounts(), EPOLLPRI)}) {
    if (!watched) warn_of("name", watched.error().text);
  }
}

void Loop::warn_of_degraded_name() const {
  if (!name_->degraded().empty())
    warn_of("name", name_->degraded() + "; looking at it every second instead");
}

// From here on everyone knows, and nothing more is granted.
void Loop::lose_name() {
  segment_->line().replaced.store(1, std::memory_order_seq_cst);
  unlooked_ = true;
  wake_everyone(*segment_);
  spdlog::error(
      "the pool's name {} was removed or given to another: draining what is here; then the next "
      "coordinatord makes a new pool",
      escape(segment_->path()));
  if (ending_ == Ending::kNo) ending_ = Ending::kReplaced;
  notifier_.stopping("pool replaced, draining");
}

// Moved back, uncovered: nobody else can have judged it meanwhile.
void Loop::regain_name() {
  segment_->line().replaced.store(0, std::memory_order_seq_cst);
  unlooked_ = true;
  spdlog::warn("the pool has its name {} again", escape(segment_->path()));
  if (ending_ != Ending::kReplaced) return;
  ending_ = Ending::kNo;
  reopen_closed();
  wake_everyone(*segment_);
  notifier_.ready("serving pool " + segment_->name());
}

// --- Signals -------------------------------------------------------------------------------------

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
      case SIGCHLD:
        has_children_ = true;
        break;
      default:
        handle_end_signal(static_cast<int>(info.ssi_signo));
    }
  }
}

// The first one leaves, or begins to stop the backends; then each one makes it shorter.
void Loop::handle_end_signal(int signal) {
  notifier_.stopping("leaving");
  const bool is_stopping =
      ending_ == Ending::kStopBackends || (ending_ == Ending::kReplaced && options_.stop_on_exit);
  if (!is_stopping && !options_.stop_on_exit) {
    spdlog::info("leaving on {}: backends go on", signal_text(signal));
    ending_ = Ending::kLeave;
    return;
  }
  switch (++end_signals_) {
    case 1:
      spdlog::info("leaving on {}: stopping all backends", signal_text(signal));
      if (ending_ == Ending::kNo) ending_ = Ending::kStopBackends;
      // From here on nothing more is granted (admission reads it as: no coordinator).
      segment_->coordinator().leaving.store(kLeavingForGood, std::memory_order_seq_cst);
      wake_everyone(*segment_);  // who waits learns it now
      break;
    case 2:
      spdlog::warn(
          "{} again: requests in flight are not waited for any longer; once more abandons {}",
          signal_text(signal), still_running());
      cut_short();
      break;
    default:
      spdlog::error("{} again: leaving, and abandoning {}", signal_text(signal), still_running());
      abandoned_ = true;
      ending_ = Ending::kLeave;
  }
}

void Loop::cut_short() {
  for (const BackendView& b : reader_.read().backends) {
    if (b.live()) set_control(*segment_, b.ref, kControlEvict | kControlForce, 0);
  }
  unlooked_ = true;
}

std::string Loop::still_running() const {
  std::string text;
  const Snapshot snapshot = SnapshotReader(segment_).read();
  for (const BackendView& b : snapshot.backends) {
    if (b.live())
      text += (text.empty() ? "" : ", ") + escape(b.model) + " (pid " +
              std::to_string(b.process.pid) + ")";
  }
  return text.empty() ? "nothing" : text;
}

void Loop::reload() {
  notifier_.reloading();
  auto file =
      config::load_pool_file(options_.config_path, options_.flags, config::Variables::kLeft);
  if (!file) {
    spdlog::error("{}; the settings in force stay", file.error().text);
    note_config(false);
  } else {
    pending_ = std::make_unique<Settings>(std::move(file->settings));
    pending_since_ = read_pool_settings(*segment_);
    publish_pending();
    spdlog::info("config read again");
  }
  notifier_.ready(status_);
}

// release: for people, it orders nothing
void Loop::note_config(bool is_taken) {
  segment_->coordinator().reload_refused_ns.store(is_taken ? 0 : now_ns(),
                                                  std::memory_order_release);
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

void Loop::reopen_closed() {
  for (const BackendView& b : reader_.read().backends) {
    if (b.state.state != BackendState::kEvicting) continue;
    if (reopen(*segment_, b.ref, b.state.owner)) wake_waiters(*segment_, hash_name(b.model));
  }
}

void Loop::leave() {
  reopen_closed();
  CoordinatorRecord& record = segment_->coordinator();
  record.working_since_ns.store(0, std::memory_order_release);
  record.wanted.store(0, std::memory_order_seq_cst);
  record.leaving.store(1, std::memory_order_seq_cst);
  wake_everyone(*segment_);
  spdlog::info("left pool {}", segment_->name());
}

}  // namespace modelpool::coordinator
