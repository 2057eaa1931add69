// modelpool-probe: asks backends whether they are well, for the coordinator that starts it. It is a
// program of its own so that coordinatord opens no connection.
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/program.hpp"
#include "base/time.hpp"
#include "probe/prober.hpp"

namespace {

using namespace modelpool;               // NOLINT: the program's own names
using namespace modelpool::coordinator;  // NOLINT

constexpr int kExitDone = 0;
constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
constexpr int kCoordinator = STDIN_FILENO;

constexpr const char* kHelp =
    "Usage: modelpool-probe\n"
    "\n"
    "Asks the backends of a modelpool at their addresses whether they are well, as the settings\n"
    "probe, probe_interval and probe_timeout say. coordinatord starts it when a model has a "
    "probe,\n"
    "and ends and replaces it when it is silent. It is of no use by hand.\n"
    "\n"
    "Stdin is a socket of type SOCK_SEQPACKET. A message is a question: lines with its number, "
    "its\n"
    "timeout in milliseconds, the probe (GET /PATH or tcp) and the address (host:port or\n"
    "unix:/path). Each is answered by a message with its number, one of well, failed and unknown,\n"
    "and why. A host is a number or localhost; no resolver is asked.\n"
    "\n"
    "Well is an HTTP head that is complete and says 200 to 399; with tcp, a connection. At most 8\n"
    "KiB are read, and nothing is waited for longer than its timeout.\n"
    "\n"
    "Options:\n"
    "  --help                        Print this and exit\n"
    "  --version                     Print the version and exit\n"
    "\n"
    "Exit codes: 0 the coordinator has gone, 1 stdin does not answer, 2 wrong usage.\n";

bool is_packet_socket(int fd) {
  int type = 0;
  socklen_t size = sizeof type;
  return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET;
}

int milliseconds_until(std::uint64_t at_ns, std::uint64_t now) {
  if (at_ns == kNever_ns) return -1;
  constexpr std::uint64_t kMost_ms = 60'000;
  return static_cast<int>(
      std::min(kMost_ms, (age_ns(at_ns, now) + kMillisecond_ns - 1) / kMillisecond_ns));
}

// Everything that was asked. False: the coordinator has gone.
bool take_questions(Prober* prober) {
  std::array<char, kMessageMax_bytes> buffer;
  for (;;) {
    const ssize_t got =
        retry_eintr([&] { return recv(kCoordinator, buffer.data(), buffer.size(), MSG_DONTWAIT); });
    if (got < 0) return errno == EAGAIN;
    if (got == 0) return false;
    const auto question =
        parse_question(std::string_view(buffer.data(), static_cast<std::size_t>(got)));
    if (question) prober->ask(*question, now_ns());
  }
}

int serve() {
  Prober prober;
  for (;;) {
    std::vector<pollfd> waits = prober.waits();
    waits.push_back({kCoordinator, POLLIN, 0});
    const std::uint64_t now = now_ns();
    if (poll(waits.data(), waits.size(), milliseconds_until(prober.wake_ns(now), now)) < 0 &&
        errno != EINTR && errno != ENOMEM) {
      return kExitFailed;
    }
    // The time of before: what came while this process stood still is heard first.
    prober.go_on(now);
    if (!take_questions(&prober)) return kExitDone;
    for (const ProbeAnswer& answer : prober.take_answers()) {
      const std::string message = format_answer(answer);
      if (retry_eintr([&] {
            return send(kCoordinator, message.data(), message.size(), MSG_NOSIGNAL);
          }) < 0) {
        return errno == EPIPE || errno == ECONNRESET ? kExitDone : kExitFailed;
      }
    }
  }
}

int run(int argc, char** argv) {
  const std::string_view asked = argc == 2 ? argv[1] : "";
  if (asked == "--help") {
    std::fputs(kHelp, stdout);
    return kExitDone;
  }
  if (asked == "--version") {
    std::puts("modelpool-probe " MODELPOOL_VERSION);
    return kExitDone;
  }
  if (argc != 1 || !is_packet_socket(kCoordinator)) {
    std::fputs("modelpool-probe: unable to start: coordinatord starts it; see --help\n", stderr);
    return kExitUsage;
  }
  // Also where it is stopped, it goes with the coordinator.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  return serve();
}

}  // namespace

int main(int argc, char** argv) {
  return run_program("modelpool-probe", {kExitFailed, kExitFailed},
                     [&] { return run(argc, argv); });
}
