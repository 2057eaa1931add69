#include "worker/looks.hpp"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "metrics/metrics.hpp"
#include "modelpool/json.hpp"
#include "worker/refusals.hpp"

namespace modelpool::serve {
namespace {

using Json = nlohmann::ordered_json;
using std::chrono::milliseconds;
using std::chrono::system_clock;

OwnAnswer page(std::string json) {
  OwnAnswer answer;
  answer.body = std::move(json) + "\n";
  return answer;
}

OwnAnswer refused(const Error& error) { return answer_of(refusal_of(error, 0)); }

// --- As poolctl prints it ------------------------------------------------------------------------

// One object a line.
OwnAnswer events(const EventsAsked& asked, Pool& pool) {
  const auto rows = pool.events(asked.since.value_or(1));
  if (!rows) return refused(rows.error());
  const auto since = asked.last_ns ? system_clock::now() - milliseconds(*asked.last_ns / 1'000'000)
                                   : system_clock::time_point::min();
  std::vector<const EventRow*> wanted;
  for (const EventRow& row : *rows) {
    if (row.time >= since && asked.wants(row.model, row.kind)) wanted.push_back(&row);
  }
  if (asked.count && wanted.size() > *asked.count) {
    const auto count = static_cast<std::ptrdiff_t>(*asked.count);
    if (asked.since || asked.last_ns) {
      wanted.erase(wanted.begin() + count, wanted.end());
    } else {
      wanted.erase(wanted.begin(), wanted.end() - count);
    }
  }
  OwnAnswer answer;
  answer.content_type = "application/x-ndjson";
  for (const EventRow* row : wanted) answer.body += to_json(*row) + "\n";
  return answer;
}

OwnAnswer explanation(const std::string& model, Pool& pool) {
  const auto explained = pool.explain(model);
  return explained ? page(to_json(*explained)) : refused(explained.error());
}

// --- As others have it ---------------------------------------------------------------------------

const SettingRow* find_setting(const Explanation& explained, std::string_view name) {
  for (const SettingRow& row : explained.settings) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

// Of llama-swap: after how many seconds without a use it goes; 0: never.
std::uint64_t ttl_of(const std::string& model, Pool& pool) {
  const auto explained = pool.explain(model);
  const SettingRow* const idle = explained ? find_setting(*explained, "idle_timeout") : nullptr;
  const auto limit = idle != nullptr ? parse_duration(idle->value) : Result<std::uint64_t>(0);
  return (limit.value_or(0) + 999'999'999) / 1'000'000'000;
}

// Command lines stay here: they may hold secrets.
Json running(const std::vector<BackendRow>& backends, Pool& pool) {
  Json list = Json::array();
  for (const BackendRow& backend : backends) {
    if (backend.state != "ready") continue;
    const bool is_unix = backend.address.starts_with("unix:");
    list.push_back({{"model", backend.model},
                    {"state", backend.state},
                    {"cmd", ""},
                    {"proxy", (is_unix ? "" : "http://") + backend.address},
                    {"ttl", ttl_of(backend.model, pool)},
                    {"name", ""},
                    {"description", ""}});
  }
  return {{"running", std::move(list)}};
}

std::string rfc3339(system_clock::time_point time) {
  const std::time_t seconds = system_clock::to_time_t(time);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[32];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

// How long until it goes for idleness, as things stand. Of one that does not Ollama says some
// centuries, and that is read as for ever.
milliseconds idle_end_of(const std::string& model, Pool& pool) {
  constexpr std::chrono::hours kNever{24 * 365 * 200};
  const auto explained = pool.explain(model);
  if (!explained) return kNever;
  for (const VerdictRow& verdict : explained->verdicts) {
    if (verdict.rule == "idle" && verdict.due_in_ms)
      return milliseconds(
          std::min<std::uint64_t>(*verdict.due_in_ms, milliseconds(kNever).count()));
  }
  return kNever;
}

// Ollama's: what is not known is left out, or empty where its readers want a text.
Json processes(const std::vector<BackendRow>& backends, Pool& pool) {
  std::vector<std::pair<milliseconds, Json>> rows;
  for (const BackendRow& backend : backends) {
    if (backend.state != "ready") continue;
    const milliseconds left = idle_end_of(backend.model, pool);
    Json row{{"name", backend.model}, {"model", backend.model}};
    const std::uint64_t measured =
        backend.measured_bytes.value_or(0) + backend.measured_device_bytes.value_or(0);
    const std::uint64_t size = measured != 0 ? measured : backend.size_bytes.value_or(0);
    if (size != 0) row["size"] = size;
    row["digest"] = "";
    row["details"] = {{"parent_model", ""},  {"format", ""},         {"family", ""},
                      {"families", nullptr}, {"parameter_size", ""}, {"quantization_level", ""}};
    row["expires_at"] = rfc3339(system_clock::now() + left);
    if (backend.measured_device_bytes) row["size_vram"] = *backend.measured_device_bytes;
    rows.emplace_back(left, std::move(row));
  }
  // As there: who stays longest comes first.
  std::stable_sort(rows.begin(), rows.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  Json list = Json::array();
  for (auto& [left, row] : rows) list.push_back(std::move(row));
  return {{"models", std::move(list)}};
}

OwnAnswer measured(const PoolSnapshot& seen, Pool& pool, std::optional<std::uint64_t> connections) {
  const auto capacities = pool.capacities();
  if (!capacities) return refused(capacities.error());
  OwnAnswer answer;
  answer.content_type = metrics::kContentType;
  answer.body = metrics::text_of(seen, *capacities, MODELPOOL_VERSION, connections);
  return answer;
}

}  // namespace

OwnAnswer look(const ApiAsked& asked, Pool& pool, std::optional<std::uint64_t> connections) {
  if (asked.call == ApiCall::kExplain) return explanation(asked.model, pool);
  if (asked.call == ApiCall::kEvents) return events(asked.events, pool);
  const auto seen = pool.snapshot();
  if (!seen) return refused(seen.error());
  const auto text = [](const Json& json) {
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
  };
  switch (asked.call) {
    case ApiCall::kList:
      return page(to_json(seen->backends));
    case ApiCall::kLeases:
      return page(to_json(seen->leases));
    case ApiCall::kWaiters:
      return page(to_json(seen->waiters));
    case ApiCall::kWorkers:
      return page(to_json(seen->workers));
    case ApiCall::kRunning:
      return page(text(running(seen->backends, pool)));
    case ApiCall::kPs:
      return page(text(processes(seen->backends, pool)));
    case ApiCall::kMetrics:
      return measured(*seen, pool, connections);
    case ApiCall::kStatus:
    case ApiCall::kBackendMetrics:
    case ApiCall::kEvents:
    case ApiCall::kExplain:
    case ApiCall::kEvict:
    case ApiCall::kPin:
    case ApiCall::kUnpin:
    case ApiCall::kLoad:
    case ApiCall::kSet:
      break;
  }
  return page(to_json(seen->status));
}

}  // namespace modelpool::serve
