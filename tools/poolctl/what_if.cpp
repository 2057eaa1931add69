#include "what_if.hpp"

#include <algorithm>

#include "base/text.hpp"
#include "pool/change_settings.hpp"

namespace modelpool::poolctl {
namespace {

using coordinator::ActionKind;
using coordinator::Consequence;

std::string_view action_name(ActionKind kind) {
  switch (kind) {
    case ActionKind::kLoseTicket:
      return "end_load";
    case ActionKind::kAskToEnd:
      return "ask";
    case ActionKind::kReopen:
      return "reopen";
    case ActionKind::kRefuseEvict:
      return "refuse";
    default:
      return "evict";
  }
}

bool happens_anyway(const Forecast& forecast, const Consequence& one) {
  return std::any_of(forecast.without.begin(), forecast.without.end(), [&](const Consequence& o) {
    return o.action.backend == one.action.backend && o.action.kind == one.action.kind &&
           o.action.stop.reason == one.action.stop.reason;
  });
}

}  // namespace

void WhatIf::add(const std::string& text) {
  std::vector<std::string> parts;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    const std::string part = text.substr(at, comma - at);
    at = comma + 1;
    if (parts.empty() || part.find('=') != std::string::npos) {
      parts.push_back(part);
    } else {
      parts.back() += "," + part;
    }
  }
  for (const std::string& part : parts) values.push_back(split_assignment("suppose", part));
}

Result<Forecast> forecast(const WhatIf& what_if, const Seen& now) {
  const auto entries = parse_changes(what_if.values, {OriginKind::kSet, 0});
  if (!entries) return fail(entries.error());
  Forecast forecast;
  for (const SettingEntry& entry : *entries) {
    const SettingInfo& info = kSettings[index_of(entry.id)];
    forecast.supposed += (forecast.supposed.empty() ? "" : ", ") + std::string(info.name) + " is " +
                         escape(format_entry(info, &entry));
  }
  auto supposed = coordinator::suppose(*now.segment, [&](Settings& settings) {
    for (const SettingEntry& entry : *entries) settings.pool.set(entry);
  });
  if (!supposed) return fail(supposed.error());
  supposed->snapshot.now_ns = now.snapshot.now_ns;
  forecast.then = {std::move(supposed->segment), std::move(supposed->snapshot)};
  forecast.consequences = coordinator::find_consequences(forecast.then.snapshot);
  forecast.without = coordinator::find_consequences(now.snapshot);
  return forecast;
}

void print_forecast(const Forecast& forecast, const std::optional<std::string>& fault) {
  print("If " + forecast.supposed + ":\n\n");
  if (forecast.consequences.empty()) {
    print("Nobody would go.\n");
  } else {
    TextTable table({{"MODEL"},
                     {"PID", TextTable::Align::kRight},
                     {"NOW"},
                     {.name = "WHY", .may_shrink = true, .wraps = true}});
    for (const Consequence& one : forecast.consequences) {
      const BackendView* const backend = forecast.then.snapshot.find(one.action.backend);
      table.add({backend == nullptr ? "-" : escape(backend->model),
                 backend == nullptr ? "-" : pid_text(backend->process.pid),
                 coordinator::consequence_text(one.action, forecast.then.snapshot) +
                     (one.after > 0 ? ", after those above" : ""),
                 coordinator::cause_text(one.action) +
                     (happens_anyway(forecast, one) ? " (happens anyway)" : "")});
    }
    print(table.text(terminal_width()));
  }
  if (fault) print("\nBut nobody does it: " + *fault + "\n");
}

Json forecast_json(const WhatIf& what_if, const Forecast& forecast) {
  Json settings = Json::object();
  for (const auto& [name, value] : what_if.values) {
    settings[std::string(find_setting(name)->name)] = json_text(value);
  }
  Json consequences = Json::array();
  for (const Consequence& one : forecast.consequences) {
    const BackendView* const backend = forecast.then.snapshot.find(one.action.backend);
    consequences.push_back(
        {{"model", backend == nullptr ? Json(nullptr) : Json(json_text(backend->model))},
         {"pid", backend == nullptr ? 0 : backend->process.pid},
         {"slot", one.action.backend.index},
         {"generation", one.action.backend.generation},
         {"action", action_name(one.action.kind)},
         {"reason", reason_name(one.action.stop.reason)},
         {"in_flight", backend == nullptr ? 0 : backend->in_flight},
         {"cuts", one.action.stop.forced != 0},
         {"after", one.after},
         {"anyway", happens_anyway(forecast, one)},
         {"text", json_text(coordinator::cause_text(one.action))}});
  }
  return {{"settings", std::move(settings)}, {"consequences", std::move(consequences)}};
}

}  // namespace modelpool::poolctl
