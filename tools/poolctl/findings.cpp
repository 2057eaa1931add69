#include "findings.hpp"

#include <algorithm>
#include <array>
#include <set>

#include "base/duration.hpp"
#include "base/exit_words.hpp"
#include "base/proc.hpp"
#include "base/shell.hpp"
#include "base/size.hpp"
#include "base/text.hpp"
#include "base/time.hpp"
#include "base/user.hpp"
#include "explain/words.hpp"
#include "policy/fit.hpp"
#include "protocol/check.hpp"
#include "protocol/members.hpp"
#include "protocol/outlook.hpp"
#include "segment/layout.hpp"

namespace modelpool::poolctl {
namespace {

constexpr std::uint64_t kMutexLong_ns = kSecond_ns;  // it is held for microseconds
constexpr std::uint64_t kNearlyFull_percent = 90;
constexpr std::uint64_t kMebibyte = 1 << 20;

constexpr std::array<std::string_view, kFindingKindCount> kNames = {
    "two_pools",       "name_lost",         "other_layout",
    "other_boot",      "wrong_owner",       "wrong_mode",
    "damaged",         "no_coordinator",    "coordinator_hangs",
    "mutex_held",      "worker_stopped",    "backend_unkillable",
    "backend_escaped", "all_pinned",        "waiter_without_hope",
    "model_cooling",   "memory_over_limit", "host_memory_low",
    "descriptors",     "table_nearly_full", "old_program",
    "reload_refused"};
static_assert(kNames[static_cast<std::size_t>(FindingKind::kReloadRefused)] == "reload_refused");

std::string kill(std::string_view signal, pid_t pid) {
  return "kill -" + std::string(signal) + " " + std::to_string(pid);
}

// To others kill(1) sends a signal to many: what a segment says must not get there.
bool is_process(std::int64_t pid) { return pid > 1 && pid <= INT32_MAX; }

std::string wait_for_end(pid_t pid) {
  return "tail --pid=" + std::to_string(pid) + " -f /dev/null";
}

bool is_nearly_full(std::uint64_t used, std::uint64_t limit) {
  return limit != 0 && used >= limit - limit / 100 * (100 - kNearlyFull_percent) -
                                   limit % 100 * (100 - kNearlyFull_percent) / 100;
}

std::string of_text(std::uint64_t used, std::uint64_t limit) {
  return std::to_string(used) + " of " + std::to_string(limit);
}

// "process 12 (server)"
std::string process_text(pid_t pid, const std::string& command) {
  return "process " + std::to_string(pid) + (command.empty() ? "" : " (" + escape(command) + ")");
}

// --- Of the pool ---------------------------------------------------------------------------------

// What one examination goes by, and what it has found.
class Examination {
 public:
  Examination(const Snapshot& snapshot, const PoolFacts& facts)
      : s_(snapshot), facts_(facts), residents_(residents_of(snapshot)) {}

  std::vector<Finding> run() && {
    find_damage();
    if (!facts_.is_copy) {
      find_judge();
      find_mutex_holder();
      find_stopped_workers();
    }
    find_unkillable();
    find_escaped();
    find_pins();
    find_hopeless();
    find_cooling();
    find_memory();
    find_descriptors();
    find_full_tables();
    find_old_programs();
    find_refused_reload();
    return std::move(found_);
  }

 private:
  std::optional<std::uint64_t> since(std::uint64_t stamp_ns) const {
    if (stamp_ns == 0 || stamp_ns == kNever_ns) return std::nullopt;
    return age_ns(s_.now_ns, stamp_ns);
  }
  const ProcessFacts* process(pid_t pid) const {
    const auto found = facts_.processes.find(pid);
    return pid <= 0 || found == facts_.processes.end() ? nullptr : &found->second;
  }
  std::string named(pid_t pid) const {
    const ProcessFacts* const seen = process(pid);
    return process_text(pid, seen == nullptr ? "" : seen->command);
  }
  bool is_stopped(pid_t pid) const {
    const ProcessFacts* const seen = process(pid);
    return seen != nullptr && seen->is_stopped();
  }
  std::string restart(pid_t judge) const {
    return kill("KILL", judge) + " && " + wait_for_end(judge) + " && " + facts_.commands.start;
  }

