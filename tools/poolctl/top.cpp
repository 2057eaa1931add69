// poolctl top: the pool on the whole terminal, drawn again and again, until q.
//
// Safety: one thread. All signals that end or stop it are taken from a descriptor, between frames.
//
// Crash: SIGKILL leaves the terminal as it is; every other end gives it back (reset(1) does, too).
//
// Errors: those of looking, after the terminal was given back.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <tuple>

#include "base/proc.hpp"
#include "base/time.hpp"
#include "tables.hpp"

namespace modelpool::poolctl {
namespace {

constexpr const char* kEnter = "\x1b[?1049h\x1b[?25l\x1b[2J";  // the other screen, no cursor
constexpr const char* kLeave = "\x1b[?25h\x1b[?1049l";

// The terminal while frames are shown: the other screen, keys without a line end and unseen. It is
// touched in the foreground only, where nobody is stopped for it.
class Screen {
 public:
  Screen()
      // A description of our own: nonblocking is then not the shell's as well.
      : out_(open(own_proc_path("fd/1").c_str(), O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC)) {
    sigset_t taken;
    sigemptyset(&taken);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH}) {
      sigaddset(&taken, signal);
    }
    sigprocmask(SIG_BLOCK, &taken, nullptr);
    signals_ = Fd(signalfd(-1, &taken, SFD_NONBLOCK | SFD_CLOEXEC));
  }
  ~Screen() { leave(); }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  bool is_usable() const { return out_ && signals_; }

  // False: the terminal is gone, or it was asked to end.
  bool show(const std::string& frame) { return !enter() || write_all(frame); }

  // Until then, or until a signal or a key makes a new frame due. False: it was asked to end.
  bool wait(std::uint64_t until_ns) {
    const std::uint64_t now = now_ns();
    const std::uint64_t left_ms = now >= until_ns ? 0 : (until_ns - now) / kMillisecond_ns + 1;
    std::array<pollfd, 2> events{{{signals_.get(), POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}}};
    const nfds_t watched = shown_ && has_keys_ ? 2 : 1;
    poll(events.data(), watched, static_cast<int>(std::min<std::uint64_t>(left_ms, 3'600'000)));
    return take_signals() && (events[1].revents == 0 || take_keys());
  }

 private:
  static bool in_foreground() {
    const pid_t group = tcgetpgrp(STDOUT_FILENO);
    return group < 0 || group == getpgrp();  // below 0: not our session's terminal
  }

  bool enter() {
    if (!in_foreground()) return false;
    if (shown_) return true;
    // Read once, here: in the background they are those of the shell's own line.
    if (!entered_) has_keys_ = tcgetattr(STDIN_FILENO, &before_) == 0;
    entered_ = true;
    if (has_keys_) {
      termios keys = before_;
      keys.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
      keys.c_cc[VMIN] = 1;
      keys.c_cc[VTIME] = 0;
      tcsetattr(STDIN_FILENO, TCSANOW, &keys);
    }
    shown_ = true;
    return write_all(kEnter);
  }

  void leave() {
    if (!shown_ || !in_foreground()) return;
    shown_ = false;
    tcflow(STDOUT_FILENO, TCOON);  // Ctrl-S would hold back what gives it back
    static_cast<void>(write(out_.get(), kLeave, std::char_traits<char>::length(kLeave)));
    if (has_keys_) tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }

  bool write_all(std::string_view text) {
    while (!text.empty()) {
      const ssize_t wrote = write(out_.get(), text.data(), text.size());
      if (wrote >= 0) {
        text.remove_prefix(static_cast<std::size_t>(wrote));
      } else if (errno == EAGAIN) {
        std::array<pollfd, 2> events{{{signals_.get(), POLLIN, 0}, {out_.get(), POLLOUT, 0}}};
        poll(events.data(), events.size(), -1);
        if (!take_signals()) return false;
        if (!shown_) return true;  // it was stopped meanwhile: the next frame is a new one
      } else if (errno != EINTR) {
        return false;
      }
    }
    return true;
  }

  bool take_signals() {
    signalfd_siginfo info;
    while (read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
      switch (info.ssi_signo) {
        case SIGTSTP:
          leave();
          raise(SIGSTOP);
          break;
        case SIGCONT:
          shown_ = false;  // who stopped it may have used the terminal
          break;
        case SIGWINCH:
          break;
        default:
          return false;
      }
    }
    return true;
  }

