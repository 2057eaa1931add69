// A server on 127.0.0.1 or a Unix socket that answers well, badly or never, as it is told, and
// counts who asked.
#pragma once

#include <atomic>
#include <list>
#include <string>
#include <thread>

#include "base/fd.hpp"

namespace modelpool::test {

class FakeServer {
 public:
  enum class Habit {
    kWell,
    kRedirects,
    kUnwell,  // 503
    kSilent,  // accepts, reads, says nothing
    kDrips,   // a byte now and then, for ever
    kEndlessHeaders,
    kEndlessBody,
    kGarbage,
    kHangsUp,   // closes without an answer
    kLongLine,  // a status line that does not end
  };
  explicit FakeServer(Habit habit, const std::string& unix_path = {});
  ~FakeServer();
  FakeServer(const FakeServer&) = delete;
  FakeServer& operator=(const FakeServer&) = delete;

  const std::string& address() const { return address_; }
  void turn(Habit habit) { habit_.store(habit); }
  std::size_t asked() const { return asked_.load(); }
  std::size_t sent_bytes() const { return sent_bytes_.load(); }

 private:
  struct Guest {
    Fd socket;
    std::string request;
    bool is_answered = false;
  };
  void serve(const std::stop_token& stop);
  bool go_on(Guest* guest);  // false: it is done with
  bool say(const Guest& guest, const std::string& text);

  std::string address_;  // before the listener, which sets it
  Fd listener_;
  std::atomic<Habit> habit_;
  std::atomic<std::size_t> asked_{0};
  std::atomic<std::size_t> sent_bytes_{0};
  std::list<Guest> guests_;
  std::jthread thread_;
};

// An address of this host where nobody listens.
std::string nobodys_address();

}  // namespace modelpool::test
