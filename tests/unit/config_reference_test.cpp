// What is told of the pool's file holds: the tables of README.md, and the JSON schema.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "config/capacities.hpp"
#include "config/keys.hpp"
#include "config/pool_file.hpp"
#include "config/reference.hpp"
#include "support/scratch.hpp"

namespace modelpool::config {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAreArray;

// The keywords that config_schema uses.
bool passes(const json& schema, const json& value) {
  if (const auto any = schema.find("anyOf"); any != schema.end()) {
    return std::any_of(any->begin(), any->end(),
                       [&](const json& one) { return passes(one, value); });
  }
  if (const auto words = schema.find("enum"); words != schema.end())
    return std::find(words->begin(), words->end(), value) != words->end();
  const std::string type = schema.at("type");
  if (type == "string") {
    const auto pattern = schema.find("pattern");
    return value.is_string() &&
           (pattern == schema.end() ||
            std::regex_search(value.get<std::string>(), std::regex(pattern->get<std::string>())));
  }
  if (type == "boolean") return value.is_boolean();
  if (type == "integer") {
    return value.is_number_integer() && value >= schema.at("minimum") &&
           (!schema.contains("maximum") || value <= schema.at("maximum"));
  }
  if (type == "array") {
    return value.is_array() && std::all_of(value.begin(), value.end(), [&](const json& item) {
             return passes(schema.at("items"), item);
           });
  }
  if (!value.is_object()) return false;
  for (const auto& [key, item] : value.items()) {
    const bool is_named = schema.contains("properties") && schema["properties"].contains(key);
    const json& other = schema.at("additionalProperties");
    if (!is_named && other.is_boolean()) return false;
    if (!passes(is_named ? schema["properties"][key] : other, item)) return false;
  }
  const json required = schema.value("required", json::array());
  return std::all_of(required.begin(), required.end(),
                     [&](const json& key) { return value.contains(key); });
}

// As TOML and as JSON.
struct Value {
  std::string toml;
  json same;
};
std::vector<Value> values() {
  std::vector<Value> all = {
      {"{ GPU-1f = \"22GiB\" }", {{"GPU-1f", "22GiB"}}},
      {"{ HF_HOME = \"/srv\", T = { file = \"/t\" } }",
       {{"HF_HOME", "/srv"}, {"T", {{"file", "/t"}}}}},
      {"{ file = \"/k\" }", {{"file", "/k"}}},
      {"{ cert = \"/dev/null\" }", {{"cert", "/dev/null"}}},
      {"{ cert = \"/etc/passwd\", key = \"/etc/passwd\" }",
       {{"cert", "/etc/passwd"}, {"key", "/etc/passwd"}}},
      {"1.5", 1.5},
  };
  for (const json& same : std::vector<json>{0,
                                            1,
                                            2,
                                            64,
                                            5000,
                                            -1,
                                            true,
                                            false,
                                            "",
                                            "off",
                                            "0",
                                            "1",
                                            "2",
                                            "10s",
                                            "1h30m",
                                            "1.5h",
                                            "500ms",
                                            "500 ms",
                                            "10",
                                            "1MiB",
                                            "64 GiB",
                                            "1.5GiB",
                                            "4096",
                                            "5k",
                                            "SIGTERM",
                                            "TERM",
                                            "15",
                                            "drain",
                                            "cost",
                                            "10s..5m",
                                            "5m..10s",
                                            "cancel, 10s, kill",
                                            "kill",
                                            "heavy",
                                            "a, b",
                                            "GPU-1f",
                                            "90%",
                                            "20GiB, 4GiB",
                                            "tcp",
                                            "GET /health",
                                            "GET",
                                            "default",
                                            "/tmp",
                                            "/etc/passwd",
                                            "127.0.0.1:8080",
                                            "unix:/run/x.sock",
                                            "none",
                                            "keys",
                                            "peer",
                                            "comments",
                                            "text",
                                            "json",
                                            "root",
                                            "0660",
                                            "x --port {port}",
                                            "true",
                                            json::array(),
                                            json::array({"heavy"}),
                                            json::array({"20GiB", "4GiB"}),
                                            json::array({"https://a.example"}),
                                            json::array({"10.0.0.0/8"}),
                                            json::array({"127.0.0.1:0", "[::1]:0"}),
                                            json::array({1})}) {
    all.push_back({same.dump(), same});
  }
  return all;
}

bool is_taken(const std::string& toml) {
  return read_pool_file("/x/pool.toml", toml, {}, Variables::kLeft).has_value();
}

// A file with this key alone, or with what it needs.
struct Form {
  std::string before;
  json (*as_json)(const std::string& key, const json& value);
};

Form form_of(const std::string& table) {
  if (table == "[pool]")
    return {"[pool]\n", [](const auto& key, const auto& value) {
              return json{{"pool", {{key, value}}}};
            }};
  if (table == "[capacity]")
    return {"[capacity]\n", [](const auto& key, const auto& value) {
              return json{{"capacity", {{key, value}}}};
            }};
  if (table == "[serve]")
    return {"[serve]\n", [](const auto& key, const auto& value) {
              return json{{"serve", {{key, value}}}};
            }};
  if (table == "[[model]]") {
    return {"[[model]]\nmatch = \"a*\"\n", [](const auto& key, const auto& value) {
              json rule = {{"match", "a*"}};
              rule[key] = value;
              return json{{"model", json::array({rule})}};
            }};
  }
  if (table == "[[serve.listener]]") {
    return {"[[serve.listener]]\naddress = \"unix:/run/x.sock\"\n",
            [](const auto& key, const auto& value) {
              json listener = {{"address", "unix:/run/x.sock"}};
              listener[key] = value;
              return json{{"serve", {{"listener", json::array({listener})}}}};
            }};
  }
  return {"[models.\"m\"]\naddress = \"127.0.0.1:1\"\n", [](const auto& key, const auto& value) {
            json model = {{"address", "127.0.0.1:1"}};
            model[key] = value;
            return json{{"models", {{"m", model}}}};
          }};
}

TEST(ConfigReferenceTest, WhatTheProgramsTakeTheSchemaPasses) {
  const json schema = json::parse(config_schema());
  std::vector<TableInfo> tables = config_reference();
  for (const SettingInfo& info : kSettings) {
    if (info.per_model)
      tables.back().keys.push_back({std::string(info.name), Takes::kSetting, "", ""});
  }
  for (const TableInfo& table : tables) {
    const Form form = form_of(table.name);
    for (const KeyInfo& key : table.keys) {
      if (form.before.find(key.name + " = ") != std::string::npos) continue;
      int taken = 0;
      int refused_by_both = 0;
      for (const auto& [toml, same] : values()) {
        const bool is_good = is_taken(form.before + key.name + " = " + toml + "\n");
        const bool has_passed = passes(schema, form.as_json(key.name, same));
        taken += is_good ? 1 : 0;
        refused_by_both += is_good || has_passed ? 0 : 1;
        EXPECT_TRUE(has_passed || !is_good) << table.name << " " << key.name << " = " << toml;
      }
      // A file of TLS needs an address that is no socket, a file of keys is nobody else's.
      if (key.name != "tls" && key.name != "keys") {
        EXPECT_GT(taken, 0) << table.name << " " << key.name << ": no value was taken";
      }
      EXPECT_GT(refused_by_both, 0) << table.name << " " << key.name << " takes anything";
    }
  }
}

TEST(ConfigReferenceTest, DashesAreTakenByBothAndUnknownKeysByNeither) {
  const json schema = json::parse(config_schema());
  EXPECT_TRUE(is_taken("[pool]\nidle-timeout = \"1m\"\n"));
  EXPECT_TRUE(passes(schema, {{"pool", {{"idle-timeout", "1m"}}}}));
  for (const std::string table : {"pool", "capacity", "serve"}) {
    EXPECT_FALSE(is_taken("[" + table + "]\nnonsense = 1\n"));
    EXPECT_FALSE(passes(schema, {{table, {{"nonsense", 1}}}}));
  }
  EXPECT_FALSE(passes(schema, {{"nonsense", json::object()}}));
  EXPECT_FALSE(passes(schema, {{"model", json::array({json::object()})}})) << "match is needed";
  EXPECT_FALSE(passes(schema, {{"model", json::array({{{"match", "a"}, {"max_backends", 1}}})}}));
}

TEST(ConfigReferenceTest, ItHasTheKeysThatAreRead) {
  std::vector<std::vector<std::string>> names;
  for (const TableInfo& table : config_reference()) {
    names.emplace_back();
    for (const KeyInfo& key : table.keys) names.back().push_back(key.name);
  }
  ASSERT_EQ(names.size(), 6u);
  std::vector<std::string_view> serve = serve_keys();
  std::erase(serve, "listener");
  EXPECT_THAT(names[0], ::testing::SizeIs(kSettingCount));
  EXPECT_THAT(names[2], ::testing::SizeIs(kCapacities.size()));
  EXPECT_THAT(names[3], UnorderedElementsAreArray(serve));
  EXPECT_THAT(names[4], UnorderedElementsAreArray(kListenerKeys));
  EXPECT_THAT(names[5], UnorderedElementsAreArray(kModelKeys));
}

// "| key | default | meaning |", with | in a cell as \|.
TEST(ConfigReferenceTest, TheReadmeSaysTheSame) {
  const std::string readme =
      test::read_file(std::string(MODELPOOL_SERVICES) + "/../config/README.md");
  const std::vector<TableInfo> tables = config_reference();
  for (std::size_t i = 3; i < tables.size(); ++i) {
    for (const KeyInfo& key : tables[i].keys) {
      const std::string row = "| " + key.name + " | " + (key.is_needed ? "needed" : key.fallback) +
                              " | " + std::regex_replace(key.meaning, std::regex("\\|"), "\\|") +
                              " |\n";
      EXPECT_NE(readme.find(row), std::string::npos) << row;
    }
  }
}

TEST(ConfigReferenceTest, TheManualPageNamesEveryKeyAndHasNoStrayRequest) {
  const std::string page = config_manual("1.2.3");
  for (const TableInfo& table : config_reference()) {
    for (const KeyInfo& key : table.keys) EXPECT_THAT(page, HasSubstr("\n.B " + key.name + "\n"));
  }
  EXPECT_THAT(page, HasSubstr("1.2.3"));
  std::istringstream lines(page);
  const std::set<std::string> requests = {".TH", ".SH", ".TP", ".PP", ".B", ".BR", ".I", ".IR"};
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || (line[0] != '.' && line[0] != '\'')) continue;
    EXPECT_TRUE(requests.contains(line.substr(0, line.find(' ')))) << line;
  }
}

}  // namespace
}  // namespace modelpool::config
