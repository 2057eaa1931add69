#include "wire/lease_wish.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "modelpool/settings.hpp"
#include "wire/access.hpp"
#include "wire/asked_model.hpp"
#include "wire/tokens.hpp"
#include "wire/top_level.hpp"

namespace modelpool::serve {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kIdMax_bytes = 255;
constexpr std::size_t kShownMax_bytes = 64;  // of what was sent, in a message
constexpr std::size_t kWhich_digits = 12;    // of the mark
constexpr std::size_t kWhose_digits = 8;
constexpr std::size_t kMark_bytes = 1 + kWhich_digits + kWhose_digits;
constexpr std::string_view kHexDigits = "0123456789abcdef";

tl::unexpected<Refusal> bad(const std::string& reason) {
  return refuse(400, "bad_lease", "unable to give a lease: " + reason);
}

Checked<std::string> text_of(const std::string& key, const Json& value, std::size_t max_bytes) {
  if (!value.is_string()) return bad("\"" + key + "\" must be a string");
  const auto& text = value.get_ref<const std::string&>();
  if (text.empty() || text.size() > max_bytes ||
      std::any_of(text.begin(), text.end(), [](char c) { return is_control(c); }))
    return bad("\"" + key + "\" must be 1 to " + std::to_string(max_bytes) +
               " bytes without control characters");
  return text;
}

// As the settings of that kind are written: "9GiB", "30s".
Checked<std::uint64_t> value_of(const std::string& key, const Json& value, Setting kind) {
  auto text = text_of(key, value, kSettingTextMax_bytes);
  if (!text) return tl::unexpected<Refusal>(text.error());
  const auto parsed = parse_setting(setting_info(kind), *text);
  if (!parsed) return bad("\"" + key + "\": " + parsed.error().text);
  return *parsed;
}

Checked<std::uint64_t> size_of(const std::string& key, const Json& value) {
  if (!value.is_number()) return value_of(key, value, Setting::kMemory);
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kSizeMax_bytes)
    return bad("\"" + key + "\" must be a number of bytes up to " + std::to_string(kSizeMax_bytes) +
               ", or a size such as \"9GiB\"");
  return value.get<std::uint64_t>();
}

// How many there may be is the pool's to say.
Checked<std::uint32_t> count_of(const std::string& key, const Json& value) {
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > UINT16_MAX)
    return bad("\"" + key + "\" must be a small number");
  return static_cast<std::uint32_t>(value.get<std::uint64_t>());
}

template <class T, class From>
Checked<> put(T& place, Checked<From> value) {
  if (!value) return tl::unexpected<Refusal>(std::move(value.error()));
  place = std::move(*value);
  return {};
}

Checked<> take(LeaseWish& wish, const std::string& key, const Json& value) {
  if (key == "model" || key == "name") {
    if (!wish.name.empty()) return bad("name either a \"model\" of the config or a \"name\"");
    wish.is_tenant = key == "name";
    return put(wish.name, text_of(key, value, kNameMax_bytes));
  }
  if (key == "memory") return put(wish.need.memory_bytes, size_of(key, value));
  if (key == "gpu_memory") return put(wish.need.device_bytes, size_of(key, value));
  if (key == "devices") return put(wish.need.devices, count_of(key, value));
  if (key == "group") return put(wish.need.group, text_of(key, value, kNameMax_bytes));
  if (key == "tag") return put(wish.tag, text_of(key, value, kTagMax_bytes));
  if (key == "id") return put(wish.id, text_of(key, value, kIdMax_bytes));
  if (key == "timeout") {
    wish.timeout = std::chrono::nanoseconds::max();
    if (value == "off") return {};
    auto ns = value_of(key, value, Setting::kLoadTimeout);
    if (!ns) return tl::unexpected<Refusal>(std::move(ns.error()));
    wish.timeout = std::chrono::nanoseconds(
        static_cast<std::int64_t>(std::min<std::uint64_t>(*ns, INT64_MAX)));
    return {};
  }
  return bad("there is no key \"" + key.substr(0, kShownMax_bytes) +
             "\"; there are \"model\", \"name\", \"timeout\", \"tag\", \"id\", and beside \"name\" "
             "\"memory\", \"devices\", \"gpu_memory\", \"group\"");
}

