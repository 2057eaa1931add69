#include "base/listener.hpp"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <string>

#include "base/port.hpp"
#include "base/proc.hpp"
#include "base/process.hpp"
#include "base/sockets.hpp"
#include "support/pool.hpp"
#include "support/process.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

// A listening socket on this number and port; none if there is no such number here.
Fd listen_on(const std::string& number, int port, bool shared = false) {
  sockaddr_in v4{};
  sockaddr_in6 v6{};
  const bool is_v4 = inet_pton(AF_INET, number.c_str(), &v4.sin_addr) == 1;
  Fd fd(socket(is_v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  if (shared) setsockopt(fd.get(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
  v4.sin_family = AF_INET;
  v6.sin6_family = AF_INET6;
  v4.sin_port = v6.sin6_port = htons(static_cast<std::uint16_t>(port));
  inet_pton(AF_INET6, number.c_str(), &v6.sin6_addr);
  const int bound = is_v4 ? bind(fd.get(), reinterpret_cast<const sockaddr*>(&v4), sizeof v4)
                          : bind(fd.get(), reinterpret_cast<const sockaddr*>(&v6), sizeof v6);
  return bound == 0 && listen(fd.get(), 1) == 0 ? std::move(fd) : Fd();
}

Address at(const std::string& host, int port) { return {{}, host, port, {}}; }

Listener listener_at(const Address& address, pid_t first, pid_t group = 0,
                     std::string_view token = {}) {
  return find_listener(address, {first, group, token});
}

// A child that does nothing but be there.
struct Bystander : Forked {
  Bystander() : Forked([](Child& parent) { parent.hear(); }) {}
};

TEST(Listener, IsTheBackendWhicheverAddressItIsBoundTo) {
  const int port = hold_free_port()->number();
  const Bystander other;
  struct {
    const char* bound;
    const char* asked;
  } const rows[] = {{"127.0.0.1", "127.0.0.1"}, {"127.0.0.1", "localhost"},
                    {"0.0.0.0", "127.0.0.1"},   {"0.0.0.0", "0.0.0.0"},
                    {"::", "127.0.0.1"},        {"::", "::1"},
                    {"::1", "localhost"},       {"::1", "::1"}};
  for (const auto& [bound, asked] : rows) {
    const Fd listener = listen_on(bound, port);
    if (!listener) continue;  // no IPv6
    EXPECT_EQ(listener_at(at(asked, port), getpid()).by, ListenedBy::kBackend) << bound << asked;
    const Listener foreign = listener_at(at(asked, port), other.pid());
    EXPECT_EQ(foreign.by, ListenedBy::kAnother) << bound << asked;
    EXPECT_EQ(foreign.pid, getpid());
    EXPECT_EQ(foreign.command, read_stat(getpid())->command);
  }
}

TEST(Listener, IsFoundHoweverItsHostIsWritten) {
  const int port = hold_free_port()->number();
  const Fd listener = listen_on("127.0.0.1", port);
  for (const char* host : {"127.1", "0x7f.0.0.1", "2130706433", "0", "*", "LOCALHOST.",
                           "m.localhost", "::ffff:127.0.0.1"}) {
    EXPECT_EQ(listener_at(at(host, port), getpid()).by, ListenedBy::kBackend) << host;
    EXPECT_EQ(listening_sockets(at(host, port)).size(), 1u) << host;
  }
  EXPECT_EQ(listening_sockets(at("127.0.0.2", port)).size(), 0u);
  EXPECT_EQ(listening_sockets(at("gpu7.example", port)).size(), 1u) << "by its port alone";
}

TEST(Listener, IsNobodyWhereNoneIsAndUnknownWhereItCannotBeSeen) {
  const int port = hold_free_port()->number();
  EXPECT_EQ(listener_at(at("127.0.0.1", port), getpid()).by, ListenedBy::kNobody);
  const Fd listener = listen_on("127.0.0.1", port);
  EXPECT_EQ(listener_at(at("127.0.0.2", port), getpid()).by, ListenedBy::kNobody);
  // Of another machine, whoever listens here.
  const Listener remote = listener_at(at("192.0.2.1", port), getpid());
  EXPECT_EQ(remote.by, ListenedBy::kUnknown);
  EXPECT_NE(remote.why.find("another machine"), std::string::npos) << remote.why;
  EXPECT_EQ(listener_at(at("gpu7.example", port), getpid()).by, ListenedBy::kUnknown);
}

TEST(Listener, OfASharedPortIsAnotherIfOneOfThemIs) {
  const int port = hold_free_port()->number();
  const Bystander other;
  Forked backend([&](Forked::Child& parent) {
    const Fd own = listen_on("127.0.0.1", port, true);
    parent.say(own ? "listens" : "does not");
    parent.hear();
  });
  ASSERT_EQ(backend.hear(), "listens");
  EXPECT_EQ(listener_at(at("127.0.0.1", port), backend.pid()).by, ListenedBy::kBackend);
  const Fd second = listen_on("127.0.0.1", port, true);
  ASSERT_TRUE(second);
  EXPECT_EQ(listener_at(at("127.0.0.1", port), backend.pid()).by, ListenedBy::kAnother);
}

TEST(Listener, BelongsToTheBackendByDescentGroupAndToken) {
  const int port = hold_free_port()->number();
  const Bystander other;
  Forked backend([&](Forked::Child& parent) {
    setpgid(0, 0);
    Forked child([&](Forked::Child& grandparent) {
      const Fd own = listen_on("127.0.0.1", port);
      grandparent.say(own ? "listens" : "does not");
      grandparent.hear();
    });
    parent.say(child.hear() + " " + std::to_string(child.pid()));
    parent.hear();
  });
  const std::string said = backend.hear();
  ASSERT_TRUE(said.starts_with("listens ")) << said;
  const pid_t child = std::stoi(said.substr(8));
  const Address address = at("127.0.0.1", port);
  EXPECT_EQ(listener_at(address, backend.pid()).by, ListenedBy::kBackend) << "by descent";
  EXPECT_EQ(listener_at(address, other.pid(), backend.pid()).by, ListenedBy::kBackend)
      << "by group";
  EXPECT_EQ(listener_at(address, child).by, ListenedBy::kBackend);
  EXPECT_EQ(listener_at(address, other.pid()).pid, child);
}

TEST(Listener, BelongsToTheBackendByItsToken) {
  const int port = hold_free_port()->number();
  const Bystander other;
  Program::Options options;
  options.env["MODELPOOL_BACKEND"] = "pool/3/7";
  const Program carrier({MODELPOOL_DEMO_BACKEND, "--port", std::to_string(port)}, options);
  const Address address = at("127.0.0.1", port);
  const auto by = [&](std::string_view token) {
    return listener_at(address, other.pid(), 0, token).by;
  };
  ASSERT_TRUE(eventually([&] { return by("pool/3/7") == ListenedBy::kBackend; }));
  EXPECT_EQ(by("pool/3/8"), ListenedBy::kAnother);
  EXPECT_EQ(by(""), ListenedBy::kAnother);
}

TEST(Listener, OnAUnixSocketIsFoundByItsPath) {
  const Scratch scratch;
  const std::string path = scratch.path("m.sock");
  const Bystander other;
  const Fd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  const Address place{path, {}, 0, {}};
  EXPECT_EQ(listener_at(place, getpid()).by, ListenedBy::kUnknown) << "it does not accept yet";
  ASSERT_EQ(listen(listener.get(), 1), 0);
  EXPECT_EQ(listener_at(place, getpid()).by, ListenedBy::kBackend);
  EXPECT_EQ(listener_at(place, other.pid()).by, ListenedBy::kAnother);
  EXPECT_EQ(listener_at({scratch.path("/./m.sock"), {}, 0, {}}, getpid()).by, ListenedBy::kBackend);
}

TEST(Listener, OnAnAbstractUnixSocketIsFoundByItsName) {
  const std::string name = "@modelpool-test-" + std::to_string(getpid());
  const Fd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  name.copy(address.sun_path, sizeof address.sun_path - 1);
  address.sun_path[0] = 0;
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), length), 0);
  ASSERT_EQ(listen(listener.get(), 1), 0);
  EXPECT_EQ(listener_at({name, {}, 0, {}}, getpid()).by, ListenedBy::kBackend);
  EXPECT_EQ(listener_at({name + "x", {}, 0, {}}, getpid()).by, ListenedBy::kUnknown);
}

}  // namespace
