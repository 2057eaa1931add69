// What explain says of one model: the rules that apply to it, each as one verdict, and what several
// of them say in the same words. A file a subject: requests, idle time, room, memory, the line, the
// end.
//
// Safety: one thread; a subject refers to its segment and snapshot, which must outlive it. The pool
// is only read (P12).
//
// Crash: nothing is left.
//
// Errors: none; what is not known is said so.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/time.hpp"
#include "explain/words.hpp"
#include "policy/line.hpp"
#include "policy/rules.hpp"
#include "protocol/histories.hpp"
#include "protocol/local_rules.hpp"
#include "protocol/snapshot.hpp"
#include "segment/judge.hpp"
#include "segment/settings_block.hpp"

namespace modelpool::explain {

// What one rule says about the model as things stand.
struct Verdict {
  std::string rule;
  std::string text;
  std::uint64_t due_ns = kNever_ns;  // from now; kNever_ns: not as things stand
};

struct Subject {
  const Segment& segment;
  const Snapshot& snapshot;
  std::string model;
  const BackendView* backend;  // null: not loaded
  std::optional<LoadHistory> history;
  Effective effective;
  JudgeState judge;
  bool is_copy;  // of a segment: its processes are not looked at
  std::vector<std::uint64_t> groups = group_hashes(effective.text(Setting::kGroups));

  std::uint64_t get(Setting id) const { return effective.get(id); }
  std::uint64_t now() const { return snapshot.now_ns; }
};

// --- The rules -----------------------------------------------------------------------------------

// requests.cpp. busy_timeout, first_byte_timeout or stall_timeout, by the reason.
Verdict explain_leases(const Subject& subject, Reason reason);
Verdict explain_probe(const Subject& subject);
Verdict explain_parallel(const Subject& subject);

// idle.cpp
Verdict explain_idle(const Subject& subject);

// room.cpp. Whether, and after whom, it goes for others.
Verdict explain_room(const Subject& subject);
// How long min_resident still keeps it; kNever_ns: it does not.
std::uint64_t kept_for_ns(const Subject& subject);

// memory.cpp
// Whether it goes because the host has too little memory left.
std::optional<Verdict> explain_pressure(const Subject& subject);
// What it takes is measured against the whole limit.
Verdict explain_over_limit(const Subject& subject);
// "20GiB of memory, 18GiB on GPU-1f; no other of heavy is loaded beside it"
std::optional<Verdict> explain_holding(const Subject& subject);

// line.cpp
// Whether, and when, somebody who acquires the model may load it.
Verdict explain_admission(const Subject& subject);
// Who has the places that a model waits for, in the order in which they would go.
std::vector<Verdict> explain_places(const Subject& subject);
// Those who wait for the model and do not look: the line passes them over.
std::vector<Verdict> explain_absent_waiters(const Subject& subject);

// end.cpp
Verdict explain_load(const Subject& subject);
Verdict explain_end(const Subject& subject);
Verdict explain_request(const Subject& subject);
// Why it is not loaded any more: the last event about its end that the pool remembers.
std::optional<Verdict> explain_last_end(const Subject& subject);

// --- Words and values that they share ------------------------------------------------------------

std::string limit_text(std::uint64_t limit);
// "killed in 3.2s", as the judge would; without a judge nothing is ended.
std::string outcome(const Subject& subject, std::string_view what, std::uint64_t due,
                    std::string_view condition = "");
// Who pinned it: either is enough.
std::string pin_text(const Subject& subject);
// "2 of 3 places taken, and 40GiB of 64GiB"
std::string taken_text(const Snapshot& snapshot, const std::vector<Resident>& there);
// By arrival.
std::vector<Waiting> all_waiting(const Snapshot& snapshot);
std::vector<Resident> live_residents(const Snapshot& snapshot);
// Of its backend in the snapshot.
std::size_t position_of(const Subject& subject);
// Does idle eviction leave it (keep)?
bool is_kept(const Subject& subject);
// The finding of the rule's own row (libshm/policy/rules.hpp).
Finding finding_of(const Subject& subject, Reason reason,
                   const std::vector<const LeaseView*>& views);

}  // namespace modelpool::explain
