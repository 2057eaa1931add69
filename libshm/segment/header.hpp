// The first page of a segment: built once, checked by everyone who opens one.
//
// Safety: reads and writes files; any thread.
//
// Crash: what build_segment did not finish has no name yet (place.hpp).
//
// Errors: kIncompatible says what differs and what to do; kInvalid, kSystem.
#pragma once

#include <string>
#include <string_view>

#include "segment/layout.hpp"

namespace modelpool {

Result<> check_capacities(const Capacities& capacities);
std::uint32_t rules_capacity(const Header& header);  // of which only the settings' bytes tell

struct SegmentPlan {
  std::string name;
  std::string home;  // the path it will have
  Capacities capacities;
  const Settings* settings = nullptr;  // its first settings; without any it grants no ticket
};
// Fills an empty file: every byte is allocated, every field that is not 0 written.
Result<> build_segment(int fd, const SegmentPlan& plan);

// The header of a file of this layout and build, NUL-terminated and within the file. `advice` is
// what to do about one of another layout.
Result<Header> read_header(int fd, const std::string& path, const std::string& advice);
bool is_segment(int fd);          // of any layout
std::uint32_t layout_of(int fd);  // its version; 0: it is no segment
inline constexpr std::string_view kNoSegment =
    "it is not a modelpool segment; name another file, or another --pool or --dir";

// Are the PIDs and times in it those of this process?
Result<> check_host(const Header& header, const std::string& path);
Result<bool> is_of_this_boot(const Header& header);

// HomeRecord, "" if unknown.
std::string read_home(int fd);

}  // namespace modelpool
