#include "older_layout.hpp"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "base/proc.hpp"
#include "segment/place.hpp"

namespace modelpool::coordinator {
namespace {

std::string program_of(std::uint32_t layout) {
  std::error_code error;
  const auto self = std::filesystem::read_symlink(own_proc_path("exe"), error);
  const auto libexec = (self.parent_path() / MODELPOOL_LIBEXEC_FROM_BIN).lexically_normal();
  return libexec / ("coordinatord-layout-" + std::to_string(layout));
}

}  // namespace

Result<> execute_older_coordinator(const Options& options, char** argv) {
  const auto pool = open_named(options.pool, options.dir, Purpose::kLook);
  if (!pool) return {};  // whoever opens it to use it says why
  const std::uint32_t layout = layout_of(pool->file.get());
  if (layout == 0 || layout >= kLayoutVersion) return {};
  const std::string program = program_of(layout);
  if (access(program.c_str(), F_OK) != 0) return {};
  spdlog::warn("pool {} has layout version {}, this program knows {}: {} goes on with it",
               escape(pool->path), layout, kLayoutVersion, escape(program));
  execv(program.c_str(), argv);
  return fail_errno(errno, "execute " + escape(program));
}

}  // namespace modelpool::coordinator
