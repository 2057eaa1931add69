// The command line of coordinatord.
//
// Safety: reads MODELPOOL_POOL; otherwise pure. One thread.
//
// Errors: kInvalid with "unable to VERB OBJECT: reason; see coordinatord --help": wrong usage, exit
// code kExitUsage.
#pragma once

#include <string>

#include "config/capacities.hpp"
#include "log.hpp"
#include "modelpool/result.hpp"
#include "modelpool/settings.hpp"

namespace modelpool::coordinator {

inline constexpr int kExitDone = 0;
// No: another serves the pool, it was replaced, or for now it cannot be served.
inline constexpr int kExitFinding = 1;
inline constexpr int kExitUsage = 2;  // wrong usage, a config with errors
// No such pool, or not usable: of another user, host or version.
inline constexpr int kExitNoPool = 3;

struct Options {
  std::string pool = "default";
  std::string dir;                     // empty: the library looks for it
  std::string config_path;             // empty: none
  Overrides flags;                     // one flag per setting; origin kFlag
  config::GivenCapacities capacities;  // of a pool that is created
  LogLevel log_level = LogLevel::kInfo;
  LogFormat log_format = LogFormat::kText;
  int notify_fd = -1;  // -1: none
  bool stop_on_exit = false;
  bool check_config = false;
  std::string against;  // with check_config: a pool that might get this config; empty: none
  std::string user;     // empty: stay who we are
};

struct ParseOutcome {
  Options options;
  std::string answer;  // not empty: --help or --version; print it and end with kExitDone
};

// Every flag is also understood with underscores for dashes.
Result<ParseOutcome> parse_command_line(int argc, const char* const* argv);

}  // namespace modelpool::coordinator
