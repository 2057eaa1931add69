#include "progress.hpp"

#include <unistd.h>

#include "base/duration.hpp"
#include "base/time.hpp"
#include "common.hpp"

namespace modelpool::poolctl {
namespace {

constexpr std::size_t kWidth = 79;

}  // namespace

Progress::Progress(const std::string& model)
    : model_(model), begun_ns_(now_ns()), is_terminal_(isatty(STDERR_FILENO) == 1) {}

void Progress::tell(const std::string& phase) {
  if (phase.empty()) return clear();
  if (!is_terminal_) {
    if (phase != told_) complain(escape(model_) + " " + phase);
    told_ = phase;
    return;
  }
  const std::string line =
      escape(model_) + " " + phase + ", " + format_age(age_ns(now_ns(), begun_ns_)) + " so far";
  write("\r" + cut(line, kWidth) + "\x1b[K");
  is_drawn_ = true;
}

void Progress::clear() {
  if (is_drawn_) write("\r\x1b[K");
  is_drawn_ = false;
}

void Progress::write(const std::string& text) {
  static_cast<void>(::write(STDERR_FILENO, text.data(), text.size()));
}

}  // namespace modelpool::poolctl
