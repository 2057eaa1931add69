// Rows as C structures: which field of rows/rows.def stands where, and rows written so.
//
// A field whose name is a member of the structure in modelpool.h stands there. All others stand
// behind it, where only modelpool_describe finds them: they are no part of the ABI. A model's name
// stands there whole, and cut in the structure, whose member is as long as names once were.
//
// Safety: the tables are constants; fill() as of a look at the pool.
//
// Errors: kInvalid, for a table that is none or rows that do not fit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "modelpool/modelpool.h"
#include "pool/inside.hpp"

namespace modelpool::c {

struct RowTable {
  std::span<const modelpool_field> fields;
  std::size_t declared_bytes = 0;  // of the structure in modelpool.h
  std::size_t row_bytes = 0;       // with the fields behind it
  std::size_t model_offset = 0;    // of the structure's member, 0: it has none
};
const RowTable* find_table(int table);  // MODELPOOL_BACKENDS...; null if there is none

// The caller's array: `row_bytes` apart, of which each row fills the first `written_bytes`.
struct Rows {
  void* rows = nullptr;
  std::size_t row_bytes = 0;
  std::size_t written_bytes = 0;
  std::size_t capacity = 0;
  std::size_t* count = nullptr;
};
// Looks at the pool and fills the array; `first` counts for events only.
Result<> fill(const Pool& pool, int table, std::uint64_t first, const Rows& to);

// What fits, cut between characters, and NULs up to the end.
void write_text(char* to, std::size_t bytes, std::string_view text);

}  // namespace modelpool::c
