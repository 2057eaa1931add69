#include "segment/meters.hpp"

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <set>
#include <string>
#include <thread>

#include "record.hpp"
#include "support/pool.hpp"
#include "support/process.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

const MeterSeries* find_sample(const std::vector<MeterSeries>& samples, const std::string& name,
                               const std::map<std::string, std::string>& labels = {}) {
  for (const MeterSeries& sample : samples) {
    if (sample.name != name) continue;
    if (std::map<std::string, std::string>(sample.labels.begin(), sample.labels.end()) == labels) {
      return &sample;
    }
  }
  return nullptr;
}

std::uint64_t value_of(const Segment& segment, const std::string& name,
                       const std::map<std::string, std::string>& labels = {}) {
  const auto samples = read_meters(segment);
  const MeterSeries* sample = find_sample(samples, name, labels);
  return sample == nullptr ? 0 : sample->value;
}

std::uint64_t acquires(const Segment& segment, const std::string& model,
                       const std::string& outcome) {
  return value_of(segment, "modelpool_acquires_total", {{"model", model}, {"outcome", outcome}});
}

class Meters : public ::testing::Test {
 protected:
  std::uint32_t register_model(const std::string& model) const {
    auto lock = segment_->lock_structure();
    return register_meter_model(*segment_, *lock, model, hash_name(model));
  }

  const Scratch scratch_;
  Pool pool_ = make_pool(scratch_, {{"max_backends", "1"}, {"load_cooldown", "off"}});
  const std::shared_ptr<Segment> segment_ = shared_segment_of(pool_);
};

// --- What there is -------------------------------------------------------------------------------

TEST_F(Meters, AreDescribedInTheSegmentWithoutOverlap) {
  std::set<std::uint32_t> ids;
  std::set<std::string> names;
  std::map<MeterRows, std::uint32_t> next;
  for (std::size_t i = 0; i < kMetersMax; ++i) {
    const MeterInfo info = segment_->meter_info(i).info.load();
    if (info.kind == MeterKind::kNone) continue;
    EXPECT_TRUE(ids.insert(info.id).second) << info.id;
    EXPECT_TRUE(names.insert(std::string(field_text(info.name))).second);
    EXPECT_TRUE(field_text(info.name).starts_with("modelpool_")) << field_text(info.name);
    EXPECT_FALSE(field_text(info.help).empty());
    EXPECT_EQ(info.first_cell, next[info.rows]) << field_text(info.name);
    const std::uint32_t blocks = info.by_model != 0 ? kMeterModelsMax + 1 : 1;
    next[info.rows] += info.kind == MeterKind::kHistogram ? info.bounds + 2 : blocks * info.values;
    for (std::uint32_t b = 1; b < info.bounds; ++b) EXPECT_LT(info.bound[b - 1], info.bound[b]);
  }
  EXPECT_EQ(ids.size(), kMeterCount - 1);
  EXPECT_LE(next[MeterRows::kWorkers], kWorkerMeterCells);
  EXPECT_LE(next[MeterRows::kJudge], kJudgeMeterCells);
}

// Its readers know no meter: what a later build describes is shown by this one.
TEST_F(Meters, OfALaterBuildAreReadFromTheirDescription) {
  MeterInfo info;
  info.id = 900;
  info.kind = MeterKind::kCounter;
  info.rows = MeterRows::kJudge;
  info.values = 2;
  info.first_cell = kJudgeMeterCells - 2;
  set_field(&info.name, "modelpool_later_total");
  set_field(&info.label, "colour");
  set_field(&info.value_names, "red");
  const_cast<MeterInfoRecord&>(segment_->meter_info(kMetersMax - 1)).info.store(info);
  segment_->judge_meters().cell[kJudgeMeterCells - 1].store(3);
  EXPECT_EQ(value_of(*segment_, "modelpool_later_total", {{"colour", "1"}}), 3u) << "by its number";
  segment_->judge_meters().cell[kJudgeMeterCells - 2].store(4);
  EXPECT_EQ(value_of(*segment_, "modelpool_later_total", {{"colour", "red"}}), 4u);
}

