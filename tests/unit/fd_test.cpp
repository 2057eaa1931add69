#include "base/fd.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/process.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

void close_stdio() {
  for (const int fd : {0, 1, 2}) close(fd);
}

bool is_null_device(int fd) {
  struct stat by_fd;
  struct stat by_name;
  return fstat(fd, &by_fd) == 0 && stat("/dev/null", &by_name) == 0 &&
         by_fd.st_rdev == by_name.st_rdev && S_ISCHR(by_fd.st_mode);
}

TEST(Stdio, WhatIsClosedIsFilledAndWhatIsOpenStays) {
  const Scratch scratch;
  for (int mask = 0; mask < 8; ++mask) {
    Forked program([&](Forked::Child& parent) {
      for (const int fd : {0, 1, 2}) {
        const Fd file(open(scratch.path("file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
        dup2(file.get(), fd);
      }
      for (const int fd : {0, 1, 2}) {
        if ((mask >> fd & 1) != 0) close(fd);
      }
      fill_stdio();
      std::string wrong;
      for (const int fd : {0, 1, 2}) {
        if (is_null_device(fd) != ((mask >> fd & 1) != 0)) wrong += std::to_string(fd);
        if ((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0) wrong += "x";
      }
      parent.say(wrong.empty() ? "right" : wrong);
    });
    EXPECT_EQ(program.hear(), "right") << mask;
  }
}

TEST(Stdio, WhatIsKeptStandsAboveIt) {
  const Scratch scratch;
  Forked program([&](Forked::Child& parent) {
    close_stdio();
    const Fd opened = open_above_stdio(AT_FDCWD, scratch.path("f").c_str(), O_RDWR | O_CREAT, 0600);
    const auto self = ProcessHandle::open(getpid());
    const bool low_is_free =
        fcntl(0, F_GETFD) < 0 && fcntl(1, F_GETFD) < 0 && fcntl(2, F_GETFD) < 0;
    const bool closes = (fcntl(opened.get(), F_GETFD) & FD_CLOEXEC) != 0;
    parent.say(opened.get() > 2 && self && self->fd() > 2 && low_is_free && closes ? "above"
                                                                                   : "below");
  });
  EXPECT_EQ(program.hear(), "above");
}

TEST(Stdio, AFailedOpenSaysWhy) {
  const Fd none = open_above_stdio(AT_FDCWD, "/nowhere/at/all", O_RDONLY);
  EXPECT_FALSE(none);
  EXPECT_EQ(errno, ENOENT);
}

}  // namespace
