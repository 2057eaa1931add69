#include "common.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "base/duration.hpp"
#include "base/exit_words.hpp"
#include "base/name.hpp"
#include "base/nearest.hpp"
#include "base/number.hpp"
#include "base/size.hpp"
#include "base/time.hpp"
#include "policy/line.hpp"
#include "protocol/histories.hpp"

namespace modelpool::poolctl {
namespace {

constexpr std::size_t kColumnMin = 8;        // characters a shrunk column keeps
constexpr std::size_t kColumnReadable = 16;  // and before another column goes for it
constexpr std::size_t kColumnGap = 2;

template <class Parse>
CLI::Option* add_checked(CLI::App* command, const std::string& name, const std::string& type,
                         const std::string& help, Parse parse) {
  const auto take = [parse](const std::string& text) {
    if (auto read = parse(text); !read) throw BadArgument(read.error().text);
  };
  return add_text(command, name, type, take, help);
}

constexpr std::uint64_t kLookAgain_ns = 10 * kMillisecond_ns;

// Its first scan: then its settings are in force.
bool has_looked(const CoordinatorRecord& record) {
  return record.last_scan_ns.load(std::memory_order_acquire) >=
         record.started_ns.load(std::memory_order_acquire);
}

class UsageFormatter : public CLI::Formatter {
 public:
  explicit UsageFormatter(std::string line) : line_(std::move(line)) {}
  std::string make_usage(const CLI::App*, std::string) const override { return line_; }

 private:
  std::string line_;
};

}  // namespace

CLI::App* add_command(CLI::App& root, Context& context, const std::string& name,
                      const std::string& what, const std::string& notes,
                      const std::function<int()>& run) {
  CLI::App* command = root.add_subcommand(name, what);
  command->fallthrough();
  command->footer(notes +
                  "\nWith every command: --pool NAME, --dir DIR, --wait DURATION, -o table|json; "
                  "see poolctl --help.");
  command->callback([&context, run] { context.chosen = run; });
  return command;
}

CLI::Option* add_duration(CLI::App* command, const std::string& name, std::uint64_t* into,
                          const std::string& help, bool may_be_off) {
  return add_checked(command, name, "DURATION", help, [=](const std::string& text) -> Result<> {
    const auto duration = parse_duration(text);
    if (!duration) return fail(duration.error());
    if (text == "off" && !may_be_off) {
      return fail(Errc::kInvalid,
                  "unable to wait without end: " + name +
                      " needs a duration; write it like 30s or 2h, 0 is not to wait");
    }
    *into = *duration;
    return {};
  });
}

CLI::Option* add_size(CLI::App* command, const std::string& name, std::uint64_t* into,
                      const std::string& help) {
  return add_checked(command, name, "SIZE", help, [=](const std::string& text) -> Result<> {
    const auto size = parse_size(text);
    if (!size) return fail(size.error());
    *into = *size;
    return {};
  });
}

CLI::Option* add_count(CLI::App* command, const std::string& name, std::uint64_t* into,
                       std::uint64_t max, const std::string& help) {
  return add_checked(command, name, "N", help, [=](const std::string& text) -> Result<> {
    const auto count = parse_count(text, max);
    if (!count) return fail(count.error());
    *into = *count;
    return {};
  });
}

CLI::Option* add_model(CLI::App* command, std::string* into, bool is_required) {
  return add_checked(command, "MODEL", "", "Name of the model",
                     [=](const std::string& text) -> Result<> {
                       if (auto checked = check_model_name(text); !checked) return checked;
                       *into = text;
                       return {};
                     })
      ->required(is_required);
}

CLI::Option* add_file(CLI::App* command, std::string* into) {
  return add_text(command, "--file", "PATH", into, "Look at a copied segment instead of a pool");
}

CLI::Option* add_flag(CLI::App* command, const std::string& name, bool* into,
                      const std::string& help) {
  return command->add_flag(name, *into, help);
}

CLI::Option* add_text(CLI::App* command, const std::string& name, const std::string& type,
                      std::string* into, const std::string& help) {
  return command->add_option(name, *into, help)->type_name(type);
}

CLI::Option* add_text(CLI::App* command, const std::string& name, const std::string& type,
                      const TakeText& take, const std::string& help) {
  return command->add_option_function<std::string>(name, take, help)->type_name(type);
}

CLI::Option* add_texts(CLI::App* command, const std::string& name, const std::string& type,
                       const TakeTexts& take, const std::string& help) {
  CLI::Option* option =
      command->add_option_function<std::vector<std::string>>(name, take, help)->type_name(type);
  // One text each time that it is given, not all up to the next option.
  return name.starts_with("-") ? option->allow_extra_args(false) : option;
}

void require(CLI::Option* option) { option->required(); }
void make_value_optional(CLI::Option* option) { option->expected(0, 1); }
void needs(CLI::Option* option, CLI::Option* other) { option->needs(other); }
void excludes(CLI::Option* option, CLI::Option* other) { option->excludes(other); }

void set_usage(CLI::App* command, const std::string& line) {
  command->formatter(std::make_shared<UsageFormatter>(line));
  command->get_formatter()->column_width(kHelpColumn);
}

std::pair<std::string, std::string> split_assignment(std::string_view verb,
                                                     const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    throw BadArgument("unable to " + std::string(verb) + " \"" + escape(text) +
                      "\": it is not KEY=VALUE; write it like idle-timeout=15m");
  }
  return {text.substr(0, equals), text.substr(equals + 1)};
}

