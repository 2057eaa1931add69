#include "segment/layout.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

using namespace modelpool;  // NOLINT(google-build-using-namespace)

namespace {

TEST(StateWord, KeepsEveryFieldApart) {
  for (const std::uint32_t generation : {0u, 1u, 0x80000000u, 0xffffffffu}) {
    for (const std::uint32_t owner : {0u, 1u, 0x800000u, 0xffffffu}) {
      for (std::uint8_t state = 0; state < kBackendStateCount; ++state) {
        const StateWord word{generation, owner, static_cast<BackendState>(state)};
        EXPECT_EQ(StateWord::unpack(word.pack()), word);
      }
    }
  }
  EXPECT_EQ((StateWord{1, 2, BackendState::kReady}.pack()), 0x0000'0001'0000'0203u);
}

TEST(StateWord, OfAFreshSegmentIsFree) {
  EXPECT_EQ(StateWord::unpack(0), (StateWord{0, 0, BackendState::kFree}));
}

TEST(StateWord, ReadsAnUnknownStateAsStopping) {
  EXPECT_EQ(StateWord::unpack(0xff).state, BackendState::kStopping);
  EXPECT_EQ(StateWord::unpack(kBackendStateCount).state, BackendState::kStopping);
}

TEST(StateWord, NamesAWorkerByIndexAndGenerationAndNobodyBy0) {
  EXPECT_NE(StateWord::owner_of({0, 0}), 0u);
  EXPECT_NE(StateWord::owner_of({0, 1}), StateWord::owner_of({0, 2}));
  EXPECT_NE(StateWord::owner_of({0, 1}), StateWord::owner_of({1, 1}));
  EXPECT_LE(StateWord::owner_of({kWorkersMax - 1, 0xffffffff}), StateWord::kOwnerMask);
  for (const std::uint32_t index : {0u, 1u, kWorkersMax - 1}) {
    EXPECT_EQ((StateWord::owner_of({index, 77}) & 0xfff) - 1, index);
  }
}

TEST(BackendStates, AreLiveWhileTheyMayHoldMemory) {
  EXPECT_FALSE(is_live(BackendState::kFree));
  EXPECT_TRUE(is_live(BackendState::kReserved));
  EXPECT_TRUE(is_live(BackendState::kStarting));
  EXPECT_TRUE(is_live(BackendState::kReady));
  EXPECT_TRUE(is_live(BackendState::kEvicting));
  EXPECT_TRUE(is_live(BackendState::kStopping));
  EXPECT_FALSE(is_live(BackendState::kGone));
}

TEST(LeaseWord, KeepsEveryFieldApart) {
  for (const std::uint32_t generation : {1u, 0xffffffffu}) {
    for (const std::uint32_t backend : {0u, 1u, kBackendsMax}) {
      for (const std::uint32_t sequence : {0u, 1u, LeaseWord::kSequenceMask}) {
        const LeaseWord word = LeaseWord::unpack(LeaseWord{generation, backend, sequence}.pack());
        EXPECT_EQ(word.generation, generation);
        EXPECT_EQ(word.backend, backend);
        EXPECT_EQ(word.sequence, sequence);
      }
    }
  }
}

TEST(LeaseWord, LetsNoSequenceSpillIntoTheBackend) {
  const LeaseWord word = LeaseWord::unpack(LeaseWord{1, 5, 0xffffffff}.pack());
  EXPECT_EQ(word.backend, 5u);
  EXPECT_EQ(word.sequence, LeaseWord::kSequenceMask);
}

TEST(LeaseWord, IsNever0WithAGeneration) { EXPECT_NE((LeaseWord{1, 0, 0}.pack()), 0u); }

TEST(Halves, AreWhatWasPacked) {
  const std::uint64_t word = pack_half(0xdeadbeef, 0x12345678);
  EXPECT_EQ(high_half(word), 0xdeadbeefu);
  EXPECT_EQ(low_half(word), 0x12345678u);
}

TEST(SharedText, GivesBackWhatFitsAndCutsWhatDoesNot) {
  const auto text = std::make_unique<SharedText<32>>();
  for (const std::string& value :
       {std::string(), std::string("x"), std::string("12345678"), std::string(31, 'a')}) {
    text->store(value);
    EXPECT_EQ(text->load(), value);
  }
  text->store(std::string(40, 'b'));
  EXPECT_EQ(text->load(), std::string(31, 'b'));
  text->store("short");
  EXPECT_EQ(text->load(), "short");  // nothing of the longer one is left
}

TEST(SharedText, TakesAViewOfNothing) {
  SharedText<16> text;
  text.store("something");
  text.store({});  // no pointer at all: memcpy must not see it
  EXPECT_EQ(text.load(), "");
}

TEST(SharedText, EqualsOnlyTheWholeText) {
  const auto text = std::make_unique<SharedText<32>>();
  for (const std::string& value :
       {std::string(), std::string("llama"), std::string("12345678"), std::string(31, 'a')}) {
    text->store(value);
    EXPECT_TRUE(text->equals(value)) << value;
    EXPECT_FALSE(text->equals(value + "x")) << value;
    if (value.empty()) continue;
    EXPECT_FALSE(text->equals(value.substr(1))) << value;
    EXPECT_FALSE(text->equals(value.substr(0, value.size() - 1))) << value;
  }
  EXPECT_FALSE(text->equals(std::string(500, 'a')));
}

TEST(SharedText, WithoutAnEndIsReadOnlyAsFarAsItGoes) {
  SharedText<16> text;
  std::memset(static_cast<void*>(&text), 'z', sizeof text);
  EXPECT_EQ(text.load(), std::string(15, 'z'));
}

TEST(FieldText, EndsWithTheFieldWhateverIsInIt) {
  std::array<char, 8> field;
  field.fill('z');
  EXPECT_EQ(field_text(field), "zzzzzzzz");
  set_field(&field, "longer than the field");
  EXPECT_EQ(field_text(field), "longer ");
  set_field(&field, "");
  EXPECT_EQ(field_text(field), "");
}

struct Pair {
  std::uint64_t a = 0;
  std::uint64_t b = 0;
};

TEST(SharedCopy, GivesBackTheValue) {
  SharedCopy<Pair> copy;
  copy.store({1, 2});
  EXPECT_EQ(copy.load().a, 1u);
  EXPECT_EQ(copy.load().b, 2u);
}

TEST(Published, CountsItsGenerationsAndShowsTheLast) {
  Published<Pair> published{};
  EXPECT_EQ(published.generation(), 0u);
  for (std::uint64_t i = 1; i <= 5; ++i) {
    published.publish({i, ~i});
    EXPECT_EQ(published.generation(), i);
    EXPECT_EQ(published.load().a, i);
    EXPECT_EQ(published.load().b, ~i);
  }
}

TEST(Published, ShowsOnlyWholeValuesToAReaderThatRacesItsWriter) {
  auto published = std::make_unique<Published<Pair>>();
  published->publish({0, ~std::uint64_t{0}});
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (std::uint64_t i = 1; i < 200'000; ++i) published->publish({i, ~i});
    done = true;
  });
  std::uint64_t torn = 0;
  std::uint64_t last = 0;
  bool backwards = false;
  while (!done) {
    const Pair value = published->load();
    torn += value.a != ~value.b;
    backwards |= value.a < last;
    last = value.a;
  }
  writer.join();
  EXPECT_EQ(torn, 0u);
  EXPECT_FALSE(backwards);
}

TEST(HashName, TellsNamesApartAndIsTheSameInEveryBuild) {
  EXPECT_EQ(hash_name(""), 0u);
  EXPECT_EQ(hash_name("llama-3-8b"), 0x224ead659dc93d29u);
  std::set<std::uint64_t> hashes;
  std::set<std::uint64_t> low_bits;  // what a table of them goes by
  for (int i = 0; i < 10'000; ++i)
    hashes.insert(hash_name("llama-3-8b-instruct-" + std::to_string(i)));
  for (const std::uint64_t hash : hashes) low_bits.insert(hash & 0xffff);
  EXPECT_EQ(hashes.size(), 10'000u);
  EXPECT_GT(low_bits.size(), 9'000u);  // a random function: 9,290
  EXPECT_NE(hash_name("ab"), hash_name(std::string("ab\0", 3)));
}

// Once each word's product was added up: what changed in the last bytes of two words cancelled.
TEST(HashName, TellsNamesApartThatDifferInTheLastBytesOfTwoWords) {
  std::set<std::uint64_t> hashes;
  for (int i = 0; i < 100; ++i) {
    for (int j = 0; j < 100; ++j) {
      char name[32];
      std::snprintf(name, sizeof name, "model-%02d@node-%02d", i, j);
      hashes.insert(hash_name(name));
    }
  }
  for (char a = '0'; a <= '9'; ++a) {
    for (char b = '0'; b <= '9'; ++b) {
      hashes.insert(hash_name(std::string("whisper") + a + "-large-" + b));
    }
  }
  EXPECT_EQ(hashes.size(), 10'100u);
}

TEST(SharedText, ComparesAndStoresEveryLength) {
  std::string text;
  for (std::size_t length = 0; length < 32; ++length) {
    SharedText<32> shared;
    shared.store(text);
    EXPECT_EQ(shared.load(), text);
    EXPECT_TRUE(shared.equals(text));
    EXPECT_FALSE(shared.equals(text + "x"));
    for (std::size_t i = 0; i < length; ++i) {
      std::string other = text;
      other[i] ^= 0x20;
      EXPECT_FALSE(shared.equals(other)) << length << " " << i;
    }
    text += static_cast<char>('a' + length % 26);
  }
}

// Offsets that a newer tool relies on, to list and stop an older pool.
TEST(Layout, KeepsThePlacesItPromisedForEver) {
  EXPECT_EQ(offsetof(Header, magic), 0u);
  EXPECT_EQ(offsetof(Header, layout_version), 8u);
  EXPECT_EQ(offsetof(Header, total_bytes), 16u);
  EXPECT_EQ(offsetof(Header, tables), 32u);
  EXPECT_EQ(offsetof(BackendRecord, state), 0u);
  EXPECT_EQ(offsetof(BackendRecord, pid), 8u);
  EXPECT_EQ(offsetof(BackendRecord, group), 12u);
  EXPECT_EQ(offsetof(BackendRecord, start_ticks), 16u);
  EXPECT_EQ(offsetof(BackendRecord, pidfd_inode), 24u);
}

// The words a newer judge drains an older pool by: where they stand, and where their fields are.
TEST(Layout, FreezesTheFirstWordOfEachRecord) {
  EXPECT_EQ(offsetof(Header, magic), 0u);
  EXPECT_EQ(offsetof(WorkerRecord, state), 0u);
  EXPECT_EQ(offsetof(LeaseRecord, word), 0u);
  EXPECT_EQ(offsetof(BackendRecord, state), 0u);
  EXPECT_EQ(offsetof(WaiterRecord, state), 0u);
  EXPECT_EQ(offsetof(StopRecord, generation), 0u);
  EXPECT_EQ(offsetof(StopRecord, reason), 4u);
  EXPECT_EQ(kSegmentMagic, 0x314c4f4f504c444du);
  EXPECT_EQ((StateWord{7, 0x123456, BackendState::kStopping}.pack()), 0x0000'0007'1234'5605u);
  EXPECT_EQ((LeaseWord{7, 0x123, 0x45678}.pack()), 0x0000'0007'1234'5678u);
  EXPECT_EQ(pack_half(7, static_cast<std::uint32_t>(WorkerState::kAttached)),
            0x0000'0007'0000'0001u);
  EXPECT_EQ(pack_half(7, static_cast<std::uint32_t>(WaiterState::kWaiting)),
            0x0000'0007'0000'0001u);
}

TEST(Layout, HasRoomForKindsAndReasonsToCome) {
  EXPECT_EQ(sizeof(CoordinatorRecord::counters), sizeof(Word) * 32 * 64);
}

TEST(Workers, AreNamedInFull) {
  for (const std::uint32_t index : {0u, 1u, kWorkersMax - 1}) {
    for (const std::uint32_t generation : {1u, 4097u, 0xffffffffu}) {
      EXPECT_EQ(unpack_worker(pack_worker({index, generation})), (WorkerRef{index, generation}));
    }
  }
  EXPECT_NE(pack_worker({0, 0}), 0u);
  EXPECT_GE(unpack_worker(0).index, kWorkersMax) << "nobody";
}

TEST(Layout, KeepsWordsOfDifferentWritersOnDifferentCacheLines) {
  EXPECT_EQ(sizeof(LeaseRecord), 2 * kCacheLine_bytes);
  EXPECT_LE(offsetof(LeaseRecord, tag) + sizeof(SharedText<32>), kCacheLine_bytes)
      << "all that a request writes";
  EXPECT_EQ(offsetof(LeaseRecord, first_byte_limit_ns), kCacheLine_bytes);
  EXPECT_NE(offsetof(WaiterRecord, wake) / kCacheLine_bytes,
            offsetof(WaiterRecord, looked_ns) / kCacheLine_bytes);
  EXPECT_EQ(sizeof(UsedCell), 16u) << "both words of a cell are in one line";
  EXPECT_EQ(sizeof(BackendRecord) % kCacheLine_bytes, 0u);
  EXPECT_EQ(sizeof(WorkerRecord) % kCacheLine_bytes, 0u);
  EXPECT_NE(offsetof(WorkerRecord, leases_high) / kCacheLine_bytes,
            offsetof(WorkerRecord, wake) / kCacheLine_bytes);
  EXPECT_NE(offsetof(CoordinatorRecord, wanted) / kCacheLine_bytes,
            offsetof(CoordinatorRecord, doorbell) / kCacheLine_bytes);
  EXPECT_GE(offsetof(LockRecord, holder_pid) / kCacheLine_bytes, 1u);
}

TEST(Names, OfStatesKindsAndReasonsAreTheContracts) {
  EXPECT_EQ(backend_state_name(BackendState::kReserved), "reserved");
  EXPECT_EQ(backend_state_name(BackendState::kStopping), "stopping");
  EXPECT_EQ(event_kind_name(EventKind::kWorkerDied), "worker_died");
  EXPECT_EQ(reason_name(Reason::kLoadTimeout), "load_timeout");
  EXPECT_EQ(reason_name(Reason::kNone), "");
  EXPECT_EQ(event_kind_name(static_cast<EventKind>(99)), "unknown");
  EXPECT_EQ(reason_name(static_cast<Reason>(99)), "reason 99");
  EXPECT_EQ(backend_state_name(static_cast<BackendState>(99)), "unknown");
}

TEST(ExitText, SaysHowAProcessEndedAndNothingWhenThatIsUnknown) {
  EXPECT_EQ(exit_text(0), "");
  EXPECT_EQ(exit_text(pack_exit(ExitKind::kExited, 0)), "exit status 0");
  EXPECT_EQ(exit_text(pack_exit(ExitKind::kExited, 255)), "exit status 255");
  EXPECT_EQ(exit_text(pack_exit(ExitKind::kSignalled, 9)), "signal SIGKILL");
  EXPECT_EQ(exit_text(pack_exit(static_cast<ExitKind>(77), 9)), "");
}

}  // namespace
