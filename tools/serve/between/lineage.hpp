// Which workers are to serve, of all that the masters of a pool have started: in memory that they
// share, handed on with the sockets (meeting.hpp).
//
// Each generation has a number, one more than the last. Once it serves, those of a lower number
// accept nothing more: also those whose master died before anybody else knew of them. Once it is
// settled they end when they have finished; until then it may be taken back.
//
// Safety: the one master that lives writes what has begun, and anybody what serves; any thread.
//
// Crash: each word stands for itself. A generation that began and never served ends nobody.
//
// Errors: kSystem; kIncompatible for that of another version.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "between/fd.hpp"
#include "modelpool/result.hpp"

namespace modelpool::serve {

class Lineage {
 public:
  static Result<std::shared_ptr<Lineage>> make();
  // That of others, whose fd() it is.
  static Result<std::shared_ptr<Lineage>> join(Fd fd);
  Lineage(const Lineage&) = delete;
  Lineage& operator=(const Lineage&) = delete;
  ~Lineage();

  const Fd& fd() const { return fd_; }
  // For the master: the number of a new generation.
  std::uint32_t begin() { return words_->begun.fetch_add(1) + 1; }
  // For the master: the newest one never comes to be. Its number is given again.
  void give_up() { words_->begun.fetch_sub(1); }
  bool is_newest(std::uint32_t number) const { return words_->begun.load() == number; }
  void serves(std::uint32_t number) { raise(words_->serving, number); }
  void settles(std::uint32_t number) { raise(words_->settled, number); }
  // Not the one that serves, which is not settled, but this one again.
  void take_back(std::uint32_t number);
  // One that began later serves.
  bool is_over(std::uint32_t number) const {
    return words_->serving.load() > number || may_end(number);
  }
  bool may_end(std::uint32_t number) const { return words_->settled.load() > number; }

 private:
  struct Words {
    std::atomic<std::uint32_t> begun;
    std::atomic<std::uint32_t> serving;
    std::atomic<std::uint32_t> settled;
  };

  static void raise(std::atomic<std::uint32_t>& word, std::uint32_t number);
  Lineage(Fd fd, Words* words) : fd_(std::move(fd)), words_(words) {}

  Fd fd_;
  Words* words_;
};

}  // namespace modelpool::serve
