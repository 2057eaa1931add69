#include "answer.hpp"

#include <httplib.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/text.hpp"
#include "base/time.hpp"

namespace modelpool::poolctl {
namespace {

constexpr std::uint64_t kPauseFirst_ns = 10 * kMillisecond_ns;
constexpr std::uint64_t kPauseMax_ns = 200 * kMillisecond_ns;
// One request may take this long: a server that is loading may accept and answer late.
constexpr std::chrono::seconds kRequestMax{10};
constexpr int kConnectMax_ms = 100;  // a server on this host accepts at once, or not yet
constexpr int kStopAgain_ms = 5;

enum class Woken { kTime, kEvent, kExited, kSignal };

// Sleeps until the time, or until the event (may be -1), the process or a signal has something.
Woken sleep_until(std::uint64_t until_ns, int event, const ProcessHandle& process,
                  const SignalInbox& inbox) {
  for (;;) {
    const std::uint64_t left = age_ns(until_ns, now_ns());
    const timespec wait{static_cast<time_t>(left / kSecond_ns),
                        static_cast<long>(left % kSecond_ns)};
    pollfd watched[] = {{event, POLLIN, 0}, {process.fd(), POLLIN, 0}, {inbox.fd(), POLLIN, 0}};
    const int ready = ppoll(watched, 3, &wait, nullptr);
    if (ready < 0 && errno != EINTR) return Woken::kTime;
    if (ready <= 0) {
      if (now_ns() >= until_ns) return Woken::kTime;
      continue;
    }
    if (watched[2].revents != 0) return Woken::kSignal;
    if (watched[1].revents != 0) return Woken::kExited;
    return Woken::kEvent;
  }
}

// A connection to a free port of this host may get that very port as its own and meet itself.
bool meets_itself(int fd) {
  sockaddr_storage own{};
  sockaddr_storage peer{};
  socklen_t own_length = sizeof own;
  socklen_t peer_length = sizeof peer;
  return getsockname(fd, reinterpret_cast<sockaddr*>(&own), &own_length) == 0 &&
         getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &peer_length) == 0 &&
         own.ss_family != AF_UNIX && own_length == peer_length &&
         std::memcmp(&own, &peer, own_length) == 0;
}

bool can_connect(const sockaddr* address, socklen_t length) {
  const Fd fd(socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return false;
  if (connect(fd.get(), address, length) != 0) {
    pollfd connected{fd.get(), POLLOUT, 0};
    int error = 0;
    socklen_t size = sizeof error;
    if (errno != EINPROGRESS || poll(&connected, 1, kConnectMax_ms) <= 0 ||
        getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0 || error != 0) {
      return false;
    }
  }
  return !meets_itself(fd.get());
}

// One GET on a thread of its own; done() is readable at its end.
class Request {
 public:
  Request(const Endpoint& endpoint, const std::string& path)
      : client_(endpoint.unix_path.empty() ? endpoint.host : endpoint.unix_path,
                endpoint.unix_path.empty() ? endpoint.port : 80),
        done_(eventfd(0, EFD_CLOEXEC)) {
    if (!endpoint.unix_path.empty()) client_.set_address_family(AF_UNIX);
    client_.set_connection_timeout(std::chrono::milliseconds(kConnectMax_ms));
    client_.set_read_timeout(kRequestMax);
    thread_ = std::thread([this, path, is_unix = !endpoint.unix_path.empty()] {
      // On a Unix socket the client would name its path as the host.
      const auto response =
          client_.Get(path, is_unix ? httplib::Headers{{"Host", "localhost"}} : httplib::Headers{});
      yes_ = response && response->status >= 200 && response->status < 300;
      eventfd_write(done_.get(), 1);
    });
  }
  ~Request() {
    // Stopping ends only a request that is under way, and this one may be about to begin.
    pollfd ended{done_.get(), POLLIN, 0};
    do {
      client_.stop();
    } while (poll(&ended, 1, kStopAgain_ms) <= 0);
    thread_.join();
  }
  int done() const { return done_.get(); }
  bool said_yes() const { return yes_.load(std::memory_order_acquire); }

 private:
  httplib::Client client_;
  Fd done_;
  std::atomic<bool> yes_{false};
  std::thread thread_;
};

}  // namespace

Result<ReadyCheck> parse_ready_check(std::string_view text) {
  ReadyCheck check;
  if (text == "tcp") return check;
  if (text.starts_with("http:/")) {
    check.kind = ReadyCheck::Kind::kHttp;
    check.path = text.substr(std::strlen("http:"));
    if (check.path.starts_with("//") || check.path.find_first_of(" \t\r\n") != std::string::npos) {
      return fail(Errc::kInvalid,
                  "unable to ask \"" + escape(text) +
                      "\": give the path only, as in http:/health; --address says where");
    }
    return check;
  }
  if (text.starts_with("delay:")) {
    const auto delay = parse_duration(text.substr(std::strlen("delay:")));
    if (!delay) return fail(delay.error());
    check.kind = ReadyCheck::Kind::kDelay;
    check.delay_ns = *delay;
    return check;
  }
  return fail(Errc::kInvalid, "unable to see readiness by \"" + escape(text) +
                                  "\": write tcp, http:/path or delay:DURATION");
}

Result<Endpoint> parse_endpoint(std::string_view address) {
  std::string_view rest = address;
  Endpoint endpoint;
  const auto unusable = [&](const std::string& why) {
    return fail(Errc::kInvalid,
                "unable to connect to \"" + escape(address) + "\": " + why +
                    "; write host:port or unix:/path, or use --ready delay:DURATION");
  };
  if (rest.starts_with("unix:")) {
    endpoint.unix_path = rest.substr(std::strlen("unix:"));
    if (endpoint.unix_path.empty()) return unusable("the path is missing");
    if (endpoint.unix_path.size() >= sizeof(sockaddr_un::sun_path)) {
      return unusable("the path is longer than " +
                      std::to_string(sizeof(sockaddr_un::sun_path) - 1) + " bytes");
    }
    return endpoint;
  }
  if (rest.starts_with("http://")) {
    rest.remove_prefix(std::strlen("http://"));
    rest = rest.substr(0, rest.find('/'));
  }
  const std::size_t colon = rest.rfind(':');
  if (colon == std::string_view::npos) return unusable("the port is missing");
  const auto port = parse_count(rest.substr(colon + 1), 65535);
  if (!port || *port == 0) return unusable("the port is not a number from 1 to 65535");
  std::string_view host = rest.substr(0, colon);
  if (host.starts_with("[") && host.ends_with("]")) host = host.substr(1, host.size() - 2);
  if (host.empty()) return unusable("the host is missing");
  endpoint.host = host;
  endpoint.port = static_cast<int>(*port);
  return endpoint;
}

bool is_listening(const Endpoint& endpoint) {
  if (!endpoint.unix_path.empty()) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    endpoint.unix_path.copy(address.sun_path, sizeof address.sun_path - 1);
    return can_connect(reinterpret_cast<const sockaddr*>(&address), sizeof address);
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(endpoint.host.c_str(), std::to_string(endpoint.port).c_str(), &hints, &found) !=
      0)
    return false;
  bool listening = false;
  for (const addrinfo* one = found; one != nullptr && !listening; one = one->ai_next) {
    listening = can_connect(one->ai_addr, one->ai_addrlen);
  }
  freeaddrinfo(found);
  return listening;
}

