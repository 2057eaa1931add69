// Kills a victim at every place of an operation, once per place, and examines what the survivors
// find (P2, P3, P4, P6, P7, P10).
//
//   crash_sweep --list
//   crash_sweep --operation lease-begin            all its places
//   crash_sweep --operation lease-begin --place 17   that kill alone
//   crash_sweep --operation attach --every         every instruction instead of its usual places
//   crash_sweep --operation reap-load --one-in 3   a third of its places: those of today
#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <string>

#include "base/number.hpp"
#include "crash/operations.hpp"
#include "flags/flags.hpp"

namespace {

using namespace modelpool::test;  // NOLINT: the program's own names

struct Tally {
  long places = 0;  // reached, over all runs
  long kills = 0;
  long recoveries = 0;  // kills that left the mutex with a dead owner
  std::vector<std::string> failures;
  std::chrono::nanoseconds slowest{};  // next operation of another process

  void add(const Tally& other) {
    places += other.places;
    kills += other.kills;
    recoveries += other.recoveries;
    failures.insert(failures.end(), other.failures.begin(), other.failures.end());
    slowest = std::max(slowest, other.slowest);
  }
  void print(const std::string& name) const {
    std::printf(
        "%-16s places %6ld  kills %6ld  recoveries %4ld  slowest next operation %6.1f ms  failures "
        "%ld\n",
        name.c_str(), places, kills, recoveries,
        std::chrono::duration<double, std::milli>(slowest).count(), failures.size());
    std::fflush(stdout);
  }
};

// Takes the victim to a place. False if the operation was over before.
bool advance(Stage& stage, const Operation& operation, Victim& victim, long place) {
  // A coordinator that was quiet for so long waits for something.
  const std::chrono::milliseconds quiet =
      operation.is_over ? std::chrono::milliseconds(3) : kPatience;
  const auto until = std::chrono::steady_clock::now() + kPatience;
  for (long i = 0; i <= place;) {
    switch (victim.next_place(quiet)) {
      case Victim::Stop::kPlace:
        ++i;
        break;
      case Victim::Stop::kMark:
        return false;
      case Victim::Stop::kQuiet:
        if (operation.is_over && operation.is_over(stage)) return false;
        if (std::chrono::steady_clock::now() < until) break;
        [[fallthrough]];
      case Victim::Stop::kEnded:
        throw std::runtime_error("the operation did not come to its end: " + victim.where());
    }
  }
  return true;
}

std::unique_ptr<Victim> begin(Stage& stage, const Operation& operation, Places places) {
  // A judge would find an orphan that nothing ended by itself.
  if (operation.is_over || operation.dies == Operation::Dies::kParentOfChild) {
    stage.stop_judge();
  } else {
    stage.start_judge();
  }
  if (operation.before) operation.before(stage);
  const auto places_of = operation.dies == Operation::Dies::kVictim ? PlacesOf::kVictim
                         : operation.dies == Operation::Dies::kChildAlone
                             ? PlacesOf::kItsChild
                             : PlacesOf::kItsChildFirst;
  auto victim = std::make_unique<Victim>(
      stage.segment_path(), [&] { operation.victim(stage); }, places_of,
      operation.is_over == nullptr);
  if (victim->run_to_mark() != Victim::Stop::kMark) {
    throw std::runtime_error("the victim did not come to its operation: " + victim->where());
  }
  if (operation.at_mark) operation.at_mark(stage);
  victim->choose(places);
  return victim;
}

// Another process runs while the victim stands still, then both go on to their ends. Returns what
// was wrong.
std::string let_other_run(Stage& stage, const Operation& operation, Victim& victim) {
  SharedMemory<Meeting> meeting;
  Forked other([&](Forked::Child& child) {
    try {
      modelpool::Pool pool = stage.attach();
      operation.other(pool, *meeting.operator->());
    } catch (const std::exception& e) {
      child.say(e.what());
    }
  });
  const auto other_rests = [&] { return meeting->rests() || !is_running(other.pid()); };
  // Where the victim has the mutex the other cannot come to rest.
  eventually(other_rests, operation.stands_long ? std::chrono::nanoseconds(kPatience)
                                                : std::chrono::milliseconds(20));
  std::string wrong = stage.contradictions();
  meeting->go_on();
  const auto both_are_done = [&] {
    const Victim::Stop stop = victim.run_on(std::chrono::milliseconds(3));
    if (stop == Victim::Stop::kMark) victim.kill_here();
    const bool over = operation.is_over ? operation.is_over(stage) : stop == Victim::Stop::kEnded;
    wrong += stage.contradictions();
    return over && !is_running(other.pid());
  };
  if (!eventually(both_are_done)) wrong += "they do not come to an end; ";
  other.signal(SIGTERM);
  return wrong + other.hear();
}

// The child is dead, its parent lives: it comes to its end, and meanwhile nobody who wants the
// model waits in vain. Returns what was wrong.
std::string let_parent_live(Stage& stage, Victim& victim) {
  victim.kill_child();
  if (victim.run_on(kPatience) != Victim::Stop::kMark) {
    return "its parent does not come to its end: " + victim.where();
  }
  Forked next([&](Forked::Child& child) {
    modelpool::Pool pool = stage.attach();
    // A failed load is an answer too; its cool-down is short here.
    child.say(eventually([&] { return pool.acquire("fresh", std::chrono::seconds(5)).has_value(); })
                  ? "got it"
                  : "nobody else gets the model");
  });
  const std::string said = next.hear();
  return said == "got it" ? "" : said + "; ";
}

// One kill, or one stop. Returns whether the operation had such a place; beyond the last is its
// end.
bool visit(Stage& stage, const Operation& operation, Places places, long place, Tally* tally) {
  const auto victim = begin(stage, operation, places);
  const bool reached = advance(stage, operation, *victim, place);
  const std::string where = victim->where();
  std::string failure;
  if (operation.other && reached) failure = let_other_run(stage, operation, *victim);
  if (operation.dies == Operation::Dies::kChildAlone && reached) {
    failure = let_parent_live(stage, *victim);
  }
  if (operation.dies == Operation::Dies::kParentOfChild && reached) {
    victim->kill_parent();
    if (!eventually([&] { return stage.unrecorded().empty(); }, stage.patience())) {
      failure = stage.unrecorded();
    }
  } else {
    victim->kill_here();
  }
  tally->places += reached;
  ++tally->kills;
  tally->recoveries += stage.mutex_owner_died();
  if (operation.at_death) operation.at_death(stage);
  stage.start_judge();
  if (failure.empty() && operation.after) failure = operation.after(stage);
  const Stage::Aftermath found = stage.examine("fresh");
  if (failure.empty()) failure = found.failure;
  tally->slowest = std::max(tally->slowest, found.next_took);
  if (!failure.empty()) {
    tally->failures.push_back(operation.name + ": place " + std::to_string(place) + " (" + where +
                              "): " + failure);
    std::puts(tally->failures.back().c_str());
  }
  return reached;
}

struct Chosen {
  std::vector<std::string> operations;
  bool list = false;
  bool every = false;
  std::optional<long> place;
  long one_in = 1;
  std::string must_fail;
};

// Of each `one_in` places one, each day the next: a run again sees the same, some days see them
// all.
long first_place(long one_in) {
  const auto today = std::chrono::floor<std::chrono::days>(std::chrono::system_clock::now());
  return static_cast<long>(today.time_since_epoch().count()) % one_in;
}

Tally sweep(const Operation& operation, const Chosen& chosen) {
  const std::size_t failures_shown = chosen.must_fail.empty() ? 3 : 1;
  Tally tally;
  const Places places = chosen.every ? Places::kEveryInstruction : operation.places;
  auto stage =
      std::make_unique<Stage>(chosen.must_fail.empty() ? kPatience : std::chrono::seconds(5));
  if (chosen.place) {
    if (!visit(*stage, operation, places, *chosen.place, &tally)) {
      std::puts("there is no such place: it was killed at the operation's end");
    }
    return tally;
  }
  const long first = operation.stands_long ? 0 : first_place(chosen.one_in);
  for (long place = first; visit(*stage, operation, places, place, &tally);
       place += chosen.one_in) {
    if (operation.stands_long || tally.failures.size() >= failures_shown) break;
  }
  if (tally.places == 0) tally.failures.push_back(operation.name + ": no place was reached");
  return tally;
}

}  // namespace

