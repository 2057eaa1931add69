#include "base/program.hpp"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <system_error>

#include "base/fd.hpp"
#include "base/journal.hpp"

namespace modelpool {
namespace {

int complain(const char* name, const char* what, const char* why, int code) {
  std::fprintf(stderr, "%s%s: unable to %s: %s\n", stderr_is_journal() ? "<3>" : "", name, what,
               why);
  return code;
}

}  // namespace

int run_program(const char* name, ProgramExits exits, const std::function<int()>& body) {
  fill_stdio();
  signal(SIGXFSZ, SIG_IGN);
  try {
    const int code = body();
    errno = 0;
    const bool cut = std::fflush(stdout) != 0 || std::ferror(stdout) != 0;
    // Of what failed before the last flush stdio knows that, not why: the next byte fails as well.
    if (cut && errno == 0) static_cast<void>(!write(STDOUT_FILENO, "\n", 1));
    if (!cut || errno == EPIPE) return code;
    return complain(name, "write the output",
                    errno == 0 ? "part of it was lost" : std::strerror(errno), exits.faulty);
  } catch (const std::bad_alloc&) {
    return complain(name, "go on", "out of memory", exits.refused);
  } catch (const std::system_error& error) {
    return complain(name, "go on", error.what(), exits.refused);
  } catch (const std::exception& error) {
    const std::string why = error.what();
    return complain(
        name, "go on",
        (why + "; this is a fault of the program or of a library that it uses: report it").c_str(),
        exits.faulty);
  }
}

}  // namespace modelpool
