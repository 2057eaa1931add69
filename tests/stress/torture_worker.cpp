// A worker under torture: threads that acquire random models, load them when handed the ticket, and
// send requests to the backends over their sockets. Ends when its standard input does.
//
//   torture_worker DIR SEED BACKEND
//
// To DIR/workers.log go: what it lost while it held a lease, waits that outlived their deadline,
// answers that nobody should get, and twice a second its counts.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "pool/inside.hpp"

namespace {

using namespace modelpool;  // NOLINT(google-build-using-namespace)

constexpr int kModels = 12;
constexpr std::uint64_t kSizeUnit_bytes = 100 << 20;
constexpr int kThreads = 2;
constexpr std::uint64_t kBeat_ns = 10 * kMillisecond_ns;
constexpr std::uint64_t kLateMax_ns = 2 * kSecond_ns;
constexpr std::uint64_t kPatience_ns = 2'500 * kMillisecond_ns;  // with a backend's answer

std::string g_dir;
std::string g_backend;
std::atomic<bool> g_stop{false};

void write_log(const std::string& what, const std::string& rest) {
  static const int log =
      open((g_dir + "/workers.log").c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  const std::string line = "{\"t\":" + std::to_string(now_ns()) + ",\"what\":\"" + what +
                           "\",\"worker\":" + std::to_string(getpid()) + rest + "}\n";
  static_cast<void>(!write(log, line.data(), line.size()));
}

// --- Time this process did not get: stopped, or starved by a busy machine ------------------------

std::atomic<std::uint64_t> g_lost_ns{0};

void beat() {
  for (std::uint64_t last = now_ns(); !g_stop;) {
    std::this_thread::sleep_for(std::chrono::nanoseconds(kBeat_ns));
    const std::uint64_t now = now_ns();
    if (now - last > 2 * kBeat_ns) g_lost_ns += now - last - kBeat_ns;
    last = now;
  }
}

// --- Counts --------------------------------------------------------------------------------------

class Counts {
 public:
  void add(const std::string& name) {
    const std::lock_guard lock(mutex_);
    ++counts_[name];
  }
  void raise(const std::string& name, std::uint64_t value) {
    const std::lock_guard lock(mutex_);
    std::uint64_t& count = counts_[name];
    count = std::max(count, value);
  }
  void log() {
    std::string text;
    {
      const std::lock_guard lock(mutex_);
      for (const auto& [name, count] : counts_) {
        text += (text.empty() ? "\"" : ",\"") + name + "\":" + std::to_string(count);
      }
    }
    write_log("counts", ",\"counts\":{" + text + "}");
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::uint64_t> counts_;
} g_counts;

// --- Backends started without the library, reaped here -------------------------------------------

std::mutex g_children_mutex;
std::vector<pid_t> g_children;

void reap_children() {
  const std::lock_guard lock(g_children_mutex);
  std::erase_if(g_children, [](pid_t pid) { return waitpid(pid, nullptr, WNOHANG) != 0; });
}

// As the driver has it: what a model is declared to take.
std::uint64_t size_of(const std::string& model) {
  return (1 + std::stoul(model.substr(1)) % 3) * kSizeUnit_bytes;
}

// --- Requests ------------------------------------------------------------------------------------

// A connected socket, or -errno.
int connect_to(const std::string& path) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return fd;
  const int error = errno;
  close(fd);
  return -error;
}

class Requests {
 public:
  Requests(Pool& pool, unsigned seed) : pool_(pool), dice_(seed) {}

  void run() {
    while (!g_stop) {
      one();
      pause_ms(below(4) == 0 ? 0 : below(50));
    }
  }

 private:
  std::uint32_t below(std::uint32_t n) { return static_cast<std::uint32_t>(dice_() % n); }
  bool chance(std::uint32_t one_in) { return below(one_in) == 0; }
  static void pause_ms(std::uint32_t ms) {
    std::this_thread::sleep_for(std::chrono::milliseconds(ms));
  }

  void one() {
    // A few models are asked for more often than the others.
    const std::string model = "m" + std::to_string(std::min(below(kModels), below(kModels)));
    AcquireOptions options;
    if (chance(2)) options.tag = "req-" + std::to_string(below(1000));
    if (chance(12)) options.busy_timeout = std::chrono::milliseconds(100 + below(500));
    options.may_load = !chance(10);
    options.cancellable = chance(2);  // and not all of these do end it when asked
    constexpr std::array<std::uint32_t, 6> kTimeouts_ms{0, 20, 200, 1000, 2000, 4000};
    const std::chrono::milliseconds timeout(kTimeouts_ms[below(kTimeouts_ms.size())]);
    if (chance(40)) static_cast<void>(pool_.touch(model));

    g_counts.add("requests");
    const std::uint64_t lost_before = g_lost_ns;
    const std::uint64_t asked = now_ns();
    auto granted = pool_.acquire(model, timeout, options);
    const std::uint64_t answered = now_ns();
    // The beat of a stop that has just ended may be a moment behind.
    if (answered - asked > kLateMax_ns) std::this_thread::sleep_for(std::chrono::milliseconds(30));
    const std::uint64_t lost = g_lost_ns - lost_before;
    const std::uint64_t deadline =
        asked + static_cast<std::uint64_t>(timeout.count()) * kMillisecond_ns;
    const std::uint64_t late = age_ns(answered, add_ns(deadline, lost));
    g_counts.raise("late_ms_max", late / kMillisecond_ns);
    const std::string outcome = granted ? "granted" : std::string(errc_name(granted.error().code));
    if (late > kLateMax_ns) {
      write_log("late", ",\"model\":\"" + model + "\",\"outcome\":\"" + outcome +
                            "\",\"timeout_ms\":" + std::to_string(timeout.count()) +
                            ",\"late_ms\":" + std::to_string(late / kMillisecond_ns));
    }
    if (!granted) {
      if (granted.error().code == Errc::kTimeout && answered < deadline) {
        write_log("early", ",\"model\":\"" + model + "\"");
      }
      refused(granted.error());
      return;
    }
    if (auto* lease = std::get_if<Lease>(&*granted)) {
      serve(std::move(*lease), asked);
    } else {
      load(std::move(std::get<LoadTicket>(*granted)), asked);
    }
  }

  static void refused(const Error& error) {
    g_counts.add(std::string(errc_name(error.code)));
    switch (error.code) {
      case Errc::kTimeout:
      case Errc::kAllPinned:
      case Errc::kTooLarge:
      case Errc::kCoolingDown:
      case Errc::kLoadFailed:
      case Errc::kNoCoordinator:
      case Errc::kNotLoaded:
      case Errc::kTicketLost:
      case Errc::kBusy:  // somebody was stopped while he held the mutex
        return;
      default:
        write_log("refused", ",\"code\":\"" + std::string(errc_name(error.code)) + "\"");
    }
  }

  void serve(Lease lease, std::uint64_t asked) {
    g_counts.add("leases");
    const pid_t pid = lease.pid();
    const std::string model = lease.model();
    const int fd = connect_to(lease.address().substr(std::string("unix:").size()));
    if (fd == -EAGAIN) return;  // its backlog is full: it is stopped
    if (fd < 0) return lost(model, pid, "connect");
    // Most are short; now and then one hangs, so that the busy rule has something to do.
    const std::uint32_t hold_ms = chance(40) ? 2000 : chance(8) ? below(300) : below(30);
    const std::string request = std::to_string(hold_ms) + " " + std::to_string(asked) + "\n";
    bool alive = send(fd, request.data(), request.size(), MSG_NOSIGNAL) > 0;
    const bool streams = chance(2);
    const bool listens = !chance(4);
    bool cancelled = false;
    if (!chance(3)) {  // told by the library's thread, and only of what was asked
      static_cast<void>(lease.on_cancel([&lease] {
        g_counts.add("told");
        if (!lease.cancelled()) write_log("told", "");
      }));
    }
    const std::uint64_t until = now_ns() + kPatience_ns;
    bool answered = false;
    while (alive && !answered && now_ns() < until) {
      const bool is_cancelled = lease.cancelled();
      if (cancelled && !is_cancelled) write_log("uncancelled", "");  // the words are never cleared
      if (is_cancelled && !cancelled) g_counts.add("cancelled");
      cancelled = is_cancelled;
      if (listens && cancelled && chance(2)) break;
      pollfd wait{fd, POLLIN, 0};
      poll(&wait, 1, 50);
      char reply[8];
      const ssize_t got = recv(fd, reply, sizeof reply, MSG_DONTWAIT);
      answered = got > 0;
      alive = got > 0 || (got < 0 && errno == EAGAIN);
      if (streams) static_cast<void>(lease.progress());
    }
    if (!alive) lost(model, pid, "answer");
    // Before the lease ends: what is connected is leased. Not close alone: a child at its gate may
    // have a copy of the descriptor.
    shutdown(fd, SHUT_RDWR);
    close(fd);
    if (chance(2)) lease.release();
  }

  static void lost(const std::string& model, pid_t pid, const std::string& at) {
    g_counts.add("lost");
    write_log("lost", ",\"model\":\"" + model + "\",\"pid\":" + std::to_string(pid) + ",\"at\":\"" +
                          at + "\"");
  }

  void load(LoadTicket ticket, std::uint64_t asked) {
    g_counts.add("tickets");
    if (chance(30)) return;  // given up
    if (chance(40)) static_cast<void>(ticket.spawn({"/no/such/program"}));
    static std::atomic<int> number{0};
    const std::string path =
        g_dir + "/s" + std::to_string(getpid()) + "." + std::to_string(++number);
    constexpr std::array<const char*, 6> kKinds{"plain", "plain",  "slow",
                                                "deaf",  "family", "emigrant"};
    // A backend that the caller starts itself carries no token: it has no children here.
    const bool by_hand = chance(6);
    std::string kind = by_hand ? "plain" : kKinds[below(kKinds.size())];
    if (chance(25)) kind = "crash";
    std::vector<std::string> argv{g_backend, g_dir, ticket.model(), path, std::to_string(asked),
                                  kind};
    const auto started = by_hand ? start(ticket, argv) : ticket.spawn(argv);
    if (!started) {
      refused(started.error());
      return;
    }
    int fd = -1;
    for (const std::uint64_t until = now_ns() + kSecond_ns; fd < 0 && now_ns() < until;) {
      pause_ms(5);
      fd = connect_to(path);
    }
    if (fd >= 0) {
      shutdown(fd, SHUT_RDWR);
      close(fd);
    }
    if (chance(20)) pause_ms(below(3000));  // too slow for load_timeout, sometimes
    if (fd < 0 || chance(25)) {
      if (auto failed = ticket.fail("by the dice"); !failed) refused(failed.error());
      return;
    }
    ReadyOptions options;
    options.size_bytes = size_of(ticket.model());
    auto lease = ticket.ready("unix:" + path, options);
    if (!lease) {
      refused(lease.error());
      return;
    }
    g_counts.add("loads");
    serve(std::move(*lease), asked);
  }

  // As an application that has its own way to start things. The backend waits until it is
  // registered: killed before that, this worker leaves nothing that nobody knows.
  static Result<> start(LoadTicket& ticket, std::vector<std::string> args) {
    int gate[2];
    if (pipe2(gate, O_CLOEXEC) != 0) return fail_errno(errno, "create a pipe");
    args.back() = "waiting";
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    std::string devices = "CUDA_VISIBLE_DEVICES=";  // as spawn would
    for (const std::string& uuid : ticket.devices()) devices += uuid;
    std::vector<char*> variables{devices.data()};
    for (char** variable = environ; *variable != nullptr; ++variable)
      variables.push_back(*variable);
    variables.push_back(nullptr);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, gate[0], 0);
    pid_t pid = 0;
    const int error =
        posix_spawn(&pid, argv[0], &actions, &attributes, argv.data(), variables.data());
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    close(gate[0]);
    Result<> registered = error == 0 ? ticket.started(pid) : fail_errno(error, "start a backend");
    if (registered) static_cast<void>(!write(gate[1], "!", 1));
    close(gate[1]);  // without a word: it ends
    const std::lock_guard lock(g_children_mutex);
    if (error == 0) g_children.push_back(pid);
    return registered;
  }

  Pool& pool_;
  std::mt19937 dice_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  g_dir = argv[1];
  const auto seed = static_cast<unsigned>(std::stoul(argv[2]));
  g_backend = argv[3];
  signal(SIGPIPE, SIG_IGN);
  PoolOptions options;
  options.dir = g_dir + "/pool";
  auto pool = Pool::attach("default", options);
  if (!pool) {
    std::fprintf(stderr, "torture_worker: %s\n", pool.error().text.c_str());
    return 1;
  }
  std::thread heart(beat);
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kThreads; ++i) {
    threads.emplace_back([&pool, seed, i] { Requests(*pool, seed * kThreads + i).run(); });
  }
  for (pollfd input{0, POLLIN, 0}; poll(&input, 1, 500) <= 0;) {
    g_counts.log();
    reap_children();
  }
  g_stop = true;
  for (std::thread& thread : threads) thread.join();
  heart.join();
  g_counts.log();
  return 0;
}
