#include "master/master.hpp"

#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <thread>

#include "between/meeting.hpp"
#include "between/open_files.hpp"
#include "config/around.hpp"
#include "master/notify.hpp"
#include "master/signals.hpp"
#include "master/title.hpp"
#include "worker/worker.hpp"

namespace modelpool::serve {
namespace {

constexpr std::uint64_t kSecond = 1'000 * kMillisecond_ns;
constexpr std::uint64_t kKillAfter_ns = 5 * kSecond;   // past shutdown_timeout
constexpr std::uint64_t kChangeMax_ns = 10 * kSecond;  // for workers to take a new config
constexpr std::uint64_t kReadyMax_ns = 60 * kSecond;   // for new workers
constexpr std::uint64_t kEndMax_ns = 60 * kSecond;     // for models to be gone (--on-exit stop)
// After an upgrade: so many deaths of new workers in that time, and the old ones go on.
constexpr std::uint64_t kProbation_ns = 10 * kSecond;
constexpr std::uint32_t kDeathsMax = 3;
constexpr unsigned kTakeMax_s = 60;  // for the new program to take over
constexpr int kLookEvery_ms = 50;

void warn_of_few_files(std::uint32_t connections, const rlimit& limit) {
  if (limit.rlim_max >= wanted_files(connections)) return;
  spdlog::warn(
      "a worker may open {} files, too few for {} connections; raise the limit (ulimit -Hn, "
      "LimitNOFILE=) to {}, or set max_connections lower",
      limit.rlim_max, connections, wanted_files(connections));
}

// At the same addresses, and for those who have the same certificates.
bool listens_where(const std::vector<OpenListener>& open,
                   const std::vector<config::Listener>& wanted) {
  return std::equal(open.begin(), open.end(), wanted.begin(), wanted.end(),
                    [](const OpenListener& one, const config::Listener& other) {
                      return one.where.address == other.address &&
                             one.where.tls_client_ca == other.tls_client_ca;
                    });
}

bool has_text(const std::vector<std::string>& texts, const std::string& text) {
  return std::find(texts.begin(), texts.end(), text) != texts.end();
}

bool has_socket(const std::vector<OpenListener>& open, const std::string& bound) {
  return std::any_of(open.begin(), open.end(),
                     [&](const OpenListener& one) { return bound_to(one) == bound; });
}

// One whose config is not known any more.
OpenListener of_before(OpenSocket socket) {
  OpenListener listener;
  listener.where.address = std::move(socket.address);
  listener.fd = std::move(socket.fd);
  return listener;
}

}  // namespace

Master::Master(Options options, Source source, rlimit files)
    : options_(std::move(options)),
      source_(std::move(source)),
      files_(files),
      coordinator_(options_.pool, options_.dir,
                   options_.starts_coordinator ? std::optional(source_.coordinator) : std::nullopt,
                   files),
      upgrade_(options_.words) {}

Result<std::unique_ptr<Master>> Master::make(Options options, Source source,
                                             std::optional<Inheritance> inherited) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  std::unique_ptr<Master> master(new Master(std::move(options), std::move(source), files));
  auto opened = inherited ? master->take(std::move(*inherited)) : master->open();
  if (!opened) return fail(opened.error());
  return master;
}

// --- Start ---------------------------------------------------------------------------------------

