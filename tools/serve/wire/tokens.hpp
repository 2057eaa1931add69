// The words that field values are made of, and percent-encoding.
//
// Safety: pure functions of bytes that a stranger sent.
//
// Errors: none; what cannot be read is nullopt.
#pragma once

#include <boost/beast/core/string.hpp>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace modelpool::serve {

inline std::string_view view(boost::beast::string_view text) { return {text.data(), text.size()}; }

bool is_control(char c);     // below a blank, or DEL
bool is_token_char(char c);  // RFC 9110, 5.6.2
bool is_token(std::string_view text);
char lower(char c);  // ASCII only, as all of these
std::string lowered(std::string_view text);
bool same_word(std::string_view a, std::string_view b);  // but for case
bool begins_with_word(std::string_view text, std::string_view word);
bool ends_with(std::string_view text, std::string_view end);
std::string_view trimmed(std::string_view text);  // of blanks and tabs

// The members of a list: trimmed, empty ones left out; quotes are not looked at.
std::vector<std::string_view> members(std::string_view list, char separator = ',');
// Decimal digits and nothing else, up to 19 of them.
std::optional<std::uint64_t> plain_number(std::string_view text);
// All but letters, digits and -._~ as %XX.
std::string percent_encoded(std::string_view text);
// With every % followed by two hex digits; `plus_is_blank` in queries.
std::optional<std::string> percent_decoded(std::string_view text, bool plus_is_blank);
// How many bytes the character at the front has, of valid UTF-8; 0: none stands there.
std::size_t utf8_character(std::string_view text);
bool is_utf8(std::string_view text);

}  // namespace modelpool::serve
