// Another program in this process's place, with what this one holds. The program that the command
// line names, which may be another file by now, is asked first whether it could serve
// (--check-config): it runs beside us, and we go on meanwhile.
//
// Safety: one thread.
//
// Crash: of the program that is asked, is a no.
//
// Errors: kSystem; why it cannot be executed.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "master/clock.hpp"
#include "master/inheritance.hpp"

namespace modelpool::serve {

class Upgrade {
 public:
  enum class Answer { kNone, kYes, kNo };

  // The command line, with the program.
  explicit Upgrade(std::vector<std::string> words) : words_(std::move(words)) {}

  Result<> ask();
  bool is_asking() const { return asked_ != 0; }
  std::uint64_t due_ns() const { return due_ns_; }
  void step();                        // ends one that takes too long
  bool ended(pid_t pid, int status);  // a child of this process; true: it was that
  Answer take_answer() { return std::exchange(answer_, Answer::kNone); }
  void give_up() const;

  // Returns only where it cannot.
  Error execute(const Inheritance& all);

 private:
  std::vector<std::string> words_;
  pid_t asked_ = 0;
  std::uint64_t due_ns_ = kNever_ns;
  Answer answer_ = Answer::kNone;
};

}  // namespace modelpool::serve
