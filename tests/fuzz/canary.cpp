// The real coordinatord on a live segment while its bytes change at random: it neither crashes nor
// hangs nor spins, and nobody is signalled who is not a registered backend of its own user.
//
// Everything runs in a PID namespace of its own, so that a wrong signal, kill(-1) included, reaches
// the bystanders and nothing else; when its first process ends, the kernel ends all others.
//
// Bystanders record every signal they get; one that ends or stops is noticed by its parent. Hostile
// slots name them with a wrong start time, and with the right one those who must never be signalled
// whatever the segment says: the coordinator, its parent, PID 1, an attached worker, another user's
// process. Not changed are the mutex (who writes it steers its lockers, see the contract's chapter
// on trust) and the row of the one attached worker, which is what protects it.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/proc.hpp"
#include "flags/flags.hpp"
#include "pool/inside.hpp"
#include "protocol/snapshot.hpp"

namespace modelpool::canary {
namespace {

constexpr int kSkipped = 77;
constexpr std::uint64_t kPatience_ns = 30 * kSecond_ns;
constexpr std::uint64_t kPauseEvery_ns = 2 * kSecond_ns;
constexpr std::uint64_t kSettle_ns = 300 * kMillisecond_ns;
constexpr std::uint64_t kMeasure_ns = 700 * kMillisecond_ns;
constexpr int kMeasuresMax = 5;
constexpr double kCpuMost = 0.3;  // of the time measured, with nothing changing
constexpr std::size_t kBystandersMax = 16;

struct Options {
  std::string coordinatord;
  std::string keep;
  double seconds = 15;
  std::uint64_t seed = 1;
};

struct Failure {
  std::string text;
};
[[noreturn]] void failed(const std::string& text) { throw Failure{text}; }

void pause_for(std::uint64_t ns) {
  const timespec time{static_cast<time_t>(ns / kSecond_ns), static_cast<long>(ns % kSecond_ns)};
  nanosleep(&time, nullptr);
}

template <class Condition>
void wait_until(const char* what, Condition holds) {
  const std::uint64_t until = now_ns() + kPatience_ns;
  while (!holds()) {
    if (now_ns() > until) failed(std::string("it takes too long: ") + what);
    pause_for(kMillisecond_ns);
  }
}

// --- Bystanders ----------------------------------------------------------------------------------

struct Shared {                                    // by all processes of the run
  std::atomic<std::uint64_t> got[kBystandersMax];  // a bit a signal
  std::atomic<pid_t> pid[kBystandersMax];          // set when it records
  std::atomic<pid_t> coordinator;
};
Shared* g_shared;
std::size_t g_me;

void record(int signal) { g_shared->got[g_me].fetch_or(std::uint64_t{1} << signal); }

void record_signals(std::size_t me) {
  g_me = me;
  for (int signal = 1; signal <= SIGRTMAX; ++signal) {
    struct sigaction action {};
    action.sa_handler = record;
    action.sa_flags = SA_RESTART;
    // A fault of its own comes again at once, and ends it.
    if (signal == SIGSEGV || signal == SIGBUS) action.sa_flags |= SA_RESETHAND;
    if (signal != SIGKILL && signal != SIGSTOP && signal != SIGCHLD)
      sigaction(signal, &action, nullptr);
  }
  g_shared->pid[me].store(getpid());
}

enum Bystander : std::size_t {
  kInit,          // PID 1
  kParent,        // of the coordinator
  kBesideParent,  // in its group
  kBesideCoordinator,
  kLeader,  // of a group, ours: named with a wrong start time only
  kMember,  // of that group
  kWorker,  // attached, leads a group
  kBesideWorker,
  kStranger,        // another user's, leads a group
  kBesideStranger,  // ours
  kBystanders,
};
constexpr std::array<const char*, kBystanders> kNames{"PID 1",
                                                      "the coordinator's parent",
                                                      "beside the parent",
                                                      "beside the coordinator",
                                                      "a leader",
                                                      "its member",
                                                      "an attached worker",
                                                      "beside the worker",
                                                      "another user's",
                                                      "beside another user's"};

[[noreturn]] void idle() {
  for (;;) pause();
}

pid_t start(
    std::size_t me, const std::function<void()>& first = [] {}) {
  const pid_t child = fork();
  if (child == 0) {
    record_signals(me);
    first();
    idle();
  }
  return child;
}

// A leader of a group and a member of it that is its child.
void start_group(
    Bystander leader, Bystander member, const std::function<void()>& first = [] {}) {
  start(leader, [=] {
    setsid();
    start(member);
    first();
  });
}

// --- The pool in use -----------------------------------------------------------------------------

PoolOptions pool_options(const std::string& dir) {
  PoolOptions options;
  options.dir = dir;
  return options;
}

// Loads, uses and loses models, so that there are registered backends too. What the bytes do to it
// is not what is tested: it is started again.
[[noreturn]] void use_pool(const std::string& dir) {
  auto pool = Pool::attach("canary", pool_options(dir));
  if (!pool) _exit(1);
  for (unsigned i = 0;; ++i) {
    const std::string model = "m" + std::to_string(i % 4);
    auto granted = pool->acquire(model, std::chrono::milliseconds(100));
    if (!granted) pause_for(10 * kMillisecond_ns);
    auto* ticket = granted ? std::get_if<LoadTicket>(&*granted) : nullptr;
    if (ticket == nullptr) continue;
    if (ticket->spawn({"/bin/sleep", "20"})) {
      static_cast<void>(ticket->ready("of:" + model));
    }
  }
}

// --- The bytes -----------------------------------------------------------------------------------

class Bytes {
 public:
  Bytes(std::shared_ptr<Segment> segment, std::uint64_t seed)
      : segment_(std::move(segment)), random_(seed) {
    const Header& header = segment_->header();
    file_ = open(segment_->path().c_str(), O_RDWR | O_CLOEXEC);
    memory_ = static_cast<std::uint8_t*>(
        mmap(nullptr, header.total_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0));
    if (memory_ == MAP_FAILED) failed("no map of the segment");
    remember();
  }

