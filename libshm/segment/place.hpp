// Where a pool lies, and how its files come and go: directories, names, locks.
//
// A pool NAME of directory DIR is DIR/NAME, the segment, and DIR/NAME.users, which every process
// that uses the pool holds locked (shared) for life. A creator and a remover hold DIR itself
// locked. The coordinator holds the segment itself locked.
//
// Safety: any thread, any process. What is kept open stands above descriptor 2 and closes on exec.
//
// Crash: a segment is built completely as NAME.tmp and then renamed, so a half-built one never
// carries the name (P6). A lock ends with its holder.
//
// Errors: kNoSuchPool, kIncompatible, kPermission (needs a person), kInvalid, kBusy and kSystem
// (the same may work later); the text says what differs and what to do, as a command that acts on
// this pool.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "segment/header.hpp"

namespace modelpool {

inline constexpr std::uint64_t kAttachWaitMax_ns = 2 * kSecond_ns;

struct SegmentOptions {
  std::string dir;        // empty: MODELPOOL_DIR, /run/modelpool, /dev/shm/modelpool-UID
  bool create = true;     // if there is none
  Capacities capacities;  // of a pool that is created here
  const Settings* settings = nullptr;  // its first settings; without any it grants no ticket
  // For locks, and for the end of a pool that lost the name or has an older layout.
  std::uint64_t wait_ns = kAttachWaitMax_ns;
};

enum class Purpose {
  kLook,    // read only: root may look at anybody's
  kUse,     // a pool that is there
  kCreate,  // or is made
};

// The directory where the pool of that name lies, or would be created. Errors: kInvalid if it lies
// in two places; kPermission, naming the owner, if the host's directory is another user's.
Result<std::string> find_pool_dir(std::string_view name, const std::string& dir,
                                  Purpose purpose = Purpose::kCreate);

// "poolctl --dir /d --pool x remove": a command that acts on this pool, wherever it is run.
std::string command_on_pool(std::string_view program, std::string_view name, const std::string& dir,
                            std::string_view rest = {});

// Where a pool of that name was, is or will be found by whoever looks for it there: without a
// directory both defaults are one place. As HomeRecord has them.
std::vector<std::string> homes_of_pool(std::string_view name, const std::string& dir);

// A segment, opened and checked.
struct OpenSegment {
  Fd file;
  Fd users;  // locked; empty if it was opened to look
  std::string path;
  Header header;
};
// To use: creates it if there is none and `options` say so. What is provably nobody's any more, of
// an earlier boot or of a container that has ended, is replaced.
Result<OpenSegment> open_to_use(std::string_view name, const SegmentOptions& options);
// To look: takes no lock, leaves no trace (P12).
Result<OpenSegment> open_to_look(std::string_view name, const std::string& dir);
// A segment or a copy of one, wherever it lies.
Result<OpenSegment> open_copy(const std::string& path);

// The file of that name, of whatever layout, held open so that its inode is nobody else's.
struct NamedFile {
  Fd file;
  std::string path;
};
Result<NamedFile> open_named(std::string_view name, const std::string& dir,
                             Purpose purpose = Purpose::kUse);

struct RemoveOptions {
  const NamedFile* only = nullptr;  // this one or none
  bool stopped = false;  // all of its backends were ended: what has no process does not count
  bool container_ended = false;  // a person says so of one of another namespace
};
// Takes the name away. Errors: kBusy while processes use it or backends are live.
Result<> remove_pool(std::string_view name, const std::string& dir,
                     const RemoveOptions& options = {});

}  // namespace modelpool
