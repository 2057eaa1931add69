// The pool's file, which coordinatord and poolserve share: TOML in, checked values out. [pool] sets
// the pool's rules, each [[model]] table those of the models its glob matches, [capacity] how large
// the tables of a new pool are; [serve] and [models."NAME"] are the door's, and rules of a
// [models."NAME"] are rules of the pool like all others. Each program checks all of it, with the
// same words, and uses its own.
//
// Safety: reads regular files; no shared state.
//
// Crash: changes nothing; who applies the result publishes it with one store.
//
// Errors: kInvalid with "unable to read config FILE:LINE:COLUMN: reason", a line for each problem
// of the file; kSystem if the file cannot be opened or read.
#pragma once

#include <string>

#include "config/capacities.hpp"
#include "config/door.hpp"
#include "config/secrets.hpp"
#include "modelpool/result.hpp"
#include "modelpool/settings.hpp"

namespace modelpool::config {

struct PoolFile {
  // Each value knows where it came from; config_hash differs when file or flags do, and is never 0.
  Settings settings;
  GivenCapacities capacities;
  Door door;
  std::string text;  // as it was read
};

// The file at `path`, none if that is empty, under `flags`, which override [pool] and count as
// kFlag whatever origin they carry. Files that it names are looked for; its "${NAME}" are resolved
// by who uses them, poolserve.
Result<PoolFile> load_pool_file(const std::string& path, const Overrides& flags = {},
                                Variables variables = Variables::kResolved);
// The same of a text that was read before. Relative names of files are meant from the folder of
// `path`, which messages name.
Result<PoolFile> read_pool_file(const std::string& path, std::string text,
                                const Overrides& flags = {},
                                Variables variables = Variables::kResolved);

}  // namespace modelpool::config
