// The library's shared words, one order too weak: a seq_cst store is a release store, as it would
// be if somebody "optimised" it. Everything else is std::atomic. For litmus_weak (CMakeLists.txt).
#pragma once

#include <atomic>
#include <cstdint>

namespace modelpool {

template <class T>
class WeakWord : public std::atomic<T> {
 public:
  using std::atomic<T>::atomic;
  void store(T value, std::memory_order order) {
    std::atomic<T>::store(value,
                          order == std::memory_order_seq_cst ? std::memory_order_release : order);
  }
};
using Word = WeakWord<std::uint64_t>;
using HalfWord = WeakWord<std::uint32_t>;

}  // namespace modelpool
