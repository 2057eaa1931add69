// What a thread knows of the models it used.
//
// Safety: one thread each; nothing is shared.
#pragma once

#include <algorithm>
#include <new>
#include <vector>

#include "protocol/leases.hpp"

namespace modelpool {

// Where this thread last found a model: a lease on it then needs no scan of the slots. An entry is
// a hint: begin_lease validates its generation, and then the lease pins the name to be compared.
// Open addressing; grows with the models in use, and starts anew when it is as large as makes
// sense.
class KnownModels {
 public:
  // The model with this hash, as this worker knows it.
  static std::uint64_t key(const Worker& worker, std::uint64_t hash) {
    return (hash ^ worker.serial() << 32) | 1;  // not 0: that is an empty entry
  }
  const BackendRef* find(std::uint64_t key) {
    if (entries_.empty()) return nullptr;
    const Entry& entry = place(key);
    return entry.ref.generation == 0 ? nullptr : &entry.ref;
  }
  void forget(std::uint64_t key) {
    if (!entries_.empty()) place(key).ref = BackendRef{};
  }
  void put(std::uint64_t key, BackendRef ref) {
    if (2 * (used_ + 1) > entries_.size() && !grow()) return;
    Entry& entry = place(key);
    used_ += entry.key == 0;
    entry = {key, ref};
  }

 private:
  static constexpr std::size_t kFirst = 64;
  static constexpr std::size_t kMost = 4 * (std::size_t{kBackendsMax} + 1);
  struct Entry {
    std::uint64_t key = 0;
    BackendRef ref;
  };

  // Its entry, or the empty one where it belongs: at least half of them are empty.
  Entry& place(std::uint64_t key) {
    const std::size_t mask = entries_.size() - 1;
    std::size_t i = (key >> 1) & mask;
    while (entries_[i].key != 0 && entries_[i].key != key) i = (i + 1) & mask;
    return entries_[i];
  }
  // False without memory: then what it knows is all it will know. The caller has its lease already.
  bool grow() {
    std::vector<Entry> old;
    try {
      old.resize(entries_.empty() ? kFirst : std::min(2 * entries_.size(), kMost));
    } catch (const std::bad_alloc&) {
      return false;
    }
    old.swap(entries_);
    used_ = 0;
    if (old.size() == kMost) return true;
    for (const Entry& entry : old) {
      if (entry.key != 0) put(entry.key, entry.ref);
    }
    return true;
  }

  std::vector<Entry> entries_;
  std::size_t used_ = 0;
};

// Null while the thread ends: what else is thread-local may still end leases and begin some.
inline KnownModels* known_models() {
  constinit thread_local static bool ending = false;
  struct Owner {
    KnownModels models;
    ~Owner() { ending = true; }
  };
  if (ending) [[unlikely]] {
    return nullptr;
  }
  thread_local Owner owner;
  return &owner.models;
}

}  // namespace modelpool
