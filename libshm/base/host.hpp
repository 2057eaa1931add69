// Which boot and which namespaces this process is in: where PIDs and stamps mean the same.
//
// Safety: no shared state; any thread.
//
// Errors: kSystem, naming the file that cannot be read.
#pragma once

#include <cstdint>

#include "modelpool/result.hpp"

namespace modelpool {

struct HostIdentity {
  std::uint64_t boot_id[2] = {0, 0};
  std::uint64_t pid_namespace = 0;
  std::uint64_t time_namespace = 0;
};
// A namespace the kernel does not have is 0.
Result<HostIdentity> read_host_identity();

}  // namespace modelpool
