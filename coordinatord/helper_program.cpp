#include "helper_program.hpp"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>
#include <vector>

#include "base/shortage.hpp"
#include "base/text.hpp"

namespace modelpool::coordinator {
namespace {

// What tells of this process, and would be taken for the other's own.
bool is_ours_alone(std::string_view variable) {
  for (const std::string_view name :
       {"NOTIFY_SOCKET=", "WATCHDOG_USEC=", "WATCHDOG_PID=", "LISTEN_FDS=", "LISTEN_PID=",
        "LISTEN_FDNAMES=", "MODELPOOL_BACKEND="}) {
    if (variable.starts_with(name)) return true;
  }
  return false;
}

std::vector<char*> environment() {
  std::vector<char*> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (!is_ours_alone(*variable)) variables.push_back(*variable);
  }
  variables.push_back(nullptr);
  return variables;
}

// How a child begins, and its end of the socket. Each call returns an errno.
class Spawn {
 public:
  Spawn() {
    posix_spawn_file_actions_init(&files_);
    posix_spawnattr_init(&attributes_);
  }
  ~Spawn() {
    posix_spawn_file_actions_destroy(&files_);
    posix_spawnattr_destroy(&attributes_);
  }
  Spawn(const Spawn&) = delete;
  Spawn& operator=(const Spawn&) = delete;

  int prepare(int socket) {
    sigset_t all;
    sigset_t none;
    sigfillset(&all);
    sigemptyset(&none);
    const short flags = POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID;
    for (const int error :
         {posix_spawnattr_setsigdefault(&attributes_, &all),
          posix_spawnattr_setsigmask(&attributes_, &none),
          posix_spawnattr_setflags(&attributes_, flags),
          posix_spawn_file_actions_adddup2(&files_, socket, STDIN_FILENO),
          posix_spawn_file_actions_adddup2(&files_, socket, STDOUT_FILENO),
          posix_spawn_file_actions_addopen(&files_, STDERR_FILENO, "/dev/null", O_WRONLY, 0),
          // Before the exec, which may hang in a file system: the lock is not held by it.
          posix_spawn_file_actions_addclosefrom_np(&files_, STDERR_FILENO + 1),
          posix_spawn_file_actions_addchdir_np(&files_, "/")}) {
      if (error != 0) return error;
    }
    return 0;
  }
  int run(const std::string& path, bool with_environment, pid_t* pid) {
    std::string name = path.substr(path.rfind('/') + 1);
    char* argv[] = {name.data(), nullptr};
    std::vector<char*> variables{nullptr};
    if (with_environment) variables = environment();
    return posix_spawn(pid, path.c_str(), &files_, &attributes_, argv, variables.data());
  }

 private:
  posix_spawn_file_actions_t files_;
  posix_spawnattr_t attributes_;
};

}  // namespace

Result<HelperProgram> HelperProgram::start(const std::string& path, int kind,
                                           bool with_environment) {
  const std::string what = "start " + escape(path);
  if (access(path.c_str(), X_OK) != 0)
    return fail_errno(errno, what, "install it there, or beside coordinatord");
  int sockets[2];
  if (socketpair(AF_UNIX, kind | SOCK_CLOEXEC, 0, sockets) != 0)
    return fail_errno(errno, what, shortage_advice(Needs::kDescriptor, errno));
  HelperProgram program;
  program.socket = above_stdio(Fd(sockets[0]));
  const Fd other = above_stdio(Fd(sockets[1]));
  if (!program.socket || !other ||
      fcntl(program.socket.get(), F_SETFL, fcntl(program.socket.get(), F_GETFL) | O_NONBLOCK) != 0)
    return fail_errno(errno, what, shortage_advice(Needs::kDescriptor, errno));
  Spawn spawn;
  pid_t pid = 0;
  int error = spawn.prepare(other.get());
  if (error == 0) error = spawn.run(path, with_environment, &pid);
  if (error != 0) return fail_errno(error, what);
  // Reaped by this thread; one that ends at once is told by its socket, as any other end.
  auto process = ProcessHandle::open_child(pid);
  if (!process) {
    kill(pid, SIGKILL);
    return fail(process.error());
  }
  program.process = std::move(*process);
  return program;
}

}  // namespace modelpool::coordinator
