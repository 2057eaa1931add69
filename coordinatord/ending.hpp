// Ends whole backends: every process of each gets its signal, until none is left (P7, P9).
//
// /proc is read on a thread of its own, so that a slow look delays nobody's deadline. The thread
// sleeps until an order comes or a process it knows has ended; it looks again by time only while it
// owes somebody a signal or cannot tell who somebody is, and more and more seldom while that
// changes nothing. One look at /proc serves all backends that are due. Who belongs to a backend:
// see members.hpp.
//
// Members are learned before their backend is ended, while its first process lives (learn), because
// what has left the session and dropped the token is known by its parent alone. They are recorded
// in the segment before any of them gets a signal: after that, nobody could find them again.
//
// Safety: public functions from one thread. Its thread alone writes BackendRecord::known.
//
// Crash: the next coordinator goes by what is recorded, learns anew, and orders the same from the
// stop records.
//
// Errors: what cannot be signalled is reported with the reason and tried again.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "bell.hpp"
#include "helper.hpp"
#include "protocol/members.hpp"

namespace modelpool::coordinator {

struct EndingOrder {
  BackendRef backend;
  Target target;
  ProcessHandle first;           // of its first process, also when it has ended; may be none
  int signal = 0;                // 0 = only watch
  bool first_signalled = false;  // the first process has had it already
};

// What has been found and done: the newest facts about one backend.
struct EndingReport {
  BackendRef backend;
  int signal = 0;             // the one that was ordered last
  std::uint64_t sent_ns = 0;  // when it first reached a process of the backend; 0: none yet
  bool has_vanished = false;
  std::vector<LeftProcess> left;  // who stands in the way, or is there a second after the order
};

class Endings {
 public:
  static Result<std::unique_ptr<Endings>> make(std::shared_ptr<Segment> segment);
  ~Endings();

  // Its thread. Errors: why there is none; then look_again_ns() does its work for it.
  Result<> start();
  // Without a thread: does what is due, tries for one again, and says when to call it next. Else
  // kNever_ns.
  std::uint64_t look_again_ns(std::uint64_t now_ns);

  void learn(BackendRef backend, Target target, ProcessHandle first);
  std::uint64_t learned_ns(BackendRef backend) const;  // when that was last done; 0: not yet
  void order(EndingOrder order);
  // Somebody may be signalled now who was spared: a worker has left.
  void look_again();
  // A backend that is gone is watched no longer.
  void forget(BackendRef backend);

  int fd() const { return report_bell_.fd(); }  // readable when there are reports
  std::vector<EndingReport> take_reports();     // of the backends about which there is news

 private:
  struct Watched {
    explicit Watched(Target target) : members(std::move(target)) {}
    Members members;
    bool is_ordered = false;
    bool has_signalled = false;  // for this order: everyone who could be found before was
    bool first_signalled = false;
    bool is_due = true;                  // to be looked at now
    std::uint64_t again_ns = kNever_ns;  // and then, though nobody has ended
    std::uint64_t looked_ns = 0;
    std::uint64_t ordered_ns = 0;
    bool is_woken = false;                  // this look was not made by time alone
    bool has_found = false;                 // this look, or the signals after it, changed something
    std::uint64_t vain_since_ns = 0;        // looks by time change nothing
    std::vector<ProcessIdentity> recorded;  // in the segment: its members, as far as they are known
    EndingReport report;
  };
  struct Command {
    enum class Kind { kLearn, kOrder, kLookAgain, kForget } kind = Kind::kForget;
    EndingOrder order;
  };

  Endings(std::shared_ptr<Segment> segment, Bell work_bell, Bell report_bell);
  void run();
  // Does what is due, then waits until something else is, at most so long. False: it is to end.
  bool pass(std::uint64_t wait_max_ns);
  void wait(std::uint64_t wait_max_ns);
  bool take_commands();  // false: stop
  void obey(Command command);
  std::vector<Watched*> find_due(bool is_ordered);
  std::vector<Members::Request> look_at(const std::vector<Watched*>& all);
  void learn_some();
  void end_all();
  bool end_members(Watched* watched, const Members::Request& request, int pass);
  void finish_look(Watched* watched);
  void look_for_left(Watched* watched);
  void record_known(Watched* watched) const;
  void report(Watched* watched);
  static std::uint64_t next_look_ns(const Watched& watched);
  static bool is_due(const Watched& watched, std::uint64_t now_ns);

  std::shared_ptr<Segment> segment_;
  Bell work_bell_;
  Bell report_bell_;
  mutable std::mutex mutex_;  // guards what is below, down to stop_
  std::vector<Command> commands_;
  std::map<std::uint64_t, EndingReport> reports_;      // by packed reference
  std::map<std::uint64_t, std::uint64_t> learned_ns_;  // by packed reference
  bool stop_ = false;
  Helper helper_;
  // The thread's, or while there is none the owner's.
  ProcessTable table_;
  std::map<std::uint64_t, Watched> all_;  // by packed reference
};

}  // namespace modelpool::coordinator
