#include "modelpool/result.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <set>
#include <string>

using namespace modelpool;  // NOLINT(google-build-using-namespace)

TEST(Errc, EveryCodeHasANameOfItsOwn) {
  std::set<std::string> names;
  for (int code = 1; code <= static_cast<int>(kErrcLast); ++code) {
    const std::string name(errc_name(static_cast<Errc>(code)));
    EXPECT_NE(name, "unknown") << code;
    EXPECT_EQ(name.find_first_not_of("abcdefghijklmnopqrstuvwxyz_"), std::string::npos) << name;
    names.insert(name);
  }
  EXPECT_EQ(names.size(), 21u);
  EXPECT_EQ(errc_name(Errc::kQueueFull), "queue_full");
  EXPECT_EQ(errc_name(Errc::kTimeout), "timeout");
  EXPECT_EQ(errc_name(Errc::kSystem), "system");
}

TEST(Errc, ACodeFromOutsideIsUnknown) {
  EXPECT_EQ(errc_name(static_cast<Errc>(0)), "unknown");
  EXPECT_EQ(errc_name(static_cast<Errc>(22)), "unknown");
  EXPECT_EQ(errc_name(static_cast<Errc>(-7)), "unknown");
}

TEST(Error, OfASystemCallSaysWhatFailedAndWhy) {
  const Result<> result = fail_errno(ENOSPC, "create the pool \"x\"");
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Errc::kSystem);
  EXPECT_EQ(result.error().system, ENOSPC);
  EXPECT_EQ(result.error().retry_after_ns, 0u);
  EXPECT_EQ(result.error().text, "unable to create the pool \"x\": No space left on device");
}

TEST(Error, OfASystemCallEndsWithTheAdvice) {
  const Result<> result = fail_errno(EMFILE, "open process 7", "raise the limit with ulimit -n");
  EXPECT_EQ(result.error().text,
            "unable to open process 7: Too many open files; raise the limit with ulimit -n");
}

TEST(Error, AnUnknownErrnoIsItsNumber) {
  const Result<> result = fail_errno(4711, "do it");
  EXPECT_EQ(result.error().text, "unable to do it: error 4711");
  EXPECT_EQ(result.error().system, 4711);
}

TEST(Error, TravelsBetweenResultsOfDifferentTypes) {
  const auto inner = []() -> Result<int> { return fail(Errc::kBusy, "unable to lock: held"); };
  const auto outer = [&inner]() -> Result<std::string> {
    Result<int> number = inner();
    if (!number) return fail(std::move(number.error()));
    return std::to_string(*number);
  };
  const Result<std::string> result = outer();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Errc::kBusy);
  EXPECT_EQ(result.error().text, "unable to lock: held");
}