TEST_F(Meters, WithDamagedDescriptionsAreLeftOut) {
  auto& record = const_cast<MeterInfoRecord&>(segment_->meter_info(0));
  const MeterInfo sound = record.info.load();
  const auto expect_hidden = [&](const MeterInfo& info) {
    record.info.store(info);
    const auto samples = read_meters(*segment_);
    EXPECT_EQ(find_sample(samples, std::string(field_text(sound.name))), nullptr);
    const AllMeterPlaces places(&segment_->meter_info(0));
    const MeterRow row(places.of_worker, segment_->worker_meters(0).cell.data());
    row.add(Meter::kAcquires, 0, 0);
    row.observe(Meter::kWait, 1);
    record.info.store(sound);
  };
  for (const std::uint32_t odd : {UINT32_MAX, kWorkerMeterCells, kWorkerMeterCells - 1}) {
    MeterInfo info = sound;
    info.first_cell = odd;
    expect_hidden(info);
    info = sound;
    info.values = odd;
    expect_hidden(info);
    info = sound;
    info.kind = MeterKind::kHistogram;
    info.bounds = odd;
    expect_hidden(info);
    info = sound;
    info.rows = static_cast<MeterRows>(odd);
    expect_hidden(info);
  }
  MeterInfo info = sound;
  info.name.fill('\xff');
  expect_hidden(info);
}

// --- Models --------------------------------------------------------------------------------------

TEST_F(Meters, TellModelsApartUntilThereAreTooMany) {
  std::set<std::uint32_t> cells;
  for (std::uint32_t i = 0; i < kMeterModelsMax; ++i) {
    const std::string model = "model-" + std::to_string(i);
    const std::uint32_t at = register_model(model);
    EXPECT_LT(at, kMeterModelsMax);
    EXPECT_TRUE(cells.insert(at).second) << model;
    EXPECT_EQ(find_meter_model(*segment_, model, hash_name(model)), at);
    EXPECT_EQ(register_model(model), at) << "the same again";
  }
  EXPECT_EQ(register_model("one more"), kMeterOther);
  EXPECT_EQ(find_meter_model(*segment_, "one more", hash_name("one more")), kMeterOther);
  MeterRow::of_worker(*segment_, 0)
      .add(Meter::kAcquires, kMeterOther, static_cast<std::uint32_t>(AcquireOutcome::kTimeout));
  EXPECT_EQ(acquires(*segment_, "other", "timeout"), 1u);
}

TEST_F(Meters, HaveNoSecondSeriesForAModelNamedOther) {
  EXPECT_EQ(register_model("other"), kMeterOther);
}

// --- Acquires ------------------------------------------------------------------------------------

TEST_F(Meters, CountHitsAtTheEndOfTheirThread) {
  load_external(pool_, "m").release();
  std::thread([&] {
    for (int i = 0; i < 1000; ++i) lease_on(pool_, "m").release();
  }).join();
  EXPECT_EQ(acquires(*segment_, "m", "hit"), 1000u);
  EXPECT_EQ(acquires(*segment_, "m", "loaded"), 1u);
}

TEST_F(Meters, CountHitsAtTheNextRequestOfALaterTick) {
  load_external(pool_, "m").release();
  for (int i = 0; i < 10; ++i) lease_on(pool_, "m").release();
  const std::uint64_t tick = stamp_now_ns();
  EXPECT_TRUE(eventually([&] { return stamp_now_ns() > tick; }));
  Lease last = lease_on(pool_, "m");
  EXPECT_EQ(acquires(*segment_, "m", "hit"), 10u);
}

TEST_F(Meters, CountHitsAtClose) {
  load_external(pool_, "m").release();
  {
    Pool other = make_pool(scratch_);
    for (int i = 0; i < 10; ++i) lease_on(other, "m").release();
  }
  EXPECT_EQ(acquires(*segment_, "m", "hit"), 10u);
}

// Hits of a slot's last life are its model's, not its next one's.
TEST_F(Meters, CountHitsForTheModelThatWasHit) {
  load_external(pool_, "first").release();
  for (int i = 0; i < 5; ++i) lease_on(pool_, "first").release();
  const BackendRef old = find_backend(*segment_, "first")->ref;
  ASSERT_TRUE(close_to_leases(*segment_, old, 1) && commit_stop(*segment_, old, 1));
  ASSERT_TRUE(mark_gone(*segment_, old) && free_slot(*segment_, old));
  load_external(pool_, "second").release();
  ASSERT_EQ(find_backend(*segment_, "second")->ref.index, old.index);
  for (int i = 0; i < 3; ++i) lease_on(pool_, "second").release();
  pool_.close();
  EXPECT_EQ(acquires(*segment_, "first", "hit"), 5u);
  EXPECT_EQ(acquires(*segment_, "second", "hit"), 3u);
}

