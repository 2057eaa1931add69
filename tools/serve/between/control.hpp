// What a master and its worker say to each other.
//
// Safety: one thread a side; nothing blocks.
//
// Errors: kSystem; receive_control tells apart a master that has gone, one that says nothing, and a
// config that could not be taken for want of a descriptor.
#pragma once

#include <string_view>
#include <variant>

#include "between/fd.hpp"
#include "config/door.hpp"
#include "modelpool/result.hpp"

namespace modelpool::serve {

inline constexpr std::string_view kSaysReady = "ready";  // a worker accepts
inline constexpr std::string_view kSaysDoor = "door";    // a new config, or: it is in force

// Master's side.
Result<> send_door(const Fd& control, const config::Door& door);

// Worker's side, when the socket is readable: a new config, or what came instead.
struct NothingSaid {};
struct MasterGone {};
struct DoorLost {};
std::variant<NothingSaid, MasterGone, DoorLost, config::Door> receive_control(const Fd& control);
bool say(const Fd& control, std::string_view what);

}  // namespace modelpool::serve
