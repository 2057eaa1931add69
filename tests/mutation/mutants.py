"""One-line defects, and the tests that must find each. A mutant that no test finds is a hole in the tests.

Whoever adds a rule row, a check of evidence, a wake or a mask adds a mutant of it here.
"""
import collections

# tests: (program, its arguments); the first that fails has found it.
Mutant = collections.namedtuple("Mutant", "name file before after tests")

UNIT = ("unit_tests", "--gtest_filter=Evidence*:ReasonRows*:Line*:Fit*:DecideTest*:RoomTest*:TurnTest*:Order*:Turns*:Cover*:RoomForBytes*:OnOverdue*:FirstByte*")
ORDERS = ("orders_tests", "--gtest_filter=*NothingGoesWrong*")
DEEDS = ("unit_tests", "--gtest_filter=Enforcer*:EvictionForRoom*")
RECORDS = ("unit_tests", "--gtest_filter=Records*:TicketOf*:HistoriesByHash*:Registry*:PermitWord*:"
           "KeepAlive*:Room.*:Epochs*")
COUNTED = ("unit_tests", "--gtest_filter=Counted.*")
METERS = ("unit_tests", "--gtest_filter=Meters*:JudgeMeters*:*Interval*")
LINE = ("process_tests", "--gtest_filter=P5*:RoomForNobody*")
WAKES = ("process_tests", "--gtest_filter=WakeTest*")
LOADS = ("unit_tests", "--gtest_filter=Reset*:FailedLoad*:Deadline*:Duration*:SpawnGated*:Listener*:*Port*:LoadTicket*")
TICKETS = ("process_tests", "--gtest_filter=Ticket*:Ready*:P4*")
BELONGING = ("unit_tests", "--gtest_filter=Belonging*:Members*:ProcessTable*")
PLACES = ("unit_tests", "--gtest_filter=Address*:Listener*")
ENDING = ("daemon_tests", "--gtest_filter=EndingTest.*:OtherUser.*")
CALLS = ("kernel_tests", "--gtest_filter=*RecordedBeforeTheFirstSignal*")
SHELLS = ("daemon_tests", "--gtest_filter=LeaseTest.P*:LeaseTest.A*")
SETTINGS = ("unit_tests", "--gtest_filter=Effective*:SettingsBlock*:ASettingOf*:SnapshotReaderSettings*")
PUBLISHED = ("process_tests", "--gtest_filter=PublishedSettings*")
OUTPUT = ("unit_tests", "--gtest_filter=ModelLog*:PrintableLine*:ExitWords*:LastLines*")
KEPT = ("process_tests", "--gtest_filter=OutputTest*")
HOSTILE = ("fuzz_tests", "--gtest_filter=SettingsAtTheEdge*:HostileBytes*")

CANCEL = ("unit_tests", "--gtest_filter=CancelWords*:Told*")
ASKED = ("daemon_tests", "--gtest_filter=CancelTest*")

MEASURED = ("unit_tests", "--gtest_filter=Sizes*:AboveTheLimit*:HostMemory*:SampleText*:DeviceUse*:DecideTest*")
SAMPLED = ("daemon_tests", "--gtest_filter=MeasureTest.AnAnswer*:MeasureTest.P13*")

RULES = "libshm/policy/rules.cpp"
MODEL_LOG = "libshm/base/model_log.cpp"
WORDS = "libshm/protocol/cancel.cpp"
CANCEL_WATCH = "libshm/protocol/cancel_watch.cpp"
TICKET = "libshm/pool/ticket.cpp"
SPAWN = "libshm/protocol/spawn.cpp"
LISTENER = "libshm/base/listener.cpp"
PORT = "libshm/base/port.cpp"
HISTORIES = "libshm/protocol/histories.hpp"
SHELL = "tools/poolctl/loading.cpp"
POLICY_LINE = "libshm/policy/line.cpp"
ORDER = "libshm/policy/order.cpp"
TURNS = "libshm/policy/turns.cpp"
COVER = "libshm/policy/cover.cpp"
VICTIMS = "libshm/policy/victims.cpp"
ACQUISITION = "libshm/protocol/acquisition.cpp"
ENFORCE = "coordinatord/enforce.cpp"
DECIDE = "coordinatord/decide.cpp"
IMAGE = "libshm/segment/settings_image.cpp"
BLOCK = "libshm/segment/settings_block.cpp"
MEMBERS = "libshm/protocol/members.cpp"

