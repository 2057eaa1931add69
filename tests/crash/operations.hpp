// What a victim does, and what must be there for it.
#pragma once

#include <atomic>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "crash/stage.hpp"
#include "crash/trace.hpp"

namespace modelpool::test {

// Where the one who comes while the victim stands still waits for it to go on.
class Meeting {
 public:
  void rest() {  // the other's
    rests_.store(true);
    if (!eventually([this] { return goes_on_.load(); })) throw std::runtime_error("left waiting");
  }
  bool rests() const { return rests_.load(); }
  void go_on() { goes_on_.store(true); }

 private:
  std::atomic<bool> rests_{false};
  std::atomic<bool> goes_on_{false};
};

struct Operation {
  std::string name;
  Places places = Places::kStoresAndSystemCalls;
  // Runs in the victim. Between its two marks lies the operation; what comes before is in place.
  std::function<void(const Stage&)> victim;
  // The others' part: before there is a victim, while it waits at its first mark, and when it is
  // dead and a judge runs. What the last returns is a failure if it is not empty.
  std::function<void(Stage&)> before = nullptr;
  std::function<void(Stage&)> at_mark = nullptr;
  std::function<std::string(Stage&)> after = nullptr;
  // Before there is a judge again.
  std::function<void(Stage&)> at_death = nullptr;
  // The victim is the coordinator. It does not end by itself: asked whenever it is quiet, this says
  // whether the operation is over, and gives it what it waits for.
  std::function<bool(Stage&)> is_over = nullptr;
  // The victim is not killed but stands still at each place while another process does this; then
  // both go on. The other throws what it finds wrong.
  std::function<void(Pool&, Meeting&)> other = nullptr;
  // Only the first place, and the other does all it has to do while the victim stands.
  bool stands_long = false;
  // The places are those of the child that the victim starts. There one of the two dies.
  enum class Dies { kVictim, kChildAlone, kParentOfChild } dies = Dies::kVictim;
};

const std::vector<Operation>& operations();

}  // namespace modelpool::test
