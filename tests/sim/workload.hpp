// What a simulated pool lives through: how many workers and models, how often what happens, and how
// long it takes. A workload is a value; a world (world.hpp) and a seed make a history of it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/time.hpp"
#include "modelpool/settings.hpp"

namespace modelpool::sim {

// A length of time is drawn from here, each order of magnitude as likely as any other.
struct Span {
  std::uint64_t least_ns = 0;
  std::uint64_t most_ns = 0;  // 0: it never happens
};

struct Workload {
  std::string name;
  Settings settings;  // at first
  std::uint32_t workers = 5;
  std::uint32_t models = 7;  // the first is asked for most

  std::uint32_t groups = 0;        // of models: each is in one of them, every third in two
  std::uint32_t devices = 0;       // each model is put on one, every fourth on two
  std::uint64_t device_bytes = 0;  // that each has

  // Requests.
  std::uint32_t requests_most = 24;  // at once; who comes then goes away
  Span between_requests;
  Span service;
  Span first_progress;    // of a request, as long as it takes to read its prompt
  Span between_progress;  // from then on; without the one before: from its start on
  Span patience;          // until a waiter's deadline
  double hangs = 0;       // a request that never ends
  double stalls = 0;      // one without any progress
  double own_limit = 0;   // one with a limit of its own
  double bursts = 0;      // one that comes while the coordinator is between looking and acting

  // Loads.
  Span load;
  double external = 0;       // no process of ours
  double load_exits = 0;     // its process ends before it is ready
  double load_gives_up = 0;  // its worker says fail
  double load_hangs = 0;
  double own_settings = 0;  // `ready` gives a backend an idle timeout of its own

  // Ends.
  Span stops_in;            // after the stop signal
  double ignores_stop = 0;  // needs SIGKILL
  double unkillable = 0;    // for a day
  double leaves_child = 0;  // a process of its group outlives the first one

  // What else happens.
  Span between_crashes;
  Span between_worker_deaths;
  Span between_judge_deaths;
  Span judge_away;
  Span between_settings;
  Span between_controls;  // pins, unpins, evictions, forced or not

  std::uint64_t stamp_resolution_ns = kMillisecond_ns;
  // What no waiter at the head of the line may exceed (P5); 0: nothing is promised.
  std::uint64_t head_waits_most_ns = 0;
};

// "busy": all that can happen, often; "lru": with the least recently used going first, at once;
// "memory": bytes run short instead of places; "placed": bytes of two devices and loads at once,
// and models share groups. "force", "drain", "placed-fairly": what P5 promises an end for.
// "quiet": a small office; years pass quickly. "slow": long prompts and slow streams, all alive.
const std::vector<Workload>& workloads();
const Workload& workload(std::string_view name);  // aborts if there is none

}  // namespace modelpool::sim
