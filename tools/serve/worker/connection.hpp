// One client's connection: request after request, each received whole, admitted, and answered by
// the door itself or by its model.
//
// Safety: the loop's thread. The coroutine keeps the object; tick() reaches it through the worker.
//
// Crash: cut.
//
// Errors: told to the client as answers.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "worker/client.hpp"
#include "worker/exchange.hpp"
#include "worker/service.hpp"

namespace modelpool::serve {

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Service& service, std::size_t gate, std::shared_ptr<Client> client,
             std::string address);
  Task<> run();
  void tick(TimePoint now);
  // No further request: one that has not begun is not waited for.
  void end_if_idle();

 private:
  enum class Phase { kHandshake, kIdle, kHead, kBody, kServing };

  Task<bool> next_head();
  Task<bool> serve();  // may another follow?
  Task<bool> forward(const Admitted& admitted, NamedByHead named, const SameModel& are_same);
  Task<bool> serve_api(const Key* key);
  Task<bool> lend(const Key* key);
  struct BodyLimit {
    std::uint64_t bytes;
    bool may_stream = false;  // what is more goes on as it comes
    bool is_order = false;
  };
  static Refusal too_large(const BodyLimit& limit);
  Task<Checked<>> receive(Body& body, const BodyLimit& limit);
  Task<bool> answer(const OwnAnswer& own, bool may_go_on = true);
  Task<bool> refuse_with(const Refusal& refusal);
  AnswerChanges changes(bool keeps_open) const;  // of an answer of the door's own
  std::optional<OwnAnswer> own_answer_to(const NamedByHead& named) const;
  bool is_look() const;
  void begin_line();
  void end_line();  // of the log, and of the pool's meters

  Service& service_;
  std::size_t gate_;
  std::shared_ptr<Client> client_;
  std::string address_;
  std::shared_ptr<const InForce> now_;
  std::optional<RequestReader> reader_;
  std::vector<std::pair<std::string, std::string>> fields_;
  std::string id_;
  AccessLine line_;
  TimePoint began_;  // the phase; of a request its head
  Phase phase_ = Phase::kHandshake;
  Exchange* exchange_ = nullptr;
  bool is_overdue_ = false;
  bool has_served_ = false;  // a request of this connection
};

}  // namespace modelpool::serve
