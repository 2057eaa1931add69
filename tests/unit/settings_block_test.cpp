#include "segment/settings_block.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "base/glob.hpp"
#include "pool/change_settings.hpp"
#include "protocol/settings_change.hpp"
#include "support/pool.hpp"

namespace modelpool::test {
namespace {

constexpr auto kPower = static_cast<Setting>(40);  // of a newer program
constexpr auto kDevices = static_cast<Setting>(63);

Rule rule_of(const std::string& pattern, Setting id, std::uint64_t number, std::uint32_t line = 0) {
  Rule rule{pattern, {}};
  rule.overrides.set(id, number, {OriginKind::kConfig, line});
  return rule;
}

// --- What applies to a model ---------------------------------------------------------------------

TEST(Effective, IsTheDefaultWhereNothingIsGiven) {
  for (const Effective& effective : {Effective(), effective_of(Settings{}, "llama")}) {
    for (const SettingInfo& info : kSettings) {
      EXPECT_EQ(effective.get(info.id), info.default_value);
      EXPECT_EQ(effective.origin(info.id).kind, OriginKind::kDefault);
      EXPECT_EQ(effective.rule(info.id), "");
    }
  }
}

TEST(Effective, TheMostSpecificWins) {
  Settings settings;
  settings.pool.set(Setting::kIdleTimeout, 1 * kSecond_ns, {OriginKind::kSet, 0});
  Effective effective = effective_of(settings, "llama-3");
  EXPECT_EQ(effective.get(Setting::kIdleTimeout), 1 * kSecond_ns);
  EXPECT_EQ(effective.origin(Setting::kIdleTimeout).kind, OriginKind::kSet);

  settings.rules.push_back(rule_of("llama*", Setting::kIdleTimeout, 2 * kSecond_ns, 4));
  settings.rules.back().overrides.set(Setting::kBusyTimeout, 9 * kSecond_ns,
                                      {OriginKind::kConfig, 5});
  settings.rules.push_back(rule_of("*-3", Setting::kIdleTimeout, 3 * kSecond_ns, 8));
  effective = effective_of(settings, "llama-3");
  EXPECT_EQ(effective.get(Setting::kIdleTimeout), 3 * kSecond_ns);
  EXPECT_EQ(effective.rule(Setting::kIdleTimeout), "*-3");
  EXPECT_EQ(effective.origin(Setting::kIdleTimeout).line, 8u);
  EXPECT_EQ(effective.get(Setting::kBusyTimeout), 9 * kSecond_ns);
  EXPECT_EQ(effective.rule(Setting::kBusyTimeout), "llama*");

  Overrides given;
  given.set(Setting::kIdleTimeout, 0);  // off is a value like any other
  effective = effective_of(settings, "llama-3", &given);
  EXPECT_EQ(effective.get(Setting::kIdleTimeout), 0u);
  EXPECT_EQ(effective.origin(Setting::kIdleTimeout).kind, OriginKind::kReady);
  EXPECT_EQ(effective.rule(Setting::kIdleTimeout), "");
  EXPECT_EQ(effective.get(Setting::kBusyTimeout), 9 * kSecond_ns);

  EXPECT_EQ(effective_of(settings, "whisper").get(Setting::kIdleTimeout), 1 * kSecond_ns);
}

TEST(Effective, AModelCannotOverrideWhatIsThePools) {
  Settings settings;
  settings.rules.push_back(rule_of("*", Setting::kMaxBackends, 7));
  settings.rules.push_back(rule_of("llama", Setting::kMaxWaiters, 7));
  Overrides given;
  given.set(Setting::kMaxBackends, 7);
  const Effective effective = effective_of(settings, "llama", &given);
  EXPECT_EQ(effective.get(Setting::kMaxBackends), 0u);
  EXPECT_EQ(effective.get(Setting::kMaxWaiters), 512u);
}

TEST(Effective, KeepsTextsAndWhatANewerProgramGave) {
  Settings settings;
  settings.pool.set(kPower, 7, {OriginKind::kSet, 0});
  settings.pool.set({kDevices, {OriginKind::kConfig, 2}, 0, "GPU-1", true});
  settings.rules = {{"llama", {}}};
  const std::string longest(kSettingTextMax_bytes, 'x');
  settings.rules[0].overrides.set({kDevices, {OriginKind::kConfig, 9}, 0, longest, true});
  EXPECT_EQ(effective_of(settings, "whisper").text(kDevices), "GPU-1");
  const Effective effective = effective_of(settings, "llama");
  EXPECT_EQ(effective.get(kPower), 7u);
  EXPECT_EQ(effective.text(kDevices), longest);
  EXPECT_EQ(effective.rule(kDevices), "llama");
  EXPECT_EQ(effective.origin(kDevices).line, 9u);
  EXPECT_EQ(effective.text(kPower), "") << "a number is no text";
}

TEST(Effective, ATextForASettingThatIsANumberCountsForNothing) {
  Settings settings;
  settings.pool.set({Setting::kMaxBackends, {OriginKind::kSet, 0}, 0, "many", true});
  const auto image = SettingsImage::make(settings, SIZE_MAX);
  ASSERT_TRUE(image);
  EXPECT_EQ(image->view().get(Setting::kMaxBackends), 0u);
  EXPECT_EQ(effective_of(settings, "m").origin(Setting::kMaxBackends).kind, OriginKind::kDefault);
}

// What the contract says, told without hashes, order words or two rows of rules.
std::uint64_t plainly(const Settings& settings, Setting id, std::string_view model,
                      std::string* by) {
  std::uint64_t value = settings.get(id);
  by->clear();
  for (const Rule& rule : settings.rules) {
    if (!glob_matches(rule.pattern, model) || !rule.overrides.has(id)) continue;
    value = rule.overrides.get(id);
    *by = rule.pattern;
  }
  return value;
}

TEST(Effective, IsWhatTheRulesSayInTheOrderTheyWereWrittenIn) {
  std::mt19937_64 random(23);
  const auto pick = [&](std::uint64_t n) { return random() % n; };
  constexpr Setting kTried[] = {Setting::kIdleTimeout, Setting::kBusyTimeout, Setting::kStopGrace};
  const std::vector<std::string> patterns{"*", "a*", "?",  "[ab]", "*b", "a",
                                          "b", "ab", "ba", "abc",  "c?*"};
  const std::vector<std::string> models{"a", "b", "c", "ab", "ba", "abc", "cc", "x"};
  for (int round = 0; round < 300; ++round) {
    Settings settings;
    for (std::uint64_t i = pick(40); i > 0; --i) {
      Rule rule{patterns[pick(patterns.size())], {}};
      for (const Setting id : kTried) {
        if (pick(2) == 0) rule.overrides.set(id, pick(1000));
      }
      settings.rules.push_back(std::move(rule));
    }
    if (pick(2) == 0) settings.pool.set(Setting::kIdleTimeout, pick(1000));
    for (const std::string& model : models) {
      const Effective effective = effective_of(settings, model);
      for (const Setting id : kTried) {
        std::string by;
        EXPECT_EQ(effective.get(id), plainly(settings, id, model, &by))
            << model << " in round " << round;
        EXPECT_EQ(effective.rule(id), by) << model << " in round " << round;
      }
    }
  }
}

// --- What is published ---------------------------------------------------------------------------

TEST(SettingsBlock, HoldsFourThousandModelsAndAllGlobsAndFindsEach) {
  const Scratch scratch;
  Capacities capacities = small_capacities();
  capacities.rules = Capacities{}.rules;
  const auto segment = make_segment(scratch, {}, capacities);
  const auto name = [](std::uint64_t i) {
    return "organisation/model-" + std::to_string(i) + "-instruct:q4";
  };
  ASSERT_TRUE(edit_settings(*segment, kSecond_ns, [&](Settings& settings) {
    settings.pool.set(Setting::kBusyTimeout, 11 * kSecond_ns);
    for (std::uint64_t i = 0; i < kGlobsMax; ++i) {
      settings.rules.push_back(rule_of("*-" + std::to_string(i) + "-*", Setting::kDrainTimeout, i));
    }
    for (std::uint64_t i = 0; i < 4096; ++i) {
      settings.rules.push_back(rule_of(name(i), Setting::kIdleTimeout, 1000 + i));
      settings.rules.back().overrides.set(Setting::kStopGrace, 2000 + i);
      settings.rules.back().overrides.set(Setting::kMinResident, 3000 + i);
    }
  }));
  for (std::uint64_t i = 0; i < 4096; ++i) {
    const Effective effective = resolve_settings(*segment, name(i));
    ASSERT_EQ(effective.get(Setting::kIdleTimeout), 1000 + i);
    ASSERT_EQ(effective.get(Setting::kStopGrace), 2000 + i);
    ASSERT_EQ(effective.get(Setting::kMinResident), 3000 + i);
    ASSERT_EQ(effective.get(Setting::kDrainTimeout), i < kGlobsMax ? i : 30 * kSecond_ns);
    ASSERT_EQ(effective.get(Setting::kBusyTimeout), 11 * kSecond_ns);
  }
  EXPECT_EQ(resolve_settings(*segment, name(4096)).get(Setting::kIdleTimeout), 0u);
  EXPECT_EQ(load_settings(*segment).rules.size(), 4096 + kGlobsMax);
}

TEST(SettingsBlock, IsReadBackAsItWasWritten) {
  Settings settings;
  settings.config_hash = 77;
  settings.config_path = "/etc/modelpool/pool.toml";
  settings.pool.set(Setting::kMaxBackends, 3, {OriginKind::kFlag, 0});
  settings.pool.set({kDevices, {OriginKind::kConfig, UINT32_MAX}, 0, "", true});
  settings.pool.set(kPower, UINT64_MAX, {OriginKind::kSet, 0});
  settings.foreign = {{kPower, "max_power", true, false}, {kDevices, "devices", false, true}};
  settings.rules = {
      rule_of("b", Setting::kIdleTimeout, 1, 3), rule_of("*", Setting::kIdleTimeout, 2, 5),
      rule_of("a", Setting::kIdleTimeout, 3, 7), rule_of("b", Setting::kStopGrace, 4, 9)};
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  std::uint64_t before = 0;
  load_settings(*segment, &before);
  ASSERT_TRUE(edit_settings(*segment, kSecond_ns, [&](Settings& s) { s = settings; }));
  std::uint64_t generation = 0;
  const Settings found = load_settings(*segment, &generation);
  EXPECT_EQ(generation, before + 1);
  EXPECT_EQ(found.pool, settings.pool);
  EXPECT_EQ(found.config_hash, settings.config_hash);
  EXPECT_EQ(found.config_path, settings.config_path);
  ASSERT_EQ(found.rules.size(), settings.rules.size());
  for (std::size_t i = 0; i < found.rules.size(); ++i) {
    EXPECT_EQ(found.rules[i].pattern, settings.rules[i].pattern);
    EXPECT_EQ(found.rules[i].overrides, settings.rules[i].overrides);
  }
  ASSERT_EQ(found.foreign.size(), 2u);
  EXPECT_EQ(found.foreign[0].name, "max_power");
  EXPECT_TRUE(found.foreign[0].needed_by_judge);
  EXPECT_FALSE(found.foreign[0].needed_by_workers);
  EXPECT_EQ(found.foreign[1].name, "devices");
  EXPECT_TRUE(found.foreign[1].needed_by_workers);
}

TEST(SettingsBlock, IsNoneUntilPublishedAndThenTheLatest) {
  const Scratch scratch;
  SegmentOptions options;
  options.dir = scratch.dir();
  options.capacities = small_capacities();
  const auto segment = Segment::attach("default", options);
  ASSERT_TRUE(segment);
  EXPECT_EQ(read_settings(**segment, [](const SettingsView&) { FAIL(); }), 0u);
  EXPECT_EQ(pool_setting(**segment, Setting::kLoadTimeout), 600 * kSecond_ns);
  EXPECT_EQ(resolve_settings(**segment, "m").get(Setting::kLoadTimeout), 600 * kSecond_ns);
  EXPECT_EQ(look(*segment).settings, nullptr);
  for (const std::uint64_t limit : {1u, 2u, 3u}) {
    ASSERT_TRUE(change_settings(**segment, {{"max_backends", std::to_string(limit)}}, {}));
    EXPECT_EQ(pool_setting(**segment, Setting::kMaxBackends), limit);
    EXPECT_EQ(look(*segment).settings->get(Setting::kMaxBackends), limit);
  }
}

TEST(SettingsBlock, OfTwoPoolsAreNotMistaken) {
  const Scratch scratch;
  const Settings three = settings_of({{"max_backends", "3"}});
  const Settings four = settings_of({{"max_backends", "4"}});
  SegmentOptions options;
  options.dir = scratch.dir();
  options.settings = &three;
  const auto one = Segment::attach("one", options);
  options.settings = &four;
  const auto two = Segment::attach("two", options);
  ASSERT_TRUE(one && two);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(pool_setting(**one, Setting::kMaxBackends), 3u);
    EXPECT_EQ(pool_setting(**two, Setting::kMaxBackends), 4u);
  }
}

TEST(SettingsBlock, HasARulesHashThatDiffersWhenARuleDoes) {
  const auto hash = [](const Settings& settings) {
    return SettingsImage::make(settings, SIZE_MAX)->view().rules_hash();
  };
  Settings settings;
  settings.rules = {rule_of("a", Setting::kIdleTimeout, 1),
                    rule_of("b*", Setting::kIdleTimeout, 2)};
  const std::uint64_t before = hash(settings);
  settings.pool.set(Setting::kMaxBackends, 5);
  EXPECT_EQ(hash(settings), before);
  settings.rules[1].overrides.set(Setting::kIdleTimeout, 3);
  EXPECT_NE(hash(settings), before);
}

// --- Writers -------------------------------------------------------------------------------------

TEST(SettingsBlock, AWriterThatWasOvertakenStartsOver) {
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  int calls = 0;
  ASSERT_TRUE(edit_settings(*segment, kSecond_ns, [&](Settings& settings) {
    if (++calls == 1) {
      EXPECT_TRUE(change_settings(*segment, {{"max_backends", "2"}}, {}));
    }
    settings.pool.set(Setting::kMaxWaiters, 9);
  }));
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(pool_setting(*segment, Setting::kMaxBackends), 2u);
  EXPECT_EQ(pool_setting(*segment, Setting::kMaxWaiters), 9u);
}

TEST(SettingsBlock, ThatDoesNotFitIsRefusedAndTheOldOneStays) {
  const Scratch scratch;
  const auto segment = make_segment(scratch, {{"max_backends", "2"}});
  const auto refused = edit_settings(*segment, kSecond_ns, [](Settings& settings) {
    settings.pool.set(Setting::kMaxBackends, 3);
    for (int i = 0; i < 500; ++i)
      settings.rules.push_back(rule_of("m" + std::to_string(i), Setting::kIdleTimeout, 1));
  });
  EXPECT_EQ(code_of(refused), Errc::kInvalid);
  EXPECT_NE(text_of(refused).find("more --rules"), std::string::npos) << text_of(refused);
  EXPECT_EQ(pool_setting(*segment, Setting::kMaxBackends), 2u);
  Settings globs;
  for (std::size_t i = 0; i <= kGlobsMax; ++i)
    globs.rules.push_back(rule_of("*", Setting::kIdleTimeout, 1));
  EXPECT_NE(text_of(SettingsImage::make(globs, SIZE_MAX)).find("wildcards"), std::string::npos);
  Settings text;
  text.pool.set({kDevices, {}, 0, std::string(kSettingTextMax_bytes + 1, 'x'), true});
  EXPECT_EQ(code_of(SettingsImage::make(text, SIZE_MAX)), Errc::kInvalid);
}

// `poolctl set` of this version, in a pool that a newer coordinator serves.
TEST(SettingsBlock, AnOlderWriterKeepsWhatItDoesNotKnow) {
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  Settings newer;
  newer.pool.set(kPower, 5, {OriginKind::kConfig, 3});
  newer.foreign = {{kPower, "max_power", true, true}};
  newer.rules = {{"llama", {}}};
  newer.rules[0].overrides.set({kDevices, {OriginKind::kConfig, 6}, 0, "GPU-1", true});
  ASSERT_TRUE(edit_settings(*segment, kSecond_ns, [&](Settings& settings) { settings = newer; }));
  ASSERT_TRUE(change_settings(*segment, {{"max_backends", "4"}}, {OriginKind::kSet, 0}));
  const Settings found = load_settings(*segment);
  EXPECT_EQ(found.get(Setting::kMaxBackends), 4u);
  EXPECT_EQ(*found.pool.find(kPower), *newer.pool.find(kPower));
  EXPECT_EQ(found.rules.at(0).overrides, newer.rules[0].overrides);
  EXPECT_EQ(found.unknown_to_judge(), bit_of(kPower));
  EXPECT_EQ(found.foreign.at(0).name, "max_power");
}

TEST(SettingsBlock, ASettingThatIsNotGivenIsNotInUse) {
  Settings settings;
  settings.foreign = {{kPower, "max_power", true, true}};
  const auto unused = SettingsImage::make(settings, SIZE_MAX);
  EXPECT_EQ(unused->view().unknown_to_workers(), 0u);
  EXPECT_EQ(unused->view().pool().unknown_to_judge(), 0u);
  settings.rules = {rule_of("llama", kPower, 1)};
  const auto used = SettingsImage::make(settings, SIZE_MAX);
  EXPECT_EQ(used->view().unknown_to_workers(), bit_of(kPower));
  EXPECT_EQ(used->view().pool().unknown_to_judge(), bit_of(kPower));
}

// --- Programs of another version -----------------------------------------------------------------

TEST(ASettingOfANewerProgram, LeavesLeasesButNoPlaceAndNoTicketAndIsNamed) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  load_external(pool, "loaded").release();
  publish_foreign(segment_of(pool), {kPower, "max_power", false, true});
  EXPECT_TRUE(pool.acquire("loaded", std::chrono::seconds(0)));
  for (const auto patience : {0, 30}) {
    const auto refused = pool.acquire("other", std::chrono::seconds(patience));
    EXPECT_EQ(code_of(refused), Errc::kIncompatible);
    EXPECT_NE(text_of(refused).find("setting 40 (max_power)"), std::string::npos)
        << text_of(refused);
  }
  EXPECT_EQ(look(pool).waiters.size(), 0u);
  withdraw_foreign(segment_of(pool), kPower);
  EXPECT_TRUE(pool.acquire("other", std::chrono::seconds(0)));
}

