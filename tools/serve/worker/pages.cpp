#include "worker/pages.hpp"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "page/pool_page.hpp"
#include "wire/tokens.hpp"
#include "worker/refusals.hpp"

namespace modelpool::serve {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kModels = "/v1/models";

OwnAnswer page(const Json& json, int status = 200) {
  OwnAnswer answer;
  answer.status = status;
  answer.body = json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  return answer;
}

Json model_json(const config::Model& model, const std::map<std::string, std::string>& states) {
  const auto state = states.find(model.name);
  return {{"id", model.name},
          {"object", "model"},
          {"created", 0},
          {"owned_by", "modelpool"},
          {"aliases", model.aliases},
          {"state", state == states.end() ? "unloaded" : state->second}};
}

std::map<std::string, std::string> states_of(Pool& pool) {
  std::map<std::string, std::string> states;
  if (const auto seen = pool.snapshot()) {
    for (const BackendRow& backend : seen->backends) states[backend.model] = backend.state;
  }
  return states;
}

OwnAnswer models(const config::Door& door, Pool& pool) {
  const auto states = states_of(pool);
  Json list = Json::array();
  for (const config::Model& model : door.models) list.push_back(model_json(model, states));
  return page({{"object", "list"}, {"data", std::move(list)}});
}

OwnAnswer one_model(std::string_view name, const config::Door& door, Pool& pool) {
  const std::string wanted = percent_decoded(name, false).value_or(std::string(name));
  for (const config::Model& model : door.models) {
    const auto& aliases = model.aliases;
    const bool is_alias = std::find(aliases.begin(), aliases.end(), wanted) != aliases.end();
    if (model.name == wanted || is_alias) return page(model_json(model, states_of(pool)));
  }
  return answer_of(no_such_model(wanted, door));
}

// Can requests be served? What is loaded can without a coordinator; nothing else can.
OwnAnswer health(Pool& pool) {
  const auto seen = pool.snapshot();
  if (!seen) return page({{"status", "no pool"}, {"reason", seen.error().text}}, 503);
  if (seen->status.coordinator.alive.value_or(false)) return page({{"status", "ok"}});
  return page({{"status", "no coordinator"},
               {"reason", "no coordinatord serves the pool; models that are loaded are served"}},
              503);
}

}  // namespace

bool is_probe(std::string_view path) { return path == "/livez" || path == "/health"; }
bool is_pool_page(std::string_view path) { return path == "/pool"; }

std::optional<OwnAnswer> own_page(std::string_view path, const config::Door& door, Pool& pool) {
  if (path == "/livez") return page({{"status", "ok"}});
  if (path == "/health") return health(pool);
  if (is_pool_page(path)) return pool_page();
  if (path == kModels || path == "/models") return models(door, pool);
  if (path.starts_with(kModels) && path.substr(kModels.size()).starts_with('/'))
    return one_model(path.substr(kModels.size() + 1), door, pool);
  return std::nullopt;
}

}  // namespace modelpool::serve