void complain(std::string_view text) {
  std::fprintf(stderr, "poolctl: %.*s\n", static_cast<int>(text.size()), text.data());
}

int report(const Error& error) {
  complain(error.text);
  switch (error.code) {
    case Errc::kInvalid:
      return kWrongUsage;
    case Errc::kNoSuchPool:
    case Errc::kIncompatible:
    case Errc::kPermission:
    case Errc::kReplaced:
    case Errc::kBusy:
    case Errc::kTableFull:
    case Errc::kSystem:
      return kUnusable;
    default:
      return kNo;
  }
}

// --- Looking -------------------------------------------------------------------------------------

Result<> wait_for_pool(const Context& context, bool for_judge) {
  const bool until_served = context.wait_ns.has_value();
  const std::uint64_t end = add_ns(now_ns(), context.wait_ns.value_or(kStartPatience_ns));
  for (; context.wait_ns != 0;
       std::this_thread::sleep_for(std::chrono::nanoseconds(kLookAgain_ns))) {
    const auto opened = open_to_look(context, "");
    const bool is_coming = !opened && opened.error().code == Errc::kNoSuchPool;
    if (!opened && !is_coming) return until_served ? Result<>(fail(opened.error())) : Result<>();
    JudgeView judge;
    if (opened) judge = look_at_judge(**opened, now_ns());
    if (judge.state == JudgeState::kAnswers && has_looked((*opened)->coordinator())) return {};
    if (opened && !until_served && !(for_judge && judge.state == JudgeState::kDead)) return {};
    if (now_ns() < end) continue;
    if (!until_served) return {};
    if (!opened) return fail(opened.error());
    return fail(Errc::kNoCoordinator, "unable to see pool " + (*opened)->name() +
                                          " served within " + format_age(*context.wait_ns) + ": " +
                                          explain_absence(**opened, judge, now_ns()));
  }
  return {};
}

Result<std::shared_ptr<Segment>> open_to_look(const Context& context, const std::string& file) {
  if (file.empty()) return Segment::open_read_only(context.pool, context.dir);
  auto opened = Segment::open_file(file);
  if (!opened && opened.error().code == Errc::kNoSuchPool) {
    return fail(Errc::kNoSuchPool, "unable to look at " + escape(file) + ": there is no such file");
  }
  return opened;
}

std::optional<std::string> find_judge_fault(const Segment& segment, const std::string& file) {
  if (!file.empty()) return std::nullopt;
  if (!is_of_this_boot(segment.header()).value_or(true)) {
    return "the pool is of an earlier boot: everything it shows has ended; the next "
           "worker or coordinator makes a new one";
  }
  const std::uint64_t now = now_ns();
  const JudgeView judge = look_at_judge(segment, now);
  if (judge.state == JudgeState::kAnswers) return std::nullopt;
  return explain_absence(segment, judge, now);
}

