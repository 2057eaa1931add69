#include "config/reference.hpp"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "base/duration.hpp"
#include "base/size.hpp"
#include "config/capacities.hpp"
#include "config/door.hpp"
#include "config/keys.hpp"
#include "modelpool/settings.hpp"

namespace modelpool::config {
namespace {

// --- What there is -------------------------------------------------------------------------------

std::vector<KeyInfo> serve_rows() {
  return {
      {"listen", Takes::kAddresses, "`\"127.0.0.1:8080\"`",
       "an address or a list of them: `\"127.0.0.1:8080\"`, `\"[::1]:8080\"` (IPv6 alone), "
       "`\"unix:/run/x.sock\"`; port 0 is any that is free; 64 at most, with those of "
       "`[[serve.listener]]`"},
      {"auth",
       Takes::kWord,
       "by address",
       "who may ask at the addresses of `listen`, of `--listen`, and at the default: `\"none\"` "
       "everybody, `\"keys\"` who has a key. If it is not said: with `keys` who has one; without, "
       "everybody on this host, and any other address is refused",
       {"none", "keys", "peer"}},
      {"keys", Takes::kText, "none",
       "a file of keys, a line each: `KEY [use|steer] [name]`; nobody but its owner may open it. "
       "`steer` also gives orders to the pool: [the API](../../tools/serve/README.md#the-api)"},
      {"hosts", Takes::kTexts, "none",
       "further names that a request's `Host` may have, without a port"},
      {"cors_origins", Takes::kTexts, "none",
       "pages that may ask from another origin, `\"https://chat.example\"`"},
      {"trusted_proxies", Takes::kTexts, "none",
       "whose `X-Forwarded-*` are believed: addresses or networks, `\"10.0.0.0/8\"`"},
      {"workers", Takes::kCount, "one a core, at least 2", "processes that serve, 1 to 256"},
      {"max_connections", Takes::kCount, "",
       "connections of clients at once, of all workers together; one more waits until another has "
       "ended"},
      {"body_memory", Takes::kSize, "",
       "a request's body up to this stays in memory, more goes to a file"},
      {"body_limit", Takes::kSize, "", "a larger body is refused (413)"},
      {"bodies_memory", Takes::kSize, "",
       "of all bodies in one worker's memory; more is answered 503. One of `body_memory` must fit"},
      {"bodies_disk", Takes::kSize, "",
       "of all bodies in one worker's files; more is answered 503. One of `body_limit` must fit, "
       "if that is more than `body_memory`"},
      {"body_dir", Takes::kText, "`\"/var/tmp\"`",
       "where these files lie; they have no name there"},
      {"header_timeout", Takes::kTime, "",
       "from a new connection, or the first byte of its next request, to the end of the header"},
      {"keepalive_timeout", Takes::kTime, "",
       "from an answer to the next request on its connection"},
      {"client_timeout", Takes::kTime, "",
       "without a byte that the client sends or takes, while it is its turn"},
      {"queue_timeout", Takes::kTime, "",
       "how long a request may wait for its model, loading included, once its body is here (504)"},
      {"request_timeout", Takes::kTime, "",
       "from having its model to the end of the answer; not of a websocket"},
      {"tunnel_idle", Takes::kTime, "", "a websocket without a byte in either direction"},
      {"shutdown_timeout", Takes::kTime, "",
       "how long requests may finish when poolserve is told to end"},
      {"drain_timeout_serve", Takes::kTime, "",
       "how long requests of old workers may finish after an upgrade or a change of listeners"},
      {"loading",
       Takes::kWord,
       "`\"comments\"`",
       "signs of life for streams while a model loads, or `\"off\"`",
       {"comments", "off"}},
      {"access_log", Takes::kText, "`\"off\"`", "a line a request: `\"-\"` is stderr, else a file"},
      {"access_log_format", Takes::kWord, "`\"text\"`", "or `\"json\"`", {"text", "json"}},
  };
}

std::vector<KeyInfo> listener_rows() {
  return {
      {"address", Takes::kText, "", "as in `listen`", {}, true},
      {"auth",
       Takes::kWord,
       "by address",
       "as in `[serve]`, for this address; that of `[serve]` does not count here. `\"peer\"`: who "
       "has a certificate of `client_ca`, another door; a key is not needed",
       {"none", "keys", "peer"}},
      {"tls", Takes::kTls, "none",
       "`{ cert = \"FILE\", key = \"FILE\", client_ca = \"FILE\" }`, PEM; with `client_ca` a "
       "client needs a certificate of that authority, and `auth = \"peer\"` needs `client_ca`"},
      {"mode", Takes::kMode, "`\"0600\"`", "of a Unix socket, as chmod takes it, between quotes"},
      {"group", Takes::kText, "ours", "of a Unix socket"},
  };
}

std::vector<KeyInfo> model_rows() {
  return {
      {"command", Takes::kCommand, "none",
       "starts it: a text, split as a shell does (quotes and backslashes; no variables, no globs, "
       "no `~`, no pipes), or a list of words. `{port}` becomes a free TCP port, `{socket}` the "
       "path of a Unix socket beside the pool, in `POOL.backends`, which is removed when the "
       "backend has gone"},
      {"address", Takes::kText, "where `{port}` or `{socket}` is",
       "where it answers, `\"127.0.0.1:{port}\"`; without a command, a server that runs already"},
      {"ready", Takes::kText, "asked of it",
       "`\"GET /PATH\"`: ready when it answers 2xx; `\"tcp\"`: when it accepts. If it is not said: "
       "`GET /health`, and `tcp` only after 404, 405, 501 or an answer that is not HTTP"},
      {"aliases", Takes::kTexts, "none",
       "further names; where body or query has one, the backend sees the name; not in a body that "
       "is passed on as it comes, or compressed"},
      {"env", Takes::kSecrets, "none",
       "`{ NAME = \"value\" }`, added to the environment of poolserve. Values may have `{port}` "
       "and `{socket}`, and may be secrets"},
      {"cwd", Takes::kText, "that of poolserve", "where it is started"},
      {"log", Takes::kText, "the pool's `log_dir`",
       "a file for its output; `poolctl logs` and messages about its end do not look there"},
      {"preload", Takes::kSwitch, "false",
       "`true`: poolserve loads it when it starts, those that say so one after the other in the "
       "order of the file; not when it takes over from another poolserve, and not again after an "
       "eviction (`pinned` keeps it)"},
      {"weights", Takes::kText, "not known", "the file or folder that its weights lie in"},
      {"backend_key", Takes::kSecret, "none",
       "a secret that the door sends to it as `Authorization: Bearer`, in place of the client's"},
  };
}
std::vector<KeyInfo> tls_rows() {
  return {{"cert", Takes::kText, "", "a file in PEM, the chain of the certificate", {}, true},
          {"key", Takes::kText, "", "a file in PEM, its private key", {}, true},
          {"client_ca", Takes::kText, "none",
           "a file in PEM: a client needs a certificate of that authority"}};
}

// What holds by default is said by the readers' own values.
void fill_in(std::vector<KeyInfo>* keys) {
  const Serve defaults;
  const auto set = [keys](std::string_view name, const std::string& text) {
    for (KeyInfo& key : *keys) {
      if (key.name == name && key.fallback.empty()) key.fallback = text;
    }
  };
  for (const auto& info : kServeCounts) set(info.name, std::to_string(defaults.*info.member));
  for (const auto& info : kServeSizes) set(info.name, format_size_exactly(defaults.*info.member));
  for (const auto& info : kServeTimes) set(info.name, format_duration(defaults.*info.member));
}

KeyInfo key_of(const SettingInfo& info) {
  return {std::string(info.name), Takes::kSetting, format_setting(info, info.default_value),
          std::string(info.help)};
}

std::vector<KeyInfo> setting_rows(bool of_models) {
  std::vector<KeyInfo> keys;
  for (const SettingInfo& info : kSettings) {
    if (!of_models || info.per_model) keys.push_back(key_of(info));
  }
  return keys;
}

std::vector<KeyInfo> capacity_rows() {
  std::vector<KeyInfo> keys;
  const Capacities defaults;
  for (const CapacityInfo& info : kCapacities) {
    keys.push_back({std::string(info.name), Takes::kCount, std::to_string(defaults.*info.member),
                    std::string(info.help)});
  }
  return keys;
}

// --- As a schema ---------------------------------------------------------------------------------

using Json = nlohmann::ordered_json;

Json any_of(std::vector<Json> all) { return {{"anyOf", std::move(all)}}; }
Json text() { return {{"type", "string"}}; }
Json list_of(const Json& item) { return {{"type", "array"}, {"items", item}}; }
Json number(std::uint64_t min, std::uint64_t max) {
  return {{"type", "integer"}, {"minimum", min}, {"maximum", max}};
}
Json words(const std::vector<std::string>& all) { return {{"enum", all}}; }
Json pattern(const char* of) { return {{"type", "string"}, {"pattern", of}}; }

constexpr const char* kTimePattern = "^(off|[0-9.]+ ?(ns|us|ms|s|m|h|d)?([0-9.]+(ms|s|m|h))*)$";
constexpr const char* kSizePattern = "^(off|[0-9.]+ ?([KMGTP]i?)?B?)$";

Json duration() { return any_of({pattern(kTimePattern), number(0, 0)}); }
Json size() { return any_of({pattern(kSizePattern), {{"type", "integer"}, {"minimum", 0}}}); }
Json secret() {
  return any_of({text(),
                 {{"type", "integer"}, {"minimum", INT64_MIN}},
                 {{"type", "object"},
                  {"properties", {{"file", text()}}},
                  {"required", {"file"}},
                  {"additionalProperties", false}}});
}

Json schema_of(const SettingInfo& info) {
  switch (info.kind) {
    case SettingKind::kCount:
      return any_of({number(0, info.max), text()});
    case SettingKind::kDuration:
      return duration();
    case SettingKind::kSize:
      return size();
    case SettingKind::kSignal:
      return any_of({text(), number(1, 64)});
    case SettingKind::kSwitch:
      return any_of({{{"type", "boolean"}}, words({"true", "false", "on", "off"})});
    case SettingKind::kChoice: {
      std::vector<std::string> choices;
      std::string_view rest = info.placeholder;
      for (std::size_t bar = 0; bar != std::string_view::npos; rest.remove_prefix(bar + 1)) {
        bar = rest.find('|');
        choices.emplace_back(rest.substr(0, bar));
        if (bar == std::string_view::npos) break;
      }
      return words(choices);
    }
    case SettingKind::kCooldown:
      return any_of({text(), number(0, 0)});
    case SettingKind::kGroups:
      return any_of({text(), list_of(text())});
    case SettingKind::kDevices:
      return any_of({text(), list_of(text()), number(0, kMaxBackendsMax)});
    case SettingKind::kGpuMemory:
      return any_of({text(),
                     list_of(text()),
                     {{"type", "integer"}, {"minimum", 0}},
                     {{"type", "object"}, {"additionalProperties", text()}}});
    case SettingKind::kPath:
    case SettingKind::kOnOverdue:
    case SettingKind::kProbe:
      break;
  }
  return text();
}

Json schema_of(const TableInfo& table);

Json count_schema(const std::string& name) {
  for (const ServeCount& count : kServeCounts) {
    if (count.name == name) return number(count.min, count.max);
  }
  const CapacityInfo* const capacity = find_capacity(name);
  return number(1, capacity == nullptr ? UINT32_MAX : capacity->max);
}

Json schema_of(const KeyInfo& key) {
  switch (key.takes) {
    case Takes::kSetting:
      return schema_of(*find_setting(key.name));
    case Takes::kCount:
      return count_schema(key.name);
    case Takes::kTime:
      return duration();
    case Takes::kSize:
      return size();
    case Takes::kSwitch:
      return {{"type", "boolean"}};
    case Takes::kWord:
      return words(key.words);
    case Takes::kMode:
      return pattern("^[0-7]{1,4}$");
    case Takes::kAddresses:
    case Takes::kCommand:
    case Takes::kTexts:
      return any_of({text(), list_of(text())});
    case Takes::kSecret:
      return secret();
    case Takes::kSecrets:
      return {{"type", "object"}, {"additionalProperties", secret()}};
    case Takes::kTls:
      return schema_of(TableInfo{"tls", "", tls_rows()});
    case Takes::kTables:
      return list_of(schema_of(TableInfo{"[[serve.listener]]", "", listener_rows()}));
    case Takes::kText:
      break;
  }
  return text();
}

// Without the signs of Markdown: `code` and [text](address).
std::string plain(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const std::size_t middle = text[at] == '[' ? text.find("](", at) : std::string_view::npos;
    if (middle != std::string_view::npos && text.find(']', at) == middle) {
      out += text.substr(at + 1, middle - at - 1);
      at = text.find(')', middle);
    } else if (text[at] != '`') {
      out += text[at];
    }
  }
  return out;
}

Json schema_of(const TableInfo& table) {
  Json properties = Json::object();
  Json required = Json::array();
  for (const KeyInfo& key : table.keys) {
    Json one = schema_of(key);
    one["description"] =
        plain(key.meaning + (key.fallback.empty() ? "" : " (" + key.fallback + ")"));
    properties[key.name] = one;
    // Of settings dashes are the same.
    std::string dashed = key.name;
    if (key.takes == Takes::kSetting) std::replace(dashed.begin(), dashed.end(), '_', '-');
    properties[dashed] = one;
    if (key.is_needed) required.push_back(key.name);
  }
  Json schema = {{"type", "object"}, {"properties", properties}, {"additionalProperties", false}};
  if (!table.meaning.empty()) schema["description"] = plain(table.meaning);
  if (!required.empty()) schema["required"] = required;
  return schema;
}

// --- As a manual page ----------------------------------------------------------------------------

// A line may begin with a dot, and minus signs are meant.
std::string roff(std::string_view text) {
  std::string out;
  for (const char c : plain(text)) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else if ((c == '.' || c == '\'') && out.empty()) {
      out += std::string("\\&") + c;
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

std::vector<TableInfo> config_reference() {
  std::vector<TableInfo> tables = {
      {"[pool]", "Settings of the pool.", setting_rows(false)},
      {"[[model]]",
       "Settings of the models that `match` matches. All tables that match apply, later ones win.",
       setting_rows(true)},
      {"[capacity]", "How large the tables of a pool are, fixed by whoever creates it.",
       capacity_rows()},
      {"[serve]", "Where and how poolserve serves.", serve_rows()},
      {"[[serve.listener]]", "An address with rules of its own.", listener_rows()},
      {"[models.\"NAME\"]",
       "How a model is started and found; NAME is what requests say. Beside these keys all "
       "settings "
       "that `[[model]]` takes; they win over all globs.",
       model_rows()}};
  tables[1].keys.insert(tables[1].keys.begin(),
                        {"match", Takes::kText, "", "a glob: * ? [abc] [a-z] [!a]", {}, true});
  for (TableInfo& table : tables) fill_in(&table.keys);
  return tables;
}

std::string config_schema() {
  const std::vector<TableInfo> tables = config_reference();
  TableInfo serve = tables[3];
  serve.keys.push_back({"listener", Takes::kTables, "", tables[4].meaning});
  TableInfo model = tables[5];
  for (const KeyInfo& setting : setting_rows(true)) model.keys.push_back(setting);
  const Json properties = {
      {"pool", schema_of(tables[0])},
      {"model", list_of(schema_of(tables[1]))},
      {"capacity", schema_of(tables[2])},
      {"serve", schema_of(serve)},
      {"models", {{"type", "object"}, {"additionalProperties", schema_of(model)}}}};
  const Json schema = {{"$schema", "http://json-schema.org/draft-07/schema#"},
                       {"title", "The file of a modelpool: coordinatord and poolserve --config"},
                       {"type", "object"},
                       {"properties", properties},
                       {"additionalProperties", false}};
  return schema.dump(2) + "\n";
}

std::string config_manual(std::string_view version) {
  std::string page = ".TH POOL.TOML 5 \"\" \"modelpool " + std::string(version) + "\"\n" +
                     R"(.SH NAME
pool.toml \- the file of a pool of model backends
.SH DESCRIPTION
One TOML file for
.B coordinatord \-\-config
and
.BR "poolserve \-\-config" .
Both check all of it and refuse a bad one with the same words: file, line, column, and what to
write. Each uses its own part. On SIGHUP it is read again.
.PP
Durations are written "500ms", "30s", "15m", "2h"; "off" and 0 are no limit. Sizes are written
"512KiB", "64MiB", "4GiB", or as a number of bytes. Relative names of files are meant from the
folder of this file.
.B \-\-check\-config
prints what holds, without secrets. In names of settings dashes and underscores are the same.
)";
  for (const TableInfo& table : config_reference()) {
    page += ".SH " + roff(table.name) + "\n" + roff(table.meaning) + "\n";
    for (const KeyInfo& key : table.keys) {
      page += ".TP\n.B " + roff(key.name) + "\n" + roff(key.meaning);
      if (key.is_needed) page += " (needed)";
      if (!key.fallback.empty()) page += " (" + roff(key.fallback) + ")";
      page += "\n";
    }
  }
  page += R"(.SH FILES
.TP
.IR /etc/modelpool/pool.toml ", " /etc/modelpool/POOL.toml
what the installed units read, for the default pool and for others
.TP
.I example.toml
in share/modelpool: every key, with its default or what it may look like
.TP
.I pool.schema.json
in share/modelpool: the same as a JSON schema, for editors
.SH SEE ALSO
.BR coordinatord (8),
.BR poolserve (8),
.BR modelpool (7)
)";
  return page;
}

}  // namespace modelpool::config
