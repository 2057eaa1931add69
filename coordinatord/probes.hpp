// Asks the READY backends whose settings say so, each probe_interval, whether they are well, by
// modelpool-probe, and keeps what they did not answer. A probe is never a use.
//
// An answer counts for the (backend, generation) that was READY when it was asked for and is when
// it comes; one that is well may come later, it can only spare. What was not answered counts from
// this coordinator's own probes: the next one begins anew.
//
// Safety: one thread, the loop's.
//
// Crash: BackendRecord::probe_failures stays as it is; the next coordinator adds to it.
//
// Errors: a program that is missing, ends, is silent or talks nonsense gives no verdicts: what was
// counted is dropped, it is said once, and the program is replaced, after longer and longer pauses.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "judge/decide.hpp"
#include "probe/messages.hpp"
#include "probe_program.hpp"
#include "record.hpp"

namespace modelpool::coordinator {

class Probes {
 public:
  static Result<std::unique_ptr<Probes>> make(std::shared_ptr<Segment> segment, Recorder* recorder);

  int fd() const { return epoll_.get(); }  // readable when there is something to take
  void take_answers();
  // Asks what is due, at each scan.
  void look_after(const Snapshot& snapshot);
  std::uint64_t wake_ns() const { return wake_ns_; }  // when that is worth the next look
  // Of the probes that its backends have now: another one's failures are not held against them.
  std::vector<Unanswered> unanswered(const Snapshot& snapshot) const;
  bool answers(BackendRef backend) const;  // or nobody has asked it

 private:
  struct Subject {
    BackendRef backend;
    std::string model;
    std::uint32_t pid = 0;
    std::string probe;
    std::string address;
    std::uint64_t asked_ns = 0;    // the last time, 0 = never
    std::uint64_t number = 0;      // of the question that is not answered yet, 0 = none
    std::uint64_t overdue_ns = 0;  // from when on the program is silent
    std::vector<std::uint64_t> failed_ns;
    std::string error;
  };

  Probes(std::shared_ptr<Segment> segment, Recorder* recorder, Fd epoll)
      : segment_(std::move(segment)), recorder_(recorder), epoll_(std::move(epoll)) {}
  void wake_at(std::uint64_t at_ns) { wake_ns_ = std::min(wake_ns_, at_ns); }
  bool has_program(std::uint64_t now);
  void lose_program(const std::string& why, std::uint64_t now);
  void ask(Subject* subject, const BackendView& b, std::uint64_t now);
  void take(Subject* subject, const ProbeAnswer& answer);
  void note_failures(const Subject& subject, std::uint32_t count) const;
  void record_failure(const Subject& subject) const;

  std::shared_ptr<Segment> segment_;
  Recorder* recorder_;
  Fd epoll_;
  ProbeProgram program_{"modelpool-probe"};
  std::map<std::uint64_t, Subject> subjects_;  // by packed reference
  std::uint64_t next_number_ = 1;
  std::uint64_t wake_ns_ = kNever_ns;
  std::uint64_t started_ns_ = 0;
  std::uint64_t start_again_ns_ = 0;
  std::uint64_t pause_ns_ = 0;
  bool is_lost_ = false;  // and that was said
};

}  // namespace modelpool::coordinator
