// The library's shared words, explored: layout.hpp includes this instead of std::atomic when
// tests/model/orders_test.cpp is built. A word that is not under exploration is a plain
// std::atomic.
#pragma once

#include <atomic>
#include <cstdint>

namespace modelpool::model {

enum class Access { kLoad, kStore, kChange };
// Where in the library's code an access stands.
struct Site {
  const char* function;
  const char* file;
};

// Implemented by explorer.cpp. False: this word is not explored now; what it is accessed for is
// noted.
bool is_explored(const void* word, Access access);
std::uint64_t explored_load(const void* word, std::memory_order order, Site site);
void explored_store(const void* word, std::uint64_t value, std::memory_order order, Site site);
// A CAS. Returns whether it took place.
bool explored_change(const void* word, std::uint64_t* expected, std::uint64_t value,
                     std::memory_order order, Site site);
// Returns what was there before.
std::uint64_t explored_add(const void* word, std::uint64_t value, std::memory_order order,
                           Site site);

template <class T>
class ExploredWord {
 public:
  static constexpr bool is_always_lock_free = std::atomic<T>::is_always_lock_free;

  ExploredWord() = default;
  constexpr ExploredWord(T value) : raw_(value) {}  // NOLINT: implicit, as std::atomic's

  T load(std::memory_order order, const char* function = __builtin_FUNCTION(),
         const char* file = __builtin_FILE()) const {
    if (!is_explored(this, Access::kLoad)) return raw_.load(order);
    return static_cast<T>(explored_load(this, order, {function, file}));
  }
  void store(T value, std::memory_order order, const char* function = __builtin_FUNCTION(),
             const char* file = __builtin_FILE()) {
    if (is_explored(this, Access::kStore)) explored_store(this, value, order, {function, file});
    raw_.store(value, order);
  }
  bool compare_exchange_strong(T& expected, T value, std::memory_order order,
                               const char* function = __builtin_FUNCTION(),
                               const char* file = __builtin_FILE()) {
    if (!is_explored(this, Access::kChange))
      return raw_.compare_exchange_strong(expected, value, order);
    std::uint64_t wide = expected;
    const bool changed = explored_change(this, &wide, value, order, {function, file});
    if (changed) raw_.store(value, std::memory_order_relaxed);
    expected = static_cast<T>(wide);
    return changed;
  }
  bool compare_exchange_strong(T& expected, T value, std::memory_order order, std::memory_order,
                               const char* function = __builtin_FUNCTION(),
                               const char* file = __builtin_FILE()) {
    return compare_exchange_strong(expected, value, order, function, file);
  }
  bool compare_exchange_weak(T& expected, T value, std::memory_order order,
                             const char* function = __builtin_FUNCTION(),
                             const char* file = __builtin_FILE()) {
    return compare_exchange_strong(expected, value, order, function, file);
  }
  bool compare_exchange_weak(T& expected, T value, std::memory_order order, std::memory_order,
                             const char* function = __builtin_FUNCTION(),
                             const char* file = __builtin_FILE()) {
    return compare_exchange_strong(expected, value, order, function, file);
  }
  T fetch_add(T value, std::memory_order order, const char* function = __builtin_FUNCTION(),
              const char* file = __builtin_FILE()) {
    if (!is_explored(this, Access::kChange)) return raw_.fetch_add(value, order);
    const auto before = static_cast<T>(explored_add(this, value, order, {function, file}));
    raw_.store(static_cast<T>(before + value), std::memory_order_relaxed);
    return before;
  }

 private:
  std::atomic<T> raw_{0};
};

}  // namespace modelpool::model

namespace modelpool {
using Word = model::ExploredWord<std::uint64_t>;
using HalfWord = model::ExploredWord<std::uint32_t>;
}  // namespace modelpool
