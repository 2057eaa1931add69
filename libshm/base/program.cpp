#include "base/program.hpp"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <system_error>

namespace modelpool {
namespace {

int complain(const char* name, const char* what, const char* why, int code) {
  std::fprintf(stderr, "%s: unable to %s: %s\n", name, what, why);
  return code;
}

}  // namespace

int run_program(const char* name, ProgramExits exits, const std::function<int()>& body) {
  try {
    const int code = body();
    errno = 0;
    const bool cut = std::fflush(stdout) != 0 || std::ferror(stdout) != 0;
    if (!cut || errno == EPIPE) return code;
    return complain(name, "write the output", errno == 0 ? "part of it was lost" : std::strerror(errno),
                    exits.faulty);
  } catch (const std::bad_alloc&) {
    return complain(name, "go on", "out of memory", exits.refused);
  } catch (const std::system_error& error) {
    return complain(name, "go on", error.what(), exits.refused);
  } catch (const std::exception& error) {
    std::fprintf(stderr,
                 "%s: unable to go on: %s; this is a fault of the program or of a library that it uses, "
                 "report it\n",
                 name, error.what());
    return exits.faulty;
  }
}

}  // namespace modelpool
