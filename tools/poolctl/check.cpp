// poolctl check: does the segment keep its invariants?
#include "protocol/check.hpp"

#include <algorithm>

#include "json.hpp"

namespace modelpool::poolctl {

void add_check(CLI::App& root, Context& context) {
  struct Options {
    std::string file;
    bool settled = false;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command = add_command(
      root, context, "check",
      "Is the pool sound? Exit code 1 if an invariant is broken or no coordinator serves it",
      "Prints one finding a line, or ok. For a copy (--file) only the invariants are "
      "checked.\n\nExample:\n  poolctl check && echo sound\n",
      [&context, options] {
        const auto seen = look(context, options->file);
        if (!seen) return report(seen.error());
        std::vector<std::string> findings = check_invariants(seen->snapshot, options->settled);
        for (const std::string& damage : seen->snapshot.damage) {
          if (std::find(findings.begin(), findings.end(), damage) == findings.end())
            findings.push_back(damage);
        }
        if (const auto fault = find_judge_fault(*seen->segment, options->file))
          findings.push_back("coordinator: " + *fault);
        if (context.json) {
          Json list = Json::array();
          for (const std::string& finding : findings) list.push_back(json_text(finding));
          print_json({{"ok", findings.empty()}, {"findings", std::move(list)}});
        } else if (findings.empty()) {
          print("ok\n");
        } else {
          for (const std::string& finding : findings) print(escape(finding) + "\n");
        }
        return findings.empty() ? kDone : kNo;
      });
  add_flag(command, "--settled", &options->settled,
           "Nothing is going on: states that only pass are findings too");
  add_file(command, &options->file);
}

}  // namespace modelpool::poolctl
