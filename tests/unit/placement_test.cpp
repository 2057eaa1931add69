// Where a model is put, and what else must go with it: devices, groups, loads at once.
#include "policy/placement.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "policy/line.hpp"
#include "policy/victims.hpp"

namespace modelpool {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr std::uint64_t kNow_ns = 1'000'000 * kSecond_ns;
const std::vector<std::uint64_t> kHeavy{1};
const std::vector<std::uint64_t> kVision{2};
const std::vector<std::uint64_t> kBoth{1, 2};

Limits two_devices(std::uint64_t first, std::uint64_t second) {
  Limits limits;
  limits.devices = 3;
  limits.device[0].bytes = first;
  limits.device[1].bytes = second;
  return limits;
}

Resident on_device(std::uint32_t slot, std::uint32_t device, std::uint64_t bytes,
                   std::uint64_t load_s = 1) {
  Resident r;
  r.ref = {slot, 1};
  r.state = BackendState::kReady;
  r.model = 100 + slot;
  r.ready_ns = r.last_used_ns = kNow_ns - 1000 * kSecond_ns;
  r.load_ns = load_s * kSecond_ns;
  r.interval_ns = kSecond_ns;
  r.devices = 1u << device;
  r.holds.set_bytes(index_of_device(device), bytes);
  return r;
}

Waiting asks(std::uint64_t arrival, std::uint32_t count, std::uint64_t bytes) {
  Waiting w;
  w.arrival = arrival;
  w.model = arrival;
  w.deadline_ns = kNever_ns;
  w.looked_ns = kNow_ns;
  w.takes.set(index_of(Resource::kLoads), 1);
  w.devices.count = count;
  w.devices.bytes.fill(bytes);
  return w;
}

std::uint32_t devices_of(const std::optional<Placement>& placement) {
  return placement ? placement->devices : 0;
}

std::vector<std::uint32_t> placements(const Waiting& waiter, std::uint32_t known) {
  std::vector<std::uint32_t> all;
  for_each_placement(waiter, known, [&](const Placement& p) { all.push_back(p.devices); });
  return all;
}

TEST(Placements, AreAllChoicesOfSoManyDevices) {
  EXPECT_THAT(placements(asks(1, 0, 5), 7), ElementsAre(0u)) << "it asks for none";
  EXPECT_THAT(placements(asks(1, 1, 5), 0b1011), ElementsAre(1u, 2u, 8u));
  EXPECT_THAT(placements(asks(1, 2, 5), 0b1011), UnorderedElementsAre(3u, 9u, 10u));
  EXPECT_THAT(placements(asks(1, 4, 5), 0b1011), IsEmpty());
  EXPECT_EQ(placements(asks(1, 16, 5), 0xffff).size(), 1u);
  Waiting named = asks(1, 2, 5);
  named.devices.which = 0b1010;
  EXPECT_THAT(placements(named, 0b1011), ElementsAre(10u));
  EXPECT_THAT(placements(named, 0b0011), ElementsAre(10u)) << "its settings know them";
}

TEST(Placements, OfAnyTheSizesAreInTheirOrderOfNamedOnesByPosition) {
  Waiting w = asks(1, 2, 0);
  w.devices.bytes[0] = 20;
  w.devices.bytes[1] = 4;
  const Placement any = placed_on(w, 0b1010);
  EXPECT_EQ(any.takes[index_of_device(1)], 20);
  EXPECT_EQ(any.takes[index_of_device(3)], 4);
  w.devices.which = 0b0011;
  EXPECT_EQ(placed_on(w, 0b0011).takes[index_of_device(1)], 4);
}

TEST(Devices, OneIsChosenThatItFitsMostTightly) {
  const Limits limits = two_devices(24, 16);
  EXPECT_EQ(devices_of(Room(limits).place(asks(1, 1, 10))), 2u);
  EXPECT_EQ(devices_of(Room(limits).place(asks(1, 1, 20))), 1u);
  EXPECT_EQ(devices_of(Room(limits).place(asks(1, 2, 16))), 3u);
  EXPECT_FALSE(Room(limits).place(asks(1, 2, 20)));
  EXPECT_TRUE(is_too_large(asks(1, 1, 25), limits));
  EXPECT_TRUE(is_too_large(asks(1, 2, 20), limits));
  EXPECT_FALSE(is_too_large(asks(1, 1, 24), limits));
}

// C(16, 3) choices are more than are tried.
TEST(Devices, OfSixteenThoseWithRoomAreFoundWhicheverTheyAre) {
  Limits limits;
  limits.devices = 0xffff;
  std::vector<Resident> residents;
  for (std::uint32_t d = 0; d < kDevicesMax; ++d) {
    limits.device[d].bytes = 24;
    if (d < 13) residents.push_back(on_device(d, d, 20));
  }
  for (Resident& resident : residents) resident.control = kControlPinned;
  const Waiting three = asks(1, 3, 20);
  EXPECT_EQ(devices_of(Room(limits, residents).place(three)), 0xe000u);
  EXPECT_FALSE(is_blocked_by_pins(three, residents, limits));
  EXPECT_FALSE(is_too_large(three, limits));
  residents.push_back(on_device(13, 13, 20));
  residents.back().control = kControlPinned;
  EXPECT_FALSE(Room(limits, residents).fits(three));
  EXPECT_TRUE(is_blocked_by_pins(three, residents, limits));
}

// Who is behind may have the other device.
TEST(Devices, WhatIsPromisedIsTakenThereAlsoBeforeThereIsRoom) {
  Room room(two_devices(24, 16), std::vector{on_device(0, 0, 24)});
  Waiting first = asks(1, 1, 10);
  first.promised = 1;
  room.take(first);
  EXPECT_EQ(devices_of(room.place(asks(2, 1, 16))), 2u);
}

TEST(Devices, WithoutBytesTheOneWithFewestBackendsIsChosen) {
  Limits limits;
  limits.devices = 3;
  EXPECT_EQ(devices_of(Room(limits, std::vector{on_device(0, 0, 0)}).place(asks(1, 1, 0))), 2u);
  EXPECT_EQ(devices_of(Room(limits, std::vector{on_device(0, 1, 0)}).place(asks(1, 1, 0))), 1u);
}

TEST(Devices, WhatOthersTakeIsNotFreeAndIsNotOurExcess) {
  Limits limits = two_devices(24, 16);
  limits.device[0].foreign = 20;
  EXPECT_EQ(devices_of(Room(limits).place(asks(1, 1, 10))), 2u);
  EXPECT_FALSE(Room(limits).place(asks(1, 1, 20)));
  EXPECT_FALSE(is_too_large(asks(1, 1, 20), limits)) << "they may give it back";
  EXPECT_FALSE(is_blocked_by_pins(asks(1, 1, 20), {}, limits)) << "nobody is pinned";
  EXPECT_EQ(Room(limits, std::vector{on_device(0, 0, 20)}).excess(), Amounts());
  EXPECT_EQ(Room(limits, std::vector{on_device(0, 0, 25)}).excess()[index_of_device(0)], 1);
}

TEST(Devices, ThoseThatAreNotKnownAreAwaited) {
  const Limits limits = two_devices(24, 16);
  EXPECT_TRUE(lacks_devices(asks(1, 3, 1), limits));
  EXPECT_FALSE(is_too_large(asks(1, 3, 1), limits));
  EXPECT_FALSE(Room(limits).fits(asks(1, 3, 1)));
}

TEST(Devices, WhatIsPromisedIsTakenFirstAndKeptFreeFromThoseBehind) {
  const Limits limits = two_devices(24, 24);
  Waiting first = asks(1, 1, 20);
  first.promised = 2;
  EXPECT_EQ(devices_of(Room(limits).place(first)), 2u);
  const std::vector<Waiting> line{first};
  EXPECT_EQ(devices_of(find_turn(line, asks(2, 1, 20), Room(limits), {})), 1u);
  // Not promised anything yet, and nothing fits: those behind may take nothing that it might.
  const std::vector<Resident> full{on_device(0, 0, 20), on_device(1, 1, 20)};
  const std::vector<Waiting> unplaced{asks(1, 1, 20)};
  EXPECT_FALSE(find_turn(unplaced, asks(2, 1, 4), Room(limits, full), full));
  EXPECT_TRUE(find_turn(unplaced, asks(2, 0, 0), Room(limits, full), full)) << "it needs none";
}

// Behind 64 models nobody was looked at, whatever those lacked.
TEST(Devices, P5WhoTakesNothingThatOthersLackPassesHoweverManyTheyAre) {
  Limits limits = two_devices(24, 24);
  const std::vector<Resident> full{on_device(0, 0, 20), on_device(1, 1, 20)};
  std::vector<Waiting> line;
  for (std::uint64_t arrival = 1; arrival <= 100; ++arrival) line.push_back(asks(arrival, 1, 20));
  const auto turn = [&](const Waiting& one) {
    return has_turn(line, one, Room(limits, full), full);
  };
  EXPECT_TRUE(turn(asks(200, 0, 0))) << "it takes no device";
  EXPECT_FALSE(turn(asks(200, 1, 1)));
  EXPECT_FALSE(turn(line[99]));
  limits.max_backends = 102;
  EXPECT_FALSE(turn(asks(200, 0, 0))) << "a hundred places are theirs";
  limits.max_backends = 103;
  EXPECT_TRUE(turn(asks(200, 0, 0)));
}

TEST(Devices, OneGuessOfASizeAtATimeOnEach) {
  const Limits limits = two_devices(24, 24);
  Resident loading = on_device(0, 0, 12);
  loading.state = BackendState::kStarting;
  loading.device_size_known = false;
  Waiting unknown = asks(1, 1, 12);
  unknown.device_size_known = false;
  EXPECT_EQ(devices_of(Room(limits, std::vector{loading}).place(unknown)), 2u);
  EXPECT_EQ(devices_of(Room(limits, std::vector{loading}).place(asks(1, 1, 12))), 1u);
  unknown.device_size_known = true;
  unknown.size_known = false;
  EXPECT_EQ(devices_of(Room(limits, std::vector{loading}).place(unknown)), 1u)
      << "its guess is of the host's memory";
}

TEST(Loads, SoManyAtOnce) {
  Limits limits;
  limits.max_loads = 1;
  Resident loading = on_device(0, 0, 0);
  loading.state = BackendState::kReserved;
  loading.holds.set(index_of(Resource::kLoads), 1);
  const std::vector<Resident> one{loading};
  EXPECT_FALSE(has_turn({}, asks(1, 0, 0), Room(limits, one), one));
  Resident ready = on_device(0, 0, 0);
  EXPECT_TRUE(has_turn({}, asks(1, 0, 0), Room(limits, std::vector{ready}), std::vector{ready}));
  const std::vector<Waiting> line{asks(1, 0, 0)};
  EXPECT_FALSE(has_turn(line, asks(2, 0, 0), Room(limits), {})) << "the load is the first one's";
}

TEST(Groups, OneThatLivesKeepsItsGroupOut) {
  Waiting w = asks(1, 0, 0);
  w.groups = kBoth;
  Resident vision = on_device(0, 0, 0);
  vision.groups = kVision;
  const Limits none;
  for (const BackendState state : {BackendState::kReserved, BackendState::kReady,
                                   BackendState::kEvicting, BackendState::kStopping}) {
    vision.state = state;
    EXPECT_FALSE(has_turn({}, w, Room(none), std::vector{vision}));
  }
  vision.overdue = true;
  EXPECT_TRUE(has_turn({}, w, Room(none), std::vector{vision})) << "what cannot die frees it";
  vision.overdue = false;
  vision.groups = {};
  EXPECT_TRUE(has_turn({}, w, Room(none), std::vector{vision}));
  Waiting earlier = asks(0, 0, 0);
  earlier.groups = kHeavy;
  EXPECT_FALSE(has_turn(std::vector{earlier}, w, Room(none), {})) << "he takes the group";
  earlier.groups = kVision;
  w.groups = kHeavy;
  EXPECT_TRUE(has_turn(std::vector{earlier}, w, Room(none), {}));
}

// --- What the judge makes of it ------------------------------------------------------------------

struct Pool {
  std::vector<Holding> holdings;
  RoomRules rules;
  RoomPlan plan_;

