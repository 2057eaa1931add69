#include "wait_status.hpp"

#include <string.h>
#include <sys/wait.h>

namespace modelpool::serve {

std::string how_ended(int status) {
  if (WIFEXITED(status)) return "exit status " + std::to_string(WEXITSTATUS(status));
  const char* const name = sigabbrev_np(WTERMSIG(status));
  return std::string("signal ") +
         (name != nullptr ? name : std::to_string(WTERMSIG(status)).c_str());
}

}  // namespace modelpool::serve
