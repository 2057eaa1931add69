#include "base/program.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>

#include "support/process.hpp"

namespace modelpool {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr ProgramExits kExits = {.faulty = 3, .refused = 1};

struct Said {
  int code;
  std::string err;
};
Said say(const std::function<int()>& body) {
  ::testing::internal::CaptureStderr();
  const int code = run_program("prog", kExits, body);
  return {code, ::testing::internal::GetCapturedStderr()};
}

TEST(ProgramTest, TheCodeOfItsBodyIsItsOwn) {
  const Said said = say([] { return 42; });
  EXPECT_EQ(said.code, 42);
  EXPECT_EQ(said.err, "");
}

TEST(ProgramTest, AFileThatMayNotGrowIsAnErrorOfTheWrite) {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::tmpfile(), std::fclose);
  const Said said = say([&file] {
    rlimit before{};
    getrlimit(RLIMIT_FSIZE, &before);
    const rlimit nothing{0, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &nothing);
    const bool wrote = write(fileno(file.get()), "x", 1) == 1;
    const int error = errno;
    setrlimit(RLIMIT_FSIZE, &before);
    return wrote ? 0 : error;
  });
  EXPECT_EQ(said.code, EFBIG);
}

TEST(ProgramTest, P13AnExceptionOfALibraryIsAMessageAndAnExitCode) {
  const Said faulty =
      say([]() -> int { throw std::logic_error("Invalid positional Name: KEY=VALUE"); });
  EXPECT_EQ(faulty.code, 3);
  EXPECT_THAT(faulty.err,
              StartsWith("prog: unable to go on: Invalid positional Name: KEY=VALUE; "));
  const Said memory = say([]() -> int { throw std::bad_alloc(); });
  EXPECT_EQ(memory.code, 1);
  EXPECT_EQ(memory.err, "prog: unable to go on: out of memory\n");
  const Said threads =
      say([]() -> int { throw std::system_error(EAGAIN, std::generic_category(), "thread"); });
  EXPECT_EQ(threads.code, 1);
  EXPECT_THAT(threads.err, HasSubstr("Resource temporarily unavailable"));
}

TEST(ProgramTest, P13OutputThatNobodyCouldTakeIsNotSilentlyLost) {
  const std::string programs[] = {MODELPOOL_POOLCTL, MODELPOOL_COORDINATORD, MODELPOOL_DEMO_BACKEND,
                                  MODELPOOL_DEMO_WORKER};
  for (const std::string& program : programs) {
    const test::Finished done = test::run({"sh", "-c", "exec " + program + " --help >/dev/full"});
    const bool is_installed = program == programs[0] || program == programs[1];
    EXPECT_EQ(done.code, is_installed ? 3 : 1) << program;
    EXPECT_THAT(done.err, HasSubstr("unable to write the output: No space left")) << program;
  }
}

}  // namespace
}  // namespace modelpool
