// Starting a process so that there is no instant in which it runs unknown (P6, P9).
//
// The child is created with its own session, or as a job with its own process group, and waits at a
// gate. The caller records it in the
// segment, then opens the gate; only then the child executes the program. If the caller dies first,
// the child dies with it. The child never writes the segment.
//
// Safety: any thread. The child shares the parent's memory without suspending it (a fork of a
// process with gigabytes resident takes tens of milliseconds) and makes raw system calls only.
//
// Crash: before record_start the child dies by its parent's death; after it the slot names it.
//
// Time: bounded. A file is opened without waiting for who reads it, and a child that has not
// executed its program within 10 s is ended.
//
// Errors: kSpawnFailed with the program and the reason (not found, not executable, no such working
// directory), kInvalid (no program, an environment entry that is not NAME=VALUE, an output that is
// no file, a FIFO that nobody reads), kSystem (an output that cannot be opened, no descriptors, no
// memory). Nothing runs after an error.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/process.hpp"
#include "modelpool/result.hpp"

namespace modelpool {

struct SpawnOptions;

// `at_gate` runs while the child waits; an error from it ends the child and is returned.
// `on_failed_exec` runs if the program could not be executed, before the child ends.
// `default_output` is asked where the options name no output, before there is a child; no file:
// /dev/null.
Result<ProcessHandle> spawn_gated(const std::vector<std::string>& argv, const SpawnOptions& options,
                                  const std::function<Result<>(const ProcessIdentity&)>& at_gate,
                                  const std::function<void()>& on_failed_exec,
                                  const std::function<Fd()>& default_output = {});

// Waits for exactly this child on a thread of its own and hands over its packed exit status. While
// on_exit runs the child is a zombie: its number, and that of its group, is nobody else's.
void reap_when_exited(ProcessHandle child, std::function<void(std::uint32_t)> on_exit);

}  // namespace modelpool
