#include "config/words.hpp"

namespace modelpool::config {

Result<std::vector<std::string>> split_words(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  bool is_word = false;  // "" is one, too
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
      if (is_word) words.push_back(std::move(word));
      word.clear();
      is_word = false;
      continue;
    }
    if (c == '\\') {
      if (++at == text.size()) {
        return fail(Errc::kInvalid, "it ends in a single \\; write \\\\ for a backslash");
      }
      if (text[at] == '\n') continue;  // the line goes on
      is_word = true;
      word += text[at];
      continue;
    }
    is_word = true;
    if (c != '\'' && c != '"') {
      word += c;
      continue;
    }
    for (++at; at < text.size() && text[at] != c; ++at) {
      if (c == '"' && text[at] == '\\' && at + 1 < text.size()) {
        const char next = text[at + 1];
        if (next == '\n') {
          ++at;
          continue;
        }
        if (next == '"' || next == '\\' || next == '$' || next == '`') ++at;
      }
      word += text[at];
    }
    if (at >= text.size()) {
      return fail(Errc::kInvalid, std::string("a ") + c +
                                      " is not closed; add the second one, or "
                                      "write \\" +
                                      c + " for the character");
    }
  }
  if (is_word) words.push_back(std::move(word));
  return words;
}

std::string quote_word(std::string_view word) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=:,./@%{}[]";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string_view::npos)
    return std::string(word);
  std::string quoted = "'";
  for (const char c : word) {
    if (c == '\'') {
      quoted += "'\\''";
    } else {
      quoted += c;
    }
  }
  return quoted + "'";
}

}  // namespace modelpool::config
