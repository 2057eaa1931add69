// A process that ptrace takes through its code, place by place, and kills at one of them.
//
// A place is where a SIGKILL can make a difference. Either every instruction; or, what leaves the
// same things behind for less, every instruction that stores to the segment and both sides of every
// system call. For the latter the victim runs at full speed with the segment mapped read-only: a
// store faults, and the instruction that faulted is stepped over with the mapping writable. Of two
// such places with neither a store nor a call between them only the first counts: they are one.
//
// A loop that fills an unread copy word by word is one store many times: of its rounds in a row the
// first 8 are places (one, if the victim goes on), then only those whose number is a power of two.
// The same holds for calls in a row that only look, as those of a walk through /proc: a host of
// thousands of processes has no more places than an empty one. Of a victim that starts no processes
// they are none at all: what is found there is what is found at the call before or after them.
//
// The stores of all its threads count, and the calls of its main thread. Helper threads mostly
// look: of their calls those count that reach another process. A child that it starts is not
// traced; or, if asked for, the child's calls are the places until it executes a program, and only
// those: it writes nothing to the segment.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>

namespace modelpool::test {

enum class Places {
  kEveryInstruction,
  kStoresAndSystemCalls,
  kBothSidesOfStores,  // for a victim that goes on: what it reads next may have changed
};

enum class PlacesOf {
  kVictim,
  kItsChild,
  kItsChildFirst,  // the same; its parent stands still until the child waits for it
};

// Called in the victim: it stops here for its tracer.
void mark();

class Victim {
 public:
  // Forks a process that runs `body`, and traces it. One that starts no processes is faster.
  Victim(const std::string& segment_path, const std::function<void()>& body,
         PlacesOf places_of = PlacesOf::kVictim, bool starts_processes = true);
  ~Victim();
  Victim(const Victim&) = delete;
  Victim& operator=(const Victim&) = delete;

  pid_t pid() const { return pid_; }
  enum class Stop { kPlace, kMark, kQuiet, kEnded };
  // At full speed to the next mark().
  Stop run_to_mark();
  // From here on places are of this kind. Call it at a mark.
  void choose(Places places);
  // To the next place; kQuiet if none was reached for so long.
  Stop next_place(std::chrono::nanoseconds patience);
  // To the next mark at full speed, places count no longer; kQuiet as above.
  Stop run_on(std::chrono::nanoseconds patience);
  // SIGKILL right here, and reaped.
  void kill_here();
  // The same to its child alone, or to it alone while the child stands still; the other goes on.
  void kill_child();
  void kill_parent();
  // For people: what it is about to do, or how it ended.
  std::string where() const;

 private:
  enum class At { kNothing, kStore, kStored, kEnterCall, kLeaveCall, kInstruction };
  void resume(pid_t thread);
  Stop wait(std::chrono::nanoseconds patience);
  std::optional<Stop> meaning_of(pid_t thread, int status);
  Stop place(pid_t thread, At at);
  bool is_thread(pid_t id) const;
  bool is_main(pid_t thread) const { return thread == (of_child_ ? child_ : pid_); }
  void let_child_go();
  void stop();
  void single_step(pid_t thread);
  void step_over_store(pid_t thread);
  bool is_one_round_more(pid_t thread);
  bool is_one_look_more(pid_t thread);
  void find_mapping();
  void protect(bool read_only);
  void protect(std::uint64_t begin, std::uint64_t size, bool read_only);

  std::string segment_path_;
  pid_t pid_ = -1;
  bool of_child_ = false;  // the places are those of its child
  bool child_first_ = false;
  pid_t held_ = 0;           // the thread that has made the child, while it stands still
  bool looks_pass_ = false;  // calls that only look do not stop
  pid_t child_ = 0;          // while it is traced
  bool executed_ = false;    // the child, just now
  bool ended_ = false;
  int status_ = 0;
  std::map<pid_t, int> threads_;  // and the signal each is to get when it goes on
  std::set<pid_t> in_call_;       // threads that the filter has stopped before a call
  pid_t here_ = 0;                // the thread that has stopped at a place
  At at_ = At::kNothing;
  bool counting_ = false;
  Places places_ = Places::kStoresAndSystemCalls;
  std::uint64_t begin_ = 0;  // of the segment's mapping in the victim; 0: not mapped
  std::uint64_t size_ = 0;
  bool read_only_ = false;
  std::uint64_t stores_to_ = 0;  // where the store that faulted goes
  bool changed_ = true;          // something, since the last place
  std::uint64_t stored_at_ = 0;  // the instruction that stored last, and how often in a row
  std::uint64_t rounds_ = 0;
  std::uint64_t looks_ = 0;  // calls in a row that only look
};

}  // namespace modelpool::test
