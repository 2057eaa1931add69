// Carries decisions out, and nothing else: transitions, signals, records. Before anything that
// cannot be taken back it reads the evidence again (P2).
//
// Safety: one thread, the one that holds the pool's singleton lock.
//
// Crash: what a stop is for is written (StopRecord) before STOPPING, so the next coordinator goes
// on with it (P10). An event may be written twice, never lost.
//
// Errors: an action that finds the world changed does nothing; the next scan decides anew.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/exit_words.hpp"
#include "judge/decide.hpp"
#include "lock_try.hpp"
#include "output_keeper.hpp"
#include "policy/rules.hpp"
#include "pressure.hpp"
#include "probes.hpp"
#include "protocol/histories.hpp"
#include "record.hpp"
#include "stopper.hpp"
#include "watch.hpp"

namespace modelpool::coordinator {

// Did something change, so that it is worth looking again at once?
using Changed = bool;

class Enforcer {
 public:
  Enforcer(std::shared_ptr<Segment> segment, std::uint32_t epoch, Watch* watch, Stopper* stopper,
           Recorder* recorder, OutputKeeper* output, Probes* probes = nullptr,
           const PressureWatch* pressure = nullptr);

  // Numbers and flags of backends that count their leases are those of the settings in force.
  // Before anybody is told of a change.
  void settle_counted_backends(const Snapshot& snapshot);
  Changed carry_out(const Decision& decision, const Snapshot& snapshot);
  // Does nothing but look where a decision that is due in a moment will make it look: what comes
  // out of cold caches then does not hold up the signal.
  void rehearse(const Decision& decision, const Snapshot& snapshot) const;
  // Something could not be done (the mutex was taken, or no descriptors were left): try again then.
  std::uint64_t retry_ns() const { return retry_ns_; }
  // Models whose load, since the last call, ran out of memory for the first time in a row.
  std::vector<std::string> take_short_loads() { return std::exchange(short_loads_, {}); }
  // What an earlier coordinator left: rows of workers that executed another program since.
  void examine_after_restart(const Snapshot& snapshot);

 private:
  Changed carry_out(const Action& action, const Snapshot& snapshot);
  Changed close(const Action& action, const BackendView& b, const Snapshot& snapshot);
  bool close_slot(const Action& action, const BackendView& b);
  Changed commit(const Action& action, const BackendView& b, const Snapshot& snapshot);
  Changed end_together(std::size_t set, const Decision& decision, const Snapshot& snapshot);
  bool is_leased(const Action& action, const BackendView& b) const;
  bool is_still_true(const Action& action, const BackendView& b, const Snapshot& snapshot);
  Changed stop(const StopRecord& why, const BackendView& b);
  Changed stop_or_take_back(const Action& action, const BackendView& b, const Snapshot& snapshot,
                            bool was_ready);
  Fresh look_again(const StopRecord& why, const BackendView& b, const Snapshot& snapshot);
  bool waiter_is_there(std::uint64_t arrival, const Snapshot& snapshot);
  Changed open_again(const BackendView& b);
  Changed lose(const Action& action, const BackendView& b, const Snapshot& snapshot);
  Changed finish(const BackendView& b);
  void register_named_devices(const Snapshot& snapshot);
  Changed settle(const BackendView& b);
  void raise_baselines(const BackendView& gone);
  void settle_pins(const Snapshot& snapshot);
  void note_when_ended(const BackendView& b);
  void remember_size(const BackendView& b);
  void remember(const BackendView& b);
  void write_ends();
  Changed free(const BackendView& b);
  void watch_memory(const Snapshot& snapshot);
  void note_if_short(const BackendView& b, const LoadHistory& history);
  void end_cooldown(const std::string& model);
  void say_how_it_ended(const BackendView& b, StopRecord* stop);
  std::vector<std::string> last_lines(const BackendView& b);
  Changed record_load(const BackendView& b);
  Changed record_end(const BackendView& b);
  Changed reap(WorkerRef worker, const Snapshot& snapshot);
  bool has_left(const WorkerView& worker) const;
  // Declares the worker dead if it has ended or executed another program; returns whether it has.
  bool declare_dead_if_left(std::uint32_t worker, const Snapshot& snapshot);
  Changed ask_to_end(const Action& action, const BackendView& b, const Snapshot& snapshot);
  Changed examine_holders(const Snapshot& snapshot);
  void retry_soon();

  std::shared_ptr<Segment> segment_;
  LockTry lock_;
  std::uint32_t epoch_;
  Watch* watch_;
  Stopper* stopper_;
  Recorder* recorder_;
  OutputKeeper* output_;           // null: nobody's output is read
  Probes* probes_;                 // null: nobody is probed
  const PressureWatch* pressure_;  // null: nobody goes for it
  std::uint64_t retry_ns_ = kNever_ns;
  bool is_unsettled_ = false;  // the mutex could not be had for it
  std::uint32_t live_at_scan_ = 0;
  std::uint64_t devices_of_ = 0;  // generation of the settings whose devices are registered
  std::vector<std::pair<std::string, BackendEnd>> unwritten_ends_;  // of models
  std::map<std::uint64_t, MemoryKills> before_loads_;               // by packed reference
  std::vector<std::string> short_loads_;
  struct Examined {
    std::uint32_t generation = 0;
    std::uint64_t when_ns = 0;
  };
  std::vector<Examined>
      examined_;  // by worker row: when it was seen to have its segment, or first to hold
};

}  // namespace modelpool::coordinator
