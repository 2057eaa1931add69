#include "libexec.hpp"

#include <unistd.h>

#include "base/proc.hpp"

namespace modelpool::coordinator {
namespace {

std::filesystem::path own_directory() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink(own_proc_path("exe"), error);
  return error || !self.is_absolute() ? std::filesystem::path() : self.parent_path();
}

}  // namespace

std::filesystem::path libexec_path(const std::string& name) {
  const auto directory = own_directory();
  if (directory.empty()) return {};
  return (directory / MODELPOOL_LIBEXEC_FROM_BIN).lexically_normal() / name;
}

std::string find_own_program(const std::string& name) {
  const auto beside = own_directory() / name;
  if (access(beside.c_str(), X_OK) == 0) return beside.string();
  return libexec_path(name).string();
}

}  // namespace modelpool::coordinator
