// A pool of another layout version, as far as it can be known: magic, the tables' places, and the
// head of a backend's record keep their offsets in every layout (layout.hpp). That is enough to
// list and stop what runs in it; nothing else may be assumed.
//
// Safety: reads the file, maps nothing.
//
// Errors: kIncompatible for what is no segment; kPermission for that of another user.
#pragma once

#include <vector>

#include "common.hpp"

namespace modelpool::poolctl {

struct FrozenBackend {
  BackendRef ref;
  BackendState state = BackendState::kFree;
  ProcessIdentity process;  // pid 0: none known
  pid_t group = 0;
};

struct FrozenPool {
  Header header;  // of its other fields only those of this layout version mean anything
  std::vector<FrozenBackend> live;
};

Result<FrozenPool> read_frozen(const std::string& path);

}  // namespace modelpool::poolctl
