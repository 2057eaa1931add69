// A text in a file without a name: it may be larger than a message, and has no name to be read by.
//
// Safety: one thread a file.
//
// Errors: kSystem.
#pragma once

#include <string>

#include "between/fd.hpp"
#include "modelpool/result.hpp"

namespace modelpool::serve {

// Empty; that can be sealed if the flags say so. None: errno.
Fd open_memory_file(const char* title, unsigned flags = 0);
Result<Fd> make_memory_file(const char* title, const std::string& text);
std::string read_memory_file(const Fd& fd);  // whole, wherever it was read before

}  // namespace modelpool::serve
