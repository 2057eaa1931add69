// A pool.toml in the making: what an import has found, and what it did with each key.
//
// Safety: plain values; one thread.
//
// Errors: none.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace modelpool::serve {

struct ImportedKey {
  std::string key;     // "models.tiny.ttl"
  std::string reason;  // why it is not carried over; empty: it is
};

std::string toml_text(std::string_view text);  // between quotes
std::string toml_list(const std::vector<std::string>& texts);
std::string group_word(std::string_view name);  // as `groups` takes it

struct DraftModel {
  std::string name;
  std::vector<std::string> command;
  std::string address;
  std::string ready;
  std::vector<std::string> aliases;
  std::vector<std::pair<std::string, std::string>> env;
  std::vector<std::pair<std::string, std::string>> settings;  // as TOML writes them
  bool preload = false;
  bool is_usable = true;  // else it is written as a comment: something is missing
};

struct Draft {
  std::vector<std::pair<std::string, std::string>> pool;   // as TOML writes them
  std::vector<std::pair<std::string, std::string>> serve;  // as TOML writes them
  std::vector<DraftModel> models;
  std::vector<ImportedKey> keys;

  void carry(std::string key) { keys.push_back({std::move(key), ""}); }
  void leave(std::string key, std::string why) { keys.push_back({std::move(key), std::move(why)}); }
  std::string text(const std::string& source) const;
};

}  // namespace modelpool::serve
