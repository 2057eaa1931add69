#include "sample/amd.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>

#include "base/proc.hpp"
#include "base/text.hpp"

namespace modelpool::sample {
namespace {

using Path = std::filesystem::path;

std::string first_line(const Path& file) {
  std::ifstream stream(file);
  std::string line;
  std::getline(stream, line);
  return line;
}

std::optional<std::uint64_t> number_in(const Path& file) {
  const std::string line = first_line(file);
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), number);
  const bool is_one = error == std::errc() && end == line.data() + line.size();
  return is_one && number <= coordinator::kSampleSizeMax_bytes ? std::optional(number)
                                                               : std::nullopt;
}

// "0000:03:00.0", as descriptors name the device.
std::string pci_name(const Path& device) {
  constexpr std::string_view kName = "PCI_SLOT_NAME=";
  std::ifstream stream(device / "uevent");
  for (std::string line; std::getline(stream, line);) {
    if (line.starts_with(kName)) return line.substr(kName.size());
  }
  return {};
}

// As HIP_VISIBLE_DEVICES and ROCR_VISIBLE_DEVICES take it.
std::string uuid_of(const Path& device, const std::string& pci) {
  const std::string unique = first_line(device / "unique_id");
  return !unique.empty() ? "GPU-" + unique : pci.empty() ? std::string() : "PCI-" + pci;
}

bool is_card(std::string_view name) {
  return name.starts_with("card") && name.size() > 4 &&
         name.find_first_not_of("0123456789", 4) == std::string_view::npos;
}

struct Found {
  Device device;
  std::string pci;
};
std::vector<Found> find_devices(const std::string& sysfs) {
  std::vector<Found> found;
  std::error_code error;
  std::filesystem::directory_iterator cards(Path(sysfs) / "class/drm", error);
  for (; !error && cards != end(cards); cards.increment(error)) {
    if (!is_card(cards->path().filename().string())) continue;
    const Path directory = cards->path() / "device";
    const auto total = number_in(directory / "mem_info_vram_total");
    const auto used = number_in(directory / "mem_info_vram_used");
    if (!total || !used || *total == 0) continue;
    Found card;
    card.pci = pci_name(directory);
    card.device.uuid = uuid_of(directory, card.pci);
    card.device.total_bytes = *total;
    card.device.free_bytes = *total - std::min(*total, *used);
    const bool is_named = !card.device.uuid.empty() && is_printable_utf8(card.device.uuid) &&
                          card.device.uuid.find(' ') == std::string::npos;
    if (is_named) found.push_back(std::move(card));
  }
  std::sort(found.begin(), found.end(),
            [](const Found& a, const Found& b) { return a.device.uuid < b.device.uuid; });
  return found;
}

bool is_of_device(pid_t pid, const std::string& descriptor) {
  std::array<char, 64> target{};
  const ssize_t length =
      readlink(proc_path(pid, "fd/" + descriptor).c_str(), target.data(), target.size());
  return length > 0 &&
         std::string_view(target.data(), static_cast<std::size_t>(length)).starts_with("/dev/dri/");
}

// By PCI device; a client that several descriptors name counts once.
std::map<std::string, std::uint64_t> uses_of(pid_t pid) {
  std::map<std::string, std::uint64_t> uses;
  std::set<std::pair<std::string, std::uint64_t>> clients;
  for (const int number : list_descriptors(pid).value_or(std::vector<int>())) {
    const std::string descriptor = std::to_string(number);
    if (!is_of_device(pid, descriptor)) continue;
    const auto text = read_proc(pid, "fdinfo/" + descriptor);
    const auto use = text ? parse_fdinfo(*text) : std::nullopt;
    if (!use || !clients.emplace(use->device, use->client).second) continue;
    uses[use->device] += std::min(use->bytes, coordinator::kSampleSizeMax_bytes);
  }
  return uses;
}

}  // namespace

std::optional<DrmUse> parse_fdinfo(std::string_view text) {
  DrmUse use;
  bool is_amd = false;
  bool has_memory = false;
  const auto read = [](std::string_view from, std::uint64_t* number) {
    return std::from_chars(from.data(), from.data() + from.size(), *number).ec == std::errc();
  };
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    const std::string_view name = line.substr(0, colon);
    std::string_view value = line.substr(colon + 1);
    value.remove_prefix(std::min(value.find_first_not_of(" \t"), value.size()));
    if (name == "drm-driver") is_amd = value == "amdgpu";
    if (name == "drm-pdev") use.device = value;
    if (name == "drm-client-id") static_cast<void>(read(value, &use.client));
    std::uint64_t kib = 0;
    // The second name is that of newer kernels, which give both for a while.
    if ((name == "drm-memory-vram" || name == "drm-resident-vram") && read(value, &kib)) {
      if (kib > coordinator::kSampleSizeMax_bytes / 1024) return std::nullopt;
      use.bytes = kib * 1024;
      has_memory = true;
    }
  }
  return is_amd && has_memory && !use.device.empty() ? std::optional(use) : std::nullopt;
}

void measure_amd(const std::string& sysfs, const std::vector<pid_t>& of_backends,
                 std::vector<Device>* devices) {
  std::vector<Found> found = find_devices(sysfs);
  if (found.empty()) return;
  for (const pid_t pid : of_backends) {
    for (const auto& [pci, bytes] : uses_of(pid)) {
      const auto card = std::find_if(found.begin(), found.end(),
                                     [&name = pci](const Found& one) { return one.pci == name; });
      if (card == found.end()) continue;
      card->device.knows_processes = true;
      card->device.processes.emplace_back(pid, std::min(bytes, card->device.total_bytes));
    }
  }
  for (Found& card : found) devices->push_back(std::move(card.device));
}

}  // namespace modelpool::sample