  std::uint64_t steps = 0;

  void remember() { clean_.assign(memory_, memory_ + segment_->header().total_bytes); }
  void restore() {
    for (std::size_t at = 0; at < clean_.size(); ++at) {
      if (!is_kept(at) && memory_[at] != clean_[at]) memory_[at] = clean_[at];
    }
  }

  void change(const std::vector<ProcessIdentity>& wrong,
              const std::vector<ProcessIdentity>& right) {
    ++steps;
    const std::uint64_t what = random_() % 1000;
    if (what < 2) return restore();
    if (what < 200) return name_processes(wrong, right);
    if (what < 230) return name_a_worker(wrong);
    flip();
  }

 private:
  std::uint64_t below(std::uint64_t bound) { return random_() % bound; }
  bool is_kept(std::size_t at) const {
    const auto inside = [&](std::size_t bytes, Table table) {
      const std::uint64_t start = segment_->header().tables[static_cast<std::size_t>(table)].offset;
      return at >= start && at < start + bytes;
    };
    return inside(sizeof(pthread_mutex_t), Table::kLock) ||
           inside(sizeof(WorkerRecord), Table::kWorkers);
  }

  // Of those in force: their head tells programs what they must know.
  std::uint64_t place_of_settings() const {
    const Word* const copy = segment_->settings_copy(segment_->settings().generation.load());
    const auto* const table = reinterpret_cast<const Word*>(&segment_->settings());
    return segment_->header().tables[static_cast<std::size_t>(Table::kSettingsBlock)].offset +
           static_cast<std::uint64_t>(copy - table) * sizeof(Word);
  }

