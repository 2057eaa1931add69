// Who belongs to a backend, as a table: one value for each kind of evidence (P3, P7).
#include "policy/belonging.hpp"

#include <gtest/gtest.h>

namespace modelpool::test {
namespace {

constexpr std::uint64_t kNow_ns = 100 * kSecond_ns;
constexpr pid_t kNumber = 500;

BackendFacts backend(NumberOwner group, NumberOwner session, std::uint64_t alive_ticks = 0) {
  return {1000, kNumber, group, session, alive_ticks};
}
// Started after the backend's first process, in a group and session of its own.
ProcessFacts stranger() {
  ProcessFacts process;
  process.start_ticks = 2000;
  process.group = 700;
  process.session = 700;
  return process;
}
ProcessFacts in_group() {
  ProcessFacts process = stranger();
  process.group = kNumber;
  return process;
}
ProcessFacts in_session() {
  ProcessFacts process = stranger();
  process.session = kNumber;
  return process;
}
Belongs told(const BackendFacts& facts, const ProcessFacts& process) {
  return certainty_of(facts, process, kNow_ns).belongs;
}

TEST(Belonging, AStrangerDoesNotBelong) {
  for (const NumberOwner owner :
       {NumberOwner::kBackend, NumberOwner::kAnother, NumberOwner::kUnknown}) {
    EXPECT_EQ(told(backend(owner, owner, 5000), stranger()), Belongs::kNo);
  }
}

TEST(Belonging, WhileTheNumberIsTheBackendsItsGroupAndSessionAre) {
  const BackendFacts facts = backend(NumberOwner::kBackend, NumberOwner::kBackend);
  EXPECT_EQ(told(facts, in_group()), Belongs::kYes);
  EXPECT_EQ(told(facts, in_session()), Belongs::kYes);
  ProcessFacts older = in_group();
  older.start_ticks = 1;
  EXPECT_EQ(told(facts, older), Belongs::kYes) << "a group can be joined";
  older = in_session();
  older.start_ticks = 1;
  EXPECT_EQ(told(facts, older), Belongs::kNo) << "a session cannot";
}

TEST(Belonging, P7ANumberThatIsAnothersProvesThatItDoesNot) {
  const BackendFacts facts = backend(NumberOwner::kAnother, NumberOwner::kAnother, 5000);
  EXPECT_EQ(told(facts, in_group()), Belongs::kNo);
  EXPECT_EQ(told(facts, in_session()), Belongs::kNo);
}

TEST(Belonging, WhoWasThereBeforeTheFirstProcessWasSeenToEndBelongs) {
  EXPECT_EQ(told(backend(NumberOwner::kUnknown, NumberOwner::kUnknown, 2000), in_group()),
            Belongs::kYes);
  EXPECT_EQ(told(backend(NumberOwner::kUnknown, NumberOwner::kUnknown, 2000), in_session()),
            Belongs::kYes);
  EXPECT_EQ(told(backend(NumberOwner::kAnother, NumberOwner::kUnknown, 2000), in_session()),
            Belongs::kYes)
      << "nobody is in its group, but somebody in its session";
}

TEST(Belonging, P3P7WhoCameLaterIsNeitherSignalledNorGone) {
  for (const std::uint64_t alive : {std::uint64_t{0}, std::uint64_t{1999}}) {
    const auto certainty = certainty_of(
        backend(NumberOwner::kUnknown, NumberOwner::kUnknown, alive), in_group(), kNow_ns);
    EXPECT_EQ(certainty.belongs, Belongs::kUnknown);
    EXPECT_EQ(certainty.why, LeftWhy::kUnproved);
    EXPECT_EQ(certainty.until_ns, kNever_ns) << "asking again tells no more";
  }
}

TEST(Belonging, ItsOwnEvidenceOutweighsANumberThatIsAnothers) {
  const BackendFacts facts = backend(NumberOwner::kAnother, NumberOwner::kAnother);
  ProcessFacts process = stranger();
  process.token = TokenSeen::kYes;
  EXPECT_EQ(told(facts, process), Belongs::kYes);
  process = stranger();
  process.is_child_of_member = true;
  EXPECT_EQ(told(facts, process), Belongs::kYes);
  process = stranger();
  process.is_in_cgroup = true;
  EXPECT_EQ(told(facts, process), Belongs::kYes);
  process = stranger();
  process.is_known = true;
  EXPECT_EQ(told(facts, process), Belongs::kYes);
}

TEST(Belonging, P7WhoIsSparedOrHasEndedNeverDoes) {
  const BackendFacts facts = backend(NumberOwner::kBackend, NumberOwner::kBackend, 5000);
  ProcessFacts process = in_group();
  process.token = TokenSeen::kYes;
  process.is_child_of_member = process.is_in_cgroup = process.is_known = true;
  process.is_spared = true;
  EXPECT_EQ(told(facts, process), Belongs::kNo);
  process.is_spared = false;
  process.has_ended = true;
  EXPECT_EQ(told(facts, process), Belongs::kNo);
}

TEST(Belonging, P7AnOlderProcessCannotCarryItsToken) {
  ProcessFacts process = stranger();
  process.start_ticks = 999;
  process.token = TokenSeen::kYes;
  EXPECT_EQ(told(backend(NumberOwner::kBackend, NumberOwner::kBackend), process), Belongs::kNo);
}

TEST(Belonging, WhoIsJustExecutingAProgramIsAskedAgainForASecond) {
  const BackendFacts facts = backend(NumberOwner::kBackend, NumberOwner::kBackend);
  ProcessFacts process = stranger();
  process.token = TokenSeen::kHidden;
  process.hidden_since_ns = kNow_ns - kExecMax_ns + 1;
  const auto certainty = certainty_of(facts, process, kNow_ns);
  EXPECT_EQ(certainty.belongs, Belongs::kUnknown);
  EXPECT_EQ(certainty.until_ns, kNow_ns + 1);
  process.hidden_since_ns -= 1;
  EXPECT_EQ(told(facts, process), Belongs::kNo) << "it has no environment";
}

TEST(Belonging, WhatCannotBeReadNowIsAskedAgain) {
  ProcessFacts process = stranger();
  process.is_readable = false;
  const auto certainty =
      certainty_of(backend(NumberOwner::kBackend, NumberOwner::kBackend), process, kNow_ns);
  EXPECT_EQ(certainty.belongs, Belongs::kUnknown);
  EXPECT_EQ(certainty.until_ns, kNow_ns + kUnreadableRetry_ns);
}

TEST(Belonging, ABackendWithoutAGroupHasNobodyByNumber) {
  BackendFacts facts = backend(NumberOwner::kUnknown, NumberOwner::kUnknown, 5000);
  facts.group = 0;
  ProcessFacts process = stranger();
  process.group = process.session = 0;  // as of a process that could not be asked
  EXPECT_EQ(told(facts, process), Belongs::kNo);
}

}  // namespace
}  // namespace modelpool::test