// What can be refused comes before anything is started.
Result<> Master::open() {
  auto signals = take_signals();
  if (!signals) return fail(signals.error());
  signals_ = std::move(*signals);
  std::vector<OpenSocket> present = sockets_of_systemd();
  for (const OpenSocket& one : present) of_systemd_.push_back(one.address);
  const std::size_t given = present.size();
  if (auto looked = coordinator_.look(); !looked) return looked;
  if (auto met = meet(present); !met) return met;
  for (std::size_t i = given; i < present.size(); ++i) of_older_.push_back(bound_to(present[i]));
  auto made = make_generation(present);
  if (!made) return fail(made.error());
  current_ = std::move(*made);
  if (takes_over_) set_access_of(*current_);  // of sockets that were open already
  for (OpenSocket& one : present) {
    const std::string bound = bound_to(one);
    if (has_socket(current_->listeners, bound)) continue;
    spdlog::warn("the socket at {} is closed: the config names no such address ([serve] listen)",
                 bound);
    if (!has_text(of_systemd_, bound)) current_->unused.push_back(of_before(std::move(one)));
  }
  if (auto started = coordinator_.start(); !started) {
    for (const OpenListener& listener : current_->listeners) close_for_all(listener);
    return started;
  }
  warn_of_few_files(source_.door->serve.max_connections, files_);
  if (!lock_) {  // a pool that was made just now
    if (auto met = meet(present); !met) return met;
  }
  current_->number = lineage_->begin();
  ways_ = ways_to_start(source_);
  return {};
}

// The workers of the program before go on; this one's take their place.
Result<> Master::take(Inheritance inherited) {
  auto signals = take_signals();
  if (!signals) return fail(signals.error());
  signals_ = std::move(*signals);
  auto lineage = Lineage::join(std::move(inherited.lineage));
  if (!lineage) return fail(lineage.error());
  lineage_ = std::move(*lineage);
  lock_ = std::move(inherited.lock);
  meeting_ = std::move(inherited.meeting);
  of_systemd_ = std::move(inherited.of_systemd);
  coordinator_.adopt(inherited.coordinator);
  if (auto looked = coordinator_.look(); !looked) return looked;
  for (Inheritance::Generation& one : inherited.leaving) leaving_.push_back(adopt(std::move(one)));
  current_ = adopt(std::move(inherited.serving));
  is_serving_ = true;
  warn_of_few_files(source_.door->serve.max_connections, files_);
  ways_ = std::move(inherited.models);
  renew({});
  reap();
  alarm(0);  // of hand_over
  return {};
}

// Takes the place of those who serve the pool, if there is a pool.
Result<> Master::meet(std::vector<OpenSocket>& present) {
  if (coordinator_.pool() == nullptr) return {};
  const auto seen = coordinator_.pool()->snapshot();
  if (!seen) return fail(seen.error());
  const std::string door = door_path(seen->status.path);
  auto lock = lock_door(door);
  if (!lock) return fail(lock.error());
  auto taken = take_over(door);
  if (!taken) return fail(taken.error());
  if (*taken) {
    spdlog::info("taking over from the workers of a poolserve that has ended (worker pid {})",
                 (*taken)->from);
    takes_over_ = true;
    lineage_ = std::move((*taken)->lineage);
    meeting_ = std::move((*taken)->meeting);
    for (OpenSocket& one : (*taken)->listeners) present.push_back(std::move(one));
  } else {
    auto meeting = open_meeting(door);
    if (!meeting) return fail(meeting.error());
    meeting_ = std::move(*meeting);
    auto lineage = Lineage::make();
    if (!lineage) return fail(lineage.error());
    lineage_ = std::move(*lineage);
  }
  lock_ = std::move(*lock);
  return {};
}

Result<std::unique_ptr<Master::Generation>> Master::make_generation(
    std::vector<OpenSocket>& present) {
  auto listeners = open_listeners(source_.door->serve.listeners, present);
  if (!listeners) return fail(listeners.error());
  Fd ends(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!ends) return fail_errno(errno, "start workers");
  auto made = std::make_unique<Generation>(
      Generation{std::move(*listeners), {}, std::move(ends), 0, Workers(0, Workers::Serve())});
  Generation* const generation = made.get();
  made->workers =
      Workers(worker_count(*source_.door), [this, generation](std::uint32_t index, Fd control) {
        return serve(*generation, index, std::move(control));
      });
  return made;
}

std::unique_ptr<Master::Generation> Master::adopt(Inheritance::Generation given) {
  std::vector<OpenListener> listeners;
  for (OpenSocket& one : given.listeners) listeners.push_back(of_before(std::move(one)));
  return std::make_unique<Generation>(
      Generation{std::move(listeners),
                 {},
                 std::move(given.retire),
                 given.number,
                 Workers::adopt(std::move(given.workers), std::move(given.balance))});
}

