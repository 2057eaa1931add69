#include "base/glob.hpp"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <string_view>

#include "base/name.hpp"

using namespace modelpool;  // NOLINT(google-build-using-namespace)

TEST(Glob, MatchesTheWholeName) {
  EXPECT_TRUE(glob_matches("llama", "llama"));
  EXPECT_FALSE(glob_matches("llama", "llama-3"));
  EXPECT_FALSE(glob_matches("llama", "xllama"));
  EXPECT_FALSE(glob_matches("", "a"));
  EXPECT_TRUE(glob_matches("", ""));
}

TEST(Glob, AStarIsAnyRun) {
  for (const char* name : {"", "a", "abc", "ä"}) EXPECT_TRUE(glob_matches("*", name));
  EXPECT_TRUE(glob_matches("llama*", "llama"));
  EXPECT_TRUE(glob_matches("llama*", "llama-3-8b"));
  EXPECT_TRUE(glob_matches("*-8b", "llama-8b-8b"));
  EXPECT_TRUE(glob_matches("a*b*c", "aXbYbZc"));
  EXPECT_TRUE(glob_matches("**a**", "a"));
  EXPECT_FALSE(glob_matches("a*b", "acx"));
  EXPECT_FALSE(glob_matches("*ab", "aba"));
  EXPECT_TRUE(glob_matches("*/*", "meta/llama"));  // no path separators: / is a character
}

TEST(Glob, AQuestionMarkIsOneCharacterNotOneByte) {
  EXPECT_TRUE(glob_matches("?", "a"));
  EXPECT_TRUE(glob_matches("?", "ä"));
  EXPECT_TRUE(glob_matches("?", "😀"));
  EXPECT_FALSE(glob_matches("??", "ä"));
  EXPECT_FALSE(glob_matches("*??", "ä"));
  EXPECT_TRUE(glob_matches("*??", "xä"));
  EXPECT_FALSE(glob_matches("?", ""));
  EXPECT_TRUE(glob_matches("K?se", "Käse"));
}

TEST(Glob, ABracketIsOneOfItsMembers) {
  EXPECT_TRUE(glob_matches("[abc]x", "bx"));
  EXPECT_FALSE(glob_matches("[abc]x", "dx"));
  EXPECT_TRUE(glob_matches("v[0-9]", "v7"));
  EXPECT_FALSE(glob_matches("v[0-9]", "v"));
  EXPECT_TRUE(glob_matches("[!a]", "b"));
  EXPECT_FALSE(glob_matches("[!a]", "a"));
  EXPECT_FALSE(glob_matches("[!a]", ""));
  EXPECT_FALSE(glob_matches("[!a-y]", "m"));
  EXPECT_TRUE(glob_matches("[äö]", "ö"));
  EXPECT_TRUE(glob_matches("[α-ω]", "λ"));
  EXPECT_FALSE(glob_matches("[α-ω]", "l"));
  EXPECT_TRUE(glob_matches("[]a]", "]"));
  EXPECT_TRUE(glob_matches("[!]a]", "b"));
  EXPECT_TRUE(glob_matches("[a-]", "-"));
  EXPECT_TRUE(glob_matches("[-a]", "-"));
  EXPECT_TRUE(glob_matches("[\\]]", "]"));
  EXPECT_TRUE(glob_matches("[\\^a]", "^"));
  EXPECT_TRUE(glob_matches("[*?]", "?"));
  EXPECT_FALSE(glob_matches("[*?]", "x"));
  EXPECT_TRUE(glob_matches("*[0-9]b", "llama-8b"));
}

TEST(Glob, ABackslashTakesTheNextAsItIs) {
  EXPECT_TRUE(glob_matches("\\*", "*"));
  EXPECT_FALSE(glob_matches("\\*", "a"));
  EXPECT_TRUE(glob_matches("\\[a]", "[a]"));
  EXPECT_TRUE(glob_matches("a\\\\b", "a\\b"));
  EXPECT_TRUE(glob_matches("\\ä", "ä"));
}

TEST(Glob, AgreesWithAPlainRecursiveMatcher) {
  const auto slow = [](const auto& self, std::string_view glob, std::string_view name) -> bool {
    if (glob.empty()) return name.empty();
    if (glob[0] == '*') {
      return self(self, glob.substr(1), name) ||
             (!name.empty() && self(self, glob, name.substr(1)));
    }
    return !name.empty() && (glob[0] == '?' || glob[0] == name[0]) &&
           self(self, glob.substr(1), name.substr(1));
  };
  std::mt19937 random(11);
  int matches = 0;
  for (int i = 0; i < 50'000; ++i) {
    std::string glob;
    std::string name;
    for (auto n = random() % 8; n > 0; --n) glob += "ab*?*"[random() % 5];
    for (auto n = random() % 10; n > 0; --n) name += "ab"[random() % 2];
    ASSERT_EQ(glob_matches(glob, name), slow(slow, glob, name)) << glob << " " << name;
    matches += glob_matches(glob, name) ? 1 : 0;
  }
  EXPECT_GT(matches, 1000);
}

TEST(Glob, ManyStarsTakeNoExponentialTime) {
  std::string glob;
  while (glob.size() + 2 < kModelNameMax_bytes) glob += "*a";
  glob += "b";
  // A matcher that tries every star would not come back from this.
  EXPECT_FALSE(glob_matches(glob, std::string(kModelNameMax_bytes, 'a')));
}

TEST(Glob, IsCheckedBeforeItIsUsed) {
  for (const char* glob : {"*", "llama*", "[a-z]?", "[]]", "[!]]", "\\[", "ä[ö-ü]", "[a-]", "a]",
                           "[\\^]", "[a^]", "\\[^"}) {
    const Result<> result = check_glob(glob);
    EXPECT_TRUE(result) << glob << ": " << (result ? "" : result.error().text);
  }
  EXPECT_TRUE(check_glob(std::string(kModelNameMax_bytes, '*')));
  const auto refusal = [](std::string_view glob) {
    const Result<> result = check_glob(glob);
    EXPECT_FALSE(result) << glob;
    return result ? std::string() : result.error().text;
  };
  EXPECT_NE(refusal("").find("it is empty"), std::string::npos);
  EXPECT_NE(refusal(std::string(kModelNameMax_bytes + 1, '*')).find("256 bytes"),
            std::string::npos);
  for (const char* glob : {"[", "a[b", "[]", "[!", "[!]", "[a-", "[a\\]", "[\\"}) {
    EXPECT_NE(refusal(glob).find("a [ is not closed"), std::string::npos) << glob;
  }
  EXPECT_NE(refusal("a\\").find("single \\"), std::string::npos);
  EXPECT_NE(refusal("a\n*").find("not printable"), std::string::npos);
  EXPECT_NE(refusal("[z-a]").find("backwards"), std::string::npos);
  EXPECT_NE(refusal("[^a]").find("[!...]"), std::string::npos);
}

TEST(Glob, AnyBytesAreSafeToMatch) {
  std::mt19937 random(13);
  const std::string_view bytes("[]!-*?\\ab\xc3\xa4\xff\0", 13);
  for (int i = 0; i < 100'000; ++i) {
    std::string glob;
    std::string name;
    for (auto n = random() % 12; n > 0; --n) glob += bytes[random() % bytes.size()];
    for (auto n = random() % 12; n > 0; --n) name += bytes[random() % bytes.size()];
    glob_matches(glob, name);
    check_glob(glob);
  }
  EXPECT_FALSE(glob_matches("[a", "a"));
  EXPECT_FALSE(glob_matches("\\", "\\"));
  EXPECT_TRUE(glob_matches("?", "\xff"));
}
