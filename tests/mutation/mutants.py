"""One-line defects, and the tests that must find each. A mutant that no test finds is a hole in the tests.

Whoever adds a rule row, a check of evidence, a wake or a mask adds a mutant of it here.
"""
import collections

# tests: (program, its arguments); the first that fails has found it.
Mutant = collections.namedtuple("Mutant", "name file before after tests")

UNIT = ("unit_tests", "--gtest_filter=Evidence*:ReasonRows*:Line*:Fit*:DecideTest*:RoomTest*")
ORDERS = ("orders_tests", "--gtest_filter=*NothingGoesWrong*")
DEEDS = ("unit_tests", "--gtest_filter=Enforcer*:EvictionForRoom*")
LINE = ("process_tests", "--gtest_filter=P5*:RoomForNobody*")
WAKES = ("process_tests", "--gtest_filter=WakeTest*")
LOADS = ("unit_tests", "--gtest_filter=Reset*:FailedLoad*:Deadline*:Duration*:SpawnGated*:Listener*:*Port*:LoadTicket*")
TICKETS = ("process_tests", "--gtest_filter=Ticket*:Ready*:P4*")
SHELLS = ("daemon_tests", "--gtest_filter=LeaseTest.P*:LeaseTest.A*")

RULES = "libshm/policy/rules.cpp"
TICKET = "libshm/pool/ticket.cpp"
SPAWN = "libshm/protocol/spawn.cpp"
LISTENER = "libshm/base/listener.cpp"
PORT = "libshm/base/port.cpp"
HISTORIES = "libshm/protocol/histories.hpp"
SHELL = "tools/poolctl/lease.cpp"
POLICY_LINE = "libshm/policy/line.cpp"
VICTIMS = "libshm/policy/victims.cpp"
ENFORCE = "coordinatord/enforce.cpp"
DECIDE = "coordinatord/decide.cpp"

