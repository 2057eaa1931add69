#include "protocol/device_environment.hpp"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "base/text.hpp"
#include "base/text_values.hpp"

namespace modelpool {
namespace {

// The UUIDs that a list of visible devices names; none if it is a list of numbers or not given.
std::vector<std::string> named_in(const char* list) {
  if (list == nullptr) return {};
  const auto devices = parse_devices(list);
  if (!devices) return {};
  const bool are_names =
      std::all_of(devices->uuids.begin(), devices->uuids.end(),
                  [](const std::string& name) { return name.find('-') != std::string::npos; });
  return are_names ? devices->uuids : std::vector<std::string>();
}

}  // namespace

Result<std::vector<std::string>> device_environment(const std::vector<std::string>& uuids,
                                                    const std::vector<std::string>& given) {
  std::vector<std::string> environment;
  if (uuids.empty()) return environment;
  for (const std::string name : {"CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"}) {
    const bool is_given = std::any_of(given.begin(), given.end(), [&](const std::string& entry) {
      return entry.starts_with(name + "=");
    });
    if (is_given) continue;
    const std::vector<std::string> own = named_in(getenv(name.c_str()));
    std::string visible;
    for (const std::string& uuid : uuids) {
      const bool is_allowed = own.empty() || std::find(own.begin(), own.end(), uuid) != own.end();
      if (is_allowed) visible += (visible.empty() ? "" : ",") + uuid;
    }
    if (visible.empty()) {
      return fail(Errc::kSpawnFailed, "unable to start a backend on " + escape(uuids.front()) +
                                          ": the " + name + " of this process does not name it");
    }
    environment.push_back(name + "=" + visible);
  }
  return environment;
}

}  // namespace modelpool
