// poolctl: shows and steers a pool of model backends.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <utility>

#include "base/duration.hpp"
#include "base/name.hpp"
#include "base/nearest.hpp"
#include "base/program.hpp"
#include "common.hpp"
#include "complete.hpp"

#ifndef MODELPOOL_VERSION
#define MODELPOOL_VERSION "unknown"
#endif

namespace modelpool::poolctl {
namespace {

constexpr const char* kFooter =
    R"(Durations are written 500ms, 30s, 15m, 2h, 1h30m or off; sizes 512MiB, 24GiB; settings with
dashes or underscores. The options above are accepted before and after the command.

`coordinatord & poolctl status` works: a pool that is not there is looked for again for a second,
and with --wait DURATION until a coordinator serves it.

Without --dir the pool is looked for in MODELPOOL_DIR, else in /run/modelpool and in
/dev/shm/modelpool-UID. Commands that only look change nothing and work without a coordinator;
with --file all but top and logs look at a copied segment.

Exit codes:
  0  done
  1  the answer is no, or there is a finding; of status, check and doctor: no coordinator serves
     the pool
  2  wrong usage
  3  no such pool, or it cannot be used
lease and run end with the exit code of their COMMAND, load with 0, else all three with
  124  timed out or refused
  125  poolctl failed or was used wrongly
  126  COMMAND could not run
  127  COMMAND was not found

Examples:
  poolctl status
  poolctl list --watch
  poolctl -o json leases | jq '.[] | select(.age_ms > 60000)'
  poolctl explain llama-3-8b
  poolctl lease llama-3-8b --start 'llama-server --port {port} -m llama.gguf' \
      --ready http:/health --timeout 5m -- sh -c 'curl -s "$MODELPOOL_ADDRESS/v1/models"'
  poolctl run comfy --memory 9GiB -- python3 main.py
)";

// The command and what stands after its `--`, found before anything is parsed: COMMAND belongs to
// the user whatever it looks like, and wrong usage of these has an exit code of its own.
struct Line {
  std::string command;
  std::vector<std::string> words;   // for the parser, in order
  std::vector<std::string> to_run;  // after lease, load or run ... --
};

bool takes_command(const std::string& name) {
  return name == "lease" || name == "load" || name == "run";
}

Line split(int argc, char** argv) {
  Line line;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--" && takes_command(line.command)) {
      line.to_run.assign(argv + i + 1, argv + argc);
      break;
    }
    line.words.emplace_back(word);
    if (!line.command.empty()) continue;
    const bool takes_value = word == "--pool" || word == "--dir" || word == "-o" ||
                             word == "--output" || word == "--wait";
    if (takes_value && i + 1 < argc) {
      line.words.emplace_back(argv[++i]);
    } else if (!word.starts_with("-")) {
      line.command = word;
    }
  }
  return line;
}

// What the same is called elsewhere.
std::string_view known_elsewhere(std::string_view given) {
  constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"ls", "list"},    {"ps", "list"},   {"kill", "evict"},
      {"stop", "evict"}, {"rm", "remove"}, {"help", "--help"}};
  for (const auto& [name, command] : kNames) {
    if (given == name) return command;
  }
  return {};
}

std::string nearest_command(const CLI::App& app, const std::string& given) {
  if (const std::string_view command = known_elsewhere(given); !command.empty())
    return "; did you mean " + std::string(command) + "?";
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(command->get_name());
  }
  return did_you_mean(given, {names.begin(), names.end()});
}

std::string nearest_option(const CLI::App& app, const std::string& given) {
  if (!given.starts_with("--")) return {};
  std::vector<std::string> names;
  for (const CLI::App* one : {&app, static_cast<const CLI::App*>(app.get_subcommands().front())}) {
    for (const CLI::Option* option : one->get_options()) {
      for (const std::string& name : option->get_lnames()) names.push_back(name);
    }
  }
  const std::string name = given.substr(2, given.find('=') - 2);
  if (std::find(names.begin(), names.end(), name) != names.end())
    return "; write --" + name + " behind the command";
  const std::string_view nearest = nearest_name(name, {names.begin(), names.end()});
  return nearest.empty() ? std::string() : "; did you mean --" + std::string(nearest) + "?";
}

