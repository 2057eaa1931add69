// poolctl explain: which settings apply to a model and why, and what would happen to it.
#include "explain/explain.hpp"

#include "base/duration.hpp"
#include "base/exit_words.hpp"
#include "base/time.hpp"
#include "json.hpp"
#include "protocol/histories.hpp"
#include "what_if.hpp"

namespace modelpool::poolctl {
namespace {

std::string history_text(const LoadHistory& history) {
  std::string text = "loaded " + count_text(history.loads, "time");
  if (history.load_ns != 0) text += ", last in " + format_age(history.load_ns);
  if (history.failures > 0) {
    text += "; " + count_text(history.failures, "failed load") + " in a row, the last: " +
            escape(with_exit(field_text(history.error),
                             static_cast<std::uint32_t>(history.exit_status)));
  }
  return text;
}

// The texts of an explanation are printable as they are.
void print_explanation(const Explanation& explanation, const std::optional<LoadHistory>& history,
                       const std::string& hint) {
  std::string head = explanation.model + ": ";
  if (!explanation.backend) {
    head += "not loaded" + hint;
  } else {
    const BackendRow& backend = *explanation.backend;
    head += backend.state;
    if (backend.pid != 0) head += ", pid " + std::to_string(backend.pid);
    if (!backend.address.empty()) head += " at " + backend.address;
    if (backend.tenant) head += ", a tenant";
    if (backend.pinned) head += ", pinned";
    if (!backend.tenant) head += ", " + count_text(backend.in_flight, "lease");
  }
  print(head + "\n");
  if (history) print(history_text(*history) + "\n");
  print("\n");

  const std::size_t width = terminal_width();
  TextTable verdicts({{"RULE"}, {"AS THINGS STAND"}});
  for (const VerdictRow& verdict : explanation.verdicts) verdicts.add({verdict.rule, verdict.text});
  print(verdicts.text(0) + "\n");

  TextTable table({{"SETTING"},
                   {"VALUE"},
                   {"ORIGIN", TextTable::Align::kLeft, true},
                   {"MATCHED BY", TextTable::Align::kLeft, true}});
  for (const SettingRow& one : explanation.settings)
    table.add({one.name, one.value, one.origin, one.rule.empty() ? "-" : one.rule});
  print(table.text(width));
}

struct Options {
  std::string file;
  std::string model;
  WhatIf what_if;
};

int explain(const Context& context, const Options& options) {
  if (options.model.empty() && options.what_if.values.empty()) {
    complain("unable to explain: no model is named; add MODEL, or --what-if NAME=VALUE");
    return kWrongUsage;
  }
  const auto seen = look(context, options.file);
  if (!seen) return report(seen.error());
  const JudgeState judge =
      options.file.empty() ? look_at_judge(*seen->segment, now_ns()).state : JudgeState::kAnswers;
  std::optional<Forecast> supposed;
  if (!options.what_if.values.empty()) {
    auto result = forecast(options.what_if, *seen, !options.file.empty());
    if (!result) return report(result.error());
    supposed = std::move(*result);
  }
  const Seen& shown = supposed ? supposed->then : *seen;
  // One model in the pool as it is, or as it would be.
  std::optional<Explanation> explanation;
  if (!options.model.empty()) {
    explanation =
        explain_model(*shown.segment, shown.snapshot, options.model, judge, !options.file.empty());
  }
  if (context.json) {
    Json json = explanation ? row_json(*explanation) : Json::object();
    if (supposed) json["what_if"] = forecast_json(options.what_if, *supposed);
    print_json(json);
    return kDone;
  }
  if (supposed) print_forecast(*supposed, find_judge_fault(*seen->segment, options.file));
  if (supposed && explanation) print("\n");
  if (explanation) {
    print_explanation(*explanation, find_history(*shown.segment, options.model),
                      hint_at_model(seen->segment, options.model));
  }
  return kDone;
}

}  // namespace

void add_explain(CLI::App& root, Context& context) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      add_command(root, context, "explain",
                  "Which settings apply to a model, from where, and what they mean for it now",
                  "Works for models that are not loaded, too. With --what-if it first says whom "
                  "the judge would "
                  "end\n"
                  "now, and why, if settings of the pool were others, and then shows MODEL, if one "
                  "is named, as "
                  "it\n"
                  "would be. Nothing is changed.\n\n"
                  "Examples:\n"
                  "  poolctl explain llama-3-8b\n"
                  "  poolctl explain --what-if max_memory=40GiB,eviction=lru\n",
                  [&context, options] { return explain(context, *options); });
  add_model(command, &options->model, false);
  add_texts(
      command, "--what-if", "NAME=VALUE,...",
      [options](const std::vector<std::string>& texts) {
        for (const std::string& text : texts) options->what_if.add(text);
      },
      "Suppose that these settings of the pool hold, see poolctl set");
  add_file(command, &options->file);
}

}  // namespace modelpool::poolctl
