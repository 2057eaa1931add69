// How much memory this process's host has, and has left, or its cgroup if that has less.
//
// Safety: no shared state; any thread. Reads some small files.
//
// Errors: nullopt where the host does not say. A cgroup whose files cannot be read, or that has no
// limit, does not count.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace modelpool {

// MemAvailable; of this process's cgroup (version 1 or 2) and those above it with a limit: what is
// left of it, and the file pages that the kernel takes back first. The least of all. `root` stands
// before every path, for tests.
std::optional<std::uint64_t> read_available_bytes(const std::string& root = {});
// MemTotal, or the least limit of these cgroups.
std::optional<std::uint64_t> read_total_bytes(const std::string& root = {});

}  // namespace modelpool
