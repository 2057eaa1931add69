// What a command waits for, on stderr while it waits: on a terminal one line that is redrawn, with
// the time; else a line for each thing.
//
// Safety: one thread.
//
// Crash: nothing is left but a line on the terminal.
//
// Errors: none; what cannot be written is not shown.
#pragma once

#include <cstdint>
#include <string>

namespace modelpool::poolctl {

class Progress {
 public:
  explicit Progress(const std::string& model);
  ~Progress() { clear(); }

  void tell(const std::string& phase);
  // So that a message stands on a line of its own.
  void clear();

 private:
  static void write(const std::string& text);

  const std::string model_;
  const std::uint64_t begun_ns_;
  const bool is_terminal_;
  std::string told_;
  bool is_drawn_ = false;
};

}  // namespace modelpool::poolctl
