#include "config/document.hpp"

#include <toml++/toml.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/text.hpp"
#include "config/keys.hpp"

namespace modelpool::config {
namespace {

Position position_of(const toml::source_region& source) {
  return {source.begin.line, source.begin.column};
}

Node node_of(const toml::node& from) {
  Node node;
  node.at = position_of(from.source());
  switch (from.type()) {
    case toml::node_type::table:
      node.kind = Node::Kind::kTable;
      for (const auto& [key, value] : *from.as_table()) {
        node.members.push_back({std::string(key.str()), position_of(key.source()), node_of(value)});
      }
      // It hands them out by name.
      std::stable_sort(node.members.begin(), node.members.end(),
                       [](const Member& a, const Member& b) { return a.at < b.at; });
      return node;
    case toml::node_type::array:
      node.kind = Node::Kind::kArray;
      for (const toml::node& item : *from.as_array()) node.items.push_back(node_of(item));
      return node;
    case toml::node_type::string:
      node.kind = Node::Kind::kString;
      node.text = from.as_string()->get();
      return node;
    case toml::node_type::integer:
      node.kind = Node::Kind::kInteger;
      node.integer = from.as_integer()->get();
      return node;
    case toml::node_type::boolean:
      node.kind = Node::Kind::kBoolean;
      node.truth = from.as_boolean()->get();
      return node;
    case toml::node_type::floating_point:
      node.kind = Node::Kind::kFraction;
      return node;
    default:
      node.kind = Node::Kind::kTime;
      return node;
  }
}

// toml++ writes one line, but repeats bytes of the file in it.
std::string one_line(std::string_view text) {
  return is_printable_utf8(text) ? std::string(text) : escape(text);
}

// The n-th line, from 1, without its end.
std::string_view line_of(std::string_view text, std::uint32_t n) {
  std::size_t begin = 0;
  for (std::uint32_t i = 1; i < n && begin < text.size(); ++i) {
    begin = std::min(text.find('\n', begin), text.size() - 1) + 1;
  }
  return text.substr(begin, text.find('\n', begin) - begin);
}

// "key = value # comment", told apart by eye: where TOML cannot read it.
struct Assignment {
  std::string key;
  std::string value;
  std::size_t value_at = 0;  // in the line
};
std::optional<Assignment> assignment_in(std::string_view line) {
  constexpr std::string_view kBlank = " \t\r";
  const auto trimmed = [&](std::string_view text) {
    const std::size_t first = std::min(text.find_first_not_of(kBlank), text.size());
    text.remove_prefix(first);
    return text.substr(0, text.find_last_not_of(kBlank) + 1);
  };
  const std::size_t equals = line.find('=');
  if (equals == std::string_view::npos || trimmed(line).starts_with('[')) return std::nullopt;
  Assignment found;
  found.key = trimmed(line.substr(0, equals));
  const std::string_view rest = line.substr(equals + 1);
  found.value = trimmed(rest.substr(0, rest.find('#')));
  found.value_at = equals + 1 + std::min(rest.find_first_not_of(kBlank), rest.size());
  return found;
}

// What toml++ says of a value without quotes is about the digits it hoped for.
std::optional<std::string> missing_quotes(const Assignment& line) {
  if (line.value.empty() || line.value.find_first_of("\"'[]{},") != std::string::npos)
    return std::nullopt;
  if (!takes_text(line.key)) return std::nullopt;
  return escape(line.key) + " = " + escape(line.value) + ": the quotes are missing; write " +
         escape(line.key) + " = \"" + escape(line.value) + "\"";
}

// A table that is there a second time. toml++ names it in a way of its own.
std::optional<std::string> twice(std::string_view what, std::string_view line) {
  const std::size_t end = line.find(']');
  if (what.find("redefine existing table") == std::string_view::npos ||
      end == std::string_view::npos || !line.starts_with('[')) {
    return std::nullopt;
  }
  return escape(line.substr(0, end + 1)) + " is there twice; merge the two, or rename one";
}

// Makes that line readable, so that what follows it is read as well. False: only a guess at what it
// was to be could do that.
bool mend_line(std::string& text, std::uint32_t number, bool again) {
  const std::string_view line = line_of(text, number);
  const auto found = assignment_in(line);
  if (!found) return false;
  const auto begin = static_cast<std::size_t>(line.data() - text.data());
  if (again) {
    text.replace(begin, line.size(), line.size(), ' ');
  } else {
    text.replace(begin + found->value_at, line.size() - found->value_at, "\"\"");
  }
  return true;
}

}  // namespace

const Node* Node::find(std::string_view key) const {
  for (const Member& member : members) {
    if (member.key == key) return &member.value;
  }
  return nullptr;
}

std::string_view kind_name(const Node& node) {
  switch (node.kind) {
    case Node::Kind::kTable:
      return "a table";
    case Node::Kind::kArray:
      return "an array";
    case Node::Kind::kString:
      return "a string";
    case Node::Kind::kInteger:
      return "an integer";
    case Node::Kind::kFraction:
      return "a number with a fraction";
    case Node::Kind::kBoolean:
      return "a boolean";
    case Node::Kind::kTime:
      return "a date or time";
  }
  return "nothing";
}

Node parse_document(std::string_view bytes, Problems& problems) {
  std::string text(bytes);
  for (std::size_t tries = 0; tries <= 2 * kProblemsMax; ++tries) {
    try {
      return node_of(toml::parse(text));
    } catch (const toml::parse_error& error) {
      const Position at = position_of(error.source());
      const bool again = problems.is_unreadable(at.line);
      const auto line = assignment_in(line_of(text, at.line));
      const auto quotes = line ? missing_quotes(*line) : std::nullopt;
      const Position value{at.line,
                           line ? static_cast<std::uint32_t>(line->value_at + 1) : at.column};
      const auto repeated = twice(error.description(), line_of(text, at.line));
      problems.add_unreadable(quotes ? value : at, quotes     ? *quotes
                                                   : repeated ? *repeated
                                                              : one_line(error.description()));
      // What stands before it is read all the same.
      if (!mend_line(text, at.line, again)) {
        text.resize(static_cast<std::size_t>(line_of(text, at.line).data() - text.data()));
      }
    }
  }
  return {};
}

}  // namespace modelpool::config
