// The command line of poolserve.
//
// Safety: reads MODELPOOL_POOL; otherwise pure. One thread.
//
// Errors: kInvalid with "unable to VERB OBJECT: reason; see poolserve --help": wrong usage, exit
// code kExitUsage.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/log.hpp"
#include "modelpool/result.hpp"

namespace modelpool::serve {

inline constexpr int kExitDone = 0;
inline constexpr int kExitFinding = 1;  // another serves it, an address is in use
inline constexpr int kExitUsage = 2;    // wrong usage, a config with errors
inline constexpr int kExitNoPool = 3;   // the pool, or its directory, cannot be used

struct Options {
  std::vector<std::string> words;  // the command line, with the program
  std::string pool = "default";
  std::string dir;                      // empty: the library looks for it
  std::string config_path;              // absolute; empty: none
  std::string models_dir;               // absolute; empty: none
  std::string server = "llama-server";  // what loads a model of that folder
  std::vector<std::string> listen;      // empty: as the config says
  std::uint32_t workers = 0;            // 0: as the config says
  bool stop_on_exit = false;
  bool starts_coordinator = true;
  bool check_config = false;
  std::string import_path;  // of `poolserve import`; empty: serve
  config::LogLevel log_level = config::LogLevel::kInfo;
  config::LogFormat log_format = config::LogFormat::kText;
};

struct ParseOutcome {
  Options options;
  std::string answer;  // not empty: --help or --version; print it and end with kExitDone
};

Result<ParseOutcome> parse_command_line(int argc, const char* const* argv);

}  // namespace modelpool::serve
