// What the pool's model servers tell Prometheus at their /metrics, as one text (metrics/merge.hpp).
// It is asked for at most every few seconds, by one worker for all, however often it is read.
//
// Only those that are ready are asked, each for a second at most. They are asked without a lease:
// to look is no use of a model (P12). What came from one that ended meanwhile is dropped.
//
// Safety: the loop's thread.
//
// Crash: another worker asks (SharedText).
//
// Errors: none; a server that does not answer in time, in full or as Prometheus reads it is named
// as one that is not up.
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "between/shared_text.hpp"
#include "metrics/merge.hpp"
#include "modelpool/pool.hpp"
#include "worker/io.hpp"

namespace modelpool::serve {

inline constexpr std::chrono::seconds kBackendMetricsKept{5};
inline constexpr std::chrono::seconds kBackendMetricsLimit{1};        // for each to answer
inline constexpr std::size_t kBackendMetricsMax_bytes = 4 << 20;      // of one
inline constexpr std::size_t kAllBackendMetricsMax_bytes = 32 << 20;  // of all together
inline constexpr std::size_t kBackendMetricsAskedMax = 256;           // of them

class BackendMetrics {
 public:
  // What is sent to the model's server as its key; empty: nothing.
  using KeyOf = std::function<std::string(const std::string& model)>;
  // `name`: the pool's. `shared`: null: there is none.
  BackendMetrics(Loop& loop, Pool& pool, std::string name, asio::thread_pool& looks,
                 SharedText* shared, KeyOf key_of)
      : loop_(loop),
        pool_(pool),
        name_(std::move(name)),
        looks_(looks),
        shared_(shared),
        key_of_(std::move(key_of)) {}

  // As it is now, or was a few seconds ago.

  Task<std::shared_ptr<const std::string>> text();

 private:
  struct Asked {
    std::string address;
    std::string request;
    BackendId backend;
    metrics::Told told;
  };
  struct Round;
  class Renewing;

  bool is_fresh() const;
  void take_shared();
  Task<> renew();
  Task<> make();
  Task<std::string> ask_all();
  static Task<> ask(Executor executor, std::shared_ptr<Round> round, std::size_t index);
  std::vector<Asked> ready() const;

  Loop& loop_;
  Pool& pool_;
  const std::string name_;
  asio::thread_pool& looks_;
  SharedText* const shared_;
  const KeyOf key_of_;
  std::shared_ptr<const std::string> text_ = std::make_shared<const std::string>();
  TimePoint since_{};
  bool is_renewing_ = false;
  std::vector<Wake*> waiting_;
};

}  // namespace modelpool::serve
