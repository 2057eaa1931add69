// poolctl evict: ask the coordinator to end a model's backend, and see it gone.
#include <algorithm>

#include "base/duration.hpp"
#include "base/time.hpp"
#include "json.hpp"
#include "protocol/members.hpp"

namespace modelpool::poolctl {
namespace {

// Long enough for a drain and a stop with their default limits, 30s and 15s.
constexpr std::uint64_t kDefaultEvictTimeout_ns = 60 * kSecond_ns;
constexpr std::uint64_t kLookEvery_ns = 20 * kMillisecond_ns;

struct Options {
  std::string model;
  bool force = false;
  std::uint64_t timeout_ns = kDefaultEvictTimeout_ns;
};

std::string leases_of(const BackendView& backend, std::uint64_t now) {
  return "it still has " + count_text(backend.in_flight, "lease") + ", the oldest for " +
         age_text(now, backend.oldest_start_ns);
}

class Eviction {
 public:
  Eviction(const Options& options, std::shared_ptr<Segment> segment, BackendRef ref,
           std::uint32_t asked)
      : options_(options),
        segment_(std::move(segment)),
        reader_(segment_),
        ref_(ref),
        asked_(asked) {}

  // Until the backend of that generation is gone. The pid it had goes to `pid`.
  Result<> wait(pid_t* pid) {
    const std::uint64_t until = add_ns(now_ns(), options_.timeout_ns);
    std::uint64_t absent_since = 0;
    for (;;) {
      // acquire: pairs with the coordinator's bump, made after what it announces
      const std::uint32_t bell = segment_->coordinator().event_bell.load(std::memory_order_acquire);
      // The liveness first: a coordinator seen dead after the look may have answered before it
      // died.
      const JudgeView judge = look_at_judge(*segment_, now_ns());
      const bool absent = judge.state != JudgeState::kAnswers;
      const Snapshot& snapshot = reader_.read();
      const std::uint64_t now = now_ns();
      const BackendView* backend = snapshot.find(ref_);
      if (backend == nullptr || !backend->live()) return {};
      if (backend->process.pid != 0) *pid = backend->process.pid;
      // The coordinator takes the request off a ready backend when it cannot be granted.
      if (backend->state.state == BackendState::kReady && (backend->control & kControlEvict) == 0) {
        return refuse(Errc::kTimeout,
                      backend->in_flight > 0
                          ? leases_of(*backend, now) + "; wait for them, or use --force to cut them"
                          : "it was used meanwhile, or another evict withdrew; ask again");
      }
      if (!absent) absent_since = 0;
      if (absent && absent_since == 0) {
        absent_since = judge.state == JudgeState::kHangs ? judge.hung_since_ns : now;
      }
      if (absent && (age_ns(now, absent_since) >= kCoordinatorGrace_ns || now >= until)) {
        return withdraw(*backend, Errc::kNoCoordinator, explain_absence(*segment_, judge, now));
      }
      if (now >= until) {
        const std::string why =
            backend->in_flight > 0
                ? leases_of(*backend, now) + "; wait longer, or use --force"
                : "it is not gone after " + format_age(options_.timeout_ns) +
                      (backend->left.count != 0 ? ": " + left_text(backend->left) : "") +
                      advice(*backend);
        return withdraw(*backend, Errc::kTimeout, why);
      }
      futex_wait(segment_->coordinator().event_bell, bell, std::min(until, now + kLookEvery_ns));
    }
  }

 private:
  static std::string advice(const BackendView& backend) {
    if (!is_spared_sigkill(backend)) return "; wait longer with --timeout";
    return ": SIGKILL does not follow, stop_grace is off; end process " +
           std::to_string(backend.process.pid) + ", or set stop_grace";
  }
  tl::unexpected<Error> refuse(Errc code, const std::string& why) {
    return fail(code, "unable to evict " + escape(options_.model) + ": " + why);
  }
  // Nothing half-done: what was not granted in time is not asked for any longer.
  tl::unexpected<Error> withdraw(const BackendView& backend, Errc code, const std::string& why) {
    if (backend.state.state == BackendState::kStopping) {
      return refuse(code, why + " (it is being stopped already)");
    }
    if (asked_ == 0) return refuse(code, why + " (the request of another evict stays)");
    set_control(*segment_, ref_, 0, asked_);
    ring(*segment_);
    return refuse(code, why + " (the request was withdrawn)");
  }

