// What the door answers by itself: the list of models, whether it is well, and the page.
//
// Safety: looks at the pool, which takes no lock and counts as no use (P12).
//
// Errors: 404.
#pragma once

#include <optional>
#include <string_view>

#include "config/door.hpp"
#include "modelpool/pool.hpp"
#include "wire/heads.hpp"

namespace modelpool::serve {

// One that tells only whether the door is well.
bool is_probe(std::string_view path);
// The page for a browser, which holds no data.
bool is_pool_page(std::string_view path);
// The answer to that path (without its query), if it is one of the door's own.
std::optional<OwnAnswer> own_page(std::string_view path, const config::Door& door, Pool& pool);

}  // namespace modelpool::serve
