// poolctl metrics: what Prometheus reads of the pool.
#include "metrics/metrics.hpp"

#include "common.hpp"
#include "rows/rows.hpp"

namespace modelpool::poolctl {

void add_metrics(CLI::App& root, Context& context) {
  const auto file = std::make_shared<std::string>();
  CLI::App* command = add_command(
      root, context, "metrics", "What Prometheus reads of the pool, in its text format",
      "Totals are over all workers and coordinators that ever were. poolserve has the same at\n"
      "/metrics. For the textfile collector of node_exporter:\n"
      "  cd /var/lib/prometheus/node-exporter &&\n"
      "      poolctl metrics > modelpool.prom.new && mv modelpool.prom.new modelpool.prom\n\n"
      "Example:\n  poolctl metrics | grep _total\n",
      [&context, file] {
        const auto seen = look(context, *file);
        if (!seen) return report(seen.error());
        print(metrics::text_of(pool_snapshot(*seen->segment, seen->snapshot),
                               seen->segment->capacities(), MODELPOOL_VERSION));
        return kDone;
      });
  add_file(command, file.get());
}

}  // namespace modelpool::poolctl
