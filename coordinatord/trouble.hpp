// What goes wrong around the coordinator: the mutex is held, a timer cannot be set, a thread is
// refused. It is logged once per cause and minute, however often it is tried again.
//
// Safety: any thread.
//
// Errors: none.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

namespace modelpool::coordinator {

class Troubles {
 public:
  // The line to log now; nothing while the cause's last line is younger than a minute.
  std::optional<std::string> line(std::string_view cause, const std::string& text,
                                  std::uint64_t now_ns);

 private:
  struct Said {
    std::uint64_t next_ns = 0;
    std::uint64_t left_out = 0;
  };
  std::mutex mutex_;
  std::map<std::string, Said, std::less<>> said_;  // by cause
};

// A warning in this process's log. The cause is one of few, and no part of the line: "mutex",
// "timer".
void warn_of(std::string_view cause, const std::string& text);

}  // namespace modelpool::coordinator
