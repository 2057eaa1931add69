// The model server of the door's benchmarks: one epoll loop, as cheap as can be, so that what is
// measured is what stands before it.
//
// Usage: bench_door_backend PORT. POST with ?rate=R&chunks=N is answered by N events, R a second,
// each with the CLOCK_MONOTONIC nanoseconds at which it was written; all else by a small answer.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <queue>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

constexpr unsigned kLifetime_s = 900;  // what a killed benchmark leaves ends too
constexpr std::uint64_t kSecond_ns = 1'000'000'000;
constexpr std::size_t kEvent_bytes = 256;  // as one token of a chat has

constexpr std::string_view kSmall =
    R"({"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"bench",)"
    R"("choices":[{"index":0,"message":{"role":"assistant","content":"Hello!"},)"
    R"("finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2}})";

std::uint64_t now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * kSecond_ns +
         static_cast<std::uint64_t>(now.tv_nsec);
}

// The number behind `name` in the text; 0 if it is not there.
std::uint64_t number_of(std::string_view text, std::string_view name) {
  const std::size_t at = text.find(name);
  if (at == std::string_view::npos) return 0;
  return std::strtoull(text.data() + at + name.size(), nullptr, 10);
}

struct Connection {
  int fd = -1;
  std::string in;
  std::uint64_t chunks_left = 0;
  std::uint64_t period_ns = 0;
};

class Server {
 public:
  explicit Server(std::uint16_t port) : epoll_(epoll_create1(EPOLL_CLOEXEC)) {
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    const int on = 1;
    setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
        listen(listener_, 4096) != 0) {
      std::perror("bench_door_backend");
      std::exit(1);
    }
    watch(listener_);
  }

  [[noreturn]] void run() {
    std::vector<epoll_event> events(256);
    for (;;) {
      timespec wait{60, 0};
      if (!due_.empty()) {
        const std::uint64_t now = now_ns();
        const std::uint64_t left = due_.top().at_ns > now ? due_.top().at_ns - now : 0;
        wait = {static_cast<time_t>(left / kSecond_ns), static_cast<long>(left % kSecond_ns)};
      }
      const int count =
          epoll_pwait2(epoll_, events.data(), static_cast<int>(events.size()), &wait, nullptr);
      for (int i = 0; i < count; ++i) {
        const auto serial = events[static_cast<std::size_t>(i)].data.u64;
        if (serial == 0) {
          accept_all();
        } else {
          read_from(serial);
        }
      }
      write_due();
    }
  }

 private:
  struct Due {
    std::uint64_t at_ns;
    std::uint64_t serial;
    bool operator<(const Due& other) const { return at_ns > other.at_ns; }  // the first on top
  };

  void watch(int fd, std::uint64_t serial = 0) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = serial;
    epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
  }

  void accept_all() {
    for (;;) {
      const int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd < 0) return;
      const int on = 1;
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      connections_[++serials_].fd = fd;
      watch(fd, serials_);
    }
  }

  void read_from(std::uint64_t serial) {
    const auto found = connections_.find(serial);
    if (found == connections_.end()) return;
    Connection& connection = found->second;
    char bytes[16384];
    const ssize_t count = read(connection.fd, bytes, sizeof bytes);
    if (count <= 0) {
      close(connection.fd);
      connections_.erase(found);
      return;
    }
    connection.in.append(bytes, static_cast<std::size_t>(count));
    while (take_request(serial, connection)) {
    }
  }

  bool take_request(std::uint64_t serial, Connection& connection) {
    const std::size_t end = connection.in.find("\r\n\r\n");
    if (end == std::string::npos) return false;
    const std::string_view head = std::string_view(connection.in).substr(0, end + 2);
    const std::size_t whole = end + 4 + number_of(head, "\r\nContent-Length: ");
    if (connection.in.size() < whole) return false;
    const std::string_view line = head.substr(0, head.find('\r'));
    if (const std::uint64_t rate = number_of(line, "rate="); rate > 0) {
      connection.period_ns = kSecond_ns / rate;
      connection.chunks_left = number_of(line, "chunks=");
      say(connection,
          "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
          "Transfer-Encoding: chunked\r\n\r\n");
      // Spread over the period, whatever bunch they came in.
      const std::uint64_t phase = connection.period_ns * (serial * 618 % 1000) / 1000;
      due_.push({now_ns() + phase, serial});
    } else {
      say(connection, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " +
                          std::to_string(kSmall.size()) + "\r\n\r\n" + std::string(kSmall));
    }
    connection.in.erase(0, whole);
    return true;
  }

  void write_due() {
    while (!due_.empty() && due_.top().at_ns <= now_ns()) {
      const Due due = due_.top();
      due_.pop();
      const auto found = connections_.find(due.serial);
      if (found == connections_.end()) continue;
      Connection& connection = found->second;
      char event[kEvent_bytes + 16];
      const int length = std::snprintf(event, sizeof event,
                                       "%zx\r\ndata: {\"t\":%020llu,\"choices\":\"%*s\"}\n\n\r\n",
                                       kEvent_bytes, static_cast<unsigned long long>(now_ns()),
                                       static_cast<int>(kEvent_bytes - 47), "");
      say(connection, std::string_view(event, static_cast<std::size_t>(length)));
      if (--connection.chunks_left == 0) {
        say(connection, "0\r\n\r\n");
      } else {
        due_.push({due.at_ns + connection.period_ns, due.serial});
      }
    }
  }

  // What does not fit is lost: nobody here is that slow.
  static void say(const Connection& connection, std::string_view text) {
    static_cast<void>(send(connection.fd, text.data(), text.size(), MSG_NOSIGNAL));
  }

  int epoll_;
  int listener_ = -1;
  std::uint64_t serials_ = 0;
  std::unordered_map<std::uint64_t, Connection> connections_;
  std::priority_queue<Due> due_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  alarm(kLifetime_s);
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  Server(static_cast<std::uint16_t>(std::atoi(argv[1]))).run();
}
