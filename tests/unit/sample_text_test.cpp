// What coordinatord and modelpool-sample say to each other: what one writes the other reads, and
// what nobody would write is refused whole.
#include "sample_text.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace modelpool::coordinator {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

std::vector<std::string> lines_of(const std::string& text) {
  LineReader reader(kSampleLineMax_bytes);
  EXPECT_TRUE(reader.add(text));
  std::vector<std::string> lines;
  while (auto line = reader.take()) lines.push_back(*line);
  return lines;
}

// "" if the whole of it is taken, else why it is refused.
std::string read(AnswerReader* reader, const std::string& text) {
  for (const std::string& line : lines_of(text)) {
    if (auto ok = reader->add(line); !ok) return ok.error().text;
  }
  return {};
}
std::string read(const std::string& text) {
  AnswerReader reader(7);
  return read(&reader, text);
}

TEST(SampleText, ARequestIsReadAsItWasWritten) {
  SampleRequest request;
  request.id = 12;
  request.with_devices = true;
  request.backends = {{{3, 9}, 100, {{100, 5000, 0}, {101, 5001, 0}}}, {{4, 1}, 0, {{200, 6, 0}}}};
  RequestReader reader;
  std::optional<SampleRequest> found;
  for (const std::string& line : lines_of(request_text(request))) {
    auto one = reader.add(line);
    ASSERT_TRUE(one) << one.error().text;
    if (*one) found = **one;
  }
  ASSERT_TRUE(found);
  EXPECT_EQ(request_text(*found), request_text(request));
  for (const char* what : {"all", "host", "devices"}) {
    const std::string text = std::string("measure 3 ") + what + "\nend 3\n";
    for (const std::string& line : lines_of(text)) {
      const auto one = reader.add(line);
      ASSERT_TRUE(one) << text;
      EXPECT_TRUE(!*one || request_text(**one) == text) << text;
    }
  }
  EXPECT_EQ(found->backends[0].processes[1].start_ticks, 5001u);
}

TEST(SampleText, ARequestThatIsNoneIsRefused) {
  for (const char* line : {"", "measure", "measure x host", "measure 1 some", "end 1",
                           "backend 1 2 3", "shutdown now"}) {
    EXPECT_FALSE(RequestReader().add(line)) << line;
  }
  RequestReader reader;
  ASSERT_TRUE(reader.add("measure 1 host"));
  EXPECT_FALSE(reader.add("backend 1 1 0 77"));
  EXPECT_FALSE(reader.add("backend 1 1 0 -77/5"));
  EXPECT_FALSE(reader.add("end 2"));
}

TEST(SampleText, AnAnswerIsReadAsItWasWritten) {
  SampleAnswer answer;
  answer.id = 7;
  answer.backends = {{{3, 9}, 4096, {100, 101}}, {{4, 1}, std::nullopt, {}}};
  answer.notes = {{"rough", "some of it"}};
  answer.devices = {{"GPU-1", 1000, 300, true, {{100, 500}}}, {"GPU-2", 1000, 1000, false, {}}};
  AnswerReader reader(7);
  ASSERT_EQ(read(&reader, host_text(answer)), "");
  EXPECT_TRUE(reader.answer().has_host);
  EXPECT_FALSE(reader.answer().is_complete) << "a driver may hang now";
  ASSERT_EQ(read(&reader, devices_text(answer)), "");
  EXPECT_TRUE(reader.answer().is_complete);
  EXPECT_EQ(host_text(reader.answer()), host_text(answer));
  EXPECT_EQ(devices_text(reader.answer()), devices_text(answer));
  EXPECT_THAT(reader.answer().devices[0].processes, ElementsAre(Pair(100, 500)));
}

