// poolctl doctor: what is wrong, since when, and what to do.
#include <algorithm>

#include "base/duration.hpp"
#include "base/text.hpp"
#include "facts.hpp"
#include "json.hpp"

namespace modelpool::poolctl {
namespace {

constexpr std::size_t kWidth = 80;  // where there is no terminal

Json finding_json(const Finding& finding) {
  return {{"kind", finding_name(finding.kind)},
          {"since_ms", finding.age_ns ? json_ms(*finding.age_ns) : Json(nullptr)},
          {"text", finding.text},
          {"command", finding.command},
          {"model", json_text(finding.model)},
          {"pid", json_pid(finding.pid)}};
}

// A command stays on one line, whatever its length: it is to be copied.
void print_finding(const Finding& finding, std::size_t width) {
  print(coloured(finding_name(finding.kind), Colour::kRed) + "\n");
  for (std::string rest = finding.text; !rest.empty();)
    print("  " + take_line(&rest, width - 2) + "\n");
  print("  since: " + (finding.age_ns ? format_age(*finding.age_ns) + " ago" : "not known") + "\n");
  print("  do:    " + coloured(finding.command, Colour::kBold) + "\n");
}

std::string looked_at(const Seen& seen) {
  const Snapshot& s = seen.snapshot;
  return "pool " + escape(seen.segment->name()) + " (" + escape(seen.segment->path()) +
         "): its files, coordinator and config, mutex and tables, " +
         count_text(s.workers.size(), "worker") + ", " + count_text(s.live(), "backend") +
         " and what is left of earlier ones, " + count_text(s.leases.size(), "request") +
         " in flight, " + std::to_string(s.waiters.size()) +
         " waiting, pins, cool-downs, memory, descriptors and versions";
}

void print_findings(const std::vector<Finding>& findings, const Seen* seen) {
  const std::size_t terminal = terminal_width();
  const std::size_t width = std::max<std::size_t>(terminal == 0 ? kWidth : terminal, 20);
  for (std::size_t i = 0; i < findings.size(); ++i) {
    if (i > 0) print("\n");
    print_finding(findings[i], width);
  }
  if (!findings.empty() || seen == nullptr) return;
  print(coloured("all is well", Colour::kGreen) + "\n");
  for (std::string rest = "looked at " + looked_at(*seen); !rest.empty();)
    print("  " + take_line(&rest, width - 2) + "\n");
}

int doctor(const Context& context, const std::string& file) {
  std::vector<Finding> findings;
  std::vector<Marked> marked;
  if (file.empty()) {
    findings = examine_place(read_place(context));
    marked = find_marked(context);
  }
  const auto seen = look(context, file);
  if (!seen && findings.empty()) return report(seen.error());
  if (!seen) {
    complain("what is in the pool was not looked at: " + seen.error().text);
  } else {
    const PoolFacts facts = read_pool(*seen->segment, seen->snapshot, !file.empty(), marked);
    for (Finding& finding : examine_pool(seen->snapshot, facts))
      findings.push_back(std::move(finding));
  }
  if (context.json) {
    Json list = Json::array();
    for (const Finding& finding : findings) list.push_back(finding_json(finding));
    print_json({{"ok", findings.empty()}, {"findings", std::move(list)}});
  } else {
    print_findings(findings, seen ? &*seen : nullptr);
  }
  return findings.empty() ? kDone : kNo;
}

}  // namespace

void add_doctor(CLI::App& root, Context& context) {
  const auto file = std::make_shared<std::string>();
  CLI::App* command = add_command(
      root, context, "doctor",
      "What is wrong with the pool, since when, and what to do. Exit code 1 if anything is",
      "Each finding comes with a command that mends it, or begins to: read it before you run it.\n"
      "Nothing is changed by looking. Where it says `remove --stop`, models end. For a copy "
      "(--file)"
      "\nonly what stands in it is examined.\n\n"
      "Examples:\n"
      "  poolctl doctor\n"
      "  poolctl -o json doctor | jq -r '.findings[].command'\n",
      [&context, file] { return doctor(context, *file); });
  add_file(command, file.get());
}

}  // namespace modelpool::poolctl
