#include "support/fake_server.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "support/daemon.hpp"

namespace modelpool::test {
namespace {

constexpr int kTurn_ms = 5;
constexpr const char* kHead = "HTTP/1.1 200 OK\r\n";

Fd listen_on(const std::string& unix_path, std::string* address) {
  const bool is_unix = !unix_path.empty();
  Fd fd(socket(is_unix ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage place{};
  socklen_t size = sizeof(sockaddr_in);
  if (is_unix) {
    auto* const to = reinterpret_cast<sockaddr_un*>(&place);
    to->sun_family = AF_UNIX;
    std::strncpy(to->sun_path, unix_path.c_str(), sizeof to->sun_path - 1);
    size = sizeof *to;
    *address = "unix:" + unix_path;
  } else {
    const int port = free_port();
    auto* const to = reinterpret_cast<sockaddr_in*>(&place);
    to->sin_family = AF_INET;
    to->sin_port = htons(static_cast<std::uint16_t>(port));
    to->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    *address = "127.0.0.1:" + std::to_string(port);
  }
  if (!fd || bind(fd.get(), reinterpret_cast<const sockaddr*>(&place), size) != 0 ||
      listen(fd.get(), 128) != 0) {
    throw std::runtime_error("unable to listen on " + *address);
  }
  return fd;
}

}  // namespace

FakeServer::FakeServer(Habit habit, const std::string& unix_path)
    : listener_(listen_on(unix_path, &address_)),
      habit_(habit),
      thread_([this](const std::stop_token& stop) { serve(stop); }) {}

FakeServer::~FakeServer() {
  thread_.request_stop();
  thread_.join();
}

void FakeServer::serve(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    pollfd wait{listener_.get(), POLLIN, 0};
    if (poll(&wait, 1, kTurn_ms) > 0) {
      guests_.push_back({Fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)), {}, false});
      asked_.fetch_add(1);
    }
    guests_.remove_if([this](Guest& guest) { return !go_on(&guest); });
  }
}

bool FakeServer::say(const Guest& guest, const std::string& text) {
  const ssize_t sent =
      send(guest.socket.get(), text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent > 0) sent_bytes_.fetch_add(static_cast<std::size_t>(sent));
  return sent > 0 || errno == EAGAIN;
}

bool FakeServer::go_on(Guest* guest) {
  std::array<char, 1024> buffer;
  const ssize_t got = recv(guest->socket.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (got == 0) return false;
  if (got > 0) guest->request.append(buffer.data(), static_cast<std::size_t>(got));
  if (guest->request.find("\r\n\r\n") == std::string::npos) return true;
  const bool is_first = !guest->is_answered;
  guest->is_answered = true;
  switch (habit_.load()) {
    case Habit::kWell:
      if (is_first) say(*guest, std::string(kHead) + "Content-Length: 2\r\n\r\nok");
      return false;
    case Habit::kRedirects:
      if (is_first) say(*guest, "HTTP/1.0 302 Found\r\nLocation: /elsewhere\r\n\r\n");
      return false;
    case Habit::kUnwell:
      if (is_first) say(*guest, "HTTP/1.1 503 Service Unavailable\r\n\r\n");
      return false;
    case Habit::kHangsUp:
      return false;
    case Habit::kGarbage:
      if (is_first) say(*guest, "SSH-2.0-\x01\x02\r\n");
      return false;
    case Habit::kSilent:
      return true;
    case Habit::kDrips:
      return say(*guest, is_first ? kHead : "x");
    case Habit::kEndlessHeaders:
      return say(*guest, (is_first ? kHead : "") + std::string("X-More: ") +
                             std::string(4096, 'x') + "\r\n");
    case Habit::kEndlessBody:
      return say(*guest, (is_first ? kHead + std::string("\r\n") : "") + std::string(4096, 'x'));
    case Habit::kLongLine:
      return say(*guest, (is_first ? "HTTP/1.1 200 " : "") + std::string(4096, 'x'));
  }
  return false;
}

std::string nobodys_address() { return "127.0.0.1:" + std::to_string(free_port()); }

}  // namespace modelpool::test
