#include "protocol/cancel.hpp"

#include <algorithm>

#include "base/duration.hpp"
#include "base/time.hpp"
#include "protocol/outlook.hpp"
#include "segment/settings_block.hpp"

namespace modelpool {

void ask_holder(const Segment& segment, std::uint32_t row, std::uint32_t cell,
                const LeaseName& lease) {
  LeaseRecord& record = segment.lease(row, cell);
  // No time yet: an earlier lease may have been asked with this word, and from the start on they
  // speak of this one. release, all three: whoever sees one sees what was stored before.
  record.cancel_at_ns.store(kNever_ns, std::memory_order_release);
  record.cancel_start_ns.store(lease.start_ns, std::memory_order_release);
  // seq_cst, as the rest: a holder that finds `cancels` unchanged finds the word after that
  record.cancel_word.store(lease.word, std::memory_order_seq_cst);
  // Read now, and not before: the grace begins when he can know.
  record.cancel_at_ns.store(now_ns(), std::memory_order_release);
  WorkerRecord& worker = segment.worker(row);
  worker.cancels.fetch_add(1, std::memory_order_seq_cst);
  worker.wake.fetch_add(1, std::memory_order_seq_cst);
  futex_wake_all(worker.wake);
}

void say_cancellable(const LeaseRef& lease) {
  Worker& worker = *lease.worker;
  // Noted first: whoever has the cell next clears what this one said.
  worker.tagged(lease.cell) |= Worker::kSaysMore;
  // release: with the judge's acquire; of this lease, whose word is published
  worker.lease(lease.cell).flags.store(kLeaseCancellable, std::memory_order_release);
}

LeaseName name_of(const LeaseRef& lease) {
  const LeaseRecord& record = lease.worker->lease(lease.cell);
  // relaxed, both: written by this process, before it had the lease
  return {record.word.load(std::memory_order_relaxed),
          record.start_ns.load(std::memory_order_relaxed)};
}

bool is_asked(const LeaseRef& lease) {
  const LeaseRecord& record = lease.worker->lease(lease.cell);
  const LeaseName own = name_of(lease);
  // seq_cst, with ask_holder: the word, then what was stored before it
  const std::uint64_t word = record.cancel_word.load(std::memory_order_seq_cst);
  return is_cancelled(own.word, own.start_ns, word,
                      record.cancel_start_ns.load(std::memory_order_acquire));
}

std::string why_asked(const LeaseRef& lease) {
  if (!is_asked(lease)) return {};
  const Segment& segment = lease.worker->segment();
  const LeaseRecord& record = lease.worker->lease(lease.cell);
  const BackendRecord& backend = segment.backend(lease.backend.index);
  const Overrides given = unpack_given(backend.given.load());
  const Effective settings = resolve_settings(segment, backend.model.load(), &given);
  LeaseInFlight own;
  own.start_ns = record.start_ns.load(std::memory_order_relaxed);
  own.progress_ns = record.progress_ns.load(std::memory_order_relaxed);
  own.progressed = has_progressed(own.start_ns, own.progress_ns);
  own.limit_ns = record.limit_ns.load(std::memory_order_relaxed);
  const std::uint64_t asked_ns =
      std::min(record.cancel_at_ns.load(std::memory_order_acquire), now_ns());
  LeaseLimit limit;
  const Reason reason = rule_of_ask(settings, own, asked_ns, &limit);
  // Settings may have changed since, and the request may have got on.
  std::string text = "it took too long";
  if (reason != Reason::kNone) {
    text = std::string(setting_info(reason_row(reason).lease_rule->setting).name) + " " +
           format_duration(limit.limit_ns) + " passed";
  }
  const std::uint64_t grace = settings.get(Setting::kOnOverdue);
  return text + "; if it goes on, its backend is killed " +
         (grace == 0 ? std::string("at once") : format_duration(grace) + " after that") +
         ", and all requests there are lost";
}

}  // namespace modelpool
