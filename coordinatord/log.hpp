// What the coordinator says: the lines of config/log.hpp, and events with the keys that `poolctl
// events` prints (event_json.hpp).
//
// Safety: as config/log.hpp.
//
// Errors: none.
#pragma once

#include <cstdint>

#include "config/log.hpp"
#include "segment/layout.hpp"

namespace modelpool::coordinator {

using config::LogFormat;
using config::LogLevel;
using config::parse_log_format;
using config::parse_log_level;

void set_up_log(LogLevel level, LogFormat format);

void log_event(std::uint64_t sequence, const EventData& event);

}  // namespace modelpool::coordinator
