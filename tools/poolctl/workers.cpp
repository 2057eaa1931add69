// poolctl workers: the processes attached to the pool.
#include "base/time.hpp"
#include "json.hpp"

namespace modelpool::poolctl {

void add_workers(CLI::App& root, Context& context) {
  const auto file = std::make_shared<std::string>();
  CLI::App* command = add_command(
      root, context, "workers",
      "The processes attached to the pool, and how many leases each holds",
      "Example:\n  poolctl workers\n", [&context, file] {
        const auto seen = look(context, *file);
        if (!seen) return report(seen.error());
        const Snapshot& snapshot = seen->snapshot;
        if (context.json) {
          print_json(workers_json(snapshot));
          return kDone;
        }
        using enum TextTable::Align;
        TextTable table(
            {{"PID", kRight}, {"COMMAND"}, {"LEASES", kRight}, {"ATTACHED", kRight}, {"PROCESS"}});
        for (const WorkerView& worker : snapshot.workers) {
          table.add({std::to_string(worker.process.pid), text_or_dash(worker.command),
                     std::to_string(worker.leases), age_text(snapshot.now_ns, worker.attached_ns),
                     std::string(liveness_text(process_liveness(worker.process)))});
        }
        print(table.text(terminal_width()));
        return kDone;
      });
  add_file(command, file.get());
}

}  // namespace modelpool::poolctl
