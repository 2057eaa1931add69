// The coordinator as others see it in the segment: who it is, whether it lives, whether it hangs.
//
// Safety: any thread. Only ring() writes.
//
// Crash: an identity is written before its epoch, so a proof that it is dead proves that epoch
// dead.
//
// Errors: none. What cannot be proved is not dead (P7).
#pragma once

#include <array>
#include <cstdint>

#include "base/process.hpp"
#include "segment/layout.hpp"

namespace modelpool {

// Rings the coordinator: something to look at.
void ring(CoordinatorRecord& coordinator);

// The coordinator's identity and epoch, read so that they belong together.
struct CoordinatorIdentity {
  std::uint32_t epoch = 0;
  ProcessIdentity process;
};
CoordinatorIdentity read_coordinator(const CoordinatorRecord& record);
// Dead only when proved: gone, replaced by a later epoch, or never there.
Liveness coordinator_liveness(const CoordinatorRecord& record,
                              CoordinatorIdentity* found = nullptr);

// Work is due for longer than this and it does not look: it hangs, is stopped, or has no CPU.
inline constexpr std::uint64_t kHungAfter_ns = 2 * kSecond_ns;
// Since when a coordinator hangs: a ring it has not answered, a deadline it slept through, or a
// scan that does not end, older than kHungAfter_ns. 0: it does not, as far as can be seen; with
// nothing due that cannot be told.
std::uint64_t hung_since_ns(const CoordinatorRecord& record, std::uint64_t now_ns);

// Which settings this program knows, by class: with those in use (SettingsHead) they say
// whether it may serve the pool; what a coordinator knows is in its record.
std::array<std::uint64_t, 3> known_features();

// May it be waited for? Not if it is dead or hangs.
enum class JudgeState { kAnswers, kHangs, kDead };
struct JudgeView {
  JudgeState state = JudgeState::kDead;
  Liveness liveness = Liveness::kDead;
  CoordinatorIdentity identity;
  std::uint64_t hung_since_ns = 0;
};
JudgeView look_at_judge(const CoordinatorRecord& record, std::uint64_t now_ns);

}  // namespace modelpool
