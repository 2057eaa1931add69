// Rows that describe themselves: what C shows of a pool is what poolctl's JSON shows of it.
#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "c_pool.hpp"
#include "support/daemon.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

using Fields = std::map<std::string, modelpool_field>;

Fields fields_of(int table) {
  const modelpool_field* fields = nullptr;
  std::size_t count = 0;
  EXPECT_EQ(modelpool_describe(table, &fields, &count, nullptr, nullptr), MODELPOOL_OK);
  Fields result;
  for (std::size_t i = 0; i < count; ++i) result[fields[i].name] = fields[i];
  EXPECT_EQ(result.size(), count);
  return result;
}

struct List {
  std::vector<char> bytes;
  std::size_t row_bytes = 0;
  std::size_t count = 0;

  const char* row(std::size_t i) const { return bytes.data() + i * row_bytes; }
};

List list(modelpool_pool pool, int table) {
  List result;
  EXPECT_EQ(modelpool_describe(table, nullptr, nullptr, &result.row_bytes, nullptr), MODELPOOL_OK);
  result.bytes.resize(16 * result.row_bytes);
  modelpool_error error;
  EXPECT_EQ(modelpool_list_rows(pool, table, 0, result.bytes.data(), result.row_bytes, 16,
                                &result.count, &error),
            MODELPOOL_OK)
      << error.text;
  EXPECT_LE(result.count, 16u);
  return result;
}

// A value of C as JSON shows it.
nlohmann::json value_of(const modelpool_field& field, const char* row) {
  if (field.kind == MODELPOOL_FIELD_TEXT) {
    const std::string text = modelpool_field_text(&field, row);
    return text.empty() ? nlohmann::json(nullptr) : nlohmann::json(text);
  }
  const std::int64_t number = modelpool_field_number(&field, row);
  if (field.unknown != MODELPOOL_ALWAYS_KNOWN && number == field.unknown) return nullptr;
  if (field.kind == MODELPOOL_FIELD_FLAG) return number == 1;
  return number;
}

// As C names them: the parts of a row flattened, what is a list left out.
nlohmann::json flattened(const nlohmann::json& row, const Fields& fields) {
  nlohmann::json flat = nlohmann::json::object();
  for (const auto& [key, value] : row.items()) {
    if (fields.count(key) != 0 && fields.at(key).kind != 0) {
      flat[key] = value;
    } else if (value.is_object()) {
      for (const auto& [inner, part] : value.items()) {
        if (fields.count(key + "." + inner) != 0) flat[key + "." + inner] = part;
      }
    }
  }
  return flat;
}

// Two looks: what counts milliseconds or looks has gone on between them.
bool moves(const std::string& name) {
  return name.ends_with("_ms") || name == "coordinator.scans" || name == "time" || name == "signal";
}

void expect_same(const nlohmann::json& shown, int table, const char* row) {
  const Fields fields = fields_of(table);
  const nlohmann::json flat = flattened(shown, fields);
  for (const auto& [name, field] : fields) {
    if (field.kind == 0) continue;
    const nlohmann::json ours = value_of(field, row);
    const bool part = name.find('.') != std::string::npos && flat.count(name) == 0;
    if (part) {
      EXPECT_TRUE(ours.is_null()) << name << ": " << ours;  // there is no such part now
      continue;
    }
    ASSERT_EQ(flat.count(name), 1u) << name << " is no key of " << shown;
    EXPECT_EQ(flat[name].is_null(), ours.is_null()) << name << ": " << flat[name] << ", " << ours;
    if (!moves(name)) {
      EXPECT_EQ(flat[name], ours) << name;
    }
  }
}

// The bytes of a structure that no field covers: those of struct_bytes, and what is reserved.
std::size_t uncovered_bytes(int table, std::size_t struct_bytes) {
  std::vector<bool> covered(struct_bytes);
  for (const auto& [name, field] : fields_of(table)) {
    for (std::size_t i = field.offset;
         field.kind != 0 && i < field.offset + field.bytes && i < struct_bytes; ++i) {
      EXPECT_FALSE(covered[i]) << name << " lies over another field";
      covered[i] = true;
    }
  }
  return static_cast<std::size_t>(std::count(covered.begin(), covered.end(), false));
}

}  // namespace

