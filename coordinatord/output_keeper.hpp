// Cuts the output of backends that grows above log_max, and reads its end for whoever is told why a
// load failed.
//
// All of it on a thread: a file system that hangs holds up no decision. A file that does not grow
// is not looked at: inotify says once that it was written, and from then on it is looked at each
// second until it rests. Where the kernel has no room for that, each second.
//
// Safety: one owner, but last_lines(), which may be called wherever that is; the thread ends with
// it. What is cut is a file of this user's, under the name of the model (model_log.hpp), whatever
// the segment says.
//
// Crash: as model_log.hpp says; the next coordinator's thread ends a cut that was begun.
//
// Errors: told by warn_of(): a log that is not this user's to cut, once; others while they last.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/guarded.hpp"
#include "base/model_log.hpp"
#include "bell.hpp"
#include "helper.hpp"
#include "protocol/snapshot.hpp"

namespace modelpool::coordinator {

class OutputKeeper {
 public:
  static Result<std::unique_ptr<OutputKeeper>> make();
  ~OutputKeeper();

  // Which backends there are, and the size above which a log is cut (0: none is). At each scan.
  void look_after(const Snapshot& snapshot, std::uint64_t max_bytes);
  // The last lines of a model's output, oldest first. Waits for them for a moment; none then.
  std::vector<std::string> last_lines(const std::string& path, const std::string& model,
                                      std::size_t lines);

 private:
  struct Log {
    std::uint64_t backend = 0;  // packed reference
    std::string path;
    std::string model;
  };
  struct Orders {
    std::vector<Log> logs;
    std::uint64_t max_bytes = 0;
    bool is_new = false;
    bool stop = false;
    // A question for the last lines, and its answer.
    std::uint64_t asked = 0;
    std::uint64_t answered = 0;
    Log question;
    std::size_t lines = 0;
    std::vector<std::string> answer;
  };
  // The thread's own.
  struct Watched {
    Log log;
    std::uint64_t size = 0;
    int watch = -1;  // of inotify: it rests
    bool is_begun = false;
    bool is_left_alone = false;
  };

  OutputKeeper(Bell bell, Fd inotify) : bell_(std::move(bell)), inotify_(std::move(inotify)) {}
  bool is_running();  // starts it if there is none
  void run();
  bool take_orders();  // false: to end
  void answer();
  void take_changes();
  bool look_at(Watched* watched) const;  // does it grow?
  void rest(Watched* watched) const;

  Bell bell_;
  Fd inotify_;
  std::uint64_t told_ = 0;  // hash of what the thread was told last
  Helper helper_;

  Mutex mutex_;
  std::condition_variable_any answered_;
  Orders orders_ MODELPOOL_GUARDED_BY(mutex_);

  std::vector<Watched> watched_;
  std::uint64_t max_bytes_ = 0;
};

}  // namespace modelpool::coordinator
