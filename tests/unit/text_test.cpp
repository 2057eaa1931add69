#include "base/text.hpp"

#include <gtest/gtest.h>

#include <random>
#include <string>

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
