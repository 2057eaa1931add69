#include "options.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "base/name.hpp"
#include "base/nearest.hpp"
#include "base/number.hpp"
#include "base/text.hpp"

namespace modelpool::coordinator {
namespace {

constexpr std::uint64_t kNotifyFdMax = 1 << 20;

// Of the help.
constexpr std::size_t kTextColumn = 32;
constexpr std::size_t kWidth = 100;

constexpr const char* kDescription =
    "The judge of a modelpool: watches the pool's segment and ends backends that break a rule, "
    "are\n"
    "idle, or stand in the way of a waiting request. Runs in the foreground; one per pool.";

constexpr const char* kFooter =
    "DURATION is 500ms, 30s, 15m, 2h, 1h30m or off; 0 is off. Off never means at once. Settings "
    "given\n"
    "here override [pool] of the config; its [[model]] tables override both for the models they "
    "match.\n"
    "Dashes in names may be underscores.\n"
    "\n"
    "Signals: SIGTERM and SIGINT leave in order; while --on-exit stop ends the backends a second "
    "one\n"
    "waits for no request any longer, a third leaves at once (exit code 1). SIGHUP reads the "
    "config\n"
    "again (a bad one is refused and the old one kept), SIGUSR1 logs the table of backends.\n"
    "Environment: MODELPOOL_POOL, MODELPOOL_DIR; NOTIFY_SOCKET, WATCHDOG_USEC (systemd).\n"
    "Exit codes: 0 done, 1 another coordinator is there, the system has run out of something, or "
    "the\n"
    "pool lost its name (start again), 2 wrong usage or a config with errors, 3 the pool or its\n"
    "directory cannot be used.";

// Names on the left, texts wrapped on the right: it fits 100 columns.
class HelpFormatter final : public CLI::Formatter {
 public:
  std::string make_usage(const CLI::App*, std::string) const override {
    return "\nUsage: coordinatord [--pool NAME] [--config FILE] [--SETTING VALUE]... "
           "[--FLAG...]\n\n";
  }
  std::string make_group(std::string group, bool,
                         std::vector<const CLI::Option*> options) const override {
    std::string out = group + ":\n";
    for (const CLI::Option* option : options) out += make_option(option, false);
    return out;
  }
  std::string make_option(const CLI::Option* option, bool is_positional) const override {
    std::string out = "  " + make_option_name(option, is_positional) + make_option_opts(option);
    // Two blanks at least between a name and its text, or the text starts a line.
    if (out.size() + 2 > kTextColumn) {
      out += '\n';
      out.append(kTextColumn, ' ');
    } else {
      out.resize(kTextColumn, ' ');
    }
    std::size_t column = kTextColumn;
    std::string_view rest = option->get_description();
    while (!rest.empty()) {
      const std::string_view word = rest.substr(0, rest.find(' '));
      if (column > kTextColumn && column + 1 + word.size() > kWidth) {
        out += '\n';
        out.append(kTextColumn, ' ');
        column = kTextColumn;
      }
      if (column > kTextColumn) {
        out += ' ';
        ++column;
      }
      out += word;
      column += word.size();
      rest.remove_prefix(std::min(rest.size(), word.size() + 1));
    }
    return out + '\n';
  }
};

std::string with_dashes(std::string_view name) {
  std::string text(name);
  std::replace(text.begin(), text.end(), '_', '-');
  return text;
}

std::string flag_of(const config::CapacityInfo& info) { return "--" + std::string(info.name); }

tl::unexpected<Error> wrong_usage(std::string text) {
  return fail(Errc::kInvalid, std::move(text) + "; see coordinatord --help");
}

tl::unexpected<Error> unreadable(std::string_view reason) {
  return wrong_usage("unable to read arguments: " + std::string(reason));
}

tl::unexpected<Error> bad_value(std::string_view flag, std::string_view given,
                                std::string_view takes) {
  return wrong_usage("unable to set " + std::string(flag) + " to " + quote(given) + ": it takes " +
                     std::string(takes));
}

// All values as given; what they mean is checked after CLI11 told them apart.
struct Texts {
  std::string pool, dir, config, against, log_level, log_format, notify_fd, on_exit, user;
  std::array<std::string, kSettingCount> settings;
};

// "--max_backends=2" -> "--max-backends=2". Behind a lone "--" stand no flags.
std::vector<std::string> normalized(int argc, const char* const* argv) {
  std::vector<std::string> arguments;
  bool flags_follow = true;
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    if (argument == "--") flags_follow = false;
    if (flags_follow && argument.starts_with("--")) {
      const auto name_end = argument.begin() + static_cast<std::ptrdiff_t>(
                                                   std::min(argument.find('='), argument.size()));
      std::replace(argument.begin(), name_end, '_', '-');
    }
    arguments.push_back(std::move(argument));
  }
  return arguments;
}

class CommandLine {
 public:
  CommandLine() {
    app_.formatter(std::make_shared<HelpFormatter>());
    app_.footer(kFooter);
    app_.allow_extras();
    add("Pool", "--pool", "NAME", texts_.pool,
        "the pool to judge: a-z, 0-9, _ and -, 64 at most [MODELPOOL_POOL, else default]");
    add("Pool", "--dir", "DIR", texts_.dir,
        "where its segment lies [MODELPOOL_DIR, else /run/modelpool, else /dev/shm/modelpool-UID]");

    add("Rules", "--config", "FILE", texts_.config,
        "TOML: [pool], [[model]] and [models.NAME] tables with the settings below, [capacity]; "
        "read at start and on SIGHUP [none]");
    app_.add_flag(
            "--check-config", checks_config_,
            "only read the config: print what holds and end with 0, or its errors and end with 2")
        ->group("Rules");
    add("Rules", "--against", "POOL", texts_.against,
        "with --check-config: say whom the judge of POOL would end if it had this config; nothing "
        "is changed");
    for (const SettingInfo& info : kSettings) {
      add("Rules", "--" + with_dashes(info.name), info.placeholder,
          texts_.settings[static_cast<std::size_t>(info.id)],
          std::string(info.help) + " [" + format_setting(info, info.default_value) + "]");
    }

    add("Service", "--on-exit", "leave|stop", texts_.on_exit,
        "when told to end: leave the backends running, or stop them all first [leave]");
    add("Service", "--user", "NAME", texts_.user, "become this user first; needs root [stay]");
    add("Service", "--notify-fd", "N", texts_.notify_fd,
        "write a line there when ready, then close it (s6) [none]");
    add("Service", "--log-level", "LEVEL", texts_.log_level,
        "trace, debug (each decision and why), info, warn or error [info]");
    add("Service", "--log-format", "text|json", texts_.log_format,
        "lines for people, or one JSON object a line; on stderr [text]");

    for (std::size_t i = 0; i < config::kCapacities.size(); ++i) {
      const config::CapacityInfo& info = config::kCapacities[i];
      add("Capacity (only when the pool is created)", flag_of(info), "N", capacities_[i],
          std::string(info.help) + ", 1 to " + std::to_string(info.max) + " [" +
              std::to_string(Capacities{}.*info.member) + "]");
    }

    app_.set_help_flag("-h,--help", "print this and end")->group("Help");
    app_.set_version_flag("--version", "coordinatord " MODELPOOL_VERSION,
                          "print the version and end")
        ->group("Help");
  }

