// Asks many servers at once whether they are well, each for no longer than its timeout.
//
// Sockets that never block, and one poll for all: a server that hangs, drips or never ends costs
// one descriptor until its time is over, and delays nobody. cpp-httplib would take a thread for
// each and limits single reads only: against a byte a second there is no end.
//
// Well is a connection (tcp), or an HTTP head that is complete and says 200 to 399. At most
// kReadMax_bytes are read; what follows the head is read and thrown away, so that a server that
// writes a short body is not cut off.
//
// Safety: one thread.
//
// Errors: answers. What this host lacks (descriptors, ports) is unknown, never the server's fault.
#pragma once

#include <poll.h>

#include <cstddef>
#include <cstdint>
#include <list>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.hpp"
#include "base/probe_target.hpp"
#include "probe/messages.hpp"

namespace modelpool::coordinator {

inline constexpr std::size_t kReadMax_bytes = 8192;

class Prober {
 public:
  // Begins; the answer comes from take_answers, at the latest at its timeout.
  void ask(const ProbeQuestion& question, std::uint64_t now_ns);

  // To be polled, besides what the caller polls, until wake_ns.
  std::vector<pollfd> waits() const;
  std::uint64_t wake_ns(std::uint64_t now_ns) const;
  // After a poll: goes on with every attempt that can, then ends those whose time was over at
  // `now_ns`, which is to be from before the poll returned or sooner: who could answer is heard.
  void go_on(std::uint64_t now_ns);

  std::vector<ProbeAnswer> take_answers() { return std::exchange(answers_, {}); }
  bool is_busy() const { return !attempts_.empty(); }

 private:
  struct Attempt {
    enum class Stage { kConnecting, kQueued, kSending, kReading, kDraining } stage;
    std::uint64_t number = 0;
    std::uint64_t until_ns = 0;
    std::uint64_t timeout_ns = 0;
    ProbeTarget target;
    std::size_t next = 0;  // of its numbers
    Fd socket;
    std::string unsent;
    std::string head;
    std::size_t read_bytes = 0;
    bool is_over = false;
  };

  void connect(Attempt& attempt);
  void next_number(Attempt& attempt, int error);
  void connected(Attempt& attempt);
  void step(Attempt& attempt);
  void send(Attempt& attempt);
  void receive(Attempt& attempt);
  void judge_head(Attempt& attempt);
  void drain(Attempt& attempt);
  void answer(Attempt& attempt, ProbeOutcome outcome, const std::string& text = {});
  void fail_with(Attempt& attempt, int error);

  std::list<Attempt> attempts_;
  std::vector<ProbeAnswer> answers_;
};

}  // namespace modelpool::coordinator
