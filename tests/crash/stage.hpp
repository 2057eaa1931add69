// The pool that a victim dies in, and its survivors: the judge, helpers, and whoever comes next.
//
// The process of the sweep itself only looks (its mapping is read-only). It is the subreaper: what
// the dead have started becomes its child, so nothing that was started can hide from it.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "loop.hpp"
#include "support/pool.hpp"
#include "support/process.hpp"

namespace modelpool::test {

// The places of the pool. One is taken by "resident", which is pinned and has no process.
inline constexpr std::uint32_t kLimit = 2;

class Stage {
 public:
  // How long the survivors wait for what should come.
  explicit Stage(std::chrono::nanoseconds patience = kPatience);
  ~Stage();

  std::string segment_path() const { return scratch_.path("default"); }
  // In a process of its own, never in this one:
  std::shared_ptr<Segment> map() const;
  Pool attach() const;
  std::unique_ptr<coordinator::Loop> make_judge() const;

  std::chrono::nanoseconds patience() const { return patience_; }
  void start_judge();
  void stop_judge();
  void kill_judge();
  // A process beside the victim, until dismiss(). It has said its first line when this returns.
  using Part = std::function<void(Pool&, Forked::Child&)>;
  Forked& add_helper(const Part& part);
  Forked& helper(std::size_t i) { return *helpers_.at(i); }
  void dismiss() { helpers_.clear(); }
  // A process that has nothing to do with the pool; a helper too.
  pid_t add_bystander();
  pid_t bystander() const { return bystander_; }

  Snapshot look() const { return modelpool::test::look(segment_); }
  const Segment& segment() const { return *segment_; }

  // What may not be at any instant, transitions or not (P3, P4); empty if nothing.
  std::string contradictions() const;
  // Processes that somebody's death has left here and no backend has recorded; empty if none.
  std::string unrecorded() const;
  // Was the mutex left by a dead owner, and nobody has recovered it yet?
  bool mutex_owner_died() const;

  // What the survivors found. `failure` is empty if all is well.
  struct Aftermath {
    std::chrono::nanoseconds next_took{};  // until the next operation of another process succeeded
    std::string failure;
  };
  // To be called when the victim is dead. With a judge running, another
  // process locks, leases what is loaded, gets `model`, evicts everything but the resident and
  // fills the pool to its limit, not beyond; then, with the helpers gone, all must be as it was at
  // the start.
  Aftermath examine(const std::string& model);

 private:
  std::string trouble(pid_t next) const;
  std::string strangers(const Snapshot& s, pid_t next) const;
  void come_next(const std::string& model, Forked::Child& child) const;

  std::chrono::nanoseconds patience_;
  Orphans orphans_;  // goes last
  Scratch scratch_;
  std::shared_ptr<Segment> segment_;
  std::unique_ptr<Forked> judge_;
  std::vector<std::unique_ptr<Forked>> helpers_;
  pid_t bystander_ = 0;
};

}  // namespace modelpool::test
