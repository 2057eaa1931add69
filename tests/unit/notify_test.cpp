#include "notify.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>

namespace modelpool::coordinator {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

constexpr const char* kVariables[] = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"};

// A supervisor of the test's own: a datagram socket, as systemd's.
class Supervisor {
 public:
  explicit Supervisor(std::string address) : address_(std::move(address)) {
    socket_.reset(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    std::memcpy(name.sun_path, address_.data(), address_.size());
    if (address_[0] == '@') name.sun_path[0] = '\0';
    const std::size_t bytes =
        offsetof(sockaddr_un, sun_path) + address_.size() + (address_[0] == '/' ? 1 : 0);
    if (bind(socket_.get(), reinterpret_cast<const sockaddr*>(&name),
             static_cast<socklen_t>(bytes)) != 0) {
      std::abort();
    }
    setenv("NOTIFY_SOCKET", address_.c_str(), 1);
  }
  ~Supervisor() {
    if (address_[0] == '/') unlink(address_.c_str());
  }

  // The next datagram, "" if there is none. Sending is done when the call that sends returns.
  std::string read() const {
    char text[4096];
    const ssize_t bytes = recv(socket_.get(), text, sizeof text, 0);
    return bytes < 0 ? std::string() : std::string(text, static_cast<std::size_t>(bytes));
  }

 private:
  std::string address_;
  Fd socket_;
};

class NotifyTest : public ::testing::Test {
 protected:
  NotifyTest() {
    for (const char* name : kVariables) unsetenv(name);
    std::string pattern = (std::filesystem::temp_directory_path() / "notify_test.XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) std::abort();
    dir_ = pattern;
  }
  ~NotifyTest() override {
    for (const char* name : kVariables) unsetenv(name);
    std::filesystem::remove_all(dir_);
  }

  std::string path() const { return (dir_ / "socket").string(); }

  std::filesystem::path dir_;
};

TEST_F(NotifyTest, WithoutASupervisorNothingHappens) {
  auto notifier = Notifier::make(-1);
  ASSERT_TRUE(notifier) << notifier.error().text;
  notifier->ready("up");
  notifier->status("idle");
  notifier->watchdog();
  notifier->reloading();
  notifier->stopping("bye");
  EXPECT_EQ(notifier->watchdog_interval_ns(), 0u);
}

TEST_F(NotifyTest, SystemdIsToldEveryState) {
  const Supervisor supervisor(path());
  auto notifier = Notifier::make(-1);
  ASSERT_TRUE(notifier) << notifier.error().text;
  notifier->ready("2 backends");
  EXPECT_EQ(supervisor.read(), "READY=1\nSTATUS=2 backends\n");
  notifier->status("3 backends");
  EXPECT_EQ(supervisor.read(), "STATUS=3 backends\n");
  notifier->watchdog();
  EXPECT_EQ(supervisor.read(), "WATCHDOG=1\n");
  const std::uint64_t before_us = now_ns() / kMicrosecond_ns;
  notifier->reloading();
  const std::string reloading = supervisor.read();
  ASSERT_THAT(reloading, MatchesRegex("RELOADING=1\nMONOTONIC_USEC=[0-9]+\n"));
  EXPECT_GE(std::stoull(reloading.substr(reloading.rfind('=') + 1)), before_us);
  notifier->ready("reloaded");
  EXPECT_EQ(supervisor.read(), "READY=1\nSTATUS=reloaded\n");
  notifier->stopping("leaving");
  EXPECT_EQ(supervisor.read(), "STOPPING=1\nSTATUS=leaving\n");
  EXPECT_EQ(supervisor.read(), "");
}

TEST_F(NotifyTest, AnAbstractSocketIsUnderstood) {
  const Supervisor supervisor("@" + path());
  auto notifier = Notifier::make(-1);
  ASSERT_TRUE(notifier) << notifier.error().text;
  notifier->status("here");
  EXPECT_EQ(supervisor.read(), "STATUS=here\n");
}

TEST_F(NotifyTest, AStatusCannotSmuggleInAnotherState) {
  const Supervisor supervisor(path());
  auto notifier = Notifier::make(-1);
  ASSERT_TRUE(notifier) << notifier.error().text;
  notifier->status("x\nSTOPPING=1");
  EXPECT_EQ(supervisor.read(), "STATUS=x\\x0aSTOPPING=1\n");
}

TEST_F(NotifyTest, ChildrenInheritNeitherEnvironmentNorDescriptor) {
  const Supervisor supervisor(path());
  setenv("WATCHDOG_USEC", "1000000", 1);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const Fd reader(ends[0]);
  auto notifier = Notifier::make(ends[1]);
  ASSERT_TRUE(notifier) << notifier.error().text;
  for (const char* name : kVariables) EXPECT_EQ(std::getenv(name), nullptr) << name;
  EXPECT_EQ(fcntl(ends[1], F_GETFD), FD_CLOEXEC);
}

TEST_F(NotifyTest, ASupervisorThatIsGoneHarmsNothingAndLearnsTheStateWhenItIsBack) {
  { const Supervisor gone(path()); }
  auto notifier = Notifier::make(-1);
  ASSERT_TRUE(notifier) << notifier.error().text;
  notifier->ready("up");
  notifier->status("lost");
  const Supervisor back(path());
  notifier->watchdog();
  EXPECT_EQ(back.read(), "READY=1\nSTATUS=up\nWATCHDOG=1\n");
  notifier->watchdog();
  EXPECT_EQ(back.read(), "WATCHDOG=1\n");
}

TEST_F(NotifyTest, ASupervisorThatDoesNotReadCannotStallTheLoop) {
  const Supervisor supervisor(path());
  auto notifier = Notifier::make(-1);
  ASSERT_TRUE(notifier) << notifier.error().text;
  // More than any queue of datagrams holds; a call that waits would never return.
  for (int i = 0; i < 20'000; ++i) notifier->status("again");
  notifier->ready("up");
  while (!supervisor.read().empty()) {
  }
  notifier->status("read again");
  EXPECT_EQ(supervisor.read(), "READY=1\nSTATUS=up\nSTATUS=read again\n");
}

TEST_F(NotifyTest, TheWatchdogIsDueAtHalfItsTimeAndOnlyForThisProcess) {
  setenv("WATCHDOG_USEC", "3000000", 1);
  setenv("WATCHDOG_PID", std::to_string(getpid()).c_str(), 1);
  EXPECT_EQ(Notifier::make(-1)->watchdog_interval_ns(), 1'500 * kMillisecond_ns);
  setenv("WATCHDOG_USEC", "3000000", 1);
  setenv("WATCHDOG_PID", std::to_string(getppid()).c_str(), 1);
  EXPECT_EQ(Notifier::make(-1)->watchdog_interval_ns(), 0u);
  setenv("WATCHDOG_USEC", "soon", 1);
  unsetenv("WATCHDOG_PID");
  EXPECT_EQ(Notifier::make(-1)->watchdog_interval_ns(), 0u);
}

TEST_F(NotifyTest, S6IsToldOnceByALineAndThenTheDescriptorIsClosed) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const Fd reader(ends[0]);
  auto notifier = Notifier::make(ends[1]);
  ASSERT_TRUE(notifier) << notifier.error().text;
  notifier->status("not yet");
  notifier->ready("up");
  notifier->ready("again");
  char text[16];
  EXPECT_EQ(read(reader.get(), text, sizeof text), 1);
  EXPECT_EQ(text[0], '\n');
  EXPECT_EQ(read(reader.get(), text, sizeof text), 0);  // closed
}

TEST_F(NotifyTest, AClosedReaderRaisesNoSignal) {
  struct sigaction before {};
  struct sigaction deadly {};
  deadly.sa_handler = SIG_DFL;
  ASSERT_EQ(sigaction(SIGPIPE, &deadly, &before), 0);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  auto notifier = Notifier::make(ends[1]);
  ASSERT_TRUE(notifier) << notifier.error().text;
  close(ends[0]);
  notifier->ready("up");
  sigset_t pending;
  sigpending(&pending);
  EXPECT_EQ(sigismember(&pending, SIGPIPE), 0);
  sigaction(SIGPIPE, &before, nullptr);
}

TEST_F(NotifyTest, P13ADescriptorThatCannotBeWrittenToIsRefused) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const Fd reader(ends[0]);
  { const Fd writer(ends[1]); }
  const struct {
    int fd;
    const char* reason;
  } cases[] = {
      {ends[1], "it is not open"}, {ends[0], "it is read-only"}, {1, "taken"}, {-7, "taken"}};
  for (const auto& c : cases) {
    const auto notifier = Notifier::make(c.fd);
    ASSERT_FALSE(notifier) << c.fd;
    EXPECT_EQ(notifier.error().code, Errc::kInvalid);
    EXPECT_THAT(notifier.error().text, HasSubstr(c.reason));
  }
  EXPECT_NE(fcntl(ends[0], F_GETFD), -1);  // not ours to close
}

TEST_F(NotifyTest, P13AnAddressNobodyUnderstandsIsRefused) {
  for (const std::string& address : {std::string("relative"), "/" + std::string(200, 'a')}) {
    setenv("NOTIFY_SOCKET", address.c_str(), 1);
    const auto notifier = Notifier::make(-1);
    ASSERT_FALSE(notifier) << address;
    EXPECT_EQ(notifier.error().code, Errc::kInvalid);
    EXPECT_THAT(notifier.error().text, HasSubstr("NOTIFY_SOCKET"));
  }
}

}  // namespace
}  // namespace modelpool::coordinator