TEST(SampleText, WhatIsNoAnswerIsRefused) {
  const std::string begin = "begin 7\n";
  const std::string host = begin + "host\n";
  EXPECT_EQ(read(host + "end 7\n"), "");
  for (const std::string& text : std::vector<std::string>{
           "begin 8\n", "host\n", begin + "\n", begin + "end 7\n", host + "end 8\n",
           host + "backend 1 1 5\n", begin + "device GPU-1 1 1 known\n", host + "host\n",
           host + "end 7\nend 7\n", begin + "backend 1 1\n", begin + "backend 1 1 -5\n",
           begin + "backend 1 1 5 0\n", begin + "backend 1 1 5 -1\n", begin + "backend -1 1 5\n",
           begin + "backend 1 99999999999 5\n", begin + "backend 1 1 5 1x\n",
           std::string("begin 7\nbackend 1 1 \0 5\n", 24)}) {
    EXPECT_NE(read(text), "") << text;
  }
}

TEST(SampleText, NumbersThatNoHostHasAreRefused) {
  const std::string begin = "begin 7\n";
  for (const char* bytes : {"9223372036854775808", "18446744073709551616", "1125899906842625",
                            "99999999999999999999999999", "0x10", "1e9", "nan"}) {
    EXPECT_NE(read(begin + "backend 1 1 " + bytes + "\n"), "") << bytes;
    EXPECT_NE(read(begin + "host\ndevice G " + bytes + " 0 known\n"), "") << bytes;
  }
  EXPECT_NE(read(begin + "host\ndevice G 10 11 known\n"), "") << "more free than there is";
  EXPECT_NE(read(begin + "host\ndevice G 10 1 known 5:11\n"), "") << "more taken than there is";
  EXPECT_NE(read(begin + "host\ndevice G 10 1 perhaps\n"), "");
  EXPECT_NE(read(begin + "host\ndevice \x01 10 1 known\n"), "");
  EXPECT_NE(read(begin + "host\ndevice " + std::string(96, 'G') + " 10 1 known\n"), "");
  EXPECT_EQ(read(begin + "host\ndevice " + std::string(95, 'G') + " 10 1 known\n"), "");
}

TEST(SampleText, MoreThanThereCanBeIsRefused) {
  std::string devices = "begin 7\nhost\n";
  for (int i = 0; i < 17; ++i) devices += "device G" + std::to_string(i) + " 10 1 known\n";
  EXPECT_NE(read(devices), "");
  std::string notes = "begin 7\n";
  for (int i = 0; i < 65; ++i) notes += "note a b\n";
  EXPECT_NE(read(notes), "");
  std::string backends = "begin 7\n";
  for (int i = 0; i < 4097; ++i) backends += "backend 1 1 5\n";
  EXPECT_NE(read(backends), "");
  AnswerReader endless(7);
  std::string why = read(&endless, "begin 7\n");
  const std::string pids(kSampleLineMax_bytes / 2, ' ');
  std::string line = "backend 1 1 5";
  while (line.size() < kSampleLineMax_bytes / 2) line += " 1234567";
  for (int i = 0; i < 100 && why.empty(); ++i) why = read(&endless, line + "\n");
  EXPECT_THAT(why, HasSubstr("without end"));
}

TEST(SampleText, LinesComeInWhateverPieces) {
  LineReader reader(10);
  for (const char c : std::string("one\ntw")) ASSERT_TRUE(reader.add(std::string_view(&c, 1)));
  EXPECT_EQ(reader.take(), "one");
  EXPECT_EQ(reader.take(), std::nullopt);
  ASSERT_TRUE(reader.add("o\n\nx"));
  EXPECT_EQ(reader.take(), "two");
  EXPECT_EQ(reader.take(), "");
  EXPECT_EQ(reader.take(), std::nullopt);
  EXPECT_FALSE(reader.add("0123456789")) << "a line that does not end";
}

TEST(SampleText, ANoteIsShownEscapedAndCut) {
  AnswerReader reader(7);
  ASSERT_EQ(read(&reader, "begin 7\nnote nvml a\x1b[2J" + std::string(5000, 'x') + "\n"), "");
  EXPECT_EQ(reader.answer().notes[0].second.find('\x1b'), std::string::npos);
  EXPECT_LT(reader.answer().notes[0].second.size(), 1200u);
}

}  // namespace
}  // namespace modelpool::coordinator
