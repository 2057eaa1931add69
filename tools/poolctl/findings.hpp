// What is wrong with a pool, by what was seen of it: what `poolctl doctor` says. A finding is what
// it is, since when, and a command that mends it or begins to.
//
// Safety: plain values, pure functions. Facts are read by facts.hpp. What the rules say of a model
// or a waiter is asked of the rules (policy/), never said a second time here.
//
// Errors: none. Everything of the segment is input: texts are escaped, and what stands in a command
// is a word of a shell.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "protocol/histories.hpp"
#include "protocol/snapshot.hpp"
#include "segment/judge.hpp"
#include "segment/mutex.hpp"

namespace modelpool::poolctl {

// In the order in which they are shown: what stands in the way of everything else first.
enum class FindingKind {
  kTwoPools,
  kNameLost,
  kOtherLayout,
  kOtherBoot,
  kWrongOwner,
  kWrongMode,
  kDamaged,
  kNoCoordinator,
  kCoordinatorHangs,
  kMutexHeld,
  kWorkerStopped,
  kBackendUnkillable,
  kBackendEscaped,
  kAllPinned,
  kWaiterWithoutHope,
  kModelCooling,
  kMemoryOverLimit,
  kHostMemoryLow,
  kDescriptorsNearlyUsedUp,
  kTableNearlyFull,
  kOldProgram,
  kReloadRefused,
};
inline constexpr std::size_t kFindingKindCount = 22;
std::string_view finding_name(FindingKind kind);  // "two_pools": for ever

struct Finding {
  FindingKind kind{};
  std::string text;
  std::string command;
  std::optional<std::uint64_t> age_ns{};  // since when; empty: that is not known
  std::string model{};                    // empty: of none alone
  pid_t pid = 0;                          // 0: of no process alone
};

// The commands that act on this pool.
struct Commands {
  std::string poolctl;  // "poolctl --dir /d", and as its owner
  std::string start;    // of its coordinator, with the config and flags that hold now

  uid_t uid = 0;  // who runs them

  std::string on_model(std::string_view verb, const std::string& model) const;
  std::string as_root(const std::string& command) const;  // what a user may not do to another's
};

// --- Where it lies -------------------------------------------------------------------------------

struct FileFacts {
  std::string path;
  bool is_dir = false;
  uid_t uid = 0;
  uid_t wanted_uid = 0;
  mode_t mode = 0;                        // its permissions
  std::optional<std::uint64_t> age_ns{};  // since owner or mode, or something else, was changed
};

// Another pool of the name.
struct TwinFacts {
  std::string path;
  std::string poolctl;  // on that one
  bool is_judged = false;
  std::uint32_t live = 0;  // backends
};

// One that had the name.
struct LostFacts {
  std::string found_at;
  pid_t holder = 0;
  pid_t judge = 0;  // 0: nobody ends its backends
  std::size_t live = 0;
};

struct PlaceFacts {
  Commands commands;
  std::vector<FileFacts> files;
  std::vector<TwinFacts> twins;  // two and more, or none
  std::vector<LostFacts> lost;
  std::uint32_t layout = 0;  // of the file; 0: there is none, or it is no segment
  std::size_t live = 0;      // backends, of a file of another layout
  std::optional<std::uint64_t> earlier_boot_age_ns{};  // it was made so long ago, before this boot
};

std::vector<Finding> examine_place(const PlaceFacts& facts);

// --- What is in it -------------------------------------------------------------------------------

// What /proc shows of a process of the pool. It is not here if it cannot be told, or is another.
struct ProcessFacts {
  std::string command;
  char state = '?';                              // as in ProcessStat
  std::optional<std::uint64_t> descriptors{};    // open
  std::uint64_t descriptors_max = 0;             // soft limit
  std::uint64_t descriptors_hard = 0;            // how far it may be raised
  std::optional<std::string> removed_program{};  // which it still runs
  bool is_stopped() const { return state == 'T' || state == 't'; }
  bool is_stuck() const { return state == 'D'; }
};

struct TableFacts {
  std::string name;  // as coordinatord's flag: "workers"
  std::uint64_t used = 0;
  std::uint64_t limit = 0;
  pid_t pid = 0;  // whose; 0: the pool's
};

// A process that carries the pool's token, and is of no backend that there is.
struct EscapedFacts {
  pid_t pid = 0;
  std::string command;
  std::optional<std::uint64_t> age_ns{};
};

struct PoolFacts {
  Commands commands;
  bool is_copy = false;  // of a segment: it has no processes and needs no judge
  JudgeView judge;
  LockHolder mutex;
  std::map<pid_t, ProcessFacts> processes;
  std::vector<TableFacts> tables;
  std::vector<HistoryView> histories;
  std::vector<EscapedFacts> escaped;
  std::optional<std::uint64_t> available_bytes{};  // of the host
  std::array<std::uint64_t, 3> features{};         // that this program knows
};

std::vector<Finding> examine_pool(const Snapshot& snapshot, const PoolFacts& facts);

}  // namespace modelpool::poolctl