  void find_damage() {
    std::vector<std::string> texts = check_invariants(s_, false);
    for (const std::string& damage : s_.damage) {
      if (std::find(texts.begin(), texts.end(), damage) == texts.end()) texts.push_back(damage);
    }
    for (const std::string& text : texts) {
      found_.push_back({FindingKind::kDamaged,
                        escape(text) + "; if it stays, the pool has to begin anew, which ends its "
                                       "backends",
                        facts_.commands.poolctl + " remove --stop && " + facts_.commands.start});
    }
  }

  void find_judge() {
    const JudgeView& judge = facts_.judge;
    const pid_t pid = judge.identity.process.pid;
    if (judge.state == JudgeState::kDead) {
      const std::string who = judge.identity.epoch == 0 ? "there was none yet"
                              : s_.coordinator.left
                                  ? "the last one left in order"
                                  : "the last one, " + process_text(pid, "") + ", is dead";
      found_.push_back({FindingKind::kNoCoordinator,
                        "no coordinator runs, so nothing is evicted or killed: " + who,
                        facts_.commands.start, since(s_.coordinator.last_progress_ns)});
      return;
    }
    const bool stopped = is_stopped(pid);
    if ((judge.state != JudgeState::kHangs && !stopped) || !is_process(pid)) return;
    const auto age = judge.hung_since_ns == 0 ? since(s_.coordinator.last_progress_ns)
                                              : since(judge.hung_since_ns);
    found_.push_back({FindingKind::kCoordinatorHangs,
                      stopped ? "the coordinator, " + named(pid) + ", is stopped"
                              : "the coordinator, " + named(pid) +
                                    ", does not look at what is due; a new one loses nothing",
                      stopped ? kill("CONT", pid) : restart(pid), age, "", pid});
  }

  void find_mutex_holder() {
    const pid_t pid = facts_.mutex.pid;
    if (!is_process(pid) || process(pid) == nullptr) return;  // its next taker learns of its death
    const auto age = since(facts_.mutex.since_ns);
    const bool stopped = is_stopped(pid);
    if (!stopped && age.value_or(0) < kMutexLong_ns) return;
    found_.push_back({FindingKind::kMutexHeld,
                      named(pid) + " holds the pool's mutex and " +
                          (stopped ? "is stopped" : "does not let go") +
                          ": nobody is let in, nothing is loaded",
                      stopped ? kill("CONT", pid) : kill("KILL", pid), age, "", pid});
  }

  void find_stopped_workers() {
    for (const WorkerView& worker : s_.workers) {
      const pid_t pid = worker.process.pid;
      if (!is_process(pid) || !is_stopped(pid)) continue;
      std::optional<std::uint64_t> age;  // the kernel does not say; who waits has noted its looks
      for (const WaiterView& waiter : s_.waiters) {
        if (waiter.pid == pid && is_absent(waiter, s_.now_ns)) age = since(waiter.looked_ns);
      }
      found_.push_back({FindingKind::kWorkerStopped,
                        "worker " + std::to_string(pid) + " (" + escape(worker.command) +
                            ") is stopped, with " + count_text(worker.leases, "lease"),
                        kill("CONT", pid), age, "", pid});
    }
  }

  // Who has to go for it to end; pid 0: nobody stands in the way of its end.
  LeftProcess obstacle_of(const BackendView& backend) const {
    LeftProcess first;
    if (backend.state.state != BackendState::kStopping || backend.settling()) return first;
    const std::size_t named = std::min<std::size_t>(backend.left.count, backend.left.named.size());
    for (std::size_t i = 0; i < named; ++i) {
      const LeftProcess& one = backend.left.named[i];
      if (is_process(one.pid) && (stands_in_the_way(one.why) || backend.overdue)) return one;
    }
    if (backend.overdue && is_process(backend.process.pid))
      first.pid = static_cast<std::uint32_t>(backend.process.pid);
    return first;
  }
  std::string end_command(const LeftProcess& one) const {
    const std::string command = kill("KILL", static_cast<pid_t>(one.pid));
    return one.uid == UINT32_MAX || one.uid == facts_.commands.uid
               ? command
               : facts_.commands.as_root(command);
  }

