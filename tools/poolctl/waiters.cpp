// poolctl waiters: the line of those who wait for a model.
#include "base/duration.hpp"
#include "base/size.hpp"
#include "base/time.hpp"
#include "json.hpp"
#include "tables.hpp"

namespace modelpool::poolctl {

std::string waiters_text(const Snapshot& snapshot, std::size_t width) {
  using enum TextTable::Align;
  TextTable table({{"ARRIVAL", kRight},
                   {"MODEL", kLeft, true},
                   {"WORKER", kRight},
                   {"WAITING", kRight},
                   {"LEFT", kRight},
                   {"SIZE", kRight},
                   {"TAG", kLeft, true},
                   {"NOTES", kLeft, true}});
  for (const WaiterView& waiter : snapshot.waiters) {
    table.add(
        {std::to_string(waiter.arrival), text_or_dash(waiter.model), std::to_string(waiter.pid),
         age_text(snapshot.now_ns, waiter.since_ns),
         waiter.deadline_ns == kNever_ns ? "-"
                                         : format_age(age_ns(waiter.deadline_ns, snapshot.now_ns)),
         waiter.expected_bytes == 0 ? "-" : format_size(waiter.expected_bytes),
         text_or_dash(waiter.tag),
         is_absent(waiter, snapshot.now_ns)
             ? "passed over: has not looked for " + age_text(snapshot.now_ns, waiter.looked_ns)
             : ""});
  }
  return table.text(width);
}

void add_waiters(CLI::App& root, Context& context) {
  const auto file = std::make_shared<std::string>();
  CLI::App* command =
      add_command(root, context, "waiters", "The waiters and their models, first come first",
                  "A waiter that does not look whether it may go on is stopped or hangs: the line "
                  "passes it\nover until it looks again.\n\nExample:\n  poolctl waiters\n",
                  [&context, file] {
                    const auto seen = look(context, *file);
                    if (!seen) return report(seen.error());
                    if (context.json) {
                      print_json(waiters_json(seen->snapshot));
                    } else {
                      print(waiters_text(seen->snapshot, terminal_width()));
                    }
                    return kDone;
                  });
  add_file(command, file.get());
}

}  // namespace modelpool::poolctl
