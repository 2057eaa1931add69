#include "base/model_log.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <set>
#include <thread>

#include "support/scratch.hpp"

using namespace modelpool;  // NOLINT(google-build-using-namespace)
using modelpool::test::read_file;
using modelpool::test::Scratch;
using modelpool::test::write_file;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

namespace {

void put(const Fd& file, const std::string& text) {
  ASSERT_EQ(write(file.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
}

// The text without the hole before it.
std::string after_hole(const std::string& path) {
  const std::string text = read_file(path);
  const std::size_t begin = text.find_first_not_of('\0');
  return begin == std::string::npos ? "" : text.substr(begin);
}

mode_t mode_of(const std::string& path) {
  struct stat info {};
  return lstat(path.c_str(), &info) == 0 ? info.st_mode : 0;
}

std::string numbered_lines(int from, int to) {
  std::string text;
  for (int i = from; i < to; ++i) text += "line " + std::to_string(i) + "\n";
  return text;
}

class ModelLogTest : public ::testing::Test {
 protected:
  ModelLog make(const std::string& model = "m") {
    auto log = ModelLog::make(dir_, model);
    EXPECT_TRUE(log) << (log ? "" : log.error().text);
    return std::move(*log);
  }

  Scratch scratch_;
  std::string dir_ = scratch_.path("state/modelpool/p");
};

}  // namespace

TEST(ModelLogName, IsThatOfNoOtherModelAndNoPath) {
  EXPECT_EQ(model_log_name("llama-3.1_8b"), "llama-3.1_8b.log");
  EXPECT_EQ(model_log_name("../x"), "%2E.%2Fx.log");
  EXPECT_EQ(model_log_name(".."), "%2E..log");
  EXPECT_EQ(model_log_name("a b%\xc3\xa4"), "a%20b%25%C3%A4.log");
  std::set<std::string> names;
  std::size_t models = 0;
  const auto add = [&](const std::string& model) {
    const std::string name = model_log_name(model);
    EXPECT_LE(name.size(), 204u) << model;
    EXPECT_EQ(name.find('/'), std::string::npos);
    EXPECT_NE(name[0], '.');
    ++models;
    for (const char* suffix : {"", ".1", ".new", ".cut"}) names.insert(name + suffix);
  };
  for (const char* model :
       {"a", "A", "a.log", "a.log.1", "a.1", "a/b", "a%2Fb", "a.cut", "a..", "%"})
    add(model);
  const std::string many(240, '/');  // three bytes each
  for (const char* end : {"", "a", "b", "/"}) add(many + end);
  add(std::string(255, 'x'));
  add(std::string(254, 'x'));
  add(std::string(149, 'x') + "\xc3\xa4" + std::string(80, 'x'));
  add(std::string(149, 'x') + "\xc3\xb6" + std::string(80, 'x'));
  EXPECT_EQ(names.size(), 4 * models);
}

TEST_F(ModelLogTest, ADirectoryAndItsFilesAreForItsUserAlone) {
  const mode_t before = umask(0);
  const ModelLog log = make();
  const auto file = log.begin();
  umask(before);
  ASSERT_TRUE(file);
  for (const char* made : {"state", "state/modelpool", "state/modelpool/p"})
    EXPECT_EQ(mode_of(scratch_.path(made)) & 07777, 0700u) << made;
  EXPECT_EQ(mode_of(log.path()) & 07777, 0600u);
  EXPECT_EQ(log.path(), dir_ + "/m.log");
}

TEST_F(ModelLogTest, ANewLifeMakesTheOutputBeforeItThePrevious) {
  const ModelLog log = make();
  put(*log.begin(), "first\n");
  put(*log.begin(), "second\n");
  EXPECT_EQ(read_file(log.path()), "second\n");
  EXPECT_EQ(read_file(log.previous_path()), "first\n");
  EXPECT_FALSE(ModelLog::is_cut_off(log.read_previous()));
  ASSERT_TRUE(log.begin());
  ASSERT_TRUE(log.begin()) << "a life that said nothing takes nothing away";
  EXPECT_EQ(read_file(log.previous_path()), "second\n");
  EXPECT_EQ(read_file(log.path()), "");
}

TEST_F(ModelLogTest, ADirectoryThatIsNotOursIsRefusedByName) {
  if (geteuid() != 0) {
    const auto of_root = ModelLog::make("/proc/1", "m");
    ASSERT_FALSE(of_root);
    EXPECT_THAT(of_root.error().text, HasSubstr("belongs to root"));
  }
  const std::string open = scratch_.path("open");
  ASSERT_EQ(mkdir(open.c_str(), 0700), 0);
  ASSERT_EQ(chmod(open.c_str(), 0777), 0);
  auto refused = ModelLog::make(open, "m");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::kPermission);
  EXPECT_THAT(refused.error().text, HasSubstr("everybody may write it"));
  ASSERT_EQ(chmod(open.c_str(), 0700), 0);
  if (chown(open.c_str(), 65534, 65534) == 0) {
    refused = ModelLog::make(open, "m");
    ASSERT_FALSE(refused);
    EXPECT_THAT(refused.error().text, HasSubstr("belongs to"));
    EXPECT_EQ(refused.error().code, Errc::kPermission);
  }
  ASSERT_EQ(symlink(scratch_.dir().c_str(), scratch_.path("link").c_str()), 0);
  refused = ModelLog::make(scratch_.path("link"), "m");
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().text, HasSubstr("it is a link"));
}