TEST(ASettingOfANewerProgram, EndsTheWaitOfWhoStandsInLine) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "1"}});
  const Lease lease = load_external(pool, "held");
  auto pending = pool.begin_acquire("wanted", std::chrono::seconds(30));
  ASSERT_TRUE(pending);
  ASSERT_FALSE(pending->poll()->has_value());
  publish_foreign(segment_of(pool), {kPower, "", false, true});
  EXPECT_TRUE(pending->was_woken());
  const auto refused = pending->poll();
  EXPECT_EQ(code_of(refused), Errc::kIncompatible);
  EXPECT_NE(text_of(refused).find("setting 40,"), std::string::npos) << text_of(refused);
}

TEST(ASettingOfANewerProgram, ThatOnlyTheJudgeMustKnowIsNothingToWorkers) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  publish_foreign(segment_of(pool), {kPower, "max_power", true, false});
  EXPECT_TRUE(pool.acquire("m", std::chrono::seconds(0)));
}

TEST(ASettingOfANewerProgram, IsNotWhatDamageMakesOfTheWordsThatTellOfIt) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const Segment& segment = segment_of(pool);
  const Word* const copy = segment.settings_copy(segment.settings().generation.load());
  auto& head = *const_cast<SettingsHead*>(reinterpret_cast<const SettingsHead*>(copy));
  for (Word* const word : {&head.judge, &head.admit}) {
    word->fetch_or(bit_of(kPower));
    EXPECT_EQ(load_settings(segment).unknown_to_judge(), 0u);
    EXPECT_TRUE(pool.acquire("m", std::chrono::seconds(0)));
    EXPECT_THAT(look(pool).damage,
                ::testing::Contains(::testing::HasSubstr("contradicts its hash")));
    word->fetch_and(~bit_of(kPower));
    EXPECT_THAT(look(pool).damage, ::testing::IsEmpty());
  }
}

