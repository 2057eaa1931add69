#include "crash/operations.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <stdexcept>

#include "base/duration.hpp"
#include "base/model_log.hpp"
#include "base/proc.hpp"
#include "base/time.hpp"
#include "sampler.hpp"
#include "segment/devices.hpp"
#include "segment/meters.hpp"

namespace modelpool::test {
namespace {

using std::chrono::seconds;

// The operation begins and ends here.
void begins() { mark(); }
void ends() { mark(); }

void must(const Result<>& result) {
  if (!result) throw std::runtime_error(result.error().text);
}

const std::string kFresh = "fresh";  // the model that is not loaded
const std::vector<std::string> kBackend{"/bin/sleep", "60"};
const std::vector<std::string> kStubborn{"/bin/sh", "-c", "trap '' TERM; exec sleep 60"};

LoadTicket ticket_and_process(Pool& pool, const std::vector<std::string>& argv = kBackend) {
  LoadTicket ticket = ticket_for(pool, kFresh);
  must(ticket.spawn(argv));
  // It is stubborn once its shell has executed the last command.
  const auto sleeps = [&] {
    const auto stat = read_stat(ticket.pid());
    return !stat || stat->command == "sleep";
  };
  if (argv == kStubborn && !eventually(sleeps)) throw std::runtime_error("it does not sleep");
  return ticket;
}

// --- What helpers do -----------------------------------------------------------------------------

void tell(Stage& stage, std::size_t helper, const std::string& line) {
  stage.helper(helper).say(line);
  stage.helper(helper).hear();
}

// Takes the last place by a ticket, and lets it go when told to.
void take_last_place(Pool& pool, Forked::Child& child) {
  {
    const LoadTicket ticket = ticket_for(pool, "last");
    child.say("taken");
    child.hear();
  }
  child.say("let go");
  child.hear();
}

std::string last_place_is_let_go(Stage& stage) {
  tell(stage, 0, "let go");
  return "";
}

// Holds the only lease that the resident grants at once, until told not to.
void hold_the_only_lease(Pool& pool, Forked::Child& child) {
  must(pool.set("parallel", "1"));
  Lease lease = lease_on(pool, "resident");
  child.say("holds");
  child.hear();
  lease.release();
  child.say("let go");
  child.hear();
}

void stand_in_line_for(const std::string& model, Pool& pool, Forked::Child& child) {
  auto pending = pool.begin_acquire(model, kPatience);
  if (!pending) throw std::runtime_error(pending.error().text);
  auto polled = pending->poll();
  child.say(polled && !*polled ? "in line" : "not in line");
  child.hear();
  while (polled && !*polled) {
    pending->wait();
    polled = pending->poll();
  }
  child.say(polled ? "granted" : polled.error().text);
  child.hear();
}

// Stands in line for a place, and waits for it when told to.
void stand_in_line(Pool& pool, Forked::Child& child) { stand_in_line_for("behind", pool, child); }
// Or for a lease.
void stand_behind(Pool& pool, Forked::Child& child) { stand_in_line_for("resident", pool, child); }

// Loads a model and asks for its eviction when told to.
auto load_idle(const std::vector<std::string>& argv) {
  return [argv](Pool& pool, Forked::Child& child) {
    LoadTicket ticket = ticket_and_process(pool, argv);
    ticket.ready("127.0.0.1:1")->release();
    child.say("loaded");
    child.hear();
    must(pool.evict(kFresh));
    child.say("asked");
    child.hear();
  };
}

// Loads a model and keeps a lease on it until told not to.
void load_busy(Pool& pool, Forked::Child& child) {
  LoadTicket ticket = ticket_and_process(pool);
  auto lease = ticket.ready("127.0.0.1:1");
  child.say("loaded");
  child.hear();
  lease->release();
  while (!child.hear().empty()) {  // it may be told again
  }
}

// The same for one that holds memory of a device, as the coordinator notes it: its place settles.
void load_on_device(Pool& pool, Forked::Child& child) {
  LoadTicket ticket = ticket_and_process(pool);
  ticket.ready("127.0.0.1:1")->release();
  const auto found = find_backend(segment_of(pool), kFresh);
  segment_of(pool).backend(found->ref.index).peak.device[0].store(1 << 30);
  child.say("loaded");
  child.hear();
  must(pool.evict(kFresh));
  child.say("asked");
  child.hear();
}

// Two that only together make room for a third.
const std::array<std::string, 2> kMates{"mate-0", "mate-1"};
const std::string kLarge = "large";

void let_take(Pool& pool, const char* places, const char* all, const char* each) {
  must(pool.set("max_backends", places));
  must(pool.set("max_memory", all));
  must(pool.set("memory", each));
}
void load_mates(Pool& pool, Forked::Child& child) {
  let_take(pool, "4", "off", "off");
  for (const std::string& model : kMates) {
    LoadTicket ticket = ticket_for(pool, model);
    must(ticket.spawn(kBackend));
    ReadyOptions options;
    options.size_bytes = 40 << 20;
    auto lease = ticket.ready("of:" + model, options);
    if (!lease) throw std::runtime_error(lease.error().text);
    lease->release();
  }
  let_take(pool, "4", "100MiB", "90MiB");
  child.say("loaded");
  child.hear();
}
void stand_in_line_with_much(Pool& pool, Forked::Child& child) {
  stand_in_line_for(kLarge, pool, child);
}

// Stands in line for a place on a device, and is granted that one.
const std::string kDevice = "GPU-7";
void stand_in_line_for_a_device(Pool& pool, Forked::Child& child) {
  {
    const auto lock = segment_of(pool).lock_structure();
    register_device(segment_of(pool), *lock, kDevice);
  }
  must(pool.set("gpu_memory", kDevice + "=16GiB"));
  must(pool.set("devices", "1"));
  auto pending = pool.begin_acquire("behind", kPatience);
  static_cast<void>(pending->poll());
  child.say("in line");
  child.hear();
  auto polled = pending->poll();
  for (; polled && !*polled; polled = pending->poll()) pending->wait();
  const auto* const ticket = polled ? std::get_if<LoadTicket>(&**polled) : nullptr;
  const bool is_there = ticket != nullptr && ticket->devices() == std::vector{kDevice};
  child.say(!polled ? polled.error().text : is_there ? "granted" : "not on its device");
  child.hear();
}

void load_measured(Pool& pool, Forked::Child& child) {
  LoadTicket ticket = ticket_and_process(pool);
  ticket.ready("127.0.0.1:1")->release();
  must(pool.set("gpu_memory", "100%"));  // so that it is measured at once
  child.say("loaded");
  child.hear();
}

void start_loading(Pool& pool, Forked::Child& child) {
  const LoadTicket ticket = ticket_and_process(pool);
  child.say("loading");
  child.hear();
}

void load_to_be_evicted(Pool& pool, Forked::Child& child) {
  const LoadTicket ticket = ticket_and_process(pool);
  child.say("loading");
  child.hear();
  must(pool.evict(kFresh));
  child.say("asked");
  child.hear();
}

// Has one of each: a lease, a ticket and what it started, and a place in the line.
void have_everything(Pool& pool, Forked::Child& child) {
  const Lease lease = lease_on(pool, "resident");
  const LoadTicket ticket = ticket_and_process(pool);
  auto pending = pool.begin_acquire("behind", kPatience);
  static_cast<void>(pending->poll());
  child.say("has everything");
  child.hear();
}

// When told to, holds a lease that is overdue at once, until the judge asks for its end.
void hold_until_asked(Pool& pool, Forked::Child& child) {
  child.say("ready");
  child.hear();
  AcquireOptions options;
  options.busy_timeout = std::chrono::milliseconds(1);
  auto grant = pool.acquire("resident", seconds(5), options);
  if (!grant) throw std::runtime_error(grant.error().text);
  Lease& lease = std::get<Lease>(*grant);
  std::atomic<bool> told{false};
  must(lease.on_cancel([&] {
    lease.release();
    told.store(true);
  }));
  child.say("holds");
  child.say(eventually([&] { return told.load(); }) ? "told" : "never told");
  while (!child.hear().empty()) {
  }
}

const BackendView* find_model(const Snapshot& snapshot, const std::string& model) {
  for (const BackendView& b : snapshot.backends) {
    if (b.model == model) return &b;
  }
  return nullptr;
}

pid_t process_of_fresh(const Stage& stage) {
  const Snapshot snapshot = stage.look();
  return find_model(snapshot, kFresh)->process.pid;
}

bool is_in(const Stage& stage, const std::string& model, BackendState state) {
  const Snapshot snapshot = stage.look();
  const BackendView* b = find_model(snapshot, model);
  return b != nullptr && b->state.state == state;
}

bool fresh_is_gone(Stage& stage) {
  const Snapshot snapshot = stage.look();
  return find_model(snapshot, kFresh) == nullptr;
}

bool fresh_settles(Stage& stage) {
  const Snapshot snapshot = stage.look();
  const BackendView* b = find_model(snapshot, kFresh);
  return b != nullptr && b->settling();
}

bool nothing_is_left(Stage& stage) {
  const Snapshot s = stage.look();
  return s.workers.empty() && s.leases.empty() && s.waiters.empty() && s.backends.size() == 1;
}

bool nobody_holds_anything(Stage& stage) { return stage.look().leases.empty(); }

std::string holder_was_told(Stage& stage) {
  const std::string said = stage.helper(0).hear();
  stage.dismiss();
  return said == "told" ? "" : "the holder of an overdue lease was " + said;
}

// What somebody else does who is not the victim.
void let_do(const std::function<void()>& what) {
  if (Forked([&](Forked::Child&) { what(); }).wait() != 0)
    throw std::runtime_error("what was to be done meanwhile has failed");
}

// --- What is measured ----------------------------------------------------------------------------

constexpr std::uint64_t kMeasured_bytes = 100 << 20;
constexpr std::uint64_t kDeviceTotal_bytes = std::uint64_t{16} << 30;
constexpr std::uint64_t kDeviceFree_bytes = std::uint64_t{6} << 30;

std::string sampler_path(const Stage& stage) { return stage.segment_path() + ".sampler"; }

// A program that measures the same each time.
void write_sampler(const Stage& stage) {
  std::ofstream(sampler_path(stage))
      << "#!/bin/sh\nwhile read what one two rest; do case $what in\nmeasure) id=$one ;;\n"
      << "backend) said=\"backend $one $two " << kMeasured_bytes << "\" ;;\n"
      << "end) printf 'begin %s\\n%s\\nhost\\ndevice " << kDevice << ' ' << kDeviceTotal_bytes
      << ' ' << kDeviceFree_bytes << " unknown\\nend %s\\n' $id \"$said\" $id ;;\nesac; done\n";
  chmod(sampler_path(stage).c_str(), 0700);
}

// As the coordinator's loop does it: asks a program, and takes what it said.
void measure(const Stage& stage, const std::function<void()>& asked) {
  const auto segment = stage.map();
  setenv("MODELPOOL_SAMPLE", sampler_path(stage).c_str(), 1);
  coordinator::Sampler sampler(segment);
  sampler.look_after(look(segment));
  pollfd answer{sampler.take_new_fd(), POLLIN, 0};
  if (answer.fd < 0 || poll(&answer, 1, 60'000) != 1) throw std::runtime_error("no sample");
  asked();
  sampler.take();
  if (sampler.latest() == nullptr) throw std::runtime_error("the sample was not taken");
}

std::string unlike_measured(const Stage& stage) {
  const Snapshot s = stage.look();
  const BackendView* const b = find_model(s, kFresh);
  if (b == nullptr) return "the backend that was measured has gone";
  if (b->measured.host != kMeasured_bytes || b->peak.host != kMeasured_bytes) return "its size; ";
  if (s.devices != std::vector{kDevice}) return "the devices; ";
  const DeviceMemory memory = load_device_memory(stage.segment(), 0);
  if (memory.total_bytes != kDeviceTotal_bytes || memory.free_bytes != kDeviceFree_bytes)
    return "what its device has; ";
  return s.coordinator.foreign.bytes.device[0] == kDeviceTotal_bytes - kDeviceFree_bytes
             ? ""
             : "what others take; ";
}

// Each number is the old or the new one, a peak is never below its measure, and what the next
// coordinator measures stands there.
std::string measured_anew(Stage& stage) {
  const Snapshot s = stage.look();
  const BackendView* const b = find_model(s, kFresh);
  if (b == nullptr) return "the backend that was measured has gone";
  for (const std::uint64_t bytes : {b->measured.host, b->peak.host}) {
    if (bytes != 0 && bytes != kMeasured_bytes) return "a size that nobody measured";
  }
  if (b->measured.host > b->peak.host) return "a peak below what was measured";
  if (s.devices.size() > 1) return "a device twice";
  let_do([&] { measure(stage, [] {}); });
  const std::string wrong = unlike_measured(stage);
  return wrong.empty() ? "" : "not measured anew: " + wrong;
}

bool next_is_loading(Stage& stage) { return is_in(stage, "behind", BackendState::kReserved); }

// Whoever died has set it or has not, and nothing else has changed (P6).
std::string settings_are_whole(Stage& stage) {
  const Snapshot s = stage.look();
  const PoolSettings& found = *s.settings;
  const std::uint64_t idle_ns = found.get(Setting::kIdleTimeout);
  const bool is_old = idle_ns == 0 && found.pool.entries().size() == 4;
  const bool is_new = idle_ns == 3600 * kSecond_ns && found.pool.entries().size() == 5;
  const bool rest_is_kept = found.get(Setting::kMaxBackends) == kLimit &&
                            found.get(Setting::kStopGrace) == 20 * kMillisecond_ns;
  if ((is_old || is_new) && rest_is_kept) return "";
  return "the settings are neither the old nor the new ones";
}

// A log above its size, which the victim cuts.
const std::string kOutput = std::string(40'000, 'x') + "\nthe end of it\n";
constexpr std::uint64_t kOutputMax_bytes = 16'384;

std::string log_dir(const Stage& stage) { return stage.segment_path() + ".logs"; }
ModelLog model_log(const Stage& stage) {
  auto log = ModelLog::make(log_dir(stage), kFresh);
  if (!log) throw std::runtime_error(log.error().text);
  return std::move(*log);
}
void append(const std::string& path, const std::string& text) {
  const Fd file(open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
  if (write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    throw std::runtime_error("unable to write " + path);
}
void write_output(Stage& stage) {
  std::filesystem::remove_all(log_dir(stage));
  const ModelLog log = model_log(stage);
  if (!log.begin()) throw std::runtime_error("there is no log");
  append(log.path(), kOutput);
}
// Its writer goes on, and the next coordinator finds what was cut off or cuts it itself.
std::string output_is_whole(Stage& stage) {
  const ModelLog log = model_log(stage);
  append(log.path(), "after\n");
  log.finish_cut();
  std::string kept = read_file(log.previous_path());
  const std::size_t begin = kept.find_first_not_of('\0');
  kept = begin == std::string::npos ? "" : kept.substr(begin);
  kept += read_file(log.path());
  if (kept.size() < kOutputMax_bytes || !kept.ends_with("the end of it\nafter\n"))
    return "of the output are left " + std::to_string(kept.size()) + " bytes, not with its end";
  if (const auto cut = log.cut(kOutputMax_bytes); !cut) return cut.error().text;
  if (read_file(log.path()).size() > kOutputMax_bytes) return "the output is not cut";
  return std::distance(std::filesystem::directory_iterator(log_dir(stage)), {}) == 2
             ? ""
             : "there are files left of a cut";
}

std::string next_in_line_is_granted(Stage& stage) {
  stage.helper(1).say("go on");
  const std::string said = stage.helper(1).hear();
  stage.dismiss();
  return said == "granted" ? "" : "the next in line was not granted: " + said;
}

// --- Workers -------------------------------------------------------------------------------------

std::vector<Operation> lease_operations() {
  const auto lock_and_unlock = [](const Stage& stage) {
    const auto segment = stage.map();
    begins();
    { const auto lock = segment->lock_structure(); }
    ends();
  };
  const auto die_with_the_mutex = [](Stage& stage) {
    Forked([&](Forked::Child&) {
      const auto segment = stage.map();
      const auto lock = segment->lock_structure();
      _exit(0);
    }).wait();
  };
  return {
      {"lease-begin", Places::kEveryInstruction,
       [](const Stage& stage) {
         Pool pool = stage.attach();
         lease_on(pool, "resident").release();
         begins();
         const auto granted = pool.acquire("resident", seconds(5));
         ends();
       }},
      {"lease-end", Places::kEveryInstruction,
       [](const Stage& stage) {
         Pool pool = stage.attach();
         Lease lease = lease_on(pool, "resident");
         begins();
         lease.release();
         ends();
       }},
      {"lock", Places::kEveryInstruction, lock_and_unlock},
      // The recoverer dies too: the mutex has a dead owner when it comes.
      {"recover", Places::kEveryInstruction, lock_and_unlock, die_with_the_mutex},
  };
}

std::vector<Operation> worker_operations() {
  return {
      {.name = "attach",
       .victim =
           [](const Stage& stage) {
             begins();
             Pool pool = stage.attach();
             ends();
           }},
      {.name = "detach",
       .victim =
           [](const Stage& stage) {
             Pool pool = stage.attach();
             begins();
             pool.close();
             ends();
           }},
      {.name = "ticket",
       .victim =
           [](const Stage& stage) {
             Pool pool = stage.attach();
             begins();
             const auto granted = pool.acquire(kFresh, seconds(5));
             ends();
           }},
      {.name = "queue",
       .victim =
           [](const Stage& stage) {
             Pool pool = stage.attach();
             begins();
             {
               auto pending = pool.begin_acquire(kFresh, seconds(5));
               static_cast<void>(pending->poll());
             }
             ends();
           },
       .before = [](Stage& stage) { stage.add_helper(take_last_place); },
       .after = last_place_is_let_go},
      // The head of the line takes the place that has come free; behind it stands another.
      {.name = "take-place",
       .victim =
           [](const Stage& stage) {
             Pool pool = stage.attach();
             auto pending = pool.begin_acquire(kFresh, seconds(60));
             static_cast<void>(pending->poll());
             begins();
             for (auto polled = pending->poll(); polled && !*polled; polled = pending->poll()) {
               pending->wait();
             }
             ends();
           },
       .before = [](Stage& stage) { stage.add_helper(take_last_place); },
       .at_mark =
           [](Stage& stage) {
             stage.add_helper(stand_in_line);
             stage.helper(0).say("let go");
             stage.helper(0).hear();
           },
       .after = next_in_line_is_granted},
      {.name = "counted-lease",
       .victim =
           [](const Stage& stage) {
             Pool pool = stage.attach();
             must(pool.set("parallel", "1"));
             begins();
             { const auto granted = pool.acquire("resident", seconds(5)); }
             ends();
           }},
      // Whoever waits first takes the lease that has come free; behind it stands another.
      {.name = "take-counted-lease",
       .victim =
           [](const Stage& stage) {
             Pool pool = stage.attach();
             auto pending = pool.begin_acquire("resident", seconds(60));
             static_cast<void>(pending->poll());
             begins();
             auto polled = pending->poll();
             for (; polled && !*polled; polled = pending->poll()) pending->wait();
             if (polled) std::get<Lease>(**polled).release();
             ends();
           },
       .before = [](Stage& stage) { stage.add_helper(hold_the_only_lease); },
       .at_mark =
           [](Stage& stage) {
             stage.add_helper(stand_behind);
             tell(stage, 0, "let go");
           },
       .after = next_in_line_is_granted},
      {.name = "set-parallel",
       .victim =
           [](const Stage& stage) {
             Pool pool = stage.attach();
             begins();
             must(pool.set("parallel", "1"));
             must(pool.set("parallel", "0"));
             ends();
           }},
      {.name = "spawn",
       .victim =
           [](const Stage& stage) {
             Pool pool = stage.attach();
             LoadTicket ticket = ticket_for(pool, kFresh);
             begins();
             must(ticket.spawn(kBackend));
             ends();
           }},
      {.name = "started",
       .victim =
           [](const Stage& stage) {
             Pool pool = stage.attach();
             LoadTicket ticket = ticket_for(pool, kFresh);
             begins();
             must(ticket.started(stage.bystander()));
             ends();
           },
       .before = [](Stage& stage) { stage.add_bystander(); }},
      {.name = "ready",
       .victim =
           [](const Stage& stage) {
             Pool pool = stage.attach();
             LoadTicket ticket = ticket_and_process(pool);
             begins();
             const auto lease = ticket.ready("127.0.0.1:1");
             ends();
           }},
      {.name = "fail",
       .victim =
           [](const Stage& stage) {
             Pool pool = stage.attach();
             LoadTicket ticket = ticket_and_process(pool);
             begins();
             must(ticket.fail("why not"));
             ends();
           }},
      {.name = "give-back",
       .victim =
           [](const Stage& stage) {
             Pool pool = stage.attach();
             LoadTicket ticket = ticket_and_process(pool);
             begins();
             must(ticket.give_back());
             ends();
           }},
      {.name = "reset",
       .victim =
           [](const Stage& stage) {
             Pool pool = stage.attach();
             must(ticket_for(pool, kFresh).fail("why not"));
             begins();
             must(pool.reset(kFresh));
             ends();
           }},
      {.name = "cancellable",
       .victim =
           [](const Stage& stage) {
             Pool pool = stage.attach();
             Lease lease = lease_on(pool, "resident");
             begins();
             must(lease.set_cancellable());
             lease.release();
             lease = lease_on(pool, "resident");
             ends();
           }},
      {.name = "touch",
       .victim =
           [](const Stage& stage) {
             Pool pool = stage.attach();
             begins();
             must(pool.touch("resident"));
             ends();
           }},
      {.name = "pin",
       .victim =
           [](const Stage& stage) {
             Pool pool = stage.attach();
             begins();
             must(pool.pin("resident"));
             ends();
           }},
      {.name = "keep-alive",
       .victim =
           [](const Stage& stage) {
             Pool pool = stage.attach();
             AcquireOptions options;
             options.keep_alive = std::chrono::hours(1);
             begins();
             const auto granted = pool.acquire("resident", seconds(5), options);
             ends();
           }},
      {.name = "set",
       .victim =
           [](const Stage& stage) {
             Pool pool = stage.attach();
             begins();
             must(pool.set("idle_timeout", "1h"));
             ends();
           },
       .after = settings_are_whole},
      {.name = "cut-output",
       .victim =
           [](const Stage& stage) {
             const Pool pool = stage.attach();
             const ModelLog log = model_log(stage);
             begins();
             static_cast<void>(log.cut(kOutputMax_bytes));
             ends();
           },
       .before = write_output,
       .after = output_is_whole},
      // What the coordinator does in its loop, without the rest of it: the program that measures
      // would live under the filter for its calls.
      {.name = "publish-sample",
       .victim =
           [](const Stage& stage) {
             measure(stage, begins);
             ends();
           },
       .before =
           [](Stage& stage) {
             write_sampler(stage);
             stage.add_helper(load_measured);
             stage.stop_judge();
           },
       .after = measured_anew},
  };
}

// --- The child that a worker starts --------------------------------------------------------------

std::vector<Operation> child_operations() {
  const auto spawn = [](const char* name, Operation::Dies dies, std::vector<std::string> argv) {
    return Operation{.name = name,
                     .victim =
                         [argv = std::move(argv)](const Stage& stage) {
                           Pool pool = stage.attach();
                           std::optional<LoadTicket> ticket = ticket_for(pool, kFresh);
                           begins();
                           if (!ticket->spawn(argv)) ticket.reset();
                           ends();
                         },
                     .dies = dies};
  };
  const std::vector<std::string> no_program{"/nowhere/to/be/found"};
  return {
      spawn("child", Operation::Dies::kChildAlone, kBackend),
      spawn("child-orphaned", Operation::Dies::kParentOfChild, kBackend),
      spawn("child-fails", Operation::Dies::kChildAlone, no_program),
      spawn("child-fails-orphaned", Operation::Dies::kParentOfChild, no_program),
  };
}

// --- The coordinator -----------------------------------------------------------------------------

void judge(const Stage& stage) {
  const auto loop = stage.make_judge();
  begins();
  loop->run();
}

void restarted_judge(const Stage& stage) {
  begins();
  stage.make_judge()->run();
}

// The lease that keeps a drain from its end is released when the slot is closed.
bool drained_for_next(Stage& stage) {
  if (is_in(stage, kFresh, BackendState::kEvicting)) stage.helper(0).say("release");
  return next_is_loading(stage);
}

std::string drained_for_next_after_all(Stage& stage) {
  stage.helper(0).say("release");
  return next_in_line_is_granted(stage);
}

void eventually_or_throw(const std::function<bool()>& condition, const char* what) {
  if (!eventually(condition)) throw std::runtime_error(std::string("it never came to: ") + what);
}

// --- Sets ----------------------------------------------------------------------------------------

// What a set of victims looked like when their judge died.
struct Remains {
  std::string half;  // the one that was closed and not stopped, while the other was stopped
  std::uint64_t reopenings = 0;
};

std::uint64_t reopenings(const Stage& stage) {
  std::uint64_t count = 0;
  for (const MeterSeries& series : read_meters(stage.segment())) {
    if (series.name == "modelpool_reopenings_total") count += series.value;
  }
  return count;
}

void note_remains(const Stage& stage, Remains* remains) {
  *remains = {};
  remains->reopenings = reopenings(stage);
  for (const std::size_t i : {0u, 1u}) {
    if (is_in(stage, kMates[i], BackendState::kStopping) &&
        is_in(stage, kMates[1 - i], BackendState::kEvicting))
      remains->half = kMates[1 - i];
  }
}

// The large one is granted, and what was left of its set was not opened before it went.
std::string set_has_gone_for(Stage& stage, const Remains& remains) {
  std::string wrong = next_in_line_is_granted(stage);
  if (!remains.half.empty() && reopenings(stage) != remains.reopenings)
    wrong += remains.half + " was opened again, and the other had gone for it to go";
  let_do([&] {
    Pool pool = stage.attach();
    let_take(pool, std::to_string(kLimit).c_str(), "off", "off");
  });
  return wrong;
}

// As a judge leaves it that is killed between the two stops of a set.
void leave_half_a_set(Stage& stage) {
  let_do([&] {
    const auto segment = stage.map();
    const Snapshot s = stage.look();
    const auto epoch = static_cast<std::uint32_t>(s.coordinator.identity.epoch);
    for (const std::string& model : kMates) {
      const BackendView* const b = find_model(s, model);
      StopRecord stop;
      stop.generation = b->ref.generation;
      stop.reason = Reason::kMemory;
      stop.decided_ns = stop.stopping_ns = now_ns();
      stop.for_arrival = s.waiters.at(0).arrival;
      segment->backend(b->ref.index).stop.publish(stop);
      if (!close_to_leases(*segment, b->ref, epoch)) throw std::runtime_error("it is not open");
    }
    commit_stop(*segment, find_model(s, kMates[0])->ref, epoch);
  });
}

std::vector<Operation> set_operations() {
  const auto remains = std::make_shared<Remains>();
  Operation end{
      .name = "end-set",
      .victim = judge,
      .before =
          [](Stage& stage) {
            stage.add_helper(load_mates);
            stage.add_helper(stand_in_line_with_much);
          },
      .at_mark = [](Stage& stage) { stage.helper(1).say("go on"); },
      .after = [=](Stage& stage) { return set_has_gone_for(stage, *remains); },
      .at_death = [=](Stage& stage) { note_remains(stage, remains.get()); },
      .is_over = [](Stage& stage) { return is_in(stage, kLarge, BackendState::kReserved); }};
  Operation restart = end;
  restart.name = "restart-set";
  restart.before = [=](Stage& stage) {
    end.before(stage);
    leave_half_a_set(stage);
  };
  return {end, restart};
}

std::vector<Operation> judge_operations() {
  const auto load_and_stand_in_line = [](auto load) {
    return [load](Stage& stage) {
      stage.add_helper(load);
      stage.add_helper(stand_in_line);
    };
  };
  const auto let_next_wait = [](Stage& stage) { stage.helper(1).say("go on"); };
  return {
      {.name = "evict",
       .victim = judge,
       .before = [](Stage& stage) { stage.add_helper(load_idle(kBackend)); },
       .at_mark = [](Stage& stage) { tell(stage, 0, "evict"); },
       .is_over = fresh_is_gone},
      {.name = "stop",
       .victim = judge,
       .before = [](Stage& stage) { stage.add_helper(load_idle(kStubborn)); },
       .at_mark = [](Stage& stage) { tell(stage, 0, "evict"); },
       .is_over = fresh_is_gone},
      // From the end of its processes until its place is free.
      {.name = "settle",
       .victim = judge,
       .before = [](Stage& stage) { stage.add_helper(load_on_device); },
       .at_mark = [](Stage& stage) { tell(stage, 0, "evict"); },
       .is_over = fresh_is_gone},
      {.name = "grant",
       .victim = judge,
       .before = load_and_stand_in_line(load_idle(kBackend)),
       .at_mark = let_next_wait,
       .after = next_in_line_is_granted,
       .is_over = next_is_loading},
      // To whom room is made on a device that is told where.
      {.name = "promise",
       .victim = judge,
       .before =
           [](Stage& stage) {
             stage.add_helper(load_idle(kBackend));
             stage.add_helper(stand_in_line_for_a_device);
           },
       .at_mark = let_next_wait,
       .after = next_in_line_is_granted,
       .is_over = next_is_loading},
      {.name = "drain",
       .victim = judge,
       .before = load_and_stand_in_line(load_busy),
       .at_mark = let_next_wait,
       .after = drained_for_next_after_all,
       .is_over = drained_for_next},
      {.name = "ask",
       .victim = judge,
       .before = [](Stage& stage) { stage.add_helper(hold_until_asked); },
       .at_mark = [](Stage& stage) { tell(stage, 0, "hold"); },
       .after = holder_was_told,
       .is_over = nobody_holds_anything},
      {.name = "reap-backend",
       .victim = judge,
       .before = [](Stage& stage) { stage.add_helper(load_idle(kBackend)); },
       .at_mark = [](Stage& stage) { kill(process_of_fresh(stage), SIGKILL); },
       .is_over = fresh_is_gone},
      {.name = "reap-load",
       .victim = judge,
       .before = [](Stage& stage) { stage.add_helper(start_loading); },
       .at_mark = [](Stage& stage) { kill(process_of_fresh(stage), SIGKILL); },
       .is_over = [](Stage& stage) { return is_in(stage, kFresh, BackendState::kGone); }},
      {.name = "evict-load",
       .victim = judge,
       .before = [](Stage& stage) { stage.add_helper(load_to_be_evicted); },
       .at_mark = [](Stage& stage) { tell(stage, 0, "evict"); },
       .is_over = [](Stage& stage) { return is_in(stage, kFresh, BackendState::kGone); }},
      {.name = "reap-worker",
       .victim = judge,
       .before = [](Stage& stage) { stage.add_helper(have_everything); },
       .at_mark = [](Stage& stage) { stage.helper(0).kill_now(); },
       .is_over = nothing_is_left},
      // What the coordinator before left: a worker that died, a stop and a drain under way.
      {.name = "restart",
       .victim = restarted_judge,
       .before =
           [](Stage& stage) {
             stage.add_helper(have_everything);
             stage.helper(0).kill_now();
           },
       .is_over = nothing_is_left},
      {.name = "restart-stop",
       .victim = judge,
       .before =
           [](Stage& stage) {
             stage.start_judge();
             stage.add_helper(load_idle(kStubborn));
             tell(stage, 0, "evict");
             eventually_or_throw([&] { return is_in(stage, kFresh, BackendState::kStopping); },
                                 "stopping");
             stage.kill_judge();
           },
       .is_over = fresh_is_gone},
      {.name = "restart-settle",
       .victim = judge,
       .before =
           [](Stage& stage) {
             stage.start_judge();
             stage.add_helper(load_on_device);
             tell(stage, 0, "evict");
             eventually_or_throw([&] { return fresh_settles(stage); }, "settling");
             stage.kill_judge();
           },
       .is_over = fresh_is_gone},
      {.name = "restart-drain",
       .victim = judge,
       .before =
           [=](Stage& stage) {
             stage.start_judge();
             load_and_stand_in_line(load_busy)(stage);
             let_next_wait(stage);
             eventually_or_throw([&] { return is_in(stage, kFresh, BackendState::kEvicting); },
                                 "evicting");
             stage.kill_judge();
           },
       .after = drained_for_next_after_all,
       .is_over = drained_for_next},
  };
}

// --- The victim stands still ---------------------------------------------------------------------

constexpr std::uint64_t kIdle_ns = 10 * kMillisecond_ns;

// Loads a model that is to be evicted when it was idle for kIdle_ns.
void load_to_idle(Pool& pool, Forked::Child& child) {
  LoadTicket ticket = ticket_and_process(pool);
  ReadyOptions options;
  options.overrides.set(Setting::kIdleTimeout, kIdle_ns);
  ticket.ready("127.0.0.1:1", options)->release();
  child.say("loaded");
  child.hear();
}

std::optional<Lease> lease_at_once(Pool& pool) {
  auto granted = pool.acquire(kFresh, seconds(0));
  if (granted && std::holds_alternative<Lease>(*granted)) {
    return std::move(std::get<Lease>(*granted));
  }
  return std::nullopt;
}

// The coordinator looks three times and more, and the lease is good (P2).
void keep_through_scans(Pool& pool, Lease& lease) {
  const Word& scans = segment_of(pool).coordinator().scans;
  const std::uint64_t enough = scans.load() + 3;
  eventually([&] {
    ring(segment_of(pool));
    return scans.load() >= enough;
  });
  if (auto ok = lease.progress(); !ok) throw std::runtime_error(ok.error().text);
}

void hold_a_lease(Pool& pool, Meeting& meeting) {
  std::optional<Lease> lease = lease_at_once(pool);
  meeting.rest();
  if (lease) keep_through_scans(pool, *lease);
}

// Uses the model; then it is idle anew, and not evicted sooner than kIdle_ns after (P8).
void use_once(Pool& pool, Meeting& meeting) {
  const auto slot = find_backend(segment_of(pool), kFresh);
  std::optional<Lease> lease = lease_at_once(pool);
  const std::uint64_t used_ns = now_ns();
  if (!lease) return;
  lease->release();
  meeting.rest();
  const BackendRecord& record = segment_of(pool).backend(slot->ref.index);
  eventually([&] {
    return load_state(segment_of(pool), slot->ref.index).generation != slot->ref.generation;
  });
  const std::uint64_t stopped_ns = record.stop.load().stopping_ns;
  if (stopped_ns < used_ns + kIdle_ns) {
    throw std::runtime_error("evicted " + format_age(age_ns(stopped_ns, used_ns)) +
                             " after its use");
  }
}

// What a living judge has closed stays closed, what it has not can be leased (P2, P5).
void ask_during_drain(Pool& pool, Meeting& meeting) {
  const auto found = find_backend(segment_of(pool), kFresh);
  std::optional<Lease> lease = lease_at_once(pool);
  if (lease && found->state.state == BackendState::kEvicting) {
    throw std::runtime_error("what a living judge has closed was leased");
  }
  meeting.rest();
  if (lease) keep_through_scans(pool, *lease);
}

// Two ask for one model: one loads it, and what it loaded is good (P4).
void ask_for_the_same(Pool& pool, Meeting& meeting) {
  auto granted = pool.acquire(kFresh, seconds(0));
  meeting.rest();
  if (!granted || !std::holds_alternative<LoadTicket>(*granted)) return;
  ReadyOptions external;
  external.external = true;
  if (auto lease = std::get<LoadTicket>(*granted).ready("127.0.0.1:1", external); !lease) {
    throw std::runtime_error(lease.error().text);
  }
}

// The victim may stand anywhere in being counted, with the mutex too: this one waits for it, and is
// granted in the end (P6).
void ask_for_a_counted_one(Pool& pool, Meeting& meeting) {
  auto pending = pool.begin_acquire("resident", kPatience);
  auto polled = pending->poll();
  meeting.rest();
  for (; polled && !*polled; polled = pending->poll()) pending->wait();
  if (!polled) throw std::runtime_error(polled.error().text);
}

// It is being loaded: there is nothing to be had, or a lease (P4).
void ask_while_loading(Pool& pool, Meeting& meeting) {
  auto pending = pool.begin_acquire(kFresh, kPatience);
  auto polled = pending->poll();
  meeting.rest();
  while (polled && !*polled) {
    pending->wait();
    polled = pending->poll();
  }
  if (!polled) throw std::runtime_error(polled.error().text);
  if (auto* lease = std::get_if<Lease>(&**polled)) must(lease->progress());
}

// The head of the line does not take the place: it is passed over.
void pass_over(Pool& pool, Meeting& meeting) {
  auto granted = pool.acquire("behind", seconds(10));
  if (!granted) throw std::runtime_error(granted.error().text);
  meeting.rest();
}

const Operation& find(const std::vector<Operation>& list, const std::string& name) {
  for (const Operation& operation : list) {
    if (operation.name == name) return operation;
  }
  throw std::runtime_error("no operation " + name);
}

std::vector<Operation> standing_operations() {
  const auto workers = worker_operations();
  const auto judges = judge_operations();
  const auto with = [](Operation operation, const char* name, auto other) {
    operation.name = name;
    operation.places = Places::kBothSidesOfStores;
    operation.other = other;
    return operation;
  };
  const Operation idle{.name = "idle",
                       .victim = judge,
                       .before = [](Stage& stage) { stage.add_helper(load_to_idle); },
                       .is_over = fresh_is_gone};
  Operation head = with(find(workers, "take-place"), "take-place/pass-over", pass_over);
  head.at_mark = last_place_is_let_go;
  head.after = nullptr;
  head.stands_long = true;
  return {
      with(idle, "evict/hold", hold_a_lease),
      with(idle, "evict/use", use_once),
      with(find(judges, "drain"), "drain/ask", ask_during_drain),
      with(find(workers, "ticket"), "ticket/ask", ask_for_the_same),
      with(find(workers, "counted-lease"), "counted-lease/ask", ask_for_a_counted_one),
      with(find(workers, "spawn"), "spawn/ask", ask_while_loading),
      with(find(workers, "ready"), "ready/ask", ask_while_loading),
      head,
  };
}

}  // namespace

const std::vector<Operation>& operations() {
  static const std::vector<Operation> all = [] {
    std::vector<Operation> list;
    for (auto group : {lease_operations, worker_operations, child_operations, judge_operations,
                       set_operations, standing_operations}) {
      for (Operation& operation : group()) list.push_back(std::move(operation));
    }
    return list;
  }();
  return all;
}

}  // namespace modelpool::test
