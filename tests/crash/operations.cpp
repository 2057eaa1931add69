#include "crash/operations.hpp"

#include <unistd.h>

#include <stdexcept>

namespace modelpool::test {
namespace {

using std::chrono::seconds;

// The operation begins and ends here.
void begins() { mark(); }
void ends() { mark(); }

std::vector<Operation> lease_operations() {
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
      {"lock", Places::kEveryInstruction,
       [](const Stage& stage) {
         const auto segment = stage.map();
         begins();
         { const auto lock = segment->lock_structure(); }
         ends();
       }},
      {"recover", Places::kEveryInstruction,
       [](const Stage& stage) {
         const auto segment = stage.map();
         begins();
         { const auto lock = segment->lock_structure(); }
         ends();
       },
       // The mutex has a dead owner: the victim is the one who recovers it.
       [](Stage& stage) {
         Forked([&](Forked::Child&) {
           const auto segment = stage.map();
           const auto lock = segment->lock_structure();
           _exit(0);
         }).wait();
       }},
  };
}

}  // namespace

const std::vector<Operation>& operations() {
  static const std::vector<Operation> all = [] {
    std::vector<Operation> list;
    for (auto group : {lease_operations}) {
      for (Operation& operation : group()) list.push_back(std::move(operation));
    }
    return list;
  }();
  return all;
}

}  // namespace modelpool::test
