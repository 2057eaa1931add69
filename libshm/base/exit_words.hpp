// Why a load failed, in words: what the exit of its process means, and the last it wrote.
//
// Safety: any thread. Reads files of the kernel.
//
// Errors: none; what cannot be told is left out (P11).
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/cgroup.hpp"

namespace modelpool {

// What the kernel has killed for memory so far, to be compared with later.
class MemoryKills {
 public:
  enum class Rise { kNone, kOnHost, kInCgroup };

  explicit MemoryKills(pid_t pid);  // in that process's cgroup, and on this host
  Rise rise() const;                // since then

 private:
  std::optional<Cgroup> cgroup_;
  std::optional<std::uint64_t> in_cgroup_;
  std::optional<std::uint64_t> on_host_;
};

inline constexpr std::size_t kLastLinesMax = 20;

// More than exit_text says of it; "" if there is no more to say. `lines`: the last it wrote, which
// may name a library that is missing.
std::string exit_words(std::uint32_t packed_exit, MemoryKills::Rise rise,
                       const std::vector<std::string>& lines);

// Was it the kernel that killed it, for memory?
bool ran_out_of_memory(std::uint32_t packed_exit, MemoryKills::Rise rise);

// "TEXT; its last lines: A | B": as many of the newest as fit into so many bytes. A text that ends
// so already gets these lines instead.
std::string with_last_lines(std::string_view text, const std::vector<std::string>& lines,
                            std::size_t max_bytes);
bool has_last_lines(std::string_view text);
std::string_view before_last_lines(std::string_view text);
// "TEXT (exit status 3); its last lines: ..."
std::string with_exit(std::string_view text, std::uint32_t packed_exit);

}  // namespace modelpool
