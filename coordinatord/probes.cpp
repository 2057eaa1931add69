#include "probes.hpp"

#include <spdlog/spdlog.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/probe_target.hpp"
#include "base/shortage.hpp"
#include "base/text.hpp"
#include "base/time.hpp"
#include "protocol/slots.hpp"
#include "trouble.hpp"

namespace modelpool::coordinator {
namespace {

// So long after a probe's own timeout the program should have answered, however busy the host.
constexpr std::uint64_t kSilent_ns = 2 * kSecond_ns;
constexpr std::uint64_t kPauseFirst_ns = kSecond_ns;
constexpr std::uint64_t kPauseMax_ns = 60 * kSecond_ns;
constexpr std::uint64_t kIntervalMin_ns = 10 * kMillisecond_ns;
constexpr std::uint64_t kSendAgain_ns = 100 * kMillisecond_ns;

struct ProbeRule {
  std::string_view probe;
  std::uint64_t interval_ns;
  std::uint64_t timeout_ns;
};
std::optional<ProbeRule> rule_of(const BackendView& b) {
  const Effective& settings = b.settings();
  const ProbeRule rule{settings.text(Setting::kProbe), settings.get(Setting::kProbeInterval),
                       settings.get(Setting::kProbeTimeout)};
  if (rule.probe.empty() || rule.interval_ns == 0 || rule.timeout_ns == 0) return std::nullopt;
  return rule;
}

bool is_open_or_closed(const StateWord& state) {
  return state.state == BackendState::kReady || state.state == BackendState::kEvicting;
}

}  // namespace

Result<std::unique_ptr<Probes>> Probes::make(std::shared_ptr<Segment> segment, Recorder* recorder) {
  Fd epoll = above_stdio(Fd(epoll_create1(EPOLL_CLOEXEC)));
  if (!epoll)
    return fail_errno(errno, "create an epoll set", shortage_advice(Needs::kDescriptor, errno));
  return std::unique_ptr<Probes>(new Probes(std::move(segment), recorder, std::move(epoll)));
}

// --- The program ---------------------------------------------------------------------------------

bool Probes::has_program(std::uint64_t now) {
  if (program_.is_running()) return true;
  if (now < start_again_ns_) {
    wake_at(start_again_ns_);
    return false;
  }
  const auto started = program_.start();
  if (!started) {
    lose_program(started.error().text, now);
    return false;
  }
  started_ns_ = now;
  epoll_event event{};
  event.events = EPOLLIN;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, program_.fd(), &event) == 0) return true;
  lose_program("unable to watch modelpool-probe: " + shortage_advice(Needs::kEpollWatch, errno),
               now);
  return false;
}

void Probes::lose_program(const std::string& why, std::uint64_t now) {
  program_.end();
  if (now > add_ns(started_ns_, kPauseMax_ns)) pause_ns_ = 0;
  pause_ns_ = std::clamp(2 * pause_ns_, kPauseFirst_ns, kPauseMax_ns);
  start_again_ns_ = now + pause_ns_;
  wake_at(start_again_ns_);
  if (!std::exchange(is_lost_, true))
    spdlog::warn("{}; no backend is probed until it answers again", why);
  for (auto& [key, subject] : subjects_) {
    subject.number = 0;
    subject.failed_ns.clear();
  }
}

// --- Questions -----------------------------------------------------------------------------------

void Probes::look_after(const Snapshot& snapshot) {
  wake_ns_ = kNever_ns;
  const std::uint64_t now = now_ns();
  std::map<std::uint64_t, Subject> before = std::exchange(subjects_, {});
  for (const BackendView& b : snapshot.backends) {
    const auto rule = rule_of(b);
    if (!rule || !is_open_or_closed(b.state) || !probe_target(b.address, rule->probe)) continue;
    const std::uint64_t key = pack_ref(b.ref);
    const auto known = before.find(key);
    Subject subject;
    if (known != before.end() && known->second.probe == rule->probe)
      subject = std::move(known->second);
    subject.backend = b.ref;
    subject.probe = rule->probe;
    Subject& kept = subjects_.emplace(key, std::move(subject)).first->second;
    if (kept.number != 0 || b.state.state != BackendState::kReady) continue;
    const std::uint64_t interval_ns = std::max(rule->interval_ns, kIntervalMin_ns);
    const std::uint64_t due_ns =
        add_ns(kept.asked_ns != 0 ? kept.asked_ns : b.ready_ns, interval_ns);
    if (now < due_ns) {
      wake_at(due_ns);
    } else if (has_program(now)) {
      ask(&kept, b, now);
    }
  }
  for (const auto& [key, subject] : subjects_) {
    if (subject.number == 0) continue;
    if (now >= subject.overdue_ns)
      return lose_program("modelpool-probe is silent: it is replaced", now);
    wake_at(subject.overdue_ns);
  }
}

