// A TOML file as a tree of values that know their places. The only file behind it that knows the
// TOML parser is document.cpp.
//
// Safety: plain values; pure functions.
//
// Errors: go to Problems.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "config/problems.hpp"

namespace modelpool::config {

struct Member;

struct Node {
  enum class Kind { kTable, kArray, kString, kInteger, kFraction, kBoolean, kTime };
  Kind kind = Kind::kTable;
  Position at;
  std::string text;             // kString
  std::int64_t integer = 0;     // kInteger
  bool truth = false;           // kBoolean
  std::vector<Member> members;  // kTable, in the file's order
  std::vector<Node> items;      // kArray

  bool is(Kind wanted) const { return kind == wanted; }
  const Node* find(std::string_view key) const;  // of a table; null: none
};

struct Member {
  std::string key;
  Position at;  // of the key
  Node value;
};

std::string_view kind_name(const Node& node);  // "an integer"

// What can be read of the text. A line that cannot is told, and the rest is read all the same.
Node parse_document(std::string_view text, Problems& problems);

}  // namespace modelpool::config
