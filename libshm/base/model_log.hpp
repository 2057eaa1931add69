// The files that keep the output of a model's backends: NAME.log, which the backend that runs (or
// ran last) appends to, and NAME.log.1 with what was before that.
//
// NAME is the model's name, escaped; two models never share a file. A new life of the model makes
// its output so far the previous. What grows above a size is cut: its end becomes the previous, and
// the file, which the backend has open, goes on without it. A previous that was cut off the current
// is read-only, which tells the two apart.
//
// Safety: any thread. Nothing is written through a link: files are made new in a directory that is
// this user's and that not everybody may write, or are plain files of this user's with one name.
//
// Crash: a new life: killed between its renames, the model has no current file, and the next life
// makes one. A cut copies into NAME.log.new; complete, that becomes NAME.log.cut; then the file is
// cut, by one system call; then NAME.log.cut becomes NAME.log.1. Whoever finds NAME.log.cut later
// does the last step: at worst the same output then stands in both files. Without the copy nothing
// was cut.
//
// Errors: kPermission for a directory or file that is not to be written, kSystem with the reason
// (no such directory, full, read-only), kInvalid for a name that is too long.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "modelpool/result.hpp"

namespace modelpool {

// "llama-3.log". Letters, digits, "-", "_" and dots, but for the first, stand for themselves; long
// names end in two hashes.
std::string model_log_name(std::string_view model);

class ModelLog {
 public:
  // To write: the directory and those above it are made (0700) where they are missing.
  static Result<ModelLog> make(const std::string& dir, std::string_view model);
  // Of a path that somebody else says: kInvalid if no log of this model has it.
  static Result<ModelLog> open(const std::string& path, std::string_view model);
  // To look, also as root at somebody else's.
  static Result<ModelLog> look(const std::string& dir, std::string_view model);

  std::string path() const { return dir_ + "/" + name_; }
  std::string previous_path() const { return path() + ".1"; }

  // A new life: what was current is the previous. Returns the new file, to append to, above 2.
  Result<Fd> begin() const;

  // The files, to read; empty, with errno, if there is none.
  Fd read_current() const;
  Fd read_previous() const;
  // Is it the end of what was cut off the current one, and not of an earlier life?
  static bool is_cut_off(const Fd& previous);

  // What a cut that was killed left; harmless while nobody cuts.
  void finish_cut() const;
  enum class Cut { kNotDue, kDone, kDropped };  // kDropped: no room for the copy
  // Cuts the current file if it is larger. One at a time for a model: the coordinator's.
  Result<Cut> cut(std::uint64_t max_bytes) const;

 private:
  ModelLog(Fd directory, std::string dir, std::string name)
      : directory_(std::move(directory)), dir_(std::move(dir)), name_(std::move(name)) {}
  Fd open_file(const char* suffix, int flags) const;
  bool rename_to(const char* from, const char* to) const;
  void unlink_file(const char* suffix) const;
  Result<Cut> cut_in_no_room(const Fd& file, std::uint64_t max_bytes) const;

  Fd directory_;
  std::string dir_;
  std::string name_;
};

// What a backend's record says of its log: the path, or why there is none. Both empty: there was
// to be none.
struct LogNote {
  std::string path;
  std::string missing;
};
LogNote read_log_note(std::string text);

// What a terminal would act on is left out, and all else that is not printable; no line ends.
std::string printable_line(std::string_view line);

// The last lines that were written, oldest first, as printable text without line ends: at most
// `lines`, of the last 16 KiB. Empty lines are left out.
std::vector<std::string> last_lines(const ModelLog& log, std::size_t lines);

}  // namespace modelpool