  void flip() {
    const std::size_t table = below(kTableCount + 1);
    std::uint64_t start = 0;
    std::uint64_t size = sizeof(Header);
    if (table < kTableCount) {
      const TableInfo& info = segment_->header().tables[table];
      start = info.offset;
      size = info.stride * info.count;
      // Early bytes of early rows are those in use.
      if (below(2) == 0) {
        start += info.stride * below(std::min<std::uint64_t>(info.count, 6));
        size = std::min<std::uint64_t>(info.stride, 256);
        if (table == static_cast<std::size_t>(Table::kSettingsBlock) && below(8) != 0) {
          start = place_of_settings();
        }
      }
    }
    const std::size_t at = start + below(size);
    if (is_kept(at)) return;
    memory_[at] = below(2) == 0 ? static_cast<std::uint8_t>(memory_[at] ^ 1u << below(8))
                                : static_cast<std::uint8_t>(random_());
  }

  void name_processes(const std::vector<ProcessIdentity>& wrong,
                      const std::vector<ProcessIdentity>& right) {
    BackendRecord& slot = segment_->backend(below(segment_->capacities().backends));
    const bool is_right = below(2) == 0;
    ProcessIdentity process = is_right ? right[below(right.size())] : wrong[below(wrong.size())];
    if (!is_right) {
      process.start_ticks ^= 0x5555555555 + below(1000) * 2;
      if (below(2) == 0) process.pidfd_inode = 0;
      constexpr pid_t kNumbers[] = {0, 1, -1, INT32_MIN, INT32_MAX};
      if (below(3) == 0) process.pid = kNumbers[below(5)];
    }
    const pid_t groups[] = {process.pid, process.pid, wrong[below(wrong.size())].pid, 0, 1, -1};
    const std::uint32_t generation =
        high_half(slot.state.load()) + static_cast<std::uint32_t>(below(2));
    slot.state.store(StateWord{generation, 0, BackendState::kFree}.pack());
    slot.pid.store(static_cast<std::uint32_t>(process.pid));
    slot.group.store(static_cast<std::uint32_t>(groups[below(6)]));
    slot.start_ticks.store(process.start_ticks);
    slot.pidfd_inode.store(process.pidfd_inode);
    slot.control.store(pack_half(generation, static_cast<std::uint32_t>(below(8))));
    slot.traits.store(pack_half(generation, static_cast<std::uint32_t>(below(4))));
    slot.exit_status.store(pack_half(generation, 0));
    slot.ready_ns.store(below(2) * now_ns());
    slot.reserved_ns.store(below(2) * now_ns());
    const std::string model = "h" + std::to_string(below(4));
    slot.model.store(model);
    slot.model_hash.store(hash_name(model));
    slot.address.store("127.0.0.1:1");
    StopRecord stop;
    stop.generation = generation;
    stop.reason = static_cast<Reason>(below(kReasonCount));
    stop.signalled_ns = below(3) == 0 ? 1 + below(now_ns()) : 0;
    stop.killed_ns = below(4) == 0 ? 1 + below(now_ns()) : 0;
    stop.forced = static_cast<std::uint32_t>(below(2));
    slot.stop.publish(stop);
    const auto epoch = static_cast<std::uint32_t>(segment_->coordinator().epoch.load());
    const std::uint32_t owners[] = {0, epoch, static_cast<std::uint32_t>(random_())};
    const auto state = static_cast<BackendState>(1 + below(6));
    slot.state.store(StateWord{generation, owners[below(3)], state}.pack());
    ring(*segment_);
  }

  void name_a_worker(const std::vector<ProcessIdentity>& wrong) {
    WorkerRecord& row = segment_->worker(1 + below(segment_->capacities().workers - 1));
    const ProcessIdentity& process = wrong[below(wrong.size())];
    row.pid.store(static_cast<std::uint32_t>(process.pid));
    row.start_ticks.store(process.start_ticks + 1 + below(9));
    row.pidfd_inode.store(0);
    row.leases_high.store(static_cast<std::uint32_t>(below(300)));
    row.state.store(random_() & 0xff00000003);
    ring(*segment_);
  }

