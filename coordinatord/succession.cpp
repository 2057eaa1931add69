#include "succession.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>

#include <cerrno>

#include "base/proc.hpp"
#include "base/time.hpp"
#include "segment/lost.hpp"

namespace modelpool::coordinator {
namespace {

constexpr int kLookEvery_ms = 20;
constexpr std::uint64_t kKillMax_ns = 10 * kSecond_ns;  // how long SIGKILL may take

void signal_all(const std::vector<ProcessHandle>& processes, int signal) {
  for (const ProcessHandle& process : processes) static_cast<void>(process.signal(signal));
}

}  // namespace

Result<std::optional<Predecessor>> find_predecessor(const Options& options) {
  const auto dir = find_pool_dir(options.pool, options.dir);
  if (!dir) return fail(dir.error());
  const std::string home = home_of(*dir + "/" + options.pool);
  for (LostPool& lost : find_lost_pools(homes_of_pool(options.pool, *dir))) {
    // Its lock makes this coordinator its only one.
    Fd singleton(fcntl(lost.file.get(), F_DUPFD_CLOEXEC, 3));
    const bool is_ours = singleton && flock(singleton.get(), LOCK_EX | LOCK_NB) == 0;
    if (lost.is_judged || !is_ours) {
      const std::string judge =
          lost.judge > 0 ? "process " + std::to_string(lost.judge) : "another process";
      return fail(Errc::kBusy,
                  "unable to serve pool " + options.pool + ": " + judge +
                      " is still the coordinator of the pool that has lost this name (it is " +
                      escape(lost.found_at) + " now) and ends its " + std::to_string(lost.live) +
                      " backends; this one can start when that has left");
    }
    if (lost.live == 0) continue;
    spdlog::warn(
        "pool {} has lost its name and its coordinator; it is {} now, open in process {}: ending "
        "its {} backends first",
        escape(home), escape(lost.found_at), lost.holder, lost.live);
    auto segment = Segment::adopt(std::move(lost.file), home);
    if (!segment) return fail(segment.error());
    return Predecessor{std::move(*segment), std::move(singleton)};
  }
  return std::optional<Predecessor>();
}

Result<> end_orphans(const Options& options, const Settings& settings) {
  const auto dir = find_pool_dir(options.pool, options.dir);
  if (!dir) return fail(dir.error());
  if (open_named(options.pool, *dir)) return {};
  const std::vector<std::string> homes = homes_of_pool(options.pool, *dir);
  std::vector<ProcessHandle> orphans = find_orphans(homes);
  if (orphans.empty()) return {};
  for (const ProcessHandle& orphan : orphans) {
    const auto stat = read_stat(orphan.identity().pid);
    spdlog::warn("process {} ({}) was started by a pool {} that is gone: ending it",
                 orphan.identity().pid, stat ? escape(stat->command) : "", homes.front());
  }
  const std::uint64_t grace = settings.get(Setting::kStopGrace);
  const std::uint64_t kill_at = grace == 0 ? kNever_ns : add_ns(now_ns(), grace);
  signal_all(orphans, static_cast<int>(settings.get(Setting::kStopSignal)));
  while (!orphans.empty()) {
    poll(nullptr, 0, kLookEvery_ms);
    orphans = find_orphans(homes);
    if (now_ns() < kill_at) continue;
    signal_all(orphans, SIGKILL);
    if (now_ns() < add_ns(kill_at, kKillMax_ns)) continue;
    return fail(Errc::kBusy, "unable to serve pool " + options.pool + ": process " +
                                 std::to_string(orphans.front().identity().pid) +
                                 " of the pool that was here does not die of SIGKILL; this one can "
                                 "start when it has gone");
  }
  return {};
}

}  // namespace modelpool::coordinator
