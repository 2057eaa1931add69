#include "protocol/members.hpp"

#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/proc.hpp"
#include "base/sockets.hpp"
#include "base/time.hpp"
#include "base/user.hpp"
#include "protocol/slots.hpp"
#include "protocol/worker.hpp"

namespace modelpool {
namespace {

// A look goes after those who are started while it lasts for so long; then it has not seen
// everyone.
constexpr std::uint64_t kNewcomersMax_ns = 20 * kMillisecond_ns;
constexpr int kRoundsMin = 16;  // also where others have the CPU meanwhile
// Where the kernel does not say who was started: so often it begins anew when somebody has ended
// meanwhile.
constexpr int kUnsettledMax = 8;
// No number is given again so soon after it was seen to be taken: all others are given before.
constexpr std::uint64_t kNumberStays_ns = 5 * kMillisecond_ns;
// While a process shows no environment because it is just executing a program.
constexpr std::uint64_t kHiddenRetry_ns = 2 * kMillisecond_ns;
constexpr std::uint64_t kListensRetry_ns = kSecond_ns;
bool is_gone(pid_t pid) { return getpgid(pid) < 0 && errno == ESRCH; }

}  // namespace

// --- Target, Spared ------------------------------------------------------------------------------

Target target_of(const Segment& segment, const BackendView& backend) {
  Target target;
  target.first = backend.process;
  // Nothing else is ever written (P7).
  if (backend.group == backend.process.pid) target.group = backend.group;
  target.is_spawned = (backend.traits & kTraitToken) != 0;
  target.in_session = (backend.traits & kTraitInSession) != 0;
  if ((backend.traits & kTraitAdopted) != 0)
    target.adopter = worker_process(segment, unpack_worker(backend.holder));
  if (target.is_spawned) target.token = segment.token(backend.ref.index, backend.ref.generation);
  target.alive_ticks = backend.alive_ticks;
  // Nobody saw it end: it lived at the last scan of whoever watched it.
  const CoordinatorRecord& judge = segment.coordinator();
  if (target.alive_ticks == 0 &&
      backend.started_ns < judge.last_scan_ns.load(std::memory_order_acquire)) {
    target.alive_ticks = judge.last_scan_ticks.load(std::memory_order_acquire);
  }
  if (backend.ready_ns != 0) target.address = backend.address;
  const KnownRecord known = segment.backend(backend.ref.index).known.load();
  const std::size_t count = std::min<std::size_t>(known.count, known.members.size());
  for (std::size_t i = 0; i < count && known.generation == backend.ref.generation; ++i) {
    const KnownMember& member = known.members[i];
    target.known.push_back(
        {static_cast<pid_t>(member.pid), member.start_ticks, member.pidfd_inode});
  }
  return target;
}

SparedProcesses::SparedProcesses()
    : judges_{getpid(), getppid()} {}  // who supervises the coordinator is no backend

SparedProcesses::SparedProcesses(const Segment& segment) : SparedProcesses() {
  workers_ = attached_processes(segment);
  device_ = segment.device();
  inode_ = segment.inode();
  for (std::uint32_t i = 0; i < segment.backends_reached(); ++i) {
    const BackendState state = load_state(segment, i).state;
    if (state < BackendState::kStarting || state > BackendState::kStopping) continue;
    const auto pid = static_cast<pid_t>(segment.backend(i).pid.load(std::memory_order_acquire));
    if (pid > 1) firsts_.insert({pid, {i, state == BackendState::kStopping}});
  }
}

bool Spared::is_worker(pid_t pid) const {
  if (!all_->workers_.contains(pid)) return false;
  const auto [at, is_new] = all_->maps_.try_emplace(pid, true);
  if (is_new) at->second = maps_file(pid, all_->device_, all_->inode_).value_or(true);
  return at->second;
}

bool Spared::is_other(pid_t pid) const {
  const auto [begin, end] = all_->firsts_.equal_range(pid);
  return std::any_of(begin, end, [this](const auto& entry) {
    const SparedProcesses::First& first = entry.second;
    // Of two that end the same process one has to.
    return first.slot != slot_ && !(first.is_stopping && first.slot > slot_);
  });
}

Spared spared_without_pool() {
  return Spared(std::make_shared<const SparedProcesses>(), UINT32_MAX);
}

Spared spared_beside(const Segment& segment, BackendRef backend) {
  return Spared(std::make_shared<const SparedProcesses>(segment), backend.index);
}

LeftWhy why_not_signalled(const Target& target, pid_t pid, const Spared& spared, bool is_proved) {
  if (pid <= 1 || spared.is_judge(pid)) return LeftWhy::kJudge;
  if (spared.is_worker(pid)) return LeftWhy::kWorker;
  const auto uid = read_uid(pid);
  if (uid == geteuid()) return LeftWhy::kNone;
  // That the target was spawned is what its record says, and what is written there may be anything.
  if (target.is_spawned &&
      (is_proved || read_environment(pid, "MODELPOOL_BACKEND") == target.token)) {
    return LeftWhy::kNone;
  }
  if (uid) return LeftWhy::kOtherUser;
  // Hidden, or no descriptors: the system lets only root signal other users.
  return geteuid() != 0 ? LeftWhy::kNone : LeftWhy::kUnreadable;
}

std::string left_text(const LeftRecord& left) {
  std::string text;
  const std::size_t named = std::min<std::size_t>(left.count, left.named.size());
  for (std::size_t i = 0; i < named; ++i) {
    const LeftProcess& process = left.named[i];
    if (i > 0) text += "; ";
    text += "process " + std::to_string(process.pid);
    const std::string_view command = field_text(process.command);
    if (!command.empty()) text += " (" + escape(command) + ")";
    if (process.uid != UINT32_MAX) text += " of " + user_name(process.uid);
    text += ": ";
    text += left_why_text(process.why);
    if (process.why == LeftWhy::kSignalled) {
      text += " (" + signal_text(static_cast<int>(process.signal)) + ")";
    }
  }
  if (left.count > named) text += "; and " + std::to_string(left.count - named) + " more";
  return text;
}

LeftRecord left_record(std::uint32_t generation, const std::vector<LeftProcess>& left) {
  LeftRecord record;
  record.generation = generation;
  record.count = static_cast<std::uint32_t>(left.size());
  std::copy_n(left.begin(), std::min(left.size(), record.named.size()), record.named.begin());
  return record;
}

KnownRecord known_record(std::uint32_t generation, const std::vector<ProcessIdentity>& known) {
  KnownRecord record;
  record.generation = generation;
  record.count = static_cast<std::uint32_t>(std::min(known.size(), record.members.size()));
  for (std::size_t i = 0; i < record.count; ++i) {
    record.members[i] = {static_cast<std::uint32_t>(known[i].pid), 0, known[i].start_ticks,
                         known[i].pidfd_inode};
  }
  return record;
}

// --- Members: looking ----------------------------------------------------------------------------

Members::Members(Target target)
    : target_(std::move(target)), token_hash_(ProcessTable::hash_of(target_.token)) {
  remember_known();
}

// What a record says is verified when it is opened, as what was found here is.
void Members::remember_known() {
  for (const ProcessIdentity& known : target_.known) {
    if (known.pid > 1 && known.start_ticks >= target_.first.start_ticks) {
      members_.try_emplace(known.pid).first->second.identity = known;
    }
  }
}

void Members::update(Target target, ProcessHandle first) {
  // Of another first process nothing is known yet: what was found with the one before is not its.
  if (!target.first.is(target_.first)) *this = Members(target);
  target_ = std::move(target);
  token_hash_ = ProcessTable::hash_of(target_.token);
  if (members_.empty()) remember_known();
  if (first && first.identity().is(target_.first)) first_ = std::move(first);
}

void Members::drop_ended() {
  std::erase_if(members_, [](const auto& entry) {
    return entry.second.handle && entry.second.handle.liveness() == Liveness::kDead;
  });
}

bool Members::any_lives() const {
  return std::any_of(members_.begin(), members_.end(), [](const auto& entry) {
    return !entry.second.handle || entry.second.handle.liveness() != Liveness::kDead;
  });
}

bool Members::is_living_member(pid_t pid) const {
  const auto at = members_.find(pid);
  return at != members_.end() && at->second.handle.liveness() == Liveness::kAlive;
}

void Members::suspect(pid_t pid, const Certainty& told) {
  Suspect& suspect = suspects_[pid];
  suspect.why = told.why;
  suspect.again_ns = told.until_ns;
  if (auto handle = ProcessHandle::open(pid)) {
    suspect.handle = std::move(*handle);
  } else {
    suspect.again_ns =
        std::min(suspect.again_ns, now_ns() + kUnreadableRetry_ns);  // its end would not be noticed
  }
}

// They are judged anew: but for the first process, whom hold_first() could not tell.
void Members::forget_suspects() {
  std::erase_if(suspects_, [this](const auto& entry) { return entry.first != target_.first.pid; });
}

void Members::forget_suspect(pid_t pid) {
  if (pid != target_.first.pid) suspects_.erase(pid);
}

void Members::hold_first(Pass* pass) {
  const pid_t pid = target_.first.pid;
  if (pass->spared.is_other(pid)) return;  // it is another backend by now
  if (const auto at = members_.find(pid); at != members_.end() && at->second.handle) return;
  if (first_ && first_.liveness() == Liveness::kDead) return;
  if (!first_) {
    auto found = ProcessHandle::open(target_.first);
    if (found.liveness == Liveness::kDead) {
      first_ = ProcessHandle::open_zombie(target_.first);
      return;
    }
    first_ = std::move(found.handle);
  }
  ProcessHandle handle = first_.duplicate();
  if (handle.liveness() == Liveness::kAlive) {
    first_session_ = getsid(pid);
    Member& first = members_[pid];
    first.identity = target_.first;
    first.handle = std::move(handle);
    first.is_proved |= first_is_proved_;
  } else if (handle.liveness() == Liveness::kUnknown) {
    suspect(pid, {Belongs::kUnknown, LeftWhy::kUnreadable, now_ns() + kUnreadableRetry_ns});
  }
}

void Members::open_remembered(Pass* pass) {
  for (auto at = members_.begin(); at != members_.end();) {
    Member& member = at->second;
    if (!member.handle) {
      auto found = ProcessHandle::open(member.identity);
      if (found.liveness == Liveness::kDead) {
        at = members_.erase(at);
        continue;
      }
      member.handle = std::move(found.handle);
      if (!member.handle) pass->look.again_ns = now_ns() + kUnreadableRetry_ns;
    }
    ++at;
  }
}

// Whose the numbers of group and session are.
BackendFacts Members::facts(const Spared& spared) {
  using enum NumberOwner;
  BackendFacts facts;
  facts.start_ticks = target_.first.start_ticks;
  facts.group = target_.group;
  facts.alive_ticks = target_.alive_ticks;
  if (target_.group == 0) return facts;
  const auto both = [&](NumberOwner owner) {
    facts.group_number = facts.session_number = owner;
    return facts;
  };
  if (spared.is_other(target_.group)) return both(kAnother);
  if (first_ && first_.liveness() == Liveness::kAlive) return both(kBackend);
  int refused = EINVAL;
  if (first_) {
    const auto group = first_.signal_group(0);
    refused = group ? 0 : group.error().system;
  }
  if (refused == 0 || refused == EPERM) return both(kBackend);
  if (const auto stat = read_stat(target_.first.pid)) {
    // It has the number itself, as a zombie, or somebody else has it.
    if (stat->start_ticks != target_.first.start_ticks) return both(kAnother);
    if (ProcessHandle::open_zombie(target_.first)) return both(kBackend);
    const auto handle = ProcessHandle::open(target_.first.pid);
    return both(handle && !handle->identity().is(target_.first) ? kAnother : kUnknown);
  }
  if (refused == ESRCH) facts.group_number = kAnother;  // nobody is left in the group it led
  for (const auto& [pid, member] : members_) {
    if (getpgid(pid) == target_.group && is_living_member(pid)) return both(kBackend);
    if (getsid(pid) == target_.group && is_living_member(pid)) facts.session_number = kBackend;
  }
  return facts;
}

void Members::take_cgroup(Pass* pass) {
  if (!cgroup_) return;
  if (const auto pids = cgroup_->processes()) {
    pass->in_cgroup.insert(pids->begin(), pids->end());
  } else {
    pass->look.again_ns = std::min(pass->look.again_ns, now_ns() + kUnreadableRetry_ns);
  }
}

// Nobody can join a session. So one in which a member lives, and that is not the one the first
// process was started in, was begun by a member, and all of it belongs. What is spawned begins its
// own, unless it was told not to; of all others the session has to be seen.
bool Members::was_begun(pid_t session) const {
  const bool has_own = target_.is_spawned && !target_.in_session;
  if (session <= 1 || (!has_own && first_session_ == 0)) return false;
  return (!target_.in_session && session == target_.group) || session != first_session_;
}

bool Members::take_session(Pass* pass, pid_t member, pid_t session) const {
  if (!was_begun(session)) return false;
  pass->sessions[session] = member;
  return true;
}

ProcessFacts Members::examine(const Pass& pass, ProcessTable::Entry& entry) const {
  ProcessFacts facts;
  const pid_t pid = entry.pid;
  ProcessTable::look_at(entry);
  facts.start_ticks = entry.start_ticks;
  facts.group = entry.group;
  facts.has_ended = entry.is_gone;
  facts.is_spared = pass.spared.is_judge(pid) || pass.spared.is_other(pid);
  facts.is_in_cgroup = pass.in_cgroup.contains(pid);
  const bool is_older = entry.start_ticks < target_.first.start_ticks;
  facts.session = is_older ? 0 : entry.session;
  if (facts.has_ended || facts.is_spared) return facts;
  const bool has_number =
      target_.group != 0 && (facts.group == target_.group || facts.session == target_.group);
  const auto session = pass.sessions.find(facts.session);
  facts.is_in_their_session = session != pass.sessions.end() && is_living_member(session->second);
  const bool may_be_child = pass.with_parents && !is_older;
  if (has_number || facts.is_in_cgroup || facts.is_in_their_session || may_be_child) {
    ProcessTable::look_at_parent(entry);
    facts.is_readable = entry.is_readable;
    facts.has_ended = entry.is_gone;
    const bool is_adopted = pass.adopter && entry.parent == target_.adopter.pid &&
                            pass.adopter.liveness() == Liveness::kAlive;
    facts.is_child_of_member =
        may_be_child && entry.parent > 0 && (is_adopted || is_living_member(entry.parent));
    if (facts.has_ended || facts.is_child_of_member) return facts;
  }
  // Whose the number is may not be known: then its token tells.
  const bool tells = (facts.group == target_.group && group_owner_ == NumberOwner::kBackend) ||
                     (facts.session == target_.group && session_owner_ == NumberOwner::kBackend);
  if (!tells && !is_older && !target_.token.empty()) read_mark(entry, &facts);
  return facts;
}

// Fills in what its environment says.
void Members::read_mark(ProcessTable::Entry& entry, ProcessFacts* facts) const {
  switch (ProcessTable::read_mark(entry)) {
    case ProcessTable::Mark::kRead:
      if (entry.mark == token_hash_) facts->token = TokenSeen::kYes;
      return;
    case ProcessTable::Mark::kForbidden:
      return;
    case ProcessTable::Mark::kHidden:
      facts->token = TokenSeen::kHidden;
      facts->hidden_since_ns = entry.hidden_since_ns;
      return;
    case ProcessTable::Mark::kUnreadable:
      facts->is_readable = false;
      return;
    case ProcessTable::Mark::kEnded:
      facts->has_ended = true;
      return;
  }
}

// kEnded: and it may have left a child. kLater: it is just executing a program.
Members::Told Members::judge(Pass* pass, ProcessTable::Entry& entry) {
  const pid_t pid = entry.pid;
  if (pid <= 1 || pid == target_.first.pid || entry.has_ended || members_.contains(pid))
    return Told::kNow;
  const ProcessFacts facts = examine(*pass, entry);
  const auto note_ended = [&entry, pid] {
    entry.has_ended = entry.inode != 0 && !is_gone(pid);  // a zombie stays one
    return Told::kEnded;
  };
  if (facts.has_ended) return note_ended();
  Certainty told = certainty_of(pass->backend, facts, now_ns());
  const bool is_spared =
      facts.is_spared || (told.belongs != Belongs::kNo && pass->spared.is_worker(pid));
  is_shared_ |= is_spared && (facts.group == target_.group || facts.is_in_cgroup ||
                              pass->sessions.contains(facts.session));
  if (is_spared || told.belongs == Belongs::kNo) return Told::kNow;
  if (told.belongs == Belongs::kYes) {
    pass->has_met_any = true;
    auto handle = ProcessHandle::open(pid);
    if (!handle && handle.error().system == ESRCH) return note_ended();
    if (handle && ProcessTable::is_same(entry)) {
      Member& member = members_[pid];
      member.identity = handle->identity();
      member.handle = std::move(*handle);
      if (take_session(pass, pid, facts.session)) groups_seen_ns_[facts.group] = now_ns();
      pass->look.found_new = true;
      return Told::kNow;
    }
    told = {Belongs::kUnknown, LeftWhy::kUnreadable, now_ns() + kUnreadableRetry_ns};
  }
  const bool is_hidden =
      facts.token == TokenSeen::kHidden && now_ns() < add_ns(facts.hidden_since_ns, kExecMax_ns);
  if (is_hidden) told.until_ns = std::min(told.until_ns, now_ns() + kHiddenRetry_ns);
  suspect(pid, told);
  return is_hidden ? Told::kLater : Told::kNow;
}

// One look at everyone, for all.
struct Members::Everyone {
  ProcessTable& table;
  std::vector<Pass>& passes;
  bool somebody_ended = false;           // between being listed and being examined
  std::vector<std::size_t> untold = {};  // places in the table: of who is just executing a program

