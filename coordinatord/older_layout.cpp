#include "older_layout.hpp"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "base/proc.hpp"
#include "base/shortage.hpp"
#include "libexec.hpp"
#include "segment/place.hpp"

namespace modelpool::coordinator {
namespace {

// Where the coordinatord of that layout is, or should be; empty where this program's own place is
// not known.
std::filesystem::path program_of(std::uint32_t layout) {
  return libexec_path(std::to_string(layout) + "/coordinatord");
}

// It would execute itself for ever.
bool is_this_program(const std::filesystem::path& program) {
  std::error_code error;
  return std::filesystem::equivalent(program, own_proc_path("exe"), error);
}

}  // namespace

Result<> execute_older_coordinator(const Options& options, char** argv) {
  const auto pool = open_named(options.pool, options.dir, Purpose::kUse);
  if (!pool) return {};  // whoever opens it to use it says why
  const std::uint32_t layout = layout_of(pool->file.get());
  if (layout == 0 || layout == kLayoutVersion) return {};
  const std::filesystem::path program = program_of(layout);
  const std::string found = "pool " + escape(pool->path) + " has layout version " +
                            std::to_string(layout) + ", this program knows " +
                            std::to_string(kLayoutVersion);
  if (program.empty() || access(program.c_str(), F_OK) != 0 || is_this_program(program)) {
    spdlog::warn("{}; the coordinatord of that layout, as {}, would go on with it", found,
                 escape(program.string()));
    return {};
  }
  spdlog::warn("{}: executing {}", found, escape(program.string()));
  execv(program.c_str(), argv);
  Error error =
      fail_errno(errno, "execute " + escape(program.string()),
                 "install the coordinatord of layout " + std::to_string(layout) + " there")
          .value();
  if (!is_shortage(error.system)) error.code = Errc::kIncompatible;  // a person has to mend it
  return fail(std::move(error));
}

}  // namespace modelpool::coordinator
