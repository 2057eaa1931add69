// Does a backend answer yet? What `lease --ready` waits for.
//
// Safety: the main thread. An HTTP request runs on a thread of its own, so that a signal, the end
// of the backend or the deadline ends the wait at once; it is joined before the call returns.
//
// Errors: kInvalid for texts that name no check or no address that can be asked.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "command.hpp"
#include "base/process.hpp"
#include "modelpool/result.hpp"

namespace modelpool::poolctl {

struct ReadyCheck {
  enum class Kind { kTcp, kHttp, kDelay };
  Kind kind = Kind::kTcp;
  std::string path;            // kHttp
  std::uint64_t delay_ns = 0;  // kDelay
};
Result<ReadyCheck> parse_ready_check(std::string_view text);  // tcp, http:/path, delay:D

// Where an address leads: "unix:/path", "host:port", "[::1]:port", each also after "http://".
struct Endpoint {
  std::string unix_path;  // empty: host and port
  std::string host;
  int port = 0;
};
Result<Endpoint> parse_endpoint(std::string_view address);

enum class Answer { kYes, kExited, kSignal, kTimedOut };
// Asks until the answer is yes, the process has ended, a signal waits in the inbox, or the time has
// come.
Answer wait_for_answer(const ReadyCheck& check, const Endpoint& endpoint,
                       const ProcessHandle& process, const SignalInbox& inbox,
                       std::uint64_t until_ns);

// Does anything accept connections there now?
bool is_listening(const Endpoint& endpoint);

// A TCP port of 127.0.0.1 that nobody listens on now; 0 if there is none.
int pick_port();

}  // namespace modelpool::poolctl
