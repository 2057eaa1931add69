// Texts of model servers that know their format, and of others.
#include "metrics/merge.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace modelpool::metrics {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const std::string kUpHead =
    "# HELP modelpool_backend_metrics_up Was a model's server asked for its metrics, and did it "
    "tell them?\n# TYPE modelpool_backend_metrics_up gauge\n";

std::string up(const std::string& model, int value) {
  return "modelpool_backend_metrics_up{model=\"" + model + "\",pool=\"p\"} " +
         std::to_string(value) + "\n";
}

// What is told of one model, "m", without the family that says whether it is.
std::string of_one(const std::string& text) {
  const std::string all = merge("p", {{"m", text}});
  const std::string head = kUpHead + up("m", 1);
  const std::size_t at = all.find(head);
  if (at == std::string::npos) return "refused: " + all;
  return all.substr(0, at) + all.substr(at + head.size());
}

bool is_taken(const std::string& text) { return !of_one(text).starts_with("refused"); }

TEST(Merge, AddsWhoseItIs) {
  EXPECT_EQ(of_one("# HELP a_total What.\n# TYPE a_total counter\na_total{x=\"1\"} 2\n"),
            "# HELP a_total What.\n# TYPE a_total counter\n"
            "a_total{model=\"m\",pool=\"p\",x=\"1\"} 2\n");
  EXPECT_EQ(of_one("a 1"), "# TYPE a untyped\na{model=\"m\",pool=\"p\"} 1\n");
}

TEST(Merge, OfAModelThatSaysNothingOnlyThat) {
  EXPECT_EQ(merge("p", {{"m", ""}, {"n", "a 1\n"}}),
            "# TYPE a untyped\na{model=\"n\",pool=\"p\"} 1\n" + kUpHead + up("m", 0) + up("n", 1));
  EXPECT_EQ(merge("p", {}), kUpHead);
}

TEST(Merge, LabelsOfTheirsThatHaveSuchANameAreExported) {
  EXPECT_THAT(of_one("a{model=\"x\",pool=\"y\"} 1\n"),
              HasSubstr("a{exported_model=\"x\",exported_pool=\"y\",model=\"m\",pool=\"p\"} 1\n"));
  EXPECT_THAT(of_one("a{model=\"x\",exported_model=\"y\"} 1\n"),
              HasSubstr("a{exported_exported_model=\"x\",exported_model=\"y\",model=\"m\","));
}

TEST(Merge, AFamilyOfSeveralHasOneHead) {
  const std::string text = "# HELP a What.\n# TYPE a gauge\na 1\n# HELP b Other.\nb 2\n";
  EXPECT_EQ(
      merge("p", {{"m", text}, {"n", text}}),
      "# HELP a What.\n# TYPE a gauge\na{model=\"m\",pool=\"p\"} 1\na{model=\"n\",pool=\"p\"} 1\n"
      "# HELP b Other.\n# TYPE b untyped\nb{model=\"m\",pool=\"p\"} 2\n"
      "b{model=\"n\",pool=\"p\"} 2\n" +
          kUpHead + up("m", 1) + up("n", 1));
}

TEST(Merge, SeriesOfAFamilyStandTogether) {
  EXPECT_EQ(
      of_one("a{x=\"1\"} 1\nb 2\na{x=\"2\"} 3\n"),
      "# TYPE a untyped\na{model=\"m\",pool=\"p\",x=\"1\"} 1\na{model=\"m\",pool=\"p\",x=\"2\"} "
      "3\n# TYPE b untyped\nb{model=\"m\",pool=\"p\"} 2\n");
}

TEST(Merge, AHistogramStaysWhole) {
  EXPECT_EQ(of_one("# TYPE h histogram\nh_bucket{le=\"10\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3.5\n"
                   "h_count 2\nh_other 1\n"),
            "# TYPE h histogram\nh_bucket{le=\"10\",model=\"m\",pool=\"p\"} 1\n"
            "h_bucket{le=\"+Inf\",model=\"m\",pool=\"p\"} 2\nh_sum{model=\"m\",pool=\"p\"} 3.5\n"
            "h_count{model=\"m\",pool=\"p\"} 2\n"
            "# TYPE h_other untyped\nh_other{model=\"m\",pool=\"p\"} 1\n");
}

TEST(Merge, AFamilyWhoseTypesDifferHasNone) {
  const std::string all = merge(
      "p",
      {{"m", "# HELP h What.\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n"},
       {"n", "# TYPE h gauge\nh 1\n"},
       {"o", "h 2\n"}});
  EXPECT_THAT(
      all,
      HasSubstr("# TYPE h untyped\nh{model=\"n\",pool=\"p\"} 1\nh{model=\"o\",pool=\"p\"} 2\n"));
  EXPECT_THAT(
      all, HasSubstr("# TYPE h_bucket untyped\nh_bucket{le=\"+Inf\",model=\"m\",pool=\"p\"} 2\n"));
  EXPECT_THAT(all, Not(HasSubstr("histogram")));
}

TEST(Merge, NumbersAreThoseOfTheFormat) {
  for (const char* number : {"NaN", "+Inf", "-Inf", "1e9", "-0.5", ".5", "1.7976931348623157e308"})
    EXPECT_THAT(of_one(std::string("a ") + number + "\n"),
                HasSubstr(std::string("} ") + number + "\n"));
  EXPECT_THAT(of_one("a inf\n"), HasSubstr("} +Inf\n"));
  EXPECT_THAT(of_one("a +4\n"), HasSubstr("} 4\n"));
  for (const char* none :
       {"", "x", "1x", "--1", "+-1", "0x10", "1e999", "nan(1)", "infin", "1,5", "-"})
    EXPECT_FALSE(is_taken(std::string("a ") + none + "\n")) << none;
}

