#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/time.hpp"
#include "pool/change_settings.hpp"
#include "protocol/settings_change.hpp"
#include "segment/settings_block.hpp"
#include "support/daemon.hpp"
#include "support/pool.hpp"
#include "support/process.hpp"

namespace modelpool::test {
namespace {

constexpr std::uint64_t kRounds = 2000;  // of each writer

// Every value of a publication is the same number.
Settings all_equal(std::uint64_t number) {
  Settings settings;
  settings.pool.set(Setting::kIdleTimeout, number);
  for (const char* pattern : {"m", "other", "*", "m"}) settings.rules.push_back({pattern, {}});
  for (int i = 0; i < 60; ++i) settings.rules.push_back({"m" + std::to_string(i), {}});
  for (Rule& rule : settings.rules) rule.overrides.set(Setting::kBusyTimeout, number);
  settings.rules[2].overrides.set(Setting::kStallTimeout, number);
  settings.rules[3].overrides.set(Setting::kStopGrace, number);
  return settings;
}

void publish_next(const Segment& segment) {
  const auto edited = edit_settings(segment, kLockWaitMax_ns, [](Settings& settings) {
    settings = all_equal(settings.pool.get(Setting::kIdleTimeout) + 1);
  });
  ASSERT_TRUE(edited) << edited.error().text;
}

void expect_equal(const Effective& effective) {
  for (const Setting id : {Setting::kBusyTimeout, Setting::kStallTimeout, Setting::kStopGrace}) {
    EXPECT_EQ(effective.get(id), effective.get(Setting::kIdleTimeout)) << setting_info(id).name;
  }
}

// Until so many publications were made, or something is wrong.
void read_until(const Segment& segment, std::uint64_t generation) {
  for (std::uint64_t seen = 0; seen < generation && !testing::Test::HasFailure();) {
    expect_equal(resolve_settings(segment, "m"));
    const Settings all = load_settings(segment, &seen);
    for (const Rule& rule : all.rules) {
      EXPECT_EQ(rule.overrides.get(Setting::kBusyTimeout), all.pool.get(Setting::kIdleTimeout))
          << rule.pattern;
    }
  }
}

TEST(PublishedSettings, OfTwoWritersAreNeverLostAndReadersSeeEachAsAWhole) {
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  publish_next(*segment);
  const std::uint64_t last = segment->settings().generation.load() + 2 * kRounds;
  const auto reads = [&](Forked::Child&) { read_until(*make_segment(scratch), last); };
  const auto writes = [&](Forked::Child&) {
    const auto mine = make_segment(scratch);
    for (std::uint64_t i = 0; i < kRounds; ++i) publish_next(*mine);
  };
  Forked reader(reads);
  Forked first(writes);
  Forked second(writes);
  read_until(*segment, last);
  EXPECT_EQ(first.wait(), 0);
  EXPECT_EQ(second.wait(), 0);
  EXPECT_EQ(reader.wait(), 0);
  EXPECT_EQ(pool_setting(*segment, Setting::kIdleTimeout), 1 + 2 * kRounds)
      << "each change built on the one before";
}

// One publication after the other, with the time of a few reads between: readers are overtaken
// often, but not for ever.
TEST(PublishedSettings, OfWhoPublishesAllTheTimeAreReadAsAWhole) {
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  publish_next(*segment);
  const std::uint64_t last = segment->settings().generation.load() + 5'000;
  Forked writer([&](Forked::Child&) {
    const auto mine = make_segment(scratch);
    std::vector<SettingsImage> images;
    for (std::uint64_t number = 1; number <= 3; ++number) {
      images.push_back(
          std::move(*SettingsImage::make(all_equal(number), mine->settings_copy_words())));
    }
    const auto lock = mine->lock_structure();
    for (std::uint64_t from = last - 5'000; from < last; ++from) {
      publish_settings(*mine, *lock, images[from % images.size()]);
      for (int i = 0; i < 4; ++i) expect_equal(resolve_settings(*mine, "m"));
    }
  });
  read_until(*segment, last);
  EXPECT_EQ(writer.wait(), 0);
}

// The one who stands still under the mutex has not published: the others read on, and when it is
// killed the next writer finds the old settings (P6).
TEST(PublishedSettings, AreTheOldOnesWhileAWriterStandsStillAndAfterItWasKilled) {
  const Scratch scratch;
  const auto segment = make_segment(scratch, {{"max_backends", "2"}});
  Forked writer([&](Forked::Child& parent) {
    const auto mine = make_segment(scratch);
    std::uint64_t from = 0;
    Settings settings = load_settings(*mine, &from);
    settings.pool.set(Setting::kMaxBackends, 3);
    const auto image = SettingsImage::make(settings, mine->settings_copy_words());
    const auto lock = mine->lock_structure();
    image->copy_to(mine->settings_copy(from + 1));  // all but the store of the generation
    parent.say("stands");
    parent.hear();
  });
  ASSERT_EQ(writer.hear(), "stands");
  EXPECT_EQ(pool_setting(*segment, Setting::kMaxBackends), 2u);
  EXPECT_EQ(code_of(edit_settings(*segment, kMillisecond_ns, [](Settings&) {})), Errc::kBusy);
  writer.kill_now();
  ASSERT_TRUE(change_settings(*segment, {{"max_waiters", "7"}}, {}));
  EXPECT_EQ(pool_setting(*segment, Setting::kMaxBackends), 2u);
  EXPECT_EQ(pool_setting(*segment, Setting::kMaxWaiters), 7u);
}

}  // namespace
}  // namespace modelpool::test