// In the forked worker, which has copies of all that is here: it keeps what it needs.
int Master::serve(Generation& generation, std::uint32_t index, Fd control) {
  lock_.reset();
  signals_.reset();
  coordinator_.forget();
  forget_supervisor();
  WorkerStart start;
  start.pool = options_.pool;
  start.dir = options_.dir;
  start.door = source_.door;
  start.listeners = std::move(generation.listeners);
  generation.unused.clear();
  start.meeting = std::move(meeting_);
  start.retire = std::move(generation.retire);
  start.lineage = lineage_;
  start.generation = generation.number;
  start.control = std::move(control);
  start.balance = generation.workers.balance();
  start.backend_metrics = backend_metrics_;
  start.index = index;
  // Once: what was loaded then and is no longer was evicted for a reason.
  start.preloads = index == 0 && !is_serving_ && !takes_over_ && &generation == current_.get();
  start.backend_files = files_.rlim_cur;
  // Descriptors of the other generations.
  if (&generation != current_.get()) current_.reset();
  if (&generation != next_.get()) next_.reset();
  fallback_.reset();
  leaving_.clear();
  return run_worker(std::move(start));
}

// --- The loop ------------------------------------------------------------------------------------

int Master::run() {
  for (;;) {
    for (Generation* one : generations()) one->workers.start_due();
    const bool are_gone =
        current_->workers.are_adopted() && !next_ && !stops_ && !current_->workers.any_alive();
    if (are_gone || (current_->workers.is_hopeless() && !is_serving_ && leaving_.empty())) {
      spdlog::error("unable to serve: every worker ended, the last one with {}; it says above why",
                    current_->workers.last_end());
      for (const OpenListener& listener : current_->listeners) close_for_all(listener);
      if (!is_serving_) lineage_->give_up();
      return kExitFinding;
    }
    wait();
    take_signals_in();
    coordinator_.step();
    upgrade_.step();
    on_progress();
    if (stops_) {
      const auto all = generations();
      if (std::none_of(all.begin(), all.end(),
                       [](const Generation* one) { return one->workers.any_alive(); })) {
        break;
      }
      if (clock_ns() >= kill_ns_) stop_at_once();
    }
  }
  if (!is_serving_) lineage_->give_up();
  if (options_.stop_on_exit) end_everything();
  spdlog::info("stopped");
  return exit_code_;
}

std::uint64_t Master::due_ns() const {
  // Past that time it is the new workers that are waited for.
  const bool is_late = fallback_ && clock_ns() >= fallback_until_ns_;
  const std::uint64_t judged_ns = fallback_until_ns_ + (is_late ? kReadyMax_ns : 0);
  std::uint64_t due = std::min({coordinator_.due_ns(), upgrade_.due_ns(), kill_ns_, change_due_ns_,
                                next_due_ns_, judged_ns});
  for (const Generation* one : generations()) due = std::min(due, one->workers.due_ns());
  return due;
}

void Master::wait() {
  std::vector<pollfd> waited = {{signals_.get(), POLLIN, 0}, {coordinator_.fd(), POLLIN, 0}};
  for (const Generation* one : generations()) {
    for (const Workers::One& worker : one->workers.all()) {
      if (worker.control) waited.push_back({worker.control.get(), POLLIN, 0});
    }
  }
  poll(waited.data(), waited.size(), poll_timeout_ms(due_ns()));
}

void Master::take_signals_in() {
  while (const int number = next_signal(signals_)) {
    switch (number) {
      case SIGCHLD:
        reap();
        break;
      case SIGHUP:
        is_to_reload_ = true;
        break;
      case SIGUSR1:
        log_state();
        break;
      case SIGUSR2:
        is_to_upgrade_ = true;
        break;
      default:
        if (stops_) {
          stop_at_once();
        } else {
          stop();
        }
    }
  }
}

// All of them: as the first process of a container it gets everybody's orphans.
void Master::reap() {
  int status = 0;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    if (coordinator_.ended(pid, status) || upgrade_.ended(pid, status)) continue;
    for (Generation* one : generations()) {
      if (one->workers.ended(pid, status)) break;
    }
  }
}

