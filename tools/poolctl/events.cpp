// poolctl events: what the coordinator decided, and why.
#include "protocol/events.hpp"

#include <time.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/duration.hpp"
#include "base/number.hpp"
#include "base/time.hpp"
#include "common.hpp"
#include "json/event_json.hpp"
#include "policy/rules.hpp"
#include "stream.hpp"

namespace modelpool::poolctl {
namespace {

// How long a follower sleeps without a look at its reader and at the segment's name.
constexpr std::uint64_t kFollowSlice_ns = kSecond_ns;

struct Options {
  std::string file;
  bool follow = false;
  std::optional<std::uint64_t> since;  // a sequence number
  std::uint64_t since_wall_ns = 0;     // of the wall clock, 0: any
  std::uint64_t count = kNever_ns;
  std::vector<EventKind> kinds;
  std::string model;
};

EventKind kind_named(const std::string& text) {
  std::string known;
  for (std::uint32_t i = 1; i < kEventKindCount; ++i) {
    const auto kind = static_cast<EventKind>(i);
    if (event_kind_name(kind) == text) return kind;
    known += " " + std::string(event_kind_name(kind));
  }
  throw BadArgument("unable to select events: there is no kind \"" + escape(text) +
                    "\"; the kinds are" + known);
}

bool is_wanted(const Options& options, const EventData& event) {
  if (!options.model.empty() && options.model != field_text(event.model)) return false;
  if (event.time_ns < options.since_wall_ns) return false;
  return options.kinds.empty() ||
         std::find(options.kinds.begin(), options.kinds.end(), event.kind) != options.kinds.end();
}

// A keep_alive of 0 ends at once; a limit of 0 would be off.
std::string limit_text(const EventData& event) {
  return event.reason == Reason::kIdle ? format_keep_alive(event.limit_ns)
                                       : format_duration(event.limit_ns);
}

// "pid 4321, 15m3s of 15m, SIGTERM, gone after 120ms, exit status 0: what was found"
std::string details_of(const EventData& event) {
  std::string details;
  const auto add = [&details](const std::string& detail) {
    details += (details.empty() ? "" : ", ") + detail;
  };
  if (event.pid != 0) add("pid " + std::to_string(event.pid));
  if (event.worker_pid != 0) add("worker " + std::to_string(event.worker_pid));
  if (const auto tag = field_text(event.tag); !tag.empty()) add("tag " + escape(tag));
  if (event.age_ns != kNever_ns) {
    const std::string age = format_age(event.age_ns);
    add(event.limit_ns != kNever_ns           ? age + " of " + limit_text(event)
        : reason_row(event.reason).makes_room ? "unused for " + age
                                              : "measured " + age);
  } else if (event.limit_ns != kNever_ns) {
    add("limit " + limit_text(event));
  }
  if (event.load_ns != kNever_ns) add("loaded in " + format_age(event.load_ns));
  if (event.signal != 0) add(signal_text(static_cast<int>(event.signal)));
  if (event.exit_ns != kNever_ns) add("gone after " + format_age(event.exit_ns));
  if (const auto exit = exit_text(event.exit_status); !exit.empty()) add(exit);
  if (event.count != kNever_ns) add("count " + std::to_string(event.count));
  if (const auto text = field_text(event.text); !text.empty()) {
    details += (details.empty() ? "" : ": ") + escape(text);
  }
  return details;
}

// "2026-11-29T16:47:43.250Z", as events print it, or local time: "2026-11-29 16:47", "16:47" of
// today, or of yesterday if that is still to come.
std::optional<std::uint64_t> parse_wall_clock(std::string text) {
  const bool is_utc = text.ends_with('Z');
  if (is_utc) text.pop_back();
  std::uint64_t millisecond = 0;
  if (const std::size_t dot = text.find('.'); dot != std::string::npos) {
    std::string digits = text.substr(dot + 1);
    if (digits.empty() || digits.find_first_not_of("0123456789") != std::string::npos)
      return std::nullopt;
    digits.resize(3, '0');
    millisecond = std::stoul(digits);
    text.resize(dot);
  }
  const auto now = static_cast<time_t>(wall_clock_ns() / kSecond_ns);
  const auto read = [&](const char* format) -> std::optional<tm> {
    tm date{};
    if (is_utc ? gmtime_r(&now, &date) == nullptr : localtime_r(&now, &date) == nullptr)
      return std::nullopt;
    date.tm_sec = 0;
    const char* const end = strptime(text.c_str(), format, &date);
    date.tm_isdst = -1;  // whatever holds then
    return end != nullptr && *end == '\0' ? std::optional(date) : std::nullopt;
  };
  for (const char* const format : {"%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M",
                                   "%Y-%m-%d %H:%M", "%H:%M:%S", "%H:%M"}) {
    auto date = read(format);
    if (!date) continue;
    const auto seconds = [&] { return is_utc ? timegm(&*date) : mktime(&*date); };
    const int day = date->tm_mday;
    if (seconds() < 0 || date->tm_mday != day) return std::nullopt;  // the 30th of February
    if (format[1] == 'H' && seconds() > now) --date->tm_mday;
    return static_cast<std::uint64_t>(seconds()) * kSecond_ns + millisecond * kMillisecond_ns;
  }
  return std::nullopt;
}

// A sequence number, how long ago, or a time.
void read_since(const std::string& text, Options* options) {
  if (const auto sequence = parse_count(text, kNever_ns - 1)) {
    options->since = std::max<std::uint64_t>(1, *sequence);
    return;
  }
  if (const auto at = parse_wall_clock(text)) {
    options->since_wall_ns = std::max<std::uint64_t>(1, *at);
    return;
  }
  const auto ago = parse_duration(text);
  if (!ago || text == "off") {
    throw BadArgument("unable to show events since \"" + escape(text) +
                      "\": write a sequence number, as 120, how long ago, as 5m, or a time, as "
                      "16:47 or 2026-11-29T16:47:43Z");
  }
  options->since_wall_ns = wall_clock_ns() - std::min(*ago, wall_clock_ns());
}

std::string padded(const std::string& text, std::size_t width) {
  const std::size_t used = display_width(text);
  return text + std::string(used < width ? width - used : 0, ' ') + "  ";
}

std::string line_of(const std::string& time, const std::string& sequence, const std::string& kind,
                    const std::string& reason, const std::string& model,
                    const std::string& details) {
  std::string line = padded(time, 24) + padded(sequence, 6) + padded(kind, 19) +
                     padded(reason, 12) + padded(model, 20) + details;
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

std::string heading() { return line_of("TIME", "SEQ", "KIND", "REASON", "MODEL", "DETAILS"); }

std::string text_of(bool json, const EventView& event) {
  if (json) return event_json(event.sequence, event.data) + "\n";
  return line_of(format_wall_clock(event.data.time_ns), std::to_string(event.sequence),
                 std::string(event_kind_name(event.data.kind)),
                 text_or_dash(reason_name(event.data.reason)),
                 text_or_dash(field_text(event.data.model)), details_of(event.data));
}

// What is missing: overwritten by later ones, or left half done by a coordinator that was killed.
struct Gap {
  std::uint64_t first = 0;
  std::uint64_t last = 0;
};

std::string text_of(const Gap& gap) {
  const std::string numbers = gap.first == gap.last
                                  ? std::to_string(gap.first)
                                  : std::to_string(gap.first) + "-" + std::to_string(gap.last);
  return line_of("-", numbers, "missing", "-", "-",
                 count_text(gap.last - gap.first + 1, "event") +
                     ": overwritten by later ones, or cut short by the coordinator's death");
}

// In a table where they are missing; JSON is events alone, so there to stderr.
std::string show(bool json, const Gap& gap) {
  if (!json) return text_of(gap);
  complain("events " + std::to_string(gap.first) + " to " + std::to_string(gap.last) +
           " are missing: overwritten by later ones, or cut short by the coordinator's death");
  return {};
}

// The first event that --since asks for, as far as that can be told: before the oldest that is
// left there were others of that time, if that is younger.
std::uint64_t first_wanted(const Options& options, const std::vector<EventView>& events) {
  if (options.since) return *options.since;
  if (events.empty()) return 1;
  const bool may_lack =
      options.since_wall_ns != 0 && events[0].data.time_ns >= options.since_wall_ns;
  return may_lack ? 1 : events[0].sequence;
}

int follow(const Context& context, const Options& options, const Segment& segment) {
  Stream stream;
  if (!context.json && !stream.print(heading())) return stream.exit_code();
  std::uint64_t next = options.since.value_or(1);
  std::uint64_t left = options.count;
  bool began = options.since.has_value();  // from here on a gap is a loss
  while (left > 0) {
    // The bell first: an event written after this read has rung it, and the wait returns at once.
    // acquire: pairs with the coordinator's bump, made after the event was written
    const std::uint32_t bell = segment.coordinator().event_bell.load(std::memory_order_acquire);
    std::string text;
    for (const EventView& event : read_events(segment, next)) {
      if (event.sequence < next) continue;
      if (began && event.sequence > next) text += show(context.json, Gap{next, event.sequence - 1});
      began = true;
      next = event.sequence + 1;
      if (left == 0 || !is_wanted(options, event.data)) continue;
      text += text_of(context.json, event);
      if (left != kNever_ns) --left;
    }
    if (!text.empty() && !stream.print(text)) return stream.exit_code();
    if (left == 0 || !stream.has_reader()) break;
    if (segment.is_replaced()) {
      return report({Errc::kReplaced,
                     "unable to follow pool " + segment.name() +
                         ": it was removed or replaced; run this again",
                     0, 0});
    }
    stream.wait(segment, bell, now_ns() + kFollowSlice_ns);
  }
  return stream.exit_code();
}

int print_events(const Context& context, const Options& options, const Segment& segment) {
  const std::vector<EventView> events = read_events(segment, options.since.value_or(1));
  struct Shown {
    std::vector<Gap> before;
    const EventView* event;
  };
  std::vector<Shown> all;
  std::vector<Gap> gaps;
  std::uint64_t next = first_wanted(options, events);
  for (const EventView& event : events) {
    // Those of before the time that is asked for are missed by nobody.
    if (event.sequence > next && event.data.time_ns >= options.since_wall_ns)
      gaps.push_back({next, event.sequence - 1});
    next = event.sequence + 1;
    if (is_wanted(options, event.data)) all.push_back({std::exchange(gaps, {}), &event});
  }
  std::size_t first = 0;
  std::size_t end = all.size();
  if (all.size() > options.count) {
    const bool from_the_first = options.since || options.since_wall_ns != 0;
    if (from_the_first) {
      end = options.count;
    } else {
      first = all.size() - options.count;
    }
  }
  if (!context.json) print(heading());
  for (std::size_t i = first; i < end; ++i) {
    for (const Gap& gap : all[i].before) print(show(context.json, gap));
    print(text_of(context.json, *all[i].event));
  }
  for (const Gap& gap : gaps) {
    if (end == all.size()) print(show(context.json, gap));
  }
  return kDone;
}

}  // namespace

void add_events(CLI::App& root, Context& context) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = add_command(
      root, context, "events", "What the coordinator decided: what, why, who, and how it ended",
      "The segment keeps the last 4096 events (coordinatord --events), numbered from 1. With -o "
      "json each is one object "
      "on\n"
      "one line. --follow blocks until there is more, and ends with 0 on Ctrl-C, SIGTERM or when\n"
      "nobody reads its output.\n\n"
      "A gap in the numbers is shown where it is, as `missing`; with -o json on stderr. --since "
      "takes a\n"
      "time as events print it, or local time (\"2026-11-29 16:47\", 16:47).\n\n"
      "Examples:\n"
      "  poolctl events --count 20\n"
      "  poolctl events --since 16:47 --model llama-3-8b\n"
      "  poolctl events --since 5m --kind killed\n"
      "  poolctl -o json events --follow --kind killed --kind load_failed | while read -r line; do "
      "...\n",
      [&context, options] {
        const auto segment = open_to_look(context, options->file);
        if (!segment) return report(segment.error());
        return options->follow ? follow(context, *options, **segment)
                               : print_events(context, *options, **segment);
      });
  CLI::Option* follows =
      add_flag(command, "-f,--follow", &options->follow, "Go on as events happen");
  add_text(
      command, "--since", "SEQ|DURATION|TIME",
      [options](const std::string& text) { read_since(text, options.get()); },
      "Only events from this sequence number or time on, or of the last DURATION");
  add_count(command, "--count", &options->count, kNever_ns - 1,
            "At most N: the newest, with --since or --follow the first");
  add_texts(
      command, "--kind", "KIND",
      [options](const std::vector<std::string>& texts) {
        for (const std::string& text : texts) options->kinds.push_back(kind_named(text));
      },
      "Only events of this kind; may be repeated");
  add_text(command, "--model", "MODEL", &options->model, "Only events of this model");
  excludes(add_file(command, &options->file), follows);
}

}  // namespace modelpool::poolctl
