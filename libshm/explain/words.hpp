// What explain, and poolctl's tables, say of a backend, a waiter or a load in the same words.
//
// Safety: any thread; reads only (P12).
//
// Errors: none; what is not known is said so.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "protocol/snapshot.hpp"

namespace modelpool {

// The pool's settings; defaults if it never had any.
const PoolSettings& settings_of(const Snapshot& snapshot);

// Has it not looked for so long that the line passes it over?
bool is_absent(const WaiterView& waiter, std::uint64_t now_ns);

// Is it stopping, and SIGKILL will never come: its stop_grace is off?
bool is_spared_sigkill(const BackendView& backend);
// It serves as many requests at once as its settings let it (`parallel`).
bool is_full(const BackendView& backend);
// Of one with that limit: "2 of 2 requests at once, 3 requests wait, the first for 4s".
std::string load_text(const Snapshot& snapshot, const BackendView& backend);
// Of a load that its loader called failed and that no coordinator has finished yet: how it failed.
std::optional<std::string> load_failure(const Segment& segment, const BackendView& backend);

std::string age_text(std::uint64_t now, std::uint64_t stamp);  // "-" if the stamp is unknown

}  // namespace modelpool
