// Whose the bytes of devices are, where processes are told apart and where they are not.
#include "device_use.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace modelpool::coordinator {
namespace {

constexpr std::uint64_t kTotal_bytes = 1000;

DeviceSample device(std::uint64_t used, std::vector<std::pair<pid_t, std::uint64_t>> processes) {
  return {0, kTotal_bytes, kTotal_bytes - used, true, std::move(processes)};
}
DeviceSample blind(std::uint64_t used) { return {0, kTotal_bytes, kTotal_bytes - used, false, {}}; }

enum Is { kLoading, kLoaded, kEnding };
DeviceUser user(std::uint32_t slot, Is is = kLoaded, std::vector<pid_t> processes = {}) {
  DeviceUser one;
  one.ref = {slot, 1};
  one.processes = std::move(processes);
  one.is_loading = is == kLoading;
  one.is_ending = is == kEnding;
  return one;
}

std::uint64_t of(const DeviceUse::Told& told, std::uint32_t slot) {
  for (const auto& [ref, bytes] : told.backends) {
    if (ref.index == slot) return bytes.device[0];
  }
  return UINT64_MAX;
}

TEST(DeviceUse, AProcessIsItsBackendsAndOthersAreForeign) {
  DeviceUse use;
  const auto told = use.tell({device(900, {{10, 300}, {11, 100}, {20, 50}, {99, 400}})},
                             {user(1, kLoaded, {10, 11}), user(2, kLoaded, {20}), user(3)});
  EXPECT_EQ(of(told, 1), 400u);
  EXPECT_EQ(of(told, 2), 50u);
  EXPECT_EQ(of(told, 3), 0u);
  EXPECT_EQ(told.foreign.device[0], 450u) << "99's, and what the driver keeps";
}

TEST(DeviceUse, WithoutProcessesABackendHasWhatTheDeviceRoseByWhileItAloneWasLoaded) {
  DeviceUse use;
  use.tell({blind(100)}, {});
  use.tell({blind(100)}, {user(1, kLoading)});
  EXPECT_EQ(of(use.tell({blind(300)}, {user(1, kLoading)}), 1), 200u);
  EXPECT_EQ(of(use.tell({blind(250)}, {user(1, kLoading)}), 1), 150u) << "a buffer was given back";
  const auto told = use.tell({blind(500)}, {user(1)});
  EXPECT_EQ(of(told, 1), 400u);
  EXPECT_EQ(told.foreign.device[0], 100u);
  EXPECT_EQ(of(use.tell({blind(600)}, {user(1)}), 1), 400u) << "later it may be anybody's";
}

TEST(DeviceUse, OfTwoLoadsAtOnceNothingIsTold) {
  DeviceUse use;
  use.tell({blind(100)}, {});
  use.tell({blind(100)}, {user(1, kLoading), user(2, kLoading)});
  const auto told = use.tell({blind(500)}, {user(1), user(2, kLoading)});
  EXPECT_EQ(of(told, 1), 0u);
  EXPECT_EQ(of(told, 2), 0u);
  EXPECT_EQ(told.foreign.device[0], 500u);
  EXPECT_EQ(of(use.tell({blind(700)}, {user(1), user(2)}), 2), 200u) << "from then on it was alone";
}

TEST(DeviceUse, WhatFallsWhileAnotherEndsIsNotTakenFromALoad) {
  DeviceUse use;
  use.tell({blind(100)}, {});
  use.tell({blind(400)}, {user(1, kLoading)});
  use.tell({blind(400)}, {user(1)});
  use.tell({blind(400)}, {user(1), user(2, kLoading)});
  EXPECT_EQ(of(use.tell({blind(500)}, {user(1), user(2, kLoading)}), 2), 100u);
  EXPECT_EQ(of(use.tell({blind(300)}, {user(1, kEnding), user(2, kLoading)}), 2), 100u);
  EXPECT_EQ(of(use.tell({blind(200)}, {user(2, kLoading)}), 2), 100u) << "1 has gone meanwhile";
  EXPECT_EQ(of(use.tell({blind(350)}, {user(2, kLoading)}), 2), 250u);
}

TEST(DeviceUse, WhatCouldNotBeMeasuredCountsAsDeclaredOnceTheLoadIsOver) {
  DeviceUse use;
  DeviceUser declared = user(1, kLoading);
  declared.assumed.device[0] = 300;
  EXPECT_EQ(use.tell({blind(500)}, {declared}).foreign.device[0], 500u);
  declared.is_loading = false;
  EXPECT_EQ(use.tell({blind(500)}, {declared}).foreign.device[0], 200u) << "not twice";
  declared.assumed.device[0] = UINT64_MAX;
  EXPECT_EQ(use.tell({blind(500)}, {declared, declared}).foreign.device[0], 0u);
}

TEST(DeviceUse, P10WhatAnEarlierCoordinatorMeasuredIsKnown) {
  DeviceUse use;
  DeviceUser known = user(1);
  known.before.device[0] = 400;
  const auto told = use.tell({blind(500)}, {known});
  EXPECT_EQ(of(told, 1), 400u);
  EXPECT_EQ(told.foreign.device[0], 100u);
}

TEST(DeviceUse, AnotherGenerationIsAnotherBackend) {
  DeviceUse use;
  use.tell({blind(100)}, {});
  use.tell({blind(400)}, {user(1, kLoading)});
  DeviceUser next = user(1, kLoading);
  next.ref.generation = 2;
  EXPECT_EQ(of(use.tell({blind(400)}, {next}), 1), 0u);
}

TEST(DeviceUse, DevicesThatNobodyHasAreLeftOut) {
  DeviceUse use;
  DeviceSample wrong = blind(1);
  wrong.device = kDevicesMax;
  DeviceSample torn = blind(0);
  torn.free_bytes = torn.total_bytes + 1;
  EXPECT_EQ(use.tell({wrong, torn}, {user(1)}).foreign, Bytes{});
}

}  // namespace
}  // namespace modelpool::coordinator
