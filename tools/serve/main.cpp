// poolserve: the front door of a pool of models.
#include <cstdio>
#include <string>
#include <utility>

#include "config/program.hpp"
#include "import/import.hpp"
#include "master/master.hpp"
#include "master/title.hpp"

namespace {

using namespace modelpool;         // NOLINT: the program's own names
using namespace modelpool::serve;  // NOLINT

int complain(const Error& error) {
  const char* const prefix = stderr_is_journal() ? "<3>poolserve: " : "poolserve: ";
  std::fprintf(stderr, "%s\n", prefix_lines(prefix, error.text).c_str());
  return exit_code_of(error);
}

int import(const std::string& path) {
  const auto imported = import_config(path);
  if (!imported) return complain(imported.error());
  std::fputs(imported->text.c_str(), stdout);
  std::fputs(imported->report().c_str(), stderr);
  return kExitDone;
}

int run(int argc, char** argv) {
  auto parsed = parse_command_line(argc, argv);
  if (!parsed) return complain(parsed.error());
  if (!parsed->answer.empty()) {
    std::fputs(parsed->answer.c_str(), stdout);
    return kExitDone;
  }
  Options& options = parsed->options;
  if (!options.import_path.empty()) return import(options.import_path);
  config::set_up_log("poolserve", options.log_level, options.log_format);
  auto inherited = inherit();
  // Once executed in another's place it is worth another try, whatever is wrong.
  const bool is_executed = !inherited || inherited->has_value();
  const auto give_up = [is_executed](const Error& error) {
    const int code = complain(error);
    return is_executed ? kExitFinding : code;
  };
  if (!inherited) return give_up(inherited.error());
  auto source = load_source(options);
  if (!source) return give_up(source.error());
  if (options.check_config) {
    if (auto known = check_version(); !known) return complain(known.error());
    if (auto usable = check_pool(options); !usable) return complain(usable.error());
    std::fputs(summary(options, *source).c_str(), stdout);
    return kExitDone;
  }
  set_title("poolserve: master");
  auto master = Master::make(std::move(options), std::move(*source), std::move(*inherited));
  if (!master) return give_up(master.error());
  return (*master)->run();
}

}  // namespace

int main(int argc, char** argv) {
  keep_title_space(argc, argv);
  return run_program("poolserve", {kExitNoPool, kExitFinding}, [&] { return run(argc, argv); });
}