void settle_clock(const Segment& segment, Snapshot* snapshot) {
  if (is_of_this_boot(segment.header()).value_or(false)) return;
  std::uint64_t last = snapshot->coordinator.last_scan_ns;
  const auto count_in = [&last](std::uint64_t stamp) {
    if (stamp != kNever_ns) last = std::max(last, stamp);
  };
  for (const BackendView& backend : snapshot->backends) {
    for (const std::uint64_t stamp : {backend.reserved_ns, backend.started_ns, backend.ready_ns,
                                      backend.last_used_ns, backend.stop.signalled_ns}) {
      count_in(stamp);
    }
  }
  for (const LeaseView& lease : snapshot->leases) count_in(lease.progress_ns);
  for (const WorkerView& worker : snapshot->workers) count_in(worker.attached_ns);
  for (const WaiterView& waiter : snapshot->waiters) count_in(waiter.since_ns);
  snapshot->now_ns = last;
}

Result<Seen> look(const Context& context, const std::string& file) {
  auto segment = open_to_look(context, file);
  if (!segment) return fail(segment.error());
  Seen seen;
  seen.segment = *segment;
  seen.snapshot = SnapshotReader(*segment).read();
  settle_clock(**segment, &seen.snapshot);
  return seen;
}

std::vector<std::string> known_models(const std::shared_ptr<const Segment>& segment) {
  std::vector<std::string> names;
  SnapshotReader reader(segment);
  const Snapshot& snapshot = reader.read();
  for (const BackendView& backend : snapshot.backends) names.push_back(backend.model);
  for (const WaiterView& waiter : snapshot.waiters) names.push_back(waiter.model);
  for (const HistoryView& view : read_histories(*segment)) names.push_back(view.model);
  return names;
}

std::string hint_at_model(const std::shared_ptr<const Segment>& segment, const std::string& model) {
  std::vector<std::string> names = known_models(segment);
  if (std::find(names.begin(), names.end(), model) != names.end()) return {};
  for (std::string& name : names) name = escape(name);
  return did_you_mean(model, {names.begin(), names.end()});
}

std::string pid_text(pid_t pid) { return pid <= 0 ? "-" : std::to_string(pid); }

std::string_view liveness_text(Liveness liveness) {
  switch (liveness) {
    case Liveness::kAlive:
      return "alive";
    case Liveness::kDead:
      return "dead";
    case Liveness::kUnknown:
      break;
  }
  return "unknown";
}

// --- Printing ------------------------------------------------------------------------------------

void print(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }

std::size_t terminal_width() {
  winsize size{};
  if (isatty(STDOUT_FILENO) == 0 || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0) return 0;
  return size.ws_col;
}

std::string text_or_dash(std::string_view text) { return text.empty() ? "-" : escape(text); }

namespace {

// Not a byte inside a code point.
bool begins(char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }

}  // namespace

std::size_t display_width(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), begins));
}

std::string cut(std::string_view text, std::size_t width) {
  if (display_width(text) <= width) return std::string(text);
  if (width == 0) return {};
  std::size_t at = 0;
  for (std::size_t kept = 0; at < text.size(); ++at) {
    if (begins(text[at]) && kept++ == width - 1) break;
  }
  return std::string(text.substr(0, at)) + "…";
}

std::string cut_start(std::string_view text, std::size_t width) {
  const std::size_t have = display_width(text);
  if (have <= width) return std::string(text);
  if (width == 0) return {};
  std::size_t at = 0;
  for (std::size_t left = have - (width - 1); at < text.size(); ++at) {
    if (begins(text[at]) && left-- == 0) break;
  }
  return "…" + std::string(text.substr(at));
}

std::string take_line(std::string* text, std::size_t width) {
  std::size_t end = text->size();
  if (display_width(*text) > width) {
    const std::size_t before = text->rfind(' ', width);
    end = std::min(end, before == std::string::npos ? width : before);
    while (end < text->size() && !begins((*text)[end])) ++end;
  }
  std::string line = text->substr(0, end);
  text->erase(0, text->find_first_not_of(' ', end));
  return line;
}