std::string explain_misuse(const CLI::App& app, const Line& line, const CLI::ParseError& error) {
  if (line.command.empty()) return "unable to run: no command is given; poolctl --help lists them";
  if (app.get_subcommands().empty()) {
    const std::string hint = nearest_command(app, line.command);
    return "unable to run " + escape(line.command) + ": there is no such command" +
           (hint.empty() ? "; poolctl --help lists them" : hint);
  }
  std::string why = escape(error.what());
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    const std::vector<std::string> extras = app.remaining(true);
    why = "not expected:";
    for (const std::string& word : extras) why += " " + escape(word);
    if (!extras.empty()) why += nearest_option(app, extras.front());
    if (takes_command(line.command)) why += "; write -- before COMMAND";
  }
  return "unable to read the arguments: " + why +
         (why.ends_with("?") ? " See poolctl " : "; see poolctl ") +
         escape(app.get_subcommands().front()->get_name()) + " --help";
}

bool looks_at_a_copy(const CLI::App& app) {
  const CLI::Option* file = app.get_subcommands().front()->get_option_no_throw("--file");
  return file != nullptr && file->count() > 0;
}

int run(const Line& line) {
  const int wrong_usage = takes_command(line.command) ? kLeaseFailed : kWrongUsage;

  Context context;
  CLI::App app("poolctl shows and steers a pool of model backends.", "poolctl");
  app.get_formatter()->column_width(kHelpColumn);
  app.require_subcommand(1);
  app.footer(kFooter);
  app.set_help_flag("-h,--help", "Print this help and exit");
  app.set_version_flag("-v,--version",
                       "poolctl " MODELPOOL_VERSION ", layout " + std::to_string(kLayoutVersion),
                       "Print the version and exit");
  app.add_option("--pool", context.pool, "Name of the pool")
      ->type_name("NAME")
      ->envname("MODELPOOL_POOL")
      ->capture_default_str();
  app.add_option_function<std::string>(
         "--dir",
         [&context](const std::string& text) {
           if (text.empty()) throw BadArgument("unable to use --dir \"\": it takes a directory");
           context.dir = text;
         },
         "Directory of the pool's segment")
      ->type_name("DIR");
  app.add_option_function<std::string>(
         "-o,--output",
         [&context](const std::string& text) {
           if (text != "table" && text != "json") {
             throw BadArgument("unable to print as \"" + escape(text) +
                               "\": the formats are table and json");
           }
           context.json = text == "json";
         },
         "How to print")
      ->type_name("table|json");

  app.add_option_function<std::string>(
         "--wait",
         [&context](const std::string& text) {
           const auto duration = parse_duration(text);
           if (!duration) throw BadArgument(duration.error().text);
           if (text == "off")
             throw BadArgument(
                 "unable to wait without end: --wait takes a duration, 0 is not to wait");
           context.wait_ns = *duration;
         },
         "First wait until a coordinator serves the pool, at most so long (1s for a pool that is "
         "not there yet)")
      ->type_name("DURATION");

  add_status(app, context);
  add_list(app, context);
  add_top(app, context);
  add_workers(app, context);
  add_leases(app, context);
  add_waiters(app, context);
  add_events(app, context);
  add_metrics(app, context);
  add_explain(app, context);
  add_why(app, context);
  add_logs(app, context);
  add_dump(app, context);
  add_check(app, context);
  add_doctor(app, context);
  add_set(app, context);
  add_touch_pin(app, context);
  add_evict(app, context);
  add_reset(app, context);
  add_wait(app, context);
  add_load(app, context, line.to_run);
  add_lease(app, context, line.to_run);
  add_run(app, context, line.to_run);
  add_remove(app, context);

  if (line.command == "complete") {
    const auto typed = std::find(line.words.begin(), line.words.end(), "complete") + 1;
    print(complete(app, context, {typed, line.words.end()}));
    return kDone;
  }

  try {
    app.parse(std::vector<std::string>(line.words.rbegin(), line.words.rend()));
  } catch (const BadArgument& error) {
    complain(error.what());
    return wrong_usage;
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    complain(explain_misuse(app, line, error));
    return wrong_usage;
  }
  if (auto checked = check_pool_name(context.pool); !checked) {
    complain(checked.error().text);
    return wrong_usage;
  }
  if (!looks_at_a_copy(app)) {
    const bool for_judge =
        line.command == "status" || line.command == "check" || line.command == "doctor";
    if (auto there = wait_for_pool(context, for_judge); !there) {
      const int code = report(there.error());
      return takes_command(line.command) && code == kNo ? kLeaseRefused : code;
    }
  }
  return context.chosen();
}

}  // namespace
}  // namespace modelpool::poolctl

int main(int argc, char** argv) {
  namespace poolctl = modelpool::poolctl;
  const poolctl::Line line = poolctl::split(argc, argv);
  const int failed =
      poolctl::takes_command(line.command) ? poolctl::kLeaseFailed : poolctl::kUnusable;
  return modelpool::run_program("poolctl", {failed, failed}, [&] { return poolctl::run(line); });
}
