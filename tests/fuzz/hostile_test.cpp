// Defects that hostile bytes found, one test each.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <random>

#include "base/time.hpp"
#include "protocol/worker.hpp"
#include "segment/settings_block.hpp"
#include "support/pool.hpp"

namespace modelpool::test {
namespace {

// It was reaped in every scan, 64 scans a millisecond, with an event each time.
TEST(HostileBytes, AWorkerRowInNoKnownStateIsReapedOnce) {
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  WorkerRecord& row = segment->worker(3);
  row.state.store(pack_half(9, 2));
  clear_worker_row(*segment, {3, 9}, segment->coordinator_row());
  EXPECT_EQ(row.state.load(), pack_half(9, 0));
}

// A copy of settings that ends where memory ends: a read beyond it is the end of the test.
class SettingsAtTheEdge : public ::testing::Test {
 protected:
  static constexpr std::size_t kPages = 4;

  explicit SettingsAtTheEdge(std::size_t text_bytes = 200) {
    map_ = static_cast<std::byte*>(mmap(nullptr, (kPages + 1) * kPage_bytes, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(map_ + kPages * kPage_bytes, kPage_bytes, PROT_NONE);
    Settings settings;
    settings.config_path = "/etc/modelpool/pool.toml";
    for (const SettingInfo& info : kSettings) settings.pool.set(info.id, info.default_value);
    settings.pool.set({static_cast<Setting>(40), {}, 0, "a text", true});
    for (const char* pattern : {"llama", "l*", "llama", "[a-m]*", "whisper", "?*"}) {
      Rule rule{pattern, {}};
      rule.overrides.set(Setting::kIdleTimeout, kSecond_ns, {OriginKind::kConfig, 7});
      rule.overrides.set({static_cast<Setting>(41), {}, 0, std::string(text_bytes, 't'), true});
      settings.rules.push_back(std::move(rule));
    }
    const auto image = SettingsImage::make(settings, kPages * kPage_bytes / sizeof(Word));
    words_ = image->words();
    image->copy_to(copy());
  }
  ~SettingsAtTheEdge() override { munmap(map_, (kPages + 1) * kPage_bytes); }

  Word* copy() { return reinterpret_cast<Word*>(map_ + kPages * kPage_bytes) - words_; }
  std::size_t words() const { return words_; }

  void read() {
    const SettingsView view(copy(), words_);
    Overrides all;
    for (std::size_t i = 0; i < kSettingCapacity; ++i) all.set(static_cast<Setting>(i), UINT64_MAX);
    for (const char* model : {"llama", "whisper", ""}) {
      Effective effective;
      view.resolve(model, &effective);
      effective.take_of_ready(all);
      for (const SettingInfo& info : kSettings) {
        ASSERT_EQ(clamp_setting(info, effective.get(info.id)), effective.get(info.id)) << info.name;
        ASSERT_TRUE(is_printable_utf8(origin_text("", effective.origin(info.id))));
        ASSERT_LE(effective.rule(info.id).size(), kSettingTextMax_bytes);
      }
    }
    for (const SettingInfo& info : kSettings)
      ASSERT_EQ(clamp_setting(info, view.get(info.id)), view.get(info.id));
    const PoolSettings pool = view.pool();
    ASSERT_TRUE(is_printable_utf8(settings_text(UINT64_MAX, pool)));
    ASSERT_LE(view.rules().size(), words_);
    // A tool changes one thing and writes the rest back.
    Settings settings;
    static_cast<PoolSettings&>(settings) = pool;
    settings.rules = view.rules();
    static_cast<void>(SettingsImage::make(settings, words_));
  }

  void read_with_any_word_in_any_place() {
    constexpr std::uint64_t kHigh = std::uint64_t{1} << 32;
    for (std::size_t i = 0; i < words(); ++i) {
      const std::uint64_t good = copy()[i].load();
      for (const std::uint64_t bad :
           {std::uint64_t{0}, std::uint64_t{1}, UINT64_MAX, UINT64_MAX - 1, kHigh, kHigh - 1,
            kHigh + 1, std::uint64_t{kSettingCapacity}, kHigh * 64 + 64, kHigh * 255 + 1,
            kHigh * 0x7fffffff, good + 1, good - 1, good + kHigh, good - kHigh, good << 1, ~good}) {
        copy()[i].store(bad);
        read();
        if (HasFatalFailure()) return;
      }
      copy()[i].store(good);
    }
  }

 private:
  std::byte* map_;
  std::size_t words_ = 0;
};

// With them a list of entries that is too long ends beyond the copy, not in the texts behind it.
class SettingsAtTheEdgeWithShortTexts : public SettingsAtTheEdge {
 protected:
  SettingsAtTheEdgeWithShortTexts() : SettingsAtTheEdge(1) {}
};

TEST_F(SettingsAtTheEdge, AreReadWithAnyWordInAnyPlace) { read_with_any_word_in_any_place(); }

TEST_F(SettingsAtTheEdgeWithShortTexts, AreReadWithAnyWordInAnyPlace) {
  read_with_any_word_in_any_place();
}

TEST_F(SettingsAtTheEdge, AreReadWithNoiseAllOver) {
  std::mt19937_64 random(31);
  for (int round = 0; round < 3000; ++round) {
    for (int writes = 0; writes < 20; ++writes) {
      copy()[random() % words()].store(random() >> random() % 64);
    }
    read();
    if (HasFatalFailure()) return;
  }
}

// The generation is a word like any other: nobody waits for one that stands still.
TEST(HostileBytes, AGenerationThatNeverRestsEndsAnywhere) {
  const Scratch scratch;
  const auto segment = make_segment(scratch, {{"max_backends", "2"}});
  int reads = 0;
  read_settings(*segment, [&](const SettingsView&) {
    ++reads;
    segment->settings().generation.fetch_add(2);
  });
  EXPECT_LE(reads, 10'000);
}

TEST(HostileBytes, SettingsWhoseRulesLeadOutOfThemAreNamedAsDamage) {
  const Scratch scratch;
  const auto segment = make_segment(scratch, {{"max_backends", "2"}});
  EXPECT_TRUE(look(segment).damage.empty());
  auto& head = *reinterpret_cast<SettingsHead*>(segment->settings_copy(1));
  head.entry_count.store(UINT64_MAX);
  const Snapshot s = look(segment);
  ASSERT_EQ(s.damage.size(), 1u);
  EXPECT_NE(s.damage[0].find("settings"), std::string::npos) << s.damage[0];
  EXPECT_EQ(s.settings->get(Setting::kMaxBackends), 2u)
      << "what does not depend on it is still read";
}

}  // namespace
}  // namespace modelpool::test
