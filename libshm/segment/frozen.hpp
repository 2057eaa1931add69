// A pool of any layout version, as far as it can be known: magic, the tables' places, and the head
// of a backend's record keep their offsets in every layout (layout.hpp). That is enough to list
// what runs in it, to stop it and to know whether it has gone; nothing else may be assumed.
//
// Safety: reads the file, maps nothing. PIDs and times are those of the host and namespace of the
// pool: REQUIRES that they are this process's, but for read_frozen.
//
// Errors: kIncompatible for what is no segment.
#pragma once

#include <optional>
#include <vector>

#include "segment/layout.hpp"

namespace modelpool {

struct FrozenBackend {
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;
  BackendState state = BackendState::kFree;
  ProcessIdentity process;  // pid 0: none known
  pid_t group = 0;
};

struct FrozenPool {
  Header header;  // of its other fields only those of this layout version mean anything
  std::vector<FrozenBackend> live;
};

Result<FrozenPool> read_frozen(int fd, const std::string& path);

// A process that is the backend's, or may be: its first one unless that is proved dead, else
// somebody younger in its group or session. nullopt: proved that there is none.
std::optional<pid_t> find_survivor(const FrozenBackend& backend);

}  // namespace modelpool
