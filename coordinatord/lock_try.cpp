#include "lock_try.hpp"

#include "base/time.hpp"
#include "trouble.hpp"

namespace modelpool::coordinator {
namespace {

constexpr std::uint64_t kLogAfter_ns = kSecond_ns;

}  // namespace

std::optional<LockGuard> LockTry::lock(const std::string& purpose) {
  auto lock = lock_for(segment_->lock(), 0);
  if (!lock) {
    was_held(purpose, lock.error());
    return std::nullopt;
  }
  was_free();
  return std::move(*lock);
}

void LockTry::was_held(const std::string& purpose, const Error& held) {
  const std::uint64_t now = now_ns();
  if (held_since_ns_ == 0) held_since_ns_ = now;
  if (age_ns(now, held_since_ns_) >= kLogAfter_ns)
    warn_of("mutex", "unable to " + purpose + " yet: " + held.text);
}

}  // namespace modelpool::coordinator
