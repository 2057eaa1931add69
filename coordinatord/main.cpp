// coordinatord: command line and config in, then the loop.

#include <grp.h>
#include <pwd.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>

#include "base/available.hpp"
#include "base/journal.hpp"
#include "base/program.hpp"
#include "base/text.hpp"
#include "config/pool_file.hpp"
#include "config/summary.hpp"
#include "judge/host_limit.hpp"
#include "judge/suppose.hpp"
#include "log.hpp"
#include "loop.hpp"
#include "older_layout.hpp"
#include "options.hpp"
#include "segment/settings_image.hpp"

namespace {

using namespace modelpool;               // NOLINT: the program's own names
using namespace modelpool::coordinator;  // NOLINT

int complain(const Error& error, int code) {
  const char* const prefix = stderr_is_journal() ? "<3>coordinatord: " : "coordinatord: ";
  std::fprintf(stderr, "%s\n", prefix_lines(prefix, error.text).c_str());
  return code;
}

// From root to the pool's owner, before anything of the pool is touched.
Result<> become_user(const std::string& name) {
  const passwd* user = getpwnam(name.c_str());
  if (user == nullptr)
    return fail(Errc::kInvalid, "unable to run as " + escape(name) + ": there is no such user");
  if (geteuid() == user->pw_uid) return {};
  if (geteuid() != 0) {
    return fail(Errc::kPermission,
                "unable to run as " + escape(name) + ": only root can; start as that user instead");
  }
  if (initgroups(user->pw_name, user->pw_gid) != 0 || setgid(user->pw_gid) != 0 ||
      setuid(user->pw_uid) != 0) {
    return fail_errno(errno, "run as " + escape(name));
  }
  return {};
}

// On a busy host a deadline should not wait for other programs' time slices. Where that is not
// permitted it goes on without; who has chosen a priority keeps it.
void take_priority() {
  constexpr int kNice = -10;
  errno = 0;
  if (getpriority(PRIO_PROCESS, 0) == 0 && errno == 0)
    static_cast<void>(setpriority(PRIO_PROCESS, 0, kNice));
}

int exit_code(const Error& error) {
  switch (error.code) {
    case Errc::kInvalid:
      return kExitUsage;
    case Errc::kBusy:  // another coordinator, or a creation under way: a supervisor may try again
    case Errc::kSystem:
      return kExitFinding;
    default:
      return kExitNoPool;
  }
}

// Whom the judge of a pool would end if it had these settings.
Result<std::string> effect_on_pool(const Options& options, const Settings& settings) {
  const auto segment = Segment::open_read_only(options.against, options.dir);
  if (!segment) return fail(segment.error());
  const auto supposed = suppose(**segment, [&](Settings& changed) { changed = settings; });
  if (!supposed) return fail(supposed.error());
  std::string text = "\nin pool " + (*segment)->name() + " now:\n";
  const std::vector<Consequence> consequences =
      find_consequences(supposed->snapshot, measure_host(supposed->snapshot));
  if (consequences.empty()) return text + "  nobody would go\n";
  for (const Consequence& one : consequences) {
    const BackendView* const backend = supposed->snapshot.find(one.action.backend);
    if (backend == nullptr) continue;
    text += "  " + escape(backend->model) + " (pid " + std::to_string(backend->process.pid) +
            "): " + consequence_text(one.action, supposed->snapshot) + "; " +
            cause_text(one.action) + "\n";
  }
  return text;
}

int check_config(const Options& options, const config::PoolFile& file) {
  const Settings& settings = file.settings;
  const auto fits =
      SettingsImage::make(settings, settings_copy_bytes(options.capacities.values) / sizeof(Word));
  if (!fits) return complain(fits.error(), kExitUsage);
  std::string effect;
  if (!options.against.empty()) {
    auto found = effect_on_pool(options, settings);
    if (!found) return complain(found.error(), exit_code(found.error()));
    effect = std::move(*found);
  }
  // No error: one file may serve hosts of several sizes.
  const auto fault = find_host_fault(settings.get(Setting::kMinAvailable), read_total_bytes());
  if (fault) std::fprintf(stderr, "coordinatord: %s\n", fault->c_str());
  std::printf("%s: ok\n%s%s", options.config_path.c_str(),
              config::config_summary(settings, options.capacities, file.door).c_str(),
              effect.c_str());
  return kExitDone;
}

int run(int argc, char** argv) {
  auto parsed = parse_command_line(argc, argv);
  if (!parsed) return complain(parsed.error(), kExitUsage);
  if (!parsed->answer.empty()) {
    std::fputs(parsed->answer.c_str(), stdout);
    return kExitDone;
  }
  Options& options = parsed->options;
  if (!options.user.empty()) {
    if (auto ok = become_user(options.user); !ok)
      return complain(ok.error(), exit_code(ok.error()));
  }
  set_up_log(options.log_level, options.log_format);
  if (!options.check_config) {
    // Before the config is read, which is in the words of that version.
    if (auto ok = execute_older_coordinator(options, argv); !ok)
      return complain(ok.error(), exit_code(ok.error()));
  }
  const auto file =
      config::load_pool_file(options.config_path, options.flags, config::Variables::kLeft);
  if (!file) return complain(file.error(), kExitUsage);
  for (const config::CapacityInfo& info : config::kCapacities) {
    if (file->capacities.has(info) && !options.capacities.has(info)) {
      options.capacities.set(info, file->capacities.values.*info.member);
    }
  }
  if (options.check_config) return check_config(options, *file);
  // A pidfd for each worker and backend.
  rlimit descriptors{};
  if (getrlimit(RLIMIT_NOFILE, &descriptors) == 0) {
    descriptors.rlim_cur = descriptors.rlim_max;
    setrlimit(RLIMIT_NOFILE, &descriptors);
  }
  take_priority();  // before there are threads: they have their creator's
  auto notifier = Notifier::make(options.notify_fd);
  if (!notifier) return complain(notifier.error(), kExitUsage);
  auto loop = Loop::make(options, file->settings, std::move(*notifier));
  if (!loop) return complain(loop.error(), exit_code(loop.error()));
  return (*loop)->run();
}

}  // namespace

int main(int argc, char** argv) {
  return run_program("coordinatord", {kExitNoPool, kExitFinding}, [&] { return run(argc, argv); });
}
