// poolctl leases: the requests in flight.
#include "base/duration.hpp"
#include "base/time.hpp"
#include "json.hpp"

namespace modelpool::poolctl {

void add_leases(CLI::App& root, Context& context) {
  const auto file = std::make_shared<std::string>();
  CLI::App* command = add_command(
      root, context, "leases",
      "The requests in flight: model, worker, age, time since progress, tag",
      "Example:\n  poolctl -o json leases | jq 'map(select(.age_ms > 60000))'\n", [&context, file] {
        const auto seen = look(context, *file);
        if (!seen) return report(seen.error());
        const Snapshot& snapshot = seen->snapshot;
        if (context.json) {
          print_json(leases_json(snapshot));
          return kDone;
        }
        using enum TextTable::Align;
        TextTable table({{"MODEL", kLeft, true},
                         {"WORKER", kRight},
                         {"AGE", kRight},
                         {"PROGRESS", kRight},
                         {"LIMIT", kRight},
                         {"TAG", kLeft, true}});
        for (const LeaseView& lease : snapshot.leases) {
          const BackendView* backend = snapshot.find(lease.backend);
          table.add({backend != nullptr ? text_or_dash(backend->model) : "-",
                     pid_text(worker_pid(snapshot, lease.worker)),
                     age_text(snapshot.now_ns, lease.start_ns),
                     age_text(snapshot.now_ns, lease.progress_ns),
                     lease.limit_ns == 0 ? "-" : format_duration(lease.limit_ns),
                     text_or_dash(lease.tag)});
        }
        print(table.text(terminal_width()));
        return kDone;
      });
  add_file(command, file.get());
}

}  // namespace modelpool::poolctl