void Master::on_progress() {
  for (Generation* one : generations()) one->workers.hear();
  for (const auto& one : leaving_) {
    if (!one->workers.any_alive()) end_loaded_by(*one);
  }
  const auto left =
      std::erase_if(leaving_, [](const auto& one) { return !one->workers.any_alive(); });
  // What they lacked may be what those who left held.
  if (!is_serving_ && (left != 0 || !leaving_.empty())) current_->workers.try_again();
  if (!stops_) take_steps();
  if (change_due_ns_ == kNever_ns) return;
  const auto all = generations();
  if (clock_ns() >= change_due_ns_ ||
      std::none_of(all.begin(), all.end(),
                   [](const Generation* one) { return one->workers.owe_door(); })) {
    end_changed_models();
  }
}

void Master::take_steps() {
  if (!is_serving_ && current_->workers.all_ready()) begin_to_serve();
  if (fallback_) judge_new_program();
  if (!fallback_ && std::exchange(is_to_reload_, false)) reload();
  if (next_ && next_->workers.all_ready()) {
    take_next();
    begin_to_serve();
  } else if (next_ && current_->workers.are_adopted() && next_->workers.has_failed() &&
             next_->workers.deaths() < kDeathsMax) {
    next_->workers.try_again();
  } else if (next_ && (next_->workers.has_failed() || clock_ns() >= next_due_ns_)) {
    const std::string& end = next_->workers.last_end();
    spdlog::error("{} with the new config or program{}; the old ones go on",
                  next_->workers.is_hopeless() ? "no worker serves" : "not all workers serve",
                  end.empty() ? "" : ", the last one ended with " + end);
    close_unused(drop_next());
    tell_old_workers();
    announce();
  }
  // The old program's workers cannot be replaced but by this one's.
  if (current_->workers.are_adopted() && !next_ && current_->workers.deaths() != old_deaths_) {
    old_deaths_ = current_->workers.deaths();
    renew({});
  }
  ask_successor();
}

void Master::begin_to_serve() {
  is_serving_ = true;
  takes_over_ = false;
  lineage_->serves(current_->number);
  of_older_.clear();
  if (!fallback_) {
    lineage_->settles(current_->number);
    close_dropped();
  }
  announce();
}

// Once all serve.
void Master::announce() {
  if (!is_serving_) return;
  const std::string text = status_text();
  spdlog::info("serving pool {}: {}", options_.pool, text);
  notify_ready(text);
}

std::string Master::status_text() const {
  std::string text = std::to_string(source_.door->models.size()) + " models on";
  for (const OpenListener& listener : current_->listeners)
    text.append(" ").append(bound_to(listener));
  return text + ", " + std::to_string(current_->workers.alive()) + " workers";
}

std::vector<Master::Generation*> Master::generations() const {
  std::vector<Generation*> all = {current_.get()};
  if (next_) all.push_back(next_.get());
  if (fallback_) all.push_back(fallback_.get());
  for (const auto& one : leaving_) all.push_back(one.get());
  return all;
}

void Master::log_state() const {
  spdlog::info("pid {}: {}; coordinator {}", getpid(), status_text(),
               coordinator_.pid() == 0 ? "none" : "pid " + std::to_string(coordinator_.pid()));
  for (const Generation* one : generations()) {
    const char* const role = one == current_.get()    ? ""
                             : one == next_.get()     ? ", new"
                             : one == fallback_.get() ? ", goes on if new ones die"
                                                      : ", leaving";
    for (const Workers::One& worker : one->workers.all()) {
      if (worker.pid == 0) continue;
      spdlog::info("worker pid {}: {}{}, for {} s", worker.pid,
                   worker.is_ready ? "serves" : "starts", role,
                   (clock_ns() - worker.started_ns) / kSecond);
    }
  }
}

// --- A new config --------------------------------------------------------------------------------

