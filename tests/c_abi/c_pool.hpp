// A pool through the C interface, for tests: attached to a scratch directory, detached when it
// goes.
#pragma once

#include <gtest/gtest.h>
#include <modelpool/modelpool.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "support/pool.hpp"
#include "support/scratch.hpp"

namespace modelpool::test {

class CPool {
 public:
  // Joins the pool in that directory; creates one with settings, so that it grants tickets.
  explicit CPool(const Scratch& scratch, std::vector<const char*> settings = {"max_backends=0"}) {
    settings.push_back(nullptr);
    modelpool_attach_options options = MODELPOOL_ATTACH_OPTIONS_INIT;
    options.dir = scratch.dir().c_str();
    options.settings = settings.data();
    const Capacities small = small_capacities();
    options.backends = small.backends;
    options.workers = small.workers;
    options.leases = small.leases;
    options.waiters = small.waiters;
    options.events = small.events;
    options.models = small.models;
    modelpool_error error;
    if (modelpool_attach("default", &options, &pool_, &error) != MODELPOOL_OK)
      throw std::runtime_error(error.text);
  }
  ~CPool() { modelpool_detach(pool_); }
  CPool(const CPool&) = delete;
  CPool& operator=(const CPool&) = delete;
  operator modelpool_pool() const { return pool_; }  // NOLINT(google-explicit-constructor)

 private:
  modelpool_pool pool_{};
};

// What acquire gave, at once; throws its error.
inline modelpool_grant granted(modelpool_pool pool, const char* model, const char* tag = nullptr) {
  modelpool_acquire_options options = MODELPOOL_ACQUIRE_OPTIONS_INIT;
  options.tag = tag;
  modelpool_grant grant;
  modelpool_error error;
  if (modelpool_acquire(pool, model, 30'000, &options, &grant, &error) != MODELPOOL_OK)
    throw std::runtime_error(error.text);
  return grant;
}

inline modelpool_ticket ticket_on(modelpool_pool pool, const char* model) {
  const modelpool_grant grant = granted(pool, model);
  if (grant.kind != MODELPOOL_GRANTED_TICKET) throw std::runtime_error("no ticket");
  return grant.ticket;
}

// Loads the model as an external backend and gives the loader's lease.
inline modelpool_lease load_external(modelpool_pool pool, const char* model) {
  modelpool_ready_options options = MODELPOOL_READY_OPTIONS_INIT;
  options.external = 1;
  modelpool_lease lease;
  modelpool_error error;
  if (modelpool_ready(ticket_on(pool, model), "127.0.0.1:1", &options, &lease, &error) !=
      MODELPOOL_OK)
    throw std::runtime_error(error.text);
  return lease;
}

inline std::vector<modelpool_backend> backends(modelpool_pool pool) {
  std::vector<modelpool_backend> rows(256);
  std::size_t count = 0;
  EXPECT_EQ(
      modelpool_list_backends(pool, rows.data(), sizeof rows[0], rows.size(), &count, nullptr),
      MODELPOOL_OK);
  rows.resize(count);
  return rows;
}

inline std::vector<modelpool_lease_row> leases(modelpool_pool pool) {
  std::vector<modelpool_lease_row> rows(256);
  std::size_t count = 0;
  EXPECT_EQ(modelpool_list_leases(pool, rows.data(), sizeof rows[0], rows.size(), &count, nullptr),
            MODELPOOL_OK);
  rows.resize(count);
  return rows;
}

}  // namespace modelpool::test
