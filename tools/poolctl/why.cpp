// poolctl why: why a model is not loaded any more, in one sentence, and what else could have gone.
#include <algorithm>
#include <map>

#include "base/duration.hpp"
#include "base/exit_words.hpp"
#include "base/size.hpp"
#include "base/time.hpp"
#include "json.hpp"
#include "policy/order.hpp"
#include "policy/rules.hpp"
#include "protocol/events.hpp"
#include "protocol/histories.hpp"
#include "protocol/outlook.hpp"
#include "segment/settings_block.hpp"

namespace modelpool::poolctl {
namespace {

constexpr std::size_t kOthersShown = 8;

// A model that was loaded, too, when another went for room.
struct Other {
  std::string model;
  std::string why;  // it did not go instead, as far as events and the table tell
};

struct Answer {
  bool is_known = true;  // false: the pool has never heard of it
  std::string text;      // the sentence, without the model's name
  std::optional<EventView> ended;
  std::vector<Other> others;
  std::vector<std::string> now;  // who waits for it, what holds it up
};

struct Subject {
  const Segment& segment;
  const Snapshot& snapshot;
  std::string model;
  std::vector<EventView> events;
  std::optional<LoadHistory> history;
  std::uint64_t wall_ns;  // when the snapshot was taken; 0: of a copy, whose clock is another