std::string hex_of(std::string_view text, std::size_t digits) {
  std::string hex;
  for (const std::uint8_t byte : sha256_of(text).value_or(Sha256{})) {
    hex += kHexDigits[byte >> 4];
    hex += kHexDigits[byte & 15];
  }
  return hex.substr(0, digits);
}

}  // namespace

Checked<> check_wish_head(const http::header<true>& head) {
  const std::string_view type = view(head[http::field::content_type]);
  const bool is_json = same_word(trimmed(type.substr(0, type.find(';'))), "application/json");
  if (is_json && head.count(http::field::content_encoding) == 0) return {};
  return refuse(415, "not_json", "a lease is asked for as Content-Type: application/json");
}

Checked<LeaseWish> read_lease_wish(std::string_view body) {
  // First, for it bounds the depth, and finds "model" said twice.
  if (auto seen = scan_top_level(body); !seen) return tl::unexpected<Refusal>(seen.error());
  std::set<std::string> keys;
  std::string twice;
  const auto json = Json::parse(
      body,
      [&](int depth, Json::parse_event_t event, Json& value) {
        if (depth == 1 && event == Json::parse_event_t::key &&
            !keys.insert(value.get<std::string>()).second)
          twice = value.get<std::string>();
        return true;
      },
      false);
  if (!json.is_object()) return bad("the body must be a JSON object");
  if (!twice.empty()) return bad("\"" + twice.substr(0, kShownMax_bytes) + "\" is said twice");
  LeaseWish wish;
  for (const auto& [key, value] : json.items()) {
    if (auto ok = take(wish, key, value); !ok) return tl::unexpected<Refusal>(ok.error());
  }
  if (wish.name.empty())
    return bad("it names neither a \"model\" of the config nor a \"name\" of its own");
  for (const char* const key : {"memory", "devices", "gpu_memory", "group"}) {
    if (!wish.is_tenant && json.contains(key))
      return bad("what a model takes is in the config; \"" + std::string(key) +
                 "\" is for a \"name\" of its own");
  }
  return wish;
}

std::string lease_mark(const LeaseWish& wish, std::string_view owner) {
  std::string which(1, wish.is_tenant ? 'n' : 'm');
  which.append(wish.name).append(1, '\0').append(wish.id).append(1, '\0');
  const std::string digits = hex_of(which, kWhich_digits);
  return "#" + digits + hex_of(which.append(owner), kWhose_digits);
}

std::string marked_tag(std::string_view tag, std::string_view mark) {
  std::size_t bytes = 0;
  while (bytes < tag.size()) {
    const std::size_t next = std::max<std::size_t>(1, utf8_character(tag.substr(bytes)));
    if (bytes + next + mark.size() > kTagMax_bytes) break;
    bytes += next;
  }
  std::string text(tag.substr(0, bytes));
  if (mark.empty() && !mark_of(text).empty()) text.pop_back();
  return text.append(mark);
}

std::string_view mark_of(std::string_view text) {
  if (text.size() < kMark_bytes) return {};
  const std::string_view mark = text.substr(text.size() - kMark_bytes);
  const bool is_mark =
      mark.front() == '#' && mark.find_first_not_of(kHexDigits, 1) == std::string_view::npos;
  return is_mark ? mark : std::string_view();
}

bool is_same_lease(std::string_view mark, std::string_view other) {
  return !mark.empty() && !other.empty() &&
         mark.substr(0, 1 + kWhich_digits) == other.substr(0, 1 + kWhich_digits);
}

}  // namespace modelpool::serve
