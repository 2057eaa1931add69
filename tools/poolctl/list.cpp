// poolctl list: the live backends.
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

#include "base/duration.hpp"
#include "base/size.hpp"
#include "base/time.hpp"
#include "json.hpp"
#include "protocol/members.hpp"
#include "segment/frozen.hpp"
#include "stream.hpp"
#include "tables.hpp"

namespace modelpool::poolctl {
namespace {

struct Options {
  std::string file;
  std::uint64_t watch_ns = 0;  // 0 = once
};

std::string notes_of(const Segment& segment, const Snapshot& snapshot, const BackendView& backend,
                     bool is_judged) {
  std::string notes;
  const auto add = [&notes](const std::string& note) {
    notes += (notes.empty() ? "" : ", ") + note;
  };
  if (backend.tenant()) add("tenant of " + std::to_string(backend.owner_pid));
  if (backend.pinned()) add("pinned");
  if (backend.external()) add("external");
  if (backend.control & kControlEvict) add("to be evicted");
  if (is_full(backend)) add("full: " + load_text(snapshot, backend));
  const bool ending = backend.state.state == BackendState::kEvicting ||
                      backend.state.state == BackendState::kStopping;
  if (ending && backend.stop.generation == backend.ref.generation) {
    if (const auto reason = reason_name(backend.stop.reason); !reason.empty()) add(reason);
    if (backend.stop.signal != 0) add("sent " + signal_text(static_cast<int>(backend.stop.signal)));
  } else if (const auto failure = load_failure(segment, backend); ending && failure) {
    add("load failed: " + *failure);
  }
  if (backend.probe_failures == 1) add("1 probe failed");
  if (backend.probe_failures > 1)
    add(std::to_string(backend.probe_failures) + " probes failed in a row");
  if (backend.settling()) add("settling");
  if (is_spared_sigkill(backend)) add("no SIGKILL (stop_grace is off)");
  if (!is_judged && (ending || (backend.control & kControlEvict))) add("waits for a coordinator");
  if (backend.left.count != 0) add("left: " + left_text(backend.left));
  std::uint64_t of_devices = 0;
  for (const std::uint64_t bytes : backend.measured.device) of_devices = add_ns(of_devices, bytes);
  if (of_devices != 0) add(format_size(of_devices) + " of devices");
  if (!backend.label.empty()) add("label " + escape(backend.label));
  return notes;
}

std::string size_text(std::uint64_t bytes) { return bytes == 0 ? "-" : format_size(bytes); }

}  // namespace

std::string list_text(const Segment& segment, const Snapshot& snapshot, bool is_judged,
                      std::size_t width) {
  const std::uint64_t now = snapshot.now_ns;
  using enum TextTable::Align;
  TextTable table({{"MODEL", kLeft, true},
                   {"STATE"},
                   {"PID", kRight},
                   {"LEASES", kRight},
                   {"BUSY", kRight},
                   {"IDLE", kRight},
                   {"READY", kRight, false, false, 1},
                   {"SIZE", kRight, false, false, 2},
                   {"PEAK", kRight, false, false, 1},
                   {"ADDRESS", kLeft, true, true},
                   {"NOTES", kLeft, true}});
  for (const BackendView& backend : snapshot.backends) {
    if (!backend.live()) continue;
    const bool idle = backend.state.state == BackendState::kReady && backend.in_flight == 0;
    table.add({text_or_dash(backend.model), std::string(backend_state_name(backend.state.state)),
               pid_text(backend.process.pid), std::to_string(backend.in_flight),
               backend.in_flight > 0 ? age_text(now, backend.oldest_start_ns) : "-",
               idle ? age_text(now, backend.last_used_ns) : "-", age_text(now, backend.ready_ns),
               size_text(backend.measured.host != 0 ? backend.measured.host : backend.size_bytes),
               size_text(backend.peak.host), text_or_dash(backend.address),
               notes_of(segment, snapshot, backend, is_judged)});
  }
  return table.text(width);
}

std::string title_of(const Segment& segment, const Snapshot& snapshot) {
  std::string title =
      "pool " + escape(segment.name()) + ": " + std::to_string(snapshot.live()) + " live";
  if (snapshot.max_backends() != 0) title += " of " + std::to_string(snapshot.max_backends());
  title += ", " + count_text(snapshot.leases.size(), "lease");
  title += ", " + std::to_string(snapshot.waiters.size()) + " waiting";
  const JudgeState judge = look_at_judge(segment, now_ns()).state;
  if (judge == JudgeState::kDead) title += ", no coordinator";
  if (judge == JudgeState::kHangs) title += ", the coordinator hangs";
  return title + ", " + format_wall_clock(wall_clock_ns());
}

std::string draw(const std::string& frame, std::size_t width) {
  winsize size{};
  ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
  std::size_t rows_left = size.ws_row > 1 ? size.ws_row - 1u : 1000u;
  std::string drawn = "\x1b[H";
  for (std::size_t at = 0; at < frame.size() && rows_left > 0; --rows_left) {
    const std::size_t end = std::min(frame.find('\n', at), frame.size());
    const std::string_view line = std::string_view(frame).substr(at, end - at);
    drawn += (width == 0 ? std::string(line) : cut(line, width)) + "\x1b[K\n";
    at = end + 1;
  }
  return drawn + "\x1b[J";
}

CLI::Option* add_redraw(CLI::App* command, const std::string& name, const std::string& help,
                        std::uint64_t* every_ns) {
  return add_text(
      command, name, "DURATION",
      [every_ns](const std::string& text) {
        const auto every = parse_duration(text.empty() ? "1s" : text);
        if (!every) throw BadArgument(every.error().text);
        if (*every < kRedrawMin_ns) {
          throw BadArgument("unable to redraw every \"" + escape(text) + "\": 50ms is the least");
        }
        *every_ns = *every;
      },
      help);
}

namespace {

int watch(const Context& context, const Options& options) {
  Stream stream;
  std::shared_ptr<Segment> segment;
  std::unique_ptr<SnapshotReader> reader;
  const bool on_terminal = isatty(STDOUT_FILENO) != 0;
  std::uint64_t wait_ns = options.watch_ns;
  if (on_terminal && !stream.print("\x1b[2J")) return stream.exit_code();
  while (stream.has_reader()) {
    if (!segment || (options.file.empty() && segment->is_replaced())) {
      auto opened = open_to_look(context, options.file);
      if (!opened) return report(opened.error());
      segment = *opened;
      reader = std::make_unique<SnapshotReader>(segment);
    }
    // acquire: what the coordinator wrote before it rang is seen below
    const std::uint32_t bell = segment->coordinator().event_bell.load(std::memory_order_acquire);
    const std::uint64_t start = now_ns();
    Snapshot snapshot = reader->read();
    settle_clock(*segment, &snapshot);
    std::string frame;
    const std::size_t width = terminal_width();
    if (context.json) {
      frame = list_json(snapshot).dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    } else {
      const bool is_judged = !find_judge_fault(*segment, options.file);
      frame = title_of(*segment, snapshot) + "\n" + list_text(*segment, snapshot, is_judged, width);
      frame = on_terminal ? draw(frame, width) : frame + "\n";
    }
    if (!stream.print(frame)) break;
    stream.wait(*segment, bell, start + wait_ns);
    // What an event tells of may come to its end a moment later, without another.
    const bool was_rung = segment->coordinator().event_bell.load(std::memory_order_relaxed) != bell;
    wait_ns = was_rung ? std::min(options.watch_ns, kSecond_ns) : options.watch_ns;
    // An event redraws early, a storm of them does not redraw without pause.
    while (now_ns() < start + kRedrawMin_ns) {
      stream.wait(*segment, segment->coordinator().event_bell.load(std::memory_order_relaxed),
                  start + kRedrawMin_ns);
    }
  }
  return stream.exit_code();
}

// Of another layout version only states and processes are known; the rest prints as unknown (P11).
int list_other_layout(const Context& context, const Error& why) {
  const auto named = open_named(context.pool, context.dir, Purpose::kLook);
  if (!named) return report(named.error());
  const auto pool = read_frozen(named->file.get(), named->path);
  if (!pool || pool->header.layout_version == kLayoutVersion) return report(why);
  complain("pool " + escape(context.pool) + " has layout version " +
           std::to_string(pool->header.layout_version) + ", this program knows " +
           std::to_string(kLayoutVersion) + ": only states and processes are shown");
  Json json = Json::array();
  TextTable table({{"MODEL"}, {"STATE"}, {"PID", TextTable::Align::kRight}});
  for (const FrozenBackend& backend : pool->live) {
    const std::string state(backend_state_name(backend.state));
    table.add({"-", state, pid_text(backend.process.pid)});
    Json entry = row_json(BackendRow{});
    for (auto& value : entry) value = nullptr;
    entry["state"] = state;
    entry["pid"] = json_pid(backend.process.pid);
    entry["generation"] = backend.generation;
    json.push_back(std::move(entry));
  }
  if (context.json) {
    print_json(json);
  } else {
    print(table.text(terminal_width()));
  }
  return kDone;
}

}  // namespace

void add_list(CLI::App& root, Context& context) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = add_command(
      root, context, "list", "The live backends: state, process, leases, busy and idle times",
      "BUSY is the age of the oldest lease, IDLE the time since the last use, READY since it was\n"
      "loaded. --watch ends with 0 on Ctrl-C.\n\n"
      "Examples:\n"
      "  poolctl list --watch\n"
      "  poolctl -o json list | jq -r '.[] | select(.idle_ms > 600000) | .model'\n",
      [&context, options] {
        if (options->watch_ns != 0) return watch(context, *options);
        const auto seen = look(context, options->file);
        if (!seen) {
          const bool other = options->file.empty() && seen.error().code == Errc::kIncompatible;
          return other ? list_other_layout(context, seen.error()) : report(seen.error());
        }
        if (context.json) {
          print_json(list_json(seen->snapshot));
        } else {
          print(list_text(*seen->segment, seen->snapshot,
                          !find_judge_fault(*seen->segment, options->file), terminal_width()));
        }
        return kDone;
      });
  make_value_optional(add_redraw(command, "--watch",
                                 "Redraw again and again, every DURATION (1s) and at each event",
                                 &options->watch_ns));
  add_file(command, &options->file);
}

}  // namespace modelpool::poolctl
