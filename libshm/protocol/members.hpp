// The processes of one backend: found, held by pidfd, signalled, and proved gone (P3, P7, P9). The
// coordinator ends backends by it, and so does `poolctl remove` without a coordinator.
//
// What belongs is told by policy/belonging.hpp from what /proc shows at one look. Whoever belongs
// is held from then on. So members are best learned while the first process lives: later, those
// that left its session and dropped its token have no sign of it any more.
//
// Safety: one thread for an object; a ProcessTable belongs to one thread.
//
// Crash: holds nothing but descriptors. Who comes next learns anew.
//
// Errors: a process that cannot be opened, examined or signalled is not gone. left() names it.
//
// Invariants:
//  1. A process is examined, then opened, and held only if it is the same still: what was examined
//     is what is signalled (P7).
//  2. Gone is what a look finds that met no member from its beginning to its end, saw everyone who
//     was there, and met nobody of whom it cannot be told. A member that has ended meanwhile counts
//     as met.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/cgroup.hpp"
#include "base/process.hpp"
#include "base/process_table.hpp"
#include "policy/belonging.hpp"
#include "protocol/snapshot.hpp"

namespace modelpool {

// What is to be ended.
struct Target {
  ProcessIdentity first;
  pid_t group = 0;          // its own number; 0: the first process is all of it
  std::string token;        // value of MODELPOOL_BACKEND; empty: it carries none
  bool is_spawned = false;  // by this pool's spawn: also what runs as another user is ended (P7)
  bool in_session = false;  // of who started it: that session is not its own
  ProcessIdentity adopter;  // whose children are all of it; pid 0: nobody's are
  std::uint64_t alive_ticks =
      0;  // the first process had not been seen to end by then; 0: not known
  // It ran as this user when it was first seen: what it became it was made by what is the pool's
  // own (P7).
  bool was_own = false;
  std::string address;
  std::vector<ProcessIdentity> known;  // who was found to belong before
};
Target target_of(const Segment& segment, const BackendView& backend);

// Who is never signalled, in whatever group they are: read once for all backends of a pool.
class SparedProcesses {
 public:
  SparedProcesses();  // without a pool
  explicit SparedProcesses(const Segment& segment);

 private:
  friend class Spared;
  struct First {
    std::uint32_t slot = 0;
    bool is_stopping = false;
  };

  std::set<pid_t> judges_;              // who ends backends, and who started that
  std::set<pid_t> workers_;             // attached
  std::multimap<pid_t, First> firsts_;  // the first processes of backends
  dev_t device_ = 0;  // of the segment: a worker that has executed another program does not map it
  ino_t inode_ = 0;
  mutable std::map<pid_t, bool> maps_;  // of workers that were asked for
};

// The same as one backend has it: other backends are spared, too.
class Spared {
 public:
  Spared(std::shared_ptr<const SparedProcesses> all, std::uint32_t slot)
      : all_(std::move(all)), slot_(slot) {}

  bool is_judge(pid_t pid) const { return all_->judges_.contains(pid); }
  bool is_worker(pid_t pid) const;
  bool is_other(pid_t pid) const;  // the first process of another backend

 private:
  std::shared_ptr<const SparedProcesses> all_;
  std::uint32_t slot_;
};
Spared spared_beside(const Segment& segment, BackendRef backend);
Spared spared_without_pool();

// "process 12 (server) of bob: the system refuses to signal it", one after the other.
std::string left_text(const LeftRecord& left);
LeftRecord left_record(std::uint32_t generation, const std::vector<LeftProcess>& left);
KnownRecord known_record(std::uint32_t generation, const std::vector<ProcessIdentity>& known);

// kNone: this process of the target may be signalled. Another user's may if this pool's spawn has
// started it, which no record proves: it carries the token, or `is_proved`, as its first process is
// by was_own.
LeftWhy why_not_signalled(const Target& target, pid_t pid, const Spared& spared, bool is_proved);

class Members {
 public:
  explicit Members(Target target);

  const Target& target() const { return target_; }
  // What is known better by now: when the first process was last alive, and a handle that proves
  // it.
  void update(Target target, ProcessHandle first);

