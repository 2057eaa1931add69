// Does a backend answer yet? What --ready of `lease` and `load` waits for.
//
// Safety: the main thread. An HTTP request runs on a thread of its own, so that a signal, the end
// of the backend or the deadline ends the wait at once; it is joined before the call returns.
//
// Errors: kInvalid for texts that name no check or no address that can be asked.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/listener.hpp"
#include "base/process.hpp"
#include "command.hpp"
#include "modelpool/result.hpp"

namespace modelpool::poolctl {

struct ReadyCheck {
  enum class Kind { kTcp, kHttp, kDelay };
  Kind kind = Kind::kTcp;
  std::string path;            // kHttp
  std::uint64_t delay_ns = 0;  // kDelay
};
Result<ReadyCheck> parse_ready_check(std::string_view text);  // tcp, http:/path, delay:D

// Where an address leads: one place for each number that its host stands for.
using Endpoint = std::vector<Address>;
// Asks the resolver, which may take its time: before anything is held. Errors: kInvalid.
Result<Endpoint> resolve(std::string_view address);

enum class Answer { kYes, kExited, kSignal, kTimedOut };

// What is asked, of whom, and for how long.
struct Question {
  const ReadyCheck& check;
  const Endpoint& endpoint;
  const ProcessHandle& process;
  BackendProcesses backend;
  bool any_listener = false;  // an answer of any process counts
  const SignalInbox& inbox;
  std::uint64_t until_ns = 0;
  // When the time is over: is there a reason to go on all the same? Asked again and again.
  std::function<bool()> may_go_on;
  std::function<void()> progress{};  // called now and then, if there is one
};
inline constexpr std::uint64_t kProgressEvery_ns = 200 * kMillisecond_ns;
// Asks until the backend's own listener says yes, the process has ended, a signal waits in the
// inbox, or the time is over. `listener` is who answered last, as far as that can be told.
Answer wait_for_answer(const Question& question, Listener* listener);

// Does anything accept connections there now?
bool is_listening(const Endpoint& endpoint);

}  // namespace modelpool::poolctl