  // The wall clock's time of a stamp in the table; 0: not known.
  std::uint64_t wall_of(std::uint64_t stamp_ns) const {
    return wall_ns == 0 || stamp_ns == 0 ? 0 : wall_ns - age_ns(snapshot.now_ns, stamp_ns);
  }
};

// The wall clock's time when the other one stood there: some time has passed since that look.
std::uint64_t wall_clock_at(std::uint64_t stamp_ns) {
  return wall_clock_ns() - age_ns(now_ns(), stamp_ns);
}

bool is_of(const EventView& event, const std::string& model) {
  return field_text(event.data.model) == model;
}

bool is_end(EventKind kind) {
  return kind == EventKind::kEvicted || kind == EventKind::kKilled || kind == EventKind::kExited ||
         kind == EventKind::kLoadFailed;
}

// The event is written when the last process has gone; it was decided before that.
std::uint64_t decided_ns(const EventData& end) {
  return end.exit_ns == kNever_ns ? end.time_ns : end.time_ns - std::min(end.exit_ns, end.time_ns);
}

// Of one that went for room or idleness: when it was last used before; 0: not known.
std::uint64_t last_use_ns(const EventData& end) {
  const bool is_age_of_use = reason_row(end.reason).makes_room || end.reason == Reason::kIdle;
  if (!is_age_of_use || end.age_ns == kNever_ns) return 0;
  return decided_ns(end) - std::min(end.age_ns, decided_ns(end));
}

std::string when_text(const Subject& subject, std::uint64_t time_ns) {
  const std::string at = format_wall_clock(time_ns);
  return subject.wall_ns == 0 ? "at " + at
                              : format_age(age_ns(subject.wall_ns, time_ns)) + " ago (" + at + ")";
}

// "a request of process 81, tag req-7,"
std::string request_text(const EventData& end) {
  std::string text = "a request";
  if (end.worker_pid != 0) text += " of process " + std::to_string(end.worker_pid);
  if (const auto tag = field_text(end.tag); !tag.empty()) text += ", tag " + escape(tag) + ",";
  return text;
}

std::string limit_text(const EventData& end, std::string_view setting) {
  if (end.limit_ns == kNever_ns) return {};
  return " (" + std::string(setting) + " " + format_keep_alive(end.limit_ns) + ")";
}

std::string age_text_of(const EventData& end) {
  return end.age_ns == kNever_ns ? "too long" : format_age(end.age_ns);
}

// ": what was found", of texts that the reason's own words do not say.
std::string evidence(const EventData& end) {
  const auto text = field_text(end.text);
  return text.empty() ? std::string() : ": " + escape(text);
}

std::string exit_of(const EventData& end) {
  const std::string exit = exit_text(end.exit_status);
  return exit.empty() ? std::string() : " (" + exit + ")";
}

std::string reason_text(const EventData& end) {
  const auto text = escape(field_text(end.text));
  switch (end.reason) {
    case Reason::kLru:
    case Reason::kMemory: {
      const std::string unused =
          end.age_ns == kNever_ns ? "" : "; it had not been used for " + format_age(end.age_ns);
      if (text.starts_with("room for ")) return "to make " + text + unused;
      return "because " + (text.empty() ? "the pool was above its limit" : text) + unused;
    }
    case Reason::kIdle:
      if (end.limit_ns == 0) return "because its last request had ended, " + text;
      return "because nobody used it for " + age_text_of(end) +
             limit_text(end, text.empty() ? "idle_timeout" : "keep_alive");
    case Reason::kGroup:
      return "for " + reason_name(end.reason) + evidence(end);
    case Reason::kBusy:
      return "because " + request_text(end) + " ran for " + age_text_of(end) +
             limit_text(end, "busy_timeout") + evidence(end);
    case Reason::kStall:
      return "because " + request_text(end) + " made no progress for " + age_text_of(end) +
             limit_text(end, "stall_timeout") + evidence(end);
    case Reason::kFirstByte:
      return "because " + request_text(end) + " had made no progress at all after " +
             age_text_of(end) + limit_text(end, "first_byte_timeout") + evidence(end);
    case Reason::kWedged:
      return "because it did not answer its probes" +
             (end.tag[0] == '\0' && end.worker_pid == 0 ? ""
                                                        : ", and " + request_text(end) + " hung") +
             evidence(end);
    case Reason::kOverLimit:
      return "because " + (text.empty() ? "it took more than the pool may" : text);
    case Reason::kLoadTimeout:
      return "because it was not ready in time" + limit_text(end, "load_timeout") + evidence(end);
    case Reason::kRequested:
      return text.empty() ? "because somebody asked for its end" : "because " + text;
    case Reason::kCrashed:
      return "by itself" + exit_of(end) + evidence(end);
    case Reason::kShutdown:
      return "because the pool was shut down";
    case Reason::kNone:
      break;
  }
  return text.empty() ? "for a reason that was not recorded" : "because " + text + exit_of(end);
}

std::string end_text(const Subject& subject, const EventData& end) {
  const std::string when = when_text(subject, end.time_ns) + " ";
  switch (end.kind) {
    case EventKind::kKilled:
      return "was killed " + when + reason_text(end);
    case EventKind::kExited:
      return "ended " + when + reason_text(end);
    case EventKind::kLoadFailed: {
      const auto text = field_text(end.text);
      return "failed to load " + when + "because " +
             escape(
                 with_exit(text.empty() ? "of " + reason_name(end.reason) : text, end.exit_status));
    }
    case EventKind::kEvicted:
    case EventKind::kLoaded:
    case EventKind::kWorkerDied:
    case EventKind::kCoordinatorStarted:
    case EventKind::kSettingsChanged:
    case EventKind::kRecovered:
    case EventKind::kCancelRequested:
    case EventKind::kProbeFailed:
      break;
  }
  return "was evicted " + when + reason_text(end);
}

// --- What else could have gone -------------------------------------------------------------------

// It was loaded before the decision and went later, or is there still.
struct Neighbour {
  std::uint64_t loaded_ns = 0;
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;
  const EventView* ended = nullptr;
};

std::map<std::string, Neighbour> neighbours(const Subject& subject, const EventView& end) {
  std::map<std::string, Neighbour> found;
  for (const EventView& event : subject.events) {
    const std::string model(field_text(event.data.model));
    if (model.empty() || model == subject.model) continue;
    const bool is_before = event.data.time_ns <= decided_ns(end.data);
    const auto there = found.find(model);
    if (event.data.kind == EventKind::kLoaded && is_before) {
      found[model] = {event.data.time_ns, event.data.backend, event.data.generation, nullptr};
    } else if (is_end(event.data.kind) && there != found.end() && there->second.ended == nullptr) {
      if (decided_ns(event.data) <= decided_ns(end.data)) {
        found.erase(there);
      } else {
        there->second.ended = &event;
      }
    }
  }
  // Loaded so long ago that the event is overwritten.
  for (const BackendView& backend : subject.snapshot.backends) {
    const std::uint64_t ready_ns = subject.wall_of(backend.ready_ns);
    if (!backend.live() || backend.model == subject.model || ready_ns == 0) continue;
    if (ready_ns > decided_ns(end.data) || found.contains(backend.model)) continue;
    found[backend.model] = {ready_ns, backend.ref.index, backend.ref.generation, nullptr};
  }
  return found;
}

std::string used_later(std::uint64_t use_ns, std::uint64_t than_ns) {
  return "it was used later, by " + format_age(age_ns(use_ns, than_ns));
}

Eviction eviction_of(const Subject& subject) {
  return static_cast<Eviction>(settings_of(subject.snapshot).get(Setting::kEviction));
}

// What the pool's order, as it is now, says of one that stood idle between the decision and now.
std::string by_order(const Subject& subject, const BackendView& b, const EventView& end) {
  const Eviction by = eviction_of(subject);
  if (!subject.history || by == Eviction::kLru) return "not known";
  const LoadHistory& victim = *subject.history;
  if (by == Eviction::kSize) {
    if (b.size_bytes >= victim.size_bytes) return "not known";
    return b.size_bytes == 0 ? "its size is not known"
                             : "it is smaller: " + format_size(b.size_bytes) + ", not " +
                                   format_size(victim.size_bytes);
  }
  // Ages as of the decision.
  const std::uint64_t since_ns = age_ns(subject.wall_ns, decided_ns(end.data));
  Resident then = resident_of(b);
  then.in_flight = 0;
  const Worth other = worth_of(then, subject.snapshot.now_ns - since_ns);
  Resident gone;
  gone.load_ns = victim.load_ns;
  gone.interval_ns = victim.interval_ns;
  const std::uint64_t idle_ns = end.data.age_ns == kNever_ns ? 0 : end.data.age_ns;
  const Worth lost = worth_of(gone, idle_ns);  // last used at 0
  if (!costs_less(lost, other)) return "not known";
  return "its loss was expected to cost more: its load takes " + format_age(other.load_ns) +
         ", wanted every " + format_age(other.wait_ns) + "; that of " + escape(subject.model) +
         " " + format_age(lost.load_ns) + ", wanted every " + format_age(lost.wait_ns);
}

std::string why_not(const Subject& subject, const Neighbour& other, const EventView& end) {
  // Its last use says nothing in the other orders.
  const bool by_use = eviction_of(subject) == Eviction::kLru;
  const std::uint64_t victims_use_ns = by_use ? last_use_ns(end.data) : 0;
  const std::uint64_t decided = decided_ns(end.data);
  if (victims_use_ns != 0 && other.loaded_ns > victims_use_ns)
    return "it was loaded later, by " + format_age(age_ns(other.loaded_ns, victims_use_ns));
  if (other.ended != nullptr) {
    const std::uint64_t use_ns = last_use_ns(other.ended->data);
    if (use_ns > victims_use_ns && use_ns <= decided && victims_use_ns != 0)
      return used_later(use_ns, victims_use_ns);
    return "not known: it was used since, and has ended";
  }
  const BackendView* b = subject.snapshot.find({other.slot, other.generation});
  if (b == nullptr || b->ref.generation != other.generation || !b->live())
    return "not known: its end is not among the events that are left";
  if (b->pinned()) return "it is pinned";
  const std::uint64_t priority = b->settings().get(Setting::kPriority);
  const std::uint64_t victims =
      resolve_settings(subject.segment, subject.model).get(Setting::kPriority);
  if (priority > victims)
    return "its priority is higher: " + std::to_string(priority) + ", not " +
           std::to_string(victims);
  if (priority < victims) return "not known: its priority is lower now";
  for (const LeaseView& lease : subject.snapshot.leases) {
    const std::uint64_t start_ns = subject.wall_of(lease.start_ns);
    if (lease.backend != b->ref || start_ns == 0 || start_ns > decided) continue;
    return "it was in use" + (lease.tag.empty() ? "" : ", tag " + escape(lease.tag));
  }
  const std::uint64_t use_ns = subject.wall_of(b->last_used_ns);
  if (use_ns == 0 || use_ns > decided || b->in_flight > 0) return "not known: it was used since";
  if (victims_use_ns != 0 && use_ns > victims_use_ns) return used_later(use_ns, victims_use_ns);
  return by_order(subject, *b, end);
}

std::vector<Other> others_of(const Subject& subject, const EventView& end) {
  std::vector<Other> others;
  // For its group nobody else could have gone.
  if (!reason_row(end.data.reason).makes_room || end.data.reason == Reason::kGroup) return others;
  for (const auto& [model, other] : neighbours(subject, end)) {
    others.push_back({model, why_not(subject, other, end)});
  }
  return others;
}

// --- The answer ----------------------------------------------------------------------------------

std::string full_now(const Subject& subject) {
  const BackendView* b = subject.snapshot.find_model(subject.model);
  return b != nullptr && is_full(*b) ? ": its backend is full" : "";
}

std::vector<std::string> now_text(const Subject& subject) {
  std::vector<std::string> now;
  std::uint64_t waiting = 0;
  std::uint64_t since_ns = kNever_ns;
  for (const WaiterView& waiter : subject.snapshot.waiters) {
    if (waiter.model != subject.model) continue;
    ++waiting;
    since_ns = std::min(since_ns, waiter.since_ns);
  }
  if (waiting != 0) {
    now.push_back(count_text(waiting, "request") + (waiting == 1 ? " waits" : " wait") +
                  " for it, the first for " + age_text(subject.snapshot.now_ns, since_ns) +
                  full_now(subject) + "; poolctl explain " + escape(subject.model) +
                  " says for what");
  }
  const std::uint64_t cooling =
      subject.history ? age_ns(subject.history->cooldown_until_ns, subject.snapshot.now_ns) : 0;
  if (cooling > 0) {
    now.push_back("it cools down for another " + format_age(cooling) + " after " +
                  count_text(subject.history->failures, "failed load") +
                  " in a row; poolctl reset " + escape(subject.model) + " ends that");
  }
  return now;
}

std::string live_text(const Subject& subject, const BackendView& b) {
  const std::uint64_t now = subject.snapshot.now_ns;
  const std::string pid = b.process.pid == 0 ? "" : ", pid " + std::to_string(b.process.pid);
  switch (b.state.state) {
    case BackendState::kReserved:
    case BackendState::kStarting:
      return "is being loaded, for " + age_text(now, b.reserved_ns) + pid;
    case BackendState::kReady:
      return "is loaded, for " + age_text(now, b.ready_ns) + pid;
    case BackendState::kFree:
    case BackendState::kEvicting:
    case BackendState::kStopping:
    case BackendState::kGone:
      break;
  }
  std::string text = "is being ended" + pid;
  if (b.stop.generation != b.ref.generation) return text;
  text += ", for " + age_text(now, b.stop.decided_ns) + " (" +
          text_or_dash(reason_name(b.stop.reason)) + ")";
  if (const auto why = field_text(b.stop.text); !why.empty()) text += ": " + escape(why);
  return text;
}

std::string remembered_text(const Subject& subject, const LoadHistory& history) {
  if (history.last_end_ns == 0) {
    if (history.failures > 0)
      return "failed to load, the last time " +
             age_text(subject.snapshot.now_ns, history.failed_ns) +
             " ago: " + escape(field_text(history.error));
    return "is not loaded; why is not among the events that are left";
  }
  return "ended " + age_text(subject.snapshot.now_ns, history.last_end_ns) + " ago, " +
         (history.evicted_ns == history.last_end_ns ? "by an eviction" : "not by an eviction") +
         "; the event is overwritten";
}

Answer answer_of(const Subject& subject) {
  Answer answer;
  answer.now = now_text(subject);
  if (const BackendView* b = subject.snapshot.find_model(subject.model); b != nullptr) {
    answer.text = live_text(subject, *b);
    return answer;
  }
  const EventView* last = nullptr;
  for (const EventView& event : subject.events) {
    if (is_of(event, subject.model)) last = &event;
  }
  if (last != nullptr && is_end(last->data.kind)) {
    answer.ended = *last;
    answer.text = end_text(subject, last->data);
    answer.others = others_of(subject, *last);
  } else if (subject.history) {
    answer.text = remembered_text(subject, *subject.history);
  } else if (last != nullptr) {
    answer.text = "is not loaded; its end is not among the events that are left";
  } else {
    answer.is_known = false;
    answer.text = "was never loaded, as far as the pool remembers";
  }
  return answer;
}

Json answer_json(const Subject& subject, const Answer& answer) {
  const BackendView* b = subject.snapshot.find_model(subject.model);
  Json others = Json::array();
  for (const Other& other : answer.others) {
    others.push_back({{"model", json_text(other.model)}, {"why", json_text(other.why)}});
  }
  Json now = Json::array();
  for (const std::string& text : answer.now) now.push_back(json_text(text));
  return {{"model", json_text(subject.model)},
          {"state", b == nullptr ? Json(nullptr) : Json(backend_state_name(b->state.state))},
          {"known", answer.is_known},
          {"text", json_text(answer.text)},
          {"event", answer.ended ? row_json(event_row(answer.ended->sequence, answer.ended->data))
                                 : Json(nullptr)},
          {"others", std::move(others)},
          {"now", std::move(now)}};
}

void print_answer(const Subject& subject, const Answer& answer, const std::string& hint) {
  print(escape(subject.model) + " " + answer.text + (answer.is_known ? "" : hint) + "\n");
  for (const std::string& text : answer.now) print("now: " + text + "\n");
  if (answer.others.empty()) return;
  print("\n");
  TextTable table({{"LOADED THEN, TOO"}, {"WHY IT DID NOT GO"}});
  for (std::size_t i = 0; i < std::min(answer.others.size(), kOthersShown); ++i) {
    table.add({escape(answer.others[i].model), answer.others[i].why});
  }
  if (answer.others.size() > kOthersShown) {
    table.add({"and " + std::to_string(answer.others.size() - kOthersShown) + " more", "-"});
  }
  print(table.text(0));
}

}  // namespace

void add_why(CLI::App& root, Context& context) {
  struct Options {
    std::string file;
    std::string model;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command = add_command(
      root, context, "why", "Why a model is not loaded any more, in one sentence",
      "From the events that the pool remembers, what it knows of the model, and who waits now. "
      "When "
      "it\n"
      "went to make room, also which models were loaded then and why they did not go instead, as "
      "far\n"
      "as that can be told afterwards: what was used since tells no more. Works without a "
      "coordinator.\n"
      "Exit code 1 if the pool has never heard of the model.\n\n"
      "Example:\n  poolctl why llama-3-8b\n",
      [&context, options] {
        const auto seen = look(context, options->file);
        if (!seen) return report(seen.error());
        const Subject subject{*seen->segment,
                              seen->snapshot,
                              options->model,
                              read_events(*seen->segment, 1),
                              find_history(*seen->segment, options->model),
                              options->file.empty() ? wall_clock_at(seen->snapshot.now_ns) : 0};
        const Answer answer = answer_of(subject);
        if (context.json) {
          print_json(answer_json(subject, answer));
        } else {
          print_answer(subject, answer, hint_at_model(seen->segment, options->model));
        }
        return answer.is_known ? kDone : kNo;
      });
  add_model(command, &options->model);
  add_file(command, &options->file);
}

}  // namespace modelpool::poolctl