  std::shared_ptr<Segment> segment_;
  std::mt19937_64 random_;
  int file_ = -1;
  std::uint8_t* memory_ = nullptr;
  std::vector<std::uint8_t> clean_;
};

// --- The run -------------------------------------------------------------------------------------

ProcessIdentity identity_of(pid_t pid) {
  const auto handle = ProcessHandle::open(pid);  // never of PID 1
  if (handle) return handle->identity();
  const auto stat = read_stat(pid);
  if (!stat) failed("no process " + std::to_string(pid));
  return {pid, stat->start_ticks, 0};
}

// Of a process, or of a thread: "1/task/2".
std::uint64_t cpu_ticks(const std::string& who) {
  std::ifstream file("/proc/" + who + "/stat");
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (text.empty()) failed("the coordinator is gone");
  std::istringstream rest(text.substr(text.rfind(')') + 2));
  std::string skipped;
  for (int i = 0; i < 11; ++i) rest >> skipped;
  std::uint64_t user = 0;
  std::uint64_t system = 0;
  rest >> user >> system;
  return user + system;
}

// The coordinator's parent: starts it, in a group of its own, and waits.
void start_coordinator(const Options& options, const std::string& dir) {
  start(kParent, [&] {
    setsid();
    start(kBesideParent);
    const pid_t child = fork();
    if (child == 0) {
      setpgid(0, 0);
      for (int signal = 1; signal <= SIGRTMAX; ++signal) ::signal(signal, SIG_DFL);
      const int log = open((dir + "/log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
      dup2(log, 1);
      dup2(log, 2);
      execl(options.coordinatord.c_str(), "coordinatord", "--pool", "canary", "--dir", dir.c_str(),
            "--log-level", "warn", "--max-backends", "3", "--idle-timeout", "500ms",
            "--busy-timeout", "1s", "--load-timeout", "2s", "--stop-grace", "200ms",
            "--drain-timeout", "300ms", nullptr);
      _exit(127);
    }
    setpgid(child, child);
    start(kBesideCoordinator, [=] { setpgid(0, child); });
    g_shared->coordinator.store(child);
    int status = 0;
    while (waitpid(child, &status, 0) != child) {
    }
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  });
}

std::string tail_of_log(const std::string& dir) {
  std::ifstream file(dir + "/log");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  return text.size() > 2000 ? text.substr(text.size() - 2000) : text;
}

class Run {
 public:
  Run(const Options& options, const std::string& dir) : options_(options), dir_(dir) {}

  void go() {
    record_signals(kInit);
    start_coordinator(options_, dir_);
    wait_until("the coordinator starts", [&] {
      look_around();
      return Segment::open_read_only("canary", dir_).has_value();
    });
    start_bystanders();
    SegmentOptions attach;
    attach.dir = dir_;
    attach.create = false;
    auto attached = Segment::attach("canary", attach);
    if (!attached) failed(attached.error().text);
    segment_ = *attached;
    wait_until("the coordinator scans",
               [&] { return segment_->coordinator().last_scan_ns.load() != 0; });

    const pid_t coordinator = g_shared->coordinator.load();
    std::vector<ProcessIdentity> right{identity_of(coordinator), identity_of(getpid())};
    std::vector<ProcessIdentity> wrong = right;
    for (std::size_t i = kParent; i < kBystanders; ++i) {
      if (g_shared->pid[i] == 0) continue;
      wrong.push_back(identity_of(g_shared->pid[i]));
      if (i == kParent || i == kWorker || i == kStranger) right.push_back(wrong.back());
    }

    Bytes bytes(segment_, options_.seed);
    const std::uint64_t until = now_ns() + static_cast<std::uint64_t>(options_.seconds * 1e9);
    std::uint64_t pauses = 0;
    while (now_ns() < until) {
      const std::uint64_t pause_at = now_ns() + kPauseEvery_ns;
      while (now_ns() < pause_at) {
        keep_using();
        for (int i = 0; i < 20; ++i) bytes.change(wrong, right);
        pause_for(kMillisecond_ns);
        look_around();
      }
      kill(user_, SIGSTOP);
      {
        // As if the user had been stopped under the mutex.
        std::optional<LockGuard> lock;
        if (pauses % 4 == 3) {
          if (auto taken = segment_->lock_structure()) lock.emplace(std::move(*taken));
        }
        check_rest(coordinator);
      }
      kill(user_, SIGCONT);
      ++pauses;
    }
    kill(user_, SIGKILL);
    bytes.restore();
    kill(coordinator, SIGTERM);
    wait_until("the coordinator leaves", [&] {
      look_around();
      return left_;
    });
    if (bytes.steps == 0 || pauses == 0)
      failed("nothing was changed, or never paused: give it more seconds");
    std::printf(
        "canary: seed %ju, %ju changes, %ju pauses, %ju workers lost, most CPU at rest %.0f %%, "
        "nobody signalled\n",
        std::uintmax_t{options_.seed}, std::uintmax_t{bytes.steps}, std::uintmax_t{pauses},
        std::uintmax_t{users_lost_}, cpu_most_ * 100);
  }

 private:
  void start_bystanders() {
    start_group(kLeader, kMember);
    start_group(kStranger, kBesideStranger, [] {
      if (setgid(65534) != 0 || setuid(65534) != 0) g_shared->pid[kStranger] = 0;  // as root only
    });
    start_group(kWorker, kBesideWorker, [this] {
      g_shared->pid[kWorker] = 0;
      static auto pool = Pool::attach("canary", pool_options(dir_));
      if (!pool) _exit(1);
      g_shared->pid[kWorker] = getpid();
    });
    wait_until("the bystanders stand by", [&] {
      look_around();
      for (std::size_t i = 0; i < kBystanders; ++i) {
        if (g_shared->pid[i] == 0 && i != kStranger) return false;
      }
      return true;
    });
    pause_for(200 * kMillisecond_ns);  // the stranger may still be changing its user
  }

  void keep_using() {
    if (user_ != 0) return;
    user_ = fork();
    if (user_ == 0) {
      for (int signal = 1; signal <= SIGRTMAX; ++signal) ::signal(signal, SIG_DFL);
      setsid();
      use_pool(dir_);
    }
  }

  // Nobody has ended or stopped, nobody has recorded anything.
  void look_around() {
    int status = 0;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG | WUNTRACED)) > 0;) {
      if (pid == user_) {
        if (WIFSTOPPED(status)) continue;  // by us
        user_ = 0;
        ++users_lost_;
        continue;
      }
      for (std::size_t i = 0; i < kBystanders; ++i) {
        if (g_shared->pid[i] != pid) continue;
        if (i == kParent && WIFEXITED(status) && WEXITSTATUS(status) == 0) {
          left_ = true;
          continue;
        }
        const bool judge = i == kParent && WIFEXITED(status);
        failed(judge ? "the coordinator ended with " + std::to_string(WEXITSTATUS(status))
                     : std::string(kNames[i]) + " was ended or stopped");
      }
    }
    for (std::size_t i = 0; i < kBystanders; ++i) {
      if (g_shared->got[i] != 0) {
        char text[64];
        std::snprintf(text, sizeof text, "%jx", std::uintmax_t{g_shared->got[i].load()});
        failed(std::string(kNames[i]) + " was signalled: " + text);
      }
      const pid_t pid = g_shared->pid[i];
      if (pid != 0 && !(i == kParent && left_) && kill(pid, 0) != 0)
        failed(std::string(kNames[i]) + " is gone");
    }
  }

