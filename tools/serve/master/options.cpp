#include "master/options.hpp"

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <stdexcept>

#include "config/around.hpp"

#ifndef MODELPOOL_VERSION
#define MODELPOOL_VERSION "unknown"
#endif

namespace modelpool::serve {
namespace {

constexpr std::size_t kHelpColumn = 30;
constexpr std::uint32_t kWorkersMax = 256;

constexpr const char* kDescription =
    "The front door of a pool of models: one HTTP address for all of them. A request names its\n"
    "model; poolserve loads that if need be, making room by the pool's rules, and passes request\n"
    "and answer on unchanged. Models stay loaded when poolserve ends, dies or is started anew.";

constexpr const char* kFooter =
    R"(The config is the file that coordinatord reads: [serve] and [models."NAME"] are poolserve's.
With --models-dir each *.gguf below DIR is a model of its file's name. Both together: the models
of both.

Where no coordinator serves the pool, poolserve starts one, from its own folder or PATH, and
starts it again when it dies; a coordinator that others start is left to them. It gets the same
--config. With none it may use 7/8 of the host's memory (--max-memory), and evicts idle
models while less than 1/16 is left (--min-available).

Addresses are 127.0.0.1:8080, [::1]:8080 or unix:/run/pool.sock. Sockets of systemd (LISTEN_FDS)
are used for those that they are bound to.

Signals: SIGTERM and SIGINT stop when requests have ended (shutdown_timeout); a second one stops
at once. Coordinator and models stay; --on-exit stop ends them. SIGHUP reads config, keys and
certificates again: models that were removed, or are started in another way now, are ended when
idle; a bad config is refused and the old one kept. SIGUSR1 logs who runs. SIGUSR2 executes the
program anew, which may be another version by now, in the same process: new workers take the
place of the old ones, which finish; a version that refuses the config, or whose workers die, is
given up, and the old workers go on. Workers serve on when the first process is killed; the next
poolserve takes their place, and no connection is refused.

Environment: MODELPOOL_POOL, MODELPOOL_DIR; NOTIFY_SOCKET, LISTEN_FDS (systemd).

Exit codes:
  0  done
  1  another poolserve serves the pool, an address is in use, or the system has run out of
     something
  2  wrong usage, or a config with errors: also keys, certificates or a log that cannot be used
  3  the pool or its directory cannot be used

Examples:
  poolserve --models-dir /models
  poolserve --config /etc/modelpool/pool.toml --check-config
  kill -USR2 PID    # once a new version is installed
  poolserve import llama-swap.yaml > pool.toml
  curl http://127.0.0.1:8080/v1/models
)";

struct BadArgument : std::runtime_error {
  using std::runtime_error::runtime_error;
};

tl::unexpected<Error> wrong_usage(const std::string& text) {
  return fail(Errc::kInvalid, text + "; see poolserve --help");
}

using Take = std::function<void(const std::string&)>;

CLI::Option* add(CLI::App& app, const std::string& flag, const std::string& type,
                 const std::string& takes, const Take& take, const std::string& help) {
  return app
      .add_option_function<std::string>(
          flag,
          [flag, takes, take](const std::string& text) {
            if (text.empty()) {
              throw BadArgument("unable to set " + flag + " to \"\": it takes " + takes);
            }
            take(text);
          },
          help)
      ->type_name(type);
}

template <class Value>
Value one_of(const std::string& flag, const std::string& text, std::optional<Value> value,
             const std::string& takes) {
  if (value) return *value;
  throw BadArgument("unable to set " + flag + " to " + config::quoted(text) + ": it takes " +
                    takes);
}

std::optional<bool> parse_on_exit(const std::string& text) {
  if (text == "leave") return false;
  if (text == "stop") return true;
  return std::nullopt;
}

std::optional<std::uint32_t> parse_workers(const std::string& text) {
  if (text.size() > 3 || text.find_first_not_of("0123456789") != std::string::npos)
    return std::nullopt;
  const auto count = static_cast<std::uint32_t>(std::stoul(text));
  if (count == 0 || count > kWorkersMax) return std::nullopt;
  return count;
}

// A worker or a coordinator may have another working directory.
std::string absolute(const std::string& path) {
  return std::filesystem::absolute(path).lexically_normal().string();
}

void add_flags(CLI::App& app, Options& options) {
  add(
      app, "--config", "FILE", "a file",
      [&](const std::string& text) { options.config_path = absolute(text); },
      "Read the pool's config from this file");
  add(
      app, "--models-dir", "DIR", "a directory",
      [&](const std::string& text) { options.models_dir = absolute(text); },
      "Serve each *.gguf file below DIR");
  add(
      app, "--server", "PROGRAM", "a program",
      [&](const std::string& text) { options.server = text; },
      "What loads the models of --models-dir (llama-server)");
  add(
      app, "--pool", "NAME", "a name", [&](const std::string& text) { options.pool = text; },
      "Name of the pool (default)");
  add(
      app, "--dir", "DIR", "a directory", [&](const std::string& text) { options.dir = text; },
      "Directory of the pool's segment");
  add(
      app, "--listen", "ADDRESS", "an address",
      [&](const std::string& text) { options.listen.push_back(text); },
      "Listen here (127.0.0.1:8080); may be repeated")
      ->trigger_on_parse();
  add(
      app, "--workers", "N", "a number",
      [&](const std::string& text) {
        options.workers = one_of("--workers", text, parse_workers(text), "a number from 1 to 256");
      },
      "Processes that serve (one a core, at least 2)");
  add(
      app, "--on-exit", "leave|stop", "leave or stop",
      [&](const std::string& text) {
        options.stop_on_exit = one_of("--on-exit", text, parse_on_exit(text), "leave or stop");
      },
      "What becomes of models and coordinator at the end (leave)");
  app.add_flag_callback(
      "--no-coordinator", [&] { options.starts_coordinator = false; },
      "Start no coordinator: others do, as systemd");
  app.add_flag("--check-config", options.check_config, "Check config and models, and exit");
  add(
      app, "--log-level", "LEVEL", "a level",
      [&](const std::string& text) {
        options.log_level = one_of("--log-level", text, config::parse_log_level(text),
                                   "trace, debug, info, warn or error");
      },
      "trace, debug, info, warn or error (info)");
  add(
      app, "--log-format", "text|json", "text or json",
      [&](const std::string& text) {
        options.log_format =
            one_of("--log-format", text, config::parse_log_format(text), "text or json");
      },
      "How to log on stderr (text)");
}

bool is_pool_name(const std::string& name) {
  return !name.empty() && name.size() <= 64 &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_-") == std::string::npos;
}

}  // namespace

