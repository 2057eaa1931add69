// The pool's events for all who follow them here: read once, kept for a while, and each viewer
// takes what is next for it when it can.
//
// Nobody waits for a slow viewer: it has a place in what is kept and nothing else. When that place
// is given up it is told how many events it lost.
//
// Safety: the loop's thread. While anybody follows, a thread of the feed's sleeps on the pool's
// bell and reads; stop() joins it, after a second at most.
//
// Crash: nothing is left.
//
// Errors: none; where the pool cannot be read any more, its viewers come to their end.
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "modelpool/pool.hpp"
#include "wire/api.hpp"
#include "worker/io.hpp"

namespace modelpool::serve {

class EventFeed {
 public:
  EventFeed(Loop& loop, Pool& pool) : loop_(loop), pool_(pool) {}

  // One who follows. It may be destroyed at any time.
  class Viewer {
   public:
    Viewer(EventFeed& feed, EventsAsked asked, Wake& wake);
    Viewer(const Viewer&) = delete;
    Viewer& operator=(const Viewer&) = delete;
    ~Viewer() { feed_.viewers_.erase(this); }

    // What is next for it, as server-sent events, not much more than so many bytes. Empty: nothing
    // yet, and `wake` tells; or nothing any more.
    std::string take(std::size_t about_bytes);
    bool is_over() const { return feed_.has_failed_ || left_ == 0; }

   private:
    friend class EventFeed;
    void begin();

    EventFeed& feed_;
    EventsAsked asked_;
    Wake& wake_;
    std::uint64_t next_ = 1;
    std::uint64_t left_;         // events, until it has its count
    std::int64_t since_ms_ = 0;  // of the wall clock
    bool has_begun_ = false;
    bool counts_losses_ = false;
    bool wants_sign_ = false;
    TimePoint last_taken_ = Clock::now();
  };

  void tick(TimePoint now);  // signs of life
  void wake_all();           // to look whether they go on
  void stop();

 private:
  struct Kept {
    std::uint64_t sequence;
    std::int64_t time_ms;
    std::string model;
    std::string kind;
    std::string json;

    std::size_t bytes() const;
  };
  // The last event that was read; of the next pool of that name it is another.
  struct Last {
    std::uint64_t sequence = 0;  // 0: none
    std::chrono::system_clock::time_point time;
  };
  struct News {
    std::vector<Kept> events;
    Last last;
    bool is_another_pool = false;
    bool has_failed = false;
  };
  News read() const;  // waits for a second at most
  Task<> follow();
  void take_in(News news);

  Loop& loop_;
  Pool& pool_;
  asio::thread_pool thread_{1};
  std::unordered_set<Viewer*> viewers_;
  std::deque<Kept> kept_;
  std::size_t kept_bytes_ = 0;
  std::size_t kept_max_ = 0;  // events
  Last last_;
  bool has_read_ = false;
  bool is_following_ = false;
  bool has_failed_ = false;
};

}  // namespace modelpool::serve
