#include <sys/resource.h>
#include <unistd.h>

#include "base/proc.hpp"
#include "modelpool/snapshot.hpp"

namespace modelpool {

std::optional<ProcessUse> process_use(pid_t pid) {
  // Once: it is the same for all, and where the clock is set later, no process starts again.
  static const auto boot_s = read_boot_time_s();
  const auto stat = read_stat(pid);
  if (!stat || stat->is_zombie() || !boot_s) return std::nullopt;
  const auto a_second = static_cast<double>(sysconf(_SC_CLK_TCK));
  ProcessUse use;
  use.cpu_s = static_cast<double>(stat->cpu_ticks) / a_second;
  use.started_s = static_cast<double>(*boot_s) + static_cast<double>(stat->start_ticks) / a_second;
  use.virtual_bytes = stat->virtual_bytes;
  use.resident_bytes = stat->rss_bytes;
  use.threads = stat->threads;
  if (const auto files = list_descriptors(pid)) use.open_files = files->size();
  rlimit limit{};
  if (prlimit(pid, RLIMIT_NOFILE, nullptr, &limit) == 0) use.open_files_limit = limit.rlim_cur;
  return use;
}

}  // namespace modelpool
