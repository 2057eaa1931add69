// The meeting of a poolserve with those who serve already, and what a master tells its workers.
#include "between/meeting.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "between/control.hpp"
#include "support/scratch.hpp"

namespace modelpool::serve {
namespace {

Fd eventfd_of_ours() { return Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }

bool is_readable(const Fd& fd) {
  pollfd one{fd.get(), POLLIN, 0};
  return poll(&one, 1, 0) == 1;
}

std::vector<OpenListener> listening_at(const std::string& path) {
  std::vector<OpenSocket> none;
  config::Listener where;
  where.address = "unix:" + path;
  auto open = open_listeners({where}, none);
  EXPECT_TRUE(open);
  return open ? std::move(*open) : std::vector<OpenListener>();
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

// That the newcomer got the lock says so.
TEST_F(Meeting, WhoIsAskedKnowsThatItsMasterHasDied) {
  ASSERT_TRUE(take());
  EXPECT_TRUE(worker_.lineage->is_over(older_));
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

TEST_F(Meeting, MemoryThatIsSharedIsNotCutShort) {
  const auto lineage = new_lineage();
  EXPECT_NE(ftruncate(lineage->fd(), 0), 0);
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

TEST_F(Meeting, AndNobodyHangsWhereTheyListened) {
  worker_.unused = listening_at(scratch_.path("x.sock"));
  finish_takeover(worker_);
  EXPECT_FALSE(is_listening(scratch_.path("x.sock"), SOCK_STREAM));
}

TEST_F(Meeting, WhereOthersHaveBegunTheyMayWantThoseSockets) {
  worker_.unused = listening_at(scratch_.path("x.sock"));
  worker_.lineage->begin();
  finish_takeover(worker_);
  EXPECT_TRUE(worker_.lineage->is_over(older_));
  EXPECT_TRUE(is_listening(scratch_.path("x.sock"), SOCK_STREAM));
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
