#include "protocol/next_parallel.hpp"

#include "protocol/slots.hpp"
#include "segment/settings_block.hpp"

namespace modelpool {
namespace {

bool is_open_or_closed(BackendState state) {
  return state == BackendState::kReady || state == BackendState::kEvicting;
}

}  // namespace

NextParallel::NextParallel(const Segment& segment, const SettingsImage& next) {
  before_ = read_settings(segment, [&](const SettingsView& view) {
    may_differ_ = view.rules_hash() != next.view().rules_hash() ||
                  view.get(Setting::kParallel) != next.view().get(Setting::kParallel);
  });
  if (!may_differ_) return;
  judged_.resize(segment.backends_reached());
  for (std::uint32_t i = 0; i < judged_.size(); ++i) {
    const StateWord state = load_state(segment, i);
    if (!is_open_or_closed(state.state)) continue;
    const BackendRecord& record = segment.backend(i);
    const Overrides given = unpack_given(record.given.load());
    const Effective settings = resolve_settings(next, record.model.load(), &given);
    if (load_state(segment, i).generation != state.generation) continue;
    judged_[i] = {{i, state.generation},
                  static_cast<std::uint32_t>(settings.get(Setting::kParallel))};
  }
}

std::optional<std::uint32_t> NextParallel::number_of(const Segment& segment,
                                                     BackendRef backend) const {
  if (may_differ_) {
    const bool is_judged =
        backend.index < judged_.size() && judged_[backend.index].backend == backend;
    return is_judged ? std::optional<std::uint32_t>(judged_[backend.index].number) : std::nullopt;
  }
  return noted_parallel(segment, backend, before_);
}

void NextParallel::settle(const Segment& segment, const LockGuard& guard) const {
  const std::uint64_t now = settings_generation(segment);
  for (std::uint32_t i = 0; i < segment.backends_reached(); ++i) {
    const StateWord state = load_state(segment, i);
    if (!is_open_or_closed(state.state)) continue;
    const BackendRef backend{i, state.generation};
    if (const auto number = number_of(segment, backend)) {
      note_parallel(segment, backend, {now, *number});
    } else {  // whoever asks for a lease finds it out
      forget_parallel(segment, i);
    }
    settle_counted(segment, backend, &guard);
  }
}

}  // namespace modelpool
