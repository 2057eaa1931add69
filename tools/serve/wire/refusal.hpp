// Why a message is not served, and what its sender is told.
//
// Safety: plain values.
//
// Errors: none.
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace modelpool::serve {

struct Refusal {
  int status = 400;
  std::string type = "invalid_request_error";
  std::string code;            // a word for programs: "model_not_found"; empty: null
  std::string message;         // for people
  unsigned retry_after_s = 0;  // 0: not said
  bool close = false;          // nothing of this connection can be believed any more
  bool wants_key = false;      // with WWW-Authenticate
  std::string allow = {};      // for Allow, with 405; empty: none
};

template <class T = void>
using Checked = tl::expected<T, Refusal>;

inline tl::unexpected<Refusal> refuse(int status, std::string code, std::string message) {
  Refusal refusal;
  refusal.status = status;
  if (status >= 500) refusal.type = "server_error";
  refusal.code = std::move(code);
  refusal.message = std::move(message);
  return tl::unexpected<Refusal>(std::move(refusal));
}

}  // namespace modelpool::serve
