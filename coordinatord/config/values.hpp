// Values of the door's tables, checked as they are read.
//
// Safety: pure functions.
//
// Errors: nullopt, after it was told to Problems.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/document.hpp"

namespace modelpool::config {

// `like` shows what to write: "\"127.0.0.1:8080\"".
std::optional<std::string> read_text(const Member& member, std::string_view like,
                                     Problems& problems);  // not empty, no control characters
std::optional<std::vector<std::string>> read_texts(const Member& member, std::string_view like,
                                                   Problems& problems);  // one, or a list
std::optional<std::uint64_t> read_count(const Member& member, std::uint64_t min, std::uint64_t max,
                                        Problems& problems);
std::optional<std::uint64_t> read_size(const Member& member, std::uint64_t min_bytes,
                                       Problems& problems);
std::optional<std::uint64_t> read_time(const Member& member, Problems& problems);  // ns
// The number of one of the words.
std::optional<std::size_t> read_choice(const Member& member,
                                       const std::vector<std::string_view>& words,
                                       Problems& problems);

void report_unknown_key(const Member& member, const std::vector<std::string_view>& known,
                        Problems& problems);

}  // namespace modelpool::config
