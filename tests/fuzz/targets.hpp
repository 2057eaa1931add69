// What is fuzzed. Each takes any bytes and says whether they got to what it looks at; a crash, a
// sanitizer's report, a hang or an abort (a property that does not hold, named on stderr) is a
// finding. libFuzzer drives them (fuzz_main.cpp, run_fuzz), and a test does with the corpus and
// with bytes of its own (fuzz_test.cpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace modelpool::fuzz {

using Bytes = std::span<const std::uint8_t>;

// A segment: what reads it, judges it and prints it. The bytes are patches (Patch) on a valid one,
// so that they get past the header; patches of the header are among them. True: it was opened.
bool segment(Bytes bytes);
// A TOML config file. True: it was accepted.
bool config(Bytes bytes);
// Durations, sizes, counts, names, globs, settings, signals. True: it is one of these.
bool text(Bytes bytes);
// What poolserve reads of a stranger: the first byte chooses requests, answers, JSON, forms or
// targets, the second how they are cut into pieces and the rest of the facts. True: it was
// accepted.
bool wire(Bytes bytes);

// The input of `segment`: a byte that chooses the command, one of facts, then patches.
struct Patch {
  std::uint8_t table = 0;  // of the header's, the last + 1: the header itself
  std::uint8_t how = 0;    // Write
  std::uint16_t row = 0;   // modulo what there is, as all of these
  std::uint32_t offset = 0;
  std::uint64_t value = 0;
};
static_assert(sizeof(Patch) == 16);

}  // namespace modelpool::fuzz