MUTANTS = [
    # --- The deed after the look (P2, P4, P5, P6)
    Mutant("the deed rests on the look's last-used", ENFORCE,
           "fresh.last_used_ns = std::max(latest_use_ns(*segment_, b.ref.index), b.ready_ns);",
           "fresh.last_used_ns = b.last_used_ns;", [DEEDS]),
    Mutant("the deed rests on the look's pin", ENFORCE,
           "fresh.control = load_control(*segment_, b.ref) &", "fresh.control = b.control &", [DEEDS]),
    Mutant("the deed rests on the look's limit", ENFORCE,
           "fresh.limits = outlook.limits;", "fresh.limits = limits_of(snapshot);", [DEEDS]),
    Mutant("a load is lost though another process was started", ENFORCE,
           "b.process.start_ticks != record.start_ticks.load(std::memory_order_acquire)) {",
           "false) {", [DEEDS]),
    Mutant("a row is freed before its ticket is lost", ENFORCE,
           "== pack_worker(worker)) {\n      return false;", "== pack_worker(worker)) {\n      continue;", [DEEDS]),
    # --- Ask before the kill (P8, P10)
    Mutant("nobody is asked first", RULES, "  return lease.cancellable && subject.settings.get(Setting::kOnOverdue) != 0 &&\n"
           "         !is_asked(lease, limit);", "  return false;", [UNIT]),
    Mutant("killed for as soon as he is asked", RULES,
           "return std::max(broken, subject.end_of(lease.asked_ns, grace));", "return broken;", [UNIT]),
    Mutant("an ask counts for a later stall", RULES,
           "lease.asked_ns >= add_ns(limit.since_ns, limit.limit_ns);", "true;", [UNIT]),
    Mutant("asked again for another rule", RULES,
           "if (!must_be_asked(subject, lease, limit)) is_asked_already = true;", "", [UNIT]),
    Mutant("the first byte's limit after the first byte", RULES, "  if (lease.progressed) return {};\n", "", [UNIT]),
    Mutant("a long prompt is a stall", RULES,
           "if (!lease.progressed && settings.get(Setting::kFirstByteTimeout) != 0) return {};", "", [UNIT]),
    Mutant("first byte's evidence after the first byte", RULES,
           "return same_lease(seen, fresh, fresh.start_ns) && !fresh.progressed;",
           "return same_lease(seen, fresh, fresh.start_ns);", [UNIT]),
    Mutant("a stopped holder is asked", DECIDE,
           "if (facts_.is_stopped(lease.worker)) leases_[place].cancellable = false;", "", [UNIT]),
    Mutant("a progress is not marked", "libshm/protocol/leases.cpp", "stamp_now_ns() | kProgressed,",
           "stamp_now_ns(),", [CANCEL]),
    Mutant("an ask by the word alone", "libshm/segment/layout.hpp",
           "return word != 0 && word == cancel_word && start_ns == cancel_start_ns;",
           "return word != 0 && word == cancel_word;", [CANCEL]),
    Mutant("what a lease said stays with its cell", WORDS,
           "worker.tagged(lease.cell) |= Worker::kSaysMore;", "", [CANCEL]),
    Mutant("an ask that nobody is told of", WORDS,
           "  worker.cancels.fetch_add(1, std::memory_order_seq_cst);\n", "", [CANCEL]),
    Mutant("an ask without a time is one", "libshm/protocol/outlook.cpp",
           "if (lease.cancelled() && lease.cancel_at_ns != kNever_ns)", "if (lease.cancelled())", [CANCEL]),
    Mutant("registered after the ask, told never", CANCEL_WATCH, "  if (!is_asked(lease)) return {};\n",
           "  return {};\n", [CANCEL]),
    Mutant("an ask without a wake is not found", CANCEL_WATCH, "if (cancels != told || is_due) {",
           "if (cancels != told) {", [CANCEL]),
    Mutant("a release does not wait for its callback", CANCEL_WATCH,
           "  if (was_told) const std::lock_guard<std::recursive_mutex> done(calling_);\n", "", [CANCEL]),
    Mutant("a released lease is still watched", TICKET,
           "CancelWatch::of(*ref_->worker).forget(*ref_);", "", [CANCEL]),
    Mutant("the deed asks whoever has the cell by then", ENFORCE,
           "  if (!reason_row(why.reason).still_true(seen, fresh)) return true;\n", "", [DEEDS]),
    Mutant("a stopped holder is not noticed", ENFORCE,
           "if (worker.ref.index == row && watch_->note_if_stopped(worker)) return true;", "", [ASKED]),
    # --- Leases and last-used (P2, P6)
    Mutant("a request's end clears the word before it stamps", "libshm/protocol/leases.cpp",
           """  UsedCell& cell = worker.used_cell(lease.backend.index);
""",
           """  withdraw(kept, lease);
  raise_last_used(worker.last_used(lease.backend.index), now);
  return;
  UsedCell& cell = worker.used_cell(lease.backend.index);
""", [ORDERS]),
    Mutant("a dead worker's word is cleared before it is stamped", "libshm/protocol/worker.cpp",
           """    if (lease.backend < segment.capacities().backends) {
      raise_last_used(segment.last_used(stamp_row, lease.backend), now);
    }
    cleared += word.compare_exchange_strong(seen, 0, std::memory_order_seq_cst);""",
           """    cleared += word.compare_exchange_strong(seen, 0, std::memory_order_seq_cst);
    if (lease.backend < segment.capacities().backends) {
      raise_last_used(segment.last_used(stamp_row, lease.backend), now);
    }""",
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
           "return !is_pinned(fresh) && fresh.last_used_ns == seen.last_used_ns &&",
           "return !is_pinned(fresh) &&", [UNIT]),
    Mutant("idle evidence without the keep_alive", RULES,
           " &&\n         fresh.keep_alive_ns == seen.keep_alive_ns;", ";", [UNIT]),
    Mutant("the deed rests on the look's keep_alive", ENFORCE,
           "keep_alive_of(load_keep_alive(*segment_, b.ref));", "keep_alive_of(b.keep_alive);", [DEEDS]),
    Mutant("the end of the last lease is not waited for", DECIDE,
           "if (b.in_flight > 0 && goes_when_unused(", "if (false && goes_when_unused(", [UNIT]),
    Mutant("too few are left by idle evictions", RULES,
           "if (is_timeout && fresh.others_ready < fresh.limits.keep) return false;", "", [UNIT]),
    Mutant("the deed rests on the look's pin by settings", ENFORCE,
           "resolve_settings(*segment_, b.model, &b.overrides).get(Setting::kPinned) != 0",
           "b.pinned_by_settings()", [DEEDS]),
    Mutant("those that would make room first are kept", "libshm/policy/kept.cpp",
           "return order.goes_before(residents[b], residents[a]);",
           "return order.goes_before(residents[a], residents[b]);", [UNIT]),
    Mutant("what was asked to end is kept", RULES, "if (subject.kept && limit != 0) {",
           "if (subject.kept) {", [UNIT]),
    Mutant("a pin by settings is read from the control word", "libshm/protocol/outlook.cpp",
           "backend.control & ~kControlPinnedBySettings;", "backend.control;", [UNIT]),
    Mutant("a shorter keep_alive is not told", "libshm/protocol/slots.cpp",
           "return low_half(seen) == 0 || keep_alive < low_half(seen);", "return low_half(seen) == 0;",
           [RECORDS]),
    Mutant("idle evidence without the pin", RULES,
           "return !is_pinned(fresh) && fresh.last_used_ns", "return fresh.last_used_ns", [UNIT]),
    Mutant("room's evidence without last-used", RULES,
           "if (seen.was_idle && !seen.forced && fresh.last_used_ns != seen.last_used_ns) return false;",
           "", [UNIT]),
    Mutant("room's evidence without the pin", RULES,
           """  if (is_pinned(fresh)) return false;
  if (seen.was_idle""", "  if (seen.was_idle", [UNIT]),
    Mutant("room for a waiter who left", RULES, "? fresh.is_above_limits : fresh.waiter_is_there;",
           "? fresh.is_above_limits : true;", [UNIT]),
    Mutant("room though somebody left", RULES, "if (!fresh.limits.any() || fresh.live < seen.live) return false;",
           "if (!fresh.limits.any()) return false;", [UNIT]),
    Mutant("room below the limit", RULES, "? fresh.is_above_limits :", "? true :", [UNIT]),
    Mutant("a request taken back still ends", RULES,
           "return (fresh.control & kControlEvict) != 0;", "return true;", [UNIT]),
    Mutant("room for a waiter whose process is dead", ENFORCE,
           " &&\n           !declare_dead_if_left(worker->ref.index, snapshot);", ";", [LINE]),
    # --- When a rule is due (P8)
    Mutant("stamps do not lag", RULES, "add_ns(limit.limit_ns, subject.stamp_lag_ns));",
           "limit.limit_ns);", [UNIT]),
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
    Mutant("one place more than there is", POLICY_LINE, "    room.take(head);\n", "    if (before > 0) room.take(head);\n",
           [UNIT]),
    Mutant("what is stopping takes no place", "libshm/policy/fit.cpp", "return resident.live(); }));",
           "return resident.state < BackendState::kStopping; }));", [UNIT]),
    Mutant("a load counts as pinned for good", "libshm/policy/fit.cpp",
           "resident.pinned() && resident.can_be_closed()", "resident.pinned()", [UNIT]),
    Mutant("bytes are not counted", "libshm/policy/fit.cpp", "is_limited_{limits.max_backends != 0, limits.max_memory != 0}",
           "is_limited_{limits.max_backends != 0, false}", [UNIT]),
    Mutant("loads of unknown size side by side", "libshm/policy/fit.cpp", "!waiter.size_known && guesses_load_",
           "false", [UNIT]),
    Mutant("a set with one who is not needed", COVER, "      set.erase(set.begin()", "      if (false) set.erase(set.begin()",
           [UNIT]),
    Mutant("the first set is taken", COVER, "if (best_ && !sum.less_than(best_sum_)) return;", "if (best_) return;",
           [UNIT]),
    Mutant("one who gives nothing that is missing goes", VICTIMS, "if (goes_[i] || !gives_some(i, missing)) continue;",
           "if (goes_[i]) continue;", [UNIT]),
    Mutant("mates go before the last has drained", VICTIMS, "      if (waits_for_others) return;\n", "", [UNIT]),
    Mutant("waiters of the dead are counted", DECIDE,
           "if (!owner_is_dead(w.owner)) waiting_.push_back", "waiting_.push_back", [UNIT, LINE]),
    # --- Who goes (P2, P5)
    Mutant("busy before idle", ORDER, "return b_is_busy;", "return a_is_busy;", [UNIT]),
    Mutant("priority is not looked at", ORDER,
           "if (a.priority != b.priority) return a.priority < b.priority;", "", [UNIT]),
    Mutant("the dear go first", ORDER, "costs_less(first, second) ? -1", "costs_less(second, first) ? -1",
           [UNIT]),
    Mutant("idle time does not count", ORDER, "std::max(resident.interval_ns, idle_ns)",
           "resident.interval_ns", [UNIT]),
    Mutant("an external load cost nothing", ORDER, "if (resident.external) resident.load_ns = *middle;", "",
           [UNIT]),
    Mutant("a waiter's time to spare is not shared", TURNS, "spare_ns / kShare", "spare_ns", [UNIT]),
    Mutant("who is too late gives the deadline", TURNS,
           "if (waiter.deadline_ns < add_ns(now_ns, head.load_ns)) continue;", "", [UNIT]),
    Mutant("a pause lasts past its turn", TURNS, "turn_begins_ns(head, max_wait_ns)});",
           "kNever_ns});", [UNIT]),
    Mutant("a pause without end", TURNS, "if (resident.interval_ns >= resident.load_ns) return 0;", "",
           [UNIT]),
    Mutant("in use, and closed at once", VICTIMS, "if (resident.in_flight > 0) return turn;",
           "if (resident.in_flight > 0) return head.since_ns;", [UNIT]),
    Mutant("collect holds nobody back", VICTIMS, "std::max(collected, pause_ends_ns", "std::max<std::uint64_t>(0, pause_ends_ns",
           [UNIT]),
    Mutant("who tries again begins anew", ACQUISITION,
           "if (!waits && add_ns(looked_ns, kReturnsWithin_ns) <= now) continue;", "if (!waits) continue;", [LINE]),
    Mutant("who was served goes on waiting", ACQUISITION,
           "if (granted) segment_.waiter(*row_).looked_ns.store(0, std::memory_order_release);", "", [LINE]),
    Mutant("an earlier waiter protects nobody", VICTIMS,
           "if (head != nullptr && holding.awaited_arrival < head->first.arrival) {", "if (false) {", [UNIT]),
    Mutant("min_resident protects nobody", VICTIMS,
           "if (holding.min_resident_ns != 0 && !alarm_.passed_or_wakes(resident_until)) return false;", "",
           [UNIT]),
    Mutant("force below a lowered limit", VICTIMS,
           "return head != nullptr && holdings_[i].when_busy", "return holdings_[i].when_busy",
           [UNIT]),
    Mutant("a failed drain is forgotten", VICTIMS,
           "return failed == 0 || limit == 0 || alarm_.passed_or_wakes(add_ns(failed, limit));",
           "return true;", [UNIT]),
    Mutant("a drain for nobody goes on", VICTIMS,
           "if (!goes_[i]) add(RoomStep::Kind::kReopen, i);", "static_cast<void>(0);", [UNIT]),
    # --- Loads (P4, P13)
    Mutant("a destroyed ticket has failed", TICKET,
           """LoadTicket::~LoadTicket() {
  if (ref_->worker != nullptr) static_cast<void>(give_back());""",
           """LoadTicket::~LoadTicket() {
  if (ref_->worker != nullptr) static_cast<void>(fail("given up"));""", [TICKETS]),
    Mutant("a failed load counts twice", "libshm/protocol/histories.cpp",
           "  if (history.failures > 0 && history.failed_backend == pack_ref(failure.backend)) return;\n", "", [LOADS]),
    Mutant("a failure that did not take place stays on record", HISTORIES,
           "  write_history(segment, guard, model, before.value_or(LoadHistory{}));\n", "", [LOADS]),
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
    # --- Settings (P6, P13)
    Mutant("a writer overwrites another's change", "libshm/protocol/settings_change.cpp",
           "if (segment.settings().generation.load(std::memory_order_relaxed) != from) continue;", "",
           [SETTINGS, PUBLISHED]),
    Mutant("a changed load_cooldown forgets no failure", "libshm/protocol/settings_change.cpp",
           "    cooldowns.forget_changed(segment, *lock);\n", "",
           [("unit_tests", "--gtest_filter=Reset*")]),
    Mutant("settings are published before they are written", BLOCK,
           """  image.copy_to(segment.settings_copy(next));
  generation.store(next, std::memory_order_seq_cst);""",
           """  generation.store(next, std::memory_order_seq_cst);
  image.copy_to(segment.settings_copy(next));""",
           [("crash_sweep", "--operation=set")]),
    Mutant("a reader that was overtaken believes what it read", "libshm/segment/settings_block.hpp",
           "if (generation.load(std::memory_order_seq_cst) == before ||", "if (true ||", [PUBLISHED]),
    Mutant("rules of exact names before all globs", IMAGE,
           "load(rules_[exact].order) < load(rules_[glob].order)", "true", [SETTINGS]),
    Mutant("a text beyond the texts", IMAGE, " || words_of(bytes) > text_words_ - at", "", [HOSTILE]),
    Mutant("entries beyond the entries", IMAGE, " || count > entry_count_ - first", "", [HOSTILE]),
    Mutant("tables beyond the copy", IMAGE, "tables_fit_ = used <= words && ", "tables_fit_ = ", [HOSTILE]),
    Mutant("damage that is a newer program's setting", IMAGE,
           "by_workers) != load(head_.needed_hash)) return {};", "by_workers) == 0) return {};", [SETTINGS]),
    Mutant("a place under settings that are not known", "libshm/protocol/acquisition.cpp",
           "if (outlook.unknown_settings != 0) return fail(settings_refusal(outlook.unknown_settings));",
           "", [SETTINGS]),
    Mutant("a backend's settings are never resolved again", "libshm/protocol/snapshot.cpp",
           "if (!slot.effective || slot.effective->generation() != s.settings_generation) {",
           "if (!slot.effective) {", [SETTINGS]),
    # --- Who belongs to a backend (P3, P7, P9, P10)
    Mutant("who cannot be proved is taken for gone", "libshm/policy/belonging.cpp",
           "return {Belongs::kUnknown, LeftWhy::kUnproved, kNever_ns};", "return kItDoesNot;", [BELONGING]),
    Mutant("a handle of another process is taken", MEMBERS,
           "if (first && first.identity().is(target_.first)) first_", "if (first) first_", [BELONGING]),
    Mutant("members of another first process are kept", MEMBERS,
           "if (!target.first.is(target_.first)) *this", "if (target.first.pid == 0) *this", [BELONGING]),
    Mutant("another backend's first process is signalled", MEMBERS,
           "return first.slot != slot_ &&", "return first.slot == UINT32_MAX &&", [BELONGING]),
    Mutant("a record is believed that says spawned", MEMBERS,
           "(is_proved || read_environment(pid, \"MODELPOOL_BACKEND\") == target.token)", "true", [BELONGING]),
    Mutant("a look does not go after those who were started meanwhile", MEMBERS,
           "    while (const auto at = table.next_new()) judge_at(*at);\n", "", [BELONGING]),
    Mutant("the numbers given meanwhile are asked for once", "libshm/base/process_table.cpp",
           "  next_number_ = *listed_last_ + 1;\n",
           "  next_number_ = std::max(next_number_, *listed_last_ + 1);\n", [BELONGING]),
    Mutant("whom a look met does not matter once it has ended", MEMBERS,
           "    pass->has_met_any = true;\n", "", [BELONGING]),
    Mutant("a zombie that carries the token is met in each look", MEMBERS,
           "if (!handle && handle.error().system == ESRCH) return note_ended();",
           "if (!handle && handle.error().system == ESRCH) return Told::kEnded;", [BELONGING]),
    Mutant("a first process that leads no group is ended alone", MEMBERS,
           "  if (pid <= 1) return false;\n", "  if (target_.group <= 1) return false;\n", [ENDING]),
    Mutant("localhost is one place", "libshm/base/address.cpp",
           "return {loopback4(), loopback6()};", "return {loopback4()};", [PLACES]),
    Mutant("numbers other than dotted ones are names", "libshm/base/address.cpp",
           "inet_aton(host.c_str(), &v4) != 1", "inet_pton(AF_INET, host.c_str(), &v4) != 1", [PLACES]),
    Mutant("a restarted coordinator does not repeat SIGKILL", "coordinatord/stopper.cpp",
           "order(b, b.stop.killed_ns != 0 ? SIGKILL : 0, false);", "order(b, 0, false);", [ENDING]),
    Mutant("what was found is not told to the next coordinator", "coordinatord/ending.cpp",
           "  segment_->backend(ref.index).known.publish(known_record(ref.generation, known));\n",
           "", [ENDING]),
    Mutant("members are signalled before they are recorded", "coordinatord/ending.cpp",
           "  record_known(watched);\n  if (report.signal != 0) sent =", "  if (report.signal != 0) sent =",
           [CALLS]),
    # --- Wakes (P5)
    Mutant("ready wakes nobody", "libshm/pool/ticket.cpp",
           """  *ref_ = TicketRef{};
  wake_waiters(segment, hash_name(model_));
  ring(segment);
  return as_asked(Lease(lease), cancellable_, on_cancel_);""",
           """  *ref_ = TicketRef{};
  ring(segment);
  return as_asked(Lease(lease), cancellable_, on_cancel_);""", [WAKES]),
    Mutant("a leaver wakes nobody", "libshm/protocol/acquisition.cpp",
           """  if (granted) return;
  wake_line(segment_);""", "  if (granted) return;", [WAKES]),
    Mutant("the end of a backend wakes nobody", ENFORCE,
           """  stopper_->forget(b.ref);
  wake_waiters(*segment_, hash_name(b.model));
  wake_line(*segment_);""", "  stopper_->forget(b.ref);", [WAKES]),
    Mutant("a freed slot wakes nobody", ENFORCE,
           "  wake_line(*segment_);  // who found every slot taken\n", "", [WAKES]),
    Mutant("opening again wakes nobody", ENFORCE,
           """  if (!reopen(*segment_, b.ref, now.owner)) return false;
  wake_waiters(*segment_, hash_name(b.model));""",
           "  if (!reopen(*segment_, b.ref, now.owner)) return false;", [WAKES]),
    # --- Names, words and counts of format 3 (P6)
    Mutant("twelve bits of a worker's generation", "libshm/segment/words.hpp",
           "return pack_half(worker.generation, worker.index + 1);",
           "return pack_half(worker.generation & 0xfff, worker.index + 1);", [RECORDS]),
    Mutant("a holder looked up by its row alone", "libshm/protocol/acquisition.cpp",
           "if (low_half(state) == 0 || high_half(state) != worker.generation) return true;",
           "if (low_half(state) == 0) return true;", [RECORDS]),
    Mutant("the holder of another life", "libshm/protocol/slots.cpp",
           "return is_its_life ? holder : 0;", "return holder;", [RECORDS]),
    Mutant("a permit outlives its backend", "libshm/protocol/slots.cpp",
           "    record.permit.store(0, std::memory_order_release);\n", "", [RECORDS]),
    # --- Measured sizes
    Mutant("a part of a load replaces the guess", "libshm/protocol/outlook.cpp",
           "const std::uint64_t known = std::max(sizes.declared, sizes.peak);",
           "const std::uint64_t known = std::max(sizes.declared, std::max(sizes.peak, sizes.measured));",
           [MEASURED]),
    Mutant("what is measured does not count until the load is over", "libshm/protocol/outlook.cpp",
           "const std::uint64_t seen = std::max(known, sizes.measured);",
           "const std::uint64_t seen = known;", [MEASURED]),
    Mutant("the one just loaded goes", VICTIMS,
           "if (head == nullptr && missing[Resource::kPlaces] == 0 && is_just_loaded(i)) continue;", "",
           [MEASURED]),
    Mutant("one that alone is too much is spared as just loaded", VICTIMS,
           "if (!is_newest || is_alone_above(resident.holds, rules_.limits)) return false;",
           "if (!is_newest) return false;", [MEASURED]),
    Mutant("what is expected kills", RULES,
           "is_alone_above(subject.resident.measured, subject.limits)",
           "is_alone_above(subject.resident.holds, subject.limits)", [UNIT]),
    Mutant("above the limit in sum kills", RULES,
           "{ return fresh.is_alone_above; }", "{ return fresh.is_above_limits; }", [UNIT]),
    Mutant("an answer of another generation counts", "coordinatord/sampler.cpp",
           "state.generation == ref.generation && is_live(state.state)", "is_live(state.state)", [SAMPLED]),
    Mutant("a stranger's answer counts", "coordinatord/sampler.cpp",
           "if (user == users.end()) continue;", "if (user == users.end() && users.empty()) continue;",
           [SAMPLED]),
    Mutant("numbers without bound", "coordinatord/sample_text.cpp",
           "return read(text, bytes) && *bytes <= kSampleSizeMax_bytes;", "return read(text, bytes);",
           [MEASURED]),
    Mutant("another process of the same number is measured", "coordinatord/sample/host_memory.cpp",
           "if (found == all.end() || found->second.start_ticks != process.start_ticks) continue;",
           "if (found == all.end()) continue;", [MEASURED]),
    Mutant("two loads at once rise together", "coordinatord/device_use.cpp",
           "    if (only != nullptr) return nullptr;\n", "", [MEASURED]),
    Mutant("the fall of another's end is a load's", "coordinatord/device_use.cpp",
           "    if (user.is_ending || (!is_new && before->second.is_ending)) return nullptr;\n", "",
           [MEASURED]),
    Mutant("measured bytes outlive their backend", "libshm/protocol/slots.cpp",
           "    record.measured.store({});\n", "", [RECORDS]),
    Mutant("a permit of any generation", "libshm/segment/words.hpp",
           "return permit.generation == (backend_generation & kGenerationMask) ? permit.deadline_ms : 0;",
           "return permit.deadline_ms;", [RECORDS]),
    Mutant("room for any arrival", "libshm/segment/words.hpp",
           "word >> 8 == arrival << 8 >> 8 && device < kDevicesMax;", "device < kDevicesMax;", [RECORDS]),
    Mutant("cancelled by the word alone", "libshm/segment/layout.hpp",
           "return word != 0 && word == cancel_word && start_ns == cancel_start_ns;",
           "return word != 0 && word == cancel_word;", [RECORDS]),
    Mutant("an epoch that is none", "libshm/segment/words.hpp", "return next == 0 ? 1 : next;",
           "return next;", [RECORDS]),
    Mutant("what the last owner said of a lease", "libshm/protocol/leases.cpp",
           "    if ((tagged & Worker::kSaysMore) != 0) say_no_more(record);\n", "", [RECORDS]),
    Mutant("a counted backend cannot be closed", "libshm/protocol/slots.cpp",
           "    if (move(segment, ref.index, seen, closed)) return true;",
           "    return move(segment, ref.index, {ref.generation, 0, BackendState::kReady}, closed);",
           [RECORDS]),
    Mutant("a history of that hash, whatever its name", "libshm/protocol/histories.cpp",
           "== key_of(hash) && record.name.equals(model);",
           "== key_of(hash) && !record.name.equals(\"\") && !model.empty();", [RECORDS]),
    Mutant("the interval of another life", "libshm/protocol/leases.cpp",
           "  if (high_half(seen) == generation) {\n    const std::uint64_t observed_ms",
           "  if (generation != 0) {\n    const std::uint64_t observed_ms", [METERS]),
    Mutant("a waiter that is a hit, too", "libshm/protocol/acquisition.cpp",
           "  uncount_hit(*lease);\n", "", [METERS]),
    Mutant("hits that their thread takes along", "libshm/protocol/worker.cpp",
           "  add_hits(*counts);\n  counts->taken.store", "  counts->taken.store", [METERS]),
    Mutant("hits that close forgets", "libshm/protocol/worker.cpp",
           "    add_hits(*counts);\n  }\n", "  }\n", [METERS]),
    Mutant("who comes overtakes who waits", "libshm/protocol/counted.cpp",
           " || count_earlier(segment, request) >= free) return", ") return", [COUNTED]),
    Mutant("a stopped waiter keeps a counted lease", "libshm/protocol/counted.cpp",
           " &&\n             is_present(waiter, now);", " && now != 0;", [COUNTED]),
    Mutant("the end of a counted lease wakes nobody", "libshm/protocol/leases.cpp",
           "  wake_next_if_counted(segment, state, lease.backend.index);\n", "", [COUNTED]),
    Mutant("what a waiter needs stays as it was", "libshm/protocol/acquisition.cpp",
           "      renew_need();\n", "", [RECORDS]),
    Mutant("hits of the slot's next model", "libshm/protocol/leases.cpp",
           "  kept.worker->add_hits(*kept.hits);\n  const Segment&", "  const Segment&", [METERS]),
    Mutant("a judge that does not catch up", "coordinatord/record.cpp",
           "count(event.sequence, event.data);", "static_cast<void>(event);", [METERS]),
    Mutant("a count cut short", "coordinatord/record.cpp", "  redo_journal(meters);\n", "", [METERS]),
    Mutant("a count that begins anew", "coordinatord/record.cpp", "read_events(*segment_, counted + 1)",
           "read_events(*segment_, 1 + 0 * counted)", [METERS]),
    Mutant("output is written through a link", MODEL_LOG,
           "constexpr int kPlain = O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK;",
           "constexpr int kPlain = O_CLOEXEC | O_NOCTTY | O_NONBLOCK;", [OUTPUT]),
    Mutant("output goes into a directory that everybody may write", MODEL_LOG,
           "if ((info.st_mode & S_IWOTH) != 0) {", "if (false) {", [OUTPUT]),
    Mutant("a file with a second name is cut", MODEL_LOG, " || info.st_nlink != 1", "", [OUTPUT]),
    Mutant("the log of another model is cut", MODEL_LOG,
           " || !path.ends_with(\"/\" + name)", "", [OUTPUT]),
    Mutant("long names share a file", MODEL_LOG, "if (name.size() > kNameMax_bytes) {",
           "if (name.resize(std::min(name.size(), kNameMax_bytes)); false) {", [OUTPUT]),
    Mutant("a new life writes into the file of the one before", MODEL_LOG,
           "if (!rename_to(kCurrent, kPrevious)) return fail_errno(errno, what);",
           "unlink_file(kCurrent);", [OUTPUT]),
    Mutant("a life that said nothing takes the one before it away", MODEL_LOG,
           "S_ISREG(info.st_mode) && info.st_size == 0", "false", [OUTPUT]),
    Mutant("a cut that was killed is not finished", MODEL_LOG, "rename_to(kCut, kPrevious);\n  unlink_file(kNew);",
           "unlink_file(kNew);", [OUTPUT]),
    Mutant("output that is to go elsewhere is kept", "libshm/protocol/spawn.cpp",
           "options.output.empty() && default_output ?", "default_output ?", [KEPT]),
    Mutant("a backend's record does not say where its output is", "libshm/protocol/slots.cpp",
           "  record.log.store(started.log);\n", "", [KEPT]),
]
