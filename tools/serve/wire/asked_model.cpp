#include "wire/asked_model.hpp"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "wire/form.hpp"
#include "wire/tokens.hpp"
#include "wire/top_level.hpp"

namespace modelpool::serve {
namespace {

constexpr std::string_view kPrefix = "/m/";

tl::unexpected<Refusal> unable(const char* code, const std::string& reason) {
  return refuse(400, code, "unable to choose a model: " + reason);
}

Checked<> check_name(std::string_view name) {
  if (name.empty()) return unable("model_not_named", "its name is empty");
  if (name.size() > kNameMax_bytes || !is_utf8(name) ||
      std::any_of(name.begin(), name.end(), is_control)) {
    return unable("bad_model_name", "a name is 1 to 255 bytes of printable UTF-8");
  }
  return {};
}

tl::unexpected<Refusal> differently() {
  return unable("model_named_twice", "it is named differently in two places; name it once");
}

struct QueryModel {
  std::string name;  // decoded
  std::string_view value;
};

// ?model=; nullopt: not there.
Checked<std::optional<QueryModel>> model_in_query(std::string_view query) {
  std::optional<QueryModel> found;
  for (const std::string_view pair : members(query, '&')) {
    const std::size_t equals = std::min(pair.find('='), pair.size());
    const auto key = percent_decoded(pair.substr(0, equals), true);
    if (!key || *key != "model") continue;
    if (found) return unable("model_named_twice", "the query has model= twice; send it once");
    const std::string_view value = pair.substr(std::min(equals + 1, pair.size()));
    auto name = percent_decoded(value, true);
    if (!name) return unable("bad_model_name", "a % in the query begins no two hex digits");
    if (const auto checked = check_name(*name); !checked) return tl::unexpected(checked.error());
    found = QueryModel{std::move(*name), value};
  }
  return found;
}

bool is_coded(const http::header<true>& head) {
  const auto range = head.equal_range(http::field::content_encoding);
  return std::any_of(range.first, range.second, [](const auto& field) {
    const auto codings = members(view(field.value()));
    return !std::all_of(codings.begin(), codings.end(),
                        [](std::string_view coding) { return same_word(coding, "identity"); });
  });
}

// May be JSON for somebody: what begins with { after blanks, also behind a BOM or as UTF-16.
bool looks_like_json(std::string_view body) {
  const std::size_t first =
      body.find_first_not_of(std::string_view(" \t\r\n\0\xef\xbb\xbf\xff\xfe", 10));
  return first != std::string_view::npos && body[first] == '{';
}

Checked<AskedModel> model_in_json(std::string_view body) {
  const auto top = scan_top_level(body);
  if (!top) return tl::unexpected(top.error());
  AskedModel asked;
  asked.streams = top->streams;
  if (!top->has_model) return asked;
  asked.name = top->model;
  asked.value_at = top->value_at;
  asked.value_bytes = top->value_bytes;
  asked.is_json_value = true;
  return asked;
}

Checked<AskedModel> model_in_form(const Parameters& type, std::string_view body) {
  const auto field = find_form_field(type, body, "model");
  if (!field) return tl::unexpected(field.error());
  AskedModel asked;
  if (!*field) return asked;
  asked.name = (*field)->value;
  asked.value_at = (*field)->at;
  asked.value_bytes = (*field)->value.size();
  return asked;
}

Checked<AskedModel> model_in_body(const http::header<true>& head, bool is_named,
                                  std::string_view body) {
  const auto types = head.equal_range(http::field::content_type);
  if (types.first != types.second && std::next(types.first) != types.second) {
    return unable("bad_request", "the request has several Content-Type; send one");
  }
  Parameters type;
  if (types.first != types.second) {
    const auto read = read_parameters(view(types.first->value()));
    if (read) type = *read;
    if (!read && begins_with_word(view(types.first->value()), "multipart/form-data")) {
      return unable("bad_request", "the Content-Type cannot be read");
    }
  }
  if (type.word == "multipart/form-data") return model_in_form(type, body);
  const bool is_json = type.word == "application/json" || ends_with(type.word, "+json");
  if (!is_json && !looks_like_json(body)) return AskedModel{};
  auto asked = model_in_json(body);
  if (!asked && !is_json && is_named && asked.error().code == kNoJson) return AskedModel{};
  return asked;
}

}  // namespace

Checked<NamedByHead> model_in_head(const http::header<true>& head, const SameModel& are_same) {
  NamedByHead named;
  const std::string_view target = view(head.target());
  const std::size_t end = std::min(target.find('?'), target.size());
  const std::string_view path = target.substr(0, end), query = target.substr(end);
  named.target = target;
  if (path.substr(0, kPrefix.size()) == kPrefix) {
    const std::size_t slash = std::min(path.find('/', kPrefix.size()), path.size());
    named.model = percent_decoded(path.substr(kPrefix.size(), slash - kPrefix.size()), false);
    if (!named.model) return unable("bad_model_name", "a % in the path begins no two hex digits");
    if (const auto checked = check_name(*named.model); !checked) {
      return tl::unexpected(checked.error());
    }
    named.by_path = true;
    named.target = slash < path.size() ? path.substr(slash) : "/";
    named.target += query;
  }
  if (query.empty()) return named;
  auto in_query = model_in_query(query.substr(1));
  if (!in_query) return tl::unexpected(in_query.error());
  if (!*in_query) return named;
  const auto& [name, value] = **in_query;
  if (named.model && !are_same(name, *named.model)) return differently();
  if (!named.model) named.model = name;
  const auto at = static_cast<std::size_t>(value.data() - query.data());
  named.value_at = named.target.size() - query.size() + at;
  named.value_bytes = value.size();
  return named;
}

Checked<AskedModel> find_asked_model(const http::header<true>& head, const NamedByHead& named,
                                     std::string_view body, const SameModel& are_same) {
  AskedModel asked;
  if (!body.empty()) {
    if (!is_coded(head)) {
      auto in_body = model_in_body(head, named.model.has_value(), body);
      if (!in_body) return in_body;
      asked = std::move(*in_body);
    } else if (!named.model) {
      return refuse(
          415, "coded_body",
          "unable to choose a model: the body has a Content-Encoding; send it without, or "
          "name the model in the path: /m/NAME/...");
    }
  }
  const bool in_body = asked.value_bytes > 0 || asked.value_at > 0;
  if (in_body) {
    if (const auto checked = check_name(asked.name); !checked) {
      return tl::unexpected(checked.error());
    }
    if (named.model && !are_same(*named.model, asked.name)) return differently();
  } else if (named.model) {
    asked.name = *named.model;
  } else {
    return unable("model_not_named",
                  "none is named; send \"model\" in a JSON body or a form, ?model=NAME, or use the "
                  "path /m/NAME/...");
  }
  return asked;
}

std::string written_target(const NamedByHead& named, std::string_view name) {
  std::string target = named.target;
  const auto value = std::string_view(target).substr(named.value_at, named.value_bytes);
  if (named.value_bytes == 0 || percent_decoded(value, true) == name) return target;
  return target.replace(named.value_at, named.value_bytes, percent_encoded(name));
}

std::string written_model(const AskedModel& asked, std::string_view name) {
  if (!asked.is_json_value) return std::string(name);
  using Json = nlohmann::json;
  return Json(name).dump(-1, ' ', false, Json::error_handler_t::replace);
}

bool takes_comments(const http::header<true>& head, const AskedModel& asked) {
  if (head.method() != http::verb::post || !asked.streams) return false;
  const std::string_view target = view(head.target());
  const std::string_view path = target.substr(0, target.find('?'));
  return ends_with(path, "/completions") || ends_with(path, "/responses");
}

}  // namespace modelpool::serve