TEST_F(Meters, CountWhoWaitedAndHowLong) {
  {
    LoadTicket ticket = ticket_for(pool_, "m");
    auto wait = pool_.begin_acquire("m", std::chrono::seconds(30));
    ASSERT_TRUE(wait);
    ASSERT_TRUE(wait->poll());
    ReadyOptions external;
    external.external = true;
    const auto lease = ticket.ready("a:1", external);
    ASSERT_TRUE(lease);
    const auto granted = wait->poll();
    ASSERT_TRUE(granted && granted->has_value());
  }
  EXPECT_EQ(acquires(*segment_, "m", "waited"), 1u);
  EXPECT_EQ(acquires(*segment_, "m", "loaded"), 1u);
  lease_on(pool_, "m").release();
  pool_.close();
  EXPECT_EQ(acquires(*segment_, "m", "hit"), 1u) << "one acquire is counted once";
  EXPECT_EQ(value_of(*segment_, "modelpool_wait_seconds"), 1u);
}

TEST_F(Meters, CountEveryOutcomeOfAnAcquireOnce) {
  ASSERT_TRUE(pool_.set("max_waiters", "1"));
  LoadTicket ticket = ticket_for(pool_, "m");
  {
    auto left = pool_.begin_acquire("m", std::chrono::seconds(30));
    ASSERT_TRUE(left && left->poll());
    EXPECT_EQ(code_of(pool_.acquire("m", std::chrono::seconds(1))), Errc::kQueueFull);
  }
  EXPECT_EQ(acquires(*segment_, "m", "cancelled"), 1u) << "its caller has left";
  EXPECT_EQ(acquires(*segment_, "m", "queue_full"), 1u);
  EXPECT_EQ(code_of(pool_.acquire("m", std::chrono::milliseconds(1))), Errc::kTimeout);
  EXPECT_EQ(acquires(*segment_, "m", "timeout"), 1u);
  ASSERT_TRUE(ticket.fail("no such file"));
  EXPECT_EQ(acquires(*segment_, "m", "load_failed"), 1u);
  LoadTicket second = ticket_for(pool_, "m");
  ASSERT_TRUE(second.give_back());
  EXPECT_EQ(acquires(*segment_, "m", "cancelled"), 2u);
  AcquireOptions loaded_only;
  loaded_only.may_load = false;
  EXPECT_EQ(code_of(pool_.acquire("m", std::chrono::seconds(0), loaded_only)), Errc::kNotLoaded);
  EXPECT_EQ(acquires(*segment_, "m", "refused"), 1u);
}

// What clients make up does not use up the models that are told apart.
// As C and Python do before they wait.
TEST_F(Meters, CountNoRefusalForALookBeforeTheAcquireThatIsCounted) {
  EXPECT_EQ(code_of(acquire_if_loaded(pool_, "m", {})), Errc::kNotLoaded);
  EXPECT_EQ(value_of(*segment_, "modelpool_refusals_total", {{"error", "not_loaded"}}), 0u);
  EXPECT_EQ(acquires(*segment_, "other", "refused"), 0u);
  AcquireOptions options;
  options.may_load = false;
  EXPECT_EQ(code_of(pool_.acquire("m", std::chrono::seconds(0), options)), Errc::kNotLoaded);
  EXPECT_EQ(acquires(*segment_, "other", "refused"), 1u);
  load_external(pool_, "m").release();
  EXPECT_TRUE(acquire_if_loaded(pool_, "m", {}));
}

TEST_F(Meters, GiveNoCellsToAModelThatNobodyWouldLoad) {
  AcquireOptions loaded_only;
  loaded_only.may_load = false;
  EXPECT_FALSE(pool_.acquire("typo", std::chrono::seconds(0), loaded_only));
  EXPECT_EQ(acquires(*segment_, "other", "refused"), 1u);
  EXPECT_EQ(find_meter_model(*segment_, "typo", hash_name("typo")), kMeterOther);
}

