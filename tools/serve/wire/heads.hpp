// The heads that the door sends: rebuilt from what was read, never copied.
//
// Safety: pure functions, but for the clock in Date and the randomness in a request's id.
//
// Errors: none.
//
// Invariants:
//  1. Hop-by-hop fields, those that Connection names, Trailer, TE, Expect, Proxy-* and
//     X-Modelpool-* of a sender go no further, however they are spelled (a _ counts as a -: CGI and
//     WSGI read both as one); framing is the door's own.
//  2. What Connection names removes nothing that the door sets.
//  3. No value, wherever it comes from, ends its line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "wire/message.hpp"

namespace modelpool::serve {

struct RequestChanges {
  std::string target;  // of the backend: what follows /m/NAME, or as it came
  std::string host;    // of the backend
  std::optional<std::uint64_t> content_length;  // none: no body; with `chunked` unknown
  bool chunked = false;
  std::string client;              // its address, for X-Forwarded-For; empty: none (a Unix socket)
  bool client_is_trusted = false;  // its X-Forwarded-*, X-Real-IP and Forwarded are kept, added to
  bool was_tls = false;
  std::string request_id;
  std::string backend_key;   // as Authorization: Bearer; empty: none
  std::string upgrade = {};  // the reader's upgrade(), where it is to go on; empty: none
};
// The request as the backend gets it, with the empty line. The client's keys (Authorization,
// x-api-key, api-key) are left out where `key_was_ours` or the backend has one of its own.
std::string request_head(const http::header<true>& head, const RequestChanges& changes,
                         bool key_was_ours);

// How the body of an answer goes on to a client of this version: what has no length as chunks, or
// to HTTP/1.0 until the end of the connection.
Framing framing_for(int client_version, Framing of_backend);

struct AnswerChanges {
  int client_version = 11;           // 10: HTTP/1.0
  Framing framing = Framing::kNone;  // to the client: kNone, kLength, kChunked or kUntilClose
  std::uint64_t content_length = 0;
  bool keep_open = false;  // never with kUntilClose
  // X-Modelpool-Model and its like, Access-Control-*, X-Request-Id; each replaces the backend's
  // own, but for Vary, which adds to it.
  std::vector<std::pair<std::string, std::string>> fields;
  std::string upgrade = {};  // with status 101: the protocol
};
// The backend's Access-Control-* go no further: whose page may read is for the door to say. Without
// a body (an answer to HEAD, 304) the backend's Content-Length stays.
std::string answer_head(const http::header<false>& head, const AnswerChanges& changes);

// An answer of the door's own, whole. Of `changes` what concerns the body is not looked at.
struct OwnAnswer {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> fields;
};
std::string own_answer(const OwnAnswer& answer, const AnswerChanges& changes, bool is_head_request);
// With Retry-After, WWW-Authenticate and Allow. Whether the connection stays open is for `changes`
// to say.
OwnAnswer answer_of(const Refusal& refusal);
// {"error": {"message", "type", "code", "param": null}}, on one line.
std::string error_json(const Refusal& refusal);

// One chunk's framing before its bytes, "1a\r\n"; behind them comes "\r\n".
std::string chunk_size_line(std::size_t bytes);
inline constexpr std::string_view kLastChunk = "0\r\n\r\n";

// 32 hex digits, for a request without a usable X-Request-Id; else that one: up to 128 printable
// characters without blanks.
std::string request_id_of(const http::header<true>& head);
// What of it fits into a tag: dashes dropped, the first 31 bytes, and no mark of a lease.
std::string tag_of(std::string_view request_id);

}  // namespace modelpool::serve