void Master::reload() {
  if (is_serving_) notify_reloading();
  auto source = load_source(options_);
  if (!source) {
    spdlog::error("the config is refused, and the old one kept:\n{}", source.error().text);
    return announce();
  }
  apply(std::move(*source));
}

void Master::apply(Source source) {
  source_ = std::move(source);
  warn_of_few_files(source_.door->serve.max_connections, files_);
  // With what is in force: the config that was read last may never have come to be.
  const auto& wanted = source_.door->serve.listeners;
  std::vector<OpenSocket> present = drop_next();
  change_due_ns_ = kNever_ns;
  if (current_->workers.are_adopted() || !listens_where(current_->listeners, wanted) ||
      current_->workers.all().size() != worker_count(*source_.door)) {
    renew(std::move(present));
    // Those before them are not to wait for: they may never be ready.
    if (next_ && !is_serving_) {
      take_next();
      close_dropped();
    }
  } else {
    close_unused(std::move(present));
    for (std::size_t i = 0; i < wanted.size(); ++i) current_->listeners[i].where = wanted[i];
    set_access_of(*current_);
    tell_old_workers();
    announce();
  }
  if (coordinator_.runs_with(options_.config_path)) coordinator_.signal(SIGHUP);
}

// Other sockets, or another number of workers: new ones, then the old ones finish.
void Master::renew(std::vector<OpenSocket> present) {
  for (const auto* open : {&current_->listeners, &current_->unused}) {
    for (const OpenListener& one : *open) present.push_back({one.where.address, duplicate(one.fd)});
  }
  auto made = make_generation(present);
  for (OpenSocket& one : present) {
    const std::string bound = bound_to(one);
    OpenListener left = of_before(std::move(one));
    if (!is_of_current(bound)) {
      close_for_all(left);
    } else if (made && !has_text(of_systemd_, bound)) {
      (*made)->unused.push_back(std::move(left));
    }
  }
  if (!made) {
    spdlog::error("{}; the old sockets and workers stay", made.error().text);
    tell_old_workers();
    return announce();
  }
  next_ = std::move(*made);
  next_->number = lineage_->begin();
  next_due_ns_ = clock_ns() + kReadyMax_ns;
}

void Master::take_next() {
  tell_old_workers();
  next_due_ns_ = kNever_ns;
  if (current_->workers.are_adopted()) {
    fallback_ = std::move(current_);
    fallback_until_ns_ = clock_ns() + kProbation_ns;
    current_ = std::move(next_);
    current_->workers.pause_between_tries(false);
    return;
  }
  leave(std::move(current_));
  current_ = std::move(next_);
  set_access_of(*current_);
}

// Those that finish, too: they load models, and ask for keys, as long as they have a connection.
void Master::tell_old_workers() {
  for (Generation* one : generations()) {
    if (one != next_.get()) one->workers.send_door(*source_.door);
  }
  if (!current_->workers.are_adopted()) put_models_in_force();
}

void Master::put_models_in_force() {
  for (const std::string& model : changed_models(ways_, source_)) {
    if (!has_text(changed_, model)) changed_.push_back(model);
  }
  ways_ = ways_to_start(source_);
  change_due_ns_ = clock_ns() + kChangeMax_ns;
}

// What `next_` had opened goes back, for whoever is next.
std::vector<OpenSocket> Master::drop_next() {
  std::vector<OpenSocket> opened;
  if (!next_) return opened;
  for (OpenListener& one : next_->listeners) {
    if (!is_of_current(bound_to(one))) opened.push_back({one.where.address, std::move(one.fd)});
  }
  leave(std::move(next_));
  next_due_ns_ = kNever_ns;
  lineage_->give_up();
  return opened;
}

void Master::close_unused(std::vector<OpenSocket> sockets) const {
  for (OpenSocket& one : sockets) {
    if (!is_of_current(bound_to(one))) close_for_all(of_before(std::move(one)));
  }
}

// But for those of workers whose place is to be taken, who go on there.
void Master::close_dropped() {
  std::erase_if(current_->unused, [this](const OpenListener& one) {
    if (has_text(of_older_, bound_to(one))) return false;
    close_for_all(one);
    return true;
  });
}

