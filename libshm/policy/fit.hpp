// What fits: two questions, one answer (P3). What a worker may take is what is free *now*; the
// judge makes room by what is free *once what is leaving has gone*. Both go down the line with it:
// whoever stands before takes what he needs, or keeps what he lacks from those behind.
#pragma once

#include <span>

#include "policy/values.hpp"

namespace modelpool {

inline constexpr std::uint32_t kPlacesUnlimited = UINT32_MAX;

// Backends that take a place: not FREE and not GONE, those that do not die among them.
std::uint32_t count_live(std::span<const Resident> residents);

// What is left of the pool's limits when backends hold theirs and waiters are to have theirs.
class Room {
 public:
  // All that there is.
  explicit Room(Limits limits);
  // What live backends leave.
  Room(Limits limits, std::span<const Resident> residents);

  void take(const Resident& resident);
  void take(const Waiting& waiter);
  void give_back(const Resident& resident);

  // Nothing that it takes runs short. One load whose size is a guess at a time.
  bool fits(const Waiting& waiter) const;
  // What it takes and runs short, by how much; 0 of everything else.
  Amounts missing_for(const Waiting& waiter) const;
  // By how much the limits are exceeded.
  Amounts excess() const;
  std::uint32_t places() const;  // free now

 private:
  std::int64_t missing(std::size_t resource, std::int64_t takes) const;

  std::array<bool, kResourceCount> is_limited_{};
  Amounts left_;
  bool guesses_load_ = false;
};

// It takes more than there is: however many go, it never fits.
bool is_too_large(const Waiting& waiter, Limits limits);

// It was measured to take more than there is: it would, were it all alone.
bool is_alone_above(const Amounts& measured, Limits limits);

// Can nothing ever make room for it, as things stand: do pinned backends leave too little?
bool is_blocked_by_pins(const Waiting& waiter, std::span<const Resident> residents, Limits limits);

}  // namespace modelpool
