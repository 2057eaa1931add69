#include "wire/heads.hpp"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <boost/beast/http/status.hpp>
#include <charconv>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "wire/lease_wish.hpp"
#include "wire/tokens.hpp"

namespace modelpool::serve {
namespace {

constexpr std::size_t kRequestIdMax_bytes = 128;

void add(std::string& out, std::string_view name, std::string_view value) {
  if (!is_token(name)) return;
  out.append(name).append(": ");
  const std::size_t at = out.size();
  out += value;
  std::replace_if(
      out.begin() + static_cast<std::ptrdiff_t>(at), out.end(),
      [](char c) { return is_control(c) && c != '\t'; }, ' ');
  out += "\r\n";
}

// How a backend may read it: without case, _ as -.
std::string folded(std::string_view name) {
  std::string result = lowered(name);
  std::replace(result.begin(), result.end(), '_', '-');
  return result;
}

bool is_any_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool begins_with(std::string_view text, std::string_view start) {
  return text.substr(0, start.size()) == start;
}

// What says by which way a request came.
bool is_of_the_way(std::string_view name) {
  return begins_with(name, "x-forwarded-") || is_any_of(name, {"forwarded", "x-real-ip"});
}

bool is_of_the_connection(std::string_view name) {
  return begins_with(name, "proxy-") || begins_with(name, "x-modelpool-") ||
         is_any_of(name, {"connection", "keep-alive", "te", "trailer", "transfer-encoding",
                          "content-length", "upgrade", "http2-settings", "expect"});
}

// The fields that this Connection names, folded and sorted.
template <bool is_request>
std::vector<std::string> named_by_connection(const http::header<is_request>& head) {
  std::vector<std::string> names;
  for (const auto& field : head) {
    if (field.name() != http::field::connection) continue;
    for (const std::string_view name : members(view(field.value()))) names.push_back(folded(name));
  }
  std::sort(names.begin(), names.end());
  return names;
}

// The values of a field as one list.
std::string joined(const http::header<true>& head, std::string_view name) {
  std::string result;
  for (const auto& field : head) {
    if (!same_word(view(field.name_string()), name)) continue;
    if (!result.empty()) result += ", ";
    result += view(field.value());
  }
  return result;
}

std::string with_member(std::string list, std::string_view member) {
  if (!list.empty()) list += ", ";
  return list.append(member);
}

void add_via(std::string& out, unsigned version) {
  add(out, "Via", version >= 11 ? "1.1 modelpool" : "1.0 modelpool");
}

std::string safe_target(std::string_view target) {
  std::string result;
  for (const char c : target) {
    if (is_control(c) || c == ' ') {
      std::array<char, 4> text{};
      std::snprintf(text.data(), text.size(), "%%%02X", static_cast<unsigned>(c) & 0xffu);
      result += text.data();
    } else {
      result += c;
    }
  }
  return result.empty() ? "/" : result;
}

void add_way(std::string& out, const http::header<true>& head, const RequestChanges& changes) {
  const auto told = [&](std::string_view name) {
    return changes.client_is_trusted ? joined(head, name) : std::string();
  };
  std::string chain = told("X-Forwarded-For");
  if (!changes.client.empty()) chain = with_member(std::move(chain), changes.client);
  if (!chain.empty()) add(out, "X-Forwarded-For", chain);
  const std::string proto = told("X-Forwarded-Proto");
  add(out, "X-Forwarded-Proto", !proto.empty() ? proto : changes.was_tls ? "https" : "http");
  std::string host = told("X-Forwarded-Host");
  if (host.empty()) host = joined(head, "Host");
  if (!host.empty()) add(out, "X-Forwarded-Host", host);
  if (std::string forwarded = told("Forwarded"); !forwarded.empty()) {
    const bool is_v6 = changes.client.find(':') != std::string::npos;
    const std::string client = changes.client.empty() ? "unknown"
                               : is_v6                ? "\"[" + changes.client + "]\""
                                                      : changes.client;
    add(out, "Forwarded",
        with_member(std::move(forwarded),
                    "for=" + client + (changes.was_tls ? ";proto=https" : ";proto=http")));
  }
}

std::string date_now() {
  thread_local std::time_t of = -1;
  thread_local std::string made;
  const std::time_t now = std::time(nullptr);
  if (now == of) return made;
  std::tm utc{};
  gmtime_r(&now, &utc);
  // Not strftime's names: those are the locale's.
  constexpr std::array<const char*, 7> kDays{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  constexpr std::array<const char*, 12> kMonths{"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                                "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  std::array<char, 96> text{};
  std::snprintf(text.data(), text.size(), "%s, %02d %s %04d %02d:%02d:%02d GMT",
                kDays.at(static_cast<std::size_t>(utc.tm_wday)), utc.tm_mday,
                kMonths.at(static_cast<std::size_t>(utc.tm_mon)), utc.tm_year + 1900, utc.tm_hour,
                utc.tm_min, utc.tm_sec);
  of = now;
  return made = text.data();
}

std::string status_line(unsigned status, std::string_view reason) {
  std::string line = "HTTP/1.1 " + std::to_string(status) + ' ';
  for (const char c : reason) line += is_control(c) ? ' ' : c;
  return line + "\r\n";
}

void add_connection(std::string& out, const AnswerChanges& changes, Framing framing) {
  if (!changes.upgrade.empty()) {
    add(out, "Connection", "Upgrade");
    add(out, "Upgrade", changes.upgrade);
  } else if (!changes.keep_open || framing == Framing::kUntilClose) {
    add(out, "Connection", "close");
  } else if (changes.client_version < 11) {
    add(out, "Connection", "keep-alive");
  }
}

}  // namespace

std::string request_head(const http::header<true>& head, const RequestChanges& changes,
                         bool key_was_ours) {
  const std::vector<std::string> named = named_by_connection(head);
  const bool drops_keys = key_was_ours || !changes.backend_key.empty();
  std::string out(view(head.method_string()));
  out.append(" ").append(safe_target(changes.target)).append(" HTTP/1.1\r\n");
  add(out, "Host", changes.host);
  for (const auto& field : head) {
    const std::string name = folded(view(field.name_string()));
    if (is_of_the_connection(name) || is_any_of(name, {"host", "x-request-id"})) continue;
    if (drops_keys && is_any_of(name, {"authorization", "x-api-key", "api-key"})) continue;
    if (is_of_the_way(name)) {
      // The door writes the first four, and by Connection nobody takes the way from a trusted one.
      if (is_any_of(name,
                    {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"}))
        continue;
      if (!changes.client_is_trusted || view(field.name_string()).find('_') != std::string::npos)
        continue;
    } else if (std::binary_search(named.begin(), named.end(), name)) {
      continue;
    }
    add(out, view(field.name_string()), view(field.value()));
  }
  add_way(out, head, changes);
  add_via(out, head.version());
  if (!changes.request_id.empty()) add(out, "X-Request-Id", changes.request_id);
  if (!changes.backend_key.empty()) add(out, "Authorization", "Bearer " + changes.backend_key);
  if (!changes.upgrade.empty()) {
    add(out, "Connection", "Upgrade");
    add(out, "Upgrade", changes.upgrade);
  }
  if (changes.chunked) {
    add(out, "Transfer-Encoding", "chunked");
  } else if (changes.content_length) {
    add(out, "Content-Length", std::to_string(*changes.content_length));
  } else if (head.method() == http::verb::post || head.method() == http::verb::put ||
             head.method() == http::verb::patch) {
    add(out, "Content-Length", "0");  // RFC 9110, 8.6: else some ask for it
  }
  return out + "\r\n";
}

Framing framing_for(int client_version, Framing of_backend) {
  if (of_backend == Framing::kNone || of_backend == Framing::kLength) return of_backend;
  return client_version < 11 ? Framing::kUntilClose : Framing::kChunked;
}

std::string answer_head(const http::header<false>& head, const AnswerChanges& changes) {
  const std::vector<std::string> named = named_by_connection(head);
  std::vector<std::string> ours;
  for (const auto& [name, value] : changes.fields) {
    if (folded(name) != "vary") ours.push_back(folded(name));  // it adds up
  }
  std::sort(ours.begin(), ours.end());

  const Framing framing = changes.framing == Framing::kChunked
                              ? framing_for(changes.client_version, changes.framing)
                              : changes.framing;
  const unsigned status = head.result_int();
  std::string out = status_line(status, view(head.reason()));
  bool has_date = false;
  for (const auto& field : head) {
    const std::string name = folded(view(field.name_string()));
    // How long a body would be that is not sent.
    if (name == "content-length" && framing == Framing::kNone && status >= 200 && status != 204 &&
        field.name() == http::field::content_length) {
      add(out, "Content-Length", view(field.value()));
    }
    if (is_of_the_connection(name) || begins_with(name, "access-control-")) continue;
    if (std::binary_search(named.begin(), named.end(), name)) continue;
    if (std::binary_search(ours.begin(), ours.end(), name)) continue;
    has_date |= name == "date";
    add(out, view(field.name_string()), view(field.value()));
  }
  if (!has_date) add(out, "Date", date_now());
  add_via(out, head.version());
  for (const auto& [name, value] : changes.fields) add(out, name, value);
  if (framing == Framing::kChunked) add(out, "Transfer-Encoding", "chunked");
  if (framing == Framing::kLength) {
    add(out, "Content-Length", std::to_string(changes.content_length));
  }
  add_connection(out, changes, framing);
  return out + "\r\n";
}

std::string own_answer(const OwnAnswer& answer, const AnswerChanges& changes,
                       bool is_head_request) {
  const auto status = static_cast<unsigned>(answer.status);
  std::string out = status_line(status, view(http::obsolete_reason(http::int_to_status(status))));
  add(out, "Date", date_now());
  if (!answer.body.empty()) add(out, "Content-Type", answer.content_type);
  for (const auto& [name, value] : answer.fields) add(out, name, value);
  for (const auto& [name, value] : changes.fields) add(out, name, value);
  const bool may_have_body = status >= 200 && status != 204 && status != 304;
  if (may_have_body) add(out, "Content-Length", std::to_string(answer.body.size()));
  add_connection(out, changes, Framing::kLength);
  out += "\r\n";
  if (may_have_body && !is_head_request) out += answer.body;
  return out;
}

OwnAnswer answer_of(const Refusal& refusal) {
  OwnAnswer answer;
  answer.status = refusal.status;
  answer.body = error_json(refusal);
  if (refusal.retry_after_s > 0) {
    answer.fields.emplace_back("Retry-After", std::to_string(refusal.retry_after_s));
  }
  if (refusal.wants_key) answer.fields.emplace_back("WWW-Authenticate", "Bearer");
  if (!refusal.allow.empty()) answer.fields.emplace_back("Allow", refusal.allow);
  return answer;
}

std::string error_json(const Refusal& refusal) {
  using Json = nlohmann::ordered_json;
  const Json error{{"message", refusal.message},
                   {"type", refusal.type},
                   {"code", refusal.code.empty() ? Json(nullptr) : Json(refusal.code)},
                   {"param", nullptr}};
  return Json{{"error", error}}.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string chunk_size_line(std::size_t bytes) {
  std::array<char, 24> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), bytes, 16).ptr;
  return std::string(text.data(), end).append("\r\n");
}

std::string request_id_of(const http::header<true>& head) {
  const auto range = head.equal_range("X-Request-Id");
  if (range.first != range.second && std::next(range.first) == range.second) {
    const std::string_view id = view(range.first->value());
    const auto fits = [](char c) { return c > ' ' && c < 0x7f; };
    if (!id.empty() && id.size() <= kRequestIdMax_bytes &&
        std::all_of(id.begin(), id.end(), fits)) {
      return std::string(id);
    }
  }
  std::array<unsigned char, 16> random{};
  // At most 256 bytes come whole; before the kernel has any it waits, which was long ago.
  static_cast<void>(!getrandom(random.data(), random.size(), 0));
  std::string id;
  constexpr std::string_view kDigits = "0123456789abcdef";
  for (const unsigned char byte : random) {
    id += kDigits[byte >> 4];
    id += kDigits[byte & 15];
  }
  return id;
}

std::string tag_of(std::string_view request_id) {
  std::string tag(request_id);
  std::erase(tag, '-');
  return marked_tag(tag, {});
}

}  // namespace modelpool::serve