  std::uint64_t judge();

 private:
  enum class Seen { kAll, kNotAll, kAnew };
  void judge_at(std::size_t at);
  void judge_untold();
  Seen judge_new();
};

void Members::Everyone::judge_at(std::size_t at) {
  bool is_untold = false;
  for (Pass& pass : passes) {
    if (!pass.is_believed) continue;
    const Told told = pass.members.judge(&pass, table[at]);
    somebody_ended |= told == Told::kEnded;
    is_untold |= told == Told::kLater;
  }
  if (is_untold) untold.push_back(at);
}

void Members::Everyone::judge_untold() {
  for (const std::size_t at : std::exchange(untold, {})) {
    ProcessTable::forget_seen(table[at]);
    for (Pass& pass : passes) pass.members.forget_suspect(table[at].pid);
    judge_at(at);
  }
}

// Whoever was started since. The last round is one before which and in which everybody was told:
// who could not be told may have forked and ended.
Members::Everyone::Seen Members::Everyone::judge_new() {
  const std::uint64_t until_ns = now_ns() + kNewcomersMax_ns;
  for (int round = 0; round < kRoundsMin || now_ns() < until_ns; ++round) {
    switch (table.begin_round()) {
      case ProcessTable::Round::kBegun:
        break;
      case ProcessTable::Round::kAnew:
        return Seen::kAnew;
      case ProcessTable::Round::kUnknown:
        return somebody_ended || !untold.empty() ? Seen::kAnew : Seen::kAll;
      case ProcessTable::Round::kFailed:
        return Seen::kNotAll;
    }
    const bool were_told = untold.empty();
    judge_untold();
    while (const auto at = table.next_new()) judge_at(*at);
    if (were_told && untold.empty() && table.is_complete()) return Seen::kAll;
    if (!untold.empty()) sched_yield();
  }
  return Seen::kNotAll;
}

// kNever_ns: it saw everyone who was there. Else: when to look again.
std::uint64_t Members::Everyone::judge() {
  Seen seen = Seen::kAnew;
  for (int i = 0; seen == Seen::kAnew && i < kUnsettledMax; ++i) {
    if (!table.list()) return now_ns() + kUnreadableRetry_ns;
    somebody_ended = false;
    untold.clear();
    for (Pass& pass : passes) pass.members.forget_suspects();
    for (std::size_t at = 0; at < table.size(); ++at) judge_at(at);
    seen = judge_new();
  }
  if (seen != Seen::kAll) return now_ns() + kHiddenRetry_ns;
  // Out of descriptors or memory, everybody looks absent.
  return read_stat(getpid()) ? kNever_ns : now_ns() + kUnreadableRetry_ns;
}

// Who must not be signalled is no backend's first process: what else a record says of it is not
// believed (P7). Whoever else has the number now is none of its own.
bool Members::is_believed(const Spared& spared) const {
  const pid_t pid = target_.first.pid;
  if (pid <= 1) return false;
  const auto stat = read_stat(pid);
  if (!stat || stat->start_ticks != target_.first.start_ticks || stat->has_ended()) return true;
  return !spared.is_other(pid) &&
         why_not_signalled(target_, pid, spared, first_is_proved_) == LeftWhy::kNone;
}

Members::Pass Members::begin_look(ProcessTable& table, Spared spared) {
  Pass pass{*this, table, std::move(spared)};
  suspects_.clear();
  drop_ended();  // who is dead before the look cannot fork during it
  open_remembered(&pass);
  // It was registered since.
  std::erase_if(members_, [&](const auto& entry) { return pass.spared.is_other(entry.first); });
  first_is_proved_ |= target_.was_own;
  hold_first(&pass);
  pass.has_met_any = !members_.empty();
  group_owner_ = session_owner_ = NumberOwner::kUnknown;
  pass.is_believed = is_believed(pass.spared);
  if (!pass.is_believed) return pass;
  is_shared_ = false;
  groups_seen_ns_.clear();
  if (target_.adopter.pid > 1) pass.adopter = ProcessHandle::open(target_.adopter).handle;
  pass.with_parents = pass.adopter || any_lives();
  pass.backend = facts(pass.spared);
  group_owner_ = pass.backend.group_number;
  session_owner_ = pass.backend.session_number;
  take_cgroup(&pass);
  for (const auto& [pid, member] : members_)
    static_cast<void>(take_session(&pass, pid, getsid(pid)));
  return pass;
}

// `everyone_ns`: when to look again because it has not seen everyone.
Members::Look Members::end_look(Pass* pass, std::uint64_t everyone_ns) {
  prove_members();
  drop_ended();
  Look& look = pass->look;
  // Whom it met may have forked after being examined.
  const bool is_empty = !pass->has_met_any && members_.empty();
  if (is_empty && suspects_.empty() && everyone_ns == kNever_ns && look.again_ns == kNever_ns)
    find_listeners(pass);
  look.again_ns = std::min(look.again_ns, everyone_ns);
  for (const auto& [pid, suspect] : suspects_)
    look.again_ns = std::min(look.again_ns, suspect.again_ns);
  look.is_gone = is_empty && suspects_.empty() && look.again_ns == kNever_ns;
  if (!is_empty && members_.empty() && suspects_.empty()) look.again_ns = 0;
  return look;
}

Members::Look Members::look(ProcessTable& table, const Spared& spared) {
  std::vector<Request> one{{this, spared}};
  look_at_all(table, &one);
  return one.front().look;
}

void Members::look_at_all(ProcessTable& table, std::vector<Request>* requests) {
  std::vector<Pass> passes;
  passes.reserve(requests->size());
  for (const Request& request : *requests)
    passes.push_back(request.members->begin_look(table, request.spared));
  const std::uint64_t everyone_ns = Everyone{table, passes}.judge();
  for (std::size_t i = 0; i < passes.size(); ++i)
    (*requests)[i].look = passes[i].members.end_look(&passes[i], everyone_ns);
}

// Another user's process is this pool's if it carries the token, was this user's when it was found,
// or was started by one that is (P7). Nobody joins another's session.
bool Members::is_proved(pid_t pid, const Member& member) const {
  if (read_uid(pid) == geteuid()) return member.handle.liveness() == Liveness::kAlive;
  if (!target_.is_spawned) return false;
  if (read_environment(pid, "MODELPOOL_BACKEND") == target_.token) return true;
  const auto stat = read_stat(pid);
  if (!stat) return false;
  const bool has_number =
      (stat->group == target_.group && group_owner_ == NumberOwner::kBackend) ||
      (stat->session == target_.group && session_owner_ == NumberOwner::kBackend);
  if (has_number && first_is_proved_) return true;
  const bool is_begun = was_begun(stat->session);
  return std::any_of(members_.begin(), members_.end(), [&](const auto& entry) {
    const auto& [other, member_too] = entry;
    if (!member_too.is_proved || other == pid || !is_living_member(other)) return false;
    return stat->parent == other || (is_begun && stat->session == getsid(other));
  });
}

void Members::prove_members() {
  for (bool again = true; again;) {
    again = false;
    for (auto& [pid, member] : members_) {
      if (member.is_proved || !member.handle || !is_proved(pid, member)) continue;
      member.is_proved = again = true;
    }
  }
  const auto first = members_.find(target_.first.pid);
  first_is_proved_ |= first != members_.end() && first->second.is_proved;
}

// Nobody is known to be left, but does somebody serve in its place? Who listens there is the
// backend's, or was started to listen there after it: nobody knows which, so its place is kept. A
// socket that is held by one who is older, or another's, is not the backend's alone.
void Members::find_listeners(Pass* pass) {
  const auto address = parse_address(target_.address);
  if (!address) return;
  const SocketInodes left = listening_sockets(*address);
  if (left.empty()) return;
  std::vector<pid_t> holders;
  for (std::size_t i = 0; i < pass->table.size(); ++i) {
    const ProcessTable::Entry& entry = pass->table[i];
    const pid_t pid = entry.pid;
    if (entry.has_ended) continue;
    const auto held = sockets_held(pid, left);
    if (!held || held->empty()) continue;
    const bool is_another = entry.start_ticks < target_.first.start_ticks || pid <= 1 ||
                            pass->spared.is_judge(pid) || pass->spared.is_other(pid) ||
                            pass->spared.is_worker(pid);
    if (is_another) return;
    holders.push_back(pid);
  }
  for (const pid_t pid : holders) {
    suspect(pid, {Belongs::kUnknown, LeftWhy::kListens, now_ns() + kListensRetry_ns});
  }
}

void Members::learn_traces() {
  if (has_traces_ || target_.group == 0 || !is_living_member(target_.first.pid)) return;
  has_traces_ = true;
  auto cgroup = Cgroup::of(target_.first.pid);
  const auto pids = cgroup ? cgroup->processes() : std::nullopt;
  if (!pids || pids->empty()) return;
  // With anybody else in it, it is not the backend's.
  const bool is_its_own = std::all_of(pids->begin(), pids->end(), [this](pid_t pid) {
    return members_.contains(pid) || is_gone(pid);
  });
  if (is_its_own) cgroup_ = std::move(cgroup);
}

void Members::remember() {
  drop_ended();
  suspects_.clear();
  for (auto& [pid, member] : members_) member.handle = ProcessHandle();
  first_ = ProcessHandle();
}

// --- Members: ending -----------------------------------------------------------------------------

void Members::mark_signalled(pid_t pid, int signal) {
  if (const auto at = members_.find(pid); at != members_.end()) at->second.signalled = signal;
}

// Everyone in a group at once, so that nobody forks and leaves in between. The first process's is
// known by its pidfd from Linux 6.9 on; else by the number, while somebody of the backend was just
// seen to have it.
void Members::kill_groups() const {
  std::set<pid_t> groups;
  if (group_owner_ == NumberOwner::kBackend) {
    const auto sent = first_.signal_group(SIGKILL);
    if (!sent && sent.error().system == EINVAL && ProcessHandle::open_zombie(target_.first)) {
      groups.insert(target_.group);
    }
  }
  const std::uint64_t now = now_ns();
  for (const auto& [group, seen_ns] : groups_seen_ns_) {
    if (group > 1 && now < seen_ns + kNumberStays_ns) groups.insert(group);
  }
  for (const pid_t group : groups) kill(-group, SIGKILL);
}

Members::Sent Members::signal(int signal, const Spared& spared) {
  Sent sent;
  for (auto& [pid, member] : members_) {
    if (!member.handle || member.signalled == signal) continue;
    member.refused = why_not_signalled(target_, pid, spared, member.is_proved);
    is_shared_ |= member.refused != LeftWhy::kNone;
  }
  for (auto& [pid, member] : members_) {
    if (!member.handle || member.signalled == signal) continue;
    sent.owed |= member.refused == LeftWhy::kUnreadable;
    if (member.refused != LeftWhy::kNone) continue;
    const auto done = member.handle.signal(signal);
    if (done) {
      member.signalled = signal;
      sent.any = true;
    } else if (done.error().system != ESRCH) {
      member.refused = LeftWhy::kForbidden;
      sent.owed = true;
    }
  }
  if (signal == SIGKILL && !is_shared_) {
    kill_groups();
    if (cgroup_) static_cast<void>(cgroup_->kill());
  }
  return sent;
}

bool Members::has_obstacle() const {
  const auto is_refused = [](const auto& entry) { return entry.second.refused != LeftWhy::kNone; };
  const auto is_untold = [](const auto& entry) { return entry.second.why != LeftWhy::kUnreadable; };
  return std::any_of(members_.begin(), members_.end(), is_refused) ||
         std::any_of(suspects_.begin(), suspects_.end(), is_untold);
}

std::vector<ProcessIdentity> Members::known() const {
  std::vector<ProcessIdentity> known;
  for (const bool in_sessions_of_their_own : {true, false}) {
    for (const auto& [pid, member] : members_) {
      const bool is_in_one = getsid(pid) != target_.first.pid;
      if (pid != target_.first.pid && is_in_one == in_sessions_of_their_own)
        known.push_back(member.identity);
    }
  }
  if (known.size() > kKnownMembersMax) known.resize(kKnownMembersMax);
  return known;
}

void Members::add_descriptors(std::vector<int>* into) const {
  for (const auto& [pid, member] : members_) {
    if (member.handle) into->push_back(member.handle.fd());
  }
  for (const auto& [pid, suspect] : suspects_) {
    if (suspect.handle) into->push_back(suspect.handle.fd());
  }
}

std::vector<LeftProcess> Members::left() const {
  std::vector<LeftProcess> left;
  const auto add = [&left](pid_t pid, LeftWhy why, int signal) {
    LeftProcess process;
    process.pid = static_cast<std::uint32_t>(pid);
    process.why = why;
    process.signal = static_cast<std::uint32_t>(signal);
    if (const auto uid = read_uid(pid)) process.uid = *uid;
    if (const auto stat = read_stat(pid)) set_field(&process.command, stat->command);
    left.push_back(process);
  };
  for (const auto& [pid, member] : members_) {
    if (member.handle.liveness() == Liveness::kDead) continue;
    const LeftWhy sent = member.signalled != 0 ? LeftWhy::kSignalled : LeftWhy::kUnsignalled;
    add(pid, member.refused != LeftWhy::kNone ? member.refused : sent, member.signalled);
  }
  for (const auto& [pid, suspect] : suspects_) {
    if (suspect.handle && suspect.handle.liveness() == Liveness::kDead) continue;
    add(pid, suspect.why, 0);
  }
  return left;
}

}  // namespace modelpool
