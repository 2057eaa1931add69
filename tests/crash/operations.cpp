#include "crash/operations.hpp"

#include <unistd.h>

#include <stdexcept>

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
  return ticket;
}

// --- What helpers do -----------------------------------------------------------------------------

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

// Stands in line for a place, and waits for it when told to.
void stand_in_line(Pool& pool, Forked::Child& child) {
  auto pending = pool.begin_acquire("behind", kPatience);
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

std::string next_in_line_is_granted(Stage& stage) {
  stage.helper(1).say("go on");
  const std::string said = stage.helper(1).hear();
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
       .before = [](Stage& stage) { stage.add_helper(take_last_place); }},
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
      {.name = "set",
       .victim =
           [](const Stage& stage) {
             Pool pool = stage.attach();
             begins();
             must(pool.set("idle_timeout", "1h"));
             ends();
           }},
  };
}

}  // namespace

const std::vector<Operation>& operations() {
  static const std::vector<Operation> all = [] {
    std::vector<Operation> list;
    for (auto group : {lease_operations, worker_operations}) {
      for (Operation& operation : group()) list.push_back(std::move(operation));
    }
    return list;
  }();
  return all;
}

}  // namespace modelpool::test
