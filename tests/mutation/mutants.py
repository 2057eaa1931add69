"""One-line defects, and the tests that must find each. A mutant that no test finds is a hole in the tests.

Whoever adds a rule row, a check of evidence, a wake or a mask adds a mutant of it here.
"""
import collections

# tests: (program, its arguments); the first that fails has found it.
Mutant = collections.namedtuple("Mutant", "name file before after tests")

UNIT = ("unit_tests", "--gtest_filter=Evidence*:ReasonRows*:Line*:Fit*:DecideTest*:RoomTest*")
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
HOSTILE = ("fuzz_tests", "--gtest_filter=SettingsAtTheEdge*:HostileBytes*")

RULES = "libshm/policy/rules.cpp"
TICKET = "libshm/pool/ticket.cpp"
SPAWN = "libshm/protocol/spawn.cpp"
LISTENER = "libshm/base/listener.cpp"
PORT = "libshm/base/port.cpp"
HISTORIES = "libshm/protocol/histories.hpp"
SHELL = "tools/poolctl/loading.cpp"
POLICY_LINE = "libshm/policy/line.cpp"
VICTIMS = "libshm/policy/victims.cpp"
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
           "static_cast<std::uint32_t>(pool_setting(*segment_, Setting::kMaxBackends));",
           "snapshot.max_backends();", [DEEDS]),
    Mutant("a load is lost though another process was started", ENFORCE,
           "b.process.start_ticks != record.start_ticks.load(std::memory_order_acquire)) {",
           "false) {", [DEEDS]),
    Mutant("a row is freed before its ticket is lost", ENFORCE,
           "== pack_worker(worker)) {\n      return false;", "== pack_worker(worker)) {\n      continue;", [DEEDS]),
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
    Mutant("the least recently used are kept", "libshm/policy/kept.cpp", "return key(a) > key(b);",
           "return key(a) < key(b);", [UNIT]),
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
    Mutant("room for a waiter who left", RULES, "fresh.live > limit : fresh.waiter_is_there;",
           "fresh.live > limit : true;", [UNIT]),
    Mutant("room though somebody left", RULES, "if (limit == 0 || fresh.live < seen.live) return false;",
           "if (limit == 0) return false;", [UNIT]),
    Mutant("room below the limit", RULES, "? fresh.live > limit :", "? fresh.live >= limit :", [UNIT]),
    Mutant("a request taken back still ends", RULES,
           "return (fresh.control & kControlEvict) != 0;", "return true;", [UNIT]),
    Mutant("room for a waiter whose process is dead", ENFORCE,
           " &&\n           !declare_dead_if_left(worker->ref.index, snapshot);", ";", [LINE]),
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
  return Lease(lease);""",
           """  *ref_ = TicketRef{};
  ring(segment);
  return Lease(lease);""", [WAKES]),
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
]
