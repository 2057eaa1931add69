#include "helper_program.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "base/shortage.hpp"
#include "base/text.hpp"
#include "libexec.hpp"

namespace modelpool::coordinator {
namespace {

constexpr int kFirstClosed = 3;
constexpr int kEndsWithin_ms = 50;

// posix_spawn's two arguments that have to be freed.
struct SpawnArguments {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  SpawnArguments() {
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
  }
  ~SpawnArguments() {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  }
  SpawnArguments(const SpawnArguments&) = delete;
  SpawnArguments& operator=(const SpawnArguments&) = delete;
};

// A session of its own, all signals as they are by default, descriptors 0 to 2 and no environment.
int spawn(const std::string& path, int socket, pid_t* pid) {
  SpawnArguments arguments;
  posix_spawn_file_actions_adddup2(&arguments.actions, socket, STDIN_FILENO);
  for (const int fd : {STDOUT_FILENO, STDERR_FILENO})
    posix_spawn_file_actions_addopen(&arguments.actions, fd, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addclosefrom_np(&arguments.actions, kFirstClosed);
  posix_spawn_file_actions_addchdir_np(&arguments.actions, "/");
  sigset_t none;
  sigemptyset(&none);
  sigset_t all;
  sigfillset(&all);
  posix_spawnattr_setsigmask(&arguments.attributes, &none);
  posix_spawnattr_setsigdefault(&arguments.attributes, &all);
  posix_spawnattr_setflags(&arguments.attributes,
                           POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
  std::string name = path.substr(path.rfind('/') + 1);
  std::array<char*, 2> argv{name.data(), nullptr};
  std::array<char*, 1> environment{nullptr};
  return posix_spawn(pid, path.c_str(), &arguments.actions, &arguments.attributes, argv.data(),
                     environment.data());
}

}  // namespace

Result<> HelperProgram::start() {
  const std::string path = find_own_program(name_);
  std::array<int, 2> ends{};
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    return fail_errno(errno, "create a socket for " + name_,
                      shortage_advice(Needs::kDescriptor, errno));
  }
  Fd ours = above_stdio(Fd(ends[0]));
  const Fd its = above_stdio(Fd(ends[1]));
  fcntl(ours.get(), F_SETFL, O_NONBLOCK);
  pid_t pid = 0;
  if (const int error = spawn(path, its.get(), &pid); error != 0) {
    return fail_errno(error, "start " + escape(path),
                      is_shortage(error) ? shortage_advice(Needs::kThread, error)
                                         : "install it there, or beside coordinatord");
  }
  auto process = ProcessHandle::open(pid);
  if (!process) {
    kill(pid, SIGKILL);  // nobody has reaped it
    waitpid(pid, nullptr, 0);
    return fail(process.error());
  }
  socket_ = std::move(ours);
  process_ = std::move(*process);
  return {};
}

bool HelperProgram::send(std::string_view message) {
  return is_running() && retry_eintr([&] {
                           return ::send(socket_.get(), message.data(), message.size(),
                                         MSG_NOSIGNAL | MSG_DONTWAIT);
                         }) == static_cast<ssize_t>(message.size());
}

std::optional<std::string> HelperProgram::receive(std::size_t max_bytes) {
  if (!is_running()) return std::nullopt;
  std::string message(max_bytes, '\0');
  const ssize_t got =
      retry_eintr([&] { return recv(socket_.get(), message.data(), message.size(), 0); });
  if (got < 0 && errno == EAGAIN) return std::nullopt;
  if (got <= 0) {
    end();
    return std::nullopt;
  }
  message.resize(static_cast<std::size_t>(got));
  return message;
}

void HelperProgram::end() {
  if (!is_running()) return;
  socket_.reset();
  static_cast<void>(process_.signal(SIGKILL));
  // It may have been reaped already, and one that the kernel holds fast is reaped when it ends.
  pollfd ended{process_.fd(), POLLIN, 0};
  poll(&ended, 1, kEndsWithin_ms);
  siginfo_t info{};
  waitid(P_PIDFD, static_cast<id_t>(process_.fd()), &info, WEXITED | WNOHANG);
  process_ = ProcessHandle();
}

}  // namespace modelpool::coordinator
