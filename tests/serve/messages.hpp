// Heads for tests, out of their text.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <utility>

#include "wire/message.hpp"

namespace modelpool::serve {

// `lines` end with "\n" here, and the empty line is added.
inline std::string head_text(std::string_view lines) {
  std::string text;
  for (const char c : lines) text += c == '\n' ? "\r\n" : std::string(1, c);
  return text + "\r\n";
}

inline http::header<true> request_of(std::string_view lines) {
  RequestReader reader;
  const auto taken = reader.read_head(head_text(lines));
  EXPECT_TRUE(taken && *taken > 0) << lines << (taken ? "" : taken.error().message);
  return reader.head();
}

inline http::header<false> answer_to(std::string_view lines, std::string_view method = "GET") {
  AnswerReader reader(method);
  const auto taken = reader.read_head(head_text(lines));
  EXPECT_TRUE(taken && *taken > 0) << lines << (taken ? "" : taken.error().message);
  return reader.head();
}

}  // namespace modelpool::serve
