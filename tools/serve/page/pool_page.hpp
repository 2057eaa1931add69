// The page of the pool, for a browser: pool.html, which the build puts into the program.
//
// It holds no data. It asks the API like any other client, with the key that somebody types into
// it; so the page itself is everybody's.
//
// Safety: any thread.
//
// Errors: none.
#pragma once

#include "wire/heads.hpp"

namespace modelpool::serve {

OwnAnswer pool_page();

}  // namespace modelpool::serve
