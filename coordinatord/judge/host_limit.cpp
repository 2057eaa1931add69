#include "judge/host_limit.hpp"

#include "base/size.hpp"

namespace modelpool::coordinator {

std::optional<std::string> find_host_fault(std::uint64_t min_available,
                                           std::optional<std::uint64_t> total_bytes) {
  if (min_available == 0 || !total_bytes || min_available < *total_bytes) return std::nullopt;
  return "min_available is " + format_size(min_available) +
         ", but this host, or the cgroup, has only " + format_size(*total_bytes) +
         " in all: idle backends will always be evicted for it; set min_available lower";
}

}  // namespace modelpool::coordinator
