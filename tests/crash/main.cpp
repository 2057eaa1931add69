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
  long recoveries = 0;  // survivors that were told of a mutex whose owner had died
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

// One kill. Returns whether the operation had such a place; beyond the last it is killed at its
// end.
bool kill_at(Stage& stage, const Operation& operation, Places places, long place, Tally* tally) {
  stage.start_judge();
  if (operation.before) operation.before(stage);
  Victim victim(stage.segment_path(), [&] { operation.victim(stage); });
  if (victim.run_to_mark() != Victim::Stop::kMark) {
    throw std::runtime_error("the victim did not come to its operation: " + victim.where());
  }
  if (operation.at_mark) operation.at_mark(stage);
  victim.choose(places);
  Victim::Stop stop = Victim::Stop::kMark;
  for (long i = 0; i <= place; ++i) {
    stop = victim.next_place(kPatience);
    if (stop != Victim::Stop::kPlace) break;
  }
  if (stop != Victim::Stop::kPlace && stop != Victim::Stop::kMark) {
    throw std::runtime_error("the victim did not come to place " + std::to_string(place) + ": " +
                             victim.where());
  }
  const std::string where = victim.where();
  victim.kill_here();
  const std::string unmet = operation.after ? operation.after(stage) : "";
  stage.dismiss();
  Stage::Aftermath found = stage.examine("fresh");
  if (!unmet.empty()) found.failure = unmet;
  ++tally->kills;
  tally->recoveries += found.owner_died;
  tally->slowest = std::max(tally->slowest, found.next_took);
  if (!found.failure.empty()) {
    ++tally->failures;
    std::printf("%s: killed at place %ld (%s): %s\n", operation.name.c_str(), place, where.c_str(),
                found.failure.c_str());
  }
  return stop == Victim::Stop::kPlace;
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