  void find_unkillable() {
    for (const BackendView& backend : s_.backends) {
      const LeftProcess obstacle = obstacle_of(backend);
      if (obstacle.pid == 0) continue;
      const auto pid = static_cast<pid_t>(obstacle.pid);
      const ProcessFacts* const seen = process(pid);
      std::string text = escape(backend.model) + " is to end and does not, and keeps its place: " +
                         (backend.left.count != 0 ? left_text(backend.left)
                                                  : named(pid) + " does not die of SIGKILL");
      if (seen != nullptr && seen->is_stuck())
        text += "; it waits in the kernel, for a disk or a driver, and ends when that answers";
      found_.push_back({FindingKind::kBackendUnkillable, text, end_command(obstacle),
                        since(backend.stop.stopping_ns), backend.model, pid});
    }
  }

  void find_escaped() {
    for (const EscapedFacts& escaped : facts_.escaped) {
      if (!is_process(escaped.pid)) continue;
      found_.push_back({FindingKind::kBackendEscaped,
                        process_text(escaped.pid, escaped.command) +
                            " is left of a backend of this pool that is gone: it counts nowhere",
                        kill("KILL", escaped.pid), escaped.age_ns, "", escaped.pid});
    }
  }

  // The backend whose pin by hand is missed least: the least recently used, a tenant last.
  const BackendView* least_pinned() const {
    const BackendView* least = nullptr;
    const auto rank = [](const BackendView& b) { return std::pair(b.tenant(), b.last_used_ns); };
    for (const BackendView& backend : s_.backends) {
      if (!backend.live() || !backend.pinned_by_hand() || backend.pinned_by_settings()) continue;
      if (least == nullptr || rank(backend) < rank(*least)) least = &backend;
    }
    return least;
  }
  std::string unpin_command() const {
    if (const BackendView* const least = least_pinned(); least != nullptr && !least->tenant())
      return facts_.commands.on_model("unpin", least->model);
    return facts_.commands.poolctl + " set max_backends=" + std::to_string(s_.max_backends() + 1);
  }

  void find_pins() {
    const Waiting anybody;  // takes a place, and nothing else
    if (!is_blocked_by_pins(anybody, residents_, limits_of(s_))) return;
    const auto pinned = std::count_if(residents_.begin(), residents_.end(),
                                      [](const Resident& r) { return r.live() && r.pinned(); });
    found_.push_back({FindingKind::kAllPinned,
                      "every place is pinned (" +
                          of_text(static_cast<std::uint64_t>(pinned), s_.max_backends()) +
                          "): no other model can be loaded",
                      unpin_command()});
  }

  // Does what stays, come what may, leave too little for it?
  bool is_blocked_by(const Waiting& waiter, const std::vector<Resident>& fixed,
                     Limits limits) const {
    for (DeviceLimit& device : limits.device) device.foreign = 0;  // that may go
    return Room(limits, fixed).missing_for(waiter) != Amounts();
  }

