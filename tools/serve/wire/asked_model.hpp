// Which model a request is for: by path (/m/NAME/...), query (?model=), a JSON body's "model" at
// the top level or a multipart field. Named twice in one place or differently in two: 400.
//
// NAME is one segment of the path, percent-encoded: /m/Qwen%2FQwen3/v1/... In the query + is
// a blank.
//
// A body is JSON where Content-Type says so. A body of another type, or of none, that begins with {
// counts as JSON too, because curl -d calls all it sends a form; where it is no JSON after all,
// path or query may name the model alone.
//
// Safety: pure functions of bytes that a stranger sent.
//
// Errors: 400 with the reason (no model named, twice, differently, no JSON, UTF-16, a BOM), 415 for
// a coded body.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "wire/message.hpp"

namespace modelpool::serve {

inline constexpr std::size_t kNameMax_bytes = 255;  // as the pool has it

// What the head says, before the body has come.
struct NamedByHead {
  std::optional<std::string> model;  // by path or query, decoded
  bool by_path = false;
  std::string target;  // for the backend: without /m/NAME
  // Where the value of ?model= stands in it, percent-encoded; 0 bytes: not there.
  std::size_t value_at = 0;
  std::size_t value_bytes = 0;
};
// Are both names of one model? Where two places name it differently, the request is refused.
using SameModel = std::function<bool(const std::string&, const std::string&)>;
Checked<NamedByHead> model_in_head(const http::header<true>& head, const SameModel& are_same);

struct AskedModel {
  std::string name;
  // Where its value stands in the body, quotes included (JSON) or bare (multipart), so that an
  // alias can be replaced; 0 and 0: not in the body.
  std::size_t value_at = 0;
  std::size_t value_bytes = 0;
  bool is_json_value = false;
  bool streams = false;  // JSON "stream": true
};
// With the body whole; `body` may be a mapped file.
Checked<AskedModel> find_asked_model(const http::header<true>& head, const NamedByHead& named,
                                     std::string_view body, const SameModel& are_same);
// The target, with that name where ?model= has another.
std::string written_target(const NamedByHead& named, std::string_view name);
// The value that stands there for another model, as it is written: JSON quoted, or bare.
std::string written_model(const AskedModel& asked, std::string_view name);

// May a loading comment go before its answer? POST to */chat/completions, */completions,
// */responses with "stream": true.
bool takes_comments(const http::header<true>& head, const AskedModel& asked);

}  // namespace modelpool::serve
