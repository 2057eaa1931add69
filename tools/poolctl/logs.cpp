// poolctl logs: what the backends of a model wrote.
#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <optional>
#include <utility>

#include "base/model_log.hpp"
#include "base/time.hpp"
#include "base/utf8.hpp"
#include "common.hpp"
#include "protocol/kept_output.hpp"
#include "stream.hpp"

namespace modelpool::poolctl {
namespace {

constexpr std::size_t kChunk_bytes = 64 * 1024;
// What says that a log was written may be missing: it is looked at so often in any case.
constexpr std::uint64_t kLookEvery_ns = 200 * kMillisecond_ns;
// Between the two steps of a cut. A coordinator that was killed there leaves the second undone.
constexpr std::uint64_t kCutMax_ns = kSecond_ns;
constexpr std::size_t kCharacterMax_bytes = 4;

struct Options {
  std::string model;
  bool follow = false;
  bool previous = false;
  std::uint64_t lines = kNever_ns;
};

struct stat status_of(const Fd& file) {
  struct stat info {};
  if (file) fstat(file.get(), &info);
  return info;
}
std::uint64_t size_of(const Fd& file) {
  return static_cast<std::uint64_t>(status_of(file).st_size);
}
bool is_same(const Fd& one, const Fd& other) {
  const struct stat a = status_of(one);
  const struct stat b = status_of(other);
  return one && other && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

// Where a file begins that has a hole before what it holds.
std::uint64_t begin_of(const Fd& file) {
  const off_t begin = lseek(file.get(), 0, SEEK_DATA);
  return begin < 0 ? 0 : static_cast<std::uint64_t>(begin);
}

std::string read_at(const Fd& file, std::uint64_t offset, std::uint64_t end) {
  std::string text(std::min<std::uint64_t>(kChunk_bytes, end - std::min(end, offset)), '\0');
  const ssize_t got = retry_eintr(
      [&] { return pread(file.get(), text.data(), text.size(), static_cast<off_t>(offset)); });
  text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return text;
}

bool ends_with_line(const Fd& file) {
  const std::uint64_t size = size_of(file);
  return size > 0 && read_at(file, size - 1, size) == "\n";
}

// The place after the `count`th end of a line, from the file's end; nothing if it has fewer: then
// `count` is how many are left to be found before it.
std::optional<std::uint64_t> after_line_end(const Fd& file, std::uint64_t* count) {
  const std::uint64_t begin = begin_of(file);
  for (std::uint64_t at = size_of(file); at > begin;) {
    const std::uint64_t from = at - std::min<std::uint64_t>(at - begin, kChunk_bytes);
    const std::string text = read_at(file, from, at);
    for (std::size_t i = text.size(); i-- > 0;) {
      if (text[i] == '\n' && --*count == 0) return from + i + 1;
    }
    at = from;
  }
  return std::nullopt;
}

// Where the last lines of a file begin.
std::uint64_t begin_of_last(const Fd& file, std::uint64_t lines) {
  std::uint64_t ends = lines + (ends_with_line(file) ? 1 : 0);
  if (ends == 0) return size_of(file);
  return after_line_end(file, &ends).value_or(begin_of(file));
}

// For a terminal nothing passes that it would act on. A character whose end has not come yet waits
// for it.
class Printer {
 public:
  explicit Printer(bool is_terminal) : is_terminal_(is_terminal) {}

  bool print(std::string_view text) {
    return is_terminal_ ? print_safely(text, false) : out_.print(text);
  }
  // Nothing more comes.
  bool finish() { return print_safely({}, true); }
  Stream& stream() { return out_; }

 private:
  bool print_safely(std::string_view text, bool is_all) {
    held_ += text;
    std::string safe;
    std::size_t at = 0;
    while (at < held_.size()) {
      const Character one = decode(held_, at);
      if (!is_all && one.bytes == 0 && is_begun(std::string_view(held_).substr(at))) break;
      safe += shown(one, at);
      at += std::max<std::size_t>(one.bytes, 1);
    }
    held_.erase(0, at);
    return out_.print(safe);
  }

  // The first bytes of a character, and nothing else.
  static bool is_begun(std::string_view text) {
    const auto first = static_cast<unsigned char>(text[0]);
    return first >= 0xc2 && first <= 0xf4 && text.size() < kCharacterMax_bytes &&
           std::all_of(text.begin() + 1, text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; });
  }

  std::string shown(Character one, std::size_t at) const {
    const char c = held_[at];
    if (c == '\n' || c == '\t' || (one.bytes != 0 && is_printable(one.code)))
      return held_.substr(at, std::max<std::size_t>(one.bytes, 1));
    if (c == '\r' && at + 1 < held_.size() && held_[at + 1] == '\n') return {};
    std::string text;
    for (std::size_t i = 0; i < std::max<std::size_t>(one.bytes, 1); ++i) {
      std::array<char, 5> hex;
      std::snprintf(hex.data(), hex.size(), "\\x%02x",
                    static_cast<unsigned>(static_cast<unsigned char>(held_[at + i])));
      text += hex.data();
    }
    return text;
  }

  bool is_terminal_;
  Stream out_;
  std::string held_;
};

// One model's output, from some place on: through what was cut off meanwhile, and into new lives.
class Reader {
 public:
  Reader(const ModelLog& log, Printer* out)
      : log_(log), out_(out), current_(log.read_current()), previous_(log.read_previous()) {}

