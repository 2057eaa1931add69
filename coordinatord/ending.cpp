#include "ending.hpp"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/time.hpp"
#include "protocol/slots.hpp"

namespace modelpool::coordinator {
namespace {

// A member's end makes its backend due: at once if it was the last one known, for then the backend
// may be gone and somebody waits for its place; else not more often than this.
constexpr std::uint64_t kLookMin_ns = 2 * kMillisecond_ns;
constexpr std::uint64_t kOwedRetry_ns = 200 * kMillisecond_ns;
constexpr int kPassesMax = 16;  // in a row
// Before the first signal it is looked again for children of those just found, so often at most:
// who forks without end is signalled all the same.
constexpr int kFindingPassesMax = 3;
// Without a thread of its own: how often its owner looks, and tries for one.
constexpr std::uint64_t kWithoutThread_ns = 20 * kMillisecond_ns;
// After looks by time that changed nothing the next one comes later: by this part of how long that
// has been so. What is waited for then is the end of a process, or of a worker, and both are told.
constexpr std::uint64_t kVainPart = 4;
constexpr std::uint64_t kVainLookMax_ns = 5 * kSecond_ns;
// Looks that are due so soon are made with those that are due: /proc is read once for all.
constexpr std::uint64_t kTogether_ns = 100 * kMillisecond_ns;
constexpr std::size_t kLearnersMax = 16;  // at a time, so that an order does not wait long
// Whoever is there this long after an order is named.
constexpr std::uint64_t kLeftAfter_ns = kSecond_ns;

bool are_equal(const std::vector<LeftProcess>& a, const std::vector<LeftProcess>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(LeftProcess)) == 0);
}

}  // namespace

Result<std::unique_ptr<Endings>> Endings::make(std::shared_ptr<Segment> segment) {
  Result<Bell> work = Bell::make();
  if (!work) return fail(std::move(work.error()));
  Result<Bell> report = Bell::make();
  if (!report) return fail(std::move(report.error()));
  return std::unique_ptr<Endings>(
      new Endings(std::move(segment), std::move(*work), std::move(*report)));
}

Result<> Endings::start() {
  return helper_.start([this] { run(); });
}

std::uint64_t Endings::look_again_ns(std::uint64_t now_ns) {
  if (helper_.is_running()) return kNever_ns;
  if (helper_.is_to_be_tried(now_ns) && start()) return kNever_ns;
  pass(0);
  return now_ns + kWithoutThread_ns;
}

Endings::Endings(std::shared_ptr<Segment> segment, Bell work_bell, Bell report_bell)
    : segment_(std::move(segment)),
      work_bell_(std::move(work_bell)),
      report_bell_(std::move(report_bell)) {}

Endings::~Endings() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_bell_.ring();
  helper_.join();
}

void Endings::learn(BackendRef backend, Target target, ProcessHandle first) {
  {
    const std::lock_guard lock(mutex_);
    commands_.push_back(
        {Command::Kind::kLearn, {backend, std::move(target), std::move(first), 0, false}});
  }
  work_bell_.ring();
}

std::uint64_t Endings::learned_ns(BackendRef backend) const {
  const std::lock_guard lock(mutex_);
  const auto at = learned_ns_.find(pack_ref(backend));
  return at == learned_ns_.end() ? 0 : at->second;
}

void Endings::order(EndingOrder order) {
  {
    const std::lock_guard lock(mutex_);
    commands_.push_back({Command::Kind::kOrder, std::move(order)});
  }
  work_bell_.ring();
}

void Endings::look_again() {
  {
    const std::lock_guard lock(mutex_);
    commands_.push_back({Command::Kind::kLookAgain, {}});
  }
  work_bell_.ring();
}

void Endings::forget(BackendRef backend) {
  {
    const std::lock_guard lock(mutex_);
    commands_.push_back({Command::Kind::kForget, {backend, {}, {}, 0, false}});
    reports_.erase(pack_ref(backend));
    learned_ns_.erase(pack_ref(backend));
  }
  work_bell_.ring();
}

std::vector<EndingReport> Endings::take_reports() {
  report_bell_.drain();
  std::vector<EndingReport> taken;
  const std::lock_guard lock(mutex_);
  for (auto& [packed, report] : reports_) taken.push_back(std::move(report));
  reports_.clear();
  return taken;
}

// --- The thread ----------------------------------------------------------------------------------

void Endings::run() {
  static_cast<void>(table_.list());  // now, rather than while somebody waits for the first place
  while (pass(kNever_ns)) {
  }
}

bool Endings::pass(std::uint64_t wait_max_ns) {
  if (!take_commands()) return false;
  end_all();
  learn_some();
  wait(wait_max_ns);
  return true;
}

bool Endings::is_due(const Watched& watched, std::uint64_t now_ns) {
  return !watched.report.has_vanished && now_ns >= next_look_ns(watched);
}