  // Of one CPU, for a moment.
  double measure_cpu(pid_t coordinator) {
    const std::string who = std::to_string(coordinator);
    const std::uint64_t ticks = cpu_ticks(who);
    const std::uint64_t start = now_ns();
    pause_for(kMeasure_ns);
    look_around();
    return static_cast<double>(cpu_ticks(who) - ticks) / static_cast<double>(sysconf(_SC_CLK_TCK)) /
           (static_cast<double>(now_ns() - start) / 1e9);
  }

  // Ticks of each thread meanwhile, in the order in which they were started: the loop, then its
  // helpers.
  std::string busy_threads(pid_t coordinator) {
    const std::string tasks = std::to_string(coordinator) + "/task/";
    std::map<int, std::uint64_t> before;
    for (const auto& task : std::filesystem::directory_iterator("/proc/" + tasks)) {
      const std::string tid = task.path().filename();
      before[std::stoi(tid)] = cpu_ticks(tasks + tid);
    }
    pause_for(kMeasure_ns);
    std::string text;
    for (const auto& [tid, ticks] : before)
      text += " " + std::to_string(cpu_ticks(tasks + std::to_string(tid)) - ticks);
    return text;
  }

  // With nothing changing: it sleeps, and it wakes when it is rung.
  void check_rest(pid_t coordinator) {
    pause_for(kSettle_ns);
    // It looks again for whom it could not signal, less and less often: a hundred such cost it at
    // first.
    double cpu = 1;
    for (int i = 0; i < kMeasuresMax && cpu > kCpuMost; ++i) cpu = measure_cpu(coordinator);
    cpu_most_ = std::max(cpu_most_, cpu);
    if (cpu > kCpuMost) {
      if (!options_.keep.empty()) std::filesystem::copy_file(segment_->path(), options_.keep);
      failed("the coordinator spins: " + std::to_string(static_cast<int>(cpu * 100)) +
             " % of a CPU at rest; ticks of its threads:" + busy_threads(coordinator));
    }
    const std::uint64_t asked = now_ns();
    segment_->coordinator().last_scan_ns.store(0);
    ring(*segment_);
    wait_until("the coordinator looks when it is rung", [&] {
      look_around();
      return segment_->coordinator().last_scan_ns.load() >= asked;
    });
  }