  bool has_any() const { return static_cast<bool>(current_); }

  // Prints what there is of this life; of its last lines only, if so many are asked for.
  bool print_this_life(std::uint64_t lines) {
    bool begins_before = previous_ && ModelLog::is_cut_off(previous_);
    std::uint64_t before = begins_before ? begin_of(previous_) : 0;
    if (lines != kNever_ns) {
      std::uint64_t ends =
          lines + (ends_with_line(size_of(current_) > 0 ? current_ : previous_) ? 1 : 0);
      if (ends == 0) {
        offset_ = size_of(current_);
        begins_before = false;
      } else if (const auto at = after_line_end(current_, &ends)) {
        offset_ = *at;
        begins_before = false;
      } else if (begins_before) {
        before = after_line_end(previous_, &ends).value_or(before);
      }
    }
    return (!begins_before || print(previous_, &before, size_of(previous_))) &&
           print(current_, &offset_, UINT64_MAX);
  }

  // What is new. False: nobody reads.
  bool go_on() {
    const Fd now_previous = log_.read_previous();
    if (now_previous && !is_same(now_previous, previous_)) {
      if (is_same(now_previous, current_)) {  // a new life: this was all of the one before
        if (!print(current_, &offset_, UINT64_MAX)) return false;
        current_ = Fd();
      } else if (ModelLog::is_cut_off(now_previous)) {
        if (!print_cut_off(now_previous)) return false;
      }
      previous_ = log_.read_previous();
      if (!is_same(previous_, now_previous)) return true;  // once more
      shrunk_ns_ = 0;
    }
    if (const Fd now = log_.read_current(); now && !is_same(now, current_)) {
      if (current_ && !print(current_, &offset_, UINT64_MAX)) return false;
      current_ = log_.read_current();
      offset_ = 0;
    }
    if (!current_) return true;
    if (size_of(current_) < offset_) return wait_for_cut();
    return print(current_, &offset_, UINT64_MAX);
  }

 private:
  // The copy has everything at the offset it had; where it ends the file begins now.
  bool print_cut_off(const Fd& copy) {
    const std::uint64_t end = size_of(copy);
    if (offset_ < end) {
      offset_ = std::max(offset_, begin_of(copy));
      if (!print(copy, &offset_, end)) return false;
    }
    offset_ -= std::min(offset_, end);
    return true;
  }

  // It was cut, and the copy has no name yet.
  bool wait_for_cut() {
    const std::uint64_t now = now_ns();
    if (shrunk_ns_ == 0) shrunk_ns_ = now;
    if (age_ns(now, shrunk_ns_) < kCutMax_ns) return true;
    offset_ = 0;
    shrunk_ns_ = 0;
    return print(current_, &offset_, UINT64_MAX);
  }

  bool print(const Fd& file, std::uint64_t* offset, std::uint64_t end) {
    for (;;) {
      const std::string text = read_at(file, *offset, end);
      if (text.empty()) return true;
      *offset += text.size();
      if (!out_->print(text)) return false;
    }
  }

