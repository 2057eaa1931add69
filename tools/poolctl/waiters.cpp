// poolctl waiters: the line of those who wait for a model.
#include "json.hpp"
#include "modelpool/time.hpp"

namespace modelpool::poolctl {

void add_waiters(CLI::App& root, Context& context) {
  const auto file = std::make_shared<std::string>();
  CLI::App* command = add_command(
      root, context, "waiters", "Who waits for which model, first come first",
      "Example:\n  poolctl waiters\n", [&context, file] {
        const auto seen = look(context, *file);
        if (!seen) return report(seen.error());
        const Snapshot& snapshot = seen->snapshot;
        if (context.json) {
          print_json(waiters_json(snapshot));
          return kDone;
        }
        using enum TextTable::Align;
        TextTable table({{"ARRIVAL", kRight},
                         {"MODEL", kLeft, true},
                         {"WORKER", kRight},
                         {"WAITING", kRight},
                         {"LEFT", kRight},
                         {"SIZE", kRight},
                         {"TAG", kLeft, true}});
        for (const WaiterView& waiter : snapshot.waiters) {
          table.add({std::to_string(waiter.arrival), text_or_dash(waiter.model),
                     std::to_string(waiter.pid), age_text(snapshot.now_ns, waiter.since_ns),
                     waiter.deadline_ns == kNever_ns
                         ? "-"
                         : format_age(age_ns(waiter.deadline_ns, snapshot.now_ns)),
                     waiter.expected_bytes == 0 ? "-" : format_size(waiter.expected_bytes),
                     text_or_dash(waiter.tag)});
        }
        print(table.text(terminal_width()));
        return kDone;
      });
  add_file(command, file.get());
}

}  // namespace modelpool::poolctl