void Probes::ask(Subject* subject, const BackendView& b, std::uint64_t now) {
  ProbeQuestion question;
  question.number = next_number_;
  question.timeout_ms =
      (b.settings().get(Setting::kProbeTimeout) + kMillisecond_ns - 1) / kMillisecond_ns;
  question.probe = subject->probe;
  question.address = b.address;
  if (!program_.send(format_question(question))) return wake_at(now + kSendAgain_ns);
  ++next_number_;
  subject->model = b.model;
  subject->pid = static_cast<std::uint32_t>(b.process.pid);
  subject->address = b.address;
  subject->number = question.number;
  subject->asked_ns = now;
  subject->overdue_ns = add_ns(now, add_ns(question.timeout_ms * kMillisecond_ns, kSilent_ns));
}

// --- Answers -------------------------------------------------------------------------------------

void Probes::take_answers() {
  const bool was_running = program_.is_running();
  while (const auto message = program_.receive(kMessageMax_bytes)) {
    const auto answer = parse_answer(*message);
    const auto subject = std::find_if(subjects_.begin(), subjects_.end(), [&](const auto& one) {
      return answer && one.second.number == answer->number && answer->number != 0;
    });
    // One whose backend has gone meanwhile has no subject any more.
    const bool is_known = answer && answer->number != 0 && answer->number < next_number_;
    if (!is_known) return lose_program("modelpool-probe talks nonsense: it is replaced", now_ns());
    if (std::exchange(is_lost_, false)) spdlog::info("modelpool-probe answers again");
    if (subject != subjects_.end()) take(&subject->second, *answer);
  }
  if (was_running && !program_.is_running()) lose_program("modelpool-probe has ended", now_ns());
}

void Probes::take(Subject* subject, const ProbeAnswer& answer) {
  subject->number = 0;
  const StateWord state = load_state(*segment_, subject->backend.index);
  if (state.generation != subject->backend.generation || !is_open_or_closed(state)) return;
  const std::uint64_t noted =
      segment_->backend(subject->backend.index).probe_failures.load(std::memory_order_relaxed);
  const std::uint32_t failures =
      high_half(noted) == subject->backend.generation ? low_half(noted) : 0;
  switch (answer.outcome) {
    case ProbeOutcome::kWell:
      subject->failed_ns.clear();
      if (failures != 0) note_failures(*subject, 0);
      return;
    case ProbeOutcome::kUnknown:
      warn_of("probe", "unable to probe " + escape(subject->model) + ": " + answer.text);
      return;
    case ProbeOutcome::kFailed:
      break;
  }
  if (state.state != BackendState::kReady) return;
  subject->error = answer.text;
  if (subject->failed_ns.size() == kProbeFailuresMax)
    subject->failed_ns.erase(subject->failed_ns.begin());
  subject->failed_ns.push_back(subject->asked_ns);
  note_failures(*subject, failures + (failures < UINT32_MAX));
  if (subject->failed_ns.size() == 1) record_failure(*subject);
}

void Probes::note_failures(const Subject& subject, std::uint32_t count) const {
  // release: with the state, as all that a reader takes for this generation's
  segment_->backend(subject.backend.index)
      .probe_failures.store(pack_half(subject.backend.generation, count),
                            std::memory_order_release);
}

void Probes::record_failure(const Subject& subject) const {
  EventData event;
  event.kind = EventKind::kProbeFailed;
  event.pid = subject.pid;
  event.backend = subject.backend.index;
  event.generation = subject.backend.generation;
  set_field(&event.model, subject.model);
  set_field(&event.text, subject.probe + " at " + subject.address + ": " + subject.error);
  recorder_->write(event);
}

std::vector<Unanswered> Probes::unanswered(const Snapshot& snapshot) const {
  std::vector<Unanswered> all;
  for (const auto& [key, subject] : subjects_) {
    if (subject.failed_ns.empty()) continue;
    const BackendView* const b = snapshot.find(subject.backend);
    if (b != nullptr && b->settings().text(Setting::kProbe) == subject.probe)
      all.push_back({subject.backend, subject.failed_ns, subject.error});
  }
  return all;
}

bool Probes::answers(BackendRef backend) const {
  const auto subject = subjects_.find(pack_ref(backend));
  return subject == subjects_.end() || subject->second.failed_ns.empty();
}

}  // namespace modelpool::coordinator
