// How many requests at once a backend takes (`parallel`), as its settings say and as its own word
// remembers.
//
// A backend whose settings give a number counts its leases: READY has the flag kCounted
// (counted.hpp). BackendRecord::parallel has the number and the generation of the settings it is
// of; a number of other settings than those in force is not believed but found out anew.
//
// Safety: any thread. resolve_parallel allocates: not under the mutex.
//
// Crash: whoever changes the settings is killed between their publication and the flags: backends
// that did not count begin to at the judge's next scan. Everyone else leaves flags that are set
// without need; whoever asks for a lease next takes them away.
//
// Invariants:
//  1. READY is entered with the flag, unless the mutex is held and the word, of the settings in
//     force, says that there is no limit.
//  2. Anyone may set the flag; it is taken away under the mutex only.
//  3. Whoever publishes settings puts numbers and flags right in the same hold (next_parallel.hpp).
//
// Errors: none.
#pragma once

#include <cstdint>
#include <optional>

#include "segment/segment.hpp"

namespace modelpool {

//   63            32 31        16 15         0
//  |   generation   |  settings  |  requests  |     requests 0: no limit
// settings: the low bits of their generation. Each change writes the word of every open backend, so
// bits that come again are not taken for others.
struct ParallelWord {
  std::uint32_t generation = 0;
  std::uint16_t settings = 0;
  std::uint16_t number = 0;

  constexpr std::uint64_t pack() const {
    return std::uint64_t{generation} << 32 | std::uint64_t{settings} << 16 | number;
  }
  static constexpr ParallelWord unpack(std::uint64_t word) {
    return {static_cast<std::uint32_t>(word >> 32), static_cast<std::uint16_t>(word >> 16),
            static_cast<std::uint16_t>(word)};
  }
  static constexpr std::uint16_t tag_of(std::uint64_t settings_generation) {
    return static_cast<std::uint16_t>(settings_generation);
  }
};

// A number, and the generation of the settings that give it.
struct Parallel {
  std::uint64_t settings = 0;
  std::uint32_t number = 0;
};

std::uint64_t settings_generation(const Segment& segment);
// What the settings in force give a backend, what `ready` gave it included.
Parallel resolve_parallel(const Segment& segment, BackendRef backend);
Parallel resolve_parallel(const Segment& segment, std::string_view model, const Overrides& given);
// By the ticket's holder before READY, then under the mutex.
void note_parallel(const Segment& segment, BackendRef backend, Parallel parallel);
// By its own word; none: that is of another life or of other settings.
std::optional<std::uint32_t> known_parallel(const Segment& segment, BackendRef backend);

}  // namespace modelpool