std::vector<Endings::Watched*> Endings::find_due(bool is_ordered) {
  const std::uint64_t now = now_ns();
  std::vector<Watched*> due;
  bool any = false;
  for (auto& [packed, watched] : all_) {
    if (watched.is_ordered != is_ordered || !is_due(watched, add_ns(now, kTogether_ns))) continue;
    const bool is_now = is_due(watched, now);
    any |= is_now;
    const bool may_be_now = age_ns(now, watched.vain_since_ns) >= kSecond_ns;
    if (is_now || may_be_now) due.push_back(&watched);
  }
  if (!any) due.clear();
  return due;
}

// A look at every one of them; nobody's processes are examined before all have begun.
std::vector<Members::Request> Endings::look_at(const std::vector<Watched*>& all) {
  const auto spared = std::make_shared<const SparedProcesses>(*segment_);
  std::vector<Members::Request> looks;
  looks.reserve(all.size());
  for (Watched* watched : all)
    looks.push_back({&watched->members, Spared(spared, watched->report.backend.index)});
  Members::look_at_all(table_, &looks);
  return looks;
}

// For a command, the end of any member, or the time of the next look.
void Endings::wait(std::uint64_t wait_max_ns) {
  std::vector<pollfd> waits{{work_bell_.fd(), POLLIN, 0}};
  std::vector<Watched*> owners{nullptr};
  std::uint64_t next_ns = kNever_ns;
  std::vector<int> descriptors;
  for (auto& [packed, watched] : all_) {
    if (watched.report.has_vanished) continue;
    next_ns = std::min(next_ns, next_look_ns(watched));
    if (watched.is_due) continue;
    descriptors.clear();
    watched.members.add_descriptors(&descriptors);
    for (const int descriptor : descriptors) {
      waits.push_back({descriptor, POLLIN, 0});
      owners.push_back(&watched);
    }
  }
  const std::uint64_t left_ns = std::min(age_ns(next_ns, now_ns()), wait_max_ns);
  const timespec timeout{static_cast<time_t>(left_ns / kSecond_ns),
                         static_cast<long>(left_ns % kSecond_ns)};
  ppoll(waits.data(), waits.size(),
        next_ns == kNever_ns && wait_max_ns == kNever_ns ? nullptr : &timeout, nullptr);
  for (std::size_t i = 1; i < waits.size(); ++i) {
    if (waits[i].revents != 0) owners[i]->is_due = true;
  }
}

bool Endings::take_commands() {
  work_bell_.drain();
  std::vector<Command> commands;
  {
    const std::lock_guard lock(mutex_);
    if (stop_) return false;
    commands.swap(commands_);
  }
  for (Command& command : commands) obey(std::move(command));
  return true;
}

void Endings::obey(Command command) {
  if (command.kind == Command::Kind::kLookAgain) {
    for (auto& [packed, watched] : all_) watched.is_due |= watched.is_ordered;
    return;
  }
  EndingOrder& order = command.order;
  const std::uint64_t packed = pack_ref(order.backend);
  if (command.kind == Command::Kind::kForget) {
    all_.erase(packed);
    // Again: a look that was under way may have said something since.
    const std::lock_guard lock(mutex_);
    reports_.erase(packed);
    learned_ns_.erase(packed);
    return;
  }
  Watched& watched = all_.try_emplace(packed, order.target).first->second;
  if (command.kind == Command::Kind::kLearn && watched.is_ordered) return;
  watched.members.update(std::move(order.target), std::move(order.first));
  watched.report.backend = order.backend;
  watched.is_due = true;
  watched.looked_ns = 0;
  if (command.kind == Command::Kind::kLearn) return;
  watched.is_ordered = true;
  watched.has_signalled = order.signal == 0;
  watched.first_signalled = order.first_signalled;
  watched.ordered_ns = now_ns();
  watched.report.signal = order.signal;
  watched.report.sent_ns = 0;
  watched.vain_since_ns = watched.ordered_ns;
  watched.report.has_vanished = false;
}

std::uint64_t Endings::next_look_ns(const Watched& watched) {
  if (!watched.is_due) return watched.again_ns;
  const bool last_has_ended = !watched.members.is_empty() && !watched.members.any_lives();
  return last_has_ended ? 0 : watched.looked_ns + kLookMin_ns;
}

void Endings::learn_some() {
  std::vector<Watched*> learners = find_due(false);
  if (learners.size() > kLearnersMax) learners.resize(kLearnersMax);
  for (Watched* watched : learners) {
    watched->is_due = false;
    watched->again_ns = kNever_ns;
  }
  std::vector<Watched*> left = learners;
  for (int pass = 0; pass < kPassesMax && !left.empty(); ++pass) {
    const auto looks = look_at(left);
    std::vector<Watched*> again;
    for (std::size_t i = 0; i < left.size(); ++i) {
      if (looks[i].look.found_new) again.push_back(left[i]);
    }
    left = std::move(again);
  }
  for (Watched* watched : learners) {
    watched->members.learn_traces();
    record_known(watched);
    watched->members.remember();
    const std::lock_guard lock(mutex_);
    learned_ns_[pack_ref(watched->report.backend)] = now_ns();
  }
}