  const Options& options_;
  std::string dir_;
  std::shared_ptr<Segment> segment_;
  pid_t user_ = 0;
  std::uint64_t users_lost_ = 0;
  bool left_ = false;
  double cpu_most_ = 0;
};

int inside(const Options& options, const std::string& dir) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0) {
    std::printf("skipped: /proc cannot be mounted: %s\n", std::strerror(errno));
    return kSkipped;
  }
  void* memory =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  g_shared = new (memory) Shared{};
  try {
    Run(options, dir).go();
    return 0;
  } catch (const Failure& failure) {
    std::printf("FAILED (--seed %ju): %s\n%s\n", std::uintmax_t{options.seed}, failure.text.c_str(),
                tail_of_log(dir).c_str());
    return 1;
  }
}

int run(const Options& options) {
  if (unshare(CLONE_NEWPID | CLONE_NEWNS) != 0 &&
      unshare(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS) != 0) {
    std::printf("skipped: no PID namespace may be made here: %s\n", std::strerror(errno));
    return kSkipped;
  }
  // As a test's: the next one removes it if this is killed.
  std::string dir = "/dev/shm/modelpool-test-" + std::to_string(getpid()) + "-XXXXXX";
  if (mkdtemp(dir.data()) == nullptr) return 1;
  setenv("XDG_STATE_HOME", (dir + "/state").c_str(), 1);  // where output of backends is kept
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    const int code = inside(options, dir);
    std::fflush(stdout);
    _exit(code);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  std::filesystem::remove_all(dir);
  if (WIFSIGNALED(status))
    std::printf("FAILED (--seed %ju): PID 1 was ended by signal %d\n", std::uintmax_t{options.seed},
                WTERMSIG(status));
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

}  // namespace
}  // namespace modelpool::canary

int main(int argc, char** argv) {
  modelpool::canary::Options options;
  options.coordinatord = MODELPOOL_COORDINATORD;
  modelpool::Flags flags("coordinatord on a segment whose bytes change at random", "canary");
  flags.add("--seconds", "N", &options.seconds, "how long [15]");
  flags.add("--seed", "N", &options.seed, "of the changes [1]");
  flags.add("--coordinatord", "PATH", &options.coordinatord,
            "another build of it, such as one with sanitizers");
  flags.add("--keep", "FILE", &options.keep,
            "copy the segment there if the coordinator spins; look at it with poolctl --file");
  if (const auto code = flags.parse_or_end(argc, argv)) return *code;
  return modelpool::canary::run(options);
}