int main(int argc, char** argv) {
  // Judges under test start no further process.
  setenv("MODELPOOL_SAMPLE", "/nonexistent/modelpool-sample", 1);
  Chosen chosen;
  modelpool::Flags flags(
      "Kills a victim at every place of an operation and examines what the survivors find.",
      "crash_sweep");
  flags.take_each(
      "--operation", "NAME",
      [&chosen](const std::string& text) -> modelpool::Result<> {
        const auto is_it = [&](const Operation& operation) { return operation.name == text; };
        if (std::ranges::none_of(operations(), is_it)) {
          return modelpool::fail(modelpool::Errc::kInvalid,
                                 "there is no operation \"" + text + "\"; --list names them");
        }
        chosen.operations.push_back(text);
        return {};
      },
      "which ones [all]");
  flags.take(
      "--place", "N",
      [&chosen](const std::string& text) -> modelpool::Result<> {
        const auto place = modelpool::parse_count(text, INT32_MAX);
        if (!place) return modelpool::fail(place.error());
        chosen.place = static_cast<long>(*place);
        return {};
      },
      "only this kill");
  flags.take(
      "--one-in", "N",
      [&chosen](const std::string& text) -> modelpool::Result<> {
        const auto one_in = modelpool::parse_count(text, 1000);
        if (!one_in) return modelpool::fail(one_in.error());
        chosen.one_in = std::max(1L, static_cast<long>(*one_in));
        return {};
      },
      "one of so many places, each day the next [1]");
  flags.add("--every", "", &chosen.every, "every instruction is a place, whatever the operation");
  flags.add("--list", "", &chosen.list, "print the operations");
  flags.add("--must-fail", "TEXT", &chosen.must_fail,
            "of a broken variant: succeed if a failure is found whose text contains this");
  if (const auto code = flags.parse_or_end(argc, argv)) return *code;

  Tally total;
  for (const Operation& operation : operations()) {
    if (chosen.list) {
      std::puts(operation.name.c_str());
      continue;
    }
    if (!chosen.operations.empty() && std::ranges::count(chosen.operations, operation.name) == 0) {
      continue;
    }
    try {
      const Tally tally = sweep(operation, chosen);
      tally.print(operation.name);
      total.add(tally);
    } catch (const std::exception& e) {
      total.failures.push_back(operation.name + ": " + e.what());
      std::puts(total.failures.back().c_str());
    }
  }
  if (chosen.list) return 0;
  total.print("total");
  if (chosen.must_fail.empty()) return total.failures.empty() ? 0 : 1;
  const bool caught = std::ranges::any_of(total.failures, [&](const std::string& failure) {
    return failure.find(chosen.must_fail) != std::string::npos;
  });
  std::puts(caught ? "caught, as it must be" : "NOT CAUGHT: this sweep proves nothing");
  return caught ? 0 : 1;
}
