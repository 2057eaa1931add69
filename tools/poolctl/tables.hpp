// Tables that more than one command prints, and how a frame of them is drawn over the last one.
#pragma once

#include <string>

#include "common.hpp"

namespace modelpool::poolctl {

// The live backends, in the order of the snapshot. Width 0 is unlimited. Not judged: no coordinator
// answers.
std::string list_text(const Segment& segment, const Snapshot& snapshot, bool is_judged,
                      std::size_t width);
std::string waiters_text(const Snapshot& snapshot, std::size_t width);
// "pool default: 2 live of 3, 1 lease, 0 waiting, 2026-11-23T19:00:00.000Z"
std::string title_of(const Segment& segment, const Snapshot& snapshot);

// What of the frame fits on the terminal, to be written over the last frame: no line is cleared
// before it is rewritten.
std::string draw(const std::string& frame, std::size_t width);

inline constexpr std::uint64_t kRedrawMin_ns = 50 * kMillisecond_ns;
// An option NAME DURATION, of at least kRedrawMin_ns.
CLI::Option* add_redraw(CLI::App* command, const std::string& name, const std::string& help,
                        std::uint64_t* every_ns);

}  // namespace modelpool::poolctl
