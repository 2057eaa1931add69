// What the connections of a worker share.
//
// Safety: the loop's thread.
//
// Errors: those of what is read again.
#pragma once

#include <boost/asio/ssl/context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "between/balance.hpp"
#include "config/door.hpp"
#include "wire/access.hpp"
#include "worker/access_log.hpp"
#include "worker/backend_metrics.hpp"
#include "worker/body.hpp"
#include "worker/event_feed.hpp"
#include "worker/io.hpp"
#include "worker/places.hpp"
#include "worker/upstream.hpp"

namespace modelpool::serve {

// What the config says of one listener.
struct Gate {
  AccessRules rules;
  AccessRules of_probes;                    // the same, without keys
  AccessRules of_page;                      // as those, and other sites may link to it
  std::shared_ptr<asio::ssl::context> tls;  // null: none
};

// What is in force: replaced as a whole when the config is read again; a request keeps its own.
struct InForce {
  std::shared_ptr<const config::Door> door;
  std::vector<Key> keys;
  std::vector<Gate> gates;                                                       // by listener
  std::unordered_map<std::string, std::shared_ptr<const config::Model>> models;  // aliases too
  AccessLog log;

  bool are_same(const std::string& a, const std::string& b) const;  // a model's name and its alias
  const std::string& name_of(const std::string& name) const;        // of an alias its model's

  // Errors: kInvalid, kPermission, kSystem: keys, certificates, the log.
  static Result<std::shared_ptr<InForce>> make(const std::shared_ptr<const config::Door>& door,
                                               const std::vector<config::Listener>& listeners);
  // Could it be made? Makes no file.
  static Result<> check(const std::shared_ptr<const config::Door>& door);

 private:
  static Result<std::shared_ptr<InForce>> read(const std::shared_ptr<const config::Door>& door,
                                               const std::vector<config::Listener>& listeners);
};

class HeldLease;

struct Service {
  Loop& loop;
  Pool& pool;
  Places& places;
  Upstreams& upstreams;
  EventFeed& events;
  BackendMetrics& backend_metrics;
  asio::thread_pool& threads;  // for calls that may wait
  asio::thread_pool& looks;    // for those that only take their time
  const Balance* balance;      // null: none
  std::shared_ptr<const InForce> now;
  BodyBudget held;
  bool is_finishing = false;                                // each connection gets one more answer
  bool ends_idle = false;                                   // or none, where it has no request
  std::unordered_map<std::string, HeldLease*> leases = {};  // those with an id, by their mark
};

}  // namespace modelpool::serve
