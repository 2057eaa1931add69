#include "rows.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/name.hpp"
#include "base/time.hpp"
#include "rows/rows.hpp"

namespace modelpool::c {
namespace {

constexpr std::size_t kRowMax_bytes = 64 * 1024;  // more is no size, but an unset field
constexpr std::uint32_t kTextBehind_bytes = 256;  // a text that has no place in the structure
static_assert(kModelNameMax_bytes < kTextBehind_bytes);

// --- Where fields stand --------------------------------------------------------------------------

// A member of a structure; bytes 0: it has none of that name.
struct Member {
  std::size_t offset = 0;
  std::size_t bytes = 0;
  bool is_signed = false;
};

template <class T>
constexpr Member member_at(std::size_t offset) {
  return {offset, sizeof(T), std::is_signed_v<T> && !std::is_array_v<T>};
}

constexpr std::int32_t kind_of(Kind kind) {
  switch (kind) {
    case Kind::kText:
    case Kind::kName:
      return MODELPOOL_FIELD_TEXT;
    case Kind::kFlag:
    case Kind::kTruth:
      return MODELPOOL_FIELD_FLAG;
    case Kind::kNumber:
    case Kind::kMaybe:
    case Kind::kPid:
    case Kind::kSignal:
    case Kind::kSignalName:
    case Kind::kTime:
      return MODELPOOL_FIELD_NUMBER;
    case Kind::kPart:  // its fields stand on their own
    case Kind::kTexts:
    case Kind::kCounters:
    case Kind::kMeters:
    case Kind::kRows:
      break;  // in the JSON only
  }
  return 0;
}

constexpr std::int64_t unknown_of(Kind kind, const Member& member) {
  switch (kind) {
    case Kind::kTruth:
    case Kind::kTime:
      return MODELPOOL_UNKNOWN;
    case Kind::kMaybe:
      return member.is_signed ? MODELPOOL_UNKNOWN : 0;
    case Kind::kPid:
    case Kind::kSignal:
    case Kind::kSignalName:
      return 0;
    case Kind::kText:
    case Kind::kName:
    case Kind::kFlag:
    case Kind::kNumber:
    case Kind::kPart:
    case Kind::kTexts:
    case Kind::kCounters:
    case Kind::kMeters:
    case Kind::kRows:
      break;
  }
  return MODELPOOL_ALWAYS_KNOWN;
}

constexpr Member behind(Kind kind, std::size_t* end) {
  Member member;
  switch (kind_of(kind)) {
    case 0:
      return {};
    case MODELPOOL_FIELD_TEXT:
      member = {0, kTextBehind_bytes, false};
      break;
    case MODELPOOL_FIELD_FLAG:
      member = {0, sizeof(std::int32_t), true};
      break;
    default:
      member = {0, sizeof(std::int64_t), true};
  }
  const std::size_t alignment = member.bytes < 8 ? member.bytes : 8;
  member.offset = (*end + alignment - 1) / alignment * alignment;
  *end = member.offset + member.bytes;
  return member;
}

struct Entry {
  const char* name = nullptr;
  const char* doc = nullptr;
  Kind kind{};
  Member member;
};

template <std::size_t kCount>
struct Layout {
  std::array<modelpool_field, kCount> fields{};
  std::size_t row_bytes = 0;
};

constexpr std::string_view kModel = "model";

// Fields of kind 0 hold the place of what a C row does not show, so that writers can count.
template <class Struct, std::size_t kCount>
constexpr Layout<kCount> lay_out(std::array<Entry, kCount> entries) {
  Layout<kCount> layout;
  std::size_t end = sizeof(Struct);
  for (std::size_t i = 0; i < kCount; ++i) {
    Entry& entry = entries[i];
    if (entry.member.bytes == 0 || entry.name == kModel) entry.member = behind(entry.kind, &end);
    layout.fields[i] = {entry.name,
                        entry.doc,
                        kind_of(entry.kind),
                        static_cast<std::uint32_t>(entry.member.offset),
                        static_cast<std::uint32_t>(entry.member.bytes),
                        entry.member.is_signed,
                        unknown_of(entry.kind, entry.member)};
  }
  layout.row_bytes = (end + 7) / 8 * 8;
  return layout;
}

#define MEMBER(type, name)                                                         \
  []<class T>(const T* row) {                                                      \
    if constexpr (requires { row->name; }) {                                       \
      return member_at<std::remove_cvref_t<decltype(T::name)>>(offsetof(T, name)); \
    } else {                                                                       \
      return Member();                                                             \
    }                                                                              \
  }(static_cast<const type*>(nullptr))
#define ENTRY(key, doc, kind, member) Entry{key, doc, Kind::k##kind, member},

// Fields of a part come behind those of its row.
constexpr auto kBackends = lay_out<modelpool_backend>(std::array{
#define BACKEND(name, kind, doc, value) ENTRY(#name, doc, kind, MEMBER(modelpool_backend, name))
#include "rows/rows.def"
#define STOP(name, kind, doc, value) \
  ENTRY("stop." #name, doc, kind, MEMBER(modelpool_backend, stop_##name))
#include "rows/rows.def"
});
constexpr auto kLeases = lay_out<modelpool_lease_row>(std::array{
#define LEASE(name, kind, doc, value) ENTRY(#name, doc, kind, MEMBER(modelpool_lease_row, name))
#include "rows/rows.def"
});
constexpr auto kWorkers = lay_out<modelpool_worker>(std::array{
#define WORKER(name, kind, doc, value) ENTRY(#name, doc, kind, MEMBER(modelpool_worker, name))
#include "rows/rows.def"
});
constexpr auto kWaiters = lay_out<modelpool_waiter>(std::array{
#define WAITER(name, kind, doc, value) ENTRY(#name, doc, kind, MEMBER(modelpool_waiter, name))
#include "rows/rows.def"
});
// Two of its members have names that JSON does not.
constexpr auto named_as_in_c(auto entries) {
  for (Entry& entry : entries) {
    const std::string_view name = entry.name;
    if (name == "seq") entry.member = MEMBER(modelpool_event, sequence);
    if (name == "time") entry.member = MEMBER(modelpool_event, time_ms);
  }
  return entries;
}
constexpr auto kEvents = lay_out<modelpool_event>(named_as_in_c(std::array{
#define EVENT(name, kind, doc, value) ENTRY(#name, doc, kind, MEMBER(modelpool_event, name))
#include "rows/rows.def"
}));
constexpr auto kStatus = lay_out<modelpool_status>(std::array{
#define STATUS(name, kind, doc, value) ENTRY(#name, doc, kind, MEMBER(modelpool_status, name))
#include "rows/rows.def"
#define COORDINATOR(name, kind, doc, value) \
  ENTRY("coordinator." #name, doc, kind, MEMBER(modelpool_status, coordinator_##name))
#include "rows/rows.def"
});
struct ModelStruct {
  std::size_t struct_bytes;
};
constexpr auto kModels = lay_out<ModelStruct>(std::array{
#define MODEL(name, kind, doc, value) ENTRY(#name, doc, kind, Member())
#include "rows/rows.def"
});

template <class Struct, std::size_t kCount>
constexpr RowTable table_of(const Layout<kCount>& layout) {
  return {layout.fields, sizeof(Struct), layout.row_bytes, MEMBER(Struct, model).offset};
}

// By number, from 1.
constexpr std::array kTables = {
    table_of<modelpool_backend>(kBackends), table_of<modelpool_lease_row>(kLeases),
    table_of<modelpool_worker>(kWorkers),   table_of<modelpool_waiter>(kWaiters),
    table_of<modelpool_event>(kEvents),     table_of<modelpool_status>(kStatus),
    table_of<ModelStruct>(kModels),
};
static_assert(MODELPOOL_BACKENDS == 1 && MODELPOOL_MODELS == kTables.size());

// --- Writing rows --------------------------------------------------------------------------------

void write_number(char* row, const modelpool_field& field, std::uint64_t value) {
  if (field.bytes == sizeof(std::uint32_t)) {
    const auto half = static_cast<std::uint32_t>(value);
    std::memcpy(row + field.offset, &half, sizeof half);
  } else {
    std::memcpy(row + field.offset, &value, sizeof value);
  }
}

// Writes one field after the other, into a row of which nothing is known yet.
class RowWriter {
 public:
  RowWriter(char* row, std::span<const modelpool_field> fields, std::size_t next, std::size_t part)
      : row_(row), fields_(fields), next_(next), part_(part) {}

  void null(const Field&) { ++next_; }
  void text(const Field&, std::string_view value) {
    const modelpool_field& field = fields_[next_++];
    write_text(row_ + field.offset, field.bytes, value);
  }
  void flag(const Field&, bool value) { write_number(row_, fields_[next_++], value); }
  void number(const Field&, std::uint64_t value) {
    const modelpool_field& field = fields_[next_++];
    // More would read as unknown.
    const std::uint64_t most = field.is_signed != 0 ? INT64_MAX : UINT64_MAX;
    write_number(row_, field, std::min(value, most));
  }
  void signal(const Field& field, int value) { number(field, static_cast<std::uint64_t>(value)); }
  void time(const Field& field, std::uint64_t wall_ns) { number(field, wall_ns / kMillisecond_ns); }
  template <class Row>
  void part(const Field&, const Row& row) {
    ++next_;
    RowWriter writer(row_, fields_, part_, fields_.size());
    write_row(row, writer);
  }
  void texts(const Field&, const std::vector<std::string>&) { ++next_; }
  void counters(const Field&, const std::vector<CounterRow>&) { ++next_; }
  void meters(const Field&, const std::vector<MeterSample>&) { ++next_; }
  template <class Row>
  void rows(const Field&, const std::vector<Row>&) {
    ++next_;
  }

 private:
  char* row_;
  std::span<const modelpool_field> fields_;
  std::size_t next_;
  std::size_t part_;
};

std::vector<char> blank_row(const RowTable& table) {
  std::vector<char> row(table.row_bytes);
  for (const modelpool_field& field : table.fields) {
    if (field.kind == MODELPOOL_FIELD_NUMBER || field.kind == MODELPOOL_FIELD_FLAG) {
      const std::int64_t unknown = field.unknown == MODELPOOL_ALWAYS_KNOWN ? 0 : field.unknown;
      write_number(row.data(), field, static_cast<std::uint64_t>(unknown));
    }
  }
  return row;
}

template <class Row>
std::size_t count_fields(const Row& row) {
  std::size_t count = 0;
  for_each_field(row, [&count](const Field&, const auto&) { ++count; });
  return count;
}

// The beginning of the model's name, for the structure.
void write_short_model(char* row, const RowTable& table) {
  if (table.model_offset == 0) return;
  for (const modelpool_field& field : table.fields) {
    if (field.name != kModel) continue;
    write_text(row + table.model_offset, MODELPOOL_MODEL_BYTES, row + field.offset);
    return;
  }
}

template <class Row>
void copy_rows(const std::vector<Row>& rows, const RowTable& table, const Rows& to) {
  *to.count = rows.size();
  const std::vector<char> blank = blank_row(table);
  std::vector<char> made;
  for (std::size_t i = 0; i < std::min(rows.size(), to.capacity); ++i) {
    made = blank;
    RowWriter writer(made.data(), table.fields, 0, count_fields(rows[i]));
    write_row(rows[i], writer);
    write_short_model(made.data(), table);
    std::memcpy(made.data(), &to.written_bytes, sizeof to.written_bytes);  // struct_bytes
    char* const at = static_cast<char*>(to.rows) + i * to.row_bytes;
    std::memcpy(at, made.data(), to.written_bytes);
    std::memset(at + to.written_bytes, 0, to.row_bytes - to.written_bytes);
  }
}

Result<> check(const Rows& to) {
  if (to.count == nullptr) return fail(Errc::kInvalid, "unable to go on: count is NULL");
  if (to.capacity == 0) return {};
  if (to.rows == nullptr) return fail(Errc::kInvalid, "unable to go on: rows is NULL");
  if (to.row_bytes < to.written_bytes || to.row_bytes > kRowMax_bytes ||
      to.row_bytes % sizeof(std::uint64_t) != 0) {
    return fail(Errc::kInvalid, "unable to fill the rows: row_bytes is " +
                                    std::to_string(to.row_bytes) +
                                    "; pass sizeof of a row, or what modelpool_describe says");
  }
  return {};
}

}  // namespace

const RowTable* find_table(int table) {
  if (table < 1 || static_cast<std::size_t>(table) > kTables.size()) return nullptr;
  return &kTables[static_cast<std::size_t>(table) - 1];
}

Result<> fill(const Pool& pool, int number, std::uint64_t first, const Rows& to) {
  const RowTable& table = *find_table(number);
  if (auto ok = check(to); !ok) return ok;
  const Segment& segment = segment_of(pool);
  if (number == MODELPOOL_EVENTS) {
    copy_rows(event_rows(segment, first), table, to);
    return {};
  }
  const auto seen = look_inside(pool);
  if (!seen) return fail(seen.error());
  switch (number) {
    case MODELPOOL_BACKENDS:
      copy_rows(backend_rows(*seen), table, to);
      break;
    case MODELPOOL_LEASES:
      copy_rows(lease_rows(*seen), table, to);
      break;
    case MODELPOOL_WORKERS:
      copy_rows(worker_rows(*seen), table, to);
      break;
    case MODELPOOL_WAITERS:
      copy_rows(waiter_rows(*seen), table, to);
      break;
    case MODELPOOL_STATUS:
      copy_rows(std::vector{status_row(segment, *seen)}, table, to);
      break;
    case MODELPOOL_MODELS:
      copy_rows(model_rows(segment, *seen), table, to);
      break;
    default:
      break;
  }
  return {};
}

void write_text(char* to, std::size_t bytes, std::string_view text) {
  std::size_t size = std::min(text.size(), bytes - 1);
  if (size < text.size()) {
    while (size > 0 && (static_cast<unsigned char>(text[size]) & 0xc0) == 0x80) --size;
  }
  std::memcpy(to, text.data(), size);
  std::memset(to + size, 0, bytes - size);
}

}  // namespace modelpool::c
