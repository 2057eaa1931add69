#include "protocol/parallel.hpp"

#include <algorithm>

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

}  // namespace modelpool
