// When what an ended backend held of a device is free again: the rule as a table, and what the
// judge makes of it.
#include "policy/settle.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/time.hpp"
#include "judge/decide.hpp"
#include "judge/settling.hpp"
#include "support/pool.hpp"

namespace modelpool::coordinator {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
constexpr std::uint64_t kNow_ns = 1000 * kSecond_ns;

// --- The rule ------------------------------------------------------------------------------------

Settling risen(std::uint64_t held, std::uint64_t others, std::uint64_t rise,
               std::uint64_t taken = 0) {
  return {Listed::kUnknown, held, others, taken, 5, 5 + rise};
}

TEST(SettleRule, ADriverThatNamesProcessesIsBelievedAboutThem) {
  Settling settling = risen(100, 0, 0);
  settling.listed = Listed::kNo;
  EXPECT_TRUE(is_back(settling));
  settling = risen(100, 0, 100);
  settling.listed = Listed::kYes;
  EXPECT_FALSE(is_back(settling)) << "what has risen was somebody else's";
}

TEST(SettleRule, FreeBytesHaveRisenByThreeQuartersOfAllAndByMoreThanTheOthersCanGiveBack) {
  struct Row {
    std::uint64_t held, others, rise, taken;
    bool back;
  };
  for (const Row& row : {Row{100, 0, 74, 0, false}, Row{100, 0, 75, 0, true},
                         // Two of a size: three quarters of both.
                         Row{100, 100, 149, 0, false}, Row{100, 100, 150, 0, true},
                         // A small one beside a large one: what came may be the large one's.
                         Row{8, 100, 100, 0, false}, Row{8, 100, 104, 0, true},
                         Row{100, 8, 80, 0, false}, Row{100, 8, 81, 0, true},
                         // Somebody who was let in took of it.
                         Row{100, 0, 45, 30, true}, Row{100, 0, 44, 30, false}}) {
    EXPECT_EQ(is_back(risen(row.held, row.others, row.rise, row.taken)), row.back)
        << row.held << " " << row.others << " " << row.rise << " " << row.taken;
  }
}

TEST(SettleRule, WhatIsNotKnownIsNotBack) {
  const Settling known = risen(100, 0, 1000);
  ASSERT_TRUE(is_back(known));
  Settling settling = known;
  settling.held_bytes = 0;
  EXPECT_FALSE(is_back(settling));
  settling = known;
  settling.baseline_bytes = kNever_ns;
  EXPECT_FALSE(is_back(settling));
  settling = known;
  settling.free_bytes = kNever_ns;
  EXPECT_FALSE(is_back(settling));
  settling = known;
  settling.others_bytes = kNever_ns;
  EXPECT_FALSE(is_back(settling));
}

// --- The judge -----------------------------------------------------------------------------------

class Settle : public ::testing::Test {
 protected:
  Settle() {
    snapshot_.now_ns = kNow_ns;
    snapshot_.backends.reserve(8);
    facts_.epoch = 1;
    sample_.taken_ns = kNow_ns - 1;
    device(0, 10 * kGiB);
  }
  DeviceSample& device(std::uint32_t index, std::uint64_t free_bytes) {
    sample_.devices.push_back({index, 24 * kGiB, free_bytes, false, {}});
    facts_.devices.sample = &sample_;
    return sample_.devices.back();
  }
  // It has been ready for 100 s, and takes 4 GiB of device 0.
  BackendView& backend(const std::string& model, BackendState state = BackendState::kReady) {
    BackendView b;
    b.ref = {static_cast<std::uint32_t>(snapshot_.backends.size()), 3};
    b.state = {3, 0, state};
    b.model = model;
    b.process.pid = 1000 + static_cast<pid_t>(b.ref.index);
    b.ready_ns = b.last_used_ns = b.reserved_ns = kNow_ns - 100 * kSecond_ns;
    b.noted = pack_half(3, static_cast<std::uint32_t>(BackendState::kReady));
    b.expected.device[0] = 4 * kGiB;
    snapshot_.backends.push_back(b);
    return snapshot_.backends.back();
  }
  BackendView& stopping(const std::string& model) {
    BackendView& b = backend(model, BackendState::kStopping);
    b.stop.generation = b.ref.generation;
    b.stop.reason = Reason::kIdle;
    b.stop.decided_ns = b.stop.stopping_ns = b.stop.signalled_ns = kNow_ns - kSecond_ns;
    b.stop.baseline[0] = 10 * kGiB;
    return b;
  }
  BackendView& settling(const std::string& model, std::uint64_t for_ns = kSecond_ns / 2) {
    BackendView& b = stopping(model);
    b.stop.ended_ns = kNow_ns - for_ns;
    return b;
  }
  Decision decide() {
    const auto effective = std::make_shared<Effective>(effective_);
    for (BackendView& b : snapshot_.backends) b.effective = effective;
    return coordinator::decide(snapshot_, facts_);
  }
  std::vector<std::string> actions() {
    std::vector<std::string> texts;
    for (const Action& action : decide().actions) {
      const std::string& model = snapshot_.find(action.backend)->model;
      texts.push_back((action.kind == ActionKind::kSettle     ? "settle "
                       : action.kind == ActionKind::kMarkGone ? "gone "
                                                              : "other ") +
                      model);
    }
    return texts;
  }

