// Words of the segment, and what is made of several of them: each packs fields into 64 bits that
// one store or CAS changes, or keeps a longer value as such words.
//
// Safety: shared words are 32- or 64-bit std::atomic, lock-free and address-free.
//
// Crash: a word has its old or its new value. SharedCopy and SharedText may be torn and stand
// beside a word that tells; Published is whole.
//
// Errors: none. Shared bytes are input: what is unpacked is clamped by its reader.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/kinds.hpp"
#include "base/need.hpp"
#include "base/time.hpp"

namespace modelpool {

inline constexpr std::size_t kCacheLine_bytes = 64;
inline constexpr std::size_t kPage_bytes = 4096;

inline constexpr std::uint32_t kBackendsMax = 4095;  // 12 bits of a lease word
inline constexpr std::uint32_t kWorkersMax = 4095;   // 12 bits of a state word's owner

#ifdef MODELPOOL_WORDS  // tests/model shows with words of its own which orders are needed
}  // namespace modelpool
#include MODELPOOL_WORDS
namespace modelpool {
#else
using Word = std::atomic<std::uint64_t>;
using HalfWord = std::atomic<std::uint32_t>;
#endif
static_assert(Word::is_always_lock_free && HalfWord::is_always_lock_free);
static_assert(sizeof(Word) == 8 && sizeof(HalfWord) == 4);

// --- Words made of fields ------------------------------------------------------------------------

//   63            32 31          8 7     0
//  |   generation   |   owner     | state |
// owner: RESERVED, STARTING: not 0, there is a ticket. STOPPING, GONE: the same, it has not been
// let go yet. EVICTING: the coordinator's epoch. READY: 0 or kCounted.
// Who holds the ticket is for the slot's `holder` to say: only 12 bits of a worker's generation fit
// here. As part of a CAS they are enough, because a slot has one holder in a generation of its own.
struct StateWord {
  std::uint32_t generation = 0;
  std::uint32_t owner = 0;
  BackendState state = BackendState::kFree;

  bool operator==(const StateWord&) const = default;

  static constexpr std::uint32_t kOwnerMask = 0xffffff;
  // READY: leases are counted before they are granted (parallel, permit). begin_lease compares with
  // READY without it, so a backend that has it takes the slow path, and others pay nothing.
  static constexpr std::uint32_t kCounted = 1;
  // Index + 1, so that 0 is nobody.
  static constexpr std::uint32_t owner_of(WorkerRef worker) {
    return (worker.generation & 0xfff) << 12 | ((worker.index + 1) & 0xfff);
  }
  static constexpr std::uint32_t owner_of_epoch(std::uint32_t epoch) { return epoch & kOwnerMask; }
  // Never 0: that is no coordinator.
  static constexpr std::uint32_t next_epoch(std::uint32_t epoch) {
    const std::uint32_t next = (epoch + 1) & kOwnerMask;
    return next == 0 ? 1 : next;
  }

  constexpr std::uint64_t pack() const {
    return std::uint64_t{generation} << 32 | std::uint64_t{owner & kOwnerMask} << 8 |
           static_cast<std::uint64_t>(state);
  }
  // An unknown state, which only a wild write leaves, reads as STOPPING: whatever it was, its
  // processes are ended first, then it is free.
  static constexpr StateWord unpack(std::uint64_t word) {
    const auto state =
        is_known(word) ? static_cast<BackendState>(word & 0xff) : BackendState::kStopping;
    return {static_cast<std::uint32_t>(word >> 32),
            static_cast<std::uint32_t>(word >> 8) & kOwnerMask, state};
  }
  static constexpr bool is_known(std::uint64_t word) { return (word & 0xff) < kBackendStateCount; }
};

//   63            32 31       20 19       0
//  |   generation   |  backend  | sequence |     0 = no lease
struct LeaseWord {
  std::uint32_t generation = 0;
  std::uint32_t backend = 0;
  std::uint32_t sequence = 0;

