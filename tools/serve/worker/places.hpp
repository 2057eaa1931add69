// Who waits for which model in this process: one wait in the pool for each model, whose lease goes
// to the first of those who ask here; the next ones take theirs at once or wait on.
//
// Safety: the loop's thread.
//
// Crash: the wait's row is cleared by the coordinator; a ticket is lost and the next waiter, in any
// worker, loads the model (P4, P6).
//
// Errors: those of Pool::acquire, to each who asks; kTimeout at its own deadline; kQueueFull where
// as many wait in this process as the pool lets wait in all (max_waiters).
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "config/door.hpp"
#include "modelpool/pool.hpp"
#include "worker/io.hpp"
#include "worker/loader.hpp"

namespace modelpool::serve {

// What stands for the address of a tenant's place, a backend that is asked nothing. Nobody who asks
// here gets a lease on it: kNotLoaded, as for a name that `poolctl run` has.
inline constexpr std::string_view kTenantsAddress = "tenant";

class Places {
 public:
  // One request that wants in. It may be destroyed at any time.
  class Asker {
   public:
    Asker(Places& places, std::shared_ptr<const config::Model> model, std::string tag,
          TimePoint deadline, Wake& wake);
    Asker(const Asker&) = delete;
    Asker& operator=(const Asker&) = delete;
    ~Asker();
    // Empty: it still waits; `wake` tells when to look again.
    std::optional<Result<Lease>>& answer() { return answer_; }

   private:
    friend class Places;
    Places& places_;
    std::shared_ptr<const config::Model> model_;
    std::string tag_;
    TimePoint deadline_;
    TimePoint since_ = Clock::now();
    Wake& wake_;
    std::optional<Result<Lease>> answer_;
  };

  // Wakes who polls a wait in the pool by himself, when any of this process may go on.
  class Listener {
   public:
    Listener(Places& places, Wake& wake) : places_(places), wake_(wake) {
      places_.listeners_.push_back(&wake_);
    }
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;
    ~Listener() { std::erase(places_.listeners_, &wake_); }

   private:
    Places& places_;
    Wake& wake_;
  };

  // `model_now` says how a model is loaded now; null: it is none any more.
  using ModelNow = std::function<std::shared_ptr<const config::Model>(const std::string& name)>;
  Places(Loop& loop, Pool& pool, Loader& loader, ModelNow model_now)
      : loop_(loop), pool_(pool), loader_(loader), model_now_(std::move(model_now)) {}
  // Follows the pool's wait descriptor until the loop ends. Errors: kSystem.
  Result<> start();
  void tick(TimePoint now);  // answers those whose time is over
  std::size_t loads() const { return loads_; }

 private:
  struct Queue {
    std::shared_ptr<const config::Model> model;
    std::deque<Asker*> askers;
    std::optional<PendingAcquire> pending;
    std::string tag;  // of that wait
    bool is_loading = false;
    std::optional<TimePoint> given;                     // the last lease
    Clock::duration between = Clock::duration::zero();  // leases, smoothed; 0: not known
  };

  void ask(Asker& asker);
  void leave(Asker& asker);
  void look();
  // Gives out what there is; forgets the queue when nobody is left in it.
  void advance(const std::string& name);
  bool step(Queue& queue);  // is there more to do at once?
  void expire(Queue& queue, TimePoint now);
  static void follow_first(Queue& queue);
  std::optional<Error> refusal_of_full(const std::string& name, const Queue* queue);
  void begin_load(Queue& queue, LoadTicket ticket);
  void loaded(const std::string& name, Result<Lease> lease);
  void give(Queue& queue, Lease lease);
  static void answer(Asker& asker, Result<Lease> result);
  static void answer_all(Queue& queue, const Error& error);
  AcquireOptions options_of(const Asker& asker) const;
  Task<> follow(int fd);

  Loop& loop_;
  Pool& pool_;
  Loader& loader_;
  ModelNow model_now_;
  std::unordered_map<std::string, Queue> queues_;
  std::vector<Wake*> listeners_;
  std::size_t loads_ = 0;
};

}  // namespace modelpool::serve
