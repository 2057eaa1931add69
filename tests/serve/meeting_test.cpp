// The meeting of a poolserve with those who serve already, and what a master tells its workers.
#include "between/meeting.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "between/control.hpp"
#include "between/memory_file.hpp"
#include "master/inheritance.hpp"
#include "support/scratch.hpp"

namespace modelpool::serve {
namespace {

Fd eventfd_of_ours() { return Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }

bool is_readable(const Fd& fd) {
  pollfd one{fd.get(), POLLIN, 0};
  return poll(&one, 1, 0) == 1;
}

std::shared_ptr<Lineage> new_lineage() {
  auto lineage = Lineage::make();
  EXPECT_TRUE(lineage);
  return lineage ? *lineage : nullptr;
}

class Meeting : public ::testing::Test {
 protected:
  Meeting() {
    auto meeting = open_meeting(door_);
    EXPECT_TRUE(meeting);
    worker_.meeting = std::move(*meeting);
    worker_.retire = eventfd_of_ours();
    worker_.lineage = new_lineage();
    older_ = worker_.lineage->begin();
    worker_.generation = worker_.lineage->begin();
    std::vector<OpenSocket> none;
    config::Listener listener;
    listener.address = "127.0.0.1:0";
    auto open = open_listeners({listener}, none);
    EXPECT_TRUE(open);
    worker_.listeners = std::move(*open);
  }

  // What a newcomer gets of a worker that answers.
  Result<std::optional<Taken>> take() {
    std::thread answers([&] {
      pollfd one{worker_.meeting.get(), POLLIN, 0};
      poll(&one, 1, -1);
      const Fd newcomer(accept(worker_.meeting.get(), nullptr, nullptr));
      one = {newcomer.get(), POLLIN, 0};
      poll(&one, 1, -1);
      answer_meeting(newcomer.get(), worker_);
    });
    auto taken = take_over(door_);
    answers.join();
    return taken;
  }

