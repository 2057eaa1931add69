// A lease that lives as long as its client's connection: on a model, or on a place that is kept for
// a tenant, a program that the pool cannot see. A tenant's place is a backend without a process.
//
// The client gets one line of JSON, then an empty one every 15 s, and where the lease ends
// otherwise than by its own leaving, a last one that says why.
//
// With an id the lease outlives a cut of the connection, and its client has it again without a wait
// if it comes back soon, through any worker of any poolserve: its mark (lease_wish.hpp) stands in
// the pool. Who comes later with the same id takes it over, whether its end was noticed or not.
//
// Safety: the loop's thread. run() waits; another lease of the same id reaches it meanwhile.
//
// Crash: the coordinator clears the lease. A tenant's place is evicted as soon as nobody holds it;
// of one with an id, which anybody who needs room may have from then on, 10 s later.
//
// Errors: told to the client: by a status before the head, behind it by a line.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "modelpool/pool.hpp"
#include "wire/lease_wish.hpp"
#include "worker/access_log.hpp"
#include "worker/answer.hpp"
#include "worker/asked.hpp"
#include "worker/client.hpp"
#include "worker/service.hpp"

namespace modelpool::serve {

class HeldLease {
 public:
  // That of the config; for a tenant one that has its name and nothing else. Errors: 404, 409.
  static Checked<std::shared_ptr<const config::Model>> model_for(const LeaseWish& wish,
                                                                 const InForce& now);

  // `key`: null if the client needed none.
  HeldLease(Service& service, const InForce& now, Client& client, Asked& asked, LeaseWish wish,
            const Key* key, AccessLine& line);
  HeldLease(const HeldLease&) = delete;
  HeldLease& operator=(const HeldLease&) = delete;
  ~HeldLease();

  // Until the lease is over. Errors: why there is none; no head was sent.
  Task<Checked<>> run();

 private:
  // Errors: why there is none. None without an error: the client has left.
  Task<Checked<Lease>> get_place();
  Task<Checked<Lease>> get_model();
  Task<Checked<Lease>> get_tenants_place();
  // What there is of the tenant's name.
  enum class There { kNothing, kOwn, kAnothers };
  Checked<There> look_at_name() const;
  Result<std::optional<Grant>> ask(There there, std::optional<PendingAcquire>& pending) const;
  Task<Result<Lease>> reserve(LoadTicket ticket);
  bool is_own(const Lease& lease) const;
  Checked<bool> is_there_already() const;
  void take_over();
  std::optional<Lease> one_more(std::chrono::seconds keep_alive) const;
  Task<> hold();
  std::string first_line() const;
  std::optional<Refusal> end_of_lease();
  bool has_successor() const;
  Task<> keep();
  void end_place();
  Task<> wait();
  Checked<Lease> checked(Result<Lease> lease) const;

  Service& service_;
  Client& client_;
  Asked& asked_;
  const LeaseWish wish_;
  AccessLine& line_;
  const std::string mark_;  // empty: without an id
  const std::string tag_;
  Answer answer_;
  Lease lease_;
  std::optional<std::vector<std::string>> devices_;  // that a tenant was put on; none: not known
  TimePoint deadline_ = TimePoint::max();            // of the place
  TimePoint next_look_;                              // for one that came after it
};

}  // namespace modelpool::serve