bool Master::is_of_current(const std::string& bound) const {
  return has_socket(current_->listeners, bound) || has_socket(current_->unused, bound);
}

void Master::end_changed_models() {
  change_due_ns_ = kNever_ns;
  for (const std::string& model : std::exchange(changed_, {})) {
    if (coordinator_.pool() == nullptr) break;
    const auto asked = coordinator_.pool()->evict(model);
    if (asked) {
      spdlog::info("{} is to be started in another way, or not any more: it ends when idle",
                   config::quoted(model));
    } else if (asked.error().code != Errc::kNotLoaded) {
      spdlog::warn("{}", asked.error().text);
    }
  }
}

// --- Another program -----------------------------------------------------------------------------

// One thing after the other: what was begun comes to its end first.
void Master::ask_successor() {
  if (!is_serving_ || next_ || fallback_ || change_due_ns_ != kNever_ns) return;
  if (!upgrade_.is_asking() && std::exchange(is_to_upgrade_, false)) {
    notify_reloading();
    if (auto asked = upgrade_.ask(); !asked) {
      spdlog::error("{}; this program goes on", asked.error().text);
      announce();
    }
  }
  const Upgrade::Answer answer = upgrade_.take_answer();
  if (answer == Upgrade::Answer::kYes) hand_over();
  if (answer == Upgrade::Answer::kNo) {
    spdlog::error("the program is not executed anew: it says above why; this one goes on");
    announce();
  }
}

void Master::hand_over() {
  const auto workers_of = [](const Generation& generation) {
    Inheritance::Generation passed_on;
    passed_on.number = generation.number;
    passed_on.retire = passed(generation.retire);
    for (const OpenListener& one : generation.listeners)
      passed_on.listeners.push_back({one.where.address, passed(one.fd)});
    passed_on.workers = generation.workers.processes();
    passed_on.balance = passed(generation.workers.balance()->fd());
    return passed_on;
  };
  Inheritance all;
  all.lock = passed(lock_);
  all.meeting = passed(meeting_);
  all.lineage = passed(lineage_->fd());
  all.coordinator = coordinator_.own();
  all.of_systemd = of_systemd_;
  all.models = ways_;
  all.serving = workers_of(*current_);
  for (const auto& one : leaving_) all.leaving.push_back(workers_of(*one));
  // One that hangs before it has taken over is no master: the workers serve until another comes.
  alarm(kTakeMax_s);
  const Error error = upgrade_.execute(all);
  alarm(0);
  spdlog::error("{}; this program goes on", error.text);
  announce();
}

void Master::judge_new_program() {
  const bool is_over = clock_ns() >= fallback_until_ns_;
  const bool serves = current_->workers.all_ready();
  if (!fallback_->workers.any_alive() || (is_over && serves)) return settle();
  // Some have ended, or never began, and are not there again.
  const bool is_late = clock_ns() >= fallback_until_ns_ + kReadyMax_ns;
  if (current_->workers.deaths() >= kDeathsMax || is_late) roll_back();
}

// The new workers have shown that they serve: the old ones end when they have finished.
void Master::settle() {
  lineage_->settles(current_->number);
  fallback_until_ns_ = kNever_ns;
  current_->workers.pause_between_tries(true);
  set_access_of(*current_);
  leave(std::move(fallback_));
  close_dropped();
  put_models_in_force();
  renewed_ = changed_;
  if (coordinator_.runs_with(options_.config_path)) coordinator_.signal(SIGHUP);
  spdlog::info("the new program's workers serve; those before finish");
}

void Master::roll_back() {
  spdlog::error(
      "{} workers of the new program ended, the last one with {}: the old ones go on, and this "
      "program is tried once more when one of those ends. Install one that serves, and send "
      "SIGUSR2",
      current_->workers.deaths(), current_->workers.last_end());
  fallback_until_ns_ = kNever_ns;
  lineage_->take_back(fallback_->number);
  next_ = std::move(current_);
  current_ = std::move(fallback_);
  close_unused(drop_next());
  announce();
}