TEST_F(ModelLogTest, NothingIsWrittenThroughALink) {
  const std::string target = scratch_.path("target");
  write_file(target, "mine");
  const ModelLog log = make();
  for (const std::string& name :
       {log.path(), log.previous_path(), log.path() + ".new", log.path() + ".cut"})
    ASSERT_EQ(symlink(target.c_str(), name.c_str()), 0);
  const auto file = log.begin();
  ASSERT_TRUE(file);
  put(*file, std::string(20000, 'x'));
  ASSERT_TRUE(log.cut(4096));
  EXPECT_EQ(read_file(target), "mine");
  EXPECT_TRUE(S_ISREG(mode_of(log.path())));
  EXPECT_TRUE(S_ISREG(mode_of(log.previous_path())));

  unlink(log.path().c_str());
  ASSERT_EQ(symlink(target.c_str(), log.path().c_str()), 0);
  EXPECT_FALSE(log.cut(1));
  EXPECT_FALSE(log.read_current());
  EXPECT_EQ(read_file(target), "mine");
}

TEST_F(ModelLogTest, AFileWithASecondNameIsLeftAlone) {
  const ModelLog log = make();
  write_file(scratch_.path("thesis"), std::string(20000, 'x'));
  ASSERT_EQ(link(scratch_.path("thesis").c_str(), log.path().c_str()), 0);
  const auto refused = log.cut(4096);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::kPermission);
  EXPECT_EQ(read_file(scratch_.path("thesis")).size(), 20000u);
}

TEST_F(ModelLogTest, APathOfTheSegmentIsUsedIfItIsThisModelsAlone) {
  make();
  EXPECT_TRUE(ModelLog::open(dir_ + "/m.log", "m"));
  EXPECT_EQ(ModelLog::open(dir_ + "/m.log", "other").error().code, Errc::kInvalid);
  EXPECT_EQ(ModelLog::open("m.log", "m").error().code, Errc::kInvalid);
  EXPECT_EQ(ModelLog::open("", "m").error().code, Errc::kInvalid);
}

TEST_F(ModelLogTest, ACutKeepsTheEndAndTheWriter) {
  const ModelLog log = make();
  const auto file = log.begin();
  ASSERT_TRUE(file);
  EXPECT_EQ(*log.cut(1 << 20), ModelLog::Cut::kNotDue);
  const std::string text = numbered_lines(0, 20000);
  put(*file, text);
  ASSERT_GT(text.size(), 64u * 1024);
  EXPECT_EQ(*log.cut(64 * 1024), ModelLog::Cut::kDone);
  put(*file, "after\n");
  EXPECT_TRUE(ModelLog::is_cut_off(log.read_previous()));
  const std::string kept = after_hole(log.previous_path()) + read_file(log.path());
  EXPECT_TRUE((text + "after\n").ends_with(kept));
  EXPECT_GE(kept.size(), 64u * 1024);
  EXPECT_LE(kept.size(), 64u * 1024 + 4096 + 6) << "what was before is dropped";
  EXPECT_LE(read_file(log.path()).size(), 4096u + 6);
  // At the offset it had, so that whoever read so far goes on in the copy.
  EXPECT_EQ(read_file(log.previous_path()).substr(text.size() - 8192, 100),
            text.substr(text.size() - 8192, 100));
  EXPECT_EQ(mode_of(log.path() + ".cut"), 0u);
  EXPECT_EQ(mode_of(log.path() + ".new"), 0u);
}

