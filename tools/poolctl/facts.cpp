#include "facts.hpp"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <set>

#include "base/available.hpp"
#include "base/proc.hpp"
#include "base/shell.hpp"
#include "base/time.hpp"
#include "base/user.hpp"
#include "protocol/slots.hpp"
#include "segment/frozen.hpp"
#include "segment/lost.hpp"
#include "segment/settings_block.hpp"

namespace modelpool::poolctl {
namespace {

constexpr const char* kHostDir = "/run/modelpool";  // one of the two places without --dir

std::string dir_of(const std::string& path) { return path.substr(0, path.rfind('/')); }

// What the coordinator of these settings was started with: another would put others in force.
std::string flags_of(const PoolSettings& settings) {
  std::string flags;
  if (settings.config_path.starts_with("/"))
    flags += " --config " + shell_word(settings.config_path);
  for (const SettingInfo& info : kSettings) {
    if (settings.pool.origin(info.id).kind != OriginKind::kFlag) continue;
    std::string name(info.name);
    std::replace(name.begin(), name.end(), '_', '-');
    flags += " --" + name + " " + shell_word(settings.shown(info.id));
  }
  return flags;
}

Commands commands_of(const std::string& name, const std::string& dir, uid_t owner,
                     const PoolSettings* settings) {
  std::string as_owner;
  if (owner != geteuid()) {
    const std::string user = user_name(owner);
    as_owner = "sudo -u " + shell_word(user == std::to_string(owner) ? "#" + user : user) + " ";
  }
  return {as_owner + command_on_pool("poolctl", name, dir),
          as_owner + command_on_pool("coordinatord", name, dir) +
              (settings == nullptr ? "" : flags_of(*settings)),
          geteuid()};
}

std::optional<std::uint64_t> age_of_wall(std::uint64_t wall_ns) {
  const std::uint64_t now = wall_clock_ns();
  if (wall_ns == 0 || wall_ns > now) return std::nullopt;
  return now - wall_ns;
}

std::optional<FileFacts> read_file_facts(const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) != 0) return std::nullopt;
  FileFacts facts;
  facts.path = path;
  facts.is_dir = S_ISDIR(info.st_mode);
  facts.uid = info.st_uid;
  facts.mode = info.st_mode & 07777;
  facts.age_ns = age_of_wall(static_cast<std::uint64_t>(info.st_ctim.tv_sec) * kSecond_ns +
                             static_cast<std::uint64_t>(info.st_ctim.tv_nsec));
  return facts;
}

// Whoever names no directory finds one of these pools, or none.
std::vector<TwinFacts> find_twins(const Context& context) {
  if (!context.dir.empty()) return {};
  std::vector<std::string> paths = homes_of_pool(context.pool, kHostDir);
  if (const char* const given = std::getenv("MODELPOOL_DIR"); given != nullptr && *given != 0)
    paths.push_back(home_of(std::string(given) + "/" + context.pool));
  std::sort(paths.begin(), paths.end());
  paths.erase(std::unique(paths.begin(), paths.end()), paths.end());
  std::vector<TwinFacts> twins;
  for (const std::string& path : paths) {
    if (!read_file_facts(path)) continue;
    TwinFacts twin;
    twin.path = path;
    twin.poolctl = command_on_pool("poolctl", context.pool, dir_of(path));
    if (const auto segment = Segment::open_read_only(context.pool, dir_of(path))) {
      twin.is_judged = look_at_judge(**segment, now_ns()).state != JudgeState::kDead;
      twin.live = SnapshotReader(*segment).read().live();
    }
    twins.push_back(std::move(twin));
  }
  return twins.size() > 1 ? twins : std::vector<TwinFacts>();
}