  void find_hopeless() {
    const Limits limits = limits_of(s_);
    std::vector<Resident> fixed;
    LeftProcess obstacle;
    for (std::size_t i = 0; i < residents_.size(); ++i) {
      const LeftProcess here = obstacle_of(s_.backends[i]);
      if (obstacle.pid == 0) obstacle = here;
      const bool is_pinned = residents_[i].pinned() && residents_[i].can_be_closed();
      if (residents_[i].live() && (is_pinned || here.pid != 0)) fixed.push_back(residents_[i]);
    }
    std::set<std::string> told;
    for (const WaiterView& view : s_.waiters) {
      const BackendView* const own = s_.find_model(view.model);
      if (own != nullptr && own->live() && !own->overdue && obstacle_of(*own).pid == 0) continue;
      const Waiting waiter = waiting_of(view);
      std::string why;
      std::string command;
      if (is_too_large(waiter, limits)) {
        const auto bytes = static_cast<std::uint64_t>(waiter.takes[Resource::kHostBytes]);
        const bool by_host = limits.max_memory != 0 && bytes > limits.max_memory;
        why = by_host ? "it takes " + format_size(bytes) + ", and max_memory is " +
                            format_size(limits.max_memory)
                      : "it takes more of a device than any has";
        command = by_host ? facts_.commands.poolctl + " set max_memory=" +
                                std::to_string((bytes + kMebibyte - 1) / kMebibyte) + "MiB"
                          : facts_.commands.on_model("reset", view.model);
      } else if (is_blocked_by_pins(waiter, residents_, limits)) {
        why = "pinned backends leave too little";
        command = unpin_command();
      } else if (obstacle.pid != 0 && is_blocked_by(waiter, fixed, limits)) {
        why = "who has its place does not end, process " + std::to_string(obstacle.pid);
        command = end_command(obstacle);
      } else {
        continue;
      }
      if (!told.insert(view.model).second) continue;
      const auto waiting =
          std::count_if(s_.waiters.begin(), s_.waiters.end(),
                        [&view](const WaiterView& other) { return other.model == view.model; });
      found_.push_back({FindingKind::kWaiterWithoutHope,
                        count_text(static_cast<std::uint64_t>(waiting), "request") + " for " +
                            escape(view.model) + " in vain: " + why,
                        command, since(view.since_ns), view.model, view.pid});
    }
  }

  void find_cooling() {
    for (const HistoryView& view : facts_.histories) {
      const LoadHistory& history = view.history;
      const std::uint64_t left = age_ns(history.cooldown_until_ns, s_.now_ns);
      if (left == 0 || history.failures == 0) continue;
      const std::string_view error = before_last_lines(field_text(history.error));
      found_.push_back(
          {FindingKind::kModelCooling,
           escape(view.model) + " cools down for another " + format_age(left) + " after " +
               count_text(history.failures, "failed load") + ": " +
               escape(with_exit(error, static_cast<std::uint32_t>(history.exit_status))),
           facts_.commands.on_model("reset", view.model), since(history.failed_ns), view.model});
    }
  }

  // The ready backend with the most bytes of it, an idle one before one in use.
  const BackendView* largest(std::size_t resource) const {
    std::size_t best = residents_.size();
    const auto rank = [&](std::size_t i) {
      return std::tuple(residents_[i].in_flight == 0, !residents_[i].pinned(),
                        residents_[i].holds[resource]);
    };
    for (std::size_t i = 0; i < residents_.size(); ++i) {
      const bool may_help =
          resource == index_of(Resource::kHostBytes) || residents_[i].holds[resource] > 0;
      if (residents_[i].state != BackendState::kReady || !may_help) continue;
      if (best == residents_.size() || rank(i) > rank(best)) best = i;
    }
    return best == residents_.size() ? nullptr : &s_.backends[best];
  }
  std::string relief(std::size_t resource) const {
    const BackendView* const one = largest(resource);
    return one != nullptr ? facts_.commands.on_model("evict", one->model)
                          : "ps -eo pid,rss,user,args --sort=-rss | head -n 8";
  }

  void find_memory() {
    // What is being ended gives its bytes back.
    std::vector<Resident> staying;
    std::copy_if(residents_.begin(), residents_.end(), std::back_inserter(staying),
                 [](const Resident& r) {
                   return r.live() && (r.overdue || (r.state != BackendState::kEvicting &&
                                                     r.state != BackendState::kStopping));
                 });
    const Limits limits = limits_of(s_);
    const Amounts excess = Room(limits, staying).excess();
    const std::size_t host = index_of(Resource::kHostBytes);
    for (std::size_t i = host; i < kResourceCount; ++i) {
      if (excess[i] <= 0 || i == index_of(Resource::kLoads)) continue;
      const std::size_t device = i - index_of_device(0);
      const std::string what = i == host ? "the host's memory (max_memory)"
                               : device < s_.devices.size()
                                   ? escape(s_.devices[device]) + " (gpu_memory)"
                                   : "a device";
      found_.push_back({FindingKind::kMemoryOverLimit,
                        "backends take " + format_size(static_cast<std::uint64_t>(excess[i])) +
                            " more of " + what + " than they may",
                        relief(i)});
    }
    const std::uint64_t least = settings_of(s_).get(Setting::kMinAvailable);
    if (least == 0 || facts_.available_bytes.value_or(least) >= least) return;
    const std::uint64_t pause = age_ns(s_.coordinator.pressure_until_ns, s_.now_ns);
    found_.push_back({FindingKind::kHostMemoryLow,
                      "the host has " + format_size(*facts_.available_bytes) +
                          " left, and min_available is " + format_size(least) +
                          (pause == 0 ? "" : "; evicting idle backends did not help"),
                      relief(host)});
  }

