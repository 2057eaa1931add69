// What a victim does, and what must be there for it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "crash/stage.hpp"
#include "crash/trace.hpp"

namespace modelpool::test {

struct Operation {
  std::string name;
  Places places = Places::kStoresAndSystemCalls;
  // Runs in the victim. Between its two marks lies the operation; what comes before is in place.
  std::function<void(const Stage&)> victim;
  // The others' part: before there is a victim, while it waits at its first mark, and when it is
  // dead. What the last returns is a failure if it is not empty.
  std::function<void(Stage&)> before = nullptr;
  std::function<void(Stage&)> at_mark = nullptr;
  std::function<std::string(Stage&)> after = nullptr;
  // The victim is the coordinator. It does not end by itself: asked whenever it is quiet, this says
  // whether the operation is over, and gives it what it waits for.
  std::function<bool(Stage&)> is_over = nullptr;
};

const std::vector<Operation>& operations();

}  // namespace modelpool::test
