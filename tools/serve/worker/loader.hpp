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

  // `sockets_dir`: where backends with {socket} listen. `open_files`: their limit of descriptors.
  Loader(Loop& loop, Pool& pool, std::string sockets_dir, std::uint64_t open_files);
  void load(LoadTicket ticket, std::shared_ptr<const config::Model> model, Done done);
  void give_back(LoadTicket ticket);  // of a model that is not to be loaded any more
  void stop();
  asio::thread_pool& threads() { return threads_; }  // for others' calls that may wait

 private:
  struct Plan;
  Result<Plan> plan_for(const config::Model& model);
  Task<Result<Lease>> run(LoadTicket ticket, std::shared_ptr<const config::Model> model);
  Task<Result<Lease>> wait_until_ready(LoadTicket& ticket, const config::Model& model,
                                       const Plan& plan);
  Task<> wait_for_exit_words(const LoadTicket& ticket);
  Task<Result<Lease>> failed(LoadTicket& ticket, const config::Model& model, std::string reason);

  Loop& loop_;
  Pool& pool_;
  std::string sockets_dir_;
  std::uint64_t open_files_;
  asio::thread_pool threads_;
};

}  // namespace modelpool::serve
