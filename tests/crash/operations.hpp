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
  // What the others do before the victim begins, and while it waits at its first mark.
  std::function<void(Stage&)> before = nullptr;
  std::function<void(Stage&)> at_mark = nullptr;
  std::string model = "fresh";  // what the next process asks for
};

const std::vector<Operation>& operations();

}  // namespace modelpool::test