  const test::Scratch scratch_;
  const std::string door_ = scratch_.path("default.door");
  WorkerStart worker_;
  std::uint32_t older_ = 0;  // generation that serves
};

TEST_F(Meeting, ANewcomerGetsSocketsAndEndsThoseBefore) {
  const auto taken = take();
  ASSERT_TRUE(taken) << taken.error().text;
  ASSERT_TRUE(*taken);
  EXPECT_EQ((*taken)->from, getpid());
  ASSERT_EQ((*taken)->listeners.size(), 1u);
  EXPECT_EQ((*taken)->listeners[0].address, "127.0.0.1:0");
  const OpenListener same{worker_.listeners[0].where, duplicate((*taken)->listeners[0].fd)};
  EXPECT_EQ(bound_to(same), bound_to(worker_.listeners[0]));
  EXPECT_TRUE((*taken)->meeting);
  Lineage& lineage = *(*taken)->lineage;
  const std::uint32_t next = lineage.begin();
  EXPECT_FALSE(is_retired(worker_));
  lineage.serves(next);
  EXPECT_TRUE(is_retired(worker_));
}

TEST_F(Meeting, WhoIsAskedLooksWhetherItsMasterHasDied) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
  worker_.control = Fd(ends[0]);
  Fd master(ends[1]);
  ASSERT_TRUE(take());
  EXPECT_FALSE(worker_.lineage->is_over(older_));
  master.reset();
  ASSERT_TRUE(take());
  EXPECT_TRUE(worker_.lineage->is_over(older_));
}

TEST_F(Meeting, MemoryOfAnotherVersionIsNotShared) {
  const Fd longer(memfd_create("longer", 0));
  ASSERT_EQ(ftruncate(longer.get(), 4096), 0);
  const auto joined = Lineage::join(duplicate(longer));
  ASSERT_FALSE(joined);
  EXPECT_EQ(joined.error().code, Errc::kIncompatible);
}

TEST_F(Meeting, AGenerationThatServesEndsAllThatBeganBefore) {
  const auto lineage = new_lineage();
  const std::uint32_t first = lineage->begin();
  const std::uint32_t second = lineage->begin();
  const std::uint32_t third = lineage->begin();
  EXPECT_FALSE(lineage->is_newest(second));
  lineage->serves(second);
  EXPECT_TRUE(lineage->is_over(first));
  EXPECT_FALSE(lineage->is_over(second));
  EXPECT_FALSE(lineage->is_over(third));
  lineage->serves(third);
  lineage->serves(first);  // late
  EXPECT_TRUE(lineage->is_over(second));
  EXPECT_FALSE(lineage->is_over(third));
}

TEST_F(Meeting, ANumberThatWasGivenUpIsGivenAgain) {
  const auto lineage = new_lineage();
  const std::uint32_t first = lineage->begin();
  const std::uint32_t never = lineage->begin();
  lineage->give_up();
  EXPECT_TRUE(lineage->is_newest(first));
  EXPECT_EQ(lineage->begin(), never);
}

TEST_F(Meeting, UntilItIsSettledAGenerationCanBeTakenBack) {
  Lineage& lineage = *worker_.lineage;
  const std::uint32_t next = lineage.begin();
  lineage.serves(next);
  EXPECT_TRUE(is_retired(worker_));
  EXPECT_FALSE(may_end(worker_));
  lineage.take_back(worker_.generation);
  EXPECT_FALSE(is_retired(worker_));
  lineage.serves(next);
  lineage.settles(next);
  EXPECT_TRUE(is_retired(worker_));
  EXPECT_TRUE(may_end(worker_));
}

TEST_F(Meeting, WhoIsRetiredByItsMasterMayEnd) {
  EXPECT_FALSE(may_end(worker_));
  retire(worker_.retire);
  EXPECT_TRUE(may_end(worker_));
}

TEST_F(Meeting, MemoryThatIsSharedIsNotCutShort) {
  const auto lineage = new_lineage();
  EXPECT_NE(ftruncate(lineage->fd().get(), 0), 0);
}

TEST_F(Meeting, WithNobodyIsNothingToTake) {
  worker_.meeting.reset();  // its file stays
  EXPECT_EQ(access(door_.c_str(), F_OK), 0);
  const auto stale = take_over(door_);
  ASSERT_TRUE(stale) << stale.error().text;
  EXPECT_FALSE(*stale);
  EXPECT_TRUE(open_meeting(door_));
  const auto none = take_over(scratch_.path("none.door"));
  ASSERT_TRUE(none);
  EXPECT_FALSE(*none);
}

TEST_F(Meeting, AWorkerWhoseMasterDiedEndsThoseBefore) {
  EXPECT_FALSE(worker_.lineage->is_over(older_));
  finish_takeover(worker_);
  EXPECT_TRUE(worker_.lineage->is_over(older_));
  EXPECT_FALSE(is_retired(worker_));
}

TEST_F(Meeting, AWorkerThatWasRetiredEndsNobody) {
  retire(worker_.retire);
  EXPECT_TRUE(is_retired(worker_));
  finish_takeover(worker_);
  EXPECT_FALSE(worker_.lineage->is_over(older_));
}

TEST_F(Meeting, SocketsStayWithWhoeverHasThemIfNotAllCanBeOpened) {
  const std::string file = scratch_.path("x.sock");
  config::Listener there;
  there.address = "unix:" + file;
  config::Listener fresh;
  fresh.address = "unix:" + scratch_.path("y.sock");
  config::Listener taken;
  taken.address = bound_to(worker_.listeners[0]);
  std::vector<OpenSocket> present;
  auto open = open_listeners({there}, present);
  ASSERT_TRUE(open);
  present.push_back({there.address, std::move(open->front().fd)});
  EXPECT_FALSE(open_listeners({there, fresh, taken}, present));
  EXPECT_EQ(access(file.c_str(), F_OK), 0);
  EXPECT_NE(access(scratch_.path("y.sock").c_str(), F_OK), 0);
  ASSERT_EQ(present.size(), 1u);
  EXPECT_EQ(present[0].address, there.address);
  EXPECT_TRUE(is_listening(file, SOCK_STREAM));
}

TEST_F(Meeting, OnlyAQuestionIsAnswered) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
  const Fd asks(ends[0]);
  const Fd answers(ends[1]);
  ASSERT_EQ(send(asks.get(), "give 1", 6, 0), 6);
  answer_meeting(answers.get(), worker_);
  EXPECT_FALSE(is_readable(asks));
}

