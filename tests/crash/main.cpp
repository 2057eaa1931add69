// Kills a victim at every place of an operation, once per place, and examines what the survivors
// find (P2, P3, P4, P6, P7, P10).
//
//   crash_sweep --list
//   crash_sweep --operation lease-begin            all its places
//   crash_sweep --operation lease-begin --place 17   that kill alone
//   crash_sweep --operation attach --every         every instruction instead of its usual places
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <optional>
#include <string>

#include "crash/operations.hpp"

namespace {

using namespace modelpool::test;  // NOLINT: the program's own names

struct Tally {
  long places = 0;  // reached, over all runs
  long kills = 0;
  long recoveries = 0;  // kills that left the mutex with a dead owner
  long failures = 0;
  std::chrono::nanoseconds slowest{};  // next operation of another process

  void add(const Tally& other) {
    places += other.places;
    kills += other.kills;
    recoveries += other.recoveries;
    failures += other.failures;
    slowest = std::max(slowest, other.slowest);
  }
  void print(const std::string& name) const {
    std::printf(
        "%-16s places %6ld  kills %6ld  recoveries %4ld  slowest next operation %6.1f ms  failures "
        "%ld\n",
        name.c_str(), places, kills, recoveries,
        std::chrono::duration<double, std::milli>(slowest).count(), failures);
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

// One kill. Returns whether the operation had such a place; beyond the last it is killed at its
// end.
bool kill_at(Stage& stage, const Operation& operation, Places places, long place, Tally* tally) {
  if (operation.is_over) {
    stage.stop_judge();
  } else {
    stage.start_judge();
  }
  if (operation.before) operation.before(stage);
  Victim victim(stage.segment_path(), [&] { operation.victim(stage); });
  if (victim.run_to_mark() != Victim::Stop::kMark) {
    throw std::runtime_error("the victim did not come to its operation: " + victim.where());
  }
  if (operation.at_mark) operation.at_mark(stage);
  victim.choose(places);
  const bool reached = advance(stage, operation, victim, place);
  const std::string where = victim.where();
  victim.kill_here();
  tally->recoveries += stage.mutex_owner_died();
  stage.start_judge();
  const std::string unmet = operation.after ? operation.after(stage) : "";
  Stage::Aftermath found = stage.examine("fresh");
  if (!unmet.empty()) found.failure = unmet;
  ++tally->kills;
  tally->slowest = std::max(tally->slowest, found.next_took);
  if (!found.failure.empty()) {
    ++tally->failures;
    std::printf("%s: killed at place %ld (%s): %s\n", operation.name.c_str(), place, where.c_str(),
                found.failure.c_str());
  }
  return reached;
}

Tally sweep(const Operation& operation, bool every, std::optional<long> only) {
  constexpr long kFailuresShown = 3;
  Tally tally;
  const Places places = every ? Places::kEveryInstruction : operation.places;
  auto stage = std::make_unique<Stage>();
  if (only) {
    kill_at(*stage, operation, places, *only, &tally);
    return tally;
  }
  for (long place = 0; kill_at(*stage, operation, places, place, &tally); ++place) {
    ++tally.places;
    if (tally.failures >= kFailuresShown) break;
  }
  return tally;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Kills a victim at every place of an operation and examines what the survivors find.");
  std::vector<std::string> names;
  std::vector<std::string> known;
  for (const Operation& operation : operations()) known.push_back(operation.name);
  bool list = false;
  bool every = false;
  std::optional<long> place;
  app.add_option("--operation", names, "Which ones; default: all")->check(CLI::IsMember(known));
  app.add_option("--place", place, "Only this kill");
  app.add_flag("--every", every, "Every instruction is a place, whatever the operation");
  app.add_flag("--list", list, "Print the operations");
  CLI11_PARSE(app, argc, argv);

  Tally total;
  for (const Operation& operation : operations()) {
    if (list) {
      std::puts(operation.name.c_str());
      continue;
    }
    if (!names.empty() && std::ranges::count(names, operation.name) == 0) continue;
    try {
      const Tally tally = sweep(operation, every, place);
      tally.print(operation.name);
      total.add(tally);
    } catch (const std::exception& e) {
      std::printf("%s: %s\n", operation.name.c_str(), e.what());
      ++total.failures;
    }
  }
  if (list) return 0;
  total.print("total");
  return total.failures == 0 ? 0 : 1;
}
