// What stands at the top level of a JSON body: its "model", and whether it streams. One pass over
// the bytes, without a tree; the whole of it is checked, so that whoever parses it reads the same.
//
// Safety: pure functions of bytes that a stranger sent; depth is bounded, memory constant.
//
// Errors: 400: no JSON (RFC 8259), a BOM, UTF-16, "model" twice or no string.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "wire/refusal.hpp"

namespace modelpool::serve {

inline constexpr std::size_t kJsonDepthMax = 512;
inline constexpr const char* kNoJson = "invalid_json";  // the code where it is none at all

struct TopLevel {
  bool has_model = false;
  std::string model;            // its escapes decoded
  std::size_t value_at = 0;     // of its opening quote
  std::size_t value_bytes = 0;  // with both quotes
  bool streams = false;         // "stream": true, said once
};
Checked<TopLevel> scan_top_level(std::string_view body);

}  // namespace modelpool::serve
