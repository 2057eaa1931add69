#include "segment/judge.hpp"

#include <algorithm>

#include "base/time.hpp"
#include "segment/futex.hpp"

namespace modelpool {

void ring(CoordinatorRecord& coordinator) {
  // Before the ring: the scan that answers it takes the time away again. relaxed: a hint for people
  if (coordinator.rung_ns.load(std::memory_order_relaxed) == 0) {
    coordinator.rung_ns.store(now_ns(), std::memory_order_relaxed);
  }
  coordinator.doorbell.fetch_add(1, std::memory_order_seq_cst);
  futex_wake_all(coordinator.doorbell);
}

CoordinatorIdentity read_coordinator(const CoordinatorRecord& record) {
  CoordinatorIdentity found;
  for (int attempt = 0; attempt < 100; ++attempt) {
    // acquire: pairs with the epoch's seq_cst store, made after the identity
    found.epoch = static_cast<std::uint32_t>(record.epoch.load(std::memory_order_acquire));
    found.process.pid = static_cast<pid_t>(record.pid.load(std::memory_order_acquire));
    found.process.start_ticks = record.start_ticks.load(std::memory_order_acquire);
    found.process.pidfd_inode = record.pidfd_inode.load(std::memory_order_acquire);
    if (record.epoch.load(std::memory_order_acquire) == found.epoch) break;
  }
  return found;
}

Liveness coordinator_liveness(const CoordinatorRecord& record, CoordinatorIdentity* found) {
  const CoordinatorIdentity now = read_coordinator(record);
  if (found != nullptr) *found = now;
  if (now.epoch == 0) return Liveness::kDead;
  const Liveness liveness = process_liveness(now.process);
  if (liveness == Liveness::kAlive && record.leaving.load(std::memory_order_acquire) == 1) {
    return Liveness::kDead;  // it has left in order and will not look again
  }
  return liveness;
}

std::uint64_t hung_since_ns(const CoordinatorRecord& record, std::uint64_t now_ns) {
  std::uint64_t since = kNever_ns;
  const auto consider = [&](std::uint64_t due_ns) {
    if (due_ns != 0 && age_ns(now_ns, due_ns) > kHungAfter_ns) since = std::min(since, due_ns);
  };
  // acquire, all: each stands for itself, but a coordinator's stores are seen in their order
  const std::uint64_t rung = record.rung_ns.load(std::memory_order_acquire);
  const std::uint32_t answered = record.answered.load(std::memory_order_acquire);
  if (answered != record.doorbell.load(std::memory_order_acquire)) consider(rung);
  consider(record.working_since_ns.load(std::memory_order_acquire));
  const std::uint64_t horizon = record.horizon_ns.load(std::memory_order_acquire);
  if (horizon != kNever_ns) consider(horizon);
  return since == kNever_ns ? 0 : since;
}

std::array<std::uint64_t, 3> known_features() {
  std::array<std::uint64_t, 3> features{};
  for (const SettingInfo& info : kSettings)
    features[static_cast<std::size_t>(info.needed)] |= bit_of(info.id);
  return features;
}

JudgeView look_at_judge(const CoordinatorRecord& record, std::uint64_t now_ns) {
  JudgeView judge;
  judge.liveness = coordinator_liveness(record, &judge.identity);
  if (judge.liveness == Liveness::kDead) return judge;
  judge.hung_since_ns = modelpool::hung_since_ns(record, now_ns);
  judge.state = judge.hung_since_ns == 0 ? JudgeState::kAnswers : JudgeState::kHangs;
  return judge;
}

}  // namespace modelpool
