// One line a request, as text or JSON, for whoever operates the door. No key and no query is in it.
//
// Safety: the loop's thread; each line is one write to a file opened for appending, so that workers
// share it.
//
// Errors: of open kSystem; a line that cannot be written is lost.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "between/fd.hpp"
#include "config/door.hpp"
#include "modelpool/result.hpp"

namespace modelpool::serve {

struct AccessLine {
  std::string client;
  std::string request_id;
  std::string key;  // its name
  std::string method;
  std::string path;
  int status = 0;  // 0: the client left before an answer
  std::string model;
  std::string backend;
  std::uint64_t in_bytes = 0;
  std::uint64_t out_bytes = 0;
  std::int64_t wait_ms = -1;  // for a place; -1: none was asked for
  std::int64_t first_byte_ms = -1;
  std::int64_t total_ms = 0;
  std::string end;  // why it ended otherwise than whole
};

class AccessLog {
 public:
  static Result<AccessLog> open(const config::Serve& config);
  // Would it open? Makes no file.
  static Result<> check(const config::Serve& config);
  void write(const AccessLine& line) const;

 private:
  Fd file_;
  bool is_json_ = false;
};

}  // namespace modelpool::serve
