// The tables as JSON: a contract (snake_case, units in names, unknown is null, additive only).
// One function a shape, used by poolctl and by the language bindings. Not installed.
//
// Safety: pure functions of a snapshot, but for the liveness of processes, which is looked up.
//
// Errors: none; text that is not printable UTF-8 is escaped.
#pragma once

#include <nlohmann/json.hpp>

#include "json/event_json.hpp"
#include "protocol/snapshot.hpp"

namespace modelpool {

using Json = nlohmann::ordered_json;

Json json_text(std::string_view text);                     // null if empty
Json json_ms(std::uint64_t duration_ns);                   // null for kNever_ns
Json json_age_ms(std::uint64_t now, std::uint64_t stamp);  // null if the stamp is unknown
Json json_unless_zero(std::uint64_t value);
Json json_pid(pid_t pid);            // null if there is none
Json json_alive(Liveness liveness);  // null if that cannot be told

// Of the worker in that row; 0 if it is not attached.
pid_t worker_pid(const Snapshot& snapshot, std::uint32_t row);

Json status_json(const Segment& segment, const Snapshot& snapshot);
Json backend_json(const Snapshot& snapshot, const BackendView& backend);
Json list_json(const Snapshot& snapshot);
Json workers_json(const Snapshot& snapshot);
Json leases_json(const Snapshot& snapshot);
Json waiters_json(const Snapshot& snapshot);
Json history_json(std::uint64_t now, const LoadHistory& history);
Json counters_json(const Segment& segment);  // {kind: {reason or "none": count}}
// {name: {value, origin, rule}}, values as `set` takes them.
Json settings_json(const Settings& settings);

}  // namespace modelpool
