// The door's own API: what a request to /api/pool/, /running, /api/ps or /metrics asks.
//
// GET looks: /api/pool/{status,list,leases,waiters,workers,events,explain/NAME}, and what
// front-ends of llama-swap (/running) and Ollama (/api/ps), and Prometheus (/metrics,
// /metrics/backends), read.
// POST is an order: /api/pool/{evict,pin,unpin,load,set}, with a body of JSON.
//
// Safety: pure functions of bytes that a stranger sent.
//
// Errors: 400 naming the key, 403 without `steer`, 404 with what there is, 405 with Allow, 415.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "modelpool/snapshot.hpp"
#include "wire/message.hpp"

namespace modelpool::serve {

inline constexpr std::size_t kOrderMax_bytes = 64 * 1024;  // of its body

enum class ApiCall {
  kStatus,
  kList,
  kLeases,
  kWaiters,
  kWorkers,
  kEvents,
  kExplain,
  kRunning,
  kPs,
  kMetrics,
  kBackendMetrics,
  kEvict,
  kPin,
  kUnpin,
  kLoad,
  kSet,
};

// As the flags of `poolctl events`.
struct EventsAsked {
  std::optional<std::uint64_t> since;    // a sequence number
  std::optional<std::uint64_t> last_ns;  // only of the last so long
  std::optional<std::uint64_t> count;    // at most so many: the newest, with since the first
  std::string model;                     // empty: any
  std::vector<std::string> kinds;        // none: any
  bool follows = false;

  bool wants(std::string_view of_model, std::string_view of_kind) const;
};

struct ApiAsked {
  ApiCall call = ApiCall::kStatus;
  std::string model;  // kExplain
  EventsAsked events;

  bool is_order() const { return call >= ApiCall::kEvict; }
};

bool is_api(std::string_view path);
// REQUIRES: is_api of its path. `may_steer`: orders are for who asks.
Checked<ApiAsked> read_api(const http::header<true>& head, bool may_steer);

struct Order {
  std::string model;
  bool force = false;                                       // kEvict
  std::optional<std::uint64_t> timeout_ns;                  // kEvict, kLoad
  std::vector<std::pair<std::string, std::string>> values;  // kSet
};
// The body of one.
Checked<Order> read_order(ApiCall call, std::string_view body);

}  // namespace modelpool::serve
