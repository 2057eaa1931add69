#include "base/text.hpp"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

using namespace modelpool;  // NOLINT(google-build-using-namespace)

TEST(Utf8, AcceptsWhatPeopleWrite) {
  for (const char* text : {"", "llama-3-8b", "a b", "Käse", "模型", "é€😀", "\xf4\x8f\xbf\xbd",
                           "\xed\x9f\xbf", "\xee\x80\x80", "\xc2\xa0"}) {
    EXPECT_TRUE(is_printable_utf8(text)) << text;
  }
}

TEST(Utf8, RefusesMalformedSequences) {
  for (const std::string text : {
           "\x80",                  // continuation alone
           "\xc3",                  // cut short
           "\xe2\x82",              //
           "\xf0\x9f\x98",          //
           "\xc3(",                 // no continuation
           "\xc0\x80",              // overlong in 2, 3 and 4 bytes
           "\xc1\xbf",              //
           "\xe0\x9f\xbf",          //
           "\xf0\x8f\xbf\xbf",      //
           "\xed\xa0\x80",          // surrogates
           "\xed\xbf\xbf",          //
           "\xf4\x90\x80\x80",      // beyond U+10FFFF
           "\xf5\x80\x80\x80",      //
           "\xf8\x88\x80\x80\x80",  // 5 bytes
           "\xfe",
           "\xff",
       }) {
    EXPECT_FALSE(is_printable_utf8("a" + text)) << escape(text);
    EXPECT_FALSE(is_printable_utf8(text + "a")) << escape(text);
  }
}

TEST(Utf8, RefusesWhatSteersATerminalOrMisleadsAReader) {
  for (int c = 0; c < 0x20; ++c) {
    EXPECT_FALSE(is_printable_utf8(std::string(1, static_cast<char>(c))));
  }
  for (const char* text : {
           "\x7f",                          // DEL
           "\xc2\x80", "\xc2\x9b",          // C1
           "\xe2\x80\xa8", "\xe2\x80\xa9",  // line and paragraph separator
           "\xd8\x9c",                      // U+061C
           "\xe2\x80\x8e", "\xe2\x80\x8f",  // U+200E, U+200F
           "\xe2\x80\xaa", "\xe2\x80\xae",  // U+202A, U+202E
           "\xe2\x81\xa6", "\xe2\x81\xa9",  // U+2066, U+2069
           "\xef\xbf\xbe", "\xef\xbf\xbf",  // U+FFFE, U+FFFF
           "\xef\xb7\x90",                  // U+FDD0
           "\xf0\x9f\xbf\xbe",              // U+1FFFE
       }) {
    EXPECT_FALSE(is_printable_utf8(text)) << escape(text);
  }
}

TEST(Escape, LeavesPrintableTextAlone) {
  EXPECT_EQ(escape("llama Käse 😀 \"x\""), "llama Käse 😀 \"x\"");
  EXPECT_EQ(escape("a\\b"), "a\\\\b");
}

TEST(Escape, ShowsTheBytesOfEverythingElse) {
  EXPECT_EQ(escape("a\nb\x1b[0m"), "a\\x0ab\\x1b[0m");
  EXPECT_EQ(escape(std::string_view("\0", 1)), "\\x00");
  EXPECT_EQ(escape("\xe2\x80\xae"), "\\xe2\\x80\\xae");
  EXPECT_EQ(escape("\xc3"), "\\xc3");
  EXPECT_EQ(escape("\xff\xc3\xa4"), "\\xff\xc3\xa4");
}

TEST(Escape, IsPrintableForAnyBytes) {
  std::mt19937 random(7);
  for (int i = 0; i < 20'000; ++i) {
    std::string bytes(random() % 24, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    EXPECT_TRUE(is_printable_utf8(escape(bytes)));
    EXPECT_TRUE(is_printable_utf8(quote(bytes)));
  }
}

TEST(Quote, ShortensBetweenCharacters) {
  EXPECT_EQ(quote("x"), "\"x\"");
  EXPECT_EQ(quote(std::string(200, 'x')), "\"" + std::string(200, 'x') + "\"");
  EXPECT_EQ(quote(std::string(201, 'x')), "\"" + std::string(200, 'x') + "...\"");
  std::string euros = "x";
  for (int i = 0; i < 100; ++i) euros += "€";
  const std::string quoted = quote(euros);
  EXPECT_EQ(quoted.find("\\x"), std::string::npos);
  EXPECT_EQ(quoted.size(), 1u + 199u + 4u);
}

TEST(PoolName, IsShortAndSafeAsAFileName) {
  for (const char* name : {"default", "a", "gpu-0_x", "0"}) EXPECT_TRUE(check_pool_name(name));
  EXPECT_TRUE(check_pool_name(std::string(64, 'a')));
  for (const char* name : {"", "A", "a b", "a/b", "..", "a.b", "ä", "a\n"}) {
    EXPECT_FALSE(check_pool_name(name)) << name;
  }
  EXPECT_FALSE(check_pool_name(std::string(65, 'a')));
  EXPECT_EQ(check_pool_name("A/").error().text,
            "unable to use the pool name \"A/\": a pool name is 1 to 64 of a-z, 0-9, _ and -; "
            "change it");
}

TEST(ModelName, Is1To255BytesOfPrintableUtf8) {
  EXPECT_TRUE(check_model_name("meta/llama 3:8b@2"));
  EXPECT_TRUE(check_model_name(std::string(kModelNameMax_bytes, 'x')));
  EXPECT_FALSE(check_model_name(""));
  EXPECT_FALSE(check_model_name("a\tb"));
  const Result<> result = check_model_name(std::string(kModelNameMax_bytes + 1, 'x'));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Errc::kInvalid);
  EXPECT_NE(result.error().text.find("it has 256 bytes; shorten it to 255"), std::string::npos);
}

