// What tells a backend which devices it is on.
//
// Safety: pure function but for reading the environment of this process.
//
// Errors: kSpawnFailed where this process may use none of them itself.
#pragma once

#include <string>
#include <vector>

#include "modelpool/result.hpp"

namespace modelpool {

// CUDA_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES, of those of `uuids` that this process's own names
// allow. Own names that are numbers say nothing of UUIDs, and are replaced. A name that `given` has
// is the caller's own. Nothing for no UUIDs.
Result<std::vector<std::string>> device_environment(const std::vector<std::string>& uuids,
                                                    const std::vector<std::string>& given);

}  // namespace modelpool
