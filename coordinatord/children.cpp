#include "children.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "base/proc.hpp"
#include "segment/layout.hpp"

namespace modelpool::coordinator {
namespace {

std::optional<siginfo_t> wait_for(idtype_t kind, id_t id, int options) {
  siginfo_t info{};
  int result;
  do {
    result = waitid(kind, id, &info, WEXITED | WNOHANG | options);
  } while (result != 0 && errno == EINTR);
  if (result != 0 || info.si_pid == 0) return std::nullopt;
  return info;
}

std::uint32_t packed_exit(const siginfo_t& info) {
  const auto status = static_cast<std::uint32_t>(info.si_status);
  return pack_exit(info.si_code == CLD_EXITED ? ExitKind::kExited : ExitKind::kSignalled, status);
}

void reap(pid_t pid) { wait_for(P_PID, static_cast<id_t>(pid), 0); }

}  // namespace

bool reap_children(const std::set<pid_t>& keep,
                   const std::function<void(pid_t, std::uint32_t)>& ended) {
  // One child after the other, until the next one is to be kept.
  for (;;) {
    const auto first = wait_for(P_ALL, 0, WNOWAIT);
    if (!first) return false;
    if (keep.contains(first->si_pid)) break;
    reap(first->si_pid);
  }
  for (const pid_t pid : list_pids().value_or(std::vector<pid_t>())) {
    const auto stat = read_stat(pid);
    if (!stat || stat->parent != getpid() || !stat->is_zombie()) continue;
    if (!keep.contains(pid)) {
      reap(pid);
    } else if (const auto how = wait_for(P_PID, static_cast<id_t>(pid), WNOWAIT)) {
      ended(pid, packed_exit(*how));
    }
  }
  return true;
}

}  // namespace modelpool::coordinator