TEST(CRows, EveryMemberOfAStructureIsAFieldOfItsRow) {
  // `model` in the structures is the beginning of the field, which is whole behind them.
  constexpr std::size_t kModel_bytes = MODELPOOL_MODEL_BYTES;
  EXPECT_EQ(uncovered_bytes(MODELPOOL_BACKENDS, sizeof(modelpool_backend)),
            kModel_bytes + sizeof(std::size_t) + 8);
  EXPECT_EQ(uncovered_bytes(MODELPOOL_LEASES, sizeof(modelpool_lease_row)),
            kModel_bytes + sizeof(std::size_t));
  EXPECT_EQ(uncovered_bytes(MODELPOOL_WORKERS, sizeof(modelpool_worker)), sizeof(std::size_t) + 4);
  EXPECT_EQ(uncovered_bytes(MODELPOOL_WAITERS, sizeof(modelpool_waiter)),
            kModel_bytes + sizeof(std::size_t) + 4);
  EXPECT_EQ(uncovered_bytes(MODELPOOL_EVENTS, sizeof(modelpool_event)),
            kModel_bytes + sizeof(std::size_t) + 4);
  EXPECT_EQ(uncovered_bytes(MODELPOOL_STATUS, sizeof(modelpool_status)), sizeof(std::size_t));
}

TEST(CRows, AFieldStandsWhereTheStructureHasIt) {
  const modelpool_field* idle = modelpool_find_field(MODELPOOL_BACKENDS, "idle_ms");
  ASSERT_NE(idle, nullptr);
  EXPECT_EQ(idle->offset, offsetof(modelpool_backend, idle_ms));
  EXPECT_EQ(idle->unknown, MODELPOOL_UNKNOWN);
  EXPECT_EQ(modelpool_find_field(MODELPOOL_BACKENDS, "stop.reason")->offset,
            offsetof(modelpool_backend, stop_reason));
  EXPECT_EQ(modelpool_find_field(MODELPOOL_EVENTS, "seq")->offset,
            offsetof(modelpool_event, sequence));
  EXPECT_EQ(modelpool_find_field(MODELPOOL_EVENTS, "time")->offset,
            offsetof(modelpool_event, time_ms));
  EXPECT_EQ(modelpool_find_field(MODELPOOL_STATUS, "coordinator.pid")->offset,
            offsetof(modelpool_status, coordinator_pid));
  // What has no member stands behind the structure, where older programs do not look.
  EXPECT_GE(modelpool_find_field(MODELPOOL_STATUS, "coordinator.scans")->offset,
            sizeof(modelpool_status));
}

TEST(CRows, AreThoseOfPoolctlsJson) {
  const Scratch scratch;
  const Daemon daemon(scratch);
  const CPool pool(scratch);
  load_external(pool, "m");
  granted(pool, "m", "req-81");
  modelpool_error error;
  ASSERT_EQ(modelpool_fail(ticket_on(pool, "broken"), "no such file", &error), MODELPOOL_OK);
  modelpool_wait wait;
  modelpool_grant grant;
  ticket_on(pool, "loading");
  ASSERT_EQ(modelpool_begin(pool, "loading", 3'600'000, nullptr, &wait, &error), MODELPOOL_OK);
  ASSERT_EQ(modelpool_poll(wait, &grant, &error), MODELPOOL_OK);
  // Settled: the failed load's slot is free, and every event is written.
  ASSERT_TRUE(eventually([&] { return backends(pool).size() == 2; }));
  ASSERT_TRUE(eventually([&] { return list(pool, MODELPOOL_EVENTS).count >= 2; }));

  const std::vector<std::pair<int, nlohmann::json>> tables = {
      {MODELPOOL_BACKENDS, poolctl_json(scratch, {"list"})},
      {MODELPOOL_LEASES, poolctl_json(scratch, {"leases"})},
      {MODELPOOL_WORKERS, poolctl_json(scratch, {"workers"})},
      {MODELPOOL_WAITERS, poolctl_json(scratch, {"waiters"})},
      {MODELPOOL_STATUS, nlohmann::json::array({poolctl_json(scratch, {"status"})})},
      {MODELPOOL_MODELS, poolctl_json(scratch, {"dump"})["models"]},
      {MODELPOOL_EVENTS, poolctl_json(scratch, {"dump"})["events"]},
  };
  for (const auto& [table, shown] : tables) {
    const List rows = list(pool, table);
    ASSERT_EQ(rows.count, shown.size()) << "table " << table;
    ASSERT_GE(rows.count, 1u) << "table " << table;
    for (std::size_t i = 0; i < rows.count; ++i) expect_same(shown[i], table, rows.row(i));
  }
}

