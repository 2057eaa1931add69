// What every command of poolctl shares: the options that name a pool, exit codes, messages, tables.
//
// Safety: one thread; a command runs and the program ends.
//
// Crash: a command that looks changes nothing (P12); one that changes something does so through the
// library, which survives being killed anywhere (P6).
//
// Errors: a message on stderr, "poolctl: unable to VERB OBJECT: reason; what to do", and the exit
// code it stands for (P13).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "explain/words.hpp"
#include "protocol/snapshot.hpp"

// CLI11 is known to common.cpp, complete.cpp and main.cpp alone: its header costs seconds in each
// file.
namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace modelpool::poolctl {

inline constexpr int kDone = 0;
inline constexpr int kNo = 1;  // the answer is no, or there is a finding
inline constexpr int kWrongUsage = 2;
inline constexpr int kUnusable = 3;  // no such pool, or it cannot be used
// `lease`, `load` and `run` follow timeout(1).
inline constexpr int kLeaseRefused = 124;
inline constexpr int kLeaseFailed = 125;
inline constexpr int kCannotRun = 126;
inline constexpr int kNotFound = 127;
inline constexpr int kSignalBase = 128;

inline constexpr std::size_t kHelpColumn = 30;  // where the explanations start
inline constexpr std::uint64_t kDefaultTimeout_ns = 30 * kSecond_ns;
// A command typed right behind `coordinatord &` finds its pool, unless --wait says otherwise.
inline constexpr std::uint64_t kStartPatience_ns = kSecond_ns;
// The coordinator may be restarting: this long it is waited for, as acquire does.
inline constexpr std::uint64_t kCoordinatorGrace_ns = 10 * kSecond_ns;

// What `wait` waits for.
inline constexpr std::array<std::string_view, 8> kStatesToWaitFor = {
    "reserved", "starting", "ready", "evicting", "stopping", "gone", "idle", "busy"};

// What the command line said, and what is to be done.
struct Context {
  std::string pool = "default";
  std::string dir;
  bool json = false;
  std::optional<std::uint64_t> wait_ns;  // --wait; 0: not at all
  std::function<int()> chosen;           // the command; its result is the exit code
};

// A subcommand whose help ends with these examples. `run` is called when all of the line was right.
CLI::App* add_command(CLI::App& root, Context& context, const std::string& name,
                      const std::string& what, const std::string& notes,
                      const std::function<int()>& run);

// Options and positionals whose texts the library checks; a bad one is wrong usage and says why.
CLI::Option* add_duration(CLI::App* command, const std::string& name, std::uint64_t* into,
                          const std::string& help, bool may_be_off = false);
CLI::Option* add_size(CLI::App* command, const std::string& name, std::uint64_t* into,
                      const std::string& help);
CLI::Option* add_count(CLI::App* command, const std::string& name, std::uint64_t* into,
                       std::uint64_t max, const std::string& help);
CLI::Option* add_model(CLI::App* command, std::string* into, bool is_required = true);
// --file PATH, for commands that only look.
CLI::Option* add_file(CLI::App* command, std::string* into);
CLI::Option* add_flag(CLI::App* command, const std::string& name, bool* into,
                      const std::string& help);
CLI::Option* add_text(CLI::App* command, const std::string& name, const std::string& type,
                      std::string* into, const std::string& help);
// `take` gets the text, or all the texts of an option that may be repeated or of positionals. It
// throws BadArgument for one that is wrong.
using TakeText = std::function<void(const std::string&)>;
using TakeTexts = std::function<void(const std::vector<std::string>&)>;
CLI::Option* add_text(CLI::App* command, const std::string& name, const std::string& type,
                      const TakeText& take, const std::string& help);
CLI::Option* add_texts(CLI::App* command, const std::string& name, const std::string& type,
                       const TakeTexts& take, const std::string& help);
void require(CLI::Option* option);
void make_value_optional(CLI::Option* option);
void needs(CLI::Option* option, CLI::Option* other);
void excludes(CLI::Option* option, CLI::Option* other);
// What `command --help` says instead of the usage line that CLI11 makes.
void set_usage(CLI::App* command, const std::string& line);

// A text that was wrong on the command line: thrown while it is parsed, caught in main.
struct BadArgument : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// "KEY=VALUE", to be `verb`: set. Throws BadArgument.
std::pair<std::string, std::string> split_assignment(std::string_view verb,
                                                     const std::string& text);

// Until the pool is there and, with --wait, a coordinator serves it. Without --wait only a pool
// that is just being made is waited for, and by `for_judge` a coordinator that is just being
// started; then the command itself says what it misses.
Result<> wait_for_pool(const Context& context, bool for_judge);

// Prints the message to stderr.
void complain(std::string_view text);
// Prints the error and returns the exit code it stands for.
int report(const Error& error);

// --- Looking -------------------------------------------------------------------------------------

// The pool of the context, or the copied segment if `file` is not empty. Read-only (P12).
Result<std::shared_ptr<Segment>> open_to_look(const Context& context, const std::string& file);

struct Seen {
  std::shared_ptr<const Segment> segment;
  Snapshot snapshot;
};
Result<Seen> look(const Context& context, const std::string& file);
// Why nothing is evicted or killed, and what to do; nullopt if a coordinator serves the pool, or if
// `file` says that it is a copy.
std::optional<std::string> find_judge_fault(const Segment& segment, const std::string& file);
// A copy from an earlier boot or another host has no present: its ages count from the last thing
// that happened in it.
void settle_clock(const Segment& segment, Snapshot* snapshot);

// Loaded, waited for, or loaded once.
std::vector<std::string> known_models(const std::shared_ptr<const Segment>& segment);
// "; did you mean NAME?" for a model that the pool does not know, if it knows one of a like name.
std::string hint_at_model(const std::shared_ptr<const Segment>& segment, const std::string& model);

std::string pid_text(pid_t pid);  // "-" if there is none

std::string_view liveness_text(Liveness liveness);  // "alive", "dead", "unknown"

// --- Printing ------------------------------------------------------------------------------------

void print(std::string_view text);                // to stdout
std::size_t terminal_width();                     // 0: stdout is no terminal
std::string text_or_dash(std::string_view text);  // escaped

class TextTable {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string name;
    Align align = Align::kLeft;
    bool may_shrink = false;  // is cut when the terminal is narrow
    bool keeps_end = false;   // and then at its start: an address keeps its port
    int leaves = 0;      // on a narrow terminal the column with the least number above 0 goes first
    bool wraps = false;  // the last one: goes on in the next line instead of being cut
  };
  explicit TextTable(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void add(std::vector<std::string> cells);
  // Header and rows, aligned; width 0 is unlimited. What does not fit loses first the columns in
  // which nothing stands, then length where it may shrink, then whole columns.
  std::string text(std::size_t width) const;

 private:
  std::vector<std::size_t> fit(std::size_t width) const;  // width of each column, 0: left out

  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

std::size_t display_width(std::string_view text);           // code points, not bytes
std::string cut(std::string_view text, std::size_t width);  // at most width code points
std::string cut_start(std::string_view text, std::size_t width);
// As many words of the text as have room, taken from it; a longer word goes on in the next line.
std::string take_line(std::string* text, std::size_t width);

// Colours, where stdout is a terminal that has them and NO_COLOR is not set (no-color.org).
enum class Colour { kRed, kGreen, kBold };
std::string coloured(std::string_view text, Colour colour);

// --- The commands, a file each -------------------------------------------------------------------

void add_status(CLI::App& root, Context& context);
void add_list(CLI::App& root, Context& context);
void add_workers(CLI::App& root, Context& context);
void add_metrics(CLI::App& root, Context& context);
void add_leases(CLI::App& root, Context& context);
void add_waiters(CLI::App& root, Context& context);
void add_events(CLI::App& root, Context& context);
void add_explain(CLI::App& root, Context& context);
void add_why(CLI::App& root, Context& context);
void add_dump(CLI::App& root, Context& context);
void add_check(CLI::App& root, Context& context);
void add_doctor(CLI::App& root, Context& context);
void add_set(CLI::App& root, Context& context);
void add_touch_pin(CLI::App& root, Context& context);
void add_evict(CLI::App& root, Context& context);
void add_reset(CLI::App& root, Context& context);
void add_wait(CLI::App& root, Context& context);
// COMMAND is what stands after `--` on the line.
void add_load(CLI::App& root, Context& context, const std::vector<std::string>& command);
void add_lease(CLI::App& root, Context& context, const std::vector<std::string>& command);
void add_run(CLI::App& root, Context& context, const std::vector<std::string>& command);
void add_remove(CLI::App& root, Context& context);
void add_logs(CLI::App& root, Context& context);
void add_top(CLI::App& root, Context& context);

}  // namespace modelpool::poolctl