MUTANTS = [
    # --- The deed after the look (P2, P4, P5, P6)
    Mutant("the deed rests on the look's last-used", ENFORCE,
           "fresh.last_used_ns = std::max(latest_use_ns(*segment_, b.ref.index), b.ready_ns);",
           "fresh.last_used_ns = b.last_used_ns;", [DEEDS]),
    Mutant("the deed rests on the look's pin", ENFORCE,
           "fresh.control = load_control(*segment_, b.ref);", "fresh.control = b.control;", [DEEDS]),
    Mutant("the deed rests on the look's limit", ENFORCE,
           "if (const Settings* settings = current_settings(*segment_); settings != nullptr) {",
           "if (const auto& settings = snapshot.settings) {", [DEEDS]),
    Mutant("a load is lost though another process was started", ENFORCE,
           "b.process.start_ticks != record.start_ticks.load(std::memory_order_acquire)) {",
           "false) {", [DEEDS]),
    Mutant("a row is freed before its ticket is lost", ENFORCE,
           "        state.owner == owner) {\n      return false;", "        state.owner == owner) {\n      continue;",
           [DEEDS]),
    # --- Leases and last-used (P2, P6)
    Mutant("a request's end clears the word before it stamps", "libshm/protocol/leases.cpp",
           """  raise_last_used(worker.last_used(lease.backend.index), stamp_now_ns());
  withdraw(lease);""",
           """  withdraw(lease);
  raise_last_used(worker.last_used(lease.backend.index), stamp_now_ns());""", [ORDERS]),
    Mutant("a dead worker's word is cleared before it is stamped", "libshm/protocol/worker.cpp",
           """    if (lease.backend < segment.capacities().backends)
      raise_last_used(segment.last_used(stamp_row, lease.backend), now);
    cleared += word.compare_exchange_strong(seen, 0, std::memory_order_seq_cst);""",
           """    cleared += word.compare_exchange_strong(seen, 0, std::memory_order_seq_cst);
    if (lease.backend < segment.capacities().backends)
      raise_last_used(segment.last_used(stamp_row, lease.backend), now);""",
           [ORDERS]),
    # --- Evidence (P2, P5)
    Mutant("busy evidence with >=", RULES, "stamp_ns == seen.lease_stamp_ns;",
           "stamp_ns >= seen.lease_stamp_ns;", [UNIT]),
    Mutant("busy evidence without the word", RULES, "return fresh.lease_word == seen.lease_word && ",
           "return ", [UNIT]),
    Mutant("stall evidence looks at the start", RULES,
           "return same_lease(seen, fresh, fresh.progress_ns);",
           "return same_lease(seen, fresh, fresh.start_ns);", [UNIT]),
    Mutant("idle evidence without last-used", RULES,
           "return !is_pinned(fresh) && fresh.last_used_ns == seen.last_used_ns;",
           "return !is_pinned(fresh) || seen.last_used_ns == 0;", [UNIT]),
    Mutant("idle evidence without the pin", RULES,
           "return !is_pinned(fresh) && fresh.last_used_ns", "return fresh.last_used_ns", [UNIT]),
    Mutant("room's evidence without last-used", RULES,
           "if (seen.was_idle && !seen.forced && fresh.last_used_ns != seen.last_used_ns) return false;",
           "", [UNIT]),
    Mutant("room's evidence without the pin", RULES,
           """  if (is_pinned(fresh)) return false;
  if (seen.was_idle""", "  if (seen.was_idle", [UNIT]),
    Mutant("room for a waiter who left", RULES, "fresh.live > limit : fresh.waiter_is_there;",
           "fresh.live > limit : true;", [UNIT]),
    Mutant("room though somebody left", RULES, "if (limit == 0 || fresh.live < seen.live) return false;",
           "if (limit == 0) return false;", [UNIT]),
    Mutant("room below the limit", RULES, "? fresh.live > limit :", "? fresh.live >= limit :", [UNIT]),
    Mutant("a request taken back still ends", RULES,
           "return (fresh.control & kControlEvict) != 0;", "return true;", [UNIT]),
    Mutant("room for a waiter whose process is dead", ENFORCE,
           "return is_present(waiter, now_ns()) && !lease_holder_is_gone(worker, snapshot);",
           "return is_present(waiter, now_ns());", [LINE]),
    # --- When a rule is due (P8)
    Mutant("stamps do not lag", RULES, "add_ns(limit, subject.stamp_lag_ns));\n    if (at",
           "limit);\n    if (at", [UNIT]),
    Mutant("a lease's own limit only lengthens", RULES, "lease.limit_ns < limit", "lease.limit_ns > limit",
           [UNIT]),
    Mutant("idle under a lease", RULES, "if (resident.in_flight > 0) {", "if (false) {", [UNIT]),
    Mutant("idle although awaited", RULES, "if (subject.awaited_until_ns > now_ns) {", "if (false) {",
           [UNIT]),
    Mutant("a crash hides no other rule", RULES,
           "if (subject.ended_ns != kNever_ns && row.reason != Reason::kCrashed) continue;", "", [UNIT]),
    Mutant("of two broken rules the later", RULES, "found.at_ns < finding->at_ns;",
           "found.at_ns > finding->at_ns;", [UNIT]),
    Mutant("a forced request counts as an eviction", RULES,
           "     .forced_event = EventKind::kKilled,\n", "", [UNIT]),
    # --- The line and what fits (P3, P5)
    Mutant("the absent are counted", POLICY_LINE, "if (!is_present(waiter, now_ns)) continue;",
           "if (waiter.deadline_ns <= now_ns) continue;", [UNIT, LINE]),
    Mutant("a model stands in line twice", POLICY_LINE, "if (is_behind || is_served(", "if (is_served(",
           [UNIT]),
    Mutant("a model in line although it is served", POLICY_LINE, "if (is_behind || is_served(residents, waiter.model)) continue;",
           "if (is_behind) continue;", [UNIT]),
    Mutant("one place more than there is", POLICY_LINE, "i < places; ++i) {", "i < places + 1u; ++i) {",
           [UNIT]),
    Mutant("what is stopping takes no place", "libshm/policy/fit.cpp", "return resident.live(); }));",
           "return resident.state < BackendState::kStopping; }));", [UNIT]),
    Mutant("a load counts as pinned for good", "libshm/policy/fit.cpp",
           "(resident.can_be_closed() && resident.pinned())", "resident.pinned()", [UNIT]),
    Mutant("waiters of the dead are counted", DECIDE,
           "if (!owner_is_dead(w.owner)) waiting_.push_back", "waiting_.push_back", [UNIT, LINE]),
    # --- Who goes (P2, P5)
    Mutant("busy before idle", VICTIMS, "return std::make_tuple(is_busy,", "return std::make_tuple(!is_busy,",
           [UNIT]),
    Mutant("an earlier waiter protects nobody", VICTIMS,
           "if (head != nullptr && holding.awaited_arrival < head->arrival) {", "if (false) {", [UNIT]),
    Mutant("min_resident protects nobody", VICTIMS,
           "if (holding.min_resident_ns != 0 && !alarm_.passed_or_wakes(resident_until)) continue;", "",
           [UNIT]),
    Mutant("force below a lowered limit", VICTIMS,
           "step.forced = is_busy && head != nullptr && holding.when_busy", "step.forced = is_busy && holding.when_busy",
           [UNIT]),
    Mutant("a failed drain is forgotten", VICTIMS,
           "return failed == 0 || limit == 0 || alarm_.passed_or_wakes(add_ns(failed, limit));",
           "return true;", [UNIT]),
    Mutant("a drain for nobody goes on", VICTIMS,
           "add(RoomStep::Kind::kReopen, draining_[next_draining]);", "static_cast<void>(0);", [UNIT]),
    # --- Loads (P4, P13)
    Mutant("a destroyed ticket has failed", TICKET,
           """LoadTicket::~LoadTicket() {
  if (ref_->worker != nullptr) static_cast<void>(give_back());""",
           """LoadTicket::~LoadTicket() {
  if (ref_->worker != nullptr) static_cast<void>(fail("given up"));""", [TICKETS]),
    Mutant("a failed load counts twice", "libshm/protocol/histories.cpp",
           "  if (history.failures > 0 && history.failed_backend == pack_ref(ref)) return;\n", "", [LOADS]),
    Mutant("a failure that did not take place stays on record", HISTORIES,
           "  write_history(segment, guard, model, before.value_or(LoadHistory{}));\n", "", [LOADS]),
    Mutant("a changed cool-down changes nothing", "libshm/pool/pool.cpp",
           "    reset_changed_cooldowns(segment, *lock, before, settings);\n", "", [LOADS]),
    Mutant("evict does not end a load", RULES,
           "subject.resident.state == BackendState::kReady || is_loading(subject);",
           "subject.resident.state == BackendState::kReady;", [UNIT]),
    Mutant("an evicted load has failed", DECIDE,
           """      stop.failed = kLoadEnded;
      set_field(&stop.text, "evicted""", """      stop.failed = kLoadFailed;
      set_field(&stop.text, "evicted""", [UNIT]),
    Mutant("a waiter whose time is over is waited for", TICKET,
           "row.deadline_ns.load(std::memory_order_acquire) > now &&", "", [TICKETS]),
    Mutant("an impatient shell throws a load away", SHELL,
           "return options_.has_timeout() && ticket.waiting() > 0;", "return false;", [SHELLS]),
    Mutant("what a shell was told wrong has failed", SHELL,
           "static_cast<void>(ticket.give_back());  // nothing is known of the model",
           'static_cast<void>(ticket.fail("spawn"));', [SHELLS]),
    Mutant("a FIFO is opened waiting for its reader", SPAWN, "O_CREAT | O_NONBLOCK | O_CLOEXEC",
           "O_CREAT | O_CLOEXEC", [LOADS]),
    Mutant("a backend's output does not wait for its reader", SPAWN, "F_SETFL, flags & ~O_NONBLOCK",
           "F_SETFL, flags", [LOADS]),
    Mutant("two backends at one address", TICKET, "if (addresses.model_at) {", "if (false) {", [TICKETS]),
    Mutant("whoever listens is the backend", TICKET,
           "if (found.by != ListenedBy::kAnother) return {};", "if (!model.empty()) return {};", [TICKETS]),
    Mutant("a child of the backend is another", LISTENER,
           "if (ancestor->parent == backend_.first) return true;", "", [LOADS]),
    Mutant("a port is nobody's until it is bound", PORT, "error = take_name(port, &name);", "error = 0;",
           [LOADS]),
    Mutant("a descriptor of somebody else is closed", PORT,
           "if (before != 0 && kept_word(oldest) == before)", "if (before != 0)", [LOADS]),
    Mutant("the longest time wraps", "libshm/include/modelpool/pool.hpp",
           "if (std::cmp_greater(length.count(), most)) return max_ns;", "static_cast<void>(most);", [LOADS]),
    # --- Wakes (P5)
    Mutant("ready wakes nobody", "libshm/pool/ticket.cpp",
           """  *ref_ = TicketRef{};
  wake_waiters(segment, hash_name(model_));
  ring(segment);
  return Lease(lease);""",
           """  *ref_ = TicketRef{};
  ring(segment);
  return Lease(lease);""", [WAKES]),
    Mutant("a leaver wakes nobody", "libshm/protocol/acquisition.cpp",
           """  if (granted) return;
  wake_line(segment_);""", "  if (granted) return;", [WAKES]),
    Mutant("the end of a backend wakes nobody", ENFORCE,
           """  ordered_.erase(pack_ref(b.ref));
  wake_waiters(*segment_, hash_name(b.model));
  wake_line(*segment_);""", "  ordered_.erase(pack_ref(b.ref));", [WAKES]),
    Mutant("a freed slot wakes nobody", ENFORCE,
           "  wake_line(*segment_);  // who found every slot taken\n", "", [WAKES]),
    Mutant("opening again wakes nobody", ENFORCE,
           """  if (!reopen(*segment_, b.ref, now.owner)) return false;
  wake_waiters(*segment_, hash_name(b.model));""",
           "  if (!reopen(*segment_, b.ref, now.owner)) return false;", [WAKES]),
]