TEST(Address, HasNoBlanks) {
  for (const char* address : {"127.0.0.1:8080", "unix:/run/x", "http://[::1]:80/v1"}) {
    EXPECT_TRUE(check_address(address));
  }
  EXPECT_TRUE(check_address(std::string(kAddressMax_bytes, 'x')));
  for (const char* address : {"", "a b", " a", "a\n"}) EXPECT_FALSE(check_address(address));
  EXPECT_FALSE(check_address(std::string(kAddressMax_bytes + 1, 'x')));
}

TEST(Tag, MayBeEmpty) {
  EXPECT_TRUE(check_tag(""));
  EXPECT_TRUE(check_tag("req 81"));
  EXPECT_TRUE(check_tag(std::string(kTagMax_bytes, 'x')));
  EXPECT_FALSE(check_tag(std::string(kTagMax_bytes + 1, 'x')));
  EXPECT_FALSE(check_tag("\x1b"));
}

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

TEST(Count, ReadsWholeNumbersUpToItsMaximum) {
  EXPECT_EQ(parse_count("0", 10).value(), 0u);
  EXPECT_EQ(parse_count("10", 10).value(), 10u);
  EXPECT_EQ(parse_count("18446744073709551615", UINT64_MAX).value(), UINT64_MAX);
  for (const char* text : {"", "-1", "+1", "1.0", " 1", "1 ", "x", "11", "18446744073709551616",
                           "99999999999999999999999"}) {
    EXPECT_FALSE(parse_count(text, 10)) << text;
  }
  EXPECT_EQ(parse_count("x", 10).error().text,
            "unable to read the number \"x\": a whole number was expected; write one from 0 to 10");
}

TEST(Size, ReadsBinaryUnits) {
  EXPECT_EQ(parse_size("0").value(), 0u);
  EXPECT_EQ(parse_size("1024").value(), 1024u);
  EXPECT_EQ(parse_size("7B").value(), 7u);
  EXPECT_EQ(parse_size("2KiB").value(), 2048u);
  EXPECT_EQ(parse_size("512MiB").value(), std::uint64_t{512} << 20);
  EXPECT_EQ(parse_size("1.5GiB").value(), std::uint64_t{1536} << 20);
  EXPECT_EQ(parse_size("2TiB").value(), std::uint64_t{2} << 40);
  EXPECT_EQ(parse_size("0.000000001KiB").value(), 1u);
  EXPECT_EQ(parse_size("0.999999999TiB").value(), 1'099'511'626'677u);
  EXPECT_EQ(parse_size("16777215TiB").value(), std::uint64_t{16'777'215} << 40);
}

TEST(Size, RefusesWhatIsAmbiguousOrTooLarge) {
  for (const char* text : {"", "GiB", "1GB", "1G", "1g", "1gib", "1 GiB", "-1", "1.5", "1.5B", "1.",
                           ".5GiB", "16777216TiB", "18446744073709551616", "1GiBx"}) {
    const Result<std::uint64_t> result = parse_size(text);
    EXPECT_FALSE(result) << text;
    EXPECT_TRUE(result || result.error().code == Errc::kInvalid);
  }
  EXPECT_EQ(
      parse_size("1GB").error().text,
      "unable to read the size \"1GB\": the units are B, KiB, MiB, GiB and TiB; write it like "
      "512MiB, 1.5GiB, or 1024 for bytes");
}

TEST(Size, PrintsOneDecimal) {
  EXPECT_EQ(format_size(0), "0B");
  EXPECT_EQ(format_size(1023), "1023B");
  EXPECT_EQ(format_size(1024), "1KiB");
  EXPECT_EQ(format_size(std::uint64_t{512} << 20), "512MiB");
  EXPECT_EQ(format_size(std::uint64_t{1536} << 20), "1.5GiB");
  EXPECT_EQ(format_size(std::uint64_t{1000} << 30), "1000GiB");
  EXPECT_EQ(format_size((std::uint64_t{1} << 30) - 1), "1GiB");
  EXPECT_EQ(format_size((std::uint64_t{1} << 30) - (40 << 10)), "1GiB");
  EXPECT_EQ(format_size((std::uint64_t{1} << 30) - (60 << 10)), "1023.9MiB");
  EXPECT_EQ(format_size(UINT64_MAX), "16777216TiB");
}
