// Every process of the host, as often as it is listed. What does not change is read once a process.
//
// Safety: one thread.
//
// Errors: what cannot be read (no descriptors, no memory, another user's) is told apart from what
// is not there.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string_view>
#include <vector>

namespace modelpool {

class ProcessTable {
 public:
  // What the environment shows. It is read until it has been read once: a program that is executed
  // later gets its environment from this one.
  enum class Mark {
    kRead,        // entry.mark says it
    kForbidden,   // another user's, or not dumpable
    kHidden,      // it is just executing a program: for that moment it shows none
    kUnreadable,  // for want of descriptors or memory
    kEnded,
  };

  struct Entry {
    pid_t pid = 0;
    std::uint64_t inode = 0;  // of its directory in /proc: while it is the same, so is the process
    std::uint64_t start_ticks = 0;  // UINT64_MAX: not known, as young as can be
    bool has_ended = false;         // a zombie
    bool mark_is_known = false;
    std::uint64_t mark = 0;             // hash_of its MODELPOOL_BACKEND; 0: it has none
    std::uint64_t hidden_since_ns = 0;  // shows neither environment nor arguments; 0: it does
    // Since the last list() only: see look_at, look_at_parent and read_mark.
    bool is_seen = false;
    bool is_gone = false;
    pid_t group = 0;
    pid_t session = 0;
    bool parent_is_seen = false;
    bool is_readable = true;
    pid_t parent = 0;  // 0: not known
    std::optional<Mark> seen_mark;
  };

  // Everyone anew. False: /proc cannot be read now.
  bool list();

  // Rounds over who was started since list(). The table is complete after a round that began when
  // everyone before was examined, each whom it gave was before the next was asked for, and
  // is_complete() right after: then nobody lives whom an examination would have told from others.
  // Why: "Gone" in DESIGN.md.
  enum class Round {
    kBegun,    // next_new() gives whom it finds
    kAnew,     // more numbers were given than can be asked for, or they began anew: list() again
    kUnknown,  // the kernel does not say
    kFailed,   // /proc cannot be read now
  };
  Round begin_round();
  std::optional<std::size_t> next_new();  // its place in the table; none: that was all
  bool is_complete() const;               // no number was given since the round began

  std::size_t size() const { return entries_.size(); }
  Entry& operator[](std::size_t i) { return entries_[i]; }

  static void forget_seen(Entry& entry);    // it is read anew, as after list()
  static bool is_same(const Entry& entry);  // is it still this process that has the number?

  // Each is read once a list(), however many ask.
  static void look_at(Entry& entry);         // group and session
  static void look_at_parent(Entry& entry);  // parent, and has it ended?
  static Mark read_mark(Entry& entry);
  static std::uint64_t hash_of(std::string_view mark);  // never 0

 private:
  static Entry read(pid_t pid);
  static Mark read_mark_now(Entry& entry);
  bool find_late();
  std::size_t add(pid_t pid);

  std::vector<Entry> entries_;
  std::optional<pid_t> listed_last_;  // the newest number before list()
  std::optional<pid_t> round_last_;   // and before the last round
  pid_t next_number_ = 0;             // of this round
  std::vector<pid_t> late_;           // missed by list(): their numbers had been given before it
  std::map<pid_t, std::size_t>
      given_;  // of the numbers given since: whose is in the table, and where
};

}  // namespace modelpool
