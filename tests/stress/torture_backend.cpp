// A backend under torture, and a bystander. It does not use libmodelpool: what it writes down is
// evidence about it.
//
//   torture_backend DIR MODEL SOCKET ASKED_NS KIND
//   torture_backend DIR bystander
//
// A connection is a request in flight from before its first byte until its worker closes it:
// workers hold a lease all the while, so a signal that finds one is a signal under a lease. Every
// signal goes to DIR/backends.log with who sent it and whose requests were in flight.
//
// Every backend holds a lock on a place of its own in DIR/places for as long as a process of it
// lives, and writes down whose places are held when it starts. Nobody else starts meanwhile, so all
// of these were alive at one instant: exact, however short the excess.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

namespace {

constexpr int kPlaces = 32;
constexpr int kFarewell_ms = 150;  // of a backend that takes its time to end

std::string g_dir;
std::string g_model;
std::string g_kind;

std::uint64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

void write_log(const std::string& what, const std::string& rest) {
  static const int log =
      open((g_dir + "/backends.log").c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  const std::string line = "{\"t\":" + std::to_string(now_ns()) + ",\"what\":\"" + what +
                           "\",\"pid\":" + std::to_string(getpid()) + ",\"model\":\"" + g_model +
                           "\",\"kind\":\"" + g_kind + "\"" + rest + "}\n";
  static_cast<void>(!write(log, line.data(), line.size()));
}

bool take(const std::string& name, int* fd) {
  *fd = open((g_dir + "/places/" + name).c_str(), O_RDWR | O_CREAT, 0600);
  return flock(*fd, LOCK_EX | LOCK_NB) == 0;
}

// What a place says of who has it: when he asked, his model, the device that he was put on.
struct Inmate {
  std::string asked_ns;
  std::string model;
  std::string device;
};

std::string as_json(const std::vector<Inmate>& inmates) {
  std::string list;
  for (const Inmate& one : inmates) {
    list += (list.empty() ? "[" : ",[") + ("\"" + one.model) + "\",\"" + one.device + "\"]";
  }
  return "[" + list + "]";
}

Inmate read_inmate(int fd) {
  char text[128] = {};
  char asked[32] = {};
  char model[32] = {};
  char device[32] = {};
  static_cast<void>(!pread(fd, text, sizeof text - 1, 0));
  static_cast<void>(std::sscanf(text, "%31s %31s %31s", asked, model, device));
  return {asked, model, device};
}

void take_place(const std::string& asked_ns) {
  int door;
  take("door", &door);
  flock(door, LOCK_EX);
  int model;
  const bool twin = !take("model-" + g_model, &model);
  const char* const device = std::getenv("CUDA_VISIBLE_DEVICES");
  std::vector<Inmate> live{{asked_ns, g_model, device == nullptr ? "" : device}};
  bool placed = false;
  std::string newest = asked_ns;  // decimal, equally long: of one boot
  for (int i = 0; i < kPlaces; ++i) {
    int fd;
    const bool is_free = take(std::to_string(i), &fd);
    if (is_free && !placed) {
      placed = true;
      static_cast<void>(!ftruncate(fd, 0));
      const std::string own = asked_ns + " " + g_model + " " + live[0].device + "\n";
      static_cast<void>(!pwrite(fd, own.data(), own.size(), 0));
      continue;  // kept, also by the children
    }
    if (!is_free) {
      live.push_back(read_inmate(fd));
      const std::string& asked = live.back().asked_ns;
      if (asked.size() >= newest.size()) newest = std::max(newest, asked);
    }
    close(fd);
  }
  write_log("start", ",\"live\":" + as_json(live) + ",\"asked\":" + newest +
                         ",\"twin\":" + (twin ? "true" : "false"));
  close(door);
}

struct Request {
  int fd = -1;
  pid_t worker = 0;
  bool asked = false;          // for something; who only looks whether we listen does not
  std::uint64_t due_ns = 0;    // 0: answered
  std::uint64_t asked_ns = 0;  // when its worker asked the pool for the lease
};

class Server {
 public:
  explicit Server(const std::string& path) {
    if (path.empty()) return;
    listener_ = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    if (bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
        listen(listener_, 256) != 0) {
      std::perror("torture_backend");
      std::exit(4);
    }
  }

  // Workers whose requests are in flight at this instant, as a JSON list.
  std::string in_flight() {
    accept_all();
    std::string list;
    for (const Request& r : requests_) {
      char byte;
      const ssize_t got = recv(r.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
      if (got == 0 || (got < 0 && errno != EAGAIN)) continue;  // ended before the signal came
      if (got < 0 && !r.asked) continue;
      list += (list.empty() ? "" : ",") + std::to_string(r.worker);
    }
    return "[" + list + "]";
  }

  // Those that are in flight together, and when the pool was asked for the newest of them.
  void write_crowd() {
    std::string list;
    std::uint64_t newest_ns = 0;
    int count = 0;
    for (const Request& r : requests_) {
      char byte;
      const ssize_t got = recv(r.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
      if (!r.asked || got >= 0 || errno != EAGAIN) continue;
      list += (list.empty() ? "" : ",") + std::to_string(r.worker);
      newest_ns = std::max(newest_ns, r.asked_ns);
      ++count;
    }
    if (count < 2) return;
    write_log("crowd", ",\"asked\":" + std::to_string(newest_ns) + ",\"in_flight\":[" + list + "]");
  }

  void add_to(std::vector<pollfd>* waits) const {
    if (listener_ >= 0) waits->push_back({listener_, POLLIN, 0});
    for (const Request& r : requests_) waits->push_back({r.fd, POLLIN, 0});
  }

  int patience_ms() const {
    int patience = 1000;
    for (const Request& r : requests_) {
      if (r.due_ns == 0) continue;
      const std::uint64_t now = now_ns();
      const std::uint64_t left_ms = r.due_ns > now ? (r.due_ns - now) / 1'000'000 + 1 : 0;
      patience = std::min<int>(patience, static_cast<int>(std::min<std::uint64_t>(left_ms, 1000)));
    }
    return patience;
  }

  void serve() {
    accept_all();
    bool is_new = false;
    for (Request& r : requests_) {
      char text[64] = {};
      const ssize_t got = recv(r.fd, text, sizeof text - 1, MSG_DONTWAIT);
      if (got > 0) {
        is_new = r.asked = true;
        char* rest = nullptr;
        r.due_ns = now_ns() + std::strtoull(text, &rest, 10) * 1'000'000;
        r.asked_ns = std::strtoull(rest, nullptr, 10);
      }
      if (got == 0 || (got < 0 && errno != EAGAIN)) {
        close(r.fd);
        r.fd = -1;
      } else if (r.due_ns != 0 && r.due_ns <= now_ns()) {
        send(r.fd, "done\n", 5, MSG_NOSIGNAL | MSG_DONTWAIT);
        r.due_ns = 0;
      }
    }
    std::erase_if(requests_, [](const Request& r) { return r.fd < 0; });
    if (is_new) write_crowd();
  }

 private:
  void accept_all() {
    if (listener_ < 0) return;
    for (int fd; (fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
      ucred peer{};
      socklen_t size = sizeof peer;
      getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size);
      requests_.push_back({fd, peer.pid});
    }
  }

  int listener_ = -1;
  std::vector<Request> requests_;
};

// A child that belongs to the backend: in its group, or, having left that, by its token.
void fork_child(bool in_session_of_its_own) {
  if (fork() != 0) return;
  if (in_session_of_its_own) setsid();
  g_kind = "child";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 && argc != 6) return 2;
  g_dir = argv[1];
  g_model = argv[2];
  g_kind = argc == 6 ? argv[5] : "bystander";
  std::string path = argc == 6 ? argv[3] : "";

  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, nullptr);
  signal(SIGCHLD, SIG_IGN);
  if (g_kind == "waiting") {  // until it is registered, or its worker has gone
    char byte;
    if (read(0, &byte, 1) != 1) return 0;
    static char kind[] = "plain";
    argv[5] = kind;
    execv("/proc/self/exe", argv);
  }
  if (argc == 6) take_place(argv[4]);
  if (g_kind == "crash") return 3;
  if (g_kind == "family") fork_child(false);
  if (g_kind == "emigrant") fork_child(true);
  if (g_kind == "child") path.clear();

  // It does not outlive who counts it.
  const char* driver = std::getenv("TORTURE_DRIVER");
  const int driver_fd =
      driver == nullptr ? -1 : static_cast<int>(syscall(SYS_pidfd_open, std::atoi(driver), 0));
  const int signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
  Server server(path);
  std::uint64_t end_ns = 0;
  for (;;) {
    std::vector<pollfd> waits{{signals, POLLIN, 0}, {driver_fd, POLLIN, 0}};
    server.add_to(&waits);
    poll(waits.data(), waits.size(), end_ns != 0 ? 10 : server.patience_ms());
    if (waits[1].revents & POLLIN) return 5;
    for (signalfd_siginfo info; read(signals, &info, sizeof info) == sizeof info;) {
      write_log("signal", ",\"signal\":" + std::to_string(info.ssi_signo) +
                              ",\"from\":" + std::to_string(info.ssi_pid) +
                              ",\"in_flight\":" + server.in_flight());
      if (info.ssi_signo != SIGTERM || g_kind == "deaf" || g_kind == "bystander") continue;
      if (g_kind != "slow" && g_kind != "child") return 0;
      if (end_ns == 0) end_ns = now_ns() + kFarewell_ms * 1'000'000;
    }
    if (end_ns != 0 && now_ns() >= end_ns) return 0;
    server.serve();
  }
}
