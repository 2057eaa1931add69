#include "helper.hpp"

#include <system_error>
#include <utility>

#include "base/shortage.hpp"
#include "base/time.hpp"

namespace modelpool::coordinator {
namespace {

constexpr std::uint64_t kTryAgain_ns = kSecond_ns;

}  // namespace

Result<> Helper::start(std::function<void()> body) {
  if (is_running()) return {};
  try_again_ns_ = now_ns() + kTryAgain_ns;
  try {
    thread_ = std::thread(std::move(body));
    return {};
  } catch (const std::system_error& error) {
    const int cause = error.code().value();
    return fail_errno(cause, "start a thread", shortage_advice(Needs::kThread, cause));
  }
}

void Helper::join() {
  if (is_running()) thread_.join();
}

}  // namespace modelpool::coordinator
