// Where a pool keeps the output of what it spawns, and the file for one more life of a model.
//
// Safety: any thread. Files are made and renamed: not under the mutex.
//
// Crash: as base/model_log.hpp says. A ticket's holder that was stopped for so long that the model
// was loaded anew makes the newer life's log the previous; it looks right before.
//
// Errors: none. Where there is no log the load goes on without, and the backend's record says why.
#pragma once

#include <string>
#include <string_view>

#include "base/model_log.hpp"
#include "segment/segment.hpp"

namespace modelpool {

// As the settings, and the environment of this process, say it; "" if log_dir is off. A pool in a
// directory of its own (--dir) has a name with a hash of that: pools of one name keep apart.
std::string log_dir_of(const Segment& segment);

struct KeptOutput {
  Fd file;          // to append to; empty: it is not kept
  std::string log;  // BackendRecord::log
};
KeptOutput keep_output(const Segment& segment, std::string_view model);

}  // namespace modelpool