  struct Look {
    bool is_gone = false;
    bool found_new = false;
    std::uint64_t again_ns = kNever_ns;  // look again then, though nobody ends
  };
  Look look(ProcessTable& table, const Spared& spared);
  // The same of many: /proc is read once for all.
  struct Request {
    Members* members = nullptr;
    Spared spared;
    Look look = {};
  };
  static void look_at_all(ProcessTable& table, std::vector<Request>* requests);

  // Notes, once, by what else the backend is known: its cgroup. After a look that found the first
  // process alive.
  void learn_traces();
  // Lets go of the descriptors and remembers who the members are.
  void remember();

  void mark_signalled(pid_t pid, int signal);
  struct Sent {
    bool any = false;
    bool owed = false;  // the system refused, perhaps for the moment
  };
  // To whoever has not had this signal.
  Sent signal(int signal, const Spared& spared);

  bool any_lives() const;
  bool has_obstacle() const;  // somebody may not be signalled, or cannot be told
  bool is_empty() const { return members_.empty(); }
  // Of everyone whose end is worth a look.
  void add_descriptors(std::vector<int>* into) const;
  std::vector<LeftProcess> left() const;
  // Who belongs, but for the first process: what a successor has to know (Target::known).
  std::vector<ProcessIdentity> known() const;

 private:
  struct Member {
    ProcessIdentity identity;
    ProcessHandle handle;    // none: remembered, to be opened again
    bool is_proved = false;  // to be of what this pool's spawn started, or of this user
    int signalled = 0;
    LeftWhy refused = LeftWhy::kNone;
  };
  struct Suspect {
    LeftWhy why = LeftWhy::kNone;
    std::uint64_t again_ns = kNever_ns;
    ProcessHandle handle;
  };
  // What one look goes by, and what it has found.
  struct Pass {
    Members& members;
    ProcessTable& table;
    Spared spared;
    BackendFacts backend = {};
    std::set<pid_t> in_cgroup = {};
    std::map<pid_t, pid_t> sessions = {};  // that members began, with one who lives in it
    bool has_met_any = false;              // member
    bool is_believed = false;              // what its record says of it
    bool with_parents = false;   // a member lived when it began: its children have it for a parent
    ProcessHandle adopter = {};  // none: it has ended
    Look look = {};
  };

  Pass begin_look(ProcessTable& table, Spared spared);
  struct Everyone;
  Look end_look(Pass* pass, std::uint64_t everyone_ns);
  void remember_known();
  void drop_ended();
  bool is_believed(const Spared& spared) const;
  void hold_first(Pass* pass);
  void open_remembered(Pass* pass);
  void take_cgroup(Pass* pass);
  bool was_begun(pid_t session) const;
  bool take_session(Pass* pass, pid_t member, pid_t session) const;
  BackendFacts facts(const Spared& spared);
  enum class Told { kNow, kLater, kEnded };
  Told judge(Pass* pass, ProcessTable::Entry& entry);
  void prove_members();
  bool is_proved(pid_t pid, const Member& member) const;
  ProcessFacts examine(const Pass& pass, ProcessTable::Entry& entry) const;
  void read_mark(ProcessTable::Entry& entry, ProcessFacts* facts) const;
  bool is_living_member(pid_t pid) const;
  void suspect(pid_t pid, const Certainty& told);
  void forget_suspects();
  void forget_suspect(pid_t pid);
  void find_listeners(Pass* pass);
  void kill_groups() const;

  Target target_;
  std::uint64_t token_hash_ = 0;
  ProcessHandle first_;      // also after its end: by it the group is known and signalled
  pid_t first_session_ = 0;  // the session the first process was found in; 0: not known
  bool first_is_proved_ = false;
  std::map<pid_t, Member> members_;
  std::map<pid_t, Suspect> suspects_;                // of the last look
  NumberOwner group_owner_ = NumberOwner::kUnknown;  // at the last look
  NumberOwner session_owner_ = NumberOwner::kUnknown;
  std::map<pid_t, std::uint64_t> groups_seen_ns_;  // at the last look, in sessions of the backend
  bool is_shared_ = false;  // group or cgroup, with somebody who must not be signalled
  bool has_traces_ = false;
  std::optional<Cgroup> cgroup_;  // the backend's alone
};

}  // namespace modelpool
