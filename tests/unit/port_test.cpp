#include "base/port.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/process.hpp"
#include "support/scratch.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

// As a server does that sets no option.
Fd bind_plainly(int port) {
  Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  const bool bound =
      bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
      listen(fd.get(), 1) == 0;
  return bound ? std::move(fd) : Fd();
}

std::size_t open_descriptors() {
  return static_cast<std::size_t>(std::distance(
      std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator()));
}

TEST(Port, ThatIsHeldCanBeBoundByAServerWithoutOptions) {
  const auto held = hold_free_port();
  ASSERT_TRUE(held) << held.error().text;
  EXPECT_TRUE(bind_plainly(held->number()));
}

TEST(Port, LiesOutsideOfTheRangeTheKernelHandsOut) {
  std::ifstream range("/proc/sys/net/ipv4/ip_local_port_range");
  int first = 0;
  int last = 0;
  ASSERT_TRUE(range >> first >> last);
  if (last - first > 40'000) GTEST_SKIP() << "nearly all ports are the kernel's here";
  for (int i = 0; i < 100; ++i) {
    const int port = hold_free_port()->number();
    EXPECT_TRUE(port < first || port > last) << port;
  }
}

// Two processes take hundreds at random: without holding them some would be the same.
TEST(Port, IsNobodyElsesWhileItIsHeld) {
  constexpr int kCount = 400;
  const auto take = [](std::vector<HeldPort>* held) {
    std::string numbers;
    for (int i = 0; i < kCount; ++i) {
      auto port = hold_free_port();
      if (!port) throw std::runtime_error(port.error().text);
      numbers += " " + std::to_string(port->number());
      held->push_back(std::move(*port));
    }
    return numbers;
  };
  std::vector<std::unique_ptr<Forked>> others;
  for (int i = 0; i < 3; ++i) {
    others.push_back(std::make_unique<Forked>([&](Forked::Child& parent) {
      std::vector<HeldPort> held;
      parent.say(take(&held));
      parent.hear();
    }));
  }
  std::vector<HeldPort> held;
  std::string all = take(&held);
  for (const auto& other : others) all += other->hear();
  std::istringstream numbers(all);
  std::set<int> different;
  for (int number; numbers >> number;) different.insert(number);
  EXPECT_EQ(different.size(), 4u * kCount);
}

TEST(Port, ThatSomebodyListensOnIsNotFree) {
  std::vector<Fd> servers;
  std::set<int> taken;
  for (int i = 0; i < 200; ++i) {
    const int port = hold_free_port()->number();
    servers.push_back(bind_plainly(port));
    ASSERT_TRUE(servers.back());
    EXPECT_TRUE(taken.insert(port).second) << port;
  }
}

// Python's and C's callers keep no object; the process keeps the last ones, and not more.
TEST(FreePort, IsHeldByTheProcessAndCostsABoundedNumberOfDescriptors) {
  std::set<int> ports;
  const std::size_t before = open_descriptors();
  for (int i = 0; i < 64; ++i) EXPECT_TRUE(ports.insert(free_port().value()).second);
  for (int i = 0; i < 500; ++i) free_port().value();
  EXPECT_LE(open_descriptors(), before + 64);
}

TEST(FreePort, ClosesNothingThatHasTakenTheNumberOfItsDescriptor) {
  Forked child([](Forked::Child&) {
    free_port().value();
    for (int fd = 3; fd < 256; ++fd) close(fd);  // as a server that daemonises does
    std::vector<Fd> own;
    for (int i = 0; i < 100; ++i) own.emplace_back(dup(2));
    for (int i = 0; i < 200; ++i) free_port().value();
    for (const Fd& fd : own) EXPECT_GE(fcntl(fd.get(), F_GETFD), 0);
  });
  EXPECT_EQ(child.wait(), 0);
}

}  // namespace