void read_segment_file(const Context& context, const std::string& path, PlaceFacts* place,
                       std::optional<uid_t>* owner) {
  const auto named = open_named(context.pool, dir_of(path), Purpose::kLook);
  if (!named) return;
  place->layout = layout_of(named->file.get());
  const auto header = read_header(named->file.get(), path, "");
  if (header) {
    *owner = header->uid;
    if (!is_of_this_boot(*header).value_or(true))
      place->earlier_boot_age_ns = age_of_wall(header->created_ns).value_or(0);
  } else if (const auto frozen = read_frozen(named->file.get(), path)) {
    place->live = frozen->live.size();
  }
}

// Programs of this project and what others have loaded of it.
bool is_ours(const std::string& path) {
  const std::string name = path.substr(path.rfind('/') + 1);
  return name.find("modelpool") != std::string::npos || name == "coordinatord" ||
         name == "poolserve" || name == "poolctl";
}

// nullopt: it has ended, or its number is another's.
std::optional<ProcessFacts> read_process(pid_t pid, std::uint64_t start_ticks) {
  const auto stat = pid > 0 ? read_stat(pid) : std::nullopt;
  if (!stat || stat->has_ended() || (start_ticks != 0 && stat->start_ticks != start_ticks))
    return std::nullopt;
  ProcessFacts facts;
  facts.command = stat->command;
  facts.state = stat->state;
  return facts;
}

// Of one that uses the pool.
void read_resources(pid_t pid, ProcessFacts* facts) {
  rlimit limit{};
  const auto open = list_descriptors(pid);
  if (open && prlimit(pid, RLIMIT_NOFILE, nullptr, &limit) == 0) {
    facts->descriptors = open->size();
    facts->descriptors_max = limit.rlim_cur;
    facts->descriptors_hard = limit.rlim_max;
  }
  for (const std::string& path : list_removed_programs(pid).value_or(std::vector<std::string>())) {
    if (is_ours(path)) facts->removed_program = path;
  }
}

std::map<pid_t, ProcessFacts> read_processes(const Segment& segment, const Snapshot& snapshot,
                                             const JudgeView& judge, pid_t mutex_holder) {
  std::map<pid_t, ProcessFacts> processes;
  const auto add = [&](pid_t pid, std::uint64_t start_ticks, bool uses_pool) {
    if (processes.contains(pid)) return;
    auto facts = read_process(pid, start_ticks);
    if (!facts) return;
    if (uses_pool) read_resources(pid, &*facts);
    processes.emplace(pid, std::move(*facts));
  };
  if (judge.state != JudgeState::kDead)
    add(judge.identity.process.pid, judge.identity.process.start_ticks, true);
  for (const WorkerView& worker : snapshot.workers)
    add(worker.process.pid, worker.process.start_ticks, true);
  for (const BackendView& backend : snapshot.backends) {
    if (!backend.live()) continue;
    add(backend.process.pid, backend.process.start_ticks, false);
    const std::size_t named = std::min<std::size_t>(backend.left.count, backend.left.named.size());
    for (std::size_t i = 0; i < named; ++i)
      add(static_cast<pid_t>(backend.left.named[i].pid), 0, false);
  }
  // It has left its number alone: it is the holder if it has the pool.
  if (maps_file(mutex_holder, segment.device(), segment.inode()).value_or(true))
    add(mutex_holder, 0, false);
  return processes;
}

std::vector<TableFacts> read_tables(const Segment& segment, const Snapshot& snapshot) {
  const Capacities& capacities = segment.capacities();
  std::vector<TableFacts> tables = {
      {"backends", snapshot.backends.size(), capacities.backends},
      {"workers", snapshot.workers.size(), capacities.workers},
      {"waiters", snapshot.waiters.size(), capacities.waiters},
  };
  for (const WorkerView& worker : snapshot.workers)
    tables.push_back({"leases", worker.leases, capacities.leases, worker.process.pid});
  return tables;
}

