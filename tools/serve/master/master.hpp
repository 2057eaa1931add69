// The first process of poolserve: it opens the sockets, keeps workers and a coordinator running,
// reads the config again and ends them. It serves nothing itself.
//
// Safety: one thread, which waits in one poll; workers are plain forks of it.
//
// Crash: workers, coordinator and models go on. The next poolserve takes their place (meeting.hpp).
//
// Errors: of make(), with the exit code that exit_code_of says; later they are logged.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "between/shared_text.hpp"
#include "master/coordinator_watch.hpp"
#include "master/listeners.hpp"
#include "master/options.hpp"
#include "master/source.hpp"
#include "master/upgrade.hpp"
#include "master/workers.hpp"

namespace modelpool::serve {

class Master {
 public:
  // Of what another program held in this process it takes the place.
  static Result<std::unique_ptr<Master>> make(Options options, Source source,
                                              std::optional<Inheritance> inherited);
  int run();

 private:
  // Those that accept from one set of sockets.
  struct Generation {
    std::vector<OpenListener> listeners;
    std::vector<OpenListener> unused;  // of those before it: closed for all once it serves
    Fd retire;
    std::uint32_t number = 0;  // in lineage_
    Workers workers;
  };

  Master(Options options, Source source, rlimit files);
  Result<> open();
  Result<> take(Inheritance inherited);
  Result<> meet(std::vector<OpenSocket>& present);
  Result<std::unique_ptr<Generation>> make_generation(std::vector<OpenSocket>& present);
  static std::unique_ptr<Generation> adopt(Inheritance::Generation given);
  int serve(Generation& generation, std::uint32_t index, Fd control);

  void wait();
  void take_signals_in();
  void reap();
  void on_progress();
  void take_steps();
  void begin_to_serve();
  void announce();

  void reload();
  void apply(Source source);
  void renew(std::vector<OpenSocket> present);
  void take_next();
  void tell_old_workers();
  void put_models_in_force();
  std::vector<OpenSocket> drop_next();
  void close_unused(std::vector<OpenSocket> sockets) const;
  void close_dropped();

  void ask_successor();
  void hand_over();
  void judge_new_program();
  void settle();
  void roll_back();

  bool is_of_current(const std::string& bound) const;
  void end_changed_models();
  void end_loaded_by(const Generation& before);

  void leave(std::unique_ptr<Generation> generation);
  void set_access_of(const Generation& generation) const;
  void close_for_all(const OpenListener& listener) const;
  void stop();
  void stop_at_once();
  void end_everything();
  std::vector<Generation*> generations() const;
  std::string status_text() const;
  void log_state() const;
  std::uint64_t due_ns() const;

  Options options_;
  Source source_;
  rlimit files_;  // as they were at the start
  CoordinatorWatch coordinator_;
  Fd signals_;
  Fd lock_;
  Fd meeting_;
  std::vector<std::string> of_systemd_;  // addresses whose sockets are its own
  std::vector<std::string> of_older_;    // and those of workers who serve until ours do
  bool takes_over_ = false;              // there are such workers
  std::shared_ptr<Lineage> lineage_;
  const std::shared_ptr<SharedText> backend_metrics_ = std::make_shared<SharedText>();

  std::unique_ptr<Generation> current_;
  std::unique_ptr<Generation> next_;  // until all of them are ready
  std::uint64_t next_due_ns_ = kNever_ns;
  // Of the program before: they accept nothing, and may have to again.
  std::unique_ptr<Generation> fallback_;
  std::uint64_t fallback_until_ns_ = kNever_ns;
  std::uint32_t old_deaths_ = 0;  // of its workers, for which there was a try to replace them
  std::vector<std::unique_ptr<Generation>> leaving_;

  std::map<std::string, std::string> ways_;  // to start models, as the workers do
  std::vector<std::string> changed_;         // models to end once all workers know
  std::vector<std::string> renewed_;         // by the last upgrade
  std::uint64_t change_due_ns_ = kNever_ns;  // or then; never: they have not been told
  bool is_serving_ = false;
  bool is_to_reload_ = false;
  bool is_to_upgrade_ = false;
  Upgrade upgrade_;
  bool stops_ = false;
  std::uint64_t kill_ns_ = kNever_ns;
  int exit_code_ = kExitDone;
};

// Is there a pool that this program cannot use? Errors: kIncompatible.
Result<> check_pool(const Options& options);

int exit_code_of(const Error& error);

}  // namespace modelpool::serve
