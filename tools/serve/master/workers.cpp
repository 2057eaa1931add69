#include "master/workers.hpp"

#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "between/control.hpp"
#include "between/messages.hpp"
#include "master/signals.hpp"
#include "master/title.hpp"
#include "master/wait_status.hpp"

namespace modelpool::serve {
namespace {

constexpr std::uint64_t kSteady_ns = 1'000 * kMillisecond_ns;

}  // namespace

Workers Workers::adopt(std::vector<Process> processes, Fd balance) {
  Workers adopted(static_cast<std::uint32_t>(processes.size()), std::move(balance));
  adopted.starts_ = false;
  adopted.is_adopted_ = true;
  adopted.was_ready_ = true;
  for (std::size_t i = 0; i < processes.size(); ++i) {
    One& one = adopted.all_[i];
    one.pid = processes[i].pid;
    one.control = std::move(processes[i].control);
    one.started_ns = clock_ns();
    one.is_ready = one.pid != 0;
    adopted.adopted_.push_back(one.pid);
  }
  return adopted;
}

std::vector<Workers::Process> Workers::processes() const {
  std::vector<Process> processes;
  for (const One& one : all_) processes.push_back({one.pid, passed(one.control)});
  return processes;
}

bool Workers::had(pid_t pid) const {
  return pid != 0 && std::find(adopted_.begin(), adopted_.end(), pid) != adopted_.end();
}

void Workers::start_due() {
  if (!starts_) return;
  // While none has ever served, what fails is not tried again before the others have, too.
  const bool only_new = !was_ready_;
  for (One& one : all_) {
    if (one.pid != 0 || clock_ns() < one.start_ns) continue;
    if (only_new && one.started_ns != 0) continue;
    if (auto started = start(one); !started) {
      one.start_ns = clock_ns() + one.backoff.next();
      spdlog::error("{}", started.error().text);
    }
  }
}

Result<> Workers::start(One& one) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0)
    return fail_errno(errno, "start a worker");
  Fd ours(ends[0]);
  Fd theirs(ends[1]);
  const pid_t pid = fork();
  if (pid < 0) return fail_errno(errno, "start a worker");
  if (pid == 0) {
    set_title("poolserve: worker");
    leave_signals_to_master();
    ours.reset();
    for (One& other : all_) other.control.reset();
    const auto index = static_cast<std::uint32_t>(&one - all_.data());
    const int code = serve_(index, std::move(theirs));
    std::fflush(nullptr);
    _exit(code);
  }
  one.pid = pid;
  one.control = std::move(ours);
  one.started_ns = clock_ns();
  one.is_ready = one.owes_door = false;
  return {};
}

std::uint64_t Workers::due_ns() const {
  std::uint64_t due = kNever_ns;
  for (const One& one : all_) {
    const bool may_start = was_ready_ || one.started_ns == 0;
    if (one.pid == 0 && starts_ && may_start) due = std::min(due, one.start_ns);
  }
  return due;
}

bool Workers::ended(pid_t pid, int status) {
  const auto one =
      std::find_if(all_.begin(), all_.end(), [pid](const One& each) { return each.pid == pid; });
  if (one == all_.end()) return false;
  hear();
  ++deaths_;
  last_end_ = how_ended(status);
  if (!one->is_ready) one->has_failed = true;
  const std::uint64_t now = clock_ns();
  const bool was_steady = one->is_ready && now - one->started_ns >= kSteady_ns;
  if (was_steady) one->backoff.reset();
  one->start_ns = was_steady || !pauses_ ? now : now + one->backoff.next();
  one->pid = 0;
  balance_->set(static_cast<unsigned>(one - all_.begin()), 0);
  one->control.reset();
  one->is_ready = one->owes_door = false;
  if (starts_) {
    spdlog::warn("worker (pid {}) ended: {}; another one is started {}", pid, last_end_,
                 one->start_ns == now ? "now" : "after a pause");
  } else {
    spdlog::debug("worker (pid {}) ended: {}", pid, last_end_);
  }
  return true;
}

bool Workers::hear() {
  bool changed = false;
  for (One& one : all_) {
    while (one.control) {
      const auto message = receive_message(one.control.get());
      if (!message) break;
      if (message->text.empty()) {  // its end; its death comes as a signal
        one.control.reset();
        break;
      }
      if (message->text == kSaysReady) {
        one.is_ready = was_ready_ = changed = true;
        one.has_failed = false;
      }
      if (message->text == kSaysDoor) {
        one.owes_door = false;
        changed = true;
      }
    }
  }
  return changed;
}

void Workers::send_door(const config::Door& door) {
  if (is_adopted_) return;
  for (One& one : all_) {
    if (one.pid == 0 || !one.control) continue;
    if (auto sent = serve::send_door(one.control, door); sent) {
      one.owes_door = true;
    } else {
      // It would go on with the old one: a new worker has the new one from its start.
      spdlog::error("{}; worker (pid {}) {}", sent.error().text, one.pid,
                    starts_ ? "is replaced" : "ends");
      kill(one.pid, SIGTERM);
    }
  }
}

void Workers::try_again() {
  last_end_.clear();
  for (One& one : all_) {
    if (one.pid == 0) one.started_ns = 0;
  }
}

void Workers::signal(int number) const {
  for (const One& one : all_) {
    if (one.pid != 0) kill(one.pid, number);
  }
}

bool Workers::all_ready() const {
  return std::all_of(all_.begin(), all_.end(), [](const One& one) { return one.is_ready; });
}

bool Workers::has_failed() const {
  return is_hopeless() ||
         (std::any_of(all_.begin(), all_.end(), [](const One& one) { return one.has_failed; }) &&
          std::all_of(all_.begin(), all_.end(),
                      [](const One& one) { return one.is_ready || one.has_failed; }));
}

bool Workers::owe_door() const {
  return std::any_of(all_.begin(), all_.end(), [](const One& one) { return one.owes_door; });
}

std::size_t Workers::alive() const {
  return static_cast<std::size_t>(
      std::count_if(all_.begin(), all_.end(), [](const One& one) { return one.pid != 0; }));
}

bool Workers::any_alive() const {
  return std::any_of(all_.begin(), all_.end(), [](const One& one) { return one.pid != 0; });
}

}  // namespace modelpool::serve