std::string coloured(std::string_view text, Colour colour) {
  static const bool has_colours = [] {
    const char* const none = std::getenv("NO_COLOR");
    const char* const term = std::getenv("TERM");
    const bool is_dumb = term == nullptr || *term == 0 || std::string_view(term) == "dumb";
    return isatty(STDOUT_FILENO) != 0 && (none == nullptr || *none == 0) && !is_dumb;
  }();
  if (!has_colours) return std::string(text);
  const char* code = "1";
  switch (colour) {
    case Colour::kRed:
      code = "1;31";
      break;
    case Colour::kGreen:
      code = "32";
      break;
    case Colour::kBold:
      break;
  }
  return std::string("\x1b[") + code + "m" + std::string(text) + "\x1b[0m";
}

void TextTable::add(std::vector<std::string> cells) {
  cells.resize(columns_.size());
  rows_.push_back(std::move(cells));
}

std::vector<std::size_t> TextTable::fit(std::size_t width) const {
  std::vector<std::size_t> widths;
  std::vector<bool> says_nothing(columns_.size(), !rows_.empty());
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    std::size_t widest = display_width(columns_[i].name);
    for (const auto& row : rows_) {
      widest = std::max(widest, display_width(row[i]));
      if (!row[i].empty() && row[i] != "-") says_nothing[i] = false;
    }
    widths.push_back(widest);
  }
  const auto too_wide = [&] {
    std::size_t sum = 0;
    for (const std::size_t w : widths) sum += w == 0 ? 0 : w + kColumnGap;
    return width != 0 && sum > width + kColumnGap;
  };
  const auto shrink = [&](std::size_t least, bool all) {
    while (too_wide()) {
      std::size_t* widest = nullptr;
      for (std::size_t i = 0; i < widths.size(); ++i) {
        const bool may =
            columns_[i].may_shrink && (all || !columns_[i].keeps_end) && widths[i] > least;
        if (may && (widest == nullptr || widths[i] > *widest)) widest = &widths[i];
      }
      if (widest == nullptr) return;
      --*widest;
    }
  };
  for (std::size_t i = columns_.size(); i-- > 1 && too_wide();) {
    if (says_nothing[i]) widths[i] = 0;
  }
  shrink(kColumnReadable, false);
  while (too_wide()) {
    std::size_t first = columns_.size();
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      if (widths[i] == 0 || columns_[i].leaves == 0) continue;
      if (first == columns_.size() || columns_[i].leaves < columns_[first].leaves) first = i;
    }
    if (first == columns_.size()) break;
    widths[first] = 0;
  }
  shrink(kColumnMin, false);
  shrink(kColumnMin, true);
  return widths;
}

std::string TextTable::text(std::size_t width) const {
  const std::vector<std::size_t> widths = fit(width);
  std::string text;
  const auto add_line = [&](const auto& cell_of) {
    std::string line;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      if (widths[i] == 0) continue;
      const std::string cell =
          columns_[i].keeps_end ? cut_start(cell_of(i), widths[i]) : cut(cell_of(i), widths[i]);
      const std::string padding(widths[i] - display_width(cell), ' ');
      line += columns_[i].align == Align::kRight ? padding + cell : cell + padding;
      line += std::string(kColumnGap, ' ');
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += (width == 0 ? line : cut(line, width)) + "\n";
  };
  add_line([&](std::size_t i) { return columns_[i].name; });
  for (const auto& row : rows_) {
    const bool wraps = columns_.back().wraps && widths.back() != 0;
    std::string rest = row.back();
    bool is_first = true;
    do {
      const std::string last = wraps ? take_line(&rest, widths.back()) : std::exchange(rest, "");
      add_line([&](std::size_t i) {
        return i + 1 == row.size() ? last : is_first ? row[i] : std::string();
      });
      is_first = false;
    } while (!rest.empty());
  }
  return text;
}

}  // namespace modelpool::poolctl