  Effective effective_;
  Snapshot snapshot_;
  Facts facts_;
  Sample sample_;
};

TEST_F(Settle, P3WhoseProcessesAreGoneSettlesIfItHeldMemoryOfADevice) {
  facts_.vanished = {stopping("a").ref};
  EXPECT_THAT(actions(), ElementsAre("settle a"));
}

TEST_F(Settle, ItDoesNotWithoutDeviceBytesOrAMeasureOrAProcessOrTheSetting) {
  BackendView& a = stopping("a");
  facts_.vanished = {a.ref};
  const BackendView before = a;
  a.expected = Bytes();
  EXPECT_THAT(actions(), ElementsAre("gone a")) << "no device bytes";
  a = before;
  a.stop.baseline = StopRecord::unmeasured();
  facts_.devices.sample = nullptr;
  EXPECT_THAT(actions(), ElementsAre("gone a")) << "nobody measures";
  a.peak.device[0] = kGiB;
  EXPECT_THAT(actions(), ElementsAre("settle a")) << "somebody did";
  a = before;
  a.traits = kTraitExternal;
  EXPECT_THAT(actions(), ElementsAre("gone a")) << "not a process of ours";
  a = before;
  EXPECT_THAT(actions(), ElementsAre("settle a")) << "a baseline is a measure";
  effective_.set(Setting::kSettle, 0);
  EXPECT_THAT(actions(), ElementsAre("gone a")) << "settle = off";
}

TEST_F(Settle, ADeviceItWasGivenCountsThoughNobodyKnowsHowMuchItTook) {
  BackendView& a = settling("a");
  a.expected = Bytes();
  a.devices = 1;
  sample_.devices[0].free_bytes = 24 * kGiB;
  EXPECT_THAT(actions(), IsEmpty()) << "by how much free bytes must rise is not known";
  sample_.devices[0].knows_processes = true;
  EXPECT_THAT(actions(), ElementsAre("gone a"));
}

TEST_F(Settle, ItIsGoneWhenFreeBytesHaveRisenOrTheSettingHasPassed) {
  settling("a");
  sample_.devices[0].free_bytes = 13 * kGiB - 1;
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(decide().wake_ns, kNow_ns + 1500 * kMillisecond_ns) << "settle is 2s";
  sample_.devices[0].free_bytes = 13 * kGiB;
  EXPECT_THAT(actions(), ElementsAre("gone a"));
  sample_.devices[0].free_bytes = 0;
  snapshot_.backends[0].stop.ended_ns = kNow_ns - 2 * kSecond_ns;
  EXPECT_THAT(actions(), ElementsAre("gone a"));
}

TEST_F(Settle, ASampleFromBeforeItsProcessesHadGoneSaysNothing) {
  BackendView& a = settling("a");
  sample_.devices[0].free_bytes = 24 * kGiB;
  sample_.taken_ns = a.stop.ended_ns - 1;
  EXPECT_THAT(actions(), IsEmpty());
  sample_.taken_ns = a.stop.ended_ns;
  EXPECT_THAT(actions(), ElementsAre("gone a"));
}

TEST_F(Settle, AllItsDevicesMustBeBack) {
  BackendView& a = settling("a");
  a.expected.device[1] = 2 * kGiB;
  a.stop.baseline[1] = kGiB;
  sample_.devices[0].free_bytes = 24 * kGiB;
  device(1, kGiB);
  EXPECT_THAT(actions(), IsEmpty());
  sample_.devices[1].free_bytes = 3 * kGiB;
  EXPECT_THAT(actions(), ElementsAre("gone a"));
}

TEST_F(Settle, WhatOthersGiveBackThatAreEndingTooIsNotItsOwn) {
  settling("a");
  BackendView& b = stopping("b");
  b.expected.device[0] = 8 * kGiB;
  sample_.devices[0].free_bytes = 18 * kGiB;  // b's
  EXPECT_THAT(actions(), IsEmpty());
  b.state.state = BackendState::kReady;
  b.stop = StopRecord();
  facts_.exited = {b.ref};  // it crashed just now
  facts_.unreaped = {{b.ref, kNever_ns}};
  EXPECT_THAT(actions(), IsEmpty());
  facts_.exited.clear();
  EXPECT_THAT(actions(), ElementsAre("gone a")) << "b lives: nothing of it came back";
}

TEST_F(Settle, WhatThoseTookWhoWereLetInSinceIsNoLoss) {
  BackendView& a = settling("a");
  BackendView& later = backend("later");
  later.reserved_ns = a.stop.stopping_ns + 1;
  sample_.devices[0].free_bytes = 11 * kGiB;
  EXPECT_THAT(actions(), IsEmpty()) << "what it reserved is not taken yet";
  Bytes taken;
  taken.device[0] = 2 * kGiB;
  sample_.backends = {{later.ref, taken}};
  EXPECT_THAT(actions(), ElementsAre("gone a"));
  later.reserved_ns = a.stop.stopping_ns;
  EXPECT_THAT(actions(), IsEmpty()) << "it was there before, and so was what it took";
}

TEST_F(Settle, ADriversListDecidesWhereThereIsOne) {
  BackendView& a = settling("a");
  sample_.devices[0].knows_processes = true;
  sample_.devices[0].free_bytes = 24 * kGiB;
  facts_.devices.listed = {{a.ref, 1}};
  EXPECT_THAT(actions(), IsEmpty());
  facts_.devices.listed.clear();
  sample_.devices[0].free_bytes = 0;
  EXPECT_THAT(actions(), ElementsAre("gone a"));
}

TEST_F(Settle, NobodyIsSignalledOrOverdueWhoSettles) {
  BackendView& a = settling("a");
  a.stop.signalled_ns = kNow_ns - 100 * kSecond_ns;
  a.stop.killed_ns = kNow_ns - 60 * kSecond_ns;
  EXPECT_THAT(actions(), IsEmpty());
}

TEST_F(Settle, WhatWasFreeBeforeTheFirstSignalStandsInTheStopRecord) {
  BackendView& a = backend("a");
  a.control = kControlEvict;
  device(1, kGiB);
  const StopRecord stop = decide().actions.at(0).stop;
  EXPECT_EQ(stop.baseline[0], 10 * kGiB);
  EXPECT_EQ(stop.baseline[1], kNever_ns) << "it is not on it";
  sample_.taken_ns = kNow_ns - 11 * kSecond_ns;
  EXPECT_EQ(decide().actions.at(0).stop.baseline, StopRecord::unmeasured()) << "too old to tell";
}

TEST_F(Settle, ASampleFromBeforeAPlaceWasGivenOnByTimeIsNoBaseline) {
  BackendView& late = settling("late", 3 * kSecond_ns);
  const Decision by_time = decide();
  ASSERT_TRUE(by_time.actions.at(0).by_time);
  facts_.devices.baselines_from_ns = baselines_from_ns(0, by_time, snapshot_);
  EXPECT_EQ(facts_.devices.baselines_from_ns, kNow_ns);
  late.state.state = BackendState::kFree;
  backend("a").control = kControlEvict;
  EXPECT_EQ(decide().actions.at(0).stop.baseline[0], kNever_ns);
  sample_.taken_ns = kNow_ns;
  EXPECT_EQ(decide().actions.at(0).stop.baseline[0], 10 * kGiB);
}

TEST_F(Settle, OneThatEndedByItselfHasNoBaselineAndSettlesByListOrTime) {
  BackendView& a = backend("a");
  facts_.exited = {a.ref};
  const Action action = decide().actions.at(0);
  ASSERT_EQ(action.stop.reason, Reason::kCrashed);
  EXPECT_EQ(action.stop.baseline, StopRecord::unmeasured());
}

TEST_F(Settle, WhoeverIsGoneRaisesTheBaselineOfThoseThatSettleOn) {
  const BackendView& gone = settling("gone");
  StopRecord other = settling("other").stop;
  EXPECT_TRUE(raise_baseline(gone, &other));
  EXPECT_EQ(other.baseline[0], 14 * kGiB);
  EXPECT_EQ(other.baseline[1], kNever_ns);
  BackendView late = gone;
  late.reserved_ns = other.stopping_ns + 1;
  EXPECT_FALSE(raise_baseline(late, &other)) << "it was let in after that stop began";
}

}  // namespace
}  // namespace modelpool::coordinator
