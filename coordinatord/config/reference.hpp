// Every table and key of the pool's file, with what it takes and what it means: the one source of
// the tables in README.md beside this, of the manual page pool.toml(5) and of the JSON schema that
// editors check a file with. Settings come from modelpool/settings.hpp, capacities from
// capacities.hpp.
//
// Safety: pure functions.
//
// Errors: none.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace modelpool::config {

enum class Takes {
  kAddresses,  // one or a list
  kCommand,    // one line, or a list of words
  kCount,
  kMode,  // as chmod does, between quotes
  kSecret,
  kSecrets,  // a table of them
  kSetting,
  kSize,
  kSwitch,
  kTables,  // [[serve.listener]]
  kText,
  kTexts,  // one or a list
  kTime,
  kTls,
  kWord,  // one of `words`
};

struct KeyInfo {
  std::string name;
  Takes takes;
  std::string fallback;  // what holds without it, as Markdown; empty: no value
  std::string meaning;   // as Markdown
  std::vector<std::string> words{};
  bool is_needed = false;
};

struct TableInfo {
  std::string name;  // "[serve]"
  std::string meaning;
  std::vector<KeyInfo> keys;
};

// pool, model, capacity, serve, serve.listener, its tls, models.
std::vector<TableInfo> config_reference();

// JSON Schema, draft-07, of the file as a document: each file that the programs take passes it.
std::string config_schema();

// pool.toml(5), in roff.
std::string config_manual(std::string_view version);

}  // namespace modelpool::config
