// poolctl explain: which settings apply to a model and why, and what would happen to it.
#include <algorithm>

#include "json.hpp"
#include "json/event_json.hpp"
#include "protocol/histories.hpp"
#include "base/time.hpp"

namespace modelpool::poolctl {
namespace {

// What one rule says about the model as things stand.
struct Verdict {
  std::string rule;
  std::string text;
  std::uint64_t due_ns = kNever_ns;  // from now; kNever_ns: not as things stand
};

struct Subject {
  const Snapshot& snapshot;
  std::string model;
  const BackendView* backend;  // null: not loaded
  std::optional<LoadHistory> history;
  Effective effective;

  std::uint64_t get(Setting id) const { return effective.get(id); }
  std::uint64_t now() const { return snapshot.now_ns; }
};

std::string limit_text(std::uint64_t limit) { return format_duration(limit); }

// The time left until `limit` after the stamp has passed.
std::uint64_t left(const Subject& subject, std::uint64_t stamp, std::uint64_t limit) {
  return age_ns(add_ns(stamp, limit), subject.now());
}

Verdict judge_leases(const Subject& subject, std::string_view rule, Setting setting,
                     std::uint64_t LeaseView::*stamp) {
  Verdict verdict{std::string(rule), "off", kNever_ns};
  const std::uint64_t pool_limit = subject.get(setting);
  if (pool_limit != 0) verdict.text = "no lease";
  for (const LeaseView& lease : subject.snapshot.leases) {
    if (!(lease.backend == subject.backend->ref)) continue;
    std::uint64_t limit = pool_limit;
    if (setting == Setting::kBusyTimeout && lease.limit_ns != 0) {
      limit = limit == 0 ? lease.limit_ns : std::min(limit, lease.limit_ns);
    }
    if (limit == 0) continue;
    const std::uint64_t due = left(subject, lease.*stamp, limit);
    if (due >= verdict.due_ns) continue;
    verdict.due_ns = due;
    verdict.text =
        age_text(subject.now(), lease.*stamp) + " of " + limit_text(limit) +
        (lease.tag.empty() ? "" : ", tag " + escape(lease.tag)) + ": killed in " + format_age(due) +
        (setting == Setting::kBusyTimeout ? " unless the lease ends" : " unless it makes progress");
  }
  return verdict;
}

Verdict judge_idle(const Subject& subject) {
  const BackendView& backend = *subject.backend;
  const std::uint64_t limit = subject.get(Setting::kIdleTimeout);
  if (limit == 0) return {"idle", "off", kNever_ns};
  if (backend.pinned()) return {"idle", "exempt: pinned", kNever_ns};
  if (backend.in_flight > 0) {
    return {"idle", "not idle: " + count_text(backend.in_flight, "lease") + " in flight",
            kNever_ns};
  }
  const std::uint64_t due = left(subject, backend.last_used_ns, limit);
  return {"idle",
          "idle for " + age_text(subject.now(), backend.last_used_ns) + " of " + limit_text(limit) +
              ": evicted in " + format_age(due) + " unless used",
          due};
}

Verdict judge_room(const Subject& subject) {
  const BackendView& backend = *subject.backend;
  const std::uint64_t max_backends = subject.snapshot.max_backends();
  if (max_backends == 0) return {"lru", "no limit: nothing is evicted for room", kNever_ns};
  if (backend.pinned()) return {"lru", "exempt: pinned", kNever_ns};
  const std::uint64_t min_resident =
      left(subject, backend.ready_ns, subject.get(Setting::kMinResident));
  if (min_resident > 0) {
    return {"lru", "not for another " + format_age(min_resident) + " (min_resident)", kNever_ns};
  }
  if (backend.in_flight > 0) {
    const std::string busy = count_text(backend.in_flight, "lease") + " in flight; when_busy is ";
    switch (static_cast<WhenBusy>(subject.get(Setting::kWhenBusy))) {
      case WhenBusy::kWait:
        return {"lru", busy + "wait: not while busy", kNever_ns};
      case WhenBusy::kForce:
        return {"lru", busy + "force: its leases may be cut for room", kNever_ns};
      case WhenBusy::kDrain:
        break;
    }
    return {"lru",
            busy + "drain: with no idle victim it may be closed for " +
                limit_text(subject.get(Setting::kDrainTimeout)) + " while its leases end",
            kNever_ns};
  }
  std::size_t before = 0;
  std::size_t idle = 0;
  for (const BackendView& other : subject.snapshot.backends) {
    if (other.state.state != BackendState::kReady || other.in_flight > 0 || other.pinned())
      continue;
    ++idle;
    before += other.last_used_ns < backend.last_used_ns;
  }
  return {"lru",
          std::to_string(subject.snapshot.live()) + " of " + std::to_string(max_backends) +
              " places taken; number " + std::to_string(before + 1) + " of " +
              std::to_string(idle) + " to go when one is needed, least recently used first",
          kNever_ns};
}

std::vector<Verdict> judge(const Subject& subject) {
  if (subject.backend == nullptr) {
    if (!subject.snapshot.settings) {
      return {{"load", "no: the pool has no settings yet; start coordinatord", kNever_ns}};
    }
    const std::uint64_t cooling =
        subject.history ? age_ns(subject.history->cooldown_until_ns, subject.now()) : 0;
    if (cooling > 0) return {{"load", "cooling down for another " + format_age(cooling), cooling}};
    return {{"load", "may be loaded by whoever acquires it", kNever_ns}};
  }
  const BackendView& backend = *subject.backend;
  switch (backend.state.state) {
    case BackendState::kReserved:
    case BackendState::kStarting: {
      const std::uint64_t limit = subject.get(Setting::kLoadTimeout);
      if (limit == 0) return {{"load_timeout", "off", kNever_ns}};
      const std::uint64_t due = left(subject, backend.reserved_ns, limit);
      return {{"load_timeout",
               "loading for " + age_text(subject.now(), backend.reserved_ns) + " of " +
                   limit_text(limit) + ": ended in " + format_age(due) + " unless ready",
               due}};
    }
    case BackendState::kReady:
      return {judge_leases(subject, "busy", Setting::kBusyTimeout, &LeaseView::start_ns),
              judge_leases(subject, "stall", Setting::kStallTimeout, &LeaseView::progress_ns),
              judge_idle(subject), judge_room(subject)};
    default: {
      std::string text(backend_state_name(backend.state.state));
      if (backend.stop.generation == backend.ref.generation) {
        text += " for " + age_text(subject.now(), backend.stop.decided_ns);
        if (backend.stop.signal != 0)
          text += ", sent " + signal_text(static_cast<int>(backend.stop.signal));
        if (const auto why = field_text(backend.stop.text); !why.empty())
          text += ": " + escape(why);
        return {{std::string(reason_name(backend.stop.reason)), text, kNever_ns}};
      }
      return {{"stop", text, kNever_ns}};
    }
  }
}

std::string rule_text(const Subject& subject, const SettingInfo& info) {
  const int rule = subject.effective.rule[static_cast<std::size_t>(info.id)];
  if (rule < 0 || !subject.snapshot.settings ||
      static_cast<std::size_t>(rule) >= subject.snapshot.settings->rules_in_use()) {
    return {};
  }
  return std::string(subject.snapshot.settings->rules[static_cast<std::size_t>(rule)].glob_text());
}

std::string origin_of(const Subject& subject, const Settings& settings, const SettingInfo& info) {
  return origin_text(settings, subject.effective.origin[static_cast<std::size_t>(info.id)]);
}

Json explain_json(const Subject& subject, const Settings& settings) {
  Json json;
  json["model"] = json_text(subject.model);
  json["loaded"] = subject.backend != nullptr;
  json["backend"] =
      subject.backend != nullptr ? backend_json(subject.snapshot, *subject.backend) : Json(nullptr);
  Json values = Json::object();
  for (const SettingInfo& info : kSettings) {
    values[std::string(info.name)] = {{"value", format_setting(info, subject.get(info.id))},
                                      {"origin", json_text(origin_of(subject, settings, info))},
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
    text += "; " + count_text(history.failures, "failed load") +
            " in a row, the last: " + escape(field_text(history.error));
    const std::string exit = exit_text(static_cast<std::uint32_t>(history.exit_status));
    if (!exit.empty()) text += " (" + exit + ")";
  }
  return text;
}

void print_explanation(const Subject& subject, const Settings& settings) {
  std::string head = escape(subject.model) + ": ";
  if (subject.backend == nullptr) {
    head += "not loaded";
  } else {
    const BackendView& backend = *subject.backend;
    head += std::string(backend_state_name(backend.state.state));
    if (backend.process.pid != 0) head += ", pid " + std::to_string(backend.process.pid);
    if (!backend.address.empty()) head += " at " + escape(backend.address);
    if (backend.pinned()) head += ", pinned";
    head += ", " + count_text(backend.in_flight, "lease");
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
    table.add({std::string(info.name), format_setting(info, subject.get(info.id)),
               escape(origin_of(subject, settings, info)), text_or_dash(rule_text(subject, info))});
  }
  print(table.text(width));
}

}  // namespace

void add_explain(CLI::App& root, Context& context) {
  struct Options {
    std::string file;
    std::string model;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command = add_command(
      root, context, "explain",
      "Which settings apply to a model, from where, and what they mean for it now",
      "Works for models that are not loaded, too.\n\nExample:\n  poolctl explain llama-3-8b\n",
      [&context, options] {
        const auto seen = look(context, options->file);
        if (!seen) return report(seen.error());
        const Settings& settings = settings_of(seen->snapshot);
        const BackendView* backend = seen->snapshot.find_model(options->model);
        const Subject subject{
            seen->snapshot, options->model, backend, find_history(*seen->segment, options->model),
            effective_settings(settings, options->model,
                               backend != nullptr ? &backend->overrides : nullptr)};
        if (context.json) {
          print_json(explain_json(subject, settings));
        } else {
          print_explanation(subject, settings);
        }
        return kDone;
      });
  add_model(command, &options->model);
  add_file(command, &options->file);
}

}  // namespace modelpool::poolctl