  bool take_keys() const {
    std::array<char, 64> keys;
    const ssize_t got = read(STDIN_FILENO, keys.data(), keys.size());
    if (got < 0) return errno == EINTR || errno == EAGAIN;
    return got > 0 && std::none_of(keys.begin(), keys.begin() + got,
                                   [](char key) { return key == 'q' || key == 'Q'; });
  }

  Fd out_;
  Fd signals_;
  termios before_{};
  bool has_keys_ = false;  // stdin is a terminal
  bool entered_ = false;   // at least once
  bool shown_ = false;
};

// Longest busy first, then what comes and goes, then the idle, who would go first at the end.
void sort(std::vector<BackendView>* backends) {
  const auto place = [](const BackendView& backend) -> std::tuple<int, std::uint64_t> {
    if (backend.in_flight > 0) return {0, backend.oldest_start_ns};
    if (backend.state.state != BackendState::kReady) return {1, backend.reserved_ns};
    return {2, ~backend.last_used_ns};
  };
  std::stable_sort(backends->begin(), backends->end(),
                   [&](const BackendView& a, const BackendView& b) { return place(a) < place(b); });
}

std::string frame_of(const Segment& segment, Snapshot snapshot, std::size_t width) {
  sort(&snapshot.backends);
  std::string frame = title_of(segment, snapshot) + "\n\n" +
                      list_text(segment, snapshot, !find_judge_fault(segment, ""), width);
  if (!snapshot.waiters.empty()) frame += "\n" + waiters_text(snapshot, width);
  for (const std::string& what : snapshot.damage) frame += "damage: " + escape(what) + "\n";
  return frame;
}

// On anything but a terminal that can be drawn on.
int print_once(const Context& context) {
  const auto seen = look(context, "");
  if (!seen) return report(seen.error());
  print(frame_of(*seen->segment, seen->snapshot, terminal_width()));
  return kDone;
}

Result<> run_on(Screen& screen, const Context& context, std::uint64_t every_ns) {
  std::shared_ptr<Segment> segment;
  std::unique_ptr<SnapshotReader> reader;
  for (;;) {
    const std::uint64_t start = now_ns();
    if (!segment || segment->is_replaced()) {
      auto opened = open_to_look(context, "");
      if (!opened) return fail(opened.error());
      segment = *opened;
      reader = std::make_unique<SnapshotReader>(segment);
    }
    const std::size_t width = terminal_width();
    if (!screen.show(draw(frame_of(*segment, reader->read(), width), width))) return {};
    if (!screen.wait(start + every_ns)) return {};
  }
}

int run(const Context& context, std::uint64_t every_ns) {
  if (context.json) {
    complain("unable to show top as JSON: it is for people; use `poolctl -o json list --watch`");
    return kWrongUsage;
  }
  const char* const term = std::getenv("TERM");
  const bool draws = term != nullptr && *term != 0 && std::string_view(term) != "dumb";
  if (!draws || isatty(STDOUT_FILENO) == 0) return print_once(context);
  const Result<> ended = [&]() -> Result<> {
    Screen screen;
    if (!screen.is_usable()) return fail_errno(errno, "use the terminal");
    return run_on(screen, context, every_ns);
  }();
  return ended ? kDone : report(ended.error());
}

}  // namespace

void add_top(CLI::App& root, Context& context) {
  const auto every_ns = std::make_shared<std::uint64_t>(kSecond_ns);
  CLI::App* command = add_command(
      root, context, "top", "The pool on the whole terminal, drawn again and again; q ends it",
      "Backends: busy longest first, then those that come and go, then the idle, least recently\n"
      "used last; below them who waits. Ends with 0 on q, Ctrl-C and SIGTERM. Where it cannot\n"
      "draw, as in a pipe, it prints one frame.\n\n"
      "Examples:\n"
      "  poolctl top --every 200ms\n"
      "  poolctl top | mail -s pool operator\n",
      [&context, every_ns] { return run(context, *every_ns); });
  add_redraw(command, "--every", "Draw again every DURATION (1s) and at each key", every_ns.get());
}

}  // namespace modelpool::poolctl
