// One field of a multipart/form-data body (RFC 7578), and the parameters of field values.
//
// Safety: pure functions of bytes that a stranger sent; time is linear.
//
// Errors: 400: a form that others may read differently, or that is cut off; the field twice.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "wire/refusal.hpp"

namespace modelpool::serve {

// `form-data; name="model"`: the first word and the rest, names in lower case. Nullopt: neither.
struct Parameters {
  std::string word;
  std::vector<std::pair<std::string, std::string>> values;

  // Its value; nullopt where it is not there or is there twice.
  std::optional<std::string> one(std::string_view name) const;
  bool has(std::string_view name) const;
};
std::optional<Parameters> read_parameters(std::string_view value);

struct FormField {
  std::size_t at = 0;  // of its value in the body
  std::string_view value;
};
// The field of that name that is no file; nullopt: there is none.
Checked<std::optional<FormField>> find_form_field(const Parameters& content_type,
                                                  std::string_view body, std::string_view name);

}  // namespace modelpool::serve
