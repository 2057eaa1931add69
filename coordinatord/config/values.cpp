#include "config/values.hpp"

#include <algorithm>

#include "base/duration.hpp"
#include "base/nearest.hpp"
#include "base/size.hpp"
#include "base/text.hpp"
#include "modelpool/settings.hpp"

namespace modelpool::config {
namespace {

constexpr std::string_view kTimeLike = "\"30s\", \"15m\" or \"off\"";
constexpr std::string_view kSizeLike = "\"512KiB\" or \"64MiB\"";

void report_kind(const Member& member, std::string_view like, Problems& problems) {
  problems.add(member.value.at, member.key + " is " + std::string(kind_name(member.value)) +
                                    "; write it like " + std::string(like));
}

bool is_usable(const std::string& key, const Node& text, std::string_view like,
               Problems& problems) {
  if (text.text.empty()) {
    problems.add(text.at, key + " is empty; write it like " + std::string(like));
    return false;
  }
  if (is_printable_utf8(text.text)) return true;
  problems.add(text.at, key + " is " + quote(text.text) +
                            ", which has a control character in it; remove that");
  return false;
}

}  // namespace

std::optional<std::string> read_text(const Member& member, std::string_view like,
                                     Problems& problems) {
  if (!member.value.is(Node::Kind::kString)) {
    report_kind(member, like, problems);
    return std::nullopt;
  }
  if (!is_usable(member.key, member.value, like, problems)) return std::nullopt;
  return member.value.text;
}

std::optional<std::vector<std::string>> read_texts(const Member& member, std::string_view like,
                                                   Problems& problems) {
  if (member.value.is(Node::Kind::kString)) {
    const auto text = read_text(member, like, problems);
    if (!text) return std::nullopt;
    return std::vector<std::string>{*text};
  }
  if (!member.value.is(Node::Kind::kArray)) {
    report_kind(member, like, problems);
    return std::nullopt;
  }
  std::vector<std::string> texts;
  for (const Node& item : member.value.items) {
    if (!item.is(Node::Kind::kString)) {
      problems.add(item.at, member.key + " has " + std::string(kind_name(item)) +
                                " in it; write it like " + std::string(like));
      return std::nullopt;
    }
    if (!is_usable(member.key, item, like, problems)) return std::nullopt;
    texts.push_back(item.text);
  }
  return texts;
}

std::optional<std::uint64_t> read_count(const Member& member, std::uint64_t min, std::uint64_t max,
                                        Problems& problems) {
  const Node& node = member.value;
  if (node.is(Node::Kind::kInteger) && node.integer >= 0) {
    const auto count = static_cast<std::uint64_t>(node.integer);
    if (count >= min && count <= max) return count;
  }
  problems.add(node.at, member.key + " takes a number from " + std::to_string(min) + " to " +
                            std::to_string(max));
  return std::nullopt;
}

std::optional<std::uint64_t> read_size(const Member& member, std::uint64_t min_bytes,
                                       Problems& problems) {
  const Node& node = member.value;
  std::optional<std::uint64_t> bytes;
  if (node.is(Node::Kind::kString)) {
    const auto parsed = parse_size(node.text);
    if (!parsed) {
      problems.add(node.at, as_reason(parsed.error().text));
      return std::nullopt;
    }
    bytes = *parsed;
  } else if (node.is(Node::Kind::kInteger) && node.integer >= 0) {
    bytes = static_cast<std::uint64_t>(node.integer);
  } else {
    report_kind(member, kSizeLike, problems);
    return std::nullopt;
  }
  if (*bytes >= min_bytes && *bytes <= kSizeMax_bytes) return bytes;
  problems.add(node.at, member.key + " takes a size from " + format_size_exactly(min_bytes) +
                            "; write it like " + std::string(kSizeLike));
  return std::nullopt;
}

std::optional<std::uint64_t> read_time(const Member& member, Problems& problems) {
  const Node& node = member.value;
  if (node.is(Node::Kind::kInteger)) {
    if (node.integer == 0) return 0;
    problems.add(node.at, member.key + " = " + std::to_string(node.integer) +
                              ": a unit is missing; write it like " + std::string(kTimeLike));
    return std::nullopt;
  }
  if (!node.is(Node::Kind::kString)) {
    report_kind(member, kTimeLike, problems);
    return std::nullopt;
  }
  const auto parsed = parse_duration(node.text);
  if (parsed) return *parsed;
  problems.add(node.at, as_reason(parsed.error().text));
  return std::nullopt;
}

std::optional<std::size_t> read_choice(const Member& member,
                                       const std::vector<std::string_view>& words,
                                       Problems& problems) {
  const auto found = std::find(words.begin(), words.end(), member.value.text);
  if (member.value.is(Node::Kind::kString) && found != words.end())
    return static_cast<std::size_t>(found - words.begin());
  std::string known;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i != 0) known += i + 1 == words.size() ? " or " : ", ";
    known += "\"" + std::string(words[i]) + "\"";
  }
  problems.add(member.value.at, member.key + " takes " + known);
  return std::nullopt;
}

void report_unknown_key(const Member& member, const std::vector<std::string_view>& known,
                        Problems& problems) {
  const std::string hint = did_you_mean(member.key, known);
  problems.add(member.at, "unknown key " + quote(member.key) +
                              (hint.empty() ? "; there are " + listed(known) : hint));
}

}  // namespace modelpool::config
