// What spawn starts writes into the pool's files.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "base/model_log.hpp"
#include "protocol/kept_output.hpp"
#include "support/pool.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)
using ::testing::HasSubstr;
using ::testing::IsEmpty;

namespace {

BackendRow row_of(Pool& pool, const std::string& model) {
  const PoolSnapshot snapshot = *pool.snapshot();
  for (const BackendRow& row : snapshot.backends) {
    if (row.model == model) return row;
  }
  return {};
}

class OutputTest : public ::testing::Test {
 protected:
  Pool pool(const std::vector<std::pair<std::string, std::string>>& values) {
    auto all = values;
    all.emplace_back("max_backends", "0");
    return make_pool(scratch_, all);
  }
  static bool becomes(const std::string& path, const std::string& text) {
    return eventually([&] { return read_file(path) == text; });
  }

  Scratch scratch_;
  std::string dir_ = scratch_.path("logs");
};

}  // namespace

TEST_F(OutputTest, OfASpawnedBackendIsKeptAndItsRowSaysWhere) {
  Pool pool = this->pool({{"log_dir", dir_}});
  LoadTicket ticket = ticket_for(pool, "org/llama 3");
  ASSERT_TRUE(ticket.spawn({"sh", "-c", "echo out; echo err >&2; exec sleep 60"}));
  const BackendRow row = row_of(pool, "org/llama 3");
  EXPECT_EQ(row.state, "starting");
  EXPECT_EQ(row.log, dir_ + "/org%2Fllama%203.log");
  EXPECT_EQ(row.log_missing, "");
  EXPECT_TRUE(becomes(row.log, "out\nerr\n"));
  const Fd of_child(open(("/proc/" + std::to_string(ticket.pid()) + "/fd/1").c_str(), O_WRONLY));
  struct stat info {};
  ASSERT_EQ(fstat(of_child.get(), &info), 0);
  EXPECT_TRUE(S_ISREG(info.st_mode)) << "no pipe: nobody has to read it";
}

TEST_F(OutputTest, OfTheNextLifeBeginsANewFile) {
  Pool pool = this->pool({{"log_dir", dir_}});
  for (const char* word : {"one", "two"}) {
    LoadTicket ticket = ticket_for(pool, "m");
    ASSERT_TRUE(ticket.spawn({"sh", "-c", std::string("echo ") + word}));
    EXPECT_TRUE(becomes(dir_ + "/m.log", std::string(word) + "\n"));
    ASSERT_TRUE(ticket.give_back());
    // Without a coordinator nobody frees the slot: the next life is in another one.
    for (std::uint32_t i = 0; i < segment_of(pool).backends_reached(); ++i) {
      const StateWord state = load_state(segment_of(pool), i);
      if (is_live(state.state)) mark_gone(segment_of(pool), {i, state.generation});
    }
  }
  EXPECT_EQ(read_file(dir_ + "/m.log.1"), "one\n");
}

TEST_F(OutputTest, GoesWhereTheCallerSays) {
  Pool pool = this->pool({{"log_dir", dir_}});
  LoadTicket both = ticket_for(pool, "both");
  SpawnOptions options;
  options.output = scratch_.path("own");
  ASSERT_TRUE(both.spawn({"sh", "-c", "echo out; echo err >&2; exec sleep 60"}, options));
  EXPECT_EQ(row_of(pool, "both").log, "");
  EXPECT_EQ(row_of(pool, "both").log_missing, "");
  EXPECT_TRUE(becomes(options.output, "out\nerr\n"));
  EXPECT_FALSE(std::filesystem::exists(dir_));

  LoadTicket errors = ticket_for(pool, "errors");
  options = {};
  options.error_output = scratch_.path("errors");
  ASSERT_TRUE(errors.spawn({"sh", "-c", "echo out; echo err >&2; exec sleep 60"}, options));
  EXPECT_TRUE(becomes(options.error_output, "err\n"));
  EXPECT_TRUE(becomes(dir_ + "/errors.log", "out\n"));
}

TEST_F(OutputTest, IsNotKeptIfNobodyWantsThat) {
  Pool pool = this->pool({{"log_dir", "off"}});
  LoadTicket ticket = ticket_for(pool, "m");
  ASSERT_TRUE(ticket.spawn({"sleep", "60"}));
  EXPECT_EQ(row_of(pool, "m").log, "");
  EXPECT_EQ(row_of(pool, "m").log_missing, "");
}

TEST_F(OutputTest, ThatCannotBeKeptHoldsUpNoLoad) {
  write_file(scratch_.path("file"), "");
  const std::pair<std::string, std::string> cases[] = {
      {scratch_.path("file") + "/logs", "Not a directory"},
      {"/proc/logs", "No such file or directory"}};
  for (const auto& [dir, why] : cases) {
    const Scratch scratch;
    Pool pool = make_pool(scratch, {{"max_backends", "0"}, {"log_dir", dir}});
    LoadTicket ticket = ticket_for(pool, "m");
    ASSERT_TRUE(ticket.spawn({"sleep", "60"}));
    EXPECT_EQ(row_of(pool, "m").log, "");
    EXPECT_THAT(row_of(pool, "m").log_missing, HasSubstr(why));
  }
}

TEST_F(OutputTest, OfAProgramThatCannotBeExecutedTakesNothingAway) {
  Pool pool = this->pool({{"log_dir", dir_}});
  std::filesystem::create_directory(dir_);
  write_file(dir_ + "/m.log", "before\n");
  LoadTicket ticket = ticket_for(pool, "m");
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(ticket.spawn({"/no/such/program"}));
  EXPECT_EQ(read_file(dir_ + "/m.log.1"), "before\n");
  EXPECT_FALSE(ticket.spawn({}));
  EXPECT_EQ(read_file(dir_ + "/m.log.1"), "before\n");
}

TEST_F(OutputTest, IsInTheStateDirectoryByDefaultAndPoolsOfOneNameKeepApart) {
  const Scratch other;
  const Pool one = pool({});
  const Pool two = make_pool(other, {{"max_backends", "0"}});
  const std::string first = log_dir_of(segment_of(one));
  EXPECT_NE(first, log_dir_of(segment_of(two)));
  const std::string begin = std::string(getenv("XDG_STATE_HOME")) + "/modelpool/default-";
  EXPECT_THAT(first, ::testing::StartsWith(begin));

  const std::string state = getenv("XDG_STATE_HOME");
  unsetenv("XDG_STATE_HOME");
  const std::string home =
      geteuid() == 0 ? "/var/log" : std::string(getenv("HOME")) + "/.local/state";
  EXPECT_THAT(log_dir_of(segment_of(one)), ::testing::StartsWith(home + "/modelpool/default-"));
  setenv("XDG_STATE_HOME", "relative", 1);
  EXPECT_THAT(log_dir_of(segment_of(one)), ::testing::StartsWith(home + "/modelpool/default-"));
  setenv("XDG_STATE_HOME", state.c_str(), 1);
}