// Of the program before, who loaded models as its config said.
void Master::end_loaded_by(const Generation& before) {
  if (!before.workers.are_adopted() || coordinator_.pool() == nullptr) return;
  for (const std::string& model : renewed_) {
    const auto seen = coordinator_.pool()->look(model);
    if (seen && seen->backend && before.workers.had(seen->backend->owner_pid) &&
        !has_text(changed_, model)) {
      changed_.push_back(model);
    }
  }
  end_changed_models();
}

// --- The end -------------------------------------------------------------------------------------

void Master::leave(std::unique_ptr<Generation> generation) {
  generation->workers.start_no_more();
  retire(generation->retire);
  generation->listeners.clear();
  generation->unused.clear();
  leaving_.push_back(std::move(generation));
}

void Master::set_access_of(const Generation& generation) const {
  for (const OpenListener& listener : generation.listeners) {
    if (has_text(of_systemd_, bound_to(listener))) continue;
    if (auto set = set_access(listener.where); !set) spdlog::error("{}", set.error().text);
  }
}

// Nobody listens there any more, workers that finish neither: unless those whose place was to be
// taken go on there, or it is systemd's own.
void Master::close_for_all(const OpenListener& listener) const {
  const std::string bound = bound_to(listener);
  if (has_text(of_older_, bound) || has_text(of_systemd_, bound)) return;
  shutdown(listener.fd.get(), SHUT_RDWR);
  remove_file(listener);
}

void Master::stop() {
  spdlog::info("stopping; a second signal stops at once");
  notify_stopping();
  stops_ = true;
  upgrade_.give_up();
  const std::uint64_t timeout_ns = source_.door->serve.shutdown_timeout_ns;
  if (timeout_ns != 0) kill_ns_ = clock_ns() + timeout_ns + kKillAfter_ns;
  for (Generation* one : generations()) {
    one->workers.start_no_more();
    // Before the signal: one whose master is killed now must not end those who serve.
    if (takes_over_) retire(one->retire);
    one->workers.signal(SIGTERM);
    for (const OpenListener& listener : one->listeners) close_for_all(listener);
    one->listeners.clear();
  }
  if (!takes_over_) shutdown(meeting_.get(), SHUT_RDWR);
  meeting_.reset();
}

void Master::stop_at_once() {
  exit_code_ = kExitFinding;
  kill_ns_ = kNever_ns;
  for (Generation* one : generations()) one->workers.signal(SIGKILL);
}

// Models that this config names, then the coordinator if it is ours.
void Master::end_everything() {
  Pool* const pool = coordinator_.pool();
  if (pool == nullptr || coordinator_.pid() == 0) return;
  const std::uint64_t until = clock_ns() + kEndMax_ns;
  const auto& models = source_.door->models;
  const auto any_loaded = [&] {
    const auto seen = pool->snapshot();
    return seen && std::any_of(seen->backends.begin(), seen->backends.end(), [&](const auto& one) {
             return std::any_of(models.begin(), models.end(), [&](const config::Model& model) {
               return model.name == one.model;
             });
           });
  };
  for (const config::Model& model : models) static_cast<void>(pool->evict(model.name));
  while (any_loaded() && clock_ns() < until) poll(nullptr, 0, kLookEvery_ms);
  if (!coordinator_.is_own()) return;
  coordinator_.signal(SIGTERM);
  pollfd ended{coordinator_.fd(), POLLIN, 0};
  poll(&ended, 1, poll_timeout_ms(until));
}

Result<> check_pool(const Options& options) {
  const auto attached = Pool::attach(options.pool, {.dir = options.dir, .create = false});
  if (attached || attached.error().code != Errc::kIncompatible) return {};
  return fail(attached.error());
}

int exit_code_of(const Error& error) {
  switch (error.code) {
    case Errc::kInvalid:
      return kExitUsage;
    case Errc::kBusy:
    case Errc::kSystem:
    case Errc::kNoCoordinator:
      return kExitFinding;
    default:
      return kExitNoPool;
  }
}

}  // namespace modelpool::serve