TEST_F(Meters, OfAWorkersRowAreNeverClearedAndItsNextOwnerAddsOn) {
  load_external(pool_, "m").release();
  std::uint64_t before = 0;
  for (int i = 1; i <= 3; ++i) {
    Forked worker([&](Forked::Child& parent) {
      Pool mine = make_pool(scratch_);
      std::thread([&] { lease_on(mine, "m").release(); }).join();
      parent.say("done");
      parent.hear();
    });
    ASSERT_EQ(worker.hear(), "done");
    worker.kill_now();
    EXPECT_EQ(acquires(*segment_, "m", "hit"), before + 1);
    ++before;
    for (std::uint32_t row = 1; row < segment_->workers_reached(); ++row) {
      const std::uint64_t state = segment_->worker(row).state.load();
      clear_worker_row(*segment_, {row, high_half(state)}, segment_->coordinator_row());
    }
    EXPECT_EQ(acquires(*segment_, "m", "hit"), before) << "its row was cleared";
  }
  EXPECT_EQ(segment_->workers_reached(), 2u) << "one row for all";
}

// --- The judge's ---------------------------------------------------------------------------------

class JudgeMetersTest : public Meters {
 protected:
  static EventData event(EventKind kind, Reason reason = Reason::kNone) {
    EventData data;
    data.kind = kind;
    data.reason = reason;
    set_field(&data.model, "m");
    return data;
  }
  // As a coordinator leaves it that is killed between an event and its count.
  void write_uncounted(EventData data) const {
    CoordinatorRecord& coordinator = segment_->coordinator();
    const std::uint64_t sequence = std::max<std::uint64_t>(1, coordinator.next_event.load());
    EventRecord& record = segment_->event(sequence % segment_->capacities().events);
    record.data.store(data);
    record.sequence.store(sequence);
    coordinator.next_event.store(sequence + 1);
  }
  std::uint64_t loads() const {
    return value_of(*segment_, "modelpool_loads_total", {{"model", "m"}, {"outcome", "loaded"}});
  }

  const std::uint32_t model_ = register_model("m");
  coordinator::Recorder recorder_{segment_};
};

TEST_F(JudgeMetersTest, EveryKindOfEventMovesOneCounter) {
  std::uint64_t counted = 0;
  for (std::size_t kind = 1; kind < kEventKindCount; ++kind) {
    for (std::size_t reason = 0; reason < kReasonCount; ++reason) {
      EventData data = event(static_cast<EventKind>(kind), static_cast<Reason>(reason));
      data.exit_ns = kSecond_ns;
      recorder_.write(data);
      ++counted;
      std::uint64_t sum = 0;
      for (const MeterSeries& sample : read_meters(*segment_)) {
        if (!sample.is_histogram) sum += sample.value;
      }
      EXPECT_EQ(sum, counted) << event_kind_name(static_cast<EventKind>(kind));
    }
  }
}

TEST_F(JudgeMetersTest, StopsGoByReason) {
  recorder_.write(event(EventKind::kKilled, Reason::kBusy));
  recorder_.write(event(EventKind::kEvicted, Reason::kIdle));
  const auto stops = [&](const std::string& reason) {
    return value_of(*segment_, "modelpool_stops_total", {{"model", "m"}, {"reason", reason}});
  };
  EXPECT_EQ(stops("busy"), 1u);
  EXPECT_EQ(stops("idle"), 1u);
  EXPECT_EQ(stops("lru"), 0u);
}

TEST_F(JudgeMetersTest, TimesGoToTheirBuckets) {
  EventData data = event(EventKind::kLoaded);
  data.load_ns = 30 * kSecond_ns;
  recorder_.write(data);
  data.load_ns = 3600 * kSecond_ns;
  recorder_.write(data);
  const auto samples = read_meters(*segment_);
  const MeterSeries* sample = find_sample(samples, "modelpool_load_seconds");
  ASSERT_NE(sample, nullptr);
  EXPECT_EQ(sample->value, 2u);
  EXPECT_EQ(sample->sum, 3630 * kSecond_ns);
  EXPECT_EQ(sample->unit, "seconds");
  EXPECT_EQ(sample->per_unit, kSecond_ns);
  EXPECT_EQ(sample->buckets.size(), sample->bounds.size() + 1);
  EXPECT_EQ(sample->buckets.back(), 1u) << "above 600 s";
  for (std::size_t i = 0; i < sample->bounds.size(); ++i) {
    EXPECT_EQ(sample->buckets[i], sample->bounds[i] == 30 * kSecond_ns ? 1u : 0u) << "inclusive";
  }
}