std::vector<EscapedFacts> find_escaped(const Segment& segment, const Snapshot& snapshot,
                                       const std::vector<Marked>& marked) {
  std::set<std::string> known;
  for (const BackendView& backend : snapshot.backends)
    known.insert(segment.token(backend.ref.index, backend.ref.generation));
  std::set<pid_t> spared = {getpid(), snapshot.coordinator.identity.process.pid};
  for (const WorkerView& worker : snapshot.workers) spared.insert(worker.process.pid);
  std::vector<EscapedFacts> escaped;
  // In another mount namespace the same path may be another pool's.
  const std::string of_this_pool = segment.uuid_text() + "/";
  for (const Marked& one : marked) {
    if (!one.token.starts_with(of_this_pool) || known.contains(one.token) ||
        spared.contains(one.pid))
      continue;
    const auto stat = read_stat(one.pid);
    if (!stat || stat->has_ended()) continue;
    EscapedFacts facts{one.pid, stat->command};
    const auto a_second = static_cast<std::uint64_t>(sysconf(_SC_CLK_TCK));
    if (const std::uint64_t now = boot_ticks(); now >= stat->start_ticks)
      facts.age_ns = (now - stat->start_ticks) * (kSecond_ns / a_second);
    escaped.push_back(std::move(facts));
  }
  return escaped;
}

}  // namespace

PlaceFacts read_place(const Context& context) {
  PlaceFacts place;
  place.twins = find_twins(context);
  const auto dir = find_pool_dir(context.pool, context.dir, Purpose::kLook);
  if (!dir) return place;
  const std::string path = *dir + "/" + context.pool;
  std::optional<uid_t> owner;
  read_segment_file(context, path, &place, &owner);
  for (const std::string& file : {*dir, path, path + ".users"}) {
    if (auto facts = read_file_facts(file)) place.files.push_back(std::move(*facts));
  }
  // A directory that others use, too, is no pool's.
  if (place.layout == 0) place.files.clear();
  if (!owner && !place.files.empty()) owner = place.files.front().uid;
  for (FileFacts& file : place.files) file.wanted_uid = *owner;
  std::shared_ptr<Segment> segment;
  if (auto opened = Segment::open_file(path)) segment = *opened;
  const PoolSettings settings = segment ? read_pool_settings(*segment) : PoolSettings();
  place.commands = commands_of(context.pool, *dir, owner.value_or(geteuid()), &settings);
  for (const LostPool& lost : find_lost_pools(homes_of_pool(context.pool, *dir))) {
    // One in which nothing runs any more stands in nobody's way, whoever has it open.
    if (lost.is_judged || lost.live > 0)
      place.lost.push_back({lost.found_at, lost.holder, lost.judge, lost.live});
  }
  return place;
}

std::vector<Marked> find_marked(const Context& context) {
  const auto dir = find_pool_dir(context.pool, context.dir, Purpose::kLook);
  if (!dir) return {};
  std::vector<Marked> marked;
  for (const ProcessHandle& process : find_orphans(homes_of_pool(context.pool, *dir))) {
    const pid_t pid = process.identity().pid;
    marked.push_back({pid, read_environment(pid, "MODELPOOL_BACKEND").value_or("")});
  }
  return marked;
}

PoolFacts read_pool(const Segment& segment, const Snapshot& snapshot, bool is_copy,
                    const std::vector<Marked>& marked) {
  PoolFacts facts;
  facts.is_copy = is_copy;
  facts.commands = commands_of(segment.name(), dir_of(segment.path()), segment.header().uid,
                               snapshot.settings.get());
  facts.histories = read_histories(segment);
  facts.tables = read_tables(segment, snapshot);
  if (is_copy) return facts;
  facts.judge = look_at_judge(segment, snapshot.now_ns);
  facts.mutex = read_holder(segment.lock());
  facts.processes = read_processes(segment, snapshot, facts.judge, facts.mutex.pid);
  facts.escaped = find_escaped(segment, snapshot, marked);
  facts.available_bytes = read_available_bytes();
  facts.features = known_features();
  return facts;
}

}  // namespace modelpool::poolctl