Result<ParseOutcome> parse_command_line(int argc, const char* const* argv) {
  ParseOutcome outcome;
  Options& options = outcome.options;
  options.words.assign(argv, argv + argc);
  if (const char* name = std::getenv("MODELPOOL_POOL"); name != nullptr && *name != '\0') {
    options.pool = name;
  }
  CLI::App app(kDescription, "poolserve");
  app.get_formatter()->column_width(kHelpColumn);
  app.footer(kFooter);
  app.set_help_flag("-h,--help", "Print this help and exit");
  app.set_version_flag("-v,--version", "poolserve " MODELPOOL_VERSION,
                       "Print the version and exit");
  add_flags(app, options);
  CLI::App* const import = app.add_subcommand(
      "import", "Make a config of a llama-swap.yaml, a llama.cpp preset .ini or a LocalAI folder");
  import->footer("");
  import->add_option("FILE", options.import_path, "What to read; the config goes to stdout")
      ->required();
  try {
    app.parse(argc, argv);
  } catch (const BadArgument& error) {
    return wrong_usage(error.what());
  } catch (const CLI::CallForHelp&) {
    outcome.answer = import->parsed() ? import->help("poolserve") : app.help();
    return outcome;
  } catch (const CLI::CallForVersion& version) {
    outcome.answer = std::string(version.what()) + "\n";
    return outcome;
  } catch (const CLI::ParseError& error) {
    return wrong_usage(std::string("unable to read arguments: ") + error.what());
  }
  if (import->parsed()) return outcome;
  if (!is_pool_name(options.pool)) {
    return wrong_usage("unable to use pool " + config::quoted(options.pool) +
                       ": a name is up to 64 of a-z, 0-9, _ and -");
  }
  if (options.config_path.empty() && options.models_dir.empty()) {
    return wrong_usage(
        "unable to serve: no models are given; add --config FILE or --models-dir DIR");
  }
  if (app.count("--server") != 0 && options.models_dir.empty()) {
    return wrong_usage("unable to use --server: it belongs to --models-dir; add that");
  }
  return outcome;
}

}  // namespace modelpool::serve