Answer wait_for_answer(const ReadyCheck& check, const Endpoint& endpoint,
                       const ProcessHandle& process, const SignalInbox& inbox,
                       std::uint64_t until_ns) {
  const auto ended = [](Woken woken) {
    return woken == Woken::kExited   ? Answer::kExited
           : woken == Woken::kSignal ? Answer::kSignal
                                     : Answer::kTimedOut;
  };
  if (check.kind == ReadyCheck::Kind::kDelay) {
    const std::uint64_t after = add_ns(now_ns(), check.delay_ns);
    const Woken woken = sleep_until(std::min(after, until_ns), -1, process, inbox);
    return woken == Woken::kTime && after <= until_ns ? Answer::kYes : ended(woken);
  }
  for (std::uint64_t pause = kPauseFirst_ns;; pause = std::min(2 * pause, kPauseMax_ns)) {
    bool yes = false;
    if (check.kind == ReadyCheck::Kind::kTcp) {
      yes = is_listening(endpoint);
    } else {
      const Request request(endpoint, check.path);
      const Woken woken = sleep_until(until_ns, request.done(), process, inbox);
      if (woken != Woken::kEvent) return ended(woken);
      yes = request.said_yes();
    }
    // A yes from a process that has ended was somebody else's.
    if (yes && process.liveness() != Liveness::kDead) return Answer::kYes;
    const std::uint64_t now = now_ns();
    const Woken woken = sleep_until(std::min(now + pause, until_ns), -1, process, inbox);
    if (woken != Woken::kTime || now_ns() >= until_ns) return ended(woken);
  }
}

int pick_port() {
  const Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  if (!fd || bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0 ||
      getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return 0;
  }
  return ntohs(address.sin_port);
}

}  // namespace modelpool::poolctl