  const Options& options_;
  std::shared_ptr<Segment> segment_;
  SnapshotReader reader_;
  BackendRef ref_;
  std::uint32_t asked_;  // what nobody had asked before: ours to withdraw
};

// A backend that is overdue does not serve its model any more, so find_backend does not find it.
std::optional<std::string> why_not_ended(const std::shared_ptr<Segment>& segment,
                                         const std::string& model) {
  SnapshotReader reader(segment);
  for (const BackendView& backend : reader.read().backends) {
    if (!backend.overdue || backend.model != model) continue;
    if (backend.left.count != 0) return left_text(backend.left);
    return "process " + std::to_string(backend.process.pid) + " does not die of SIGKILL";
  }
  return std::nullopt;
}

int evict(const Context& context, const Options& options) {
  // Not through a Pool: that takes a worker's row, and all of them may be in use.
  const auto segment = Segment::attach(context.pool, {context.dir, false, {}, nullptr});
  if (!segment) return report(segment.error());
  const std::uint64_t start = now_ns();
  const auto found = find_backend(**segment, options.model);
  const std::uint32_t request = kControlEvict | (options.force ? kControlForce : 0);
  if (!found) {
    if (const auto why = why_not_ended(*segment, options.model)) {
      return report({Errc::kTimeout,
                     "unable to evict " + escape(options.model) + ": " + *why +
                         "; it keeps its place until that has ended",
                     0, 0});
    }
  }
  const std::uint32_t asked = found ? request & ~load_control(**segment, found->ref) : 0;
  if (!found || !set_control(**segment, found->ref, request, 0)) {
    return report({Errc::kNotLoaded,
                   "unable to evict " + escape(options.model) + ": no backend serves it" +
                       hint_at_model(*segment, options.model),
                   0, 0});
  }
  // acquire: published with the state in which it was found
  auto pid =
      static_cast<pid_t>((*segment)->backend(found->ref.index).pid.load(std::memory_order_acquire));
  ring(**segment);
  if (options.timeout_ns > 0) {
    if (auto gone = Eviction(options, *segment, found->ref, asked).wait(&pid); !gone)
      return report(gone.error());
  }
  if (context.json) {
    print_json({{"model", options.model},
                {"gone", options.timeout_ns > 0},
                {"pid", json_pid(pid)},
                {"generation", found->ref.generation},
                {"took_ms", json_ms(now_ns() - start)}});
  }
  return kDone;
}

}  // namespace

void add_evict(CLI::App& root, Context& context) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      add_command(root, context, "evict",
                  "End a model's backend: when its leases have ended, or with --force at once",
                  "Returns 0 when its processes are gone. Otherwise 1 and the reason: it still has "
                  "leases after\n"
                  "drain_timeout, it is not loaded, no coordinator answers for 10s, it took longer "
                  "than --timeout.\n"
                  "A request that was not granted is withdrawn, but not that of another evict.\n\n"
                  "A model that is being loaded is evicted, too: its loader loses the ticket, and "
                  "nothing cools\n"
                  "down. The next waiter loads it anew.\n\n"
                  "Examples:\n"
                  "  poolctl evict llama-3-8b\n"
                  "  poolctl evict llama-3-8b --force --timeout 20s\n",
                  [&context, options] { return evict(context, *options); });
  add_model(command, &options->model);
  add_flag(command, "--force", &options->force, "Cut its leases");
  add_duration(command, "--timeout", &options->timeout_ns,
               "Wait at most this long (1m); 0: only ask, and leave the request");
}

}  // namespace modelpool::poolctl