  Result<ParseOutcome> parse(std::vector<std::string> arguments) {
    if (Result<> once = check_given_once(arguments); !once) return fail(once.error());
    std::reverse(arguments.begin(), arguments.end());  // as CLI11 takes them
    try {
      app_.parse(std::move(arguments));
    } catch (const CLI::CallForHelp&) {
      return ParseOutcome{{}, app_.help()};
    } catch (const CLI::CallForVersion&) {
      return ParseOutcome{{}, app_.version() + "\n"};
    } catch (const CLI::ArgumentMismatch& error) {
      const std::string text = error.what();
      return unreadable(text.substr(0, text.find(':')) + " needs a value");
    } catch (const CLI::ParseError& error) {
      return unreadable(escape(error.what()));
    }
    if (const std::vector<std::string> extras = app_.remaining(); !extras.empty()) {
      return unreadable(unexpected(extras.front()));
    }
    ParseOutcome outcome;
    if (Result<> read = read_texts(outcome.options); !read) return fail(read.error());
    return outcome;
  }

 private:
  void add(const std::string& group, const std::string& flag, std::string_view placeholder,
           std::string& text, const std::string& help) {
    app_.add_option(flag, text, help)->option_text(std::string(placeholder))->group(group);
    names_.push_back(flag);
  }

  // A flag given twice is a slip: which of them was meant?
  static Result<> check_given_once(const std::vector<std::string>& arguments) {
    std::set<std::string> seen;
    for (const std::string& argument : arguments) {
      if (argument == "--") break;
      if (!argument.starts_with("--")) continue;
      const std::string name = argument.substr(0, argument.find('='));
      if (!seen.insert(name).second) return unreadable(escape(name) + " is given twice");
    }
    return {};
  }

