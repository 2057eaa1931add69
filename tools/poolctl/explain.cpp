// poolctl explain: which settings apply to a model and why, and what would happen to it.
#include "base/duration.hpp"
#include "base/exit_words.hpp"
#include "explain_subject.hpp"
#include "json.hpp"
#include "json/event_json.hpp"
#include "protocol/outlook.hpp"
#include "what_if.hpp"

namespace modelpool::poolctl {
namespace {

// Nobody has a lease on it.
std::vector<Verdict> explain_tenant(const Subject& subject) {
  return {{"tenant",
           "ends with its command, or with process " + std::to_string(subject.backend->owner_pid) +
               ", which runs it; it serves nobody, and an acquire of its name is refused",
           kNever_ns},
          explain_over_limit(subject),
          explain_room(subject)};
}

std::vector<Verdict> explain_ready(const Subject& subject) {
  std::vector<Verdict> verdicts{explain_leases(subject, Reason::kBusy),
                                explain_leases(subject, Reason::kFirstByte),
                                explain_leases(subject, Reason::kStall),
                                explain_probe(subject),
                                explain_over_limit(subject),
                                explain_idle(subject)};
  if (const auto pressure = explain_pressure(subject)) verdicts.push_back(*pressure);
  verdicts.push_back(explain_room(subject));
  verdicts.push_back(explain_parallel(subject));
  return verdicts;
}

std::vector<Verdict> judge_state(const Subject& subject) {
  if (subject.backend == nullptr) {
    std::vector<Verdict> verdicts{explain_admission(subject)};
    for (Verdict& place : explain_places(subject)) verdicts.push_back(std::move(place));
    if (const auto end = explain_last_end(subject)) verdicts.push_back(*end);
    return verdicts;
  }
  switch (subject.backend->state.state) {
    case BackendState::kReserved:
    case BackendState::kStarting:
      return {explain_load(subject)};
    case BackendState::kReady:
      // Somebody asked for its end: no rule says more.
      if ((subject.backend->control & kControlEvict) != 0) return {explain_request(subject)};
      return subject.backend->tenant() ? explain_tenant(subject) : explain_ready(subject);
    case BackendState::kFree:
    case BackendState::kEvicting:
    case BackendState::kStopping:
    case BackendState::kGone:
      break;
  }
  return {explain_end(subject)};
}

std::vector<Verdict> judge(const Subject& subject) {
  std::vector<Verdict> verdicts = judge_state(subject);
  if (const auto holds = explain_holding(subject)) verdicts.push_back(*holds);
  for (Verdict& waiter : explain_absent_waiters(subject)) verdicts.push_back(std::move(waiter));
  return verdicts;
}

std::string rule_text(const Subject& subject, const SettingInfo& info) {
  return std::string(subject.effective.rule(info.id));
}

std::string origin_of(const Subject& subject, const SettingInfo& info) {
  return origin_text(settings_of(subject.snapshot).config_path, subject.effective.origin(info.id));
}

Json explain_json(const Subject& subject) {
  Json json;
  json["model"] = json_text(subject.model);
  const bool is_loaded =
      subject.backend != nullptr && resident_of(*subject.backend).can_be_closed();
  json["loaded"] = is_loaded;
  json["state"] = subject.backend != nullptr
                      ? Json(backend_state_name(subject.backend->state.state))
                      : Json(nullptr);
  json["backend"] =
      subject.backend != nullptr ? backend_json(subject.snapshot, *subject.backend) : Json(nullptr);
  Json values = Json::object();
  for (const SettingInfo& info : kSettings) {
    values[std::string(info.name)] = {{"value", json_text(subject.effective.shown(info.id))},
                                      {"origin", json_text(origin_of(subject, info))},
                                      {"rule", json_text(rule_text(subject, info))}};
  }
  json["settings"] = std::move(values);
  Json verdicts = Json::array();
  for (const Verdict& verdict : judge(subject)) {
    verdicts.push_back({{"rule", json_text(verdict.rule)},
                        {"text", json_text(verdict.text)},
                        {"due_in_ms", json_ms(verdict.due_ns)}});
  }
  json["verdicts"] = std::move(verdicts);
  json["history"] = subject.history ? history_json(subject.now(), *subject.history) : Json(nullptr);
  return json;
}

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

void print_explanation(const Subject& subject, const std::string& hint) {
  std::string head = escape(subject.model) + ": ";
  if (subject.backend == nullptr) {
    head += "not loaded" + hint;
  } else {
    const BackendView& backend = *subject.backend;
    head += std::string(backend_state_name(backend.state.state));
    if (backend.process.pid != 0) head += ", pid " + std::to_string(backend.process.pid);
    if (!backend.address.empty()) head += " at " + escape(backend.address);
    if (backend.tenant()) head += ", a tenant";
    if (backend.pinned()) head += ", pinned";
    if (!backend.tenant()) head += ", " + count_text(backend.in_flight, "lease");
  }
  print(head + "\n");
  if (subject.history) print(history_text(*subject.history) + "\n");
  print("\n");

  const std::size_t width = terminal_width();
  TextTable verdicts({{"RULE"}, {"AS THINGS STAND"}});
  for (const Verdict& verdict : judge(subject)) verdicts.add({verdict.rule, verdict.text});
  print(verdicts.text(0) + "\n");

  TextTable table({{"SETTING"},
                   {"VALUE"},
                   {"ORIGIN", TextTable::Align::kLeft, true},
                   {"MATCHED BY", TextTable::Align::kLeft, true}});
  for (const SettingInfo& info : kSettings) {
    table.add({std::string(info.name), escape(subject.effective.shown(info.id)),
               escape(origin_of(subject, info)), text_or_dash(rule_text(subject, info))});
  }
  print(table.text(width));
}

struct Options {
  std::string file;
  std::string model;
  WhatIf what_if;
};

// One model in the pool as it is, or as it would be.
Subject subject_of(const Options& options, const Seen& seen, JudgeState judge) {
  const BackendView* const backend = seen.snapshot.find_model(options.model);
  return {*seen.segment,
          seen.snapshot,
          options.model,
          backend,
          find_history(*seen.segment, options.model),
          resolve_settings(*seen.segment, options.model,
                           backend != nullptr ? &backend->overrides : nullptr),
          judge,
          !options.file.empty()};
}

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
  if (context.json) {
    Json json =
        options.model.empty() ? Json::object() : explain_json(subject_of(options, shown, judge));
    if (supposed) json["what_if"] = forecast_json(options.what_if, *supposed);
    print_json(json);
    return kDone;
  }
  if (supposed) print_forecast(*supposed, find_judge_fault(*seen->segment, options.file));
  if (supposed && !options.model.empty()) print("\n");
  if (!options.model.empty()) {
    print_explanation(subject_of(options, shown, judge),
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
