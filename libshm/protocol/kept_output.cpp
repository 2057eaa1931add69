#include "protocol/kept_output.hpp"

#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "base/text.hpp"
#include "segment/place.hpp"
#include "segment/settings_block.hpp"

namespace modelpool {
namespace {

std::string absolute_from(const char* variable) {
  const char* const value = std::getenv(variable);
  return value != nullptr && value[0] == '/' ? value : "";
}

// Where programs keep what outlasts them, by the XDG base directory specification; users of the
// system's own have no home for it.
std::string state_home() {
  if (std::string given = absolute_from("XDG_STATE_HOME"); !given.empty()) return given;
  const std::string home = absolute_from("HOME");
  const bool has_home = !home.empty() && home != "/" && geteuid() != 0;
  return has_home ? home + "/.local/state" : "/var/log";
}

// "default", or with the place of a pool that has a directory of its own.
std::string name_of(const Segment& segment) {
  std::string home = segment.home();
  if (home.empty()) home = segment.path();
  const std::string dir = home.substr(0, home.rfind('/'));
  if (homes_of_pool(segment.name(), dir).size() > 1) return segment.name();
  std::array<char, 17> place;
  std::snprintf(place.data(), place.size(), "%016llx",
                static_cast<unsigned long long>(hash_name(home)));
  return segment.name() + "-" + place.data();
}

}  // namespace

std::string log_dir_of(const Segment& segment) {
  const std::string given = read_pool_settings(segment).text(Setting::kLogDir);
  if (given == kPathOff) return {};
  if (!given.empty()) return given;
  return state_home() + "/modelpool/" + name_of(segment);
}

KeptOutput keep_output(const Segment& segment, std::string_view model) {
  const auto missing = [](const Error& error) { return KeptOutput{Fd(), escape(error.text)}; };
  const std::string dir = log_dir_of(segment);
  if (dir.empty()) return {};
  const auto log = ModelLog::make(dir, model);
  if (!log) return missing(log.error());
  std::string path = log->path();
  if (path.size() >= kLogPathMax_bytes) {
    return {Fd(), "unable to keep output in " + escape(dir) + ": the path is too long"};
  }
  auto file = log->begin();
  if (!file) return missing(file.error());
  return {std::move(*file), std::move(path)};
}

}  // namespace modelpool
