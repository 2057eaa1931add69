// poolctl remove: take a pool away, with --stop its backends and coordinator first.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "base/host.hpp"
#include "base/proc.hpp"
#include "base/shortage.hpp"
#include "base/time.hpp"
#include "base/user.hpp"
#include "common.hpp"
#include "protocol/members.hpp"
#include "segment/frozen.hpp"

namespace modelpool::poolctl {
namespace {

// Long enough for a stop with the default grace of 15s, and for what ignores SIGTERM.
constexpr std::uint64_t kDefaultRemoveTimeout_ns = 60 * kSecond_ns;
constexpr std::uint32_t kForcedEnd = kControlEvict | kControlForce;
constexpr int kLookEvery_ms = 20;
constexpr std::uint64_t kKillMax_ns = kSecond_ns;  // how long SIGKILL may take
constexpr std::uint64_t kPassing_ns = kSecond_ns;  // how long one that only passes may hold it
constexpr int kPassesMax = 16;                     // of one look, while it finds more

struct Options {
  bool stop = false;
  bool container_ended = false;
  std::uint64_t timeout_ns = kDefaultRemoveTimeout_ns;
};

int refuse(const std::string& pool, const std::string& why) {
  complain("unable to remove pool " + escape(pool) + ": " + why);
  return kNo;
}

// "coordinatord (pid 12), worker 34 (python3); live: llama (pid 56)"; "" if nobody is in it.
std::string who_is_in(const Segment& segment, const Snapshot& snapshot) {
  std::string users;
  const auto add = [](std::string& list, const std::string& one) {
    list += (list.empty() ? "" : ", ") + one;
  };
  CoordinatorIdentity coordinator;
  if (coordinator_liveness(segment, &coordinator) != Liveness::kDead) {
    add(users, "coordinatord (pid " + std::to_string(coordinator.process.pid) + ")");
  }
  for (const WorkerView& worker : snapshot.workers) {
    if (process_liveness(worker.process) == Liveness::kDead) continue;
    add(users,
        "worker " + std::to_string(worker.process.pid) + " (" + escape(worker.command) + ")");
  }
  std::string backends;
  for (const BackendView& backend : snapshot.backends) {
    if (!backend.live()) continue;
    add(backends, escape(backend.model) + " (pid " + pid_text(backend.process.pid) + ")" +
                      (backend.left.count != 0 ? ", left: " + left_text(backend.left) : ""));
  }
  if (!backends.empty()) users += (users.empty() ? "live: " : "; live: ") + backends;
  return users;
}

bool has_open(pid_t pid, const struct stat& file) {
  const std::vector<int> fds = list_descriptors(pid).value_or(std::vector<int>());
  return std::any_of(fds.begin(), fds.end(), [&](int fd) {
    struct stat info;
    return stat(proc_path(pid, "fd/" + std::to_string(fd)).c_str(), &info) == 0 &&
           info.st_dev == file.st_dev && info.st_ino == file.st_ino;
  });
}

// "process 12 (python3) of alice": who holds the pool without being its coordinator or a worker, as
// one does that has closed its pool, or a child that a worker forked; "" if nobody does.
std::string who_holds(const std::string& path, const Snapshot& snapshot) {
  struct stat users;
  if (stat((path + ".users").c_str(), &users) != 0) return {};
  std::string holders;
  for (const pid_t pid : list_pids().value_or(std::vector<pid_t>())) {
    const bool is_worker =
        std::any_of(snapshot.workers.begin(), snapshot.workers.end(),
                    [pid](const WorkerView& worker) { return worker.process.pid == pid; });
    if (pid == getpid() || pid == snapshot.coordinator.identity.process.pid || is_worker) continue;
    if (!has_open(pid, users)) continue;
    const auto stat = read_stat(pid);
    const auto uid = read_uid(pid);
    holders += (holders.empty() ? "process " : ", process ") + std::to_string(pid);
    if (stat) holders += " (" + escape(stat->command) + ")";
    if (uid) holders += " of " + user_name(*uid);
  }
  return holders;
}

// --- Stopping through the coordinator ------------------------------------------------------------

int stop_through_coordinator(const Segment& segment, SnapshotReader& reader,
                             const CoordinatorIdentity& coordinator, std::uint64_t until) {
  for (;;) {
    const Snapshot& snapshot = reader.read();
    bool any = false;
    bool asked = false;
    for (const BackendView& backend : snapshot.backends) {
      if (!backend.live()) continue;
      any = true;
      if ((backend.control & kForcedEnd) == kForcedEnd) continue;
      asked |= set_control(segment, backend.ref, kForcedEnd, 0);
    }
    if (asked) ring(segment);
    if (!any) break;
    if (now_ns() >= until) {
      return refuse(segment.name(), "not all is gone in time: " + who_is_in(segment, snapshot) +
                                        "; wait longer with --timeout");
    }
    const JudgeView judge = look_at_judge(segment, now_ns());
    if (judge.state == JudgeState::kDead) {
      return refuse(segment.name(),
                    "the coordinator died while it stopped the backends; run this again");
    }
    if (judge.state == JudgeState::kHangs) {
      return refuse(segment.name(),
                    explain_absence(segment, judge, now_ns()) + ", then run this again");
    }
    poll(nullptr, 0, kLookEvery_ms);
  }
  const auto found = ProcessHandle::open(coordinator.process);
  if (!found.handle) return kDone;
  if (auto sent = found.handle.signal(SIGTERM); !sent && sent.error().system != ESRCH)
    return report(sent.error());
  while (found.handle.liveness() != Liveness::kDead) {
    if (now_ns() >= until) {
      return refuse(segment.name(), "coordinatord (pid " + std::to_string(coordinator.process.pid) +
                                        ") does not leave; wait longer with --timeout");
    }
    poll(nullptr, 0, kLookEvery_ms);
  }
  return kDone;
}

// --- Stopping without one ------------------------------------------------------------------------

// One backend that has to go.
struct Leaving {
  BackendRef backend;
  int stop_signal = SIGTERM;
  Members members;
  bool is_gone = false;
};

// Looks at each that is not gone and sends its processes a signal, 0 is none. Is anything left?
bool look_and_signal(std::vector<Leaving>& all, const Segment* segment, ProcessTable& table,
                     const std::function<int(const Leaving&)>& signal_of) {
  bool any = false;
  for (Leaving& leaving : all) {
    if (leaving.is_gone) continue;
    const Spared spared =
        segment != nullptr ? spared_beside(*segment, leaving.backend) : spared_without_pool();
    Members::Look look;
    for (int pass = 0; pass < kPassesMax; ++pass) {
      look = leaving.members.look(table, spared);
      if (!look.found_new) break;
    }
    leaving.members.learn_traces();
    leaving.is_gone = look.is_gone;
    any |= !look.is_gone;
    if (const int signal = signal_of(leaving); signal != 0 && !look.is_gone) {
      static_cast<void>(leaving.members.signal(signal, spared));
    }
  }
  return any;
}

// stop signal, grace, SIGKILL, gone. Who is left then is named; "": nobody.
std::string stop_processes(std::vector<Leaving>& all, const Segment* segment,
                           std::uint64_t grace_ns, std::uint64_t until) {
  ProcessTable table;
  const std::uint64_t kill_at = std::min(until, add_ns(now_ns(), grace_ns));
  bool any = look_and_signal(all, segment, table,
                             [](const Leaving& leaving) { return leaving.stop_signal; });
  while (any && now_ns() < add_ns(until, kKillMax_ns)) {
    poll(nullptr, 0, kLookEvery_ms);
    const bool kills = now_ns() >= kill_at;
    any = look_and_signal(all, segment, table, [kills](const Leaving& leaving) {
      return kills ? SIGKILL : leaving.stop_signal;
    });
  }
  std::string left;
  for (const Leaving& leaving : all) {
    if (leaving.is_gone) continue;
    left += (left.empty() ? "" : "; ") + left_text(left_record(0, leaving.members.left()));
  }
  return left;
}

// READY, EVICTING, RESERVED and STARTING end as STOPPING or GONE, as the coordinator would do it.
void commit_to_stop(const Segment& segment, const BackendView& backend, std::uint32_t dead_epoch) {
  const StateWord state = load_state(segment, backend.ref.index);
  if (state.state == BackendState::kReady) {
    close_to_leases(segment, backend.ref, dead_epoch);
    commit_stop(segment, backend.ref, dead_epoch);
  } else if (state.state == BackendState::kEvicting) {
    commit_stop(segment, backend.ref, state.owner);
  } else {
    lose_ticket(segment, backend.ref, state);
  }
}

int stop_without_coordinator(const Segment& segment, SnapshotReader& reader,
                             const CoordinatorIdentity& coordinator, std::uint64_t until) {
  // The coordinator's own lock: none starts while its work is done here.
  const Fd singleton(open(segment.path().c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  if (!singleton) return report(fail_errno(errno, "open " + segment.path()).value());
  if (flock(singleton.get(), LOCK_EX | LOCK_NB) != 0) {
    return refuse(segment.name(), "a coordinator has just started; run this again");
  }
  const Snapshot& snapshot = reader.read();
  std::vector<Leaving> all;
  std::uint64_t grace_ns = 0;
  for (const BackendView& backend : snapshot.backends) {
    if (!backend.live()) continue;
    const Effective& effective = backend.settings();
    grace_ns = std::max(grace_ns, effective.get(Setting::kStopGrace));
    if (backend.process.pid > 1 && !backend.external()) {
      all.push_back({backend.ref, static_cast<int>(effective.get(Setting::kStopSignal)),
                     Members(target_of(segment, backend)), false});
    }
    commit_to_stop(segment, backend, coordinator.epoch);
  }
  if (const std::string left = stop_processes(all, &segment, grace_ns, until); !left.empty()) {
    return refuse(segment.name(), "not all is gone in time: " + left +
                                      "; wait longer with --timeout, or end what is named");
  }
  for (const BackendView& backend : snapshot.backends) mark_gone(segment, backend.ref);
  return kDone;
}

// --- Stopping a pool of another layout -----------------------------------------------------------

int stop_other_layout(const Context& context, const NamedFile& named, std::uint64_t until,
                      const Error& why) {
  // Before the backends are read: who runs may start one more.
  const Fd users(open((named.path + ".users").c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  const bool in_use = users && flock(users.get(), LOCK_EX | LOCK_NB) != 0;
  const auto pool = read_frozen(named.file.get(), named.path);
  if (!pool) return report(why);
  if (pool->header.layout_version == kLayoutVersion) {
    // Of another build. PIDs and start times of another namespace name nobody here.
    const auto host = read_host_identity();
    if (!host || pool->header.pid_namespace != host->pid_namespace ||
        pool->header.time_namespace != host->time_namespace) {
      return report(why);
    }
  }
  if (in_use) {
    return refuse(context.pool,
                  "its coordinator or workers, of another version, still run; stop them first");
  }
  std::vector<Leaving> all;
  for (const FrozenBackend& backend : pool->live) {
    if (backend.process.pid <= 1) continue;
    Target target;
    target.first = backend.process;
    if (backend.group == backend.process.pid) target.group = backend.group;
    all.push_back({{}, SIGTERM, Members(std::move(target)), false});
  }
  const std::uint64_t grace_ns = setting_info(Setting::kStopGrace).default_value;
  const std::string left = stop_processes(all, nullptr, grace_ns, until);
  if (left.empty()) return kDone;
  return refuse(context.pool, "not all backends are gone in time: " + left +
                                  "; wait longer with --timeout, or end what is named");
}

// --- The command ---------------------------------------------------------------------------------

bool is_left_by_earlier_boot(const NamedFile& named) {
  const auto header = read_header(named.file.get(), named.path, "");
  return header && !is_of_this_boot(*header).value_or(true);
}

bool is_same(const Segment& segment, const NamedFile& named) {
  struct stat info;
  return fstat(named.file.get(), &info) == 0 && info.st_dev == segment.device() &&
         info.st_ino == segment.inode();
}

int stop_backends(const Context& context, const NamedFile& named, std::uint64_t until) {
  if (is_left_by_earlier_boot(named)) return kDone;  // everyone in it is dead
  const auto looked = Segment::open_read_only(context.pool, context.dir);
  if (!looked) {
    return looked.error().code == Errc::kIncompatible
               ? stop_other_layout(context, named, until, looked.error())
               : report(looked.error());
  }
  // Workers would load again what is stopped here, and hold the pool: nothing is stopped for
  // nothing.
  {
    SnapshotReader reader(*looked);
    const Snapshot& snapshot = reader.read();
    const bool any_worker =
        std::any_of(snapshot.workers.begin(), snapshot.workers.end(), [](const WorkerView& worker) {
          return process_liveness(worker.process) != Liveness::kDead;
        });
    if (any_worker) {
      return refuse(context.pool, "workers are attached and would load again: " +
                                      who_is_in(**looked, snapshot) + "; stop the workers first");
    }
    // One that passes, as a poolctl that sets something, has gone in a moment.
    std::string holders = who_holds(named.path, snapshot);
    for (const std::uint64_t pass = add_ns(now_ns(), kPassing_ns);
         !holders.empty() && now_ns() < std::min(pass, until);
         holders = who_holds(named.path, snapshot)) {
      poll(nullptr, 0, kLookEvery_ms);
    }
    if (!holders.empty()) {
      return refuse(context.pool, "it is held by " + holders +
                                      "; nothing was stopped, stop those processes first");
    }
  }
  const auto segment = Segment::attach(context.pool, {context.dir, false, {}, nullptr});
  if (!segment) return report(segment.error());
  if (!is_same(**segment, named))
    return refuse(context.pool, "another pool has taken its name; run this again");
  SnapshotReader reader(*segment);
  CoordinatorIdentity coordinator;
  return coordinator_liveness(**segment, &coordinator) == Liveness::kDead
             ? stop_without_coordinator(**segment, reader, coordinator, until)
             : stop_through_coordinator(**segment, reader, coordinator, until);
}

// In a process of its own: a writable mapping lasts as long as its process, and with it the lock
// that removal needs exclusively.
int stop_in_child(const Context& context, const NamedFile& named, std::uint64_t until) {
  const pid_t child = fork();
  if (child < 0) {
    return report(
        fail_errno(errno, "start a process", shortage_advice(Needs::kThread, errno)).value());
  }
  if (child == 0) {
    const int code = stop_backends(context, named, until);
    _exit(code);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return kUnusable;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : kUnusable;
}

// What a poolserve left beside the pool. One that lives holds the lock, and keeps all of it.
void remove_door(const std::string& pool_path) {
  const std::string door = pool_path + ".door";
  const std::string lock_path = door + ".lock";
  const Fd lock(open(lock_path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  if (!lock || flock(lock.get(), LOCK_EX | LOCK_NB) != 0) return;
  unlink(door.c_str());
  unlink(lock_path.c_str());
  std::error_code ignored;
  std::filesystem::remove_all(pool_path + ".backends", ignored);  // their sockets
}

int remove(const Context& context, const Options& options) {
  const std::uint64_t until = add_ns(now_ns(), options.timeout_ns);
  // Held open: what is stopped is what is removed, not a pool that takes its name meanwhile.
  const auto named = open_named(context.pool, context.dir);
  if (!named) return report(named.error());
  if (options.stop) {
    if (const int code = stop_in_child(context, *named, until); code != kDone) return code;
  }
  const auto removed =
      remove_pool(context.pool, context.dir, {&*named, options.stop, options.container_ended});
  if (removed) {
    remove_door(named->path);
    return kDone;
  }
  if (removed.error().code != Errc::kBusy) return report(removed.error());
  if (const auto seen = look(context, "")) {
    std::string users = who_is_in(*seen->segment, seen->snapshot);
    if (const std::string holders = who_holds(named->path, seen->snapshot); !holders.empty())
      users += (users.empty() ? "" : "; held by ") + holders;
    if (!users.empty()) {
      return refuse(context.pool,
                    "it is in use by " + users +
                        (options.stop ? "; they came while it was being stopped, run this again"
                                      : "; stop them first, --stop ends backends and coordinator"));
    }
  }
  complain(removed.error().text);
  return kNo;
}

}  // namespace

void add_remove(CLI::App& root, Context& context) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = add_command(
      root, context, "remove", "Take the pool away; with --stop its backends and coordinator first",
      "Exit code 1, naming them, while processes are attached or backends live. --stop ends the\n"
      "backends, leases or not, through the coordinator or, without one, itself, then the "
      "coordinator.\n"
      "Workers have to be stopped before: they would load again. While other processes hold the "
      "pool,\nas children that a worker forked, nothing is stopped either.\n"
      "A pool of an older or newer version is removed in the same way.\n\n"
      "Examples:\n  poolctl remove\n  poolctl --pool test remove --stop --timeout 30s\n",
      [&context, options] { return remove(context, *options); });
  add_flag(command, "--stop", &options->stop, "End the backends and the coordinator first");
  add_flag(
      command, "--container-ended", &options->container_ended,
      "The pool was left by a container that has ended, whose processes cannot be seen from here");
  add_duration(command, "--timeout", &options->timeout_ns,
               "With --stop: wait at most this long (1m)");
}

}  // namespace modelpool::poolctl
