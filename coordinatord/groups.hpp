// Ends whole backends: every process of the group, session or token, each through its own verified
// pidfd, until none is left (P7, P9).
//
// /proc is read on a thread of its own, so that a slow scan delays nobody's deadline. The thread
// sleeps until a job comes or a process it knows has ended. Only while it cannot tell who is left (out
// of descriptors, or a group whose number proves nothing) or owes somebody a signal that could not be
// sent, it looks again by time, see groups.cpp.
//
// Who belongs to a backend: while the number of its first process is taken (by it, alive or a zombie
// nobody has reaped, or by a living member), whoever is in its process group or session; always, whoever carries its
// MODELPOOL_BACKEND token; and whoever was once found to belong. A backend registered without a group
// is the one process.
//
// Safety: public functions from one thread.
//
// Crash: the next coordinator orders the same jobs again from the stop records.
//
// Errors: what cannot be signalled stays visible as `stopping` and is tried again.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "protocol/slots.hpp"

namespace modelpool::coordinator {

struct GroupJob {
  BackendRef backend;
  ProcessIdentity process;
  pid_t group = 0;               // 0: only the process
  std::string token;             // empty: carries none
  int signal = 0;                // to whoever is found; 0 = only watch
  bool first_signalled = false;  // the registered process has had this signal already
};

class Groups {
 public:
  static Result<std::unique_ptr<Groups>> make();
  ~Groups();

  // Its thread. Errors: why there is none; then look_again_ns() does its work for it.
  Result<> start();
  // Without a thread: does what is due, tries for one again, and says when to call it next. Else kNever_ns.
  std::uint64_t look_again_ns(std::uint64_t now_ns);

  void order(GroupJob job);
  // Never signalled, whatever group they are in: attached workers; the coordinator itself and its parent always.
  void spare(std::set<pid_t> pids);
  // A backend that has left STOPPING is not watched any longer.
  void forget(BackendRef backend);

  int fd() const { return vanished_bell_.get(); }  // readable when a backend has vanished
  std::vector<BackendRef> vanished();              // so far, and not forgotten

 private:
  struct Member {
    ProcessHandle handle;
    int signalled = 0;
  };
  struct Watched {
    GroupJob job;
    std::map<pid_t, Member> members;
    bool vanished = false;
    bool due = true;     // to be scanned now
    bool again = false;  // some time later, though nobody has ended
    int in_vain = 0;     // looks in a row that nobody's end or order asked for
    std::uint64_t scanned_ns = 0;
  };

  // When a process started. A place is free only when everyone has been asked whether they belong to
  // the backend; who is older than that can neither be in its session nor carry its token.
  struct Start {
    pid_t pid = 0;
    std::uint64_t inode = 0;  // of its directory in /proc: while it is the same, so is the process
    std::uint64_t ticks = 0;
    bool has_ended = false;             // found a zombie at an earlier look
    std::uint64_t hidden_since_ns = 0;  // without environment and arguments; 0: it was not found so
  };

  Groups(Fd work_bell, Fd vanished_bell);
  void run();
  // Waits until something is due, at most so long, and does it. False: it is to end.
  bool pass(std::uint64_t wait_max_ns);
  bool list_starts();
  // kEnded: after it was listed, perhaps, and what it forked is not listed. kHidden: it is being
  // replaced by another program, and its token is not to be read for that moment.
  enum class Belongs { kNo, kEnded, kHidden, kPerhaps, kYes };
  struct Number {         // of the group and session
    bool taken = false;   // by the registered process, alive or zombie, or a living member
    bool reused = false;  // by a process that is not the registered one
  };
  static Belongs belongs(const Watched& watched, pid_t pid, const Number& number, bool is_older);
  struct Look {
    bool whole = true;    // nobody is "perhaps"
    bool settled = true;  // nobody ended between being listed and being asked
    bool hidden = false;  // somebody's token was
  };
  Look find_members(Watched* watched);
  static bool any_lives(const Watched& watched);
  // When a group that is due, or of which no member can be waited for, may be looked at (again).
  static std::uint64_t next_scan_ns(const Watched& watched);
  static void drop_dead_members(Watched* watched);
  void scan(Watched* watched, const std::set<pid_t>& spared);

  Fd work_bell_;
  Fd vanished_bell_;
  std::mutex mutex_;  // guards what is below, down to stop_
  std::vector<GroupJob> orders_;
  std::vector<BackendRef> forgotten_;
  std::set<pid_t> spared_;
  std::vector<BackendRef> vanished_;
  bool stop_ = false;
  std::thread thread_;
  std::uint64_t try_again_ns_ = 0;  // for a thread
  // Of the thread, or while there is none of the owner.
  std::map<std::uint64_t, Watched> all_;  // by packed reference
  std::vector<Start> starts_;             // of all processes at the last look, by PID
};

}  // namespace modelpool::coordinator
