// Stops of backends: from the decision to signals, and from what was done back into the records
// (P9, P11).
//
// A stop record says what is meant (why, since when) and what has happened (which signal has
// reached a process, and when). The second is written only when it has happened.
//
// Safety: one thread, the loop's.
//
// Crash: a signal that was sent and not yet recorded is sent again by the next coordinator: twice,
// never not at all.
//
// Errors: who cannot be ended is named, in the record and in the log.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "ending.hpp"
#include "judge/decide.hpp"
#include "watch.hpp"

namespace modelpool::coordinator {

class Stopper {
 public:
  Stopper(std::shared_ptr<Segment> segment, Watch* watch, Endings* endings);

  // Writes down what has been done since the last call. Before a snapshot is read that shows it.
  void take_reports();
  const std::vector<BackendRef>& vanished() const { return vanished_; }  // by the last take_reports

  // What is not decided but has to be seen to: processes that ended, members to be learned, stops
  // that an earlier coordinator began, whoever stands in the way.
  void look_after(const Snapshot& snapshot);
  // A stop may be due in a moment: its members are learned now.
  void prepare(const BackendView& b) const;
  // The signal of a stop. False: it is under way already.
  bool send(const Action& action, const BackendView& b);
  // It does not die, or nobody of it may be signalled.
  void mark_overdue(const BackendView& b);
  void forget(BackendRef backend);

 private:
  Target target_of(const BackendView& b) const;
  std::uint64_t alive_ticks_of(const BackendView& b) const;
  bool is_endable(const BackendView& b) const;
  void note_end(const BackendView& b);
  void learn(const BackendView& b, std::uint64_t now);
  void name_left(const BackendView& b);
  void order(const BackendView& b, int signal, bool first_signalled);
  void stamp(BackendRef backend, int signal, std::uint64_t sent_ns);

  std::shared_ptr<Segment> segment_;
  Watch* watch_;
  Endings* endings_;
  std::vector<BackendRef> vanished_;
  std::vector<WorkerRef> workers_;        // at the last scan
  std::map<std::uint64_t, int> ordered_;  // by packed reference: the signal ordered last
  std::map<std::uint64_t, std::uint64_t>
      learned_;                    // by packed reference: when that was last asked for
  std::set<std::uint64_t> named_;  // by packed reference: what is in its way was told
  // When an earlier coordinator last looked: what it had not seen to end lived then.
  std::uint64_t earlier_scan_ns_ = 0;
  std::uint64_t earlier_scan_ticks_ = 0;
};

}  // namespace modelpool::coordinator
