// What is wrong with a file: every problem, with its place.
//
// Safety: plain values; one thread.
//
// Errors: result() is kInvalid with "unable to read config FILE:LINE:COLUMN: reason", a line for
// each problem, in the file's order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "modelpool/result.hpp"

namespace modelpool::config {

inline constexpr std::size_t kProblemsMax = 20;  // told at once

struct Position {
  std::uint32_t line = 0;  // 0: no place in the file
  std::uint32_t column = 0;

  bool operator<(const Position& other) const {
    return std::tie(line, column) < std::tie(other.line, other.column);
  }
};

class Problems {
 public:
  void add(Position at, std::string reason) { found_.emplace(at, std::move(reason)); }
  // Of a line that cannot be read nothing else is told: it would follow from that.
  void add_unreadable(Position at, const std::string& reason) {
    unreadable_.try_emplace(at.line, at, reason);
  }
  bool is_unreadable(std::uint32_t line) const { return unreadable_.contains(line); }

  // Nothing, or a line for each.
  Result<> result(const std::string& path) const;

 private:
  std::multimap<Position, std::string> found_;
  std::map<std::uint32_t, std::pair<Position, std::string>> unreadable_;  // by line
};

// "FILE", "FILE:3" or "FILE:3:7", safe to print.
std::string place_text(const std::string& path, Position at);

// "a, b and c".
std::string listed(const std::vector<std::string_view>& names);

// "unable to set x to y: it takes z" as the reason inside another message: "cannot set ...".
std::string as_reason(std::string text);

}  // namespace modelpool::config
