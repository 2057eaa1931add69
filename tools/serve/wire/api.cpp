#include "wire/api.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <nlohmann/json.hpp>

#include "modelpool/settings.hpp"
#include "wire/tokens.hpp"

namespace modelpool::serve {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kPool = "/api/pool";
constexpr std::string_view kExplain = "explain/";

struct Entry {
  std::string_view name;  // below kPool
  ApiCall call;
};
constexpr std::array kEntries{
    Entry{"status", ApiCall::kStatus},    Entry{"list", ApiCall::kList},
    Entry{"leases", ApiCall::kLeases},    Entry{"waiters", ApiCall::kWaiters},
    Entry{"workers", ApiCall::kWorkers},  Entry{"events", ApiCall::kEvents},
    Entry{"explain/", ApiCall::kExplain}, Entry{"evict", ApiCall::kEvict},
    Entry{"pin", ApiCall::kPin},          Entry{"unpin", ApiCall::kUnpin},
    Entry{"load", ApiCall::kLoad},        Entry{"set", ApiCall::kSet},
};

// What programs that know nothing of modelpool read.
constexpr std::array kOfOthers{
    Entry{"/running", ApiCall::kRunning},
    Entry{"/api/ps", ApiCall::kPs},
    Entry{"/metrics", ApiCall::kMetrics},
    Entry{"/metrics/backends", ApiCall::kBackendMetrics},
};

tl::unexpected<Refusal> bad(const std::string& what, const std::string& reason) {
  return refuse(400, "bad_request", "unable to read " + what + ": " + reason);
}

tl::unexpected<Refusal> not_found(std::string_view path) {
  std::string looks;
  std::string orders;
  for (const Entry& entry : kEntries) {
    std::string& list = entry.call >= ApiCall::kEvict ? orders : looks;
    list += (list.empty() ? "" : ", ") + std::string(entry.name);
    if (entry.call == ApiCall::kExplain) list += "NAME";
  }
  return refuse(404, "not_found",
                "there is nothing at " + std::string(path.substr(0, 255)) + "; at " +
                    std::string(kPool) + "/ there are, to GET, " + looks + " and, to POST, " +
                    orders);
}

// The path alone, and what stands behind its `?`.
std::pair<std::string_view, std::string_view> split_target(std::string_view target) {
  const std::size_t mark = std::min(target.find('?'), target.size());
  return {target.substr(0, mark), target.substr(std::min(mark + 1, target.size()))};
}

Checked<ApiAsked> find_call(std::string_view path) {
  ApiAsked asked;
  for (const auto& [whole, call] : kOfOthers) {
    if (path != whole) continue;
    asked.call = call;
    return asked;
  }
  const std::string_view name = path.substr(std::min(kPool.size() + 1, path.size()));
  if (name.starts_with(kExplain) && name.size() > kExplain.size()) {
    auto model = percent_decoded(name.substr(kExplain.size()), false);
    if (!model) return bad("the name of a model", "a % in the path begins no two hex digits");
    asked.call = ApiCall::kExplain;
    asked.model = std::move(*model);
    return asked;
  }
  for (const Entry& entry : kEntries) {
    if (entry.name != name || entry.call == ApiCall::kExplain) continue;
    asked.call = entry.call;
    return asked;
  }
  return not_found(path);
}

Checked<> check_kind(const std::string& kind) {
  const std::vector<std::string> known = event_kinds();
  if (std::find(known.begin(), known.end(), kind) != known.end()) return {};
  std::string list;
  for (const std::string& one : known) list += " " + one;
  return bad("\"kind\"", "there is none of that name; the kinds are" + list);
}

// One parameter of `events`; its name is known to be UTF-8 by nobody.
Checked<> take_parameter(const std::string& key, std::string value, EventsAsked* asked) {
  const auto number = plain_number(value);
  if (key == "model") {
    asked->model = std::move(value);
  } else if (key == "kind") {
    if (const auto known = check_kind(value); !known) return known;
    asked->kinds.push_back(std::move(value));
  } else if (key == "count") {
    if (!number) return bad("\"count\"", "write a number");
    asked->count = number;
  } else if (key == "follow") {
    if (value != "0" && value != "1") return bad("\"follow\"", "write 1 or 0");
    asked->follows = value == "1";
  } else if (key == "since" && number) {
    asked->since = std::max<std::uint64_t>(1, *number);
  } else if (key == "since") {
    const auto length = parse_duration(value);
    if (!length || *length == 0)
      return bad("\"since\"", "write a sequence number, as 120, or how long ago, as 5m");
    asked->last_ns = *length;
  } else {
    return bad("the query", "there is no parameter \"" + key +
                                "\"; there are since, count, kind, model and follow");
  }
  return {};
}

Checked<EventsAsked> read_events(std::string_view query, const http::header<true>& head) {
  EventsAsked asked;
  std::vector<std::string> seen;
  for (const std::string_view pair : members(query, '&')) {
    const std::size_t equals = std::min(pair.find('='), pair.size());
    const auto key = percent_decoded(pair.substr(0, equals), true);
    auto value = percent_decoded(pair.substr(std::min(equals + 1, pair.size())), true);
    if (!key || !value) return bad("the query", "a % in it begins no two hex digits");
    if (*key != "kind" && std::find(seen.begin(), seen.end(), *key) != seen.end())
      return bad("the query", "it has " + *key + "= twice");
    seen.push_back(*key);
    if (auto ok = take_parameter(*key, std::move(*value), &asked); !ok)
      return tl::unexpected(ok.error());
  }
  // Of a client that comes again, as browsers send it: what it had last.
  const auto last = head.find("Last-Event-ID");
  if (last == head.end() || !asked.follows) return asked;
  const auto number = plain_number(trimmed(view(last->value())));
  if (!number) return bad("Last-Event-ID", "it is a sequence number");
  asked.since = *number + 1;
  return asked;
}

Checked<> check_json(const http::header<true>& head) {
  const auto range = head.equal_range(http::field::content_type);
  const bool is_one = range.first != range.second && std::next(range.first) == range.second;
  const std::string_view type = is_one ? view(range.first->value()) : std::string_view();
  const bool is_json = same_word(trimmed(type.substr(0, type.find(';'))), "application/json");
  if (is_json && head.find(http::field::content_encoding) == head.end()) return {};
  // A form of a foreign page can send anything but this.
  return refuse(415, "not_json",
                "unable to read the order: send it with Content-Type: application/json, not "
                "compressed");
}

// --- Orders --------------------------------------------------------------------------------------

// An object, each key of it once.
Checked<Json> read_object(std::string_view body) {
  std::vector<std::string> keys;
  std::string twice;
  const auto note = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (event != Json::parse_event_t::key || depth != 1) return true;
    const auto key = parsed.get<std::string>();
    if (std::find(keys.begin(), keys.end(), key) != keys.end()) twice = key;
    keys.push_back(key);
    return true;
  };
  Json json = Json::parse(body, note, false);
  if (!json.is_object()) return refuse(400, "invalid_json", "the body is no JSON object");
  if (!twice.empty()) return bad("the order", "it has \"" + twice + "\" twice");
  return json;
}