// --- What `ready` gives --------------------------------------------------------------------------

TEST(GivenSettings, AreTheNumbersOfThoseGivenInTheirOrder) {
  Overrides overrides;
  overrides.set(Setting::kStopGrace, 5);
  overrides.set(Setting::kBusyTimeout, 0);
  const GivenSettings given = pack_given(overrides);
  EXPECT_EQ(given.given, bit_of(Setting::kStopGrace) | bit_of(Setting::kBusyTimeout));
  EXPECT_EQ(given.number[0], 0u);
  EXPECT_EQ(given.number[1], 5u);
  const Overrides found = unpack_given(given);
  EXPECT_EQ(found.get(Setting::kStopGrace), 5u);
  EXPECT_TRUE(found.has(Setting::kBusyTimeout));
  EXPECT_EQ(found.entries().size(), 2u);
  EXPECT_EQ(unpack_given({UINT64_MAX, {}}).entries().size(), kGivenMax);
}

// --- The snapshot --------------------------------------------------------------------------------

TEST(SnapshotReaderSettings, AreResolvedAgainOnlyWhenTheyOrTheSlotChange) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"idle_timeout", "1m"}});
  ReadyOptions own;
  own.overrides.set(Setting::kStopGrace, 2 * kSecond_ns);
  load_external(pool, "m", own).release();
  SnapshotReader reader(shared_segment_of(pool));
  const auto effective = [&] { return reader.read().backends.at(0).effective; };
  const auto first = effective();
  EXPECT_EQ(first->get(Setting::kIdleTimeout), 60 * kSecond_ns);
  EXPECT_EQ(first->get(Setting::kStopGrace), 2 * kSecond_ns);
  EXPECT_EQ(effective(), first) << "the same object: nothing was resolved";
  ASSERT_TRUE(pool.set("idle_timeout", "2m"));
  const auto second = effective();
  EXPECT_EQ(second->get(Setting::kIdleTimeout), 120 * kSecond_ns);
  EXPECT_EQ(second->get(Setting::kStopGrace), 2 * kSecond_ns);
  EXPECT_EQ(effective(), second);
}

}  // namespace
}  // namespace modelpool::test
