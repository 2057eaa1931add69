#include "segment/frozen.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/proc.hpp"
#include "segment/header.hpp"

namespace modelpool {
namespace {

struct Record {  // the head of a BackendRecord
  std::uint64_t state;
  std::uint32_t pid;
  std::uint32_t group;
  std::uint64_t start_ticks;
  std::uint64_t pidfd_inode;
};
static_assert(offsetof(Record, pidfd_inode) == offsetof(BackendRecord, pidfd_inode));

}  // namespace

Result<FrozenPool> read_frozen(int fd, const std::string& path) {
  FrozenPool pool;
  if (pread(fd, &pool.header, sizeof pool.header, 0) != static_cast<ssize_t>(sizeof pool.header) ||
      pool.header.magic != kSegmentMagic) {
    return fail(Errc::kIncompatible,
                "unable to use " + escape(path) + ": " + std::string(kNoSegment));
  }
  const TableInfo& table = pool.header.tables[static_cast<std::size_t>(Table::kBackends)];
  for (std::uint32_t i = 0; i < std::min<std::uint64_t>(table.count, kBackendsMax); ++i) {
    Record record;
    const auto offset = static_cast<off_t>(table.offset + i * table.stride);
    if (pread(fd, &record, sizeof record, offset) != static_cast<ssize_t>(sizeof record)) break;
    const StateWord state = StateWord::unpack(record.state);
    if (!is_live(state.state)) continue;
    pool.live.push_back({i,
                         state.generation,
                         state.state,
                         {static_cast<pid_t>(record.pid), record.start_ticks, record.pidfd_inode},
                         static_cast<pid_t>(record.group)});
  }
  return pool;
}

std::optional<pid_t> find_survivor(const FrozenBackend& backend) {
  if (backend.process.pid <= 1) return std::nullopt;
  if (process_liveness(backend.process) != Liveness::kDead) return backend.process.pid;
  if (backend.group <= 1) return std::nullopt;
  const auto pids = list_pids();
  if (!pids) return backend.process.pid;  // nobody can be seen
  for (const pid_t pid : *pids) {
    const auto stat = read_stat(pid);
    if (!stat || (stat->is_zombie() && stat->threads <= 1)) continue;
    const bool in_group = stat->group == backend.group || stat->session == backend.group;
    if (in_group && stat->start_ticks >= backend.process.start_ticks) return pid;
  }
  return std::nullopt;
}

}  // namespace modelpool
