// [models."NAME"]: how each model is loaded, and its rules.
//
// Safety: reads files that hold secrets, and the environment; no shared state.
//
// Errors: go to Problems.
#pragma once

#include <string>
#include <vector>

#include "config/document.hpp"
#include "config/door.hpp"
#include "config/secrets.hpp"

namespace modelpool::config {

// Models by name. Their rules stand behind `rules`, where they win over those of globs; one without
// any has none.
void read_models(const Node& table, const SecretReader& secrets, std::vector<Model>& models,
                 std::vector<Rule>& rules, Problems& problems);

// A pattern that matches this name alone, whatever characters it has.
std::string pattern_of_name(std::string_view name);

// Names and aliases that are there twice: all of them, each with the later one's line.
struct NameProblem {
  std::uint32_t line = 0;
  std::string reason;
};
std::vector<NameProblem> find_name_problems(const std::vector<Model>& models);

}  // namespace modelpool::config
