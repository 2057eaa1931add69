// What a program sees of the host around it: the programs beside it, other processes, memory.
//
// Safety: no shared state; any thread.
//
// Errors: empty or 0 where the host does not say.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace modelpool::config {

std::string quoted(std::string_view text);   // printable, whatever it holds
std::string size_text(std::uint64_t bytes);  // "64MiB", as a config has it

// A program of that name in the folder of this one; else in PATH.
std::string find_program(const std::string& name);

// "python3 (pid 12)": a process that takes connections to this address ("127.0.0.1:80",
// "unix:/path").
std::string who_listens(const std::string& address);

std::vector<std::string> command_line_of(pid_t pid);
std::string folder_of(pid_t pid);  // its working directory

std::uint64_t total_memory_bytes();  // of the host

}  // namespace modelpool::config
