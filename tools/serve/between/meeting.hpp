// Where a poolserve meets those who serve the pool already: NAME.door, beside the segment.
//
// Every worker has its listening socket, so workers answer there also when their master is dead.
// The newcomer sends "take 1", and gets the listening sockets, that of NAME.door itself, and the
// memory by which its workers will end those who were there (lineage.hpp). NAME.door.lock is held
// locked by a master that lives, and holds its PID as text.
//
// Safety: one thread; nothing here blocks, but take_over, for at most kTakeMax_ms.
//
// Crash: a newcomer that dies before it has forked workers has changed nothing. If it dies after,
// its workers take over once they are ready (finish_takeover). NAME.door on which nobody listens is
// replaced.
//
// Errors: kBusy "poolserve (pid 12) serves this pool"; kSystem.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "between/lineage.hpp"
#include "master/listeners.hpp"

namespace modelpool::serve {

inline constexpr int kTakeMax_ms = 5000;

std::string door_path(const std::string& segment_path);

// Held as long as the descriptor is open in this process: forked workers close theirs.
Result<Fd> lock_door(const std::string& door);

struct Taken {
  pid_t from = 0;  // the worker that answered
  Fd meeting;
  std::shared_ptr<Lineage> lineage;
  std::vector<OpenSocket> listeners;
};
// Nobody is there: nullopt.
Result<std::optional<Taken>> take_over(const std::string& door);

Result<Fd> open_meeting(const std::string& door);

// A worker's side: for a connection accepted from `start.meeting`, once it is readable. The caller
// closes it then.
void answer_meeting(int connection, const WorkerStart& start);

// A worker's side: its master has died. If that was between "ready" and the end of those who were
// there before, it is made up for; else nothing changes. One that is to finish itself leaves that
// to others.
void finish_takeover(const WorkerStart& start);

// To all workers of a generation: finish.
void retire(const Fd& eventfd);
// A worker's side: is it to accept nothing more? Either its master retired it, or others serve in
// its place: then it is asked again, for it may have to go on.
bool is_retired(const WorkerStart& start);
// And may it end when it has finished?
bool may_end(const WorkerStart& start);

}  // namespace modelpool::serve
