// What a stranger is told when the pool says no.
//
// Safety: pure functions.
//
// Errors: none.
#pragma once

#include <string>
#include <string_view>

#include "config/door.hpp"
#include "modelpool/pool.hpp"
#include "wire/refusal.hpp"

namespace modelpool::serve {

std::uint64_t learned_load_ms(Pool& pool, const std::string& model);  // 0: not known
// `load_ms`: how long a load of the model takes, 0 if that is not known.
Refusal refusal_of(const Error& error, std::uint64_t load_ms);
Refusal no_such_model(std::string_view name, const config::Door& door);

}  // namespace modelpool::serve
