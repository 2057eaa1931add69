// What a master and its worker say to each other.
//
// Safety: one thread a side; nothing blocks.
//
// Errors: kSystem; receive_control tells a master that has gone from one that says nothing.
#pragma once

#include <string_view>
#include <variant>

#include "config/door.hpp"
#include "fd.hpp"
#include "modelpool/result.hpp"

namespace modelpool::serve {

inline constexpr std::string_view kSaysReady = "ready";  // a worker accepts
inline constexpr std::string_view kSaysDoor = "door";    // a new config, or: it is in force

// Master's side.
Result<> send_door(const Fd& control, const config::Door& door);

// Worker's side, when the socket is readable: a new config, nothing, or the master has gone.
struct NothingSaid {};
struct MasterGone {};
std::variant<NothingSaid, MasterGone, config::Door> receive_control(const Fd& control);
bool say(const Fd& control, std::string_view what);

}  // namespace modelpool::serve
