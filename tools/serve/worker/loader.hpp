// Loads a model with the command of its config: spawn, ask until it answers, publish.
//
// Safety: load() and its answers in the loop's thread. Calls of the library that may wait (a
// program to execute, the pool's mutex) run in a few threads of the loader's; stop() joins them.
//
// Crash: killed, the ticket is lost, the coordinator ends what was started, and the next waiter of
// any worker loads the model (P4, P6).
//
// Errors: kLoadFailed with how it ended and its last lines; kTicketLost when the load was ended by
// others (load_timeout, evict).
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <functional>
#include <memory>
#include <string>

#include "config/door.hpp"
#include "modelpool/pool.hpp"
#include "worker/io.hpp"

namespace modelpool::serve {

class Loader {
 public:
  using Done = std::function<void(Result<Lease>)>;

  // `segment_path`: beside it backends with {socket} listen. `open_files`: their limit.
  Loader(Loop& loop, Pool& pool, std::string segment_path, std::uint64_t open_files);
  void load(LoadTicket ticket, std::shared_ptr<const config::Model> model, Done done);
  void stop();

 private:
  struct Plan;
  Result<Plan> plan_for(const config::Model& model);
  Task<Result<Lease>> run(LoadTicket ticket, std::shared_ptr<const config::Model> model);
  Task<Result<Lease>> wait_until_ready(LoadTicket& ticket, const config::Model& model,
                                       const Plan& plan);
  Task<Result<Lease>> failed(LoadTicket& ticket, const config::Model& model, std::string reason);
  template <class Call>
  Task<std::invoke_result_t<Call>> apart(Call call);

  Loop& loop_;
  Pool& pool_;
  std::string segment_path_;
  std::uint64_t open_files_;
  unsigned sockets_ = 0;
  asio::thread_pool threads_;
};

}  // namespace modelpool::serve
