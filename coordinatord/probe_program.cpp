#include "probe_program.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cerrno>

#include "libexec.hpp"

namespace modelpool::coordinator {
namespace {

constexpr int kEndsWithin_ms = 50;

}  // namespace

Result<> ProbeProgram::start() {
  auto program = HelperProgram::start(find_own_program(name_), SOCK_SEQPACKET, false);
  if (!program) return fail(program.error());
  program_ = std::move(*program);
  return {};
}

bool ProbeProgram::send(std::string_view message) {
  return is_running() && retry_eintr([&] {
                           return ::send(program_.socket.get(), message.data(), message.size(),
                                         MSG_NOSIGNAL | MSG_DONTWAIT);
                         }) == static_cast<ssize_t>(message.size());
}

std::optional<std::string> ProbeProgram::receive(std::size_t max_bytes) {
  if (!is_running()) return std::nullopt;
  std::string message(max_bytes, '\0');
  const ssize_t got =
      retry_eintr([&] { return recv(program_.socket.get(), message.data(), message.size(), 0); });
  if (got < 0 && errno == EAGAIN) return std::nullopt;
  if (got <= 0) {
    end();
    return std::nullopt;
  }
  message.resize(static_cast<std::size_t>(got));
  return message;
}

void ProbeProgram::end() {
  if (!is_running()) return;
  program_.socket.reset();
  static_cast<void>(program_.process.signal(SIGKILL));
  // It may have been reaped already, and one that the kernel holds fast is reaped when it ends.
  pollfd ended{program_.process.fd(), POLLIN, 0};
  poll(&ended, 1, kEndsWithin_ms);
  siginfo_t info{};
  waitid(P_PIDFD, static_cast<id_t>(program_.process.fd()), &info, WEXITED | WNOHANG);
  program_.process = ProcessHandle();
}

}  // namespace modelpool::coordinator
