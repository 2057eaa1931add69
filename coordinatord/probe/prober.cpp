#include "probe/prober.hpp"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#include "base/duration.hpp"
#include "base/text.hpp"
#include "base/time.hpp"

namespace modelpool::coordinator {
namespace {

// A Unix socket says at once that its queue is full, and not when it is no longer.
constexpr std::uint64_t kQueuedRetry_ns = 10 * kMillisecond_ns;
constexpr std::size_t kShown_bytes = 40;
constexpr std::string_view kProtocol = "HTTP/1.";

// What speaks against this host and not against the server.
bool is_own_lack(int error) {
  switch (error) {
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOBUFS:
    case EADDRNOTAVAIL:
    case EAFNOSUPPORT:
    case EACCES:
    case EPERM:
      return true;
    default:
      return false;
  }
}

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

SocketAddress unix_address(const std::string& path) {
  SocketAddress address;
  auto* const to = reinterpret_cast<sockaddr_un*>(&address.storage);
  to->sun_family = AF_UNIX;
  std::memcpy(to->sun_path, path.data(), std::min(path.size(), sizeof to->sun_path - 1));
  address.size = sizeof *to;
  if (path.front() == '@') {
    to->sun_path[0] = '\0';
    address.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
  }
  return address;
}

SocketAddress ip_address(const Ip& ip, int port) {
  SocketAddress address;
  const auto in_order = htons(static_cast<std::uint16_t>(port));
  if (is_v4(ip)) {
    auto* const to = reinterpret_cast<sockaddr_in*>(&address.storage);
    to->sin_family = AF_INET;
    to->sin_port = in_order;
    to->sin_addr.s_addr = ip[3];
    address.size = sizeof *to;
  } else {
    auto* const to = reinterpret_cast<sockaddr_in6*>(&address.storage);
    to->sin6_family = AF_INET6;
    to->sin6_port = in_order;
    std::memcpy(&to->sin6_addr, ip.data(), sizeof to->sin6_addr);
    address.size = sizeof *to;
  }
  return address;
}

std::string request_of(const ProbeTarget& target) {
  return "GET " + target.path + " HTTP/1.1\r\nHost: " + target.host +
         "\r\nUser-Agent: modelpool-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n";
}

std::string shown(std::string_view text) {
  return escape(text.substr(0, std::min(kShown_bytes, text.find_first_of("\r\n"))));
}

// Does the head end in what was read? A server may leave the carriage returns out.
bool is_complete(std::string_view head) {
  return head.find("\r\n\r\n") != std::string_view::npos ||
         head.find("\n\n") != std::string_view::npos;
}

// "HTTP/1.1 200 OK": 200; 0 for what is no status line.
int status_of(std::string_view head) {
  if (!head.starts_with(kProtocol) || head.size() < kProtocol.size() + 5) return 0;
  const std::string_view rest = head.substr(kProtocol.size() + 1, 5);
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  const bool is_status = rest[0] == ' ' && is_digit(rest[1]) && is_digit(rest[2]) &&
                         is_digit(rest[3]) && !is_digit(rest[4]);
  return is_status ? (rest[1] - '0') * 100 + (rest[2] - '0') * 10 + (rest[3] - '0') : 0;
}

}  // namespace

void Prober::ask(const ProbeQuestion& question, std::uint64_t now_ns) {
  Attempt& attempt = attempts_.emplace_back();
  attempt.number = question.number;
  attempt.timeout_ns = question.timeout_ms * kMillisecond_ns;
  attempt.until_ns = add_ns(now_ns, attempt.timeout_ns);
  auto target = probe_target(question.address, question.probe);
  if (!target) return answer(attempt, ProbeOutcome::kUnknown, target.error().text);
  attempt.target = std::move(*target);
  connect(attempt);
}

std::vector<pollfd> Prober::waits() const {
  std::vector<pollfd> waits;
  for (const Attempt& attempt : attempts_) {
    using Stage = Attempt::Stage;
    if (attempt.is_over || attempt.stage == Stage::kQueued) continue;
    const bool is_reading = attempt.stage == Stage::kReading || attempt.stage == Stage::kDraining;
    waits.push_back({attempt.socket.get(), static_cast<short>(is_reading ? POLLIN : POLLOUT), 0});
  }
  return waits;
}

std::uint64_t Prober::wake_ns(std::uint64_t now_ns) const {
  std::uint64_t wake = kNever_ns;
  for (const Attempt& attempt : attempts_) {
    if (attempt.is_over) return now_ns;
    wake = std::min(wake, attempt.until_ns);
    if (attempt.stage == Attempt::Stage::kQueued)
      wake = std::min(wake, add_ns(now_ns, kQueuedRetry_ns));
  }
  return wake;
}

void Prober::go_on(std::uint64_t now_ns) {
  for (Attempt& attempt : attempts_) {
    if (!attempt.is_over) step(attempt);
    if (attempt.is_over || now_ns < attempt.until_ns) continue;
    if (attempt.stage == Attempt::Stage::kDraining) {
      attempt.is_over = true;
    } else {
      answer(attempt, ProbeOutcome::kFailed,
             "no answer within " + format_duration(attempt.timeout_ns));
    }
  }
  attempts_.remove_if([](const Attempt& attempt) { return attempt.is_over; });
}

void Prober::connect(Attempt& attempt) {
  const ProbeTarget& target = attempt.target;
  const SocketAddress to = !target.unix_path.empty()
                               ? unix_address(target.unix_path)
                               : ip_address(target.numbers[attempt.next], target.port);
  if (!attempt.socket) {
    attempt.socket =
        Fd(socket(to.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!attempt.socket) return fail_with(attempt, errno);
  }
  const int result =
      retry_eintr([&] { return ::connect(attempt.socket.get(), to.get(), to.size); });
  if (result == 0) return connected(attempt);
  if (errno == EAGAIN) {
    attempt.stage = Attempt::Stage::kQueued;
  } else if (errno == EINPROGRESS) {
    attempt.stage = Attempt::Stage::kConnecting;
  } else {
    next_number(attempt, errno);
  }
}

// "localhost" has two: a server may listen on either.
void Prober::next_number(Attempt& attempt, int error) {
  if (attempt.next + 1 >= attempt.target.numbers.size()) return fail_with(attempt, error);
  ++attempt.next;
  attempt.socket.reset();
  connect(attempt);
}

void Prober::connected(Attempt& attempt) {
  if (attempt.target.path.empty()) {
    answer(attempt, ProbeOutcome::kWell);
    return;
  }
  attempt.unsent = request_of(attempt.target);
  attempt.stage = Attempt::Stage::kSending;
  send(attempt);
}

void Prober::step(Attempt& attempt) {
  switch (attempt.stage) {
    case Attempt::Stage::kQueued:
      return connect(attempt);
    case Attempt::Stage::kConnecting: {
      int error = 0;
      socklen_t size = sizeof error;
      getsockopt(attempt.socket.get(), SOL_SOCKET, SO_ERROR, &error, &size);
      if (error != 0) return next_number(attempt, error);
      sockaddr_storage peer{};
      socklen_t peer_size = sizeof peer;
      const bool is_connected =
          getpeername(attempt.socket.get(), reinterpret_cast<sockaddr*>(&peer), &peer_size) == 0;
      if (is_connected) connected(attempt);
      return;
    }
    case Attempt::Stage::kSending:
      return send(attempt);
    case Attempt::Stage::kReading:
      return receive(attempt);
    case Attempt::Stage::kDraining:
      return drain(attempt);
  }
}

void Prober::send(Attempt& attempt) {
  while (!attempt.unsent.empty()) {
    const ssize_t sent = retry_eintr([&] {
      return ::send(attempt.socket.get(), attempt.unsent.data(), attempt.unsent.size(),
                    MSG_NOSIGNAL);
    });
    if (sent < 0 && errno == EAGAIN) return;
    if (sent < 0) return fail_with(attempt, errno);
    attempt.unsent.erase(0, static_cast<std::size_t>(sent));
  }
  attempt.stage = Attempt::Stage::kReading;
}

void Prober::receive(Attempt& attempt) {
  std::array<char, 2048> buffer;
  while (attempt.stage == Attempt::Stage::kReading && !attempt.is_over) {
    const std::size_t room = std::min(buffer.size(), kReadMax_bytes - attempt.read_bytes);
    const ssize_t got =
        retry_eintr([&] { return recv(attempt.socket.get(), buffer.data(), room, 0); });
    if (got < 0 && errno == EAGAIN) return;
    if (got < 0) return fail_with(attempt, errno);
    if (got == 0) {
      return answer(attempt, ProbeOutcome::kFailed,
                    attempt.head.empty() ? "it closed the connection without an answer"
                                         : "it closed the connection within its answer");
    }
    attempt.read_bytes += static_cast<std::size_t>(got);
    attempt.head.append(buffer.data(), static_cast<std::size_t>(got));
    judge_head(attempt);
  }
}

void Prober::judge_head(Attempt& attempt) {
  const std::string_view head = attempt.head;
  const std::size_t begin = std::min(head.size(), kProtocol.size());
  if (head.substr(0, begin) != kProtocol.substr(0, begin))
    return answer(attempt, ProbeOutcome::kFailed, "its answer is no HTTP: " + shown(head));
  if (!is_complete(head)) {
    if (attempt.read_bytes < kReadMax_bytes) return;
    return answer(attempt, ProbeOutcome::kFailed,
                  "its headers do not end within " + std::to_string(kReadMax_bytes) + " bytes");
  }
  const int status = status_of(head);
  if (status >= 200 && status < 400) {
    answer(attempt, ProbeOutcome::kWell);
  } else {
    answer(attempt, ProbeOutcome::kFailed, "it answers " + shown(head));
  }
  attempt.is_over = false;
  attempt.stage = Attempt::Stage::kDraining;
  drain(attempt);
}

void Prober::drain(Attempt& attempt) {
  std::array<char, 2048> buffer;
  while (attempt.read_bytes < kReadMax_bytes) {
    const std::size_t room = std::min(buffer.size(), kReadMax_bytes - attempt.read_bytes);
    const ssize_t got =
        retry_eintr([&] { return recv(attempt.socket.get(), buffer.data(), room, 0); });
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) break;
    attempt.read_bytes += static_cast<std::size_t>(got);
  }
  attempt.is_over = true;
}

void Prober::fail_with(Attempt& attempt, int error) {
  answer(attempt, is_own_lack(error) ? ProbeOutcome::kUnknown : ProbeOutcome::kFailed,
         std::strerror(error));
}

void Prober::answer(Attempt& attempt, ProbeOutcome outcome, const std::string& text) {
  answers_.push_back({attempt.number, outcome, text});
  attempt.is_over = true;
}

}  // namespace modelpool::coordinator
