#include "config/models_folder.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "support/pool.hpp"
#include "support/scratch.hpp"

namespace modelpool::config {
namespace {

namespace fs = std::filesystem;

using test::text_of;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ModelsFolderTest : public ::testing::Test {
 protected:
  ModelsFolderTest() { fs::create_directory(dir()); }
  std::string dir() const { return scratch_.path("models"); }
  std::string make(const std::string& name, std::size_t bytes = 1) const {
    const std::string path = dir() + "/" + name;
    fs::create_directories(fs::path(path).parent_path());
    test::write_file(path, std::string(bytes, 'x'));
    return path;
  }
  Result<std::vector<Model>> find() const { return find_models(dir(), {"/bin/true", "--x"}); }
  std::vector<std::string> names() const {
    auto found = find();
    EXPECT_TRUE(found) << text_of(found);
    std::vector<std::string> names;
    if (found) {
      for (const Model& model : *found) names.push_back(model.name);
    }
    return names;
  }

  test::Scratch scratch_;
};

TEST_F(ModelsFolderTest, EveryGgufIsAModelByItsFilesName) {
  const std::string tiny = make("tiny.gguf", 7);
  make("sub/deep/Qwen 3.Q4_K_M.GGUF");
  make("notes.txt");
  make(".hidden.gguf");
  const auto found = find();
  ASSERT_TRUE(found) << text_of(found);
  ASSERT_EQ(found->size(), 2u);
  EXPECT_EQ((*found)[0].name, "Qwen 3.Q4_K_M");
  const Model& model = (*found)[1];
  EXPECT_EQ(model.name, "tiny");
  EXPECT_EQ(model.weights, tiny);
  EXPECT_EQ(model.size_bytes, 7u);
  EXPECT_THAT(model.command, ElementsAre("/bin/true", "--x", "-m", tiny, "--port", "{port}",
                                         "--host", "127.0.0.1"));
}

TEST_F(ModelsFolderTest, ShardsAreOneModelByTheFirst) {
  make("big-00002-of-00003.gguf", 20);
  const std::string first = make("big-00001-of-00003.gguf", 10);
  make("big-00003-of-00003.gguf", 30);
  make("odd-1-of-3.gguf");
  make("over-00004-of-00003.gguf");
  const auto found = find();
  ASSERT_TRUE(found) << text_of(found);
  EXPECT_THAT(names(), ElementsAre("big", "odd-1-of-3", "over-00004-of-00003"));
  EXPECT_EQ((*found)[0].size_bytes, 60u);
  EXPECT_EQ((*found)[0].command[3], first);
}

TEST_F(ModelsFolderTest, P13AMissingShardIsNamed) {
  make("big-00001-of-00003.gguf");
  make("big-00003-of-00003.gguf");
  EXPECT_THAT(text_of(find()), HasSubstr("big-00002-of-00003.gguf missing; add it"));
  make("one-00001-of-00009.gguf");
  fs::remove(dir() + "/big-00001-of-00003.gguf");
  fs::remove(dir() + "/big-00003-of-00003.gguf");
  EXPECT_THAT(text_of(find()), AllOf(HasSubstr("one-00006-of-00009.gguf and more missing")));
}

TEST_F(ModelsFolderTest, TheOnlyProjectorOfAFolderIsGivenToItsModels) {
  const std::string projector = make("vision/mmproj-F16.gguf");
  make("vision/see.gguf");
  make("plain.gguf");
  make("two/mmproj-a.gguf");
  make("two/mmproj-b.gguf");
  make("two/either.gguf");
  const auto found = find();
  ASSERT_TRUE(found) << text_of(found);
  EXPECT_THAT(names(), ElementsAre("either", "plain", "see"));
  EXPECT_EQ((*found)[0].command.back(), "127.0.0.1");
  EXPECT_EQ((*found)[1].command.back(), "127.0.0.1");
  EXPECT_EQ((*found)[2].command.back(), projector);
  EXPECT_EQ(*(found->at(2).command.end() - 2), "--mmproj");
}

TEST_F(ModelsFolderTest, P13TwoOfOneNameAreNamedBoth) {
  const std::string a = make("a/tiny.gguf");
  const std::string b = make("b/tiny.gguf");
  EXPECT_EQ(text_of(find()),
            "unable to use two models \"tiny\": " + a + " and " + b + "; rename or move one");
}

TEST_F(ModelsFolderTest, LinksAreFollowedAndCirclesEnd) {
  const std::string elsewhere = scratch_.path("elsewhere");
  fs::create_directory(elsewhere);
  test::write_file(elsewhere + "/far.gguf", "xx");
  fs::create_directory_symlink(elsewhere, dir() + "/link");
  fs::create_directory_symlink(dir(), dir() + "/circle");
  fs::create_symlink(elsewhere + "/far.gguf", dir() + "/near.gguf");
  fs::create_symlink(elsewhere + "/none", dir() + "/dangling.gguf");
  EXPECT_THAT(names(), ElementsAre("far", "near"));
}

TEST_F(ModelsFolderTest, P13WithoutAModelAFolderOrAProgramItSaysSo) {
  EXPECT_THAT(text_of(find()), HasSubstr("there is no *.gguf"));
  EXPECT_THAT(text_of(find_models(scratch_.path("none"), {"/bin/true"})),
              HasSubstr("unable to read the folder"));
  EXPECT_THAT(
      text_of(find_models(dir(), {"no-such-server"})),
      HasSubstr("unable to start models with \"no-such-server\": it is in no folder of PATH"));
  EXPECT_THAT(text_of(find_models(dir(), {"/bin"})), HasSubstr("there is no such program"));
}

TEST_F(ModelsFolderTest, P13ANameThatNoRequestCanSayIsRefused) {
  make("a\nb.gguf");
  EXPECT_THAT(text_of(find()), AllOf(HasSubstr("as a model"), HasSubstr("rename it")));
}

TEST_F(ModelsFolderTest, P13AModelOfTheFileAndOneOfTheFolderMayNotShareAName) {
  make("tiny.gguf");
  Door door;
  Model of_file;
  of_file.name = "big";
  of_file.line = 3;
  of_file.aliases = {"small"};
  door.models = {of_file};
  EXPECT_TRUE(add_models(*find(), door));
  EXPECT_EQ(door.models.size(), 2u);
  make("small.gguf");
  door.models = {of_file};
  EXPECT_THAT(text_of(add_models(*find(), door)), HasSubstr("the alias \"small\" of \"big\""));
  make("big.gguf");
  door.models = {of_file};
  EXPECT_THAT(text_of(add_models(*find(), door)), HasSubstr("two models \"big\": line 3 and"));
}

}  // namespace
}  // namespace modelpool::config
