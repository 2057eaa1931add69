#include "answer.hpp"

#include <arpa/inet.h>
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
#include <memory>
#include <thread>

#include "base/duration.hpp"
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
constexpr std::uint64_t kOvertimeLook_ns = 100 * kMillisecond_ns;

enum class Woken { kTime, kEvent, kExited, kSignal, kOver };

// Sleeps until the time, or until the event (may be -1), the process or a signal has something, or
// the question's time is over.
Woken sleep_until(std::uint64_t until_ns, int event, const Question& question) {
  for (;;) {
    const std::uint64_t now = now_ns();
    const bool overtime = now >= question.until_ns;
    if (overtime && !question.may_go_on()) return Woken::kOver;
    if (now >= until_ns) return Woken::kTime;
    std::uint64_t look_ns = overtime ? now + kOvertimeLook_ns : question.until_ns;
    if (question.progress) {
      question.progress();
      look_ns = std::min(look_ns, now + kProgressEvery_ns);
    }
    const std::uint64_t left = std::min(until_ns, look_ns) - now;
    const timespec wait{static_cast<time_t>(left / kSecond_ns),
                        static_cast<long>(left % kSecond_ns)};
    pollfd watched[] = {
        {event, POLLIN, 0}, {question.process.fd(), POLLIN, 0}, {question.inbox.fd(), POLLIN, 0}};
    const int ready = ppoll(watched, 3, &wait, nullptr);
    if (ready < 0 && errno != EINTR) return Woken::kOver;
    if (ready <= 0) continue;
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

std::string host_header(const Address& place) {
  if (!place.unix_path.empty()) return "localhost";  // the client would name its path
  const bool is_v6 = place.host.find(':') != std::string::npos;
  return (is_v6 ? "[" + place.host + "]" : place.host) + ":" + std::to_string(place.port);
}

// One GET on a thread of its own, of each place in turn until one answers; done() is readable at
// its end.
class Request {
 public:
  Request(const Endpoint& endpoint, const std::string& path) : done_(eventfd(0, EFD_CLOEXEC)) {
    for (const Address& place : endpoint) {
      const bool is_unix = !place.unix_path.empty();
      auto client = std::make_unique<httplib::Client>(is_unix ? place.unix_path : place.host,
                                                      is_unix ? 80 : place.port);
      if (is_unix) client->set_address_family(AF_UNIX);
      client->set_connection_timeout(std::chrono::milliseconds(kConnectMax_ms));
      client->set_read_timeout(kRequestMax);
      clients_.push_back(std::move(client));
    }
    thread_ = std::thread([this, path, endpoint] {
      for (std::size_t i = 0; i < clients_.size() && !ends_.load(); ++i) {
        const auto response = clients_[i]->Get(path, {{"Host", host_header(endpoint[i])}});
        if (!response) continue;
        yes_ = response->status >= 200 && response->status < 300;
        break;
      }
      eventfd_write(done_.get(), 1);
    });
  }
  ~Request() {
    ends_ = true;
    // Stopping ends only a request that is under way, and this one may be about to begin.
    pollfd ended{done_.get(), POLLIN, 0};
    do {
      for (const auto& client : clients_) client->stop();
    } while (poll(&ended, 1, kStopAgain_ms) <= 0);
    thread_.join();
  }
  int done() const { return done_.get(); }
  bool said_yes() const { return yes_.load(std::memory_order_acquire); }

 private:
  std::vector<std::unique_ptr<httplib::Client>> clients_;
  Fd done_;
  std::atomic<bool> yes_{false};
  std::atomic<bool> ends_{false};
  std::thread thread_;
};

bool can_connect(const Address& place) {
  if (!place.unix_path.empty()) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    place.unix_path.copy(address.sun_path, sizeof address.sun_path - 1);
    return can_connect(reinterpret_cast<const sockaddr*>(&address), sizeof address);
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (getaddrinfo(place.host.c_str(), std::to_string(place.port).c_str(), &hints, &found) != 0) {
    return false;
  }
  const bool connected = can_connect(found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
  return connected;
}

// Which process listens there: another one if that is so at one of the places, else the backend if
// it is at one of them.
Listener who_listens(const Question& question) {
  Listener found;
  for (const Address& place : question.endpoint) {
    Listener here = find_listener(place, question.backend);
    if (here.by == ListenedBy::kAnother) return here;
    if (here.by == ListenedBy::kBackend || found.why.empty()) found = std::move(here);
  }
  return found;
}

// A yes from a process that has ended was somebody else's, and so is one from a listener that is
// provably none of the backend's.
bool counts(const Question& question, Listener* listener) {
  *listener = who_listens(question);
  if (question.process.liveness() == Liveness::kDead) return false;
  return question.any_listener || listener->by != ListenedBy::kAnother;
}

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

Result<Endpoint> resolve(std::string_view address) {
  auto parsed = parse_address(address);
  if (!parsed) {
    return fail(Errc::kInvalid, parsed.error().text + ", or use --ready delay:DURATION");
  }
  if (!parsed->unix_path.empty()) return Endpoint{*parsed};
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(parsed->host.c_str(), nullptr, &hints, &found); error != 0) {
    return fail(Errc::kInvalid, "unable to connect to \"" + escape(address) +
                                    "\": " + gai_strerror(error) + "; write the host as a number");
  }
  Endpoint endpoint;
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    char number[NI_MAXHOST];
    if (getnameinfo(one->ai_addr, one->ai_addrlen, number, sizeof number, nullptr, 0,
                    NI_NUMERICHOST) != 0) {
      continue;
    }
    endpoint.push_back(*parsed);
    endpoint.back().host = number;
  }
  freeaddrinfo(found);
  if (endpoint.empty()) endpoint.push_back(*parsed);
  return endpoint;
}

bool is_listening(const Endpoint& endpoint) {
  return std::any_of(endpoint.begin(), endpoint.end(),
                     [](const Address& place) { return can_connect(place); });
}

Answer wait_for_answer(const Question& question, Listener* listener) {
  const auto ended = [](Woken woken) {
    return woken == Woken::kExited   ? Answer::kExited
           : woken == Woken::kSignal ? Answer::kSignal
                                     : Answer::kTimedOut;
  };
  const ReadyCheck& check = question.check;
  if (check.kind == ReadyCheck::Kind::kDelay) {
    const Woken woken = sleep_until(add_ns(now_ns(), check.delay_ns), -1, question);
    return woken == Woken::kTime ? Answer::kYes : ended(woken);
  }
  for (std::uint64_t pause = kPauseFirst_ns;; pause = std::min(2 * pause, kPauseMax_ns)) {
    bool yes = false;
    if (check.kind == ReadyCheck::Kind::kTcp) {
      yes = is_listening(question.endpoint);
    } else {
      const Request request(question.endpoint, check.path);
      const Woken woken = sleep_until(kNever_ns, request.done(), question);
      if (woken != Woken::kEvent) return ended(woken);
      yes = request.said_yes();
    }
    if (yes && counts(question, listener)) return Answer::kYes;
    const Woken woken = sleep_until(now_ns() + pause, -1, question);
    if (woken != Woken::kTime) return ended(woken);
  }
}

}  // namespace modelpool::poolctl
