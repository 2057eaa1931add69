// poolctl reset: forget that a model failed to load.
#include "base/duration.hpp"
#include "base/time.hpp"
#include "json.hpp"
#include "protocol/acquisition.hpp"
#include "protocol/histories.hpp"

namespace modelpool::poolctl {
namespace {

int reset(const Context& context, const std::string& model) {
  // Not through a Pool: that takes a worker's row, and all of them may be in use.
  const auto segment = Segment::attach(context.pool, {context.dir, false, {}, nullptr});
  if (!segment) return report(segment.error());
  const auto forgotten = reset_failures(**segment, model);
  if (!forgotten) return report(forgotten.error());
  const std::uint64_t left = age_ns(forgotten->cooldown_until_ns, now_ns());
  if (context.json) {
    print_json({{"model", model},
                {"failures", forgotten->failures},
                {"cooldown_left_ms", left == 0 ? Json(nullptr) : json_ms(left)}});
  } else if (forgotten->failures == 0) {
    print("no failed load of " + escape(model) + " to forget" + hint_at_model(*segment, model) +
          "\n");
  } else {
    print("forgot " + count_text(forgotten->failures, "failed load") + " of " + escape(model) +
          (left == 0 ? "" : ", which would have cooled down for another " + format_age(left)) +
          "\n");
  }
  return kDone;
}

}  // namespace

void add_reset(CLI::App& root, Context& context) {
  const auto model = std::make_shared<std::string>();
  CLI::App* command = add_command(
      root, context, "reset", "Forget that a model failed to load, and end its cool-down",
      "The next acquire may load it at once. What it was measured to take is forgotten, too: it\n"
      "may take less now. Works without a coordinator. A load that succeeds and a changed "
      "load_cooldown do "
      "the "
      "same.\n\n"
      "Example:\n  poolctl reset llama-3-8b\n",
      [&context, model] { return reset(context, *model); });
  add_model(command, model.get());
}

}  // namespace modelpool::poolctl