  static constexpr std::uint32_t kSequenceMask = 0xfffff;
  constexpr std::uint64_t pack() const {
    return std::uint64_t{generation} << 32 | std::uint64_t{backend & 0xfff} << 20 |
           (sequence & kSequenceMask);
  }
  static constexpr LeaseWord unpack(std::uint64_t word) {
    return {static_cast<std::uint32_t>(word >> 32), static_cast<std::uint32_t>(word >> 20) & 0xfff,
            static_cast<std::uint32_t>(word) & kSequenceMask};
  }
};

// Words that belong to one generation of a slot: a late writer's CAS fails in the next.
//   63            32 31        0
//  |   generation   |  value   |
constexpr std::uint64_t pack_half(std::uint32_t generation, std::uint32_t value) {
  return std::uint64_t{generation} << 32 | value;
}
constexpr std::uint32_t high_half(std::uint64_t word) {
  return static_cast<std::uint32_t>(word >> 32);
}
constexpr std::uint32_t low_half(std::uint64_t word) { return static_cast<std::uint32_t>(word); }

// A worker in full: generation, index + 1. 0 is nobody, and so is an index beyond the table.
constexpr std::uint64_t pack_worker(WorkerRef worker) {
  return pack_half(worker.generation, worker.index + 1);
}
constexpr WorkerRef unpack_worker(std::uint64_t word) {
  return {low_half(word) - 1, high_half(word)};
}

//   63                           24 23          0
//  |  deadline, ms of CLOCK_BOOTTIME |  generation |     0 = none
// A backend's permit (fleets): until when it may run. Within a generation of its slot it only
// grows.
struct PermitWord {
  std::uint64_t deadline_ms = 0;
  std::uint32_t generation = 0;

  static constexpr std::uint64_t kDeadlineMax_ms = (std::uint64_t{1} << 40) - 1;
  static constexpr std::uint32_t kGenerationMask = 0xffffff;
  constexpr std::uint64_t pack() const {
    const std::uint64_t deadline = deadline_ms < kDeadlineMax_ms ? deadline_ms : kDeadlineMax_ms;
    return deadline << 24 | (generation & kGenerationMask);
  }
  static constexpr PermitWord unpack(std::uint64_t word) {
    return {word >> 24, static_cast<std::uint32_t>(word) & kGenerationMask};
  }
  // Until when a backend of that generation may run by this word; 0 = it has no permit.
  static constexpr std::uint64_t deadline_of(std::uint64_t word, std::uint32_t backend_generation) {
    const PermitWord permit = unpack(word);
    return permit.generation == (backend_generation & kGenerationMask) ? permit.deadline_ms : 0;
  }
};

// A backend's idle timeout as the last acquire asked for it: the low half of its `keep_alive`.
//   0 = nobody asked; else 1 + milliseconds; the largest = for ever.
inline constexpr std::uint32_t kKeepForEver = UINT32_MAX;
constexpr std::uint32_t pack_keep_alive(std::uint64_t milliseconds) {
  return milliseconds < kKeepForEver - 1 ? static_cast<std::uint32_t>(milliseconds) + 1
                                         : kKeepForEver;
}
// kNever_ns: for ever. Of a value that somebody asked for, so not of 0.
constexpr std::uint64_t keep_alive_ns(std::uint32_t packed) {
  return packed == kKeepForEver ? kNever_ns : (std::uint64_t{packed} - 1) * kMillisecond_ns;
}

// The devices on which room is made for a waiter, and for which: the arrival above, a bit for each
// device below.
constexpr std::uint64_t pack_room(std::uint64_t arrival, std::uint32_t devices) {
  return arrival << kDevicesMax | (devices & ((1u << kDevicesMax) - 1));
}
// 0: none, or it was for another.
constexpr std::uint32_t promised_devices(std::uint64_t word, std::uint64_t arrival) {
  const bool is_for_it = word >> kDevicesMax == arrival << kDevicesMax >> kDevicesMax;
  return is_for_it ? static_cast<std::uint32_t>(word) & ((1u << kDevicesMax) - 1) : 0;
}

// --- More than a word ----------------------------------------------------------------------------

// A trivially copyable value kept as atomic words. One writer at a time; a reader that meets it
// gets a mix of old and new, so readers check a word the writer changes before and after (loads are
// acquire, stores release: what is read after the check word was written after it).
template <class T>
class SharedCopy {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % 8 == 0);

 public:
  void store(const T& value) {
    std::uint64_t raw[kWords];
    std::memcpy(raw, &value, sizeof raw);
    for (std::size_t i = 0; i < kWords; ++i) words_[i].store(raw[i], std::memory_order_release);
  }
  T load() const {
    std::uint64_t raw[kWords];
    for (std::size_t i = 0; i < kWords; ++i) raw[i] = words_[i].load(std::memory_order_acquire);
    T value;
    std::memcpy(static_cast<void*>(&value), raw, sizeof raw);
    return value;
  }

