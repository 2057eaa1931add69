// Orders to the pool: evict, pin, unpin, load, set. Each is answered when it has been carried out,
// with the JSON of poolctl's command of that name where there is one.
//
// Safety: the loop's thread; what may wait for the pool's mutex runs on another.
//
// Crash: what the pool was asked stays asked: a model that is to go goes.
//
// Errors: 400 what is no name, no setting or no value; 404 no such model, not loaded; 409 in use,
// or pinned by its settings; 503 no coordinator; 504 not in time; those of a load as a request
// gets them.
#pragma once

#include <optional>
#include <string>

#include "wire/api.hpp"
#include "wire/heads.hpp"
#include "worker/client.hpp"
#include "worker/service.hpp"

namespace modelpool::serve {

// `tag`: of the lease that a load takes. Empty: the client left, and nothing more is waited for.
Task<std::optional<OwnAnswer>> carry_out(ApiCall call, Order order, std::string tag,
                                         Service& service, std::shared_ptr<const InForce> now,
                                         Client& client);

}  // namespace modelpool::serve
