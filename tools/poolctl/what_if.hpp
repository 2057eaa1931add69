// explain --what-if: what the judge would do if some settings of the pool were others.
//
// Safety: one thread; the pool is only read (P12).
//
// Errors: BadArgument for a text that is no list of NAME=VALUE; those of suppose.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "json.hpp"
#include "judge/suppose.hpp"

namespace modelpool::poolctl {

struct WhatIf {
  std::vector<std::pair<std::string, std::string>> values;  // empty: nothing is supposed

  // "max_memory=40GiB,groups=a,b": a comma that no NAME= follows belongs to the value.
  void add(const std::string& text);
};

struct Forecast {
  std::string supposed;  // "max_memory is 40GiB, eviction is lru"
  Seen then;             // the pool as it would be
  std::vector<coordinator::Consequence> consequences;
  std::vector<coordinator::Consequence> without;  // what happens anyway
};
Result<Forecast> forecast(const WhatIf& what_if, const Seen& now);

// `fault`: why nobody would do it, if so.
void print_forecast(const Forecast& forecast, const std::optional<std::string>& fault);
Json forecast_json(const WhatIf& what_if, const Forecast& forecast);

}  // namespace modelpool::poolctl
