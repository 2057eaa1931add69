#include "base/model_log.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "base/shortage.hpp"
#include "base/text.hpp"
#include "base/user.hpp"
#include "base/utf8.hpp"

namespace modelpool {
namespace {

constexpr char kCurrent[] = "";
constexpr char kPrevious[] = ".1";
constexpr char kNew[] = ".new";
constexpr char kCut[] = ".cut";

constexpr std::size_t kNameMax_bytes = 200;
constexpr std::size_t kNameStart_bytes = 150;  // of a longer one
constexpr std::size_t kCopyStep_bytes = 256 * 1024;
constexpr int kCatchUpMax = 4;  // rounds in which a cut follows the writer
constexpr std::size_t kTail_bytes = 16 * 1024;
constexpr mode_t kCutOffMode = 0400;

constexpr int kPlain = O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK;

bool stands_for_itself(char c, bool is_first) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '_' || (c == '.' && !is_first);
}

// FNV-1a: names of files outlast this build.
std::uint64_t hash_of(std::string_view text, std::uint64_t seed) {
  std::uint64_t hash = seed;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

std::string hex(std::uint64_t value) {
  std::array<char, 17> digits;
  std::snprintf(digits.data(), digits.size(), "%016llx", static_cast<unsigned long long>(value));
  return digits.data();
}

Result<> make_directories(const std::string& dir) {
  for (std::size_t at = dir.find('/', 1); at != std::string::npos; at = dir.find('/', at + 1)) {
    mkdir(dir.substr(0, at).c_str(), 0700);  // if it cannot be, the next one says so
  }
  if (mkdir(dir.c_str(), 0700) == 0 || errno == EEXIST) return {};
  return fail_errno(errno, "make the log directory " + escape(dir),
                    shortage_advice(Needs::kDescriptor, errno));
}

Result<Fd> open_directory(const std::string& dir, bool to_write) {
  Fd directory = open_above_stdio(AT_FDCWD, dir.c_str(),
                                  O_RDONLY | O_DIRECTORY | O_CLOEXEC | (to_write ? O_NOFOLLOW : 0));
  const std::string what = "use the log directory " + escape(dir);
  struct stat link {};
  if (!directory && errno == ENOTDIR && lstat(dir.c_str(), &link) == 0 && S_ISLNK(link.st_mode)) {
    return fail(Errc::kPermission,
                "unable to " + what + ": it is a link; name the directory that it leads to");
  }
  if (!directory) return fail_errno(errno, what, shortage_advice(Needs::kDescriptor, errno));
  if (!to_write) return directory;
  struct stat info {};
  if (fstat(directory.get(), &info) != 0) return fail_errno(errno, what);
  if (info.st_uid != geteuid()) {
    return fail(Errc::kPermission, "unable to " + what + ": it belongs to " +
                                       user_name(info.st_uid) + ", not to " + user_name(geteuid()) +
                                       "; name another as log_dir");
  }
  if ((info.st_mode & S_IWOTH) != 0) {
    return fail(Errc::kPermission,
                "unable to " + what + ": everybody may write it; chmod o-w, or name another");
  }
  return directory;
}

bool copy_range(const Fd& from, const Fd& to, std::uint64_t begin, std::uint64_t end,
                std::vector<char>* buffer) {
  buffer->resize(kCopyStep_bytes);
  while (begin < end) {
    const std::size_t wanted = std::min<std::uint64_t>(buffer->size(), end - begin);
    const ssize_t got = retry_eintr(
        [&] { return pread(from.get(), buffer->data(), wanted, static_cast<off_t>(begin)); });
    if (got < 0) return false;
    if (got == 0) return true;  // cut by somebody else
    for (ssize_t done = 0; done < got;) {
      const ssize_t put = retry_eintr([&] {
        return pwrite(to.get(), buffer->data() + done, static_cast<std::size_t>(got - done),
                      static_cast<off_t>(begin) + done);
      });
      if (put < 0) return false;
      done += put;
    }
    begin += static_cast<std::uint64_t>(got);
  }
  return true;
}

std::uint64_t size_of(const Fd& file) {
  struct stat info {};
  return fstat(file.get(), &info) == 0 ? static_cast<std::uint64_t>(info.st_size) : 0;
}

// The last bytes of a file.
std::string tail_of(const Fd& file, std::size_t bytes) {
  std::string text(bytes, '\0');
  const std::uint64_t size = size_of(file);
  const std::uint64_t begin = size - std::min<std::uint64_t>(size, bytes);
  const ssize_t got =
      retry_eintr([&] { return pread(file.get(), text.data(), bytes, static_cast<off_t>(begin)); });
  text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return text;
}

// Where an escape sequence of a terminal ends that begins at `at`.
std::size_t end_of_sequence(std::string_view text, std::size_t at) {
  if (at + 1 >= text.size()) return text.size();
  const char kind = text[at + 1];
  if (kind == '[') {  // parameters, then one of @ to ~
    const std::size_t end = std::find_if(text.begin() + static_cast<std::ptrdiff_t>(at) + 2,
                                         text.end(), [](char c) { return c >= '@' && c <= '~'; }) -
                            text.begin();
    return std::min(end + 1, text.size());
  }
  if (kind == ']') {  // a title or a link: to BEL, or ESC and a backslash
    const std::size_t end = text.find_first_of("\x07\x1b", at + 2);
    if (end == std::string_view::npos) return text.size();
    return text[end] == '\x1b' ? std::min(end + 2, text.size()) : end + 1;
  }
  return at + 2;
}

}  // namespace

std::string model_log_name(std::string_view model) {
  std::string name;
  std::size_t start = 0;  // how much of it a long name keeps: no escape is cut
  for (std::size_t i = 0; i < model.size(); ++i) {
    if (stands_for_itself(model[i], i == 0)) {
      name += model[i];
    } else {
      std::array<char, 4> escaped;
      std::snprintf(escaped.data(), escaped.size(), "%%%02X",
                    static_cast<unsigned>(static_cast<unsigned char>(model[i])));
      name += escaped.data();
    }
    if (name.size() <= kNameStart_bytes) start = name.size();
  }
  // No escape begins with "%~".
  if (name.size() > kNameMax_bytes) {
    name = name.substr(0, start) + "%~" + hex(hash_of(model, 0xcbf29ce484222325)) +
           hex(hash_of(model, 0x9e3779b97f4a7c15));
  }
  return name + ".log";
}

Result<ModelLog> ModelLog::make(const std::string& dir, std::string_view model) {
  if (auto made = make_directories(dir); !made) return fail(made.error());
  auto directory = open_directory(dir, true);
  if (!directory) return fail(directory.error());
  return ModelLog(std::move(*directory), dir, model_log_name(model));
}

Result<ModelLog> ModelLog::open(const std::string& path, std::string_view model) {
  const std::string name = model_log_name(model);
  if (path.empty() || path[0] != '/' || !path.ends_with("/" + name)) {
    return fail(Errc::kInvalid, "unable to use " + escape(path) + " as the log of " +
                                    escape(model) + ": it has another name");
  }
  std::string dir = path.substr(0, path.size() - name.size() - 1);
  auto directory = open_directory(dir, true);
  if (!directory) return fail(directory.error());
  return ModelLog(std::move(*directory), std::move(dir), name);
}

Result<ModelLog> ModelLog::look(const std::string& dir, std::string_view model) {
  auto directory = open_directory(dir, false);
  if (!directory) return fail(directory.error());
  return ModelLog(std::move(*directory), dir, model_log_name(model));
}

Fd ModelLog::open_file(const char* suffix, int flags) const {
  return open_above_stdio(directory_.get(), (name_ + suffix).c_str(), flags | kPlain, 0600);
}

bool ModelLog::rename_to(const char* from, const char* to) const {
  return renameat(directory_.get(), (name_ + from).c_str(), directory_.get(),
                  (name_ + to).c_str()) == 0;
}

void ModelLog::unlink_file(const char* suffix) const {
  unlinkat(directory_.get(), (name_ + suffix).c_str(), 0);
}

Result<Fd> ModelLog::begin() const {
  const std::string what = "keep output in " + escape(path());
  struct stat info {};
  const bool is_there = fstatat(directory_.get(), name_.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0;
  if (is_there && S_ISREG(info.st_mode) && info.st_size == 0) {
    // Nothing was said: what is known from before stays.
    finish_cut();
    unlink_file(kCurrent);
  } else if (is_there) {
    unlink_file(kCut);
    if (!rename_to(kCurrent, kPrevious)) return fail_errno(errno, what);
  }
  unlink_file(kNew);
  Fd file = open_file(kCurrent, O_WRONLY | O_APPEND | O_CREAT | O_EXCL);
  if (!file) return fail_errno(errno, what, shortage_advice(Needs::kDescriptor, errno));
  const int flags = fcntl(file.get(), F_GETFL);
  if (flags < 0 || fcntl(file.get(), F_SETFL, flags & ~O_NONBLOCK) != 0)
    return fail_errno(errno, what);
  return file;
}

Fd ModelLog::read_current() const { return open_file(kCurrent, O_RDONLY); }
Fd ModelLog::read_previous() const { return open_file(kPrevious, O_RDONLY); }

bool ModelLog::is_cut_off(const Fd& previous) {
  struct stat info {};
  return fstat(previous.get(), &info) == 0 && (info.st_mode & 0777) == kCutOffMode;
}

void ModelLog::finish_cut() const {
  rename_to(kCut, kPrevious);
  unlink_file(kNew);
}

// Where there is no room for a copy the previous gives its own; then what is to be cut is lost.
Result<ModelLog::Cut> ModelLog::cut_in_no_room(const Fd& file, std::uint64_t max_bytes) const {
  const int error = errno;
  unlink_file(kNew);
  if (error != ENOSPC && error != EDQUOT) return fail_errno(error, "cut " + escape(path()));
  if (unlinkat(directory_.get(), (name_ + kPrevious).c_str(), 0) == 0) return cut(max_bytes);
  if (ftruncate(file.get(), 0) != 0) return fail_errno(errno, "cut " + escape(path()));
  return Cut::kDropped;
}

Result<ModelLog::Cut> ModelLog::cut(std::uint64_t max_bytes) const {
  const std::string what = "cut " + escape(path());
  const Fd file = open_file(kCurrent, O_RDWR);
  if (!file && errno == ENOENT) return Cut::kNotDue;
  if (!file) return fail_errno(errno, what, shortage_advice(Needs::kDescriptor, errno));
  struct stat info {};
  if (fstat(file.get(), &info) != 0) return fail_errno(errno, what);
  if (!S_ISREG(info.st_mode) || info.st_uid != geteuid() || info.st_nlink != 1) {
    return fail(Errc::kPermission, "unable to " + what +
                                       ": it is not a file of this user's with one name; it is "
                                       "left alone");
  }
  std::uint64_t end = static_cast<std::uint64_t>(info.st_size);
  if (end <= max_bytes) return Cut::kNotDue;

  finish_cut();
  const auto block = static_cast<std::uint64_t>(std::max<blksize_t>(info.st_blksize, 1));
  const std::uint64_t begin = (end - max_bytes) / block * block;
  // Everything keeps its offset, with a hole before it: a reader that was at some offset of the
  // file goes on at that offset of the copy, and from the copy's end at 0.
  Fd copy = open_file(kNew, O_WRONLY | O_CREAT | O_EXCL);
  std::vector<char> buffer;
  std::uint64_t copied = begin;
  const auto follow = [&](std::uint64_t to) {
    const bool done = copy_range(file, copy, copied, to, &buffer);
    if (done) copied = to;
    return done;
  };
  if (!copy || !follow(end)) return cut_in_no_room(file, max_bytes);
  for (int round = 0; round < kCatchUpMax && (end = size_of(file)) > copied; ++round) {
    if (!follow(end)) return cut_in_no_room(file, max_bytes);
  }
  if (fchmod(copy.get(), kCutOffMode) != 0) return cut_in_no_room(file, max_bytes);

  // Where the file system can take the beginning out of a file, nothing is lost of what the backend
  // writes meanwhile. Else what it writes between the last read and the cut is.
  const std::uint64_t whole = copied / block * block;
  const bool is_aligned = whole > begin && ftruncate(copy.get(), static_cast<off_t>(whole)) == 0;
  if (!rename_to(kNew, kCut)) return fail_errno(errno, what);
  if (!is_aligned ||
      fallocate(file.get(), FALLOC_FL_COLLAPSE_RANGE, 0, static_cast<off_t>(whole)) != 0) {
    copied = is_aligned ? whole : copied;
    if (!follow(size_of(file))) return cut_in_no_room(file, max_bytes);
    if (ftruncate(file.get(), 0) != 0) return fail_errno(errno, what);
  }
  if (!rename_to(kCut, kPrevious)) return fail_errno(errno, what);
  return Cut::kDone;
}

LogNote read_log_note(std::string text) {
  const bool is_path = text.starts_with('/');
  return is_path ? LogNote{std::move(text), {}} : LogNote{{}, std::move(text)};
}

std::string printable_line(std::string_view line) {
  std::string text;
  for (std::size_t at = 0; at < line.size();) {
    if (line[at] == '\x1b') {
      at = end_of_sequence(line, at);
      continue;
    }
    const Character one = decode(line, at);
    if (line[at] == '\t') {
      text += ' ';
    } else if (one.bytes != 0 && is_printable(one.code)) {
      text += line.substr(at, one.bytes);
    } else if (line[at] != '\r') {
      text += '?';
    }
    at += std::max<std::size_t>(one.bytes, 1);
  }
  return text;
}

std::vector<std::string> last_lines(const ModelLog& log, std::size_t lines) {
  std::string text;
  if (const Fd current = log.read_current()) text = tail_of(current, kTail_bytes);
  if (text.size() < kTail_bytes) {
    const Fd previous = log.read_previous();
    if (previous && ModelLog::is_cut_off(previous))
      text.insert(0, tail_of(previous, kTail_bytes - text.size()));
  }
  std::vector<std::string> found;
  for (std::size_t end = text.size(); end != std::string::npos && found.size() < lines;) {
    const std::size_t before = end == 0 ? std::string::npos : text.rfind('\n', end - 1);
    const std::size_t begin = before == std::string::npos ? 0 : before + 1;
    std::string line = printable_line(std::string_view(text).substr(begin, end - begin));
    if (line.find_first_not_of(' ') != std::string::npos) found.push_back(std::move(line));
    end = before;
  }
  std::reverse(found.begin(), found.end());
  return found;
}

}  // namespace modelpool
