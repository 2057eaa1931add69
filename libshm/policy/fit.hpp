// What fits: two questions, one answer (P3). What a worker may take is what is free *now*; the
// judge makes room by what is free *once what is leaving has gone*. Both go down the line with it:
// whoever stands before takes what he needs, or keeps what he lacks from those behind.
#pragma once

#include <optional>
#include <span>

#include "policy/placement.hpp"

namespace modelpool {

// Backends that take a place: not FREE and not GONE, those that do not die among them.
std::uint32_t count_live(std::span<const Resident> residents);

// What is left of the pool's limits when backends hold theirs and waiters are to have theirs.
class Room {
 public:
  // All that there is.
  explicit Room(const Limits& limits);
  // What live backends leave.
  Room(const Limits& limits, std::span<const Resident> residents);

  void take(const Resident& resident);
  // Where it fits, or is to fit: on the devices that it is promised, or that fit it best. What does
  // not fit anywhere is kept free for it everywhere.
  void take(const Waiting& waiter);
  void take(const Waiting& waiter, const Placement& placement);
  void give_back(const Resident& resident);

  // Nothing that it takes runs short, on some devices. One load whose size is a guess at a time.
  bool fits(const Waiting& waiter) const { return place(waiter).has_value(); }
  // Where it fits: as promised, else where it leaves least.
  std::optional<Placement> place(const Waiting& waiter) const;
  // How well it would stand there: the lower, the better.
  std::int64_t left_beside(const Placement& placement) const;
  // What it takes and runs short, by how much; 0 of everything else. Without a placement: where it
  // lacks least.
  Amounts missing_for(const Waiting& waiter) const;
  Amounts missing_for(const Placement& placement) const;
  // By how much backends exceed the limits, whatever others take.
  Amounts excess() const;

 private:
  bool is_limited(std::size_t resource) const { return (limited_ >> resource & 1) != 0; }
  std::int64_t missing(std::size_t resource, std::int64_t takes) const;
  // The devices on which the least that it takes of any would fit: where it fits, it is on these.
  std::uint32_t devices_with_room(const Waiting& waiter) const;
  // Of these bytes those that are limited and only guessed, a bit each.
  std::uint32_t guessed_of(const Amounts& takes, bool size_known, bool device_size_known) const;

  std::uint32_t limited_ = 0;  // a bit for each resource
  std::uint32_t guessed_ = 0;  // of these a load takes what is only guessed
  std::uint32_t devices_ = 0;  // known
  Amounts left_;
  Amounts foreign_;
  std::array<std::uint32_t, kDevicesMax> on_device_{};  // how many backends
};

// It takes more than there is: however many go, it never fits.
bool is_too_large(const Waiting& waiter, const Limits& limits);

// Does a backend live that serves a model of its groups?
bool is_kept_out(const Waiting& waiter, std::span<const Resident> residents);

// It was measured to take more than there is: it would, were it all alone.
bool is_alone_above(const Amounts& measured, const Limits& limits);

// Can nothing ever make room for it, as things stand: do pinned backends leave too little?
bool is_blocked_by_pins(const Waiting& waiter, std::span<const Resident> residents,
                        const Limits& limits);

}  // namespace modelpool
