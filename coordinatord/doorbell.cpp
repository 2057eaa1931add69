#include "doorbell.hpp"

#include <utility>

#include "base/time.hpp"

namespace modelpool::coordinator {
namespace {

constexpr std::uint64_t kLookEvery_ns = 10 * kMillisecond_ns;

}  // namespace

Result<std::unique_ptr<Doorbell>> Doorbell::make(std::shared_ptr<Segment> segment) {
  Result<Bell> event = Bell::make();
  if (!event) return fail(std::move(event.error()));
  return std::unique_ptr<Doorbell>(new Doorbell(std::move(segment), std::move(*event)));
}

Doorbell::~Doorbell() {
  stop_.store(true, std::memory_order_seq_cst);
  if (!helper_.is_running()) return;
  ring(*segment_);
  helper_.join();
}

Result<> Doorbell::start() {
  // Read before the loop's next scan: a ring that comes after it is one to look for.
  const std::uint32_t seen = segment_->coordinator().doorbell.load(std::memory_order_seq_cst);
  return helper_.start([this, seen] { listen(seen); });
}

void Doorbell::listen(std::uint32_t seen) {
  const HalfWord& doorbell = segment_->coordinator().doorbell;
  while (!stop_.load(std::memory_order_seq_cst)) {
    futex_wait(doorbell, seen, kNever_ns);
    const std::uint32_t now = doorbell.load(std::memory_order_seq_cst);
    if (now == seen) continue;
    seen = now;
    event_.ring();
  }
}

std::uint64_t Doorbell::look_again_ns(std::uint64_t now_ns) {
  if (!helper_.is_running() && helper_.is_to_be_tried(now_ns)) static_cast<void>(start());
  return helper_.is_running() ? kNever_ns : now_ns + kLookEvery_ns;
}

}  // namespace modelpool::coordinator
