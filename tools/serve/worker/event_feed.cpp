#include "worker/event_feed.hpp"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <exception>
#include <utility>

#include "modelpool/json.hpp"
#include "worker/apart.hpp"

namespace modelpool::serve {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint64_t kAll = UINT64_MAX;
constexpr std::size_t kKeptMax_bytes = 4 << 20;
constexpr seconds kSignOfLife{15};
constexpr seconds kLook{1};  // for a pool that took the name, and whether anybody follows still

std::int64_t ms_of(std::chrono::system_clock::time_point time) {
  return std::chrono::duration_cast<milliseconds>(time.time_since_epoch()).count();
}

std::string loss(std::uint64_t first, std::uint64_t last) {
  return "event: lagged\nid: " + std::to_string(last) +
         "\ndata: {\"lost\":" + std::to_string(last - first + 1) +
         ",\"first\":" + std::to_string(first) + ",\"last\":" + std::to_string(last) + "}\n\n";
}

}  // namespace

// --- One who follows -----------------------------------------------------------------------------

EventFeed::Viewer::Viewer(EventFeed& feed, EventsAsked asked, Wake& wake)
    : feed_(feed), asked_(std::move(asked)), wake_(wake), left_(asked_.count.value_or(kAll)) {
  const auto now = std::chrono::system_clock::now();
  if (asked_.last_ns)
    since_ms_ = ms_of(now) - static_cast<std::int64_t>(*asked_.last_ns / 1'000'000);
  feed_.viewers_.insert(this);
  if (std::exchange(feed_.is_following_, true)) return;
  asio::co_spawn(feed_.loop_, feed_.follow(), [](const std::exception_ptr& thrown) {
    if (thrown) std::rethrow_exception(thrown);
  });
}

void EventFeed::Viewer::begin() {
  has_begun_ = true;
  if (!asked_.since) return;
  next_ = *asked_.since;
  counts_losses_ = true;
  if (next_ <= feed_.last_.sequence + 1) return;
  // Read by another worker a moment sooner; or a number of an earlier pool, and all is new.
  const auto there = feed_.pool_.events(next_ - 1);
  if (there && !there->empty()) return;
  next_ = 1;
  counts_losses_ = false;
}

std::string EventFeed::Viewer::take(std::size_t about_bytes) {
  std::string text;
  if (feed_.has_read_ && !has_begun_) begin();
  const auto& kept = feed_.kept_;
  auto at =
      std::lower_bound(kept.begin(), kept.end(), next_,
                       [](const Kept& one, std::uint64_t next) { return one.sequence < next; });
  for (; at != kept.end() && text.size() < about_bytes && left_ > 0; ++at) {
    if (counts_losses_ && at->sequence > next_) text += loss(next_, at->sequence - 1);
    counts_losses_ = true;
    next_ = at->sequence + 1;
    if (at->time_ms < since_ms_ || !asked_.wants(at->model, at->kind)) continue;
    text += "id: " + std::to_string(at->sequence) + "\ndata: " + at->json + "\n\n";
    if (left_ != kAll) --left_;
  }
  if (text.empty() && wants_sign_) text = ": alive\n";
  wants_sign_ = false;
  if (!text.empty()) last_taken_ = Clock::now();
  return text;
}

// --- The feed ------------------------------------------------------------------------------------

std::size_t EventFeed::Kept::bytes() const {
  return sizeof *this + model.size() + kind.size() + json.size();
}

// On the feed's thread: nobody else touches last_ meanwhile.
EventFeed::News EventFeed::read() const {
  News news;
  const auto rows = pool_.events(last_.sequence + 1, kLook);
  news.has_failed = !rows;
  news.last = last_;
  if (rows && rows->empty() && last_.sequence > 0) {
    const auto again = pool_.events(last_.sequence);
    const bool is_there = again && !again->empty();
    news.is_another_pool =
        again &&
        (!is_there || (again->front().seq == last_.sequence && again->front().time != last_.time));
  }
  if (!rows || rows->empty()) return news;
  for (const EventRow& row : *rows)
    news.events.push_back({row.seq, ms_of(row.time), row.model, row.kind, to_json(row)});
  news.last = {rows->back().seq, rows->back().time};
  return news;
}

Task<> EventFeed::follow() {
  kept_max_ = pool_.capacities().value_or(Capacities{}).events;
  while (!viewers_.empty() && !has_failed_) {
    News news = co_await apart(loop_, thread_, [this] { return read(); });
    take_in(std::move(news));
  }
  kept_.clear();
  kept_bytes_ = 0;
  last_ = {};
  has_read_ = false;
  is_following_ = false;
}

void EventFeed::take_in(News news) {
  if (news.has_failed) {
    has_failed_ = true;
    return wake_all();
  }
  last_ = news.last;
  if (news.is_another_pool) {
    kept_.clear();
    kept_bytes_ = 0;
    last_ = {};
    for (Viewer* viewer : viewers_) {
      viewer->next_ = 1;
      viewer->counts_losses_ = false;
    }
  }
  for (Kept& one : news.events) {
    kept_bytes_ += one.bytes();
    kept_.push_back(std::move(one));
  }
  while (kept_.size() > kept_max_ || kept_bytes_ > kKeptMax_bytes) {
    kept_bytes_ -= kept_.front().bytes();
    kept_.pop_front();
  }
  const bool is_first = !std::exchange(has_read_, true);
  if (is_first || !news.events.empty()) wake_all();
}

void EventFeed::wake_all() {
  for (Viewer* viewer : viewers_) viewer->wake_.notify();
}

void EventFeed::tick(TimePoint now) {
  for (Viewer* viewer : viewers_) {
    if (now - viewer->last_taken_ < kSignOfLife) continue;
    viewer->wants_sign_ = true;
    viewer->wake_.notify();
  }
}

void EventFeed::stop() { thread_.join(); }

}  // namespace modelpool::serve