TEST_F(ModelLogTest, ACutUnderAWriterAtFullSpeedLosesNoOrder) {
  const ModelLog log = make();
  const auto file = log.begin();
  ASSERT_TRUE(file);
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (int i = 0; !stop.load(); ++i) {
      const std::string line = "line " + std::to_string(i) + "\n";
      static_cast<void>(!write(file->get(), line.data(), line.size()));
    }
  });
  int cuts = 0;
  ASSERT_TRUE(modelpool::test::eventually([&] {
    const auto cut = log.cut(64 * 1024);
    EXPECT_TRUE(cut) << cut.error().text;
    cuts += cut && *cut == ModelLog::Cut::kDone;
    return cuts == 50 || !cut;
  }));
  stop.store(true);
  writer.join();
  const std::string kept = after_hole(log.previous_path()) + read_file(log.path());
  int before = -1;
  std::size_t torn = 0;
  for (std::size_t at = 0; at < kept.size();) {
    const std::size_t end = std::min(kept.find('\n', at), kept.size());
    int number = -1;
    if (sscanf(kept.substr(at, end - at).c_str(), "line %d", &number) == 1 && number > before)
      before = number;
    else
      ++torn;
    at = end + 1;
  }
  EXPECT_LE(torn, 3u) << "one at the beginning, and one or two where it was cut";
}

// What a coordinator that is killed leaves at each step, and the next one makes of it.
TEST_F(ModelLogTest, ACutThatWasKilledIsFinishedOrBegunAnew) {
  const std::string text = numbered_lines(0, 10000);
  for (const bool was_cut : {false, true}) {
    for (const char* left : {".new", ".cut"}) {
      if (was_cut && std::string(left) == ".new") continue;  // the copy comes first
      const ModelLog log = make("killed" + std::string(left) + (was_cut ? "cut" : ""));
      const auto file = log.begin();
      ASSERT_TRUE(file);
      put(*file, text);
      write_file(log.path() + left, std::string(left) == ".cut" ? text : text.substr(0, 500));
      if (was_cut) {
        ASSERT_EQ(truncate(log.path().c_str(), 0), 0);
      }
      put(*file, "after\n");
      log.finish_cut();
      EXPECT_EQ(mode_of(log.path() + left), 0u);
      const std::string kept = after_hole(log.previous_path()) + read_file(log.path());
      EXPECT_TRUE(kept.ends_with(text + "after\n")) << left;
      EXPECT_TRUE(log.cut(4096));
      EXPECT_THAT(last_lines(log, 1), ElementsAre("after"));
    }
  }
}

TEST_F(ModelLogTest, TheLastLinesGoBackOverACutAndNotIntoAnEarlierLife) {
  const ModelLog log = make();
  const auto first = log.begin();
  put(*first, "of an earlier life\n");
  const auto file = log.begin();
  EXPECT_THAT(last_lines(log, 3), ElementsAre());
  put(*file, "one\n\ntwo\nthree");
  EXPECT_THAT(last_lines(log, 5), ElementsAre("one", "two", "three"));
  EXPECT_THAT(last_lines(log, 2), ElementsAre("two", "three"));
  put(*file, "\n" + std::string(8192, 'x') + "\nfour\nfive\n");
  ASSERT_EQ(*log.cut(100), ModelLog::Cut::kDone);
  EXPECT_THAT(last_lines(log, 2), ElementsAre("four", "five"));
}

TEST(PrintableLine, LeavesOutWhatATerminalActsOn) {
  EXPECT_EQ(printable_line("\x1b[31merror\x1b[0m: no\tfile\r"), "error: no file");
  EXPECT_EQ(printable_line("\x1b]0;title\x07text\x1b]8;;http://x\x1b\\link"), "textlink");
  EXPECT_EQ(printable_line("a\x08\xff\xc3\xa4\x1b"), "a??\xc3\xa4");
  EXPECT_EQ(printable_line("\x1b[31"), "");
}
