#include "stream.hpp"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "base/time.hpp"

namespace modelpool::poolctl {
namespace {

// A signal comes either before the wait, which then does not begin, or during it, and ends the
// program: there is no instant in which it is lost.
volatile sig_atomic_t g_waiting = 0;
volatile sig_atomic_t g_asked_to_end = 0;

void on_end_signal(int) {
  if (g_waiting != 0) _exit(kDone);
  g_asked_to_end = 1;
}

}  // namespace

Stream::Stream() {
  struct sigaction action {};
  action.sa_handler = on_end_signal;  // without SA_RESTART: a write to a stuck reader is given up
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, nullptr);
}

bool Stream::print(std::string_view text) {
  while (!text.empty()) {
    if (g_asked_to_end != 0) return false;
    const ssize_t wrote = write(STDOUT_FILENO, text.data(), text.size());
    if (wrote >= 0) {
      text.remove_prefix(static_cast<std::size_t>(wrote));
    } else if (errno == EAGAIN) {
      pollfd writable{STDOUT_FILENO, POLLOUT, 0};
      poll(&writable, 1, -1);
    } else if (errno != EINTR) {
      if (errno != EPIPE) exit_code_ = report(fail_errno(errno, "write the output").value());
      return false;
    }
  }
  return g_asked_to_end == 0;
}

bool Stream::has_reader() const {
  pollfd out{STDOUT_FILENO, 0, 0};
  return poll(&out, 1, 0) <= 0 || (out.revents & (POLLERR | POLLHUP)) == 0;
}

void Stream::wait(const Segment& segment, std::uint32_t seen_bell, std::uint64_t until_ns) {
  g_waiting = 1;
  if (g_asked_to_end != 0) _exit(exit_code_);
  futex_wait(segment.coordinator().event_bell, seen_bell, until_ns);
  g_waiting = 0;
}

bool Stream::wait_readable(int fd, std::uint64_t at_most_ns) {
  g_waiting = 1;
  if (g_asked_to_end != 0) _exit(exit_code_);
  pollfd readable{fd, POLLIN, 0};
  const int found = poll(&readable, 1, static_cast<int>(at_most_ns / kMillisecond_ns));
  g_waiting = 0;
  return found > 0;
}

}  // namespace modelpool::poolctl
