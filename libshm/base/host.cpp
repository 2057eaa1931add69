#include "base/host.hpp"

#include <unistd.h>

#include <cerrno>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/proc.hpp"
#include "base/shortage.hpp"

namespace modelpool {
namespace {

constexpr const char* kBootId = "kernel.random.boot_id";

int parse_hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

bool parse_uuid(std::string_view text, std::uint64_t (&words)[2]) {
  int digits = 0;
  for (const char c : text) {
    if (c == '-' || c == '\n') continue;
    const int digit = parse_hex_digit(c);
    if (digit < 0 || digits == 32) return false;
    std::uint64_t& word = words[digits / 16];
    word = word << 4 | static_cast<std::uint64_t>(digit);
    ++digits;
  }
  return digits == 32;
}

// 0 where the kernel does not have that kind.
Result<std::uint64_t> read_namespace(const std::string& kind) {
  if (const auto inode = own_namespace(kind)) return *inode;
  if (errno == ENOENT) return 0;
  return fail_errno(errno, "read " + own_proc_path("ns/" + kind));
}

}  // namespace

Result<HostIdentity> read_host_identity() {
  HostIdentity host;
  const std::string path = sysctl_path(kBootId);
  const std::optional<std::string> boot_id = read_sysctl(kBootId);
  if (!boot_id) return fail_errno(errno, "read " + path, proc_advice(errno));
  if (!parse_uuid(*boot_id, host.boot_id)) {
    return fail(Errc::kSystem,
                "unable to read " + path + ": it is not a UUID; mount the kernel's own /proc");
  }
  Result<std::uint64_t> pid_namespace = read_namespace("pid");
  if (!pid_namespace) return fail(std::move(pid_namespace.error()));
  Result<std::uint64_t> time_namespace = read_namespace("time");
  if (!time_namespace) return fail(std::move(time_namespace.error()));
  host.pid_namespace = *pid_namespace;
  host.time_namespace = *time_namespace;
  return host;
}

}  // namespace modelpool