 private:
  static constexpr std::size_t kWords = sizeof(T) / 8;
  std::array<Word, kWords> words_;
};

// Two copies and a generation: the writer fills the inactive copy and flips with one store, so a
// crash leaves the old value whole. Writers exclude each other (the mutex, or there is only one).
template <class T>
class Published {
 public:
  std::uint64_t generation() const { return generation_.load(std::memory_order_seq_cst); }
  void publish(const T& value) {
    const std::uint64_t next = generation_.load(std::memory_order_relaxed) + 1;
    copies_[next & 1].store(value);
    generation_.store(next, std::memory_order_seq_cst);
  }
  // A whole value: a reader is overtaken only by two publications during one read, and tries again.
  T load() const {
    T value;
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      const std::uint64_t before = generation_.load(std::memory_order_seq_cst);
      value = copies_[before & 1].load();
      if (generation_.load(std::memory_order_seq_cst) == before) break;
    }
    return value;
  }

 private:
  static constexpr int kAttempts = 1000;  // bounded: the generation word is input too
  Word generation_;
  std::array<SharedCopy<T>, 2> copies_;
};

// The text in a NUL-terminated field, however it is filled.
template <std::size_t Bytes>
std::string_view field_text(const std::array<char, Bytes>& field) {
  return {field.data(), strnlen(field.data(), Bytes)};
}
template <std::size_t Bytes>
void set_field(std::array<char, Bytes>* field, std::string_view text) {
  field->fill(0);
  text.copy(field->data(), Bytes - 1);
}

// Up to eight bytes as a word, NUL-padded, with loads of fixed sizes: these are on the hot path.
inline std::uint64_t load_word(const char* from, std::size_t bytes) {
  if (bytes >= 8) {
    std::uint64_t word;
    std::memcpy(&word, from, 8);
    return word;
  }
  if (bytes >= 4) {  // two halves, which overlap
    std::uint32_t first, last;
    std::memcpy(&first, from, 4);
    std::memcpy(&last, from + bytes - 4, 4);
    return first | std::uint64_t{last} << (8 * (bytes - 4));
  }
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < bytes; ++i) {
    word |= std::uint64_t{static_cast<unsigned char>(from[i])} << (8 * i);
  }
  return word;
}

// Text of at most Bytes - 1 bytes, NUL-padded.
template <std::size_t Bytes>
class SharedText {
  static_assert(Bytes % 8 == 0);

 public:
  void store(std::string_view text) {
    text = text.substr(0, Bytes - 1);
    for (std::size_t at = 0; at < Bytes; at += 8) {
      const std::uint64_t word =
          at < text.size() ? load_word(text.data() + at, text.size() - at) : 0;
      words_[at / 8].store(word, std::memory_order_release);
    }
  }
  std::string load() const {
    std::array<char, Bytes> raw;
    return std::string(load(&raw));
  }
  // Without allocating: under the mutex.
  std::string_view load(std::array<char, Bytes>* raw) const {
    for (std::size_t i = 0; i < Bytes / 8; ++i) {
      const std::uint64_t word = words_[i].load(std::memory_order_acquire);
      std::memcpy(raw->data() + 8 * i, &word, 8);
    }
    raw->back() = 0;
    return raw->data();
  }
  bool equals(std::string_view text) const {
    if (text.size() >= Bytes) return false;
    for (std::size_t at = 0; at <= text.size(); at += 8) {
      const std::uint64_t wanted =
          at < text.size() ? load_word(text.data() + at, text.size() - at) : 0;
      if (words_[at / 8].load(std::memory_order_acquire) != wanted) return false;
    }
    return true;
  }

 private:
  std::array<Word, Bytes / 8> words_;
};

// Names are compared by it first, and in full where a lease depends on it; the waiting line goes by
// it alone. Part of the layout. Each word is mixed into all bits before the next comes.
inline std::uint64_t hash_name(std::string_view name) {
  constexpr std::uint64_t kOdd = 0x9e3779b97f4a7c15;
  std::uint64_t hash = name.size();
  for (std::size_t at = 0; at < name.size(); at += 8) {
    hash = (hash ^ load_word(name.data() + at, name.size() - at)) * kOdd;
    hash ^= hash >> 32;
  }
  hash *= kOdd;  // once more for the low bits, which tables go by
  return hash ^ hash >> 32;
}

}  // namespace modelpool
