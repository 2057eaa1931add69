// The settings of a pool: published by one store, read in place.
//
// Safety: readers are lock-free, any thread, also on read-only maps. They copy what they ask for,
// never the whole. Writers exclude each other by the mutex, and none overwrites another's change
// (protocol/settings_change.hpp).
//
// Crash: a writer that dies before the store of the generation leaves the old settings whole. The
// next writer overwrites what it left in the copy that nobody reads.
//
// Errors: none.
#pragma once

#include <string_view>

#include "segment/segment.hpp"
#include "segment/settings_image.hpp"

namespace modelpool {

// --- Reading -------------------------------------------------------------------------------------

// Calls read(view), and again when a writer came between: the last call has read one publication.
// Returns its generation; 0: the pool never had settings, and nothing was read.
template <class Read>
std::uint64_t read_settings(const Segment& segment, Read read) {
  constexpr int kAttempts = 1000;  // bounded: the generation is input too
  const Word& generation = segment.settings().generation;
  for (int attempt = 0;; ++attempt) {
    // seq_cst here, acquire in the view: a word of the publication after the next was stored after
    // the next one's generation, so whoever reads that word reads another generation below.
    const std::uint64_t before = generation.load(std::memory_order_seq_cst);
    if (before == 0) return 0;
    read(SettingsView(segment.settings_copy(before), segment.settings_copy_words()));
    if (generation.load(std::memory_order_seq_cst) == before || attempt == kAttempts) return before;
  }
}

// The pool's value, or the default.
std::uint64_t pool_setting(const Segment& segment, Setting id);
// What applies to a model. Allocates: not under the mutex.
Effective resolve_settings(const Segment& segment, std::string_view model,
                           const Overrides* given_at_ready = nullptr);
Effective resolve_settings(const SettingsImage& image, std::string_view model,
                           const Overrides* given_at_ready = nullptr);
PoolSettings read_pool_settings(const Segment& segment);
// All of them, for who shows or changes them.
Settings load_settings(const Segment& segment, std::uint64_t* generation = nullptr);

// --- Writing -------------------------------------------------------------------------------------

// Under the mutex. REQUIRES: the image was made of the settings in force.
void publish_settings(const Segment& segment, const LockGuard& guard, const SettingsImage& image);

}  // namespace modelpool
