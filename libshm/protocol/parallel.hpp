// How many requests at once a backend takes (`parallel`), as its settings say and as its own word
// remembers.
//
// A backend whose settings give a number counts its leases: READY has the flag kCounted
// (counted.hpp). BackendRecord::parallel has the number, parallel_of the generation of the settings
// it is of; a number of other settings than those in force is not believed but found out anew.
// Workers that do not know the setting count by the number alone (DESIGN, Programs of two
// versions), so it stands there as it is.
//
// Safety: any thread. resolve_parallel allocates: not under the mutex.
//
// Crash: whoever changes the settings is killed between their publication and the flags: backends
// that did not count begin to at the judge's next scan. Everyone else leaves flags that are set
// without need; whoever asks for a lease next takes them away. While a number is written it is of
// no settings.
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
// Nobody knows its number until somebody finds it out. By those who may note it.
void forget_parallel(const Segment& segment, std::uint32_t backend);
// The number that was noted with these settings, by their generation; none: it is of another life
// or of other settings.
std::optional<std::uint32_t> noted_parallel(const Segment& segment, BackendRef backend,
                                            std::uint64_t settings);
// The same with the settings in force.
std::optional<std::uint32_t> known_parallel(const Segment& segment, BackendRef backend);

}  // namespace modelpool
