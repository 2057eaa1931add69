#include "doorbell.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

#include "base/shortage.hpp"
#include "base/time.hpp"
#include "bell.hpp"
#include "thread.hpp"

namespace modelpool::coordinator {
namespace {

constexpr std::uint64_t kLookEvery_ns = 10 * kMillisecond_ns;
constexpr std::uint64_t kTryAgain_ns = kSecond_ns;

}  // namespace

Result<std::unique_ptr<Doorbell>> Doorbell::make(std::shared_ptr<Segment> segment) {
  std::unique_ptr<Doorbell> doorbell(new Doorbell(std::move(segment)));
  doorbell->event_ = above_stdio(Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)));
  if (!doorbell->event_) {
    return fail_errno(errno, "create the doorbell's eventfd",
                      shortage_advice(Needs::kDescriptor, errno));
  }
  return doorbell;
}

Doorbell::~Doorbell() {
  stop_.store(true, std::memory_order_seq_cst);
  if (!thread_.joinable()) return;
  ring(*segment_);
  thread_.join();
}

Result<> Doorbell::start() {
  if (thread_.joinable()) return {};
  // Read before the loop's next scan: a ring that comes after it is one to look for.
  const std::uint32_t seen = segment_->coordinator().doorbell.load(std::memory_order_seq_cst);
  auto thread = start_thread([this, seen] { listen(seen); });
  try_again_ns_ = now_ns() + kTryAgain_ns;
  if (!thread) return fail(thread.error());
  thread_ = std::move(*thread);
  return {};
}

void Doorbell::listen(std::uint32_t seen) {
  const HalfWord& doorbell = segment_->coordinator().doorbell;
  while (!stop_.load(std::memory_order_seq_cst)) {
    futex_wait(doorbell, seen, kNever_ns);
    const std::uint32_t now = doorbell.load(std::memory_order_seq_cst);
    if (now == seen) continue;
    seen = now;
    ring_bell(event_);
  }
}

void Doorbell::drain() { drain_bell(event_); }

std::uint64_t Doorbell::look_again_ns(std::uint64_t now_ns) {
  if (!thread_.joinable() && now_ns >= try_again_ns_) static_cast<void>(start());
  return thread_.joinable() ? kNever_ns : now_ns + kLookEvery_ns;
}

}  // namespace modelpool::coordinator