  void find_descriptors() {
    for (const auto& [pid, seen] : facts_.processes) {
      if (!seen.descriptors || !is_nearly_full(*seen.descriptors, seen.descriptors_max)) continue;
      const std::uint64_t more = std::max<std::uint64_t>(2 * seen.descriptors_max, 1024);
      const std::uint64_t hard = std::max(more, seen.descriptors_hard);
      const std::string command = "prlimit --pid " + std::to_string(pid) +
                                  " --nofile=" + std::to_string(more) + ":" + std::to_string(hard);
      found_.push_back({FindingKind::kDescriptorsNearlyUsedUp,
                        process_text(pid, seen.command) + " has " +
                            of_text(*seen.descriptors, seen.descriptors_max) +
                            " descriptors open; for its next start: ulimit -n, or LimitNOFILE= in "
                            "a unit",
                        hard > seen.descriptors_hard ? facts_.commands.as_root(command) : command,
                        std::nullopt, "", pid});
    }
  }

  void find_full_tables() {
    for (const TableFacts& table : facts_.tables) {
      if (!is_nearly_full(table.used, table.limit)) continue;
      const std::string whose = table.pid == 0 ? "" : " of worker " + std::to_string(table.pid);
      found_.push_back({FindingKind::kTableNearlyFull,
                        of_text(table.used, table.limit) + " " + table.name + whose +
                            " are taken, and a pool has as many as it was made with: stop its "
                            "workers, then let it begin anew, which ends its backends",
                        facts_.commands.poolctl + " remove --stop && " + facts_.commands.start +
                            " --" + table.name + " " + std::to_string(2 * table.limit),
                        std::nullopt, "", table.pid});
    }
  }

  void find_old_programs() {
    const pid_t judge =
        facts_.judge.state == JudgeState::kDead ? 0 : facts_.judge.identity.process.pid;
    for (const auto& [pid, seen] : facts_.processes) {
      if (!seen.removed_program || !is_process(pid)) continue;
      found_.push_back({FindingKind::kOldProgram,
                        (pid == judge ? "the coordinator, " : "") +
                            process_text(pid, seen.command) + ", runs " +
                            escape(*seen.removed_program) + " as it was before an upgrade" +
                            (pid == judge ? "; a new one loses nothing" : "; start it again"),
                        pid == judge ? restart(pid) : kill("TERM", pid), std::nullopt, "", pid});
      if (pid == judge) return;
    }
    if (facts_.is_copy || !is_process(judge)) return;
    const auto all = [](const std::array<std::uint64_t, 3>& features) {
      return features[0] | features[1] | features[2];
    };
    const std::uint64_t missing = all(facts_.features) & ~all(s_.coordinator.features);
    if (missing == 0) return;
    found_.push_back({FindingKind::kOldProgram,
                      "the coordinator, " + named(judge) +
                          ", is of an older version than this program: it does not know " +
                          settings_text(missing, settings_of(s_)) + "; a new one loses nothing",
                      restart(judge), std::nullopt, "", judge});
  }

  void find_refused_reload() {
    const pid_t pid = facts_.judge.identity.process.pid;
    // The next coordinator reads it as it is then.
    if (s_.coordinator.reload_refused_ns == 0 || facts_.judge.state == JudgeState::kDead ||
        facts_.is_copy || !is_process(pid)) {
      return;
    }
    found_.push_back({FindingKind::kReloadRefused,
                      "the config was refused when it was last read again, and the settings before "
                      "it hold; the command says what is wrong, mend that and run it again",
                      facts_.commands.start + " --check-config && " + kill("HUP", pid),
                      since(s_.coordinator.reload_refused_ns)});
  }

