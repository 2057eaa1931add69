#include "master/coordinator_watch.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "config/around.hpp"
#include "master/notify.hpp"
#include "master/signals.hpp"
#include "master/wait_status.hpp"

namespace modelpool::serve {
namespace {

constexpr std::uint64_t kServed_ns = 1'000 * kMillisecond_ns;
constexpr std::uint64_t kStartMax_ns = 60'000 * kMillisecond_ns;
constexpr std::uint64_t kTakeOfficeMax_ns = 10'000 * kMillisecond_ns;
constexpr int kMayTryAgain = 1;  // coordinatord's exit status
constexpr int kNotifyFd = 3;
constexpr const char* kProgram = "coordinatord";

Fd open_pidfd(pid_t pid) { return Fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))); }

bool is_readable(const Fd& fd) {
  pollfd one{fd.get(), POLLIN, 0};
  return fd && poll(&one, 1, 0) > 0;
}

// In the child.
[[noreturn]] void become_coordinator(const std::string& program, std::vector<std::string> words,
                                     const Fd& ready, const rlimit& files) {
  setsid();
  reset_signals();
  forget_supervisor();
  setrlimit(RLIMIT_NOFILE, &files);
  const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  dup2(null, STDIN_FILENO);
  dup2(STDERR_FILENO, STDOUT_FILENO);
  if (ready.get() == kNotifyFd) {
    fcntl(kNotifyFd, F_SETFD, 0);
  } else {
    dup2(ready.get(), kNotifyFd);
  }
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  execv(program.c_str(), argv.data());
  _exit(127);
}

}  // namespace

CoordinatorWatch::CoordinatorWatch(std::string pool, std::string dir,
                                   std::optional<std::vector<std::string>> command, rlimit files)
    : name_(std::move(pool)), dir_(std::move(dir)), command_(std::move(command)), files_(files) {}

Result<> CoordinatorWatch::look() {
  pool_.reset();
  PoolOptions options;
  options.dir = dir_;
  options.create = false;
  auto attached = Pool::attach(name_, options);
  if (attached) {
    pool_.emplace(std::move(*attached));
  } else if (attached.error().code != Errc::kNoSuchPool) {
    return fail(attached.error());
  }
  return {};
}

Result<> CoordinatorWatch::start() {
  // Another one may have been faster, and not say yet that it serves.
  const std::uint64_t give_up_ns = clock_ns() + kTakeOfficeMax_ns;
  while (state_ != State::kWatching) {
    step();
    const bool may_try_again = exit_code_ == kMayTryAgain && clock_ns() < give_up_ns;
    if (state_ == State::kPausing && !may_try_again) {
      const std::string why = exit_code_ == 0
                                  ? "see what is logged above"
                                  : "coordinatord ended with exit status " +
                                        std::to_string(exit_code_) + "; it says above why";
      return fail(Errc::kNoCoordinator,
                  "unable to start a coordinator for pool " + name_ + ": " + why);
    }
    if (state_ == State::kWatching) continue;
    pollfd one{fd(), POLLIN, 0};
    poll(&one, 1, poll_timeout_ms(due_ns()));
  }
  if (!pool_) return look();
  return {};
}

int CoordinatorWatch::fd() const {
  return state_ == State::kWatching ? pidfd_.get() : state_ == State::kStarting ? ready_.get() : -1;
}

std::uint64_t CoordinatorWatch::due_ns() const {
  return state_ == State::kWatching ? kNever_ns : state_ == State::kUnknown ? 0 : due_ns_;
}

void CoordinatorWatch::step() {
  switch (state_) {
    case State::kUnknown:
      return look_for_one();
    case State::kPausing:
      if (clock_ns() >= due_ns_) look_for_one();
      return;
    case State::kWatching:
      if (!is_readable(pidfd_)) return;
      // It served: what ended it need not end the next one. One that ends at once is given time.
      if (clock_ns() - since_ns_ >= kServed_ns) backoff_.reset();
      return pause("coordinatord (pid " + std::to_string(pid_) + ") has ended");
    case State::kStarting: {
      if (!is_readable(ready_)) {
        if (clock_ns() < due_ns_) return;
        return pause("coordinatord (pid " + std::to_string(own_) +
                     ") has not begun to serve; it goes on trying");
      }
      char byte;
      const bool serves = read(ready_.get(), &byte, 1) == 1;
      ready_.reset();
      if (serves && watch_if_alive()) return;
      // Ended: perhaps because another one was faster.
      int status = 0;
      if (own_ != 0 && waitpid(own_, &status, 0) == own_) ended(own_, status);
      if (watch_if_alive()) return;
      return pause("no coordinator serves pool " + name_);
    }
  }
}

