#include "pressure.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "base/duration.hpp"
#include "base/size.hpp"
#include "base/time.hpp"
#include "judge/host_limit.hpp"
#include "segment/settings_block.hpp"
#include "trouble.hpp"

namespace modelpool::coordinator {
namespace {

std::uint64_t min_available_of(const Snapshot& snapshot) {
  return snapshot.settings ? snapshot.settings->get(Setting::kMinAvailable) : 0;
}

// As far as anybody knows it; 0 = nobody does.
std::uint64_t host_bytes_of(const BackendView& b) {
  if (b.measured.host != 0) return b.measured.host;
  const std::uint64_t known =
      std::max({b.declared.host, b.peak.host, b.size_unknown ? 0 : b.expected.host});
  return known != 0 ? known : b.settings().get(Setting::kMemory);
}

}  // namespace

PressureWatch::PressureWatch(std::shared_ptr<Segment> segment, Read available, Read total)
    : segment_(std::move(segment)), available_(std::move(available)), total_(std::move(total)) {
  const CoordinatorRecord& record = segment_->coordinator();
  pressure_.until_ns = std::min(record.pressure_until_ns.load(std::memory_order_acquire),
                                add_ns(now_ns(), kPressurePauseMax_ns));
  pressure_.pause_ns =
      std::min(record.pressure_pause_ns.load(std::memory_order_acquire), kPressurePauseMax_ns);
}

// The pause first: killed in between, the next one is too long rather than too short.
void PressureWatch::store(const Pressure& pressure) {
  CoordinatorRecord& record = segment_->coordinator();
  const auto write = [](Word& word, std::uint64_t value) {
    if (word.load(std::memory_order_relaxed) != value) word.store(value, std::memory_order_release);
  };
  write(record.pressure_pause_ns, pressure.pause_ns);
  write(record.pressure_until_ns, pressure.until_ns);
  pressure_ = pressure;
}

// Gone, on its way, or it was not ended after all.
void PressureWatch::follow_victim(const Snapshot& snapshot) {
  if (!pressure_.trial || pressure_.trial->gone_ns != kNever_ns) return;
  const BackendView* const b = snapshot.find(victim_);
  if (b != nullptr && b->state.state == BackendState::kStopping) return;
  look_ns_ = 0;
  if (b != nullptr && b->live()) {
    pressure_.trial.reset();
    look_ns_ = add_ns(snapshot.now_ns, kPressureLook_ns);
  } else {
    pressure_.trial->gone_ns = snapshot.now_ns;
  }
}

HostPressure PressureWatch::look(const Snapshot& snapshot) {
  const std::uint64_t min_bytes = min_available_of(snapshot);
  if (min_bytes != min_bytes_) {
    look_ns_ = 0;
    if (const auto fault = find_host_fault(min_bytes, total_())) spdlog::warn("{}", *fault);
  }
  min_bytes_ = min_bytes;
  HostPressure host;
  host.min_bytes = min_bytes;
  if (min_bytes == 0) {
    store({});
    return host;
  }
  follow_victim(snapshot);
  // With nothing loaded there is nothing to look for; a load rings.
  const bool is_idle = snapshot.ready() == 0 && !pressure_.trial;
  host.look_ns = is_idle ? kNever_ns : look_ns_;
  if (is_idle || snapshot.now_ns < look_ns_) return host;
  const std::optional<std::uint64_t> available = available_();
  if (!available) {
    warn_of("memory", "unable to read how much memory is left: min_available is not enforced");
    host.look_ns = look_ns_ = add_ns(snapshot.now_ns, kPressurePause_ns);
    return host;
  }
  available_bytes_ = host.available_bytes = *available;
  const PressureStep step = judge_pressure(pressure_, {snapshot.now_ns, *available, min_bytes});
  if (step.was_in_vain) {
    spdlog::warn(
        "evicting an idle backend did not bring its memory back: {} are left, min_available is {}; "
        "something else takes it, so no more are evicted for that for {}",
        format_size(*available), format_size(min_bytes), format_duration(step.next.pause_ns));
  }
  store(step.next);
  host.may_evict = step.may_evict;
  host.look_ns = look_ns_ = step.look_ns;
  return host;
}

void PressureWatch::follow(const Decision& decision, const Snapshot& snapshot) {
  for (const Action& action : decision.actions) {
    const BackendView* const b = snapshot.find(action.backend);
    if (!action.for_host || b == nullptr) continue;
    victim_ = action.backend;
    pressure_.trial = PressureTrial{host_bytes_of(*b), available_bytes_, kNever_ns};
    look_ns_ = kNever_ns;
  }
}

bool PressureWatch::is_low() const {
  const std::uint64_t min_bytes = pool_setting(*segment_, Setting::kMinAvailable);
  const std::optional<std::uint64_t> available = min_bytes == 0 ? std::nullopt : available_();
  return available && modelpool::is_low(*available, min_bytes, true);
}

}  // namespace modelpool::coordinator
