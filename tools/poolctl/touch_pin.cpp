// poolctl touch, pin, unpin: one word about a loaded model.
#include "common.hpp"
#include "modelpool/pool.hpp"
#include "protocol/pins.hpp"

namespace modelpool::poolctl {
namespace {

int touch(const Context& context, const std::string& model) {
  PoolOptions options;
  options.dir = context.dir;
  options.create = false;
  auto pool = Pool::attach(context.pool, options);
  if (!pool) return report(pool.error());
  auto touched = pool->touch(model);
  if (touched) return kDone;
  if (touched.error().code == Errc::kNotLoaded) {
    if (const auto segment = open_to_look(context, ""))
      touched.error().text += hint_at_model(*segment, model);
  }
  return report(touched.error());
}

// Not through a Pool: that takes a worker's row, and all of them may be in use.
int change_pin(const Context& context, const std::string& model, bool pinned) {
  const auto segment = Segment::attach(context.pool, {context.dir, false, {}, nullptr});
  if (!segment) return report(segment.error());
  const auto found = find_backend(**segment, model);
  const bool is_stopping = found && found->state.state == BackendState::kStopping;
  if (!found || is_stopping) {
    return report({Errc::kNotLoaded,
                   "unable to " + std::string(pinned ? "pin " : "unpin ") + escape(model) + ": " +
                       (is_stopping ? "its backend is being stopped; load it again first"
                                    : "no backend serves it; load it first") +
                       hint_at_model(*segment, model),
                   0, 0});
  }
  Result<> changed;
  if (pinned) {
    set_control(**segment, found->ref, kControlPinned, 0);
  } else {
    changed = unpin(**segment, found->ref);
  }
  ring(**segment);
  if (changed) return kDone;
  complain(changed.error().text);
  return kNo;
}

}  // namespace

void add_touch_pin(CLI::App& root, Context& context) {
  const auto add = [&](const std::string& name, const std::string& what, const std::string& notes,
                       const std::function<int(const std::string&)>& run) {
    const auto model = std::make_shared<std::string>();
    CLI::App* command = add_command(
        root, context, name, what,
        notes + "Exit code 1 if it is not loaded.\n\nExample:\n  poolctl " + name + " llama-3-8b\n",
        [run, model] { return run(*model); });
    add_model(command, model.get());
  };
  add("touch", "Count a model as used now: its idle time starts again", "",
      [&context](const std::string& model) { return touch(context, model); });
  add("pin", "Exempt a loaded model from idle eviction and from making room",
      "Until unpin, or until its backend ends. The busy and stall timeouts still apply.\n",
      [&context](const std::string& model) { return change_pin(context, model, true); });
  add("unpin", "Let a model be evicted again",
      "Ends what pin began. A model whose settings pin it (pinned = true) stays so: then it says "
      "where\nthey do, and exits with 1.\n",
      [&context](const std::string& model) { return change_pin(context, model, false); });
}

}  // namespace modelpool::poolctl