TEST(BalanceTest, IsHandedOn) {
  Balance balance(3);
  balance.set(1, 5);
  Balance same(3, duplicate(balance.fd()));
  EXPECT_EQ(same.sum(), 5u);
  same.set(1, 0);
  EXPECT_EQ(balance.sum(), 0u);
  // Not one of other workers.
  Balance other(4, duplicate(balance.fd()));
  other.set(0, 1);
  EXPECT_EQ(balance.sum(), 0u);
  EXPECT_EQ(other.sum(), 0u);
}

class Inherit : public ::testing::Test {
 protected:
  ~Inherit() override { unsetenv("POOLSERVE_INHERITS"); }

  static bool are_same(const Fd& a, const Fd& b) {
    struct stat one {};
    struct stat other {};
    return fstat(a.get(), &one) == 0 && fstat(b.get(), &other) == 0 && one.st_ino == other.st_ino &&
           one.st_dev == other.st_dev;
  }
  static Fd some_fd() { return Fd(memfd_create("some", 0)); }
};

TEST_F(Inherit, AllComesAsItWasAndIsNotHandedOnOnceMore) {
  Inheritance all;
  all.lock = some_fd();
  all.meeting = some_fd();
  all.lineage = some_fd();
  all.coordinator = 12;
  all.of_systemd = {"unix:/x"};
  all.models = {{"m\xff", std::string("\0way", 4)}};
  all.serving.number = 7;
  all.serving.retire = some_fd();
  all.serving.listeners.push_back({"127.0.0.1:0", some_fd()});
  all.serving.workers.push_back({13, some_fd()});
  all.serving.workers.push_back({14, Fd()});  // one that said nothing more
  all.leaving.emplace_back();
  auto file = bequeath(all);
  ASSERT_TRUE(file);
  static_cast<void>(file->release());  // inherit closes it
  const auto got = inherit();
  ASSERT_TRUE(got) << got.error().text;
  ASSERT_TRUE(*got);
  const Inheritance& inherited = **got;
  // The numbers stand for the same descriptors here, where no program was executed.
  EXPECT_EQ(inherited.lock.get(), all.lock.get());
  EXPECT_TRUE(are_same(inherited.meeting, all.meeting));
  EXPECT_TRUE(are_same(inherited.lineage, all.lineage));
  EXPECT_EQ(inherited.coordinator, 12);
  EXPECT_EQ(inherited.of_systemd, all.of_systemd);
  EXPECT_EQ(inherited.models, all.models);
  EXPECT_EQ(inherited.serving.number, 7u);
  EXPECT_TRUE(are_same(inherited.serving.retire, all.serving.retire));
  ASSERT_EQ(inherited.serving.listeners.size(), 1u);
  EXPECT_EQ(inherited.serving.listeners[0].address, "127.0.0.1:0");
  EXPECT_TRUE(are_same(inherited.serving.listeners[0].fd, all.serving.listeners[0].fd));
  ASSERT_EQ(inherited.serving.workers.size(), 2u);
  EXPECT_EQ(inherited.serving.workers[0].pid, 13);
  EXPECT_TRUE(are_same(inherited.serving.workers[0].control, all.serving.workers[0].control));
  EXPECT_FALSE(inherited.serving.workers[1].control);
  EXPECT_EQ(inherited.leaving.size(), 1u);
  EXPECT_EQ(fcntl(inherited.lock.get(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(getenv("POOLSERVE_INHERITS"), nullptr);
  // One owner each.
  for (Fd* one : {&all.lock, &all.meeting, &all.lineage, &all.serving.retire,
                  &all.serving.listeners[0].fd, &all.serving.workers[0].control}) {
    static_cast<void>(one->release());
  }
}

TEST_F(Inherit, WhatIsNoneOfThisVersionIsRefused) {
  EXPECT_FALSE(*inherit());
  for (const char* number : {"", "x", "-1", "2", "999999"}) {
    setenv("POOLSERVE_INHERITS", number, 1);
    const auto none = inherit();
    ASSERT_TRUE(none) << number;
    EXPECT_FALSE(*none) << number;
  }
  for (const std::string& text :
       {std::string(), std::string("\xff\xff"), std::string("\x81\xa7version\x02")}) {
    auto file = make_memory_file("other", text);
    ASSERT_TRUE(file);
    setenv("POOLSERVE_INHERITS", std::to_string(file->release()).c_str(), 1);
    const auto got = inherit();
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().code, Errc::kInvalid);
  }
}

// Every field that there is, none as by default.
config::Door some_door() {
  config::Door door;
  config::Serve& serve = door.serve;
  serve.listeners = {{"unix:/x", config::Auth::kKeys, 0660, "g", "cert", "key", "ca", 3}};
  serve.auth = config::Auth::kNone;
  serve.workers = 5;
  serve.keys_file = "/keys";
  serve.hosts = {"h"};
  serve.cors_origins = {"o"};
  serve.trusted_proxies = {"10.0.0.0/8"};
  serve.loading_comments = false;
  serve.access_log = "-";
  serve.access_log_json = true;
  serve.max_connections = 6;
  serve.body_memory_bytes = 7;
  serve.body_limit_bytes = 8;
  serve.bodies_memory_bytes = 9;
  serve.bodies_disk_bytes = 10;
  serve.body_dir = "/b";
  serve.header_timeout_ns = 11;
  serve.keepalive_timeout_ns = 12;
  serve.client_timeout_ns = 13;
  serve.queue_timeout_ns = 14;
  serve.request_timeout_ns = 15;
  serve.shutdown_timeout_ns = 16;
  serve.drain_timeout_serve_ns = 17;
  serve.tunnel_idle_ns = 18;
  config::Model model;
  model.name = "m \xff";
  model.aliases = {"a"};
  model.command = {"c", "{port}"};
  model.address = "127.0.0.1:{port}";
  model.ready = {config::ReadyCheck::Kind::kHttp, "/up"};
  model.env = {{"K", "v"}};
  model.cwd = "/c";
  model.log = "/l";
  model.weights = "/w";
  model.preload = true;
  model.backend_key = "secret";
  model.size_bytes = 19;
  model.line = 20;
  door.models = {model};
  return door;
}

TEST(Control, ANewConfigArrivesWhole) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, ends), 0);
  Fd master(ends[0]);
  const Fd worker(ends[1]);
  EXPECT_TRUE(std::holds_alternative<NothingSaid>(receive_control(worker)));
  const config::Door door = some_door();
  ASSERT_TRUE(send_door(master, door));
  const auto got = receive_control(worker);
  ASSERT_TRUE(std::holds_alternative<config::Door>(got));
  EXPECT_EQ(std::get<config::Door>(got), door);
  master.reset();
  EXPECT_TRUE(std::holds_alternative<MasterGone>(receive_control(worker)));
}

TEST(Control, AConfigForWhichNoDescriptorIsFreeIsLostAndNotUnsaid) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, ends), 0);
  const Fd master(ends[0]);
  const Fd worker(ends[1]);
  ASSERT_TRUE(send_door(master, some_door()));
  rlimit files;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &files), 0);
  const rlimit none{0, files.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const auto got = receive_control(worker);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &files), 0);
  EXPECT_TRUE(std::holds_alternative<DoorLost>(got));
}

}  // namespace
}  // namespace modelpool::serve