TEST(CRows, BeginWithTheStructuresOfTheTypedLists) {
  const Scratch scratch;
  const CPool pool(scratch);
  load_external(pool, "m");
  granted(pool, "m", "req-81");
  const List rows = list(pool, MODELPOOL_LEASES);
  ASSERT_EQ(rows.count, 2u);
  modelpool_lease_row row;
  std::memcpy(&row, rows.row(1), sizeof row);
  EXPECT_STREQ(row.tag, "req-81");
  EXPECT_STREQ(row.model, "m");
  EXPECT_EQ(row.struct_bytes, rows.row_bytes);
  EXPECT_EQ(leases(pool).at(1).struct_bytes, sizeof row);

  // A program with a larger structure than this library knows finds zeros there, and no other
  // field.
  std::vector<char> larger(2 * (sizeof(modelpool_status) + 512), 0x5a);
  std::size_t count = 0;
  ASSERT_EQ(modelpool_list_workers(pool, reinterpret_cast<modelpool_worker*>(larger.data()),
                                   sizeof(modelpool_worker) + 512, 1, &count, nullptr),
            MODELPOOL_OK);
  for (std::size_t i = sizeof(modelpool_worker); i < sizeof(modelpool_worker) + 512; ++i)
    ASSERT_EQ(larger[i], 0);
}

TEST(CRows, ALongModelsNameIsCutInStructuresAndWholeAsAField) {
  const Scratch scratch;
  const CPool pool(scratch);
  const std::string longest(255, 'n');
  const std::string in_two_bytes =
      std::string(190, 'n') + "\u00e9";  // cut in the middle of a character
  for (const std::string& name : {longest, in_two_bytes}) load_external(pool, name.c_str());
  const modelpool_field* model = modelpool_find_field(MODELPOOL_BACKENDS, "model");
  const List rows = list(pool, MODELPOOL_BACKENDS);
  const std::vector<modelpool_backend> shown = backends(pool);
  ASSERT_EQ(rows.count, 2u);
  ASSERT_EQ(shown.size(), 2u);
  EXPECT_EQ(modelpool_field_text(model, rows.row(0)), longest);
  EXPECT_EQ(shown[0].model, longest.substr(0, 191));
  EXPECT_EQ(modelpool_field_text(model, rows.row(1)), in_two_bytes);
  EXPECT_EQ(shown[1].model, in_two_bytes.substr(0, 190));
}

TEST(CRows, WhatIsNoTableFieldOrRowIsAnswered) {
  const Scratch scratch;
  const CPool pool(scratch);
  modelpool_error error;
  std::size_t count = 0;
  for (const int table : {0, -1, 8, INT32_MAX}) {
    EXPECT_EQ(modelpool_describe(table, nullptr, &count, nullptr, &error), MODELPOOL_INVALID);
    EXPECT_EQ(modelpool_list_rows(pool, table, 0, nullptr, 0, 0, &count, &error),
              MODELPOOL_INVALID);
    EXPECT_EQ(modelpool_find_field(table, "model"), nullptr);
  }
  EXPECT_EQ(modelpool_find_field(MODELPOOL_BACKENDS, nullptr), nullptr);
  EXPECT_EQ(modelpool_find_field(MODELPOOL_BACKENDS, ""), nullptr);
  EXPECT_EQ(modelpool_find_field(MODELPOOL_BACKENDS, "stop"), nullptr);  // a part, not a value
  EXPECT_EQ(modelpool_find_field(MODELPOOL_STATUS, "counters"), nullptr);
  const List rows = list(pool, MODELPOOL_STATUS);
  EXPECT_STREQ(modelpool_field_text(nullptr, rows.row(0)), "");
  const modelpool_field* live = modelpool_find_field(MODELPOOL_STATUS, "live");
  EXPECT_STREQ(modelpool_field_text(live, rows.row(0)), "");
  EXPECT_EQ(modelpool_field_number(live, nullptr), -1);
  EXPECT_EQ(modelpool_field_number(modelpool_find_field(MODELPOOL_STATUS, "pool"), rows.row(0)),
            -1);
  std::vector<char> room(rows.row_bytes);
  for (const std::size_t bytes :
       {std::size_t{8}, rows.row_bytes - 8, rows.row_bytes + 1, SIZE_MAX - 7}) {
    EXPECT_EQ(modelpool_list_rows(pool, MODELPOOL_STATUS, 0, room.data(), bytes, 1, &count, &error),
              MODELPOOL_INVALID);
    EXPECT_NE(std::string(error.text).find("row_bytes"), std::string::npos);
  }
}
