// What may be the name of a pool or a model, an address or a tag.
//
// Safety: pure functions.
//
// Errors: kInvalid, naming the text and what would be right (P13).
#pragma once

#include <cstddef>
#include <string_view>

#include "modelpool/result.hpp"

namespace modelpool {

inline constexpr std::size_t kModelNameMax_bytes = 255;
inline constexpr std::size_t kAddressMax_bytes = 255;
inline constexpr std::size_t kTagMax_bytes = 31;
inline constexpr std::size_t kLabelMax_bytes = 31;
inline constexpr std::size_t kPoolNameMax_bytes = 64;

Result<> check_pool_name(std::string_view name);   // [a-z0-9_-]{1,64}
Result<> check_model_name(std::string_view name);  // 1 to 255 bytes of printable UTF-8
Result<> check_address(std::string_view address);  // 1 to 255 bytes of printable UTF-8, no blanks
Result<> check_tag(std::string_view tag);          // 0 to 31 bytes of printable UTF-8

}  // namespace modelpool
