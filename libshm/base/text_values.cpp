#include "base/text_values.hpp"

#include <algorithm>

#include "base/need.hpp"
#include "base/number.hpp"
#include "base/size.hpp"
#include "base/text.hpp"
#include "modelpool/settings.hpp"

namespace modelpool {
namespace {

constexpr std::size_t kGroupNameMax_bytes = 63;
constexpr std::size_t kUuidMax_bytes = 95;

std::string_view without_blanks(std::string_view text) {
  const std::size_t first = text.find_first_not_of(' ');
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(' ') - first + 1);
}

// Between commas; "" has none.
std::vector<std::string_view> parts_of(std::string_view text) {
  std::vector<std::string_view> parts;
  if (without_blanks(text).empty()) return parts;
  for (;;) {
    const std::size_t comma = text.find(',');
    parts.push_back(without_blanks(text.substr(0, comma)));
    if (comma == std::string_view::npos) return parts;
    text.remove_prefix(comma + 1);
  }
}

// One word, of what needs no quotes anywhere.
bool is_word(std::string_view text, std::size_t max_bytes) {
  return !text.empty() && text.size() <= max_bytes && is_printable_utf8(text) &&
         text.find_first_of(" ,=\"'") == std::string_view::npos;
}

bool are_words(const std::vector<std::string_view>& parts, std::size_t max_bytes) {
  return std::all_of(parts.begin(), parts.end(),
                     [&](std::string_view part) { return is_word(part, max_bytes); });
}

bool is_number(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

std::optional<std::vector<std::string_view>> parse_groups(std::string_view text) {
  std::vector<std::string_view> names = parts_of(text);
  if (!are_words(names, kGroupNameMax_bytes)) return std::nullopt;
  return names;
}

std::optional<DeviceWish> parse_devices(std::string_view text) {
  DeviceWish wish;
  const std::vector<std::string_view> parts = parts_of(text);
  if (parts.size() == 1 && is_number(parts.front())) {
    const auto count = parse_count(parts.front(), kDevicesMax);
    if (!count) return std::nullopt;
    wish.count = static_cast<std::uint32_t>(*count);
    return wish;
  }
  if (parts.size() > kDevicesMax || !are_words(parts, kUuidMax_bytes)) return std::nullopt;
  for (const std::string_view part : parts) {
    if (part.front() == '-') return std::nullopt;  // a number below 0
    if (std::find(wish.uuids.begin(), wish.uuids.end(), part) != wish.uuids.end())
      return std::nullopt;
    wish.uuids.emplace_back(part);
  }
  wish.count = static_cast<std::uint32_t>(parts.size());
  return wish;
}

std::optional<GpuMemory> parse_gpu_memory(std::string_view text) {
  GpuMemory memory;
  const std::vector<std::string_view> parts = parts_of(text);
  if (parts.size() > kDevicesMax) return std::nullopt;
  if (parts.size() == 1 && parts.front().ends_with('%')) {
    std::string_view number = parts.front();
    number.remove_suffix(1);
    const auto percent = parse_count(without_blanks(number), 100);
    if (!percent || *percent == 0) return std::nullopt;
    memory.percent = static_cast<std::uint32_t>(*percent);
    return memory;
  }
  for (const std::string_view part : parts) {
    const std::size_t equals = part.find('=');
    const bool is_limit = equals != std::string_view::npos;
    const auto size = parse_size(is_limit ? without_blanks(part.substr(equals + 1)) : part);
    if (!size || *size > kSizeMax_bytes) return std::nullopt;
    if (!is_limit) {
      memory.sizes.push_back(*size);
      continue;
    }
    const std::string_view uuid = without_blanks(part.substr(0, equals));
    if (!is_word(uuid, kUuidMax_bytes)) return std::nullopt;
    const bool is_twice = std::any_of(memory.limits.begin(), memory.limits.end(),
                                      [&](const auto& limit) { return limit.first == uuid; });
    if (is_twice) return std::nullopt;
    memory.limits.emplace_back(uuid, *size);
  }
  if (!memory.limits.empty() && !memory.sizes.empty()) return std::nullopt;
  return memory;
}

bool is_pools_gpu_memory(std::string_view text) {
  const auto memory = parse_gpu_memory(text);
  return memory && memory->sizes.empty();
}

std::optional<ProbeRequest> parse_probe(std::string_view text) {
  if (text.empty() || text == "tcp") return ProbeRequest{};
  constexpr std::string_view kGet = "GET ";
  if (!text.starts_with(kGet)) return std::nullopt;
  const std::string_view path = text.substr(kGet.size());
  const bool is_path =
      path.starts_with('/') && path.size() <= 255 &&
      std::all_of(path.begin(), path.end(), [](char c) { return c > ' ' && c < 127; });
  if (!is_path) return std::nullopt;
  return ProbeRequest{std::string(path)};
}

}  // namespace modelpool
