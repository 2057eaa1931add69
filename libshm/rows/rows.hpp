// The rows of modelpool/snapshot.hpp: how they are made of a look inside, and what their fields
// are. Whoever shows rows (JSON, C) loops over their fields here and names none of them.
//
// Safety: pure functions of a snapshot, except that the liveness of processes is looked up.
//
// Errors: none.
//
// Invariants:
//  1. rows.def names every field of every row, once; a row without a member of that name and kind
//     does not compile.
//  2. What is null is decided here (`write_field`), the same for every surface.
#pragma once

#include <concepts>
#include <string>
#include <string_view>
#include <vector>

#include "modelpool/snapshot.hpp"
#include "protocol/events.hpp"
#include "protocol/snapshot.hpp"

namespace modelpool {

// --- Making rows ---------------------------------------------------------------------------------

BackendRow backend_row(const Snapshot& snapshot, const BackendView& backend);
LeaseRow lease_row(const Snapshot& snapshot, const LeaseView& lease);
WorkerRow worker_row(const Snapshot& snapshot, const WorkerView& worker);
WaiterRow waiter_row(const Snapshot& snapshot, const WaiterView& waiter);
ModelRow model_row(std::uint64_t now_ns, std::string_view model, const LoadHistory& history);
EventRow event_row(std::uint64_t sequence, const EventData& event);
StatusRow status_row(const Segment& segment, const Snapshot& snapshot);

// What dump adds to a backend.
struct BackendDetail {
  std::optional<std::uint64_t> start_ticks;
  std::optional<std::uint64_t> pidfd_inode;
  std::optional<std::uint64_t> state_owner;
  std::optional<std::uint64_t> last_used_ms;
  std::optional<std::uint64_t> drain_failed_ms;
  bool size_unknown = false;
  bool counted = false;
  std::uint64_t devices = 0;
  std::optional<std::uint64_t> permit_ms;
};
BackendDetail backend_detail(const Snapshot& snapshot, const BackendView& backend);

// Whole tables. Of the backends only the live ones are shown.
std::vector<BackendRow> backend_rows(const Snapshot& snapshot);
std::vector<LeaseRow> lease_rows(const Snapshot& snapshot);
std::vector<WorkerRow> worker_rows(const Snapshot& snapshot);
std::vector<WaiterRow> waiter_rows(const Snapshot& snapshot);
std::vector<DeviceRow> device_rows(const Snapshot& snapshot);
std::vector<ModelRow> model_rows(const Segment& segment, const Snapshot& snapshot);
std::vector<EventRow> event_rows(const Segment& segment, std::uint64_t first);

// Of one model, without a look at all else. Takes no lock.
ModelLook model_look(const Segment& segment, std::string_view model);
PoolSnapshot pool_snapshot(const Segment& segment, const Snapshot& snapshot);

std::string shown(std::string_view text);  // as it is if it is printable UTF-8, else escaped

// Of the worker in that row; 0 if it is not attached.
pid_t worker_pid(const Snapshot& snapshot, std::uint32_t row);

// --- Describing rows -----------------------------------------------------------------------------

enum class Kind {
  kText,        // "" is null
  kName,        // a text that is always there
  kFlag,        // yes or no
  kTruth,       // yes, no or null
  kNumber,      // always known
  kMaybe,       // a number or null
  kPid,         // 0 is null
  kSignal,      // its number; 0 is null
  kSignalName,  // shown by name; 0 is null
  kTime,        // wall clock; the epoch is null
  kPart,        // a row of its own, or null
  kTexts,       // a list
  kCounters,    // a list of CounterRow
  kMeters,      // a list of MeterSample
  kRows,        // a list of rows of their own
};

struct Field {
  std::string_view name;
  Kind kind;
  std::string_view doc;
};

// Rows that stand in others.
template <class Member>
concept Rows = std::same_as<Member, std::vector<LeftRow>> ||
    std::same_as<Member, std::vector<DeviceRow>> || std::same_as<Member, std::vector<DeviceUseRow>>;

template <Kind kKind, class Member>
constexpr bool is_of_kind() {
  using enum Kind;
  switch (kKind) {
    case kText:
    case kName:
      return std::same_as<Member, std::string>;
    case kFlag:
      return std::same_as<Member, bool>;
    case kTruth:
      return std::same_as<Member, std::optional<bool>>;
    case kNumber:
      return std::same_as<Member, std::uint64_t>;
    case kMaybe:
      return std::same_as<Member, std::optional<std::uint64_t>>;
    case kPid:
      return std::same_as<Member, pid_t>;
    case kSignal:
    case kSignalName:
      return std::same_as<Member, int>;
    case kTime:
      return std::same_as<Member, std::chrono::system_clock::time_point>;
    case kPart:
      return std::is_class_v<Member>;
    case kTexts:
      return std::same_as<Member, std::vector<std::string>>;
    case kCounters:
      return std::same_as<Member, std::vector<CounterRow>>;
    case kMeters:
      return std::same_as<Member, std::vector<MeterSample>>;
    case kRows:
      return Rows<Member>;
  }
  return false;
}

// visit(field, row's member) for each field, in order.
#define VISIT(field_name, field_kind, field_doc, value)                       \
  static_assert(is_of_kind<Kind::k##field_kind, decltype(row.field_name)>()); \
  visit(Field{#field_name, Kind::k##field_kind, field_doc}, row.field_name);

template <class Visit>
void for_each_field(const StopRow& row, Visit&& visit) {
#define STOP VISIT
#include "rows/rows.def"
}
template <class Visit>
void for_each_field(const LeftRow& row, Visit&& visit) {
#define LEFT VISIT
#include "rows/rows.def"
}
template <class Visit>
void for_each_field(const DeviceUseRow& row, Visit&& visit) {
#define DEVICE_USE VISIT
#include "rows/rows.def"
}
template <class Visit>
void for_each_field(const BackendRow& row, Visit&& visit) {
#define BACKEND VISIT
#include "rows/rows.def"
}
template <class Visit>
void for_each_field(const BackendDetail& row, Visit&& visit) {
#define BACKEND_DETAIL VISIT
#include "rows/rows.def"
}
template <class Visit>
void for_each_field(const LeaseRow& row, Visit&& visit) {
#define LEASE VISIT
#include "rows/rows.def"
}
template <class Visit>
void for_each_field(const WorkerRow& row, Visit&& visit) {
#define WORKER VISIT
#include "rows/rows.def"
}
template <class Visit>
void for_each_field(const WaiterRow& row, Visit&& visit) {
#define WAITER VISIT
#include "rows/rows.def"
}
template <class Visit>
void for_each_field(const ModelRow& row, Visit&& visit) {
#define MODEL VISIT
#include "rows/rows.def"
}
template <class Visit>
void for_each_field(const EventRow& row, Visit&& visit) {
#define EVENT VISIT
#include "rows/rows.def"
}
template <class Visit>
void for_each_field(const DeviceRow& row, Visit&& visit) {
#define DEVICE VISIT
#include "rows/rows.def"
}
template <class Visit>
void for_each_field(const CoordinatorRow& row, Visit&& visit) {
#define COORDINATOR VISIT
#include "rows/rows.def"
}
template <class Visit>
void for_each_field(const StatusRow& row, Visit&& visit) {
#define STATUS VISIT
#include "rows/rows.def"
}
#undef VISIT

// --- Showing rows --------------------------------------------------------------------------------

// A writer has null(field), text(field, std::string_view), flag(field, bool), number(field,
// std::uint64_t), signal(field, int), time(field, nanoseconds since 1970), part(field, row),
// texts(field, list), counters(field, list), meters(field, list) and rows(field, list).
template <class Writer, class Member>
void write_field(const Field& field, const Member& value, Writer& writer) {
  if constexpr (std::same_as<Member, std::string>) {
    if (value.empty() && field.kind == Kind::kText) {
      writer.null(field);
    } else {
      writer.text(field, value);
    }
  } else if constexpr (std::same_as<Member, bool>) {
    writer.flag(field, value);
  } else if constexpr (std::same_as<Member, std::uint64_t>) {
    writer.number(field, value);
  } else if constexpr (std::same_as<Member, int>) {
    if (value <= 0) {
      writer.null(field);
    } else if (field.kind == Kind::kSignalName) {
      writer.signal(field, value);
    } else {
      writer.number(field, static_cast<std::uint64_t>(value));
    }
  } else if constexpr (std::same_as<Member, std::chrono::system_clock::time_point>) {
    const std::int64_t ns = std::chrono::nanoseconds(value.time_since_epoch()).count();
    if (ns <= 0) {
      writer.null(field);
    } else {
      writer.time(field, static_cast<std::uint64_t>(ns));
    }
  } else if constexpr (std::same_as<Member, std::vector<std::string>>) {
    writer.texts(field, value);
  } else if constexpr (std::same_as<Member, std::vector<CounterRow>>) {
    writer.counters(field, value);
  } else if constexpr (std::same_as<Member, std::vector<MeterSample>>) {
    writer.meters(field, value);
  } else if constexpr (Rows<Member>) {
    writer.rows(field, value);
  } else if constexpr (requires { value.has_value(); }) {
    if (value) {
      write_field(field, *value, writer);
    } else {
      writer.null(field);
    }
  } else {
    writer.part(field, value);
  }
}

template <class Writer, class Row>
void write_row(const Row& row, Writer& writer) {
  for_each_field(
      row, [&writer](const Field& field, const auto& value) { write_field(field, value, writer); });
}

}  // namespace modelpool