void Endings::end_all() {
  std::vector<Watched*> left = find_due(true);
  for (Watched* watched : left) {
    watched->is_woken = watched->is_due;
    watched->is_due = false;
    watched->looked_ns = now_ns();
    watched->has_found = !watched->has_signalled;
  }
  for (int pass = 0; pass < kPassesMax && !left.empty(); ++pass) {
    const auto looks = look_at(left);
    std::vector<Watched*> again;
    for (std::size_t i = 0; i < left.size(); ++i) {
      if (end_members(left[i], looks[i], pass)) again.push_back(left[i]);
    }
    left = std::move(again);
  }
  for (Watched* watched : left) {
    watched->again_ns = now_ns() + kLookMin_ns;
    finish_look(watched);
  }
}

// After a look. True: another has to follow at once.
bool Endings::end_members(Watched* watched, const Members::Request& request, int pass) {
  Members& members = watched->members;
  EndingReport& report = watched->report;
  const Members::Look& look = request.look;
  watched->again_ns = look.again_ns;
  if (look.is_gone) {
    report.has_vanished = true;
    report.left.clear();
    this->report(watched);
    return false;
  }
  if (watched->first_signalled) members.mark_signalled(members.target().first.pid, report.signal);
  watched->first_signalled = false;
  // Before the first signal everyone is found: who ends by it cannot be asked for its children.
  watched->has_found |= look.found_new;
  if (!watched->has_signalled && look.found_new && pass < kFindingPassesMax) return true;
  if (!watched->has_signalled) members.learn_traces();
  watched->has_signalled = true;
  Members::Sent sent;
  record_known(watched);
  if (report.signal != 0) sent = members.signal(report.signal, request.spared);
  watched->has_found |= sent.any;
  if (sent.owed) watched->again_ns = std::min(watched->again_ns, now_ns() + kOwedRetry_ns);
  if (sent.any && report.sent_ns == 0) {
    report.sent_ns = now_ns();
    this->report(watched);
  }
  // What a member forked while it was being found is found by the next pass.
  if (sent.any || look.found_new || look.again_ns == 0) return true;
  finish_look(watched);
  return false;
}

void Endings::finish_look(Watched* watched) {
  if (watched->has_found) record_known(watched);
  look_for_left(watched);
  const std::uint64_t now = now_ns();
  if (watched->is_woken || watched->has_found) watched->vain_since_ns = now;
  // Its user may change, or a worker execute another program: nobody tells that.
  if (watched->members.has_obstacle())
    watched->again_ns = std::min(watched->again_ns, now + kVainLookMax_ns);
  if (watched->again_ns == kNever_ns) return;
  const std::uint64_t later_ns = age_ns(now, watched->vain_since_ns) / kVainPart;
  watched->again_ns = std::max(watched->again_ns, now + std::min(kVainLookMax_ns, later_ns));
}

void Endings::look_for_left(Watched* watched) {
  const std::uint64_t named_ns = watched->ordered_ns + kLeftAfter_ns;
  if (now_ns() < named_ns && !watched->members.has_obstacle() && watched->report.left.empty()) {
    watched->again_ns = std::min(watched->again_ns, named_ns);
    return;
  }
  std::vector<LeftProcess> left = watched->members.left();
  for (LeftProcess& process : left) {
    // Only watched: whom the earlier coordinator's signal has reached is not known.
    if (watched->report.signal == 0 && process.why == LeftWhy::kUnsignalled)
      process.why = LeftWhy::kOutlived;
  }
  if (are_equal(left, watched->report.left)) return;
  watched->report.left = std::move(left);
  report(watched);
}

// So that the next coordinator knows them, too.
void Endings::record_known(Watched* watched) const {
  std::vector<ProcessIdentity> known = watched->members.known();
  const std::vector<ProcessIdentity>& before = watched->recorded;
  const bool is_same =
      std::equal(known.begin(), known.end(), before.begin(), before.end(),
                 [](const ProcessIdentity& a, const ProcessIdentity& b) { return a.is(b); });
  const BackendRef ref = watched->report.backend;
  if (is_same || load_state(*segment_, ref.index).generation != ref.generation) return;
  segment_->backend(ref.index).known.publish(known_record(ref.generation, known));
  watched->recorded = std::move(known);
}

void Endings::report(Watched* watched) {
  {
    const std::lock_guard lock(mutex_);
    reports_[pack_ref(watched->report.backend)] = watched->report;
  }
  report_bell_.ring();
}

}  // namespace modelpool::coordinator
