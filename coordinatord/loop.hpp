// The coordinator: snapshot -> decide -> enforce, when something has happened or something is due.
//
// One thread, one epoll set: signals, the next deadline, the doorbell, ended processes, the
// supervisor's watchdog, the segment's name. Two helper threads do what cannot wait in it: one turns
// the doorbell's futex into an event, one reads /proc for process groups.
//
// Safety: run() from one thread. Exactly one Loop per pool, on a lock of the segment's own descriptor.
//
// Crash: every fact is in the segment; the next coordinator continues (P10).
//
// Errors: an operational error is logged and its work tried again later; the loop does not end by it.
#pragma once

#include <functional>
#include <memory>
#include <thread>

#include "enforce.hpp"
#include "notify.hpp"
#include "options.hpp"

namespace modelpool::coordinator {

class Loop {
 public:
  // Attaches, takes the singleton lock, applies the config. Errors: kBusy naming the coordinator
  // that is there already, and those of Segment::attach.
  static Result<std::unique_ptr<Loop>> make(const Options& options, const Settings& settings,
                                            Notifier notifier);
  ~Loop();

  // Until a signal or the loss of the pool's name ends it. Returns the exit code.
  int run();

 private:
  enum class Ending { kNo, kLeave, kStopBackends, kReplaced };

  Loop(const Options& options, Notifier notifier, std::shared_ptr<Segment> segment, Fd singleton);
  Result<> set_up();
  void become_coordinator();
  void apply(const Settings& settings, const Settings& found);
  void warn_of_other_capacities() const;
  void publish_pending();
  std::uint64_t scan();
  void handle_signals();
  bool name_is_lost() const;
  void reload();
  void log_table();
  void leave();
  void wait_until(std::uint64_t wake_ns);
  void tell_status(const Snapshot& snapshot);

  Options options_;
  Notifier notifier_;
  std::shared_ptr<Segment> segment_;
  Fd singleton_;
  std::uint32_t epoch_ = 0;
  SnapshotReader reader_;
  Recorder recorder_;
  std::unique_ptr<Watch> watch_;
  std::unique_ptr<Groups> groups_;
  std::unique_ptr<Enforcer> enforcer_;

  Fd epoll_;
  Fd signals_;
  Fd timer_;
  Fd watchdog_;
  Fd bell_;  // an eventfd that the doorbell thread writes
  Fd name_;  // an inotify watch on the segment's file
  std::thread doorbell_;
  std::atomic<bool> doorbell_stop_{false};

  Ending ending_ = Ending::kNo;
  bool unlooked_ = false;                            // something happened after the last scan
  std::unique_ptr<Settings> pending_;                // to be published when the mutex can be had
  Settings pending_since_;                           // what held when that was decided
  std::shared_ptr<const Settings> settings_before_;  // of the last scan
  std::string status_;
};

}  // namespace modelpool::coordinator