Checked<std::string> setting_value(const std::string& name, const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number() || value.is_boolean()) return value.dump();
  return bad("\"" + name + "\"", "a setting is a text, a number, true or false");
}

Checked<> take_key(ApiCall call, const std::string& key, const Json& value, Order* order) {
  const auto wrong = [&](const char* what) { return bad("\"" + key + "\"", what); };
  if (call == ApiCall::kSet) {
    auto text = setting_value(key, value);
    if (!text) return tl::unexpected(text.error());
    order->values.emplace_back(key, std::move(*text));
  } else if (key == "model") {
    if (!value.is_string() || value.get_ref<const std::string&>().empty())
      return wrong("it is the name of a model");
    order->model = value.get<std::string>();
  } else if (key == "force" && call == ApiCall::kEvict) {
    if (!value.is_boolean()) return wrong("it is true or false");
    order->force = value.get<bool>();
  } else if (key == "timeout" && (call == ApiCall::kEvict || call == ApiCall::kLoad)) {
    const auto length = parse_duration(value.is_string() ? value.get<std::string>() : "");
    if (!length) return wrong("it is a time, as \"30s\"");
    order->timeout_ns = *length;
  } else {
    return bad("the order", "there is no key \"" + key + "\" in it");
  }
  return {};
}

}  // namespace

bool EventsAsked::wants(std::string_view of_model, std::string_view of_kind) const {
  if (!model.empty() && model != of_model) return false;
  return kinds.empty() || std::find(kinds.begin(), kinds.end(), of_kind) != kinds.end();
}

bool is_api(std::string_view path) {
  const auto is_it = [path](const Entry& one) { return one.name == path; };
  if (std::any_of(kOfOthers.begin(), kOfOthers.end(), is_it)) return true;
  return path.starts_with(kPool) && (path.size() == kPool.size() || path[kPool.size()] == '/');
}

Checked<ApiAsked> read_api(const http::header<true>& head, bool may_steer) {
  const auto [path, query] = split_target(view(head.target()));
  auto asked = find_call(path);
  if (!asked) return asked;
  const auto method = head.method();
  const bool is_look = method == http::verb::get || method == http::verb::head;
  if (asked->is_order() ? method != http::verb::post : !is_look) {
    auto refusal = refuse(
        405, "method_not_allowed",
        std::string(path) + (asked->is_order() ? " is an order: POST" : " is only looked at: GET"));
    refusal.value().allow = asked->is_order() ? "POST" : "GET, HEAD";
    return refusal;
  }
  if (asked->is_order()) {
    if (!may_steer) {
      return refuse(403, "key_may_not_steer",
                    "unable to change the pool: this key may use it; steering needs one with "
                    "`steer`");
    }
    if (const auto json = check_json(head); !json) return tl::unexpected(json.error());
  }
  if (asked->call != ApiCall::kEvents) return asked;
  auto events = read_events(query, head);
  if (!events) return tl::unexpected(events.error());
  asked->events = std::move(*events);
  return asked;
}

Checked<Order> read_order(ApiCall call, std::string_view body) {
  const auto json = read_object(body);
  if (!json) return tl::unexpected(json.error());
  Order order;
  for (const auto& [key, value] : json->items()) {
    if (auto ok = take_key(call, key, value, &order); !ok) return tl::unexpected(ok.error());
  }
  if (call == ApiCall::kSet && order.values.empty())
    return bad("the order", "it names no setting; write {\"idle_timeout\": \"15m\"}");
  if (call != ApiCall::kSet && order.model.empty())
    return bad("the order", "it names no \"model\"");
  return order;
}

}  // namespace modelpool::serve
