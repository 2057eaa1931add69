#include "protocol/parallel.hpp"

#include "segment/settings_block.hpp"

namespace modelpool {
namespace {

std::uint32_t number_in(const Effective& settings) {
  return static_cast<std::uint32_t>(settings.get(Setting::kParallel));
}

// Each change of the settings notes the numbers of all open backends, or forgets them, so that bits
// that come again are not taken for others.
std::uint64_t pack_of(BackendRef backend, std::uint64_t settings) {
  return pack_half(backend.generation, low_half(settings));
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
  BackendRecord& record = segment.backend(backend.index);
  forget_parallel(segment, backend.index);
  // release, both: each before the next, and before the state that the number decides
  record.parallel.store(pack_half(backend.generation, parallel.number), std::memory_order_release);
  record.parallel_of.store(pack_of(backend, parallel.settings), std::memory_order_release);
}

void forget_parallel(const Segment& segment, std::uint32_t backend) {
  segment.backend(backend).parallel_of.store(0, std::memory_order_release);
}

std::optional<std::uint32_t> noted_parallel(const Segment& segment, BackendRef backend,
                                            std::uint64_t settings) {
  const BackendRecord& record = segment.backend(backend.index);
  const std::uint64_t wanted = pack_of(backend, settings);
  // acquire, all: whoever sees a new number sees afterwards that the old one was forgotten
  if (record.parallel_of.load(std::memory_order_acquire) != wanted) return std::nullopt;
  const std::uint64_t number = record.parallel.load(std::memory_order_acquire);
  if (record.parallel_of.load(std::memory_order_acquire) != wanted) return std::nullopt;
  if (high_half(number) != backend.generation) return std::nullopt;
  return low_half(number);
}

std::optional<std::uint32_t> known_parallel(const Segment& segment, BackendRef backend) {
  return noted_parallel(segment, backend, settings_generation(segment));
}

}  // namespace modelpool