  Holding& add(const Resident& resident) {
    Holding holding;
    holding.resident = resident;
    holding.resident.ref.index = static_cast<std::uint32_t>(holdings.size());
    holding.role = Holding::Role::kCandidate;
    holding.drain_timeout_ns = 30 * kSecond_ns;
    holdings.push_back(holding);
    return holdings.back();
  }
  static Head head(const Waiting& first) {
    Head h;
    h.first = first;
    h.since_ns = kNow_ns;
    return h;
  }
  // "group 1", "lru 2", "memory 3", "hold 4", "reopen 5": who is closed and why.
  std::vector<std::string> steps(const std::vector<Waiting>& line) {
    rules.order.now_ns = kNow_ns;
    std::vector<Head> heads;
    for (const Waiting& w : line) heads.push_back(head(w));
    Alarm alarm(kNow_ns);
    plan_ = make_room(holdings, heads, rules, alarm);
    std::vector<std::string> texts;
    for (const RoomStep& step : plan_.steps) {
      const std::string verb = step.kind == RoomStep::Kind::kReopen   ? "reopen"
                               : step.kind == RoomStep::Kind::kCommit ? "commit"
                               : step.only_hold                       ? "hold"
                                                                      : reason_name(step.reason);
      texts.push_back(verb + " " + std::to_string(step.holding) +
                      (step.set == 0 ? "" : " of " + std::to_string(step.set)));
    }
    return texts;
  }
};

TEST(RoomOnDevices, TheDeviceIsChosenWhoseVictimCostsLeast) {
  Pool pool;
  pool.rules.limits = two_devices(24, 24);
  pool.add(on_device(0, 0, 20, 100));
  pool.add(on_device(1, 1, 20, 5));
  EXPECT_THAT(pool.steps({asks(1, 1, 20)}), ElementsAre("memory 1"));
  ASSERT_EQ(pool.plan_.promises.size(), 1u);
  EXPECT_EQ(pool.plan_.promises[0].devices, 2u);
  EXPECT_EQ(pool.plan_.promises[0].arrival, 1u);
}

TEST(RoomOnDevices, NobodyGoesWhoseBytesAreOnAnotherDevice) {
  Pool pool;
  pool.rules.limits = two_devices(24, 24);
  pool.add(on_device(0, 0, 4, 1));
  pool.add(on_device(1, 1, 20, 100)).role = Holding::Role::kStays;
  pool.add(on_device(2, 0, 18, 50));
  Waiting second = asks(1, 1, 20);
  second.devices.which = 2;
  second.devices.bytes.fill(20);
  EXPECT_THAT(pool.steps({second}), IsEmpty());
  EXPECT_THAT(pool.steps({second, asks(2, 1, 20)}), ElementsAre("memory 2"))
      << "the later one takes nothing that the first lacks";
}

TEST(RoomOnDevices, TwoHeadsGetADeviceEach) {
  Pool pool;
  pool.rules.limits = two_devices(24, 24);
  pool.add(on_device(0, 0, 20, 10));
  pool.add(on_device(1, 1, 20, 20));
  EXPECT_THAT(pool.steps({asks(1, 1, 20), asks(2, 1, 20)}), ElementsAre("memory 0", "memory 1"));
  ASSERT_EQ(pool.plan_.promises.size(), 2u);
  EXPECT_EQ(pool.plan_.promises[0].devices | pool.plan_.promises[1].devices, 3u);
}

TEST(RoomOnDevices, ASpreadModelTakesBothOrNobodyGoes) {
  Pool pool;
  pool.rules.limits = two_devices(24, 24);
  pool.add(on_device(0, 0, 20, 10));
  Holding& other = pool.add(on_device(1, 1, 20, 20));
  EXPECT_THAT(pool.steps({asks(1, 2, 20)}), ElementsAre("memory 0 of 1", "memory 1 of 1"));
  other.role = Holding::Role::kStays;
  EXPECT_THAT(pool.steps({asks(1, 2, 20)}), IsEmpty());
}

TEST(RoomForGroups, ItsGroupGoesHoweverMuchRoomThereIs) {
  Pool pool;
  pool.add(on_device(0, 0, 0)).resident.groups = kHeavy;
  pool.add(on_device(1, 0, 0)).resident.groups = kVision;
  Waiting w = asks(1, 0, 0);
  w.groups = kHeavy;
  EXPECT_THAT(pool.steps({w}), ElementsAre("group 0"));
  w.groups = kBoth;
  EXPECT_THAT(pool.steps({w}), UnorderedElementsAre("group 0 of 1", "group 1 of 1"));
}

TEST(RoomForGroups, WhatItsGroupFreesIsCountedFirst) {
  Pool pool;
  pool.rules.limits.max_backends = 2;
  pool.add(on_device(0, 0, 0, 1));
  pool.add(on_device(1, 0, 0, 100)).resident.groups = kHeavy;
  Waiting w = asks(1, 0, 0);
  w.groups = kHeavy;
  EXPECT_THAT(pool.steps({w}), ElementsAre("group 1")) << "the cheaper one need not go as well";
}

TEST(RoomForGroups, NobodyGoesWhileOneOfItsGroupMayNot) {
  Pool pool;
  pool.rules.limits.max_backends = 2;
  pool.add(on_device(0, 0, 0, 1));
  Holding& kept = pool.add(on_device(1, 0, 0, 100));
  kept.resident.groups = kHeavy;
  kept.resident.in_flight = 1;
  kept.max_wait_ns = 60 * kSecond_ns;
  Waiting w = asks(1, 0, 0);
  w.groups = kHeavy;
  Head head = Pool::head(w);
  head.load_ns = kSecond_ns;
  EXPECT_THAT(pool.steps({w}), ElementsAre("group 1")) << "its load is not known: at once";
  pool.rules.order.now_ns = kNow_ns;
  Alarm alarm(kNow_ns);
  EXPECT_THAT(make_room(pool.holdings, std::vector{head}, pool.rules, alarm).steps, IsEmpty())
      << "its turn has not come";
  kept.role = Holding::Role::kStays;
  EXPECT_THAT(pool.steps({w}), IsEmpty());
}

TEST(RoomForGroups, TwoThatLiveTogetherSinceAReloadArePartedWithoutACut) {
  Pool pool;
  pool.add(on_device(0, 0, 0, 1)).resident.groups = kHeavy;
  pool.add(on_device(1, 0, 0, 100)).resident.groups = kBoth;
  pool.add(on_device(2, 0, 0, 50)).resident.groups = kVision;
  EXPECT_THAT(pool.steps({}), UnorderedElementsAre("group 0", "group 2"));
  pool.holdings[0].when_busy = WhenBusy::kForce;
  pool.holdings[0].resident.in_flight = 1;
  EXPECT_THAT(pool.steps({}), Not(IsEmpty()));
  for (const RoomStep& step : pool.plan_.steps) EXPECT_FALSE(step.forced);
}

}  // namespace
}  // namespace modelpool
