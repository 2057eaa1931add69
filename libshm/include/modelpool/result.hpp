// Errors as values. Nothing in modelpool throws across its public boundary: a call that can fail
// returns Result<T>, whose Error carries a code to branch on and a text for people.
//
// Safety: plain values; safe everywhere but in signal handlers (texts allocate).
//
// Errors: a text reads "unable to VERB OBJECT: reason; what to do" (P13: bad input gets an answer).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#if !__has_include(<tl/expected.hpp>)
#error "modelpool's C++ headers need tl::expected: apt-get install libexpected-dev"
#endif
#include <tl/expected.hpp>

namespace modelpool {

enum class Errc : int {
  kTimeout = 1,    // the deadline passed while waiting
  kQueueFull,      // max_waiters are waiting already
  kTableFull,      // a table of the segment has no free slot
  kAllPinned,      // no place can be made: every backend that could go is pinned
  kCoolingDown,    // the model failed to load lately; retry_after_ns says how long to wait
  kLoadFailed,     // the load this call waited for failed
  kNoCoordinator,  // coordinatord is needed and has been absent for the grace
  kNoSuchPool,     // no pool of that name
  kIncompatible,   // another layout, namespace, boot or kind of file; a setting not known here
  kNotLoaded,      // no backend serves the model and none was to be loaded
  kTicketLost,     // the ticket ended: load_timeout, or it was given up
  kLeaseLost,      // the lease's backend was stopped
  kInvalid,        // an argument is malformed
  kClosed,         // the handle is closed, or was inherited through fork
  kReplaced,       // the pool lost its name, and no other had it by the deadline
  kCancelled,      // the caller's stop token
  kPermission,     // owned by another user, or open to others
  kBusy,           // in use: the mutex's holder did not let go, or the pool has live processes
  kSpawnFailed,    // the program could not be executed; the ticket stays
  kSystem,         // the operating system refused; `system` is its errno
  kTooLarge,       // the model takes more than the pool has at all
};
inline constexpr Errc kErrcLast = Errc::kTooLarge;

// The name of a code as it is printed and as JSON carries it: "queue_full".
std::string_view errc_name(Errc code);

struct Error {
  Errc code = Errc::kSystem;
  std::string text;
  int system = 0;                    // errno where the cause is a system call, else 0
  std::uint64_t retry_after_ns = 0;  // with kCoolingDown: nanoseconds until the next load may start
};

template <class T = void>
using Result = tl::expected<T, Error>;

inline tl::unexpected<Error> fail(Errc code, std::string text) {
  return tl::unexpected<Error>(Error{code, std::move(text), 0, 0});
}

inline tl::unexpected<Error> fail(Error error) { return tl::unexpected<Error>(std::move(error)); }

// The one place where an errno becomes an Error: "unable to WHAT: strerror".
tl::unexpected<Error> fail_errno(int error, std::string_view what, std::string_view advice = {});

}  // namespace modelpool