TEST(Merge, TimesAndExemplarsAreLeftOut) {
  EXPECT_THAT(of_one("a 1 1700000000000\n"), HasSubstr("} 1\n"));
  EXPECT_THAT(of_one("a_bucket{le=\"1\"} 1 # {trace_id=\"x} y\"} 0.5 1700000000.5\n"),
              HasSubstr("a_bucket{le=\"1\",model=\"m\",pool=\"p\"} 1\n"));
  EXPECT_FALSE(is_taken("a 1 yesterday\n"));
  EXPECT_FALSE(is_taken("a 1 2 3\n"));
}

TEST(Merge, OpenMetricsNamesTheFamilyOfACounterWithoutTotal) {
  EXPECT_EQ(
      of_one("# HELP a What.\n# TYPE a counter\n# UNIT a seconds\na_total 1\na_created 2\n# EOF\n"),
      "# TYPE a_created untyped\na_created{model=\"m\",pool=\"p\"} 2\n"
      "# HELP a_total What.\n# TYPE a_total counter\na_total{model=\"m\",pool=\"p\"} 1\n");
}

TEST(Merge, TextsOfLabelsStayAsTheyWere) {
  EXPECT_THAT(of_one(R"(a{x="say \"no\"\nand \\ go, {}=#"} 1)"),
              HasSubstr(R"(x="say \"no\"\nand \\ go, {}=#"} 1)"));
  EXPECT_THAT(of_one(R"(a{x="\t"} 1)"), HasSubstr(R"(x="\\t"} 1)")) << "no escape of the format";
  EXPECT_THAT(of_one("a{x=\"\xC3\xA4\xF0\x9F\x98\x80\"} 1"),
              HasSubstr("x=\"\xC3\xA4\xF0\x9F\x98\x80\""));
}

TEST(Merge, NamesOfModelsMayBeAnything) {
  const std::string name = "a \"b\" \\ \n {x=\"y\"} 1\n# HELP";
  const std::string escaped = R"(a \"b\" \\ \n {x=\"y\"} 1\n# HELP)";
  EXPECT_EQ(merge("p", {{name, "a 1\n"}}), "# TYPE a untyped\na{model=\"" + escaped +
                                               "\",pool=\"p\"} 1\n" + kUpHead + up(escaped, 1));
}

TEST(Merge, WhatIsNoUtf8IsReplaced) {
  const std::string replaced = "\xEF\xBF\xBD";
  EXPECT_THAT(of_one("a{x=\"\xFF\"} 1"), HasSubstr("x=\"" + replaced + "\""));
  EXPECT_THAT(of_one("a{x=\"\xC3\"} 1"), HasSubstr("x=\"" + replaced + "\""));
  EXPECT_THAT(of_one("a{x=\"\xED\xA0\x80\"} 1"),
              HasSubstr("x=\"" + replaced + replaced + replaced));
  EXPECT_THAT(of_one("# HELP a \xC0\x80\na 1\n"),
              HasSubstr("# HELP a " + replaced + replaced + "\n"));
  EXPECT_FALSE(is_taken("\xFF 1\n"));
}

TEST(Merge, BlanksAreAllowedWhereTheFormatAllowsThem) {
  EXPECT_THAT(of_one("  a { x = \"1\" , y=\"2\", }\t 3 \r\n\n \n#\n# a comment\n"),
              HasSubstr("a{model=\"m\",pool=\"p\",x=\"1\",y=\"2\"} 3\n"));
}

TEST(Merge, WhatCannotBeReadIsRefusedAsAWhole) {
  for (const char* bad : {"<html>", "{\"a\": 1}", "a", "a{", "a{x", "a{x=", "a{x=1} 1",
                          "a{x=\"1} 1", "a{x=\"1\\\"} 1", "a{x=\"1\"y=\"2\"} 1",
                          "a{x=\"1\",x=\"2\"} 1", "a{,} 1", "a{1=\"\"} 1", "a{x:y=\"\"} 1", "1a 1",
                          "a{x=\"line\nbreak\"} 1", "a{__name__=\"b\"} 1", "# only a comment"}) {
    EXPECT_FALSE(is_taken(std::string("fine 1\n").substr(bad[0] == '#' ? 7 : 0) + bad + "\n"))
        << bad;
  }
  EXPECT_FALSE(is_taken(std::string("a 1\0b\n", 6)));
}

TEST(Merge, ASeriesThatStandsTwiceIsTakenOnce) {
  EXPECT_THAT(of_one("a{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\"} 2\n"), Not(HasSubstr("} 2\n")));
}

TEST(Merge, NobodyElseSaysWhetherAModelIsUp) {
  EXPECT_EQ(merge("p", {{"m",
                         "# TYPE modelpool_backend_metrics_up counter\n"
                         "modelpool_backend_metrics_up 7\na 1\n"}}),
            "# TYPE a untyped\na{model=\"m\",pool=\"p\"} 1\n" + kUpHead + up("m", 1));
}

TEST(Merge, FiveMebibytesAreReadAndTooManySeriesAreNot) {
  const std::string long_value(1000, 'v');
  std::string text;
  for (int i = 0; text.size() < 5U << 20U; ++i)
    text += "a{x=\"" + long_value + std::to_string(i) + "\"} 1\n";
  EXPECT_TRUE(is_taken(text));
  EXPECT_TRUE(is_taken("# HELP a " + std::string(5U << 20U, 'x') + "\na 1\n"));
  text.clear();
  for (std::size_t i = 0; i <= kSeriesMax; ++i) text += "a" + std::to_string(i) + " 1\n";
  EXPECT_FALSE(is_taken(text));
}

}  // namespace
}  // namespace modelpool::metrics
