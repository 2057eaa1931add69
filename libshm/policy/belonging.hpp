// Who belongs to a backend: what is known of one process becomes one value.
//
// A backend is its first process, the process group and session that go by its number, everyone
// started by one of these, and whoever carries its token. Each kind of evidence has a time in which
// it counts; here they are put in order, and nowhere else.
//
// Safety: pure functions of values.
//
// Crash: none of its business. What was once found to belong is remembered by who asks
// (members.hpp).
//
// Errors: none. What cannot be told is kUnknown, which is neither signalled (P7) nor gone (P3).
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "base/kinds.hpp"
#include "base/time.hpp"

namespace modelpool {

enum class Belongs { kNo, kYes, kUnknown };

struct Certainty {
  Belongs belongs = Belongs::kNo;
  LeftWhy why = LeftWhy::kNone;        // kUnknown: what stands in the way
  std::uint64_t until_ns = kNever_ns;  // kUnknown: ask again then; kNever_ns: only its end tells
};

// Whose a number is now, as that of a process group or of a session.
enum class NumberOwner { kBackend, kAnother, kUnknown };

struct BackendFacts {
  std::uint64_t start_ticks = 0;  // of its first process
  pid_t group = 0;                // the number of its group and session
  NumberOwner group_number = NumberOwner::kUnknown;
  NumberOwner session_number = NumberOwner::kUnknown;
  std::uint64_t alive_ticks = 0;  // its first process had not been seen to end by then
};

enum class TokenSeen {
  kNo,
  kYes,
  kHidden,  // the process is just executing a program: for that moment it shows no environment
};

struct ProcessFacts {
  bool has_ended = false;
  bool is_spared = false;            // a worker, another backend's first process, the judge
  bool is_known = false;             // was found to belong before
  bool is_child_of_member = false;   // of one that lives
  bool is_in_their_session = false;  // one that members began, and in which one lives
  bool is_in_cgroup = false;         // in the cgroup that is the backend's alone
  bool is_readable = true;
  std::uint64_t start_ticks = 0;
  pid_t group = 0;
  pid_t session = 0;
  TokenSeen token = TokenSeen::kNo;
  std::uint64_t hidden_since_ns = 0;
};

// No program takes longer to be executed; what shows no environment after that has none.
inline constexpr std::uint64_t kExecMax_ns = kSecond_ns;
// What could not be read (no descriptors, no memory) is tried again after this.
inline constexpr std::uint64_t kUnreadableRetry_ns = 200 * kMillisecond_ns;

Certainty certainty_of(const BackendFacts& backend, const ProcessFacts& process,
                       std::uint64_t now_ns);

}  // namespace modelpool
