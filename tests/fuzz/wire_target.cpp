#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "targets.hpp"
#include "wire/access.hpp"
#include "wire/asked_model.hpp"
#include "wire/heads.hpp"
#include "wire/lease_wish.hpp"
#include "wire/message.hpp"
#include "wire/tokens.hpp"
#include "wire/top_level.hpp"

namespace modelpool::fuzz {
namespace {

using namespace modelpool::serve;  // NOLINT(google-build-using-namespace)

void hold(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "property does not hold: %s\n", what);
  std::abort();
}

void check_refusal(const Refusal& refusal) {
  hold(refusal.status >= 400 && refusal.status < 600, "a refusal has a status");
  const std::string text = own_answer(answer_of(refusal), {}, false);
  AnswerReader reader("GET");
  const auto taken = reader.read_head(text);
  hold(taken && *taken > 0, "what a refusal becomes is an answer");
  hold(reader.length() == text.size() - *taken, "it has the length that it says");
  hold(nlohmann::json::accept(text.substr(*taken)), "its body is JSON");
}

template <bool is_request>
struct Conversation {
  std::string heads;  // and how it ended
  std::string bodies;
  std::optional<http::header<is_request>> first;
  Framing framing = Framing::kNone;
  bool is_refused = false;
};

// All messages of a connection, `step` bytes at a time; 0: at once.
template <bool is_request>
Conversation<is_request> converse(std::string_view bytes, std::size_t step) {
  MessageReader<is_request> reader(bytes.size() % 5 == 0 ? "HEAD" : "GET");
  Conversation<is_request> seen;
  std::array<char, 11> room{};
  std::size_t at = 0, fed = step == 0 ? bytes.size() : 0;
  bool wants_head = true;
  const auto end_with = [&](const Refusal& refusal) {
    hold(refusal.close, "a message that is refused closes");
    check_refusal(refusal);
    seen.heads += refusal.message;
    seen.is_refused = true;
    return seen;
  };
  for (;;) {
    const std::string_view there = bytes.substr(at, fed - at);
    if (wants_head) {
      const auto taken = reader.read_head(there);
      if (!taken) return end_with(taken.error());
      hold(*taken <= there.size(), "no more is taken than there is");
      if (*taken > 0) {
        at += *taken;
        wants_head = false;
        for (const auto& field : reader.head()) {
          seen.heads.append(view(field.name_string())).append(":").append(view(field.value()));
        }
        seen.heads += "|" + std::to_string(static_cast<int>(reader.framing())) + "," +
                      std::to_string(reader.length()) + "," + (reader.keeps_open() ? "+" : "-");
        if (!seen.first) {
          seen.first = reader.head();
          seen.framing = reader.framing();
        }
        continue;
      }
    } else if (!reader.is_whole()) {
      const auto taken = reader.read_body(there, room);
      if (!taken) return end_with(taken.error());
      hold(taken->in <= there.size() && taken->out <= taken->in, "a body only shrinks");
      seen.bodies.append(room.data(), taken->out);
      at += taken->in;
      if (taken->in > 0) continue;
    } else if (reader.keeps_open()) {
      wants_head = true;
      continue;
    } else {
      return seen;
    }
    if (fed == bytes.size()) break;
    fed = std::min(bytes.size(), fed + step);
  }
  seen.heads += reader.end_of_input() ? "." : "cut";
  return seen;
}

template <bool is_request>
Conversation<is_request> check_pieces(std::string_view bytes, std::size_t step) {
  const auto whole = converse<is_request>(bytes, 0);
  const auto pieces = converse<is_request>(bytes, step);
  hold(whole.heads == pieces.heads, "pieces do not change what is read");
  hold(whole.is_refused || whole.bodies == pieces.bodies, "pieces do not change a body");
  return whole;
}

bool is_forbidden(std::string_view name) {
  std::string text = lowered(name);
  std::replace(text.begin(), text.end(), '_', '-');
  for (const char* start : {"proxy-", "x-modelpool-"}) {
    if (begins_with_word(text, start)) return true;
  }
  for (const char* word : {"connection", "keep-alive", "te", "trailer", "upgrade", "expect"}) {
    if (text == word) return true;
  }
  return false;
}

void check_request_head(const http::header<true>& head, std::size_t choice) {
  RequestChanges changes;
  changes.target = std::string(head.target());
  changes.host = "backend:1";
  changes.chunked = choice % 3 == 0;
  if (choice % 3 == 1) changes.content_length = choice;
  changes.client = "10.0.0.1";
  changes.client_is_trusted = choice % 2 == 0;
  changes.request_id = request_id_of(head);
  if (choice % 5 == 0) changes.backend_key = "key";
  const std::string text = request_head(head, changes, choice % 7 == 0);
  RequestReader reader;
  const auto taken = reader.read_head(text);
  hold(taken && *taken == text.size(), "a head that is sent is one");
  for (const auto& field : reader.head()) {
    hold(!is_forbidden(view(field.name_string())), "a field of the connection goes no further");
  }
  hold(reader.head()["Host"] == "backend:1", "Host is the backend's");
  hold((reader.framing() == Framing::kChunked) == changes.chunked, "framing is the door's");
  hold(reader.head().method_string() == head.method_string(), "the method stays");
  hold(tag_of(changes.request_id).size() <= 31, "a tag fits");
}

void check_access(const http::header<true>& head, std::size_t choice) {
  std::vector<Key> keys(1);
  AccessRules rules;
  rules.is_loopback = choice % 2 == 0;
  rules.host_names = {"a"};
  rules.cors_origins = {"http://b"};
  if (choice % 3 == 0) rules.keys = &keys;
  const auto admitted = admit(head, rules);
  if (!admitted) {
    check_refusal(admitted.error());
  } else {
    hold(admitted->key == nullptr, "nobody guesses a key");
    const bool is_options = head.method() == http::verb::options;
    hold(is_options || (rules.is_loopback && rules.keys == nullptr), "a key is needed");
    OwnAnswer answer;
    answer.fields = preflight_fields(head, rules);
    answer.fields.emplace_back("Access-Control-Allow-Origin", admitted->allow_origin);
    AnswerReader reader("OPTIONS");
    hold(reader.read_head(own_answer(answer, {}, false)).value_or(0) > 0,
         "a preflight is answered");
  }
}

const SameModel kSame = std::equal_to<std::string>();

bool check_request(std::string_view bytes, std::size_t choice) {
  const auto seen = check_pieces<true>(bytes, choice % 13 + 1);
  if (!seen.first) return false;
  check_request_head(*seen.first, choice);
  check_access(*seen.first, choice);
  const auto named = model_in_head(*seen.first, kSame);
  if (!named) {
    check_refusal(named.error());
    return true;
  }
  hold(named->target == "*" || named->target.front() == '/', "what is left is a target");
  const auto asked = find_asked_model(*seen.first, *named, seen.bodies, kSame);
  if (!asked) {
    check_refusal(asked.error());
  } else {
    hold(is_utf8(asked->name) && !asked->name.empty(), "a name is UTF-8");
    hold(!named->model || *named->model == asked->name, "all places name the same");
  }
  return true;
}

bool check_answer(std::string_view bytes, std::size_t choice) {
  const auto seen = check_pieces<false>(bytes, choice % 13 + 1);
  if (!seen.first) return false;
  AnswerChanges changes;
  changes.client_version = choice % 2 == 0 ? 11 : 10;
  changes.framing = framing_for(changes.client_version, seen.framing);
  changes.content_length = choice;
  changes.keep_open = choice % 3 == 0;
  changes.fields = {{"X-Modelpool-Model", std::string(bytes)}};
  if (seen.first->result_int() == 101) changes.upgrade = "a";
  const std::string text = answer_head(*seen.first, changes);
  AnswerReader reader(seen.framing == Framing::kNone ? "HEAD" : "GET");
  const auto taken = reader.read_head(text);
  hold(taken && *taken == text.size(), "a head that is sent is one");
  hold(reader.framing() == changes.framing, "framing is the door's");
  hold(reader.head().count("X-Modelpool-Model") == 1, "what the door sets stands once");
  hold(reader.head().count("Access-Control-Allow-Origin") == 0, "CORS is the door's");
  return true;
}

http::header<true> post_of(const char* type) {
  http::header<true> head;
  head.method(http::verb::post);
  head.target("/v1/x");
  head.version(11);
  head.set(http::field::content_type, type);
  return head;
}

// With another name in its place the body asks for that.
void check_replaced(const char* type, std::string_view body, const AskedModel& asked) {
  std::string other(body);
  other.replace(asked.value_at, asked.value_bytes, written_model(asked, "o \"\\"));
  const auto again = find_asked_model(post_of(type), {}, other, kSame);
  hold(again && again->name == "o \"\\", "a name is replaced where it stands");
}

void check_wish(std::string_view body) {
  const auto wish = read_lease_wish(body);
  if (!wish) return check_refusal(wish.error());
  hold(!wish->name.empty() && wish->name.size() <= kNameMax_bytes, "a wish has a name");
  const std::string mark = lease_mark(*wish, body);
  const std::string tag = marked_tag(wish->tag, mark);
  hold(tag.size() <= kTagMax_bytes && mark_of(tag) == mark, "a mark is found in its tag");
}

bool check_json(std::string_view body) {
  check_wish(body);
  const auto asked = find_asked_model(post_of("application/json"), {}, body, kSame);
  const auto tree = nlohmann::json::parse(body, nullptr, false);
  if (asked) check_replaced("application/json", body, *asked);
  if (tree.is_discarded()) return asked.has_value();
  const bool has_model = tree.is_object() && tree.contains("model");
  if (asked) {
    hold(has_model && tree["model"] == asked->name, "both read the same model");
    hold(!asked->streams || tree.at("stream") == true, "both read the same stream");
  } else {
    check_refusal(asked.error());
    const std::string& text = asked.error().message;
    // To nlohmann's parser a NUL is the end.
    hold(asked.error().code != kNoJson || body.find('\0') != body.npos ||
             text.find("levels") != text.npos || text.find("BOM") != text.npos,
         "what is JSON is taken as such");
    hold(asked.error().code != "model_not_named" || !has_model || tree["model"] == "",
         "a model that is named is found");
  }
  return true;
}

bool check_form(std::string_view body) {
  constexpr const char* kType = "multipart/form-data; boundary=b";
  const auto asked = find_asked_model(post_of(kType), {}, body, kSame);
  if (!asked) {
    check_refusal(asked.error());
    return false;
  }
  hold(body.substr(asked->value_at, asked->value_bytes) == asked->name, "a value stands there");
  check_replaced(kType, body, *asked);
  return true;
}

bool check_target(std::string_view bytes, std::size_t choice) {
  std::string target(bytes);
  std::replace_if(
      target.begin(), target.end(), [](char c) { return is_control(c) || c == ' ' || c == '#'; },
      'a');
  static_cast<void>(is_trusted(bytes, {"10.0.0.0/8", target}));
  return check_request("GET /m/" + target + " HTTP/1.1\r\nHost: a\r\n\r\n", choice);
}

}  // namespace

bool wire(Bytes bytes) {
  if (bytes.size() < 2) return false;
  const std::size_t choice = bytes[1];
  const std::string_view text{reinterpret_cast<const char*>(bytes.data()) + 2, bytes.size() - 2};
  switch (bytes[0] % 5) {
    case 0:
      return check_request(text, choice);
    case 1:
      return check_answer(text, choice);
    case 2:
      return check_json(text);
    case 3:
      return check_form(text);
    default:
      return check_target(text, choice);
  }
}

}  // namespace modelpool::fuzz
