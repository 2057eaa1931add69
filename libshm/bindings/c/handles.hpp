// Handles: objects behind numbers, so that a stale number is answered and never followed.
//
//   63            32 31  24 23       0
//  |   generation   | kind |  index   |     0 = no handle
//
// open() gives an object a number that was never given out before. A call holds the object with
// pin(); close() ends the number at once and the object when the last pin is let go.
//
// Safety: any thread, without a lock, so fork finds no lock held. Slots are never freed.
//   fork: a handle belongs to the process that opened it. In a child pin() refuses it, or, for what
//   a child may use, adopt()s it: pins of threads that do not exist there are forgotten.
//
// Errors: open() gives 0 when all handles are in use; a refused pin is empty.
//
// Invariants:
//  1. A slot's object exists from open() until its word has neither kOpen nor pins.
//  2. Only who finds itself the last pin of a closed slot destroys, and only then is the slot free.
#pragma once

#include <pthread.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "base/process.hpp"

namespace modelpool::c {

// Tells this process from the one it was forked from. Costs a few loads.
inline std::uint64_t this_process() {
  const ProcessIdentity self = own_identity();
  return static_cast<std::uint64_t>(self.pid) << 40 ^ self.start_ticks;
}

template <class T>
class Handles {
  struct alignas(64) Slot {
    std::atomic<std::uint64_t> word{0};  // generation, kOpen, number of pins
    std::atomic<std::uint64_t> process{0};
    std::atomic<bool> taken{false};  // by the one thread that may use it at a time
    std::optional<T> object;
  };

 public:
  explicit constexpr Handles(std::uint8_t kind) : kind_(kind) {}

  std::uint64_t open(T object) {
    Slot* slot = nullptr;
    const std::uint32_t index = claim(&slot);
    if (slot == nullptr) return 0;
    slot->object.emplace(std::move(object));
    slot->process.store(this_process(), std::memory_order_relaxed);
    slot->taken.store(false, std::memory_order_relaxed);
    const std::uint64_t generation = slot->word.load(std::memory_order_relaxed) & kGeneration;
    // seq_cst: publishes the object; and who opens and then looks at another handle meets who
    // closes that one and then looks for this
    slot->word.store(generation | kOpen, std::memory_order_seq_cst);
    return generation | std::uint64_t{kind_} << 24 | index;
  }

  class Pin {
   public:
    Pin() = default;
    Pin(Handles* table, Slot* slot) : table_(table), slot_(slot) {}
    Pin(Pin&& other) noexcept
        : table_(other.table_), slot_(std::exchange(other.slot_, nullptr)), took_(other.took_) {}
    Pin& operator=(Pin&&) = delete;
    ~Pin() {
      if (slot_ == nullptr) return;
      if (took_) slot_->taken.store(false, std::memory_order_release);
      table_->unpin(*slot_);
    }
    explicit operator bool() const { return slot_ != nullptr; }
    T* operator->() const { return &*slot_->object; }
    T& operator*() const { return *slot_->object; }
    // For what one thread may use at a time: false while another does.
    bool take() {
      return took_ = slot_ != nullptr && !slot_->taken.exchange(true, std::memory_order_acquire);
    }

   private:
    Handles* table_ = nullptr;
    Slot* slot_ = nullptr;
    bool took_ = false;
  };

  Pin pin(std::uint64_t id) { return pin_slot(id, nullptr); }
  // As pin, but what was opened before fork becomes this process's own. Threads take turns by
  // `turn`.
  Pin pin_or_adopt(std::uint64_t id, pthread_mutex_t& turn) { return pin_slot(id, &turn); }

  // Ends the number. True if this call did.
  bool close(std::uint64_t id) {
    const Pin held = pin(id);
    if (!held) return false;
    Slot& slot = *find(id);
    std::uint64_t word = slot.word.load(std::memory_order_relaxed);
    while ((word & kOpen) != 0) {
      // seq_cst: see open()
      if (slot.word.compare_exchange_weak(word, word & ~kOpen, std::memory_order_seq_cst))
        return true;
    }
    return false;
  }

  bool is_open(std::uint64_t id) const {
    const Slot* slot = find(id);
    if (slot == nullptr) return false;
    const std::uint64_t word = slot->word.load(std::memory_order_seq_cst);
    return (word & kGeneration) == (id & kGeneration) && (word & kOpen) != 0;
  }

  // fn(id, object) for each open handle of this process.
  template <class Fn>
  void for_each(Fn fn) {
    const std::uint32_t count = chunk_count_.load(std::memory_order_acquire) * kChunk;
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::uint64_t word = slot_at(i)->word.load(std::memory_order_seq_cst);
      if ((word & kOpen) == 0) continue;
      const std::uint64_t id = (word & kGeneration) | std::uint64_t{kind_} << 24 | i;
      if (const Pin held = pin(id)) fn(id, *held);
    }
  }