  std::string unexpected(const std::string& argument) const {
    std::string text = "unknown argument " + quote(argument);
    if (!argument.starts_with("-")) return text + " (every argument is a --flag)";
    std::vector<std::string_view> known = {"--help", "--version", "--check-config"};
    known.insert(known.end(), names_.begin(), names_.end());
    const std::string_view nearest = nearest_name(argument.substr(0, argument.find('=')), known);
    return nearest.empty() ? text : text + " (did you mean " + std::string(nearest) + "?)";
  }

  bool given(const char* flag) const { return app_.count(flag) != 0; }

  Result<> read_texts(Options& options) const {
    if (Result<> read = read_pool(options); !read) return read;
    if (Result<> read = read_service(options); !read) return read;
    for (const SettingInfo& info : kSettings) {
      if (!given(("--" + with_dashes(info.name)).c_str())) continue;
      Result<SettingEntry> entry = parse_entry(
          info, texts_.settings[static_cast<std::size_t>(info.id)], {OriginKind::kFlag, 0});
      if (!entry) return wrong_usage(entry.error().text);
      options.flags.set(std::move(*entry));
    }
    for (std::size_t i = 0; i < config::kCapacities.size(); ++i) {
      const config::CapacityInfo& info = config::kCapacities[i];
      const std::string flag = flag_of(info);
      if (!given(flag.c_str())) continue;
      const Result<std::uint64_t> value = parse_count(capacities_[i], info.max);
      if (!value || *value == 0) {
        return bad_value(flag, capacities_[i], "a number from 1 to " + std::to_string(info.max));
      }
      options.capacities.set(info, static_cast<std::uint32_t>(*value));
    }
    return {};
  }

  Result<> read_pool(Options& options) const {
    if (given("--pool")) {
      options.pool = texts_.pool;
    } else if (const char* name = std::getenv("MODELPOOL_POOL"); name != nullptr && *name != '\0') {
      options.pool = name;
    }
    if (Result<> valid = check_pool_name(options.pool); !valid) {
      return wrong_usage(valid.error().text);
    }
    const auto read_name = [this](const char* flag, const std::string& text, std::string_view takes,
                                  std::string& to) -> Result<> {
      if (given(flag) && text.empty()) return bad_value(flag, text, takes);
      to = text;
      return {};
    };
    if (Result<> read = read_name("--dir", texts_.dir, "a directory", options.dir); !read) {
      return read;
    }
    if (Result<> read = read_name("--config", texts_.config, "a file", options.config_path);
        !read) {
      return read;
    }
    if (Result<> read = read_name("--user", texts_.user, "the name of a user", options.user);
        !read) {
      return read;
    }
    options.check_config = checks_config_;
    if (options.check_config && options.config_path.empty()) {
      return wrong_usage("unable to check the config: none is given; add --config FILE");
    }
    if (!given("--against")) return {};
    if (!options.check_config) {
      return wrong_usage("unable to use --against: it belongs to --check-config; add that");
    }
    if (Result<> valid = check_pool_name(texts_.against); !valid) {
      return wrong_usage(valid.error().text);
    }
    options.against = texts_.against;
    return {};
  }

  Result<> read_service(Options& options) const {
    if (given("--on-exit")) {
      if (texts_.on_exit != "leave" && texts_.on_exit != "stop") {
        return bad_value("--on-exit", texts_.on_exit, "leave or stop");
      }
      options.stop_on_exit = texts_.on_exit == "stop";
    }
    if (given("--log-level")) {
      const auto level = parse_log_level(texts_.log_level);
      if (!level) {
        return bad_value("--log-level", texts_.log_level, "trace, debug, info, warn or error");
      }
      options.log_level = *level;
    }
    if (given("--log-format")) {
      const auto format = parse_log_format(texts_.log_format);
      if (!format) return bad_value("--log-format", texts_.log_format, "text or json");
      options.log_format = *format;
    }
    if (given("--notify-fd")) {
      const Result<std::uint64_t> fd = parse_count(texts_.notify_fd, kNotifyFdMax);
      if (!fd || *fd < 3) {
        return bad_value("--notify-fd", texts_.notify_fd, "an open descriptor, 3 or above");
      }
      options.notify_fd = static_cast<int>(*fd);
    }
    return {};
  }

  CLI::App app_{kDescription, "coordinatord"};
  Texts texts_;
  std::array<std::string, config::kCapacities.size()> capacities_;
  bool checks_config_ = false;
  std::vector<std::string> names_;
};

}  // namespace

Result<ParseOutcome> parse_command_line(int argc, const char* const* argv) {
  CommandLine command_line;
  return command_line.parse(normalized(argc, argv));
}

}  // namespace modelpool::coordinator
