// min_available beside the memory that there is: a limit above that can never be kept.
//
// Safety: pure function.
//
// Errors: none. Where the host does not say what it has, nothing is said.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace modelpool::coordinator {

// "min_available is 64GiB, but this host ..."; nullopt: it can be kept. 0 is no limit.
// `total_bytes` is what base/available.hpp reads.
std::optional<std::string> find_host_fault(std::uint64_t min_available,
                                           std::optional<std::uint64_t> total_bytes);

}  // namespace modelpool::coordinator
