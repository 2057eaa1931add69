#include "support/process.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <iostream>
#include <stdexcept>

#include "base/proc.hpp"
#include "support/scratch.hpp"

namespace modelpool::test {
namespace {

int code_of(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

int reap(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

std::string read_line(int fd, std::string* buffer) {
  for (;;) {
    if (const auto end = buffer->find('\n'); end != std::string::npos) {
      const std::string line = buffer->substr(0, end);
      buffer->erase(0, end + 1);
      return line;
    }
    char chunk[512];
    const ssize_t got = read(fd, chunk, sizeof chunk);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return {};
    buffer->append(chunk, static_cast<std::size_t>(got));
  }
}

void write_line(int fd, const std::string& line) {
  const std::string text = line + "\n";
  static_cast<void>(!write(fd, text.data(), text.size()));
}

}  // namespace

Program::Program(const std::vector<std::string>& argv, const Options& options) {
  std::string pattern = "/tmp/modelpool-program-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  files_ = pattern;
  std::vector<std::string> env;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string name(*entry, std::strcspn(*entry, "="));
    if (!options.env.contains(name)) env.emplace_back(*entry);
  }
  for (const auto& [name, value] : options.env) env.push_back(name + "=" + value);
  std::vector<char*> args;
  for (const auto& a : argv) args.push_back(const_cast<char*>(a.c_str()));
  args.push_back(nullptr);
  std::vector<char*> envp;
  for (const auto& e : env) envp.push_back(const_cast<char*>(e.c_str()));
  envp.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  const std::string input = options.input.empty() ? "/dev/null" : options.input;
  const std::string out_path = files_ + "/out";
  const std::string err_path = files_ + "/err";
  posix_spawn_file_actions_addopen(&actions, 0, input.c_str(), O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, out_path.c_str(), O_WRONLY | O_CREAT | O_APPEND,
                                   0600);
  posix_spawn_file_actions_addopen(&actions, 2, err_path.c_str(), O_WRONLY | O_CREAT | O_APPEND,
                                   0600);
  const int error =
      posix_spawnp(&pid_, argv[0].c_str(), &actions, nullptr, args.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0)
    throw std::runtime_error("unable to start " + argv[0] + ": " + std::strerror(error));
}

Program::Program(Program&& other) noexcept
    : files_(std::move(other.files_)),
      pid_(other.pid_),
      status_(other.status_),
      reaped_(other.reaped_) {
  other.pid_ = -1;
  other.files_.clear();
}

Program::~Program() {
  if (pid_ > 0 && !reaped_) {
    kill(pid_, SIGKILL);
    reap(pid_);
  }
  std::error_code ignored;
  if (!files_.empty()) std::filesystem::remove_all(files_, ignored);
}

bool Program::running() {
  if (reaped_) return false;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return true;
  reaped_ = true;
  status_ = status;
  return false;
}

void Program::signal(int signal) {
  if (!reaped_) kill(pid_, signal);
}

int Program::wait() {
  if (!reaped_) {
    status_ = reap(pid_);
    reaped_ = true;
  }
  return code_of(status_);
}

std::string Program::out() const { return read_file(files_ + "/out"); }
std::string Program::err() const { return read_file(files_ + "/err"); }

Finished run(const std::vector<std::string>& argv, const Program::Options& options) {
  Program program(argv, options);
  const int code = program.wait();
  return {code, program.out(), program.err()};
}

void Forked::Child::say(const std::string& line) { write_line(out_, line); }

std::string Forked::Child::hear() {
  static std::string buffer;
  return read_line(in_, &buffer);
}

Forked::Forked(const std::function<void(Child&)>& body) {
  int to_child[2];
  int to_parent[2];
  if (pipe2(to_child, O_CLOEXEC) != 0 || pipe2(to_parent, O_CLOEXEC) != 0)
    throw std::runtime_error("pipe2 failed");
  std::cout.flush();
  pid_ = fork();
  if (pid_ < 0) throw std::runtime_error("fork failed");
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // it does not outlive a test that is killed
    close(to_child[1]);
    close(to_parent[0]);
    Child child;
    child.in_ = to_child[0];
    child.out_ = to_parent[1];
    int code = 70;
    try {
      body(child);
      code = ::testing::Test::HasFailure() ? 70 : 0;
    } catch (const std::exception& e) {
      std::cerr << "forked child: " << e.what() << std::endl;
    }
    std::cout.flush();
    _exit(code);
  }
  close(to_child[0]);
  close(to_parent[1]);
  in_ = to_parent[0];
  out_ = to_child[1];
}

Forked::~Forked() {
  kill_now();
  close(in_);
  close(out_);
}

void Forked::say(const std::string& line) { write_line(out_, line); }
std::string Forked::hear() { return read_line(in_, &buffer_); }

void Forked::signal(int signal) {
  if (!reaped_) kill(pid_, signal);
}

void Forked::kill_now() {
  signal(SIGKILL);
  wait();
}

int Forked::wait() {
  if (!reaped_) {
    status_ = reap(pid_);
    reaped_ = true;
  }
  return code_of(status_);
}

void* shared_memory(std::size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("mmap failed");
  return memory;
}

void unmap(void* memory, std::size_t bytes) { munmap(memory, bytes); }

bool is_running(pid_t pid) {
  const auto stat = read_stat(pid);
  return stat && !stat->is_zombie();
}

bool has_stopped(pid_t pid) {
  char state = '?';
  const bool decided = eventually([&] {
    const auto stat = read_stat(pid);
    state = stat ? stat->state : 'X';
    return state == 'T' || state == 'Z' || state == 'X';
  });
  return decided && state == 'T';
}

Orphans::Orphans() {
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) throw std::runtime_error("no subreaper");
}

Orphans::~Orphans() {
  // Each round may make orphans of the next.
  for (bool found = true; found;) {
    found = false;
    for (const pid_t pid : children()) {
      kill(pid, SIGKILL);
      found = true;
    }
    while (waitpid(-1, nullptr, found ? 0 : WNOHANG) > 0 && !found) {
    }
  }
  prctl(PR_SET_CHILD_SUBREAPER, 0);
}

std::vector<pid_t> Orphans::children() {
  std::vector<pid_t> running;
  for (const pid_t pid : list_pids().value_or(std::vector<pid_t>())) {
    const auto stat = read_stat(pid);
    if (stat && stat->parent == getpid() && !stat->is_zombie()) running.push_back(pid);
  }
  return running;
}

std::vector<std::string> own_argv(const std::string& disabled_test) {
  return {std::filesystem::read_symlink("/proc/self/exe"), "--gtest_also_run_disabled_tests",
          "--gtest_filter=" + disabled_test};
}

bool is_locked(const std::string& path) {
  const Fd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  return flock(file.get(), LOCK_EX | LOCK_NB) != 0;
}

std::vector<pid_t> processes_with_environment(const std::string& text) {
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (!std::all_of(name.begin(), name.end(),
                     [](unsigned char c) { return std::isdigit(c) != 0; }))
      continue;
    if (read_file("/proc/" + name + "/environ").find(text) == std::string::npos) continue;
    const pid_t pid = std::stoi(name);
    if (is_running(pid)) found.push_back(pid);
  }
  return found;
}

}  // namespace modelpool::test
