#include "segment/abandoned.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstddef>

#include "base/host.hpp"
#include "base/proc.hpp"
#include "segment/frozen.hpp"

namespace modelpool {
namespace {

// The number of the first PID namespace, from which all others are seen (PROC_PID_INIT_INO).
constexpr std::uint64_t kFirstNamespace = 0xeffffffc;

enum class Seen { kYes, kNo, kHidden };

Seen is_in_namespace(pid_t pid, std::uint64_t number) {
  if (const auto its = read_namespace(pid, "pid")) return its == number ? Seen::kYes : Seen::kNo;
  if (errno == ENOENT || errno == ESRCH) return Seen::kNo;  // it has ended, or is a zombie
  if (is_in_inner_namespace(pid) == false) return Seen::kNo;
  return read_uid(pid) == geteuid() ? Seen::kHidden
                                    : Seen::kNo;  // a pool's processes are its user's
}

bool has_namespace_ended(std::uint64_t number) {
  const auto host = read_host_identity();
  if (!host || host->pid_namespace != kFirstNamespace) return false;
  const auto pids = list_pids();
  if (!pids) return false;
  for (const pid_t pid : *pids) {
    if (is_in_namespace(pid, number) != Seen::kNo) return false;
  }
  return true;
}

bool was_judged_by_first_process(const Fd& file, const Header& header) {
  const TableInfo& table = header.tables[static_cast<std::size_t>(Table::kCoordinator)];
  std::uint32_t pid = 0;
  const auto at = static_cast<off_t>(table.offset + offsetof(CoordinatorRecord, pid));
  return pread(file.get(), &pid, sizeof pid, at) == sizeof pid && pid == 1;
}

}  // namespace

bool is_abandoned(const Fd& file, const Header& header) {
  const auto pool = read_frozen(file.get(), "");
  if (!pool) return false;
  if (pool->live.empty()) return true;
  // The namespace of the times alone says nothing about processes.
  const auto host = read_host_identity();
  if (!host || host->pid_namespace == header.pid_namespace) return false;
  return was_judged_by_first_process(file, header) || has_namespace_ended(header.pid_namespace);
}

}  // namespace modelpool