  const ModelLog& log_;
  Printer* out_;
  Fd current_;
  Fd previous_;
  std::uint64_t offset_ = 0;
  std::uint64_t shrunk_ns_ = 0;  // since when it is shorter than what was read
};

// Readable when something in the directory was written or renamed; empty where that is not to be
// had.
Fd watch_directory(const std::string& dir) {
  Fd watch(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (watch && inotify_add_watch(watch.get(), dir.c_str(), IN_MODIFY | IN_CREATE | IN_MOVED_TO) < 0)
    watch.reset();
  return watch;
}

int follow(const ModelLog& log, const Options& options, Printer* out) {
  const std::string path = log.path();
  const Fd changes = watch_directory(path.substr(0, path.rfind('/')));
  Reader reader(log, out);
  if (!reader.print_this_life(options.lines)) return out->stream().exit_code();
  while (out->stream().has_reader() && reader.go_on()) {
    std::array<char, 4096> drained;
    if (out->stream().wait_readable(changes.get(), kLookEvery_ns)) {
      while (read(changes.get(), drained.data(), drained.size()) > 0) {
      }
    }
  }
  return out->stream().exit_code();
}

int print_previous(const ModelLog& log, const Options& options, Printer* out) {
  const Fd previous = log.read_previous();
  if (!previous || ModelLog::is_cut_off(previous)) {
    complain("unable to show earlier output of " + escape(options.model) + ": " +
             (previous ? "what is kept before is of the same life; leave out --previous"
                       : "there is none in " + escape(log.previous_path())));
    return kNo;
  }
  std::uint64_t offset =
      options.lines == kNever_ns ? begin_of(previous) : begin_of_last(previous, options.lines);
  for (std::string text; !(text = read_at(previous, offset, UINT64_MAX)).empty();) {
    offset += text.size();
    if (!out->print(text)) break;
  }
  out->finish();
  return out->stream().exit_code();
}

// The newest backend of that model that the pool still knows.
const BackendView* find_last(const Snapshot& snapshot, const std::string& model) {
  const BackendView* last = nullptr;
  for (const BackendView& b : snapshot.backends) {
    if (b.model == model && (last == nullptr || b.reserved_ns > last->reserved_ns)) last = &b;
  }
  return last;
}

int refuse(const std::string& model, const std::string& why) {
  complain("unable to show the output of " + escape(model) + ": " + why);
  return kNo;
}

int show(const Context& context, const Options& options) {
  if (context.json) {
    complain("unable to print output as json: it is what backends wrote; leave out -o json");
    return kWrongUsage;
  }
  const auto seen = look(context, "");
  if (!seen) return report(seen.error());
  const BackendView* const backend = find_last(seen->snapshot, options.model);
  std::string dir;
  if (backend != nullptr && !backend->log.empty()) {
    dir = backend->log.substr(0, backend->log.rfind('/'));
  } else {
    if (backend != nullptr && !backend->log_missing.empty())
      return refuse(options.model, "it is not kept: " + backend->log_missing);
    dir = log_dir_of(*seen->segment);
    if (dir.empty()) return refuse(options.model, "none is kept, log_dir is off");
  }
  const std::string none =
      "there is none in " + escape(dir + "/" + model_log_name(options.model)) +
      (backend != nullptr && backend->live() ? "; its loader may have sent it elsewhere"
                                             : hint_at_model(seen->segment, options.model));
  const auto log = ModelLog::look(dir, options.model);
  if (!log) return refuse(options.model, log.error().system == ENOENT ? none : log.error().text);
  Printer out(isatty(STDOUT_FILENO) == 1);
  if (options.previous) return print_previous(*log, options, &out);
  const Fd current = log->read_current();
  if (!current) {
    return refuse(
        options.model,
        errno == ENOENT ? none : fail_errno(errno, "open " + escape(log->path())).value().text);
  }
  if (options.follow) return follow(*log, options, &out);
  if (Reader(*log, &out).print_this_life(options.lines)) out.finish();
  return out.stream().exit_code();
}

}  // namespace

void add_logs(CLI::App& root, Context& context) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = add_command(
      root, context, "logs", "What the backend of a model wrote",
      "Of the one that runs or ran last, also of a load that failed; as far as it is kept "
      "(log_dir\n"
      "and log_max, poolctl set). On a terminal, what that would act on is shown as \\xNN.\n"
      "--follow goes on over the next lives of the model, and ends with 0 on Ctrl-C, SIGTERM or\n"
      "when nobody reads its output.\n\n"
      "Examples:\n"
      "  poolctl logs llama-3-8b -n 20\n"
      "  poolctl logs llama-3-8b --follow\n"
      "  poolctl logs llama-3-8b --previous | grep -i error\n",
      [&context, options] { return show(context, *options); });
  add_model(command, &options->model);
  CLI::Option* follows =
      add_flag(command, "-f,--follow", &options->follow, "Go on as it writes more");
  excludes(add_flag(command, "--previous", &options->previous, "Of the life before"), follows);
  add_count(command, "-n,--lines", &options->lines, kNever_ns - 1, "Only the last N lines");
}

}  // namespace modelpool::poolctl