  const Snapshot& s_;
  const PoolFacts& facts_;
  const std::vector<Resident> residents_;  // of s_.backends, in their order
  std::vector<Finding> found_;
};

}  // namespace

std::string_view finding_name(FindingKind kind) { return kNames[static_cast<std::size_t>(kind)]; }

std::string Commands::on_model(std::string_view verb, const std::string& model) const {
  return poolctl + " " + std::string(verb) + (model.starts_with("-") ? " -- " : " ") +
         shell_word(model);
}

std::string Commands::as_root(const std::string& command) const {
  return (uid == 0 ? "" : "sudo ") + command;
}

std::vector<Finding> examine_pool(const Snapshot& snapshot, const PoolFacts& facts) {
  return Examination(snapshot, facts).run();
}

// --- Of the place --------------------------------------------------------------------------------

namespace {

Finding twin_finding(const std::vector<TwinFacts>& twins) {
  // The one that is missed least.
  const auto least = std::min_element(twins.begin(), twins.end(), [](const auto& a, const auto& b) {
    return std::pair(a.is_judged, a.live) < std::pair(b.is_judged, b.live);
  });
  std::string paths;
  for (const TwinFacts& twin : twins) {
    paths += (paths.empty() ? "" : " and ") + escape(twin.path) + " (" +
             count_text(twin.live, "backend") + (twin.is_judged ? "" : ", no coordinator") + ")";
  }
  return {FindingKind::kTwoPools,
          "there are two pools of this name, with two limits: " + paths + "; one has to go",
          least->poolctl + (least->live == 0 && !least->is_judged ? " remove" : " remove --stop")};
}

Finding lost_finding(const LostFacts& lost, const Commands& commands) {
  const std::string what = "a pool has lost this name (its file was removed, moved or covered; " +
                           process_text(lost.holder, "") + " has it open as " +
                           escape(lost.found_at) + "), with " + count_text(lost.live, "backend");
  if (is_process(lost.judge)) {
    return {FindingKind::kNameLost,
            what + "; its coordinator ends them when their requests are done: wait for that",
            wait_for_end(lost.judge),
            std::nullopt,
            "",
            lost.judge};
  }
  return {FindingKind::kNameLost,
          what + "; a new coordinator ends them first",
          commands.start,
          std::nullopt,
          "",
          lost.holder};
}

}  // namespace

std::vector<Finding> examine_place(const PlaceFacts& facts) {
  std::vector<Finding> found;
  if (facts.twins.size() > 1) found.push_back(twin_finding(facts.twins));
  for (const LostFacts& lost : facts.lost) found.push_back(lost_finding(lost, facts.commands));
  if (facts.layout != 0 && facts.layout != kLayoutVersion) {
    found.push_back({FindingKind::kOtherLayout,
                     "the pool has layout " + std::to_string(facts.layout) +
                         ", this program knows " + std::to_string(kLayoutVersion) + "; " +
                         count_text(facts.live, "backend") +
                         " live in it and end when it is removed",
                     facts.commands.poolctl + " remove --stop"});
  }
  if (facts.earlier_boot_age_ns) {
    found.push_back({FindingKind::kOtherBoot,
                     "the pool is of an earlier boot, and nothing of it runs; a coordinator makes "
                     "a new one",
                     facts.commands.start, facts.earlier_boot_age_ns});
  }
  for (const FileFacts& file : facts.files) {
    const std::string word = shell_word(file.path);
    if (file.uid != file.wanted_uid) {
      found.push_back(
          {FindingKind::kWrongOwner,
           escape(file.path) + " belongs to " + user_name(file.uid) + ", and should to " +
               user_name(file.wanted_uid),
           facts.commands.as_root("chown " + std::to_string(file.wanted_uid) + " " + word),
           file.age_ns});
    }
    if ((file.mode & 077) != 0) {
      found.push_back({FindingKind::kWrongMode, escape(file.path) + " is open to other users",
                       (file.is_dir ? "chmod 700 " : "chmod 600 ") + word, file.age_ns});
    }
  }
  return found;
}

}  // namespace modelpool::poolctl
