#include "between/shared_text.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

namespace modelpool::serve {
namespace {

using TimePoint = SharedText::TimePoint;
using std::chrono::seconds;

// Another process that has it.
template <class Act>
int in_child(const Act& act) {
  const pid_t pid = fork();
  if (pid == 0) _exit(act() ? 0 : 1);
  int status = -1;
  waitpid(pid, &status, 0);
  return status;
}

TEST(SharedText, IsReadByOthersOnceItIsWritten) {
  SharedText shared;
  EXPECT_FALSE(shared.read());
  EXPECT_FALSE(shared.is_newer(TimePoint()));
  const std::string large(3 << 20, 'x');
  EXPECT_EQ(in_child([&] {
              if (!shared.begin()) return false;
              shared.write({large, TimePoint(seconds(5))});
              shared.end();
              return true;
            }),
            0);
  EXPECT_TRUE(shared.is_newer(TimePoint(seconds(4))));
  EXPECT_FALSE(shared.is_newer(TimePoint(seconds(5))));
  ASSERT_TRUE(shared.read());
  EXPECT_EQ(shared.read()->text, large);
  EXPECT_EQ(shared.read()->since, TimePoint(seconds(5)));
  ASSERT_TRUE(shared.begin());
  shared.write({"less", TimePoint(seconds(6))});
  EXPECT_EQ(shared.read()->text, "less");
}

TEST(SharedText, IsMadeByOneAtATime) {
  SharedText shared;
  ASSERT_TRUE(shared.begin());
  EXPECT_NE(in_child([&] { return shared.begin(); }), 0);
  EXPECT_NE(in_child([&] {
              shared.end();  // not its own
              return shared.begin();
            }),
            0);
  shared.end();
  EXPECT_EQ(in_child([&] { return shared.begin(); }), 0) << "and its end gives it back";
  EXPECT_EQ(in_child([&] { return shared.begin(); }), 0);
}

}  // namespace
}  // namespace modelpool::serve
