#include "frozen.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace modelpool::poolctl {
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

Result<FrozenPool> read_frozen(const std::string& path) {
  const Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat info;
  if (!file || fstat(file.get(), &info) != 0) return fail_errno(errno, "open " + path);
  if (info.st_uid != geteuid()) {
    return fail(Errc::kPermission, "unable to use " + path + ": it belongs to another user");
  }
  FrozenPool pool;
  if (pread(file.get(), &pool.header, sizeof pool.header, 0) !=
          static_cast<ssize_t>(sizeof pool.header) ||
      pool.header.magic != kSegmentMagic) {
    return fail(Errc::kIncompatible, "unable to use " + path + ": it is not a modelpool segment");
  }
  const TableInfo& table = pool.header.tables[static_cast<std::size_t>(Table::kBackends)];
  for (std::uint32_t i = 0; i < std::min<std::uint64_t>(table.count, kBackendsMax); ++i) {
    Record record;
    const auto offset = static_cast<off_t>(table.offset + i * table.stride);
    if (pread(file.get(), &record, sizeof record, offset) != static_cast<ssize_t>(sizeof record)) {
      break;
    }
    const StateWord state = StateWord::unpack(record.state);
    if (!is_live(state.state)) continue;
    pool.live.push_back({{i, state.generation},
                         state.state,
                         {static_cast<pid_t>(record.pid), record.start_ticks, record.pidfd_inode},
                         static_cast<pid_t>(record.group)});
  }
  return pool;
}

}  // namespace modelpool::poolctl