 private:
  static constexpr std::uint32_t kChunk = 256;
  static constexpr std::uint32_t kChunksMax = 1024;
  static constexpr std::uint64_t kGeneration = 0xffffffff'00000000;
  static constexpr std::uint64_t kOneGeneration = 0x1'00000000;
  static constexpr std::uint64_t kOpen = 0x80000000;
  static constexpr std::uint64_t kPins = 0x7fffffff;

  Slot* slot_at(std::uint32_t index) const {
    return chunks_[index / kChunk].load(std::memory_order_acquire) + index % kChunk;
  }

  Slot* find(std::uint64_t id) const {
    const auto index = static_cast<std::uint32_t>(id & 0xffffff);
    if ((id >> 24 & 0xff) != kind_) return nullptr;
    if (index >= chunk_count_.load(std::memory_order_acquire) * kChunk) return nullptr;
    return slot_at(index);
  }

  // Takes a free slot, of the next generation and with one pin, which open() turns into kOpen.
  std::uint32_t claim(Slot** claimed) {
    static thread_local std::uint32_t t_next = 0;  // where this thread looks first
    for (;;) {
      const std::uint32_t chunks = chunk_count_.load(std::memory_order_acquire);
      const std::uint32_t count = chunks * kChunk;
      for (std::uint32_t i = 0; i < count; ++i) {
        const std::uint32_t index = (t_next + i) % count;
        Slot& slot = *slot_at(index);
        std::uint64_t word = slot.word.load(std::memory_order_relaxed);
        if ((word & (kOpen | kPins)) != 0) continue;
        std::uint64_t next = (word & kGeneration) + kOneGeneration;
        if (next == 0) next = kOneGeneration;
        // acquire: the last object of this slot was destroyed before
        if (!slot.word.compare_exchange_strong(word, next | 1, std::memory_order_acquire)) continue;
        t_next = index;
        *claimed = &slot;
        return index;
      }
      if (chunks == kChunksMax) return 0;
      auto* fresh = new Slot[kChunk];
      Slot* none = nullptr;
      if (!chunks_[chunks].compare_exchange_strong(none, fresh, std::memory_order_acq_rel))
        delete[] fresh;
      std::uint32_t seen = chunks;
      chunk_count_.compare_exchange_strong(seen, chunks + 1, std::memory_order_acq_rel);
    }
  }

  Pin pin_slot(std::uint64_t id, pthread_mutex_t* turn) {
    Slot* slot = find(id);
    if (slot == nullptr) return {};
    std::uint64_t word = slot->word.load(std::memory_order_acquire);
    if ((word & kGeneration) != (id & kGeneration) || (word & kOpen) == 0) return {};
    const std::uint64_t self = this_process();
    if (slot->process.load(std::memory_order_acquire) != self) {
      if (turn == nullptr) return {};
      adopt(*slot, id, self, *turn);
      word = slot->word.load(std::memory_order_acquire);
    }
    do {
      if ((word & kGeneration) != (id & kGeneration) || (word & kOpen) == 0) return {};
      if ((word & kPins) == kPins) return {};
    } while (!slot->word.compare_exchange_weak(word, word + 1, std::memory_order_acquire));
    return {this, slot};
  }

  void adopt(Slot& slot, std::uint64_t id, std::uint64_t self, pthread_mutex_t& turn) {
    pthread_mutex_lock(&turn);
    if (slot.process.load(std::memory_order_relaxed) != self) {
      std::uint64_t word = slot.word.load(std::memory_order_relaxed);
      // Nobody else changes it: every other thread of this process waits for its turn here.
      if ((word & kGeneration) == (id & kGeneration) && (word & kOpen) != 0) {
        slot.word.store(word & ~kPins, std::memory_order_relaxed);
        slot.taken.store(false, std::memory_order_relaxed);
        slot.process.store(self, std::memory_order_release);
      }
    }
    pthread_mutex_unlock(&turn);
  }

  void unpin(Slot& slot) {
    std::uint64_t word = slot.word.load(std::memory_order_relaxed);
    for (;;) {
      if ((word & kOpen) == 0 && (word & kPins) == 1) {
        slot.object.reset();
        slot.word.store(word & kGeneration, std::memory_order_release);
        return;
      }
      // acq_rel: what each holder did comes before the destruction by the last
      if (slot.word.compare_exchange_weak(word, word - 1, std::memory_order_acq_rel)) return;
    }
  }

  const std::uint8_t kind_;
  std::atomic<std::uint32_t> chunk_count_{0};
  std::array<std::atomic<Slot*>, kChunksMax> chunks_{};
};

}  // namespace modelpool::c
