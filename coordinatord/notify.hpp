// What the coordinator tells its supervisor: that it is ready, what it does, that it still makes
// progress. systemd is told through NOTIFY_SOCKET, s6 by a line on the descriptor of --notify-fd;
// with neither every call does nothing.
//
// systemd is spoken to without sd_notify(3): that blocks for as long as the supervisor does not
// read, and the coordinator has backends to judge. A state that could not be told goes ahead of the
// next message.
//
// Safety: one thread. make() belongs before threads start: it takes NOTIFY_SOCKET and the
// watchdog's variables out of the environment. Descriptors are closed on exec: no child inherits
// anything. A supervisor that is gone, closed its end or does not read raises no signal and no
// error.
//
// Errors: kInvalid for a descriptor that cannot be written to, or a NOTIFY_SOCKET nobody
// understands.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/process.hpp"
#include "base/time.hpp"
#include "modelpool/result.hpp"

namespace modelpool::coordinator {

// How long a message other than a status may wait for a supervisor that does not read.
inline constexpr std::uint64_t kNotifyWaitMax_ns = 500 * kMillisecond_ns;

class Notifier {
 public:
  // Owns `notify_fd` if it succeeds; -1 = none. 0 to 2 are refused.
  static Result<Notifier> make(int notify_fd);

  // Ready, again after reloading(). s6 is told once, then its descriptor is closed.
  void ready(std::string_view status);
  void status(std::string_view text);  // one line, for people
  void watchdog();                     // REQUIRES: the loop made progress since the last time
  void reloading();
  void stopping(std::string_view status);

  // How often watchdog() is due: half of what the supervisor waits; 0 = it does not wait.
  std::uint64_t watchdog_interval_ns() const { return watchdog_interval_ns_; }

 private:
  enum class Patience { kNone, kSome };

  Notifier() = default;
  void announce(std::string state);
  bool send(std::string_view message, Patience patience);

  Fd notify_fd_;
  Fd socket_;
  std::string address_;  // a path, or '@' and an abstract name; empty: no systemd
  std::string owed_;     // states that are still to be told
  std::uint64_t watchdog_interval_ns_ = 0;
};

}  // namespace modelpool::coordinator
