// poolctl run: run a foreign program as a tenant of the pool.
#include <poll.h>

#include <atomic>
#include <memory>

#include "base/name.hpp"
#include "base/time.hpp"
#include "job.hpp"
#include "loading.hpp"
#include "pool/inside.hpp"
#include "progress.hpp"
#include "protocol/members.hpp"
#include "segment/settings_block.hpp"

namespace modelpool::poolctl {
namespace {

constexpr int kGonePause_ms = 10;  // between two looks whether it is gone

struct Options : LoadOptions {
  TenantNeed need;
  std::uint64_t devices = 0;
  bool evictable = false;
};

// "\"comfy\" was ended by the pool: lru, room for llama"; "" where its command ended by itself.
std::string why_ended(const Segment& segment, BackendId tenant, const std::string& name) {
  const StopRecord stop = segment.backend(tenant.slot).stop.load();
  if (stop.generation != tenant.generation || stop.reason == Reason::kNone ||
      stop.reason == Reason::kCrashed)
    return {};
  const std::string text(field_text(stop.text));
  return escape(name) + " was ended by the pool: " + reason_name(stop.reason) +
         (text.empty() ? "" : ", " + escape(text));
}

// Its processes, not only the first one: until then its name and place are taken.
bool is_gone(const Segment& segment, BackendId tenant) {
  const StateWord state = load_state(segment, tenant.slot);
  if (state.generation != tenant.generation || !is_live(state.state)) return true;
  const StopRecord stop = segment.backend(tenant.slot).stop.load();
  return stop.generation == tenant.generation && stop.ended_ns != 0;
}

// Whoever runs another one next finds its place free. A signal ends the wait.
void wait_until_gone(const Options& options, const Segment& segment, BackendId tenant,
                     SignalInbox& inbox) {
  const std::uint64_t begun = now_ns();
  const std::uint64_t grace = resolve_settings(segment, options.model).get(Setting::kStopGrace);
  const std::uint64_t until = grace == 0 ? kNever_ns : add_ns(begun, add_ns(grace, kUnkillable_ns));
  std::string why;
  for (std::uint64_t now = begun; !is_gone(segment, tenant); now = now_ns()) {
    const JudgeView judge = look_at_judge(segment, now);
    if (judge.state != JudgeState::kAnswers && now >= add_ns(begun, kSecond_ns)) {
      why = explain_absence(segment, judge, now);
    } else if (now >= until) {
      const LeftRecord left = segment.backend(tenant.slot).left.load();
      why = left.generation == tenant.generation ? left_text(left) : "it does not end";
    }
    if (!why.empty()) {
      return complain(escape(options.model) +
                      " keeps its place until all it started is gone: " + why);
    }
    pollfd signals{inbox.fd(), POLLIN, 0};
    if (poll(&signals, 1, kGonePause_ms) > 0) return;
  }
}

int run(const Context& context, Options options, const std::vector<std::string>& command) {
  const auto misused = [](const std::string& text) {
    complain(text);
    return kLeaseFailed;
  };
  if (command.empty()) {
    return misused("unable to run " + escape(options.model) +
                   ": there is no COMMAND; write -- COMMAND... at the end");
  }
  if (auto ok = check_tag(options.tag); !ok) return misused(ok.error().text);
  if (const auto why = why_not_runnable(command[0])) return complain_not_run(command[0], *why);
  options.need.devices = static_cast<std::uint32_t>(options.devices);
  options.tenant = options.need;

  SignalInbox inbox;
  Progress progress(options.model);
  options.progress = [&progress](const std::string& phase) { progress.tell(phase); };
  std::optional<Pool> pool;
  Grant grant;
  if (const int code = ask(context, options, inbox, &pool, &grant); code != 0) return code;
  progress.clear();

  LoadTicket ticket = std::move(std::get<LoadTicket>(grant));
  Job job(inbox);
  SpawnOptions spawn;
  spawn.is_job = true;
  spawn.terminal = job.terminal();
  spawn.env = {"MODELPOOL_MODEL=" + options.model};
  const auto ended = std::make_shared<std::atomic<int>>(kLeaseFailed);
  const auto tenant = ticket.run_tenant(command, spawn,
                                        {.evictable = options.evictable,
                                         .size_bytes = options.need.memory_bytes,
                                         .label = options.tag,
                                         .owns_children = true,
                                         .on_exit = [ended](int code) { *ended = code; }});
  if (!tenant) {
    job.take_back();
    if (tenant.error().code == Errc::kSpawnFailed) {
      if (const auto why = why_not_runnable(command[0])) return complain_not_run(command[0], *why);
      complain(tenant.error().text);
      return kCannotRun;
    }
    return refuse(options, tenant.error());
  }
  const Segment& segment = segment_of(*pool);
  const auto code = job.wait_for(ticket.pid());
  wait_until_gone(options, segment, *tenant, inbox);
  if (const std::string why = why_ended(segment, *tenant, options.model); !why.empty())
    complain(why);
  return code.value_or(*ended);  // reaped already: the pool was quicker
}

}  // namespace

void add_run(CLI::App& root, Context& context, const std::vector<std::string>& command_line) {
  const auto options = std::make_shared<Options>();
  options->verb = "run";
  options->command = "COMMAND";
  CLI::App* command = add_command(
      root, context, "run", "Run COMMAND as a tenant: it holds a place of the pool while it runs",
      "For a foreign program that needs what the models need: ComfyUI, Ollama, a training job, a\n"
      "notebook. Write COMMAND and its arguments after --. MODEL is the tenant's name, which it\n"
      "shares with no model and no other tenant: as long as it runs, acquires of that name and\n"
      "another run are refused.\n\n"
      "Room is made first, as for a model; meanwhile stderr says what it waits for. Then COMMAND\n"
      "counts against places, memory, devices and groups until it and all that it started is\n"
      "gone, however it ends. The terminal, signals and the exit code are COMMAND's. It finds\n"
      "MODELPOOL_MODEL in its environment, and CUDA_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES if it\n"
      "was put on devices. It and what it starts may look at the pool, but not hold leases of "
      "it.\n\n"
      "Without --evictable the pool ends it for nobody: it is pinned (poolctl unpin ends that),\n"
      "and who needs its place is told that all is pinned. With it the pool may evict it when\n"
      "somebody waits. Then, as with poolctl evict, COMMAND gets the stop signal, after the grace\n"
      "SIGKILL, and poolctl says why. A tenant has no idle, busy or stall timeout. One that alone\n"
      "takes more than the pool's max_memory is killed, as a model is.\n\n"
      "COMMAND has to stay: when its process ends, what it left behind is ended too (a program\n"
      "that puts itself into the background ends at once; tell it to stay in the foreground).\n"
      "When poolctl is killed the coordinator ends COMMAND, and the place is kept until then.\n\n"
      "Without --memory its size is that of the settings for its name, else what it was seen to\n"
      "take, else a guess; so with --devices and --group.\n\n"
      "Exit codes: that of COMMAND; 128+N if signal N ended it, or poolctl before COMMAND ran;\n"
      "124 no place in time, or refused; 125 poolctl failed or was used wrongly; 126 COMMAND "
      "could\n"
      "not run; 127 it was not found.\n\n"
      "Examples:\n"
      "  poolctl run comfy --memory 9GiB --devices 1 -- python3 main.py\n"
      "  poolctl run train --memory 20GiB --group heavy --timeout 2h -- ./train.sh\n"
      "  poolctl run notebook --memory 4GiB --evictable -- jupyter lab\n",
      [&context, options, &command_line] { return run(context, *options, command_line); });
  // CLI11 never sees COMMAND.
  set_usage(command, "Usage: poolctl run MODEL [OPTIONS] -- COMMAND...\n");
  add_model(command, &options->model);
  add_size(command, "--memory", &options->need.memory_bytes, "Memory of the host that it takes");
  add_count(command, "--devices", &options->devices, kDevicesMax,
            "How many of the pool's devices it is put on");
  add_size(command, "--gpu-memory", &options->need.device_bytes,
           "Memory that it takes of each device");
  add_text(command, "--group", "NAME", &options->need.group,
           "Nothing of this group is loaded beside it");
  add_flag(command, "--evictable", &options->evictable,
           "The pool may end it when somebody waits for room");
  add_timeout(command, options, "Wait at most this long for room (30s); 0: do not wait");
  add_tag(command, options, "Text shown with it, at most 31 bytes");
}

}  // namespace modelpool::poolctl
