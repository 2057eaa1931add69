// A change of the pool's settings: prepared outside of the mutex, published under it.
//
// Safety: any thread. The mutex is held while the settings are copied and histories are looked at.
//
// Crash: failures may be forgotten whose cool-down was to change, without the change following:
// too much, never too little.
//
// Errors: kInvalid: the settings do not fit; kBusy: the mutex, or others change them all the time.
#pragma once

#include <cstdint>
#include <functional>

#include "segment/settings_block.hpp"

namespace modelpool {

// Publishes what `change` makes of the settings in force; calls it again when another writer came
// first. A model whose load_cooldown changes is forgotten to have failed. Tells nobody.
Result<> edit_settings(const Segment& segment, std::uint64_t lock_wait_ns,
                       const std::function<void(Settings&)>& change);

}  // namespace modelpool
