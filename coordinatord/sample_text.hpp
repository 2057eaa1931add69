// What coordinatord and modelpool-sample say to each other: lines of words, over a socket.
//
//   measure ID all|host|devices     a request: its number, and what is measured
//   backend SLOT GENERATION GROUP PID/START...     once for each; GROUP 0: none of its own
//   end ID
//
//   begin ID                        an answer, in this order
//   backend SLOT GENERATION BYTES PID...           BYTES "-": it could not be measured
//   note CAUSE TEXT                 what goes wrong; said as long as it does
//   host                            all backends have been said
//   device UUID TOTAL FREE known|unknown PID:BYTES...
//   end ID
//
// Safety: plain values.
//
// Errors: what the other side says is input. A line that is not one of these, numbers that no host
// has, more than there can be: the whole answer is refused, with a text that says why.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/kinds.hpp"
#include "base/process.hpp"
#include "modelpool/result.hpp"

namespace modelpool::coordinator {

struct SampleRequest {
  struct Backend {
    BackendRef ref;
    pid_t group = 0;
    std::vector<ProcessIdentity> processes;  // those that are known; the first one first
  };
  std::uint64_t id = 0;
  bool with_host = true;
  bool with_devices = false;
  std::vector<Backend> backends;
};

struct SampleAnswer {
  struct Backend {
    BackendRef ref;
    std::optional<std::uint64_t> host_bytes;
    std::vector<pid_t> processes;  // all that were found
  };
  struct Device {
    std::string uuid;
    std::uint64_t total_bytes = 0;
    std::uint64_t free_bytes = 0;
    bool knows_processes = false;
    std::vector<std::pair<pid_t, std::uint64_t>> processes;
  };
  std::uint64_t id = 0;
  std::vector<Backend> backends;
  std::vector<std::pair<std::string, std::string>> notes;  // cause, text
  bool has_host = false;                                   // all backends are there
  bool is_complete = false;
  std::vector<Device> devices;
};

inline constexpr std::size_t kSampleLineMax_bytes = 256 * 1024;
inline constexpr std::size_t kSampleMax_bytes = 4 * 1024 * 1024;
inline constexpr std::uint64_t kSampleSizeMax_bytes = std::uint64_t{1} << 50;  // of anything

std::string request_text(const SampleRequest& request);
// The lines of an answer up to and with `host`, and those after it.
std::string host_text(const SampleAnswer& answer);
std::string devices_text(const SampleAnswer& answer);

// Takes what comes, in whatever pieces, and gives whole lines.
class LineReader {
 public:
  explicit LineReader(std::size_t line_max_bytes) : line_max_(line_max_bytes) {}
  // Errors: kInvalid, a line that is too long.
  Result<> add(std::string_view bytes);
  std::optional<std::string> take();
  void clear() { pending_.clear(); }

 private:
  std::size_t line_max_;
  std::string pending_;
};

// Requests as they come, line by line. Errors: kInvalid.
class RequestReader {
 public:
  Result<std::optional<SampleRequest>> add(std::string_view line);

 private:
  std::optional<SampleRequest> request_;
};

// One answer, line by line. Errors: kInvalid; then nothing of it is to be believed.
class AnswerReader {
 public:
  explicit AnswerReader(std::uint64_t id) { answer_.id = id; }
  Result<> add(std::string_view line);
  const SampleAnswer& answer() const { return answer_; }

 private:
  Result<> add_backend(std::string_view words);
  Result<> add_device(std::string_view words);

  SampleAnswer answer_;
  bool has_begun_ = false;
  std::size_t bytes_ = 0;
};

}  // namespace modelpool::coordinator