TEST_F(JudgeMetersTest, AReloadSoonAfterAnEvictionIsCounted) {
  EventData data = event(EventKind::kLoaded);
  recorder_.write(data);
  data.away_ns = kReloadSoon_ns + 1;
  recorder_.write(data);
  EXPECT_EQ(value_of(*segment_, "modelpool_reloads_soon_total"), 0u);
  data.away_ns = kReloadSoon_ns;
  recorder_.write(data);
  EXPECT_EQ(value_of(*segment_, "modelpool_reloads_soon_total"), 1u);
}

TEST_F(JudgeMetersTest, TheNextJudgeCountsWhatTheLastDidNot) {
  recorder_.write(event(EventKind::kLoaded));
  write_uncounted(event(EventKind::kLoaded));
  write_uncounted(event(EventKind::kLoaded));
  EXPECT_EQ(loads(), 1u);
  for (int restart = 0; restart < 3; ++restart) {
    coordinator::Recorder next(segment_);
    next.catch_up();
    EXPECT_EQ(loads(), 3u) << "each once, however often a judge begins";
  }
}

// Killed at each store of a count: the journal is published, some of its cells are written.
TEST_F(JudgeMetersTest, ACountCutShortIsCompletedOnce) {
  JudgeMeters& meters = segment_->judge_meters();
  for (std::size_t written = 0; written <= 3; ++written) {
    const std::uint64_t before = loads();
    std::vector<std::uint64_t> cells(kJudgeMeterCells);
    for (std::size_t i = 0; i < cells.size(); ++i) cells[i] = meters.cell[i].load();
    EventData data = event(EventKind::kLoaded);
    data.load_ns = kSecond_ns;
    recorder_.write(data);
    const MeterJournal journal = meters.journal.load();
    ASSERT_EQ(journal.count, 3u);
    for (std::size_t i = written; i < journal.count; ++i) {
      meters.cell[journal.change[i].cell].store(cells[journal.change[i].cell]);
    }
    coordinator::Recorder next(segment_);
    next.catch_up();
    EXPECT_EQ(loads(), before + 1) << written << " of its cells were written";
    EXPECT_EQ(value_of(*segment_, "modelpool_load_seconds"), before + 1);
  }
}

TEST_F(JudgeMetersTest, ADamagedJournalHarmsNothing) {
  JudgeMeters& meters = segment_->judge_meters();
  MeterJournal odd;
  odd.counted_events = UINT64_MAX;
  odd.count = UINT64_MAX;
  for (auto& change : odd.change) change = {UINT64_MAX, 7};
  meters.journal.publish(odd);
  coordinator::Recorder next(segment_);
  next.catch_up();
  next.write(event(EventKind::kLoaded));
  EXPECT_GE(loads(), 1u);
}

TEST(CountedHttp, RequestsAddUpByModelAndFirstDigit) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "1"}});
  load_external(pool, "m");
  const auto count = [&](std::string_view model, int status) {
    HttpRequest request;
    request.model = model;
    request.status = status;
    request.took = std::chrono::milliseconds(30);
    if (status == 200) request.first_byte = std::chrono::milliseconds(7);
    request.received_bytes = 5;
    request.sent_bytes = 11;
    pool.count(request);
  };
  for (const int status : {200, 204, 101, 404, 503, 0, -7, 9999}) count("m", status);
  count("never loaded", 200);
  count("", 400);
  const auto segment = Inside::shared_segment(pool);
  const auto requests = [&](const std::string& model, const std::string& code) {
    return value_of(*segment, "modelpool_http_requests_total", {{"model", model}, {"code", code}});
  };
  EXPECT_EQ(requests("m", "2xx"), 2u);
  EXPECT_EQ(requests("m", "1xx"), 1u);
  EXPECT_EQ(requests("m", "4xx"), 1u);
  EXPECT_EQ(requests("m", "5xx"), 2u);
  EXPECT_EQ(requests("m", "none"), 2u);
  EXPECT_EQ(requests("other", "2xx"), 1u);
  EXPECT_EQ(requests("other", "4xx"), 1u);
  EXPECT_EQ(value_of(*segment, "modelpool_http_request_seconds"), 10u);
  EXPECT_EQ(value_of(*segment, "modelpool_http_first_byte_seconds"), 2u);
  EXPECT_EQ(value_of(*segment, "modelpool_http_received_bytes_total"), 50u);
  EXPECT_EQ(value_of(*segment, "modelpool_http_sent_bytes_total"), 110u);
  pool.close();
  pool.count({});  // nobody's
}

}  // namespace
