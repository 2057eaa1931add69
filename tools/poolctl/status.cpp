// poolctl status: the pool in a dozen numbers.
#include "base/duration.hpp"
#include "base/size.hpp"
#include "base/time.hpp"
#include "json.hpp"
#include "protocol/outlook.hpp"

namespace modelpool::poolctl {
namespace {

std::string coordinator_text(const Segment& segment, const Snapshot& snapshot) {
  const std::uint64_t now = now_ns();
  const JudgeView judge = look_at_judge(segment, now);
  const CoordinatorIdentity& found = judge.identity;
  const Liveness alive = judge.liveness;
  if (found.epoch == 0) return "none yet; nothing is evicted or killed until one runs";
  std::string text(liveness_text(alive));
  if (judge.hung_since_ns != 0) text = "hung for " + age_text(now, judge.hung_since_ns);
  text += ", pid " + std::to_string(found.process.pid) + ", epoch " + std::to_string(found.epoch);
  if (alive == Liveness::kAlive) {
    text += ", up " + age_text(snapshot.now_ns, snapshot.coordinator.started_ns);
  } else if (snapshot.coordinator.left) {
    text += ", left in order";
  }
  return text + ", last scan " + age_text(snapshot.now_ns, snapshot.coordinator.last_scan_ns) +
         " ago";
}

// "3 evicted (2 idle, 1 lru), 1 killed (1 busy)"
std::string counters_text(const std::vector<CounterRow>& counters) {
  std::string text;
  for (std::size_t i = 0; i < counters.size();) {
    const std::string& kind = counters[i].kind;
    std::uint64_t sum = 0;
    std::string parts;
    for (; i < counters.size() && counters[i].kind == kind; ++i) {
      sum += counters[i].count;
      if (counters[i].reason.empty()) continue;
      parts += (parts.empty() ? "" : ", ") + std::to_string(counters[i].count) + " " +
               counters[i].reason;
    }
    text += (text.empty() ? "" : ", ") + std::to_string(sum) + " " + kind;
    if (!parts.empty()) text += " (" + parts + ")";
  }
  return text.empty() ? "nothing yet" : text;
}

// "" without a limit.
std::string pressure_text(const Snapshot& snapshot) {
  const std::uint64_t least =
      snapshot.settings ? snapshot.settings->get(Setting::kMinAvailable) : 0;
  if (least == 0) return {};
  const std::string text = "min_available " + format_size(least);
  const std::uint64_t left_ns = age_ns(snapshot.coordinator.pressure_until_ns, snapshot.now_ns);
  if (left_ns == 0) return text;
  return text + "; evicting did not help, so nobody is for another " + format_age(left_ns);
}

// "3.2GiB taken, limit 8GiB"; "" without a limit.
std::string memory_text(const Snapshot& snapshot) {
  const Limits limits = limits_of(snapshot);
  if (limits.max_memory == 0) return {};
  Amounts taken;
  for (const Resident& resident : residents_of(snapshot)) {
    if (resident.live()) taken += resident.holds;
  }
  const auto bytes = static_cast<std::uint64_t>(taken[Resource::kHostBytes]);
  return format_size(bytes) + " taken, limit " + format_size(limits.max_memory);
}

// "GPU-1: 15.5GiB free of 24GiB; the pool takes 5.9GiB, others 2.4GiB, 2s ago"
std::string device_text(const DeviceRow& device) {
  std::string text = escape(device.uuid.empty() ? "(damaged)" : device.uuid) + ": ";
  if (!device.total_bytes) return text + "not measured yet";
  text += format_size(device.free_bytes.value_or(0)) + " free of " +
          format_size(*device.total_bytes) + "; the pool takes " +
          format_size(device.pool_bytes.value_or(0));
  if (device.foreign_bytes) text += ", others " + format_size(*device.foreign_bytes);
  if (device.measured_ms) text += ", " + format_age(*device.measured_ms * kMillisecond_ns) + " ago";
  return text;
}

// The numbers first: they are what was asked for.
int report_judge(const Segment& segment, const std::string& file) {
  const auto fault = find_judge_fault(segment, file);
  if (fault)
    complain("pool " + escape(segment.name()) + ": nothing is evicted or killed: " + *fault);
  return fault ? kNo : kDone;
}

void print_status(const Segment& segment, const Snapshot& snapshot) {
  std::string backends =
      std::to_string(snapshot.live()) + " live, " + std::to_string(snapshot.ready()) + " ready";
  if (!snapshot.settings) {
    backends +=
        "; the pool has no settings yet, so nothing is loaded: start " + start_command(segment);
  } else if (snapshot.max_backends() == 0) {
    backends += ", no limit";
  } else {
    backends += ", limit " + std::to_string(snapshot.max_backends());
  }
  const auto line = [](std::string_view name, const std::string& value) {
    std::string label(name);
    label.resize(13, ' ');
    print(label + value + "\n");
  };
  line("pool", escape(segment.name()) + " (" + escape(segment.path()) + ")");
  line("coordinator", coordinator_text(segment, snapshot));
  line("backends", backends);
  if (const std::string memory = memory_text(snapshot); !memory.empty()) line("memory", memory);
  for (const DeviceRow& device : device_rows(snapshot)) line("device", device_text(device));
  line("leases", std::to_string(snapshot.leases.size()));
  line("waiting", std::to_string(snapshot.waiters.size()));
  line("workers", std::to_string(snapshot.workers.size()));
  if (const std::string pressure = pressure_text(snapshot); !pressure.empty())
    line("host memory", pressure);
  line("so far", counters_text(status_row(segment, snapshot).counters));
  for (const std::string& what : snapshot.damage) line("damage", escape(what));
}

}  // namespace

void add_status(CLI::App& root, Context& context) {
  const auto file = std::make_shared<std::string>();
  CLI::App* command = add_command(
      root, context, "status",
      "The pool in a dozen numbers: limit, live backends, leases, coordinator",
      "Exit code 1, and what to do, if no coordinator serves the pool or if it hangs: nothing is\n"
      "evicted or killed then. For a copy (--file) this is not checked.\n\n"
      "Examples:\n"
      "  poolctl -o json status | jq .live\n"
      "  poolctl --wait 10s status >/dev/null && echo served\n",
      [&context, file] {
        const auto seen = look(context, *file);
        if (!seen) return report(seen.error());
        if (context.json) {
          print_json(status_json(*seen->segment, seen->snapshot));
        } else {
          print_status(*seen->segment, seen->snapshot);
        }
        return report_judge(*seen->segment, *file);
      });
  add_file(command, file.get());
}

}  // namespace modelpool::poolctl
