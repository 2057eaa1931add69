// The backend of the benchmarks. Writes "up" to stdout when it is ready for SIGTERM, and the
// CLOCK_MONOTONIC nanoseconds at which SIGTERM came; then it ends at once.
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>

int main() {
  alarm(120);  // what a killed benchmark leaves ends too
  sigset_t term;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  sigprocmask(SIG_BLOCK, &term, nullptr);
  if (write(STDOUT_FILENO, "up\n", 3) != 3) return 1;

  int signal = 0;
  sigwait(&term, &signal);
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  char text[32];
  const long long now_ns = now.tv_sec * 1'000'000'000LL + now.tv_nsec;
  const int length = std::snprintf(text, sizeof text, "%lld\n", now_ns);
  static_cast<void>(!write(STDOUT_FILENO, text, static_cast<std::size_t>(length)));
  _exit(0);
}
