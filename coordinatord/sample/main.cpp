// modelpool-sample: measures what backends and devices take, for coordinatord, which must not enter
// a driver itself (sampler.hpp). Requests on stdin, answers on stdout (sample_text.hpp).
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>

#include "base/fd.hpp"
#include "base/need.hpp"
#include "base/proc.hpp"
#include "base/program.hpp"
#include "base/size.hpp"
#include "base/text.hpp"
#include "base/time.hpp"
#include "sample/amd.hpp"
#include "sample/host_memory.hpp"
#include "sample/nvml.hpp"

namespace modelpool::sample {
namespace {

using coordinator::LineReader;
using coordinator::RequestReader;
using coordinator::SampleAnswer;
using coordinator::SampleRequest;

constexpr int kExitDone = 0;
constexpr int kExitFinding = 1;
constexpr int kExitUsage = 2;

struct Options {
  std::string sysfs = "/sys";
  std::vector<pid_t> pids;
};

class Samples {
 public:
  explicit Samples(std::string sysfs) : sysfs_(std::move(sysfs)) {}

  void measure_host(const SampleRequest& request, SampleAnswer* answer) {
    answer->id = request.id;
    bool is_rough = false;
    const auto measured = host_.measure(request);
    for (std::size_t i = 0; i < request.backends.size(); ++i) {
      answer->backends.push_back(
          {request.backends[i].ref, measured[i].bytes, measured[i].processes});
      is_rough |= measured[i].is_rough;
    }
    if (is_rough) {
      answer->notes.emplace_back(
          "rough",
          "memory of processes that may not be looked at (another user's, or not dumpable) is "
          "taken from /proc/PID/statm, without what they share, lock or have swapped out");
    }
    for (auto& note : late_notes_) answer->notes.push_back(std::move(note));
    late_notes_.clear();
  }

  // May not come back. What it has to note is said with the next answer.
  void measure_devices(SampleAnswer* answer) {
    std::vector<pid_t> of_backends;
    for (const SampleAnswer::Backend& backend : answer->backends)
      of_backends.insert(of_backends.end(), backend.processes.begin(), backend.processes.end());
    measure_amd(sysfs_, of_backends, &answer->devices);
    nvml_.measure(of_backends, &answer->devices, &late_notes_);
    if (answer->devices.size() > kDevicesMax) answer->devices.resize(kDevicesMax);
  }

 private:
  const std::string sysfs_;
  HostMemory host_;
  Nvml nvml_;
  Notes late_notes_;
};

bool write_all(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written =
        retry_eintr([&] { return ::write(STDOUT_FILENO, text.data(), text.size()); });
    if (written <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

// Until nobody asks any more.
int serve(const Options& options) {
  Samples samples(options.sysfs);
  LineReader lines(coordinator::kSampleLineMax_bytes);
  RequestReader requests;
  std::array<char, 65536> chunk;
  for (;;) {
    const ssize_t got =
        retry_eintr([&] { return ::read(STDIN_FILENO, chunk.data(), chunk.size()); });
    if (got <= 0) return kExitDone;
    if (!lines.add(std::string_view(chunk.data(), static_cast<std::size_t>(got))))
      return kExitUsage;
    while (const auto line = lines.take()) {
      const auto request = requests.add(*line);
      if (!request) return kExitUsage;
      if (!*request) continue;
      SampleAnswer answer;
      samples.measure_host(**request, &answer);
      std::string text = host_text(answer);
      if ((*request)->with_devices) {
        // The host's part is not held up by a driver.
        if (!write_all(text)) return kExitDone;
        text.clear();
        samples.measure_devices(&answer);
      }
      if (!write_all(text + devices_text(answer))) return kExitDone;
    }
  }
}

// For a person: what these processes and all devices take.
int show(const Options& options) {
  SampleRequest request;
  for (const pid_t pid : options.pids) {
    const auto stat = read_stat(pid);
    if (!stat) {
      std::fprintf(stderr, "modelpool-sample: unable to measure process %d: no such process\n",
                   static_cast<int>(pid));
      return kExitFinding;
    }
    SampleRequest::Backend backend;
    backend.ref = {static_cast<std::uint32_t>(request.backends.size()), 1};
    backend.processes.push_back({pid, stat->start_ticks, 0});
    request.backends.push_back(std::move(backend));
  }
  Samples samples(options.sysfs);
  SampleAnswer answer;
  samples.measure_host(request, &answer);
  samples.measure_devices(&answer);
  for (std::size_t i = 0; i < answer.backends.size(); ++i) {
    const auto& backend = answer.backends[i];
    std::printf("process %d with its children (%zu in all): %s\n",
                static_cast<int>(options.pids[i]), backend.processes.size(),
                backend.host_bytes ? format_size(*backend.host_bytes).c_str() : "not measured");
  }
  for (const auto& device : answer.devices) {
    std::printf("device %s: %s free of %s%s\n", device.uuid.c_str(),
                format_size(device.free_bytes).c_str(), format_size(device.total_bytes).c_str(),
                device.knows_processes ? "" : "; whose the rest is cannot be told");
    for (const auto& [pid, bytes] : device.processes)
      std::printf("  process %d: %s\n", static_cast<int>(pid), format_size(bytes).c_str());
  }
  if (answer.devices.empty()) std::printf("no devices found\n");
  // The notes of devices come with the next answer.
  SampleAnswer next;
  samples.measure_host({}, &next);
  for (const auto* notes : {&answer.notes, &next.notes}) {
    for (const auto& [cause, text] : *notes) std::printf("note: %s\n", text.c_str());
  }
  return kExitDone;
}

// As its parent is: first to run, last to be killed for memory. This program is neither.
void give_up_privileges() {
  if (getpriority(PRIO_PROCESS, 0) < 0) static_cast<void>(setpriority(PRIO_PROCESS, 0, 0));
  std::ofstream(own_proc_path("oom_score_adj")) << "0";
}

int run(int argc, char** argv) {
  Options options;
  CLI::App app(
      "Measures what backends and devices take. coordinatord starts it, asks by its stdin, and "
      "kills it when it does not answer: nothing that enters a driver runs in the daemon.\n\n"
      "With PIDs it prints, once, what these processes take, with their children, and what "
      "devices there are.",
      "modelpool-sample");
  app.set_version_flag("--version", MODELPOOL_VERSION);
  app.add_option("--sysfs", options.sysfs, "where AMD's devices are looked for")
      ->type_name("DIR")
      ->capture_default_str();
  app.add_option("PID", options.pids, "a process to measure, once");
  app.footer("Example:\n  modelpool-sample $(pgrep llama-server)\n");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error, std::cout, std::cerr);
    return code == 0 ? kExitDone : kExitUsage;
  }
  if (!options.pids.empty()) return show(options);
  if (isatty(STDIN_FILENO) != 0) {
    std::fputs("modelpool-sample: coordinatord starts it; name a PID to measure it once\n", stderr);
    return kExitUsage;
  }
  signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // also when a driver keeps it from seeing its stdin end
  give_up_privileges();
  return serve(options);
}

}  // namespace
}  // namespace modelpool::sample

int main(int argc, char** argv) {
  return modelpool::run_program("modelpool-sample", {2, 1},
                                [&] { return modelpool::sample::run(argc, argv); });
}