void CoordinatorWatch::look_for_one() {
  if (watch_if_alive()) return;
  if (!command_)
    return pause("no coordinator serves pool " + name_ +
                 ", and others start it (--no-coordinator)");
  if (own_ != 0) {  // ours still tries
    if (kill(own_, 0) == 0) return pause("coordinatord does not serve yet");
    own_ = 0;
  }
  if (auto started = execute(); !started) {
    pause(started.error().text);
  }
}

// Does somebody judge the pool? Its pidfd first, then a second look: it was the same all the time.
bool CoordinatorWatch::watch_if_alive() {
  const auto alive = [this]() -> pid_t {
    const auto seen = pool_ ? pool_->snapshot() : fail(Errc::kNoSuchPool, "");
    return seen && seen->status.coordinator.alive == true ? seen->status.coordinator.pid : 0;
  };
  pid_t pid = alive();
  if (pid == 0) {
    // The name may stand for another pool by now.
    if (auto looked = look(); !looked) spdlog::warn("{}", looked.error().text);
    pid = alive();
  }
  if (pid == 0) return false;
  Fd pidfd = open_pidfd(pid);
  if (!pidfd || alive() != pid) return false;
  pidfd_ = std::move(pidfd);
  pid_ = pid;
  state_ = State::kWatching;
  since_ns_ = clock_ns();
  spdlog::info("coordinatord (pid {}) serves pool {}", pid, name_);
  return true;
}

Result<> CoordinatorWatch::execute() {
  const std::string program = config::find_program(kProgram);
  if (program.empty()) {
    return fail(Errc::kSystem,
                "unable to start coordinatord: it is neither beside poolserve nor in PATH; install "
                "it there");
  }
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return fail_errno(errno, "start coordinatord");
  Fd ready(ends[0]);
  Fd notify(ends[1]);
  std::vector<std::string> words = {kProgram, "--pool", name_, "--notify-fd",
                                    std::to_string(kNotifyFd)};
  if (!dir_.empty()) words.insert(words.end(), {"--dir", dir_});
  words.insert(words.end(), command_->begin(), command_->end());
  const pid_t child = fork();
  if (child < 0) return fail_errno(errno, "start coordinatord");
  if (child == 0) become_coordinator(program, std::move(words), notify, files_);
  own_ = child;
  exit_code_ = 0;
  ready_ = std::move(ready);
  state_ = State::kStarting;
  due_ns_ = clock_ns() + kStartMax_ns;
  spdlog::info("no coordinator serves pool {}: started {} (pid {})", name_, program, child);
  return {};
}

bool CoordinatorWatch::ended(pid_t pid, int status) {
  if (pid == 0 || pid != own_) return false;
  own_ = 0;
  exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  spdlog::log(exit_code_ == 0 ? spdlog::level::info : spdlog::level::warn,
              "coordinatord (pid {}) ended: {}", pid, how_ended(status));
  return true;
}

void CoordinatorWatch::pause(const std::string& why) {
  pidfd_.reset();
  ready_.reset();
  pid_ = 0;
  const std::uint64_t length = backoff_.next();
  due_ns_ = clock_ns() + length;
  state_ = State::kPausing;
  spdlog::warn("{}; looking again in {} s", why, length / 1'000 / kMillisecond_ns);
}

bool CoordinatorWatch::runs_with(const std::string& config_path) const {
  if (pid() == 0 || config_path.empty()) return false;
  const std::vector<std::string> words = config::command_line_of(pid_);
  const std::filesystem::path folder = config::folder_of(pid_);
  return std::any_of(words.begin(), words.end(), [&](const std::string& word) {
    std::string_view path = word;
    if (path.starts_with("--config=")) path.remove_prefix(9);
    std::error_code error;
    return std::filesystem::equivalent(folder / path, config_path, error) && !error;
  });
}

void CoordinatorWatch::signal(int number) const {
  if (pid() != 0) syscall(SYS_pidfd_send_signal, pidfd_.get(), number, nullptr, 0);
}

void CoordinatorWatch::forget() {
  pool_.reset();
  pidfd_.reset();
  ready_.reset();
}

}  // namespace modelpool::serve
