// Runs a few functions of the library in every order their accesses to chosen words can take, and
// with every value a load may return under C++'s memory orders. Of orders that differ only in steps
// that have nothing to do with each other, one is run.
//
// The machine: each word has the list of its values, oldest first. Each thread has a view: for each
// word, the oldest value it may still read. A load returns any value from there on; so a store is
// as good as delayed, for any reader, until something forbids it:
//  - acquire loads take over the view that a release store wrote beside its value;
//  - a seq_cst load reads the latest seq_cst store to its word, or a later value;
//  - a read-modify-write that changes something reads the last value.
// This is release/acquire plus the total order of seq_cst accesses; x86 (TSO) allows less, and
// every store-buffering outcome it does allow is among these. Not explored: a load that returns
// what is stored only later (load buffering, which acquire loads forbid on every machine), and
// relaxed stores to one word by two threads that become visible against their order of execution.
//
// Safety: one thread. The functions run on stacks of their own, one at a time.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "explored_words.hpp"

namespace modelpool::model {

struct Explored {
  template <class T>
  Explored(const ExploredWord<T>& explored, std::string its_name)
      : word(&explored),
        name(std::move(its_name)),
        now([&explored] { return std::uint64_t{explored.load(std::memory_order_seq_cst)}; }) {}

  const void* word;
  std::string name;
  std::function<std::uint64_t()> now;  // its value, outside of an exploration
};

struct Scenario {
  std::string name;
  std::vector<Explored> words;
  std::function<void()> begin;  // makes the words' first values
  std::vector<std::function<void()>> threads;
  std::function<bool()> went_wrong;   // looked at when all threads have ended
  std::function<void()> end = [] {};  // takes back what the threads have
  // What must come about in some execution, or the scenario shows nothing: each side of the race
  // won.
  struct Outcome {
    std::string name;
    std::function<bool()> came_about;
  };
  std::vector<Outcome> outcomes;
};

struct Exploration {
  std::uint64_t executions = 0;
  bool violated = false;
  std::string steps;            // of the execution that went wrong
  std::set<std::string> sites;  // every seq_cst access that was met: "function access word"
  std::set<std::string> outcomes;
};

// One of the orders that come to the same, or all of them: the same is found a hundred times later.
enum class Orders { kOneOfEachKind, kAll };

// Stops at the first execution that goes wrong. `weakened` is one of the sites: its seq_cst becomes
// acquire, release or both.
Exploration explore(const Scenario& scenario, const std::string& weakened = "",
                    Orders orders = Orders::kOneOfEachKind);

}  // namespace modelpool::model
