// The coordinator: snapshot -> decide -> enforce, when something has happened or something is due.
//
// One thread, one epoll set: signals, the next deadline, the doorbell, ended processes, the
// supervisor's watchdog, the segment's name. Two helper threads do what cannot wait in it: one
// turns the doorbell's futex into an event, one ends processes (ending.hpp). What the system has
// run out of (threads, timers, inotify instances) is done without: the loop looks by time instead.
//
// Safety: run() from one thread. Exactly one Loop per pool, on a lock of the segment's own
// descriptor.
//
// Crash: every fact is in the segment; the next coordinator continues (P10).
//
// Errors: an operational error is logged and its work tried again later; the loop does not end by
// it.
#pragma once

#include <memory>
#include <vector>

#include "doorbell.hpp"
#include "enforce.hpp"
#include "lock_try.hpp"
#include "name_watch.hpp"
#include "notify.hpp"
#include "options.hpp"
#include "output_keeper.hpp"
#include "pressure.hpp"
#include "probes.hpp"
#include "sampler.hpp"
#include "standstill.hpp"

namespace modelpool::coordinator {

class Loop {
 public:
  // Attaches, takes the singleton lock, applies the config. What an earlier pool of this name has
  // left is ended first, by serving it to its end. Errors: kBusy naming the coordinator that is
  // there already, and those of Segment::attach.
  static Result<std::unique_ptr<Loop>> make(const Options& options, const Settings& settings,
                                            Notifier notifier);
  ~Loop();

  // Until a signal or the loss of the pool's name ends it. Returns the exit code: kExitFinding if
  // the pool has lost its name, so that a supervisor starts the next one, or if backends were
  // abandoned.
  int run();

 private:
  enum class Ending { kNo, kLeave, kStopBackends, kReplaced };

  Loop(const Options& options, Notifier notifier, std::shared_ptr<Segment> segment, Fd singleton);
  Result<> set_up();
  Result<> watch(int fd, std::uint32_t events);
  void become_coordinator();
  void apply(const Settings& settings, const PoolSettings& found);
  void warn_of_other_capacities() const;
  void publish_pending();
  void remember_settings(const Snapshot& snapshot);
  void note_settings(const Snapshot& snapshot);
  std::uint64_t scan();
  void begin_scan();
  bool reap();
  void handle_signals();
  void handle_end_signal(int signal);
  void cut_short();
  void check_name();
  void watch_name();
  void warn_of_degraded_name() const;
  void lose_name();
  void regain_name();
  void reload();
  void note_config(bool is_taken);
  void log_table();
  void leave();
  void reopen_closed();
  std::string still_running() const;
  void note_lateness();
  void wait_until(std::uint64_t wake_ns);
  void take_events(int timeout_ms);
  void measure(const Snapshot& snapshot);
  void feed_watchdog();
  void tell_status(const Snapshot& snapshot);

  Options options_;
  Notifier notifier_;
  std::shared_ptr<Segment> segment_;
  Fd singleton_;
  std::uint32_t epoch_ = 0;
  LockTry lock_;
  SnapshotReader reader_;
  Recorder recorder_;
  std::unique_ptr<Watch> watch_;
  std::unique_ptr<Endings> endings_;
  std::unique_ptr<Stopper> stopper_;
  std::unique_ptr<OutputKeeper> output_;
  std::unique_ptr<Probes> probes_;
  std::unique_ptr<Sampler> sampler_;
  std::uint64_t baselines_from_ns_ = 0;  // as in DeviceFacts
  PressureWatch pressure_;
  std::unique_ptr<Enforcer> enforcer_;
  std::unique_ptr<Doorbell> doorbell_;
  std::unique_ptr<NameWatch> name_;
  StandstillWatch standstill_;

  Fd epoll_;
  Fd signals_;
  Fd timer_;  // empty: there was none to be had
  std::uint64_t name_checked_ns_ = 0;
  std::uint64_t watchdog_due_ns_ = kNever_ns;

  Ending ending_ = Ending::kNo;
  int end_signals_ = 0;                // since the backends are being stopped
  bool abandoned_ = false;             // left while backends were still to be stopped
  bool unlooked_ = false;              // something happened after the last scan
  bool has_children_ = true;           // somebody may have to be reaped
  bool misses_settings_ = false;       // the pool uses some that are not known here
  std::uint64_t again_ns_;             // after so many scans in a row it waits for so long
  std::uint64_t due_ns_ = kNever_ns;   // the next deadline that it knows of
  std::unique_ptr<Settings> pending_;  // to be published when the mutex can be had
  PoolSettings pending_since_;         // what held when that was decided
  std::shared_ptr<const PoolSettings> settings_before_;  // of the last scan, and its rules
  std::uint64_t rules_before_ = 0;
  std::string status_;
};

}  // namespace modelpool::coordinator
