// poolctl wait: until a model is in a state.
#include <algorithm>

#include "base/duration.hpp"
#include "base/time.hpp"
#include "common.hpp"

namespace modelpool::poolctl {
namespace {

// Not every change of state is an event that rings: between two looks at most this long.
constexpr std::uint64_t kLookEvery_ns = 10 * kMillisecond_ns;

struct Options {
  std::string model;
  std::string state;
  std::uint64_t timeout_ns = kDefaultTimeout_ns;
};

bool is_in(const BackendView* backend, const std::string& state) {
  if (state == "gone") return backend == nullptr;
  if (backend == nullptr) return false;
  if (state == "busy") return backend->in_flight > 0;
  if (state == "idle")
    return backend->state.state == BackendState::kReady && backend->in_flight == 0;
  return backend_state_name(backend->state.state) == state;
}

std::string describe(const BackendView* backend) {
  if (backend == nullptr) return "not loaded";
  std::string text(backend_state_name(backend->state.state));
  if (backend->in_flight > 0) text += " with " + count_text(backend->in_flight, "lease");
  return text;
}

int wait_for(const Context& context, const Options& options) {
  const auto opened = open_to_look(context, "");
  if (!opened) return report(opened.error());
  const Segment& segment = **opened;
  SnapshotReader reader(*opened);
  const std::uint64_t until = add_ns(now_ns(), options.timeout_ns);
  const std::string what = "unable to see " + escape(options.model) + " " + options.state + ": ";
  for (;;) {
    // acquire: pairs with the coordinator's bump, made after what it announces
    const std::uint32_t bell = segment.coordinator().event_bell.load(std::memory_order_acquire);
    const BackendView* backend = reader.read().find_model(options.model);
    if (is_in(backend, options.state)) return kDone;
    if (segment.is_replaced()) {
      return report(
          {Errc::kReplaced, what + "the pool was removed or replaced; run this again", 0, 0});
    }
    const std::uint64_t now = now_ns();
    if (now >= until) {
      return report({Errc::kTimeout,
                     what + "it is " + describe(backend) + " after " +
                         format_age(options.timeout_ns) + "; wait longer with --timeout" +
                         hint_at_model(*opened, options.model),
                     0, 0});
    }
    futex_wait(segment.coordinator().event_bell, bell, std::min(until, now + kLookEvery_ns));
  }
}

}  // namespace

void add_wait(CLI::App& root, Context& context) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      add_command(root, context, "wait", "Wait until a model is in a state",
                  "States: reserved starting ready evicting stopping, as list shows them; gone: no "
                  "live backend;\n"
                  "idle: ready without a lease; busy: with at least one. Exit code 1 if it is not "
                  "so in time.\n\n"
                  "Examples:\n"
                  "  poolctl wait llama-3-8b --state ready --timeout 5m\n"
                  "  poolctl wait llama-3-8b --state gone --timeout 0   # look once\n",
                  [&context, options] { return wait_for(context, *options); });
  add_model(command, &options->model);
  require(add_text(
      command, "--state", "STATE",
      [options](const std::string& text) {
        if (std::find(kStatesToWaitFor.begin(), kStatesToWaitFor.end(), text) ==
            kStatesToWaitFor.end()) {
          std::string known;
          for (const std::string_view state : kStatesToWaitFor) known += " " + std::string(state);
          throw BadArgument("unable to wait for \"" + escape(text) +
                            "\": there is no such state; the states are" + known);
        }
        options->state = text;
      },
      "The state to wait for"));
  add_duration(command, "--timeout", &options->timeout_ns,
               "Give up after this long (30s); 0: look once");
}

}  // namespace modelpool::poolctl
