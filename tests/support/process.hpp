// Real processes under test: programs with their output, and forked workers that run a function and
// talk to the test. All of them are ended, by PID, when their object goes.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/process.hpp"

namespace modelpool::test {

// A program, running. Its stdout and stderr go to files.
class Program {
 public:
  struct Options {
    std::map<std::string, std::string> env;
    std::string input;  // file for stdin; empty: /dev/null
  };
  explicit Program(const std::vector<std::string>& argv) : Program(argv, Options{}) {}
  Program(const std::vector<std::string>& argv, const Options& options);
  Program(Program&& other) noexcept;
  Program& operator=(Program&&) = delete;
  ~Program();  // SIGKILL and reaped, if it still runs

  pid_t pid() const { return pid_; }
  bool running();
  void signal(int signal);
  // Waits for it: exit code, or 128 + N if signal N ended it.
  int wait();
  std::string out() const;
  std::string err() const;

 private:
  std::string files_;  // directory of its output
  pid_t pid_ = -1;
  int status_ = -1;
  bool reaped_ = false;
};

struct Finished {
  int code = 0;
  std::string out;
  std::string err;
};
Finished run(const std::vector<std::string>& argv, const Program::Options& options = {});

// A forked process that runs `body(child)` and then _exits 0, or 70 if the body threw or a gtest
// expectation in it failed (the message is in what it sent to stderr). Fork from a test without
// other threads.
class Forked {
 public:
  class Child {  // the child's side
   public:
    void say(const std::string& line);  // to the parent; no line ends in it
    std::string hear();                 // the parent's next line; "" if it is gone

   private:
    friend class Forked;
    int in_ = -1;
    int out_ = -1;
  };
  explicit Forked(const std::function<void(Child&)>& body);
  ~Forked();  // SIGKILL and reaped
  Forked(const Forked&) = delete;
  Forked& operator=(const Forked&) = delete;

  pid_t pid() const { return pid_; }
  void say(const std::string& line);
  std::string hear();  // the child's next line; "" if it has ended
  void signal(int signal);
  void kill_now();  // SIGKILL and reaped
  int wait();       // as Program::wait

 private:
  pid_t pid_ = -1;
  int in_ = -1;
  int out_ = -1;
  std::string buffer_;
  bool reaped_ = false;
  int status_ = 0;
};

void* shared_memory(std::size_t bytes);
void unmap(void* memory, std::size_t bytes);

// A T that this process and those it forks share, all zeros at first.
template <class T>
class SharedMemory {
 public:
  SharedMemory() : memory_(shared_memory(sizeof(T))) {}
  ~SharedMemory() { unmap(memory_, sizeof(T)); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  T* operator->() const { return static_cast<T*>(memory_); }

 private:
  void* memory_;
};

bool is_running(pid_t pid);  // and not a zombie
// Waits until SIGSTOP has taken hold of it. False if it ended instead.
bool has_stopped(pid_t pid);
// While it lives, whatever processes started here leave behind become children of this process;
// when it goes they are ended and reaped. Declare it first.
class Orphans {
 public:
  Orphans();
  ~Orphans();
  Orphans(const Orphans&) = delete;
  Orphans& operator=(const Orphans&) = delete;

  // Children of this process now, zombies apart: orphans and whoever was started here.
  static std::vector<pid_t> children();
};

// This very test program, as a program that runs one of its DISABLED_ tests: what exec needs.
std::vector<std::string> own_argv(const std::string& disabled_test);

// Does somebody have this file locked, and be it who lives for a moment only? Made if missing.
bool is_locked(const std::string& path);

// Processes whose environment carries this text: an observer that does not use the library.
std::vector<pid_t> processes_with_environment(const std::string& text);

}  // namespace modelpool::test
