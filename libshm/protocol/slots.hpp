// Backends: their slots, tickets and states.
//
//            reserve            record_start         publish_ready
//   FREE ----------> RESERVED ------------> STARTING ------------> READY <---------+
//    ^ (mutex)          |  ^ forget_start      |                     | close       | reopen
//    |                  |  +-------------------+                     v             |
//    |                  |                      |                  EVICTING --------+
//    | free             | lose                 | lose                | commit
//    |                  v                      v                     v
//   (g+1) <----------- GONE <-------------- STOPPING <---------------+
//                               gone
// Also: RESERVED -> READY for an external backend, which has no process (publish_ready); RESERVED
// -> GONE and STARTING -> STOPPING when the holder gives its ticket up (give_up), as when it is
// lost. GONE and STOPPING keep the holder's name until it lets go (give_up) or is proved dead
// (disown_ticket). Every arrow is one CAS of the state word.
//
// Safety: any thread; reserve under the mutex, all else lock-free.
//
// Crash: before the CAS nothing has happened, after it everything has. A ticket whose worker died
// is seen by its holder word; EVICTING of a dead epoch goes back to READY by whoever proves it
// dead.
//
// Errors: kTicketLost when the slot is no longer the ticket's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "segment/segment.hpp"

namespace modelpool {

struct ReadyOptions;

// A backend that is still there so long after SIGKILL is overdue: it does not block its own model
// any longer (it still counts).
inline constexpr std::uint64_t kUnkillable_ns = 10 * kSecond_ns;

inline std::uint64_t pack_ref(BackendRef ref) { return pack_half(ref.generation, ref.index); }

struct FoundBackend {
  BackendRef ref;
  StateWord state;
};

// The live backend of a model, if any. A slot that is STOPPING and overdue does not count.
std::optional<FoundBackend> find_backend(const Segment& segment, std::string_view model,
                                         std::uint64_t hash);
inline std::optional<FoundBackend> find_backend(const Segment& segment, std::string_view model) {
  return find_backend(segment, model, hash_name(model));
}
// The coordinator's mark that a STOPPING slot is overdue: it sets the model's hash to this.
inline constexpr std::uint64_t kHashOverdue = 0;

StateWord load_state(const Segment& segment, std::uint32_t backend);
std::uint32_t count_live(const Segment& segment);
std::uint32_t count_ready(const Segment& segment);

// FREE -> RESERVED. The caller holds the mutex and has checked duplicates, line and limit. Which
// devices the need names are those that it is put on.
std::optional<BackendRef> reserve(const Segment& segment, const LockGuard& guard, WorkerRef worker,
                                  std::string_view model, std::uint64_t now, const Need& need = {},
                                  std::uint64_t own_group = 0);
// The worker (pack_worker) that holds the ticket of this life of the slot, or held it. 0: another
// life.
std::uint64_t load_holder(const Segment& segment, BackendRef ref);

// The ticket holder's transitions; `owner` is its Worker::owner_word(). A slot has one holder in
// each generation (load_holder), so the generation of the ticket says whose it is.
struct Started {
  ProcessIdentity process;
  pid_t group = 0;          // 0: signal only the process
  bool has_token = false;   // carries MODELPOOL_BACKEND
  bool in_session = false;  // of who started it
  std::string_view log{};   // BackendRecord::log
};
Result<> record_start(const Segment& segment, BackendRef ref, std::uint32_t owner,
                      const Started& started);
// The program could not be executed: the ticket is as before record_start.
Result<> forget_start(const Segment& segment, BackendRef ref, std::uint32_t owner);

// STARTING (or RESERVED, external) -> READY. The caller has published the loader's lease, and noted
// what `parallel` is (parallel.hpp). Without the mutex the backend counts its leases in any case,
// until somebody with the mutex settles that.
Result<> publish_ready(const Segment& segment, BackendRef ref, std::uint32_t owner,
                       std::string_view address, const ReadyOptions& options,
                       const LockGuard* lock = nullptr);
// kTicketLost, with what ended the load: for a holder whose ticket is not its own any more.
Error why_lost(const Segment& segment, BackendRef ref);
// The holder gives its ticket up, or acknowledges that it was taken. Returns whether this call
// ended the load.
bool give_up(const Segment& segment, BackendRef ref, std::uint32_t owner);

// Control words: CAS within a generation. False if the backend is not live in that generation.
bool set_control(const Segment& segment, BackendRef ref, std::uint32_t set, std::uint32_t clear);
std::uint32_t load_control(const Segment& segment, BackendRef ref);
// pack_keep_alive, 0 = nobody asked.
std::uint32_t load_keep_alive(const Segment& segment, BackendRef ref);
// For how long it may be idle from now on; 0 asks for nothing. The caller has a lease on it, or its
// ticket. True: it may end sooner than the coordinator planned, who is to be rung. A caller killed
// before that is a death that the coordinator sees.
bool set_keep_alive(const Segment& segment, BackendRef ref, std::uint32_t keep_alive);
// Is it a tenant? Known from before it is READY.
bool is_tenant(const Segment& segment, BackendRef ref);
// Traits that its ticket's holder finds out; kept until the slot is free.
void add_trait(const Segment& segment, BackendRef ref, std::uint32_t trait);
void record_exit(const Segment& segment, BackendRef ref, std::uint32_t packed_exit);

// The coordinator's transitions. Each returns whether it took place.
bool close_to_leases(const Segment& segment, BackendRef ref,
                     std::uint32_t epoch);  // READY -> EVICTING
// READY says whether leases are counted, as the slot's own words (parallel, permit) do; without the
// mutex, only that they are. True: it was put right; its waiters are to be woken.
bool settle_counted(const Segment& segment, BackendRef ref, const LockGuard* lock);
// EVICTING -> READY. Takes the mutex if it can be had at once; else as publish_ready without it.
bool reopen(const Segment& segment, BackendRef ref, std::uint32_t epoch);
bool commit_stop(const Segment& segment, BackendRef ref,
                 std::uint32_t epoch);                                     // EVICTING -> STOPPING
bool lose_ticket(const Segment& segment, BackendRef ref, StateWord seen);  // -> GONE or STOPPING
bool mark_gone(const Segment& segment, BackendRef ref);                    // STOPPING -> GONE
bool disown_ticket(const Segment& segment, BackendRef ref);                // owner proved dead
bool free_slot(const Segment& segment, BackendRef ref);                    // GONE, unowned -> FREE

}  // namespace modelpool
