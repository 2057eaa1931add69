#include "protocol/parallel.hpp"

#include <algorithm>

#include "protocol/slots.hpp"
#include "segment/settings_block.hpp"

namespace modelpool {
namespace {

std::uint32_t number_in(const Effective& settings) {
  return static_cast<std::uint32_t>(settings.get(Setting::kParallel));
}

// acquire: a word of this life, or of an earlier one
ParallelWord load_word(const Segment& segment, BackendRef backend) {
  return ParallelWord::unpack(
      segment.backend(backend.index).parallel.load(std::memory_order_acquire));
}

bool is_open_or_closed(BackendState state) {
  return state == BackendState::kReady || state == BackendState::kEvicting;
}

}  // namespace

std::uint64_t settings_generation(const Segment& segment) {
  // acquire: with its publication
  return segment.settings().generation.load(std::memory_order_acquire);
}

Parallel resolve_parallel(const Segment& segment, std::string_view model, const Overrides& given) {
  const Effective settings = resolve_settings(segment, model, &given);
  return {settings.generation(), number_in(settings)};
}

Parallel resolve_parallel(const Segment& segment, BackendRef backend) {
  const BackendRecord& record = segment.backend(backend.index);
  return resolve_parallel(segment, record.model.load(), unpack_given(record.given.load()));
}

void note_parallel(const Segment& segment, BackendRef backend, Parallel parallel) {
  const ParallelWord word{
      backend.generation, ParallelWord::tag_of(parallel.settings),
      static_cast<std::uint16_t>(std::min<std::uint64_t>(parallel.number, kParallelMax))};
  // release: before the state that it decides
  segment.backend(backend.index).parallel.store(word.pack(), std::memory_order_release);
}

std::optional<std::uint32_t> known_parallel(const Segment& segment, BackendRef backend) {
  const ParallelWord word = load_word(segment, backend);
  const bool is_known = word.generation == backend.generation &&
                        word.settings == ParallelWord::tag_of(settings_generation(segment));
  return is_known ? std::optional<std::uint32_t>(word.number) : std::nullopt;
}

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
    judged_[i] = {{i, state.generation}, number_in(settings)};
  }
}

std::optional<std::uint32_t> NextParallel::number_of(const Segment& segment,
                                                     BackendRef backend) const {
  if (may_differ_) {
    const bool is_judged =
        backend.index < judged_.size() && judged_[backend.index].backend == backend;
    return is_judged ? std::optional<std::uint32_t>(judged_[backend.index].number) : std::nullopt;
  }
  const ParallelWord word = load_word(segment, backend);
  const bool was_known =
      word.generation == backend.generation && word.settings == ParallelWord::tag_of(before_);
  return was_known ? std::optional<std::uint32_t>(word.number) : std::nullopt;
}

void NextParallel::settle(const Segment& segment, const LockGuard& guard) const {
  const std::uint64_t now = settings_generation(segment);
  for (std::uint32_t i = 0; i < segment.backends_reached(); ++i) {
    const StateWord state = load_state(segment, i);
    if (!is_open_or_closed(state.state)) continue;
    const BackendRef backend{i, state.generation};
    if (const auto number = number_of(segment, backend)) {
      note_parallel(segment, backend, {now, *number});
    } else {  // whoever asks for a lease finds it out; release: as note_parallel
      segment.backend(i).parallel.store(0, std::memory_order_release);
    }
    settle_counted(segment, backend, &guard);
  }
}

}  // namespace modelpool
