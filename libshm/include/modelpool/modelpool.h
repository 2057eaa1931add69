/* modelpool in C: attach to a pool, acquire a model, hold a lease while a request runs, load the
 * model when handed the ticket. Words mean what they mean in the README; this header is the stable
 * surface of libmodelpool.so that other languages bind to.
 *
 *   modelpool_error error;
 *   modelpool_pool pool;
 *   modelpool_grant grant;
 *   if (modelpool_attach(NULL, NULL, &pool, &error) != MODELPOOL_OK) die(error.text);
 *   if (modelpool_acquire(pool, "llama-3-8b", 30000, NULL, &grant, &error) != MODELPOOL_OK) ...
 *   if (grant.kind == MODELPOOL_GRANTED_TICKET) {
 *     modelpool_spawn(grant.ticket, argv, NULL, NULL, &error);
 *     ... wait until it answers ...
 *     modelpool_ready(grant.ticket, "127.0.0.1:4321", NULL, &grant.lease, &error);
 *   }
 *   ... send the request to the lease's address ...
 *   modelpool_release(grant.lease);
 *
 * Promises that are cited here; the README has them all
 *   P2: a granted lease is never cut by an eviction for idleness, room, group or memory.
 *   P3: at most max_backends are live at any instant, those that start and those that die included.
 *   P4: one backend of a model is started, and everybody waits for that one.
 *   P5: first come, first served across all workers of the host.
 *   P6: any process may die anywhere; the others go on, and what it held is cleared.
 *   P7: a signal reaches the process that was registered, or nobody.
 *   P9: a backend that is stopped is stopped to the end, with its whole process group.
 *   P11: every decision leaves a record; what is unknown reads as unknown, never as 0.
 *   P12: looking changes nothing.
 *
 * Safety
 *   Threads: every function may be called from any thread at any time, on any handle. Leases and
 *     waits may move between threads. What one handle cannot do twice at once (two threads that use
 *     the same ticket or poll the same wait) is answered MODELPOOL_BUSY, and nothing happens. There
 *     is no state of a call outside its arguments: no errno, no last error.
 *   Handles: plain numbers, copied freely; all zeros is none. One that is closed, released, used
 *     up, made up or of another kind is answered MODELPOOL_CLOSED, also long after its number was
 *     given to somebody else's object: a number is never given out twice.
 *   Fork: in a child, inherited leases, tickets and waits are inert: every function answers
 *     MODELPOOL_CLOSED and changes nothing for the parent. An inherited pool works: it attaches the
 *     child at its first use. Create the wait fd (modelpool_wait_fd) after the fork. After exec
 *     everything is gone; the next attach or the coordinator clears what was held (P6).
 *   Signal handlers: only modelpool_version and modelpool_code_name are async-signal-safe. A
 *     handler that calls another function while its thread is inside one is answered
 *     MODELPOOL_BUSY; one that interrupts malloc or fork is not, and may deadlock. Write to a pipe,
 *     or set a flag, and call later.
 *   Cancellation: a thread must not be cancelled (pthread_cancel) inside a call, except by the end
 *     of the process.
 *   Unloading: the library stays in the process once loaded.
 *
 * Crash
 *   Whatever a process held when it died, the coordinator clears (P6); backends it loaded stay.
 *
 * Errors
 *   A function that can fail returns a modelpool_code: MODELPOOL_OK, or what went wrong, with the
 *   details in `error` (NULL: not wanted). On failure nothing was done, unless said otherwise, and
 *   handles and structures to be written are zeroed where that is said. No function throws, aborts
 *   or sets a signal disposition. Any of them may answer MODELPOOL_INVALID (an argument; the text
 *   names it), MODELPOOL_CLOSED (the handle), MODELPOOL_BUSY (as above, or the pool's mutex was not
 *   let go for 2 s) and MODELPOOL_SYSTEM (out of memory, descriptors, /proc); listed below is what
 *   else.
 *
 * Text
 *   UTF-8, NUL-terminated. A model's name or address has 1 to 255 bytes, a tag or label at most 31,
 *   all printable. Arguments are copied before a call returns. What is printed was escaped. Members
 *   `model` keep their size: a longer name is cut there, between two characters. It is whole as the
 *   field "model" of a row (modelpool_find_field).
 *
 * Times are milliseconds (_ms), of CLOCK_MONOTONIC: no suspend, no clock steps. Sizes are bytes.
 * Unknown, or does not apply, is -1, never 0 (P11).
 *
 * Growth
 *   Structures of options and of answers begin with struct_bytes, which the caller sets to its own
 *   sizeof (the ..._INIT macros do); fields are only ever added at the end, zero meaning "as
 *   before". A library that is older than a caller's option refuses it with MODELPOOL_INVALID
 *   instead of ignoring it. Functions and codes are only added. What breaks this changes the
 *   soname.
 */
#ifndef MODELPOOL_MODELPOOL_H_
#define MODELPOOL_MODELPOOL_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define MODELPOOL_API __attribute__((visibility("default")))
#else
#define MODELPOOL_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Room for the longest text and its NUL; of a model's name for 191 bytes of it (see Text). */
#define MODELPOOL_MODEL_BYTES 192
#define MODELPOOL_ADDRESS_BYTES 256
#define MODELPOOL_TAG_BYTES 32
#define MODELPOOL_LABEL_BYTES 32
#define MODELPOOL_POOL_BYTES 72
#define MODELPOOL_ERROR_BYTES 992

#define MODELPOOL_UNKNOWN (-1)

/* --- Errors ------------------------------------------------------------------------------------
 */

enum {
  MODELPOOL_OK = 0,
  MODELPOOL_TIMEOUT = 1,        /* the deadline passed while waiting */
  MODELPOOL_QUEUE_FULL = 2,     /* max_waiters are waiting already */
  MODELPOOL_TABLE_FULL = 3,     /* a table of the pool, or of this process, has no free slot */
  MODELPOOL_ALL_PINNED = 4,     /* no place can be made: all that could go is pinned */
  MODELPOOL_COOLING_DOWN = 5,   /* failed to load lately; see retry_after_ms */
  MODELPOOL_LOAD_FAILED = 6,    /* the load this call waited for failed */
  MODELPOOL_NO_COORDINATOR = 7, /* coordinatord is needed and has been absent for the grace */
  MODELPOOL_NO_SUCH_POOL = 8,   /* no pool of that name */
  MODELPOOL_INCOMPATIBLE = 9,   /* another layout, namespace, boot, kind of file; unknown setting */
  MODELPOOL_NOT_LOADED = 10,    /* no backend serves the model and none was to be loaded */
  MODELPOOL_TICKET_LOST = 11,   /* load_timeout ended it, or it was given up */
  MODELPOOL_LEASE_LOST = 12,    /* the lease's backend was stopped */
  MODELPOOL_INVALID = 13,       /* an argument is malformed */
  MODELPOOL_CLOSED = 14,        /* the handle is closed, or was inherited through fork */
  MODELPOOL_REPLACED = 15,   /* the pool was removed or replaced; no other had its name in time */
  MODELPOOL_CANCELLED = 16,  /* modelpool_cancel */
  MODELPOOL_PERMISSION = 17, /* owned by another user, or open to others */
  MODELPOOL_BUSY = 18,       /* in use by another thread, or the pool's mutex by another process */
  MODELPOOL_SPAWN_FAILED = 19, /* the program could not be executed; the ticket stays */
  MODELPOOL_SYSTEM = 20,       /* the operating system refused; `system` is its errno */
  MODELPOOL_TOO_LARGE = 21     /* the model takes more than the pool has at all */
};
typedef int modelpool_code;

/* Filled by the call it was given to, whole, also on success (code 0, empty text). Needs no
 * preparation; never grows. */
typedef struct modelpool_error {
  int32_t code;           /* a modelpool_code */
  int32_t system;         /* errno where the cause is a system call, else 0 */
  int64_t retry_after_ms; /* COOLING_DOWN, LOAD_FAILED: until the next load may start; else 0 */
  int64_t reserved[2];
  char text[MODELPOOL_ERROR_BYTES]; /* "unable to VERB OBJECT: reason; what to do" */
} modelpool_error;

/* "timeout", "queue_full"...: as JSON carries it; "ok" for 0, "unknown" for what is none.
 * Static. Async-signal-safe. */
MODELPOOL_API const char* modelpool_code_name(modelpool_code code);

/* "0.1.0": of the library that is loaded. Static. Async-signal-safe. */
MODELPOOL_API const char* modelpool_version(void);

/* --- Handles -----------------------------------------------------------------------------------
 */

typedef struct modelpool_pool {
  uint64_t id;
} modelpool_pool;
/* A request in flight. While it exists its backend is not evicted (P2). */
typedef struct modelpool_lease {
  uint64_t id;
} modelpool_lease;
/* The exclusive right to start the backend of one model (P4). */
typedef struct modelpool_ticket {
  uint64_t id;
} modelpool_ticket;
/* An acquire in progress. */
typedef struct modelpool_wait {
  uint64_t id;
} modelpool_wait;

/* --- Pools -------------------------------------------------------------------------------------
 */

typedef struct modelpool_attach_options {
  size_t struct_bytes;
  const char* dir;   /* NULL: MODELPOOL_DIR, /run/modelpool, /dev/shm/modelpool-UID */
  int32_t no_create; /* 1: NO_SUCH_POOL instead of a new pool */
  uint32_t backends; /* capacities of a pool that is created here; 0: 256 */
  uint32_t workers;  /* 64 */
  uint32_t leases;   /* 1024 for each worker */
  uint32_t waiters;  /* 512 */
  uint32_t events;   /* 4096 */
  uint32_t models;   /* 512 */
  uint32_t reserved;
  const char* const* settings;  /* "name=value", then NULL: of a pool created here. NULL: none, so
                                   that it grants no ticket before a coordinator has run */
  int64_t coordinator_grace_ms; /* how long its absence goes unnoticed; 0: 10000 */
} modelpool_attach_options;
#define MODELPOOL_ATTACH_OPTIONS_INIT \
  { sizeof(modelpool_attach_options), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

/* Joins the pool of that name, creating it if there is none. name: [a-z0-9_-]{1,64}; NULL:
 * MODELPOOL_POOL, else "default". options: NULL for the defaults. *pool is the caller's, to be
 * given to modelpool_detach; zeroed on failure. The same pool may be attached more than once.
 * Waits up to 5 s for a worker row if every one is taken.
 * Errors: NO_SUCH_POOL, INCOMPATIBLE, PERMISSION, TABLE_FULL, REPLACED. */
MODELPOOL_API modelpool_code modelpool_attach(const char* name,
                                              const modelpool_attach_options* options,
                                              modelpool_pool* pool, modelpool_error* error);

/* Leaves the pool: this process's row is free when its last lease, ticket and wait have ended.
 * Leases and tickets out stay valid. Waits and blocked calls to modelpool_acquire are ended with
 * CLOSED; other calls in progress finish. The wait fd is closed: take it out of event loops before.
 * Errors: CLOSED (harmless). */
MODELPOOL_API modelpool_code modelpool_detach(modelpool_pool pool);

/* --- Acquire -----------------------------------------------------------------------------------
 */

typedef struct modelpool_acquire_options {
  size_t struct_bytes;
  const char* tag;         /* who asks, shown in events and lists; NULL: none */
  int64_t busy_timeout_ms; /* of this request alone; 0: only the pool's rules */
  uint64_t expected_bytes; /* what loading it will take; 0: unknown. Shown in lists */
  uint64_t priority;       /* shown in lists; the line is first come, first served (P5) */
  int32_t no_load;         /* 1: NOT_LOADED instead of a ticket */
  int32_t reserved;
  int32_t cancellable; /* 1: looks at modelpool_cancelled, for the lease of a load too */
  int32_t reserved_cancel;
  /* How long the model's backend may be idle from now on, in place of idle_timeout; the last
   * acquire that says so wins. 0: it is evicted when its last lease ends. Less than 0, or 49 days
   * and more: it may for ever. Pins and room for others go before. Read if has_keep_alive is 1. */
  int64_t keep_alive_ms;
  int32_t has_keep_alive;
  int32_t reserved2;
} modelpool_acquire_options;
#define MODELPOOL_ACQUIRE_OPTIONS_INIT \
  { sizeof(modelpool_acquire_options), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

enum {
  MODELPOOL_GRANTED_NOTHING = 0, /* yet */
  MODELPOOL_GRANTED_LEASE = 1,   /* it is loaded: send the request to the lease's address */
  MODELPOOL_GRANTED_TICKET = 2   /* load it */
};
/* The caller's, to be given back by release, or ready or fail. Never grows. */
typedef struct modelpool_grant {
  int32_t kind;
  int32_t reserved;
  modelpool_lease lease;
  modelpool_ticket ticket;
} modelpool_grant;

/* A lease if the model is loaded, a ticket if the caller is to load it (P4: one loader at a time;
 * P5: first come, first served). Waits for either, up to timeout_ms: 0 does not wait, at most 10
 * years; there is no wait without an end. A loaded model takes no lock and no system call, unless
 * its backend has a limit of requests at once (the setting `parallel`): then requests are served in
 * the order in which they came, and wait while it is full. *grant is zeroed on failure. Blocks its
 * thread; only detach ends it early (modelpool_begin can be cancelled). A signal handler runs and
 * the wait goes on. Errors: TIMEOUT, QUEUE_FULL, TABLE_FULL, ALL_PINNED, COOLING_DOWN, LOAD_FAILED,
 * NO_COORDINATOR, NOT_LOADED, REPLACED; INCOMPATIBLE when loading takes a setting of a newer
 * version (leases go on). */
MODELPOOL_API modelpool_code modelpool_acquire(modelpool_pool pool, const char* model,
                                               int64_t timeout_ms,
                                               const modelpool_acquire_options* options,
                                               modelpool_grant* grant, modelpool_error* error);

/* Begins an acquire that the caller polls: for event loops. Never blocks for longer than a
 * mutex. *wait is the caller's until a poll that says anything but "nothing yet", or cancel; it is
 * zeroed on failure. Stands in line from its first poll on: poll it at once, then whenever the wait
 * fd is readable. Errors as above, from poll. */
MODELPOOL_API modelpool_code modelpool_begin(modelpool_pool pool, const char* model,
                                             int64_t timeout_ms,
                                             const modelpool_acquire_options* options,
                                             modelpool_wait* wait, modelpool_error* error);

/* One look. MODELPOOL_OK with grant->kind GRANTED_NOTHING: nothing yet, and the wait goes on. Any
 * other outcome ends the wait, whose handle is closed from then on; but BUSY (another thread polls
 * it) and INVALID (grant is NULL) do not. Without the wait fd, poll at least once a second. Errors:
 * those of acquire, and CANCELLED; CLOSED also when its pool was detached. */
MODELPOOL_API modelpool_code modelpool_poll(modelpool_wait wait, modelpool_grant* grant,
                                            modelpool_error* error);

/* Ends a wait: leaves the line at once, costing nobody its place (P5). A poll in progress in
 * another thread says CANCELLED, unless it was granted something just before, which is then its
 * caller's. Errors: CLOSED: it had ended before (harmless). */
MODELPOOL_API modelpool_code modelpool_cancel(modelpool_wait wait);

/* A descriptor for poll, epoll or select, one for all waits of this pool in this process. It
 * becomes readable when any of them may have something new: a wake, a deadline, or a second gone by
 * (a waker may have died). Then read 8 bytes from it and poll every wait. It is the pool's: do not
 * close it; a child of fork must ask for its own. Nonblocking, close-on-exec. The first call starts
 * a thread, the only one for any number of waits, which takes no signals and sleeps while nobody
 * waits. Call it after daemonising: who closes all descriptors closes this one. *fd is -1 on
 * failure. */
MODELPOOL_API modelpool_code modelpool_wait_fd(modelpool_pool pool, int* fd,
                                               modelpool_error* error);

/* --- Leases ------------------------------------------------------------------------------------
 */

typedef struct modelpool_lease_info {
  size_t struct_bytes;
  int32_t pid; /* of the backend; 0 for an external one */
  int32_t reserved;
  char model[MODELPOOL_MODEL_BYTES];
  char address[MODELPOOL_ADDRESS_BYTES];
  uint32_t slot; /* with generation, names its backend and no other; the same as in lists */
  uint32_t generation;
} modelpool_lease_info;
#define MODELPOOL_LEASE_INFO_INIT \
  { sizeof(modelpool_lease_info), 0, 0, {0}, {0}, 0, 0 }

/* What the lease is on; the same for as long as it is held. info->struct_bytes must be set. */
MODELPOOL_API modelpool_code modelpool_lease_get(modelpool_lease lease, modelpool_lease_info* info,
                                                 modelpool_error* error);

/* The request is getting on: restarts its stall_timeout. Cheap enough for every chunk of a stream.
 * Errors: LEASE_LOST: its backend was stopped; the text says why. The lease is still to be
 * released. */
MODELPOOL_API modelpool_code modelpool_progress(modelpool_lease lease, modelpool_error* error);

/* How the backend's process ended and the last that it wrote, for a request that was lost with it:
 * "exit status 1; its last lines: ...", cut to words_bytes; "" if it runs, or if nothing is known
 * of its end. Whoever reaped it may say how a moment later than its connections break. Reads
 * files. */
MODELPOOL_API modelpool_code modelpool_exit_words(modelpool_lease lease, char* words,
                                                  size_t words_bytes, modelpool_error* error);

/* When a request breaks busy_timeout, stall_timeout or first_byte_timeout, and its holder has said
 * that it can end it (acquire's cancellable, or notify_cancel), the coordinator asks for that, and
 * kills the backend only if the lease still exists when the grace of on_overdue is over. Otherwise
 * the backend is killed at once. To end a request is to stop it at the backend, most often by
 * closing the connection, and to release the lease.
 *
 * *cancelled is 1 if this one was asked to end, and reason, if it is not NULL, says why, and what
 * happens otherwise: "busy_timeout 30s passed; if it goes on, its backend is killed 10s after that,
 * and all requests there are lost", cut to reason_bytes; "" if it was not asked. Without a reason
 * it is a few loads of memory. */
MODELPOOL_API modelpool_code modelpool_cancelled(modelpool_lease lease, int* cancelled,
                                                 char* reason, size_t reason_bytes,
                                                 modelpool_error* error);

/* Writes that number to the descriptor when the lease is asked to end, or now if it has been, as 8
 * bytes: to an eventfd, or to a pipe whose reader tells by it which of any number of leases it is.
 * A pipe that is full is tried again each second. The descriptor stays the caller's, who keeps it
 * open until the lease is released; it must be O_NONBLOCK. The first call starts a thread, one for
 * all leases of the process in this pool, which takes no signals and ends when there are none.
 * Errors: INVALID: it is not open for writing, or would block. BUSY: another thread does the
 * same. */
MODELPOOL_API modelpool_code modelpool_notify_cancel(modelpool_lease lease, int fd, uint64_t number,
                                                     modelpool_error* error);

/* Ends the lease, from any thread, at the latest when calls on it in other threads have returned.
 * Errors: CLOSED: released before, or another process's (harmless). */
MODELPOOL_API modelpool_code modelpool_release(modelpool_lease lease);

/* --- Tickets -----------------------------------------------------------------------------------
 */

typedef struct modelpool_ticket_info {
  size_t struct_bytes;
  int32_t pid;     /* of what was started; 0 before */
  int32_t waiting; /* how many wait for this model now: they would begin its load anew */
  char model[MODELPOOL_MODEL_BYTES];
  /* UUIDs of the devices that the pool put the backend on, with commas between, for who starts it
   * himself; modelpool_spawn tells it by CUDA_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES. "": none */
  char devices[1536];
} modelpool_ticket_info;
#define MODELPOOL_TICKET_INFO_INIT                  \
  {                                                 \
    sizeof(modelpool_ticket_info), 0, 0, {0}, { 0 } \
  }

MODELPOOL_API modelpool_code modelpool_ticket_get(modelpool_ticket ticket,
                                                  modelpool_ticket_info* info,
                                                  modelpool_error* error);

typedef struct modelpool_spawn_options {
  size_t struct_bytes;
  const char* const* env;   /* "NAME=value", then NULL: added to the caller's environment, or
                               replacing;   INVALID without "=" */
  const char* cwd;          /* NULL: the caller's */
  const char* output;       /* file, terminal or FIFO with a reader that stdout and stderr are
                               appended to; NULL: the model's log in the pool's log_dir
                               (`poolctl logs`), or /dev/null without one */
  const char* error_output; /* another one for stderr; NULL: as stdout */
} modelpool_spawn_options;
#define MODELPOOL_SPAWN_OPTIONS_INIT \
  { sizeof(modelpool_spawn_options), 0, 0, 0, 0 }

/* Starts the backend in a session of its own, recorded before it executes: there is no instant in
 * which it runs unknown (P6, P9). argv ends with NULL; argv[0] is looked up in PATH. It gets no
 * descriptor but 0 to 2, default signals, and MODELPOOL_BACKEND in its environment; a thread reaps
 * it. pid may be NULL. Waits for no reader of a FIFO, and at most 10 s for the program to begin.
 * Errors: SPAWN_FAILED (the program or the directory), INVALID, SYSTEM (an output that cannot be
 * opened): nothing runs, and the ticket stays: spawn something else, or give it back.
 * TICKET_LOST. */
MODELPOOL_API modelpool_code modelpool_spawn(modelpool_ticket ticket, const char* const* argv,
                                             const modelpool_spawn_options* options, int32_t* pid,
                                             modelpool_error* error);

/* Registers a process the caller started. If it does not lead its own process group, or a worker is
 * in that group, it is ended with what it has started, and nobody else of the group is. Errors:
 * INVALID for a PID that may not be signalled (P7): 1 and less, the caller and its ancestors,
 * workers, the coordinator, another user's; TICKET_LOST. */
MODELPOOL_API modelpool_code modelpool_started(modelpool_ticket ticket, int32_t pid,
                                               modelpool_error* error);

typedef struct modelpool_ready_options {
  size_t struct_bytes;
  uint64_t size_bytes;         /* memory it takes; 0: unknown */
  const char* label;           /* e.g. a GPU's name; not interpreted; NULL: none */
  uint64_t device_mask;        /* not interpreted */
  const char* const* settings; /* "name=value", then NULL: for this backend, over all other rules */
  int32_t pinned;              /* 1: exempt from eviction */
  int32_t external;     /* 1: without a process of ours: counted and leased, never signalled */
  int32_t any_listener; /* 1: any process that listens there answers for the backend */
  int32_t reserved;
} modelpool_ready_options;
#define MODELPOOL_READY_OPTIONS_INIT \
  { sizeof(modelpool_ready_options), 0, 0, 0, 0, 0, 0, 0, 0 }

/* The backend answers at this address: opens it to every worker and gives the loader its own lease
 * (*lease, zeroed on failure; NULL is refused). Uses the ticket up.
 * Errors: TICKET_LOST (uses it up too). The ticket stays with these: TABLE_FULL, no free lease;
 * INVALID, also if another live backend has the address, or if the process that listens there is
 * provably none of the backend's. */
MODELPOOL_API modelpool_code modelpool_ready(modelpool_ticket ticket, const char* address,
                                             const modelpool_ready_options* options,
                                             modelpool_lease* lease, modelpool_error* error);

/* The load failed: answers every waiter with the reason (at most 255 bytes are kept; NULL: "given
 * up"), ends what was started, starts the model's cool-down. Uses the ticket up, whatever it
 * returns, except with BUSY. Errors: TICKET_LOST, with what ended the load before. */
MODELPOOL_API modelpool_code modelpool_fail(modelpool_ticket ticket, const char* reason,
                                            modelpool_error* error);

/* Gives the load up without a failure: the loader has to end, ran out of descriptors or memory, or
 * was told something wrong. Ends what was started; the next waiter gets a ticket at once, and
 * nothing cools down. Uses the ticket up. Errors: CLOSED: it was used up before (harmless). */
MODELPOOL_API modelpool_code modelpool_give_back(modelpool_ticket ticket, modelpool_error* error);

/* A TCP port of this host that is free, for a backend that is to be started, and held for it: no
 * other caller gets it while this process has not asked for 64 more. Needs no pool. *port is 0 on
 * failure. */
MODELPOOL_API modelpool_code modelpool_free_port(int32_t* port, modelpool_error* error);

/* --- The pool's backends and settings ----------------------------------------------------------
 */

/* The model's backend was used now, without a request in flight. Errors: NOT_LOADED. */
MODELPOOL_API modelpool_code modelpool_touch(modelpool_pool pool, const char* model,
                                             modelpool_error* error);
/* Exempts it from idle, LRU and memory eviction, until unpin. Errors: NOT_LOADED; of unpin also
 * INVALID if its settings pin it as well (`pinned`): then it stays so. */
MODELPOOL_API modelpool_code modelpool_pin(modelpool_pool pool, const char* model,
                                           modelpool_error* error);
MODELPOOL_API modelpool_code modelpool_unpin(modelpool_pool pool, const char* model,
                                             modelpool_error* error);
/* Asks the coordinator to end the model's backend, and returns at once; force 1 cuts its leases, 0
 * waits for them up to drain_timeout. A load under way is ended, too: its ticket is lost, and
 * nothing cools down. modelpool_list_backends tells when it is gone. Errors: NOT_LOADED. */
MODELPOOL_API modelpool_code modelpool_evict(modelpool_pool pool, const char* model, int force,
                                             modelpool_error* error);

/* Forgets that the model failed to load: it may be loaded at once. A load that becomes ready and a
 * changed load_cooldown do the same. Forgets what it was seen to take, too: it may take less. */
MODELPOOL_API modelpool_code modelpool_reset(modelpool_pool pool, const char* model,
                                             modelpool_error* error);

/* Settings by name, written as everywhere: modelpool_set(pool, "idle_timeout", "15m", &error).
 * Dashes or underscores. In force for every worker of the host when it returns. Errors: INVALID,
 * with what it takes. */
MODELPOOL_API modelpool_code modelpool_set(modelpool_pool pool, const char* name, const char* value,
                                           modelpool_error* error);
/* The pool's value, or the default, as modelpool_set takes it, in value[value_bytes] (64 are
 * enough). INVALID if it does not fit. */
MODELPOOL_API modelpool_code modelpool_get(modelpool_pool pool, const char* name, char* value,
                                           size_t value_bytes, modelpool_error* error);
/* max_backends as a number; 0: no limit (P3). */
MODELPOOL_API modelpool_code modelpool_limit(modelpool_pool pool, uint32_t* max_backends,
                                             modelpool_error* error);
MODELPOOL_API modelpool_code modelpool_set_limit(modelpool_pool pool, uint32_t max_backends,
                                                 modelpool_error* error);

/* --- Looking -----------------------------------------------------------------------------------
 */
/* Looking takes no lock and counts as no use (P12). Same meaning as poolctl's JSON of that name. */

typedef struct modelpool_status {
  size_t struct_bytes;
  int64_t max_backends; /* 0: no limit; -1: the pool never had settings */
  uint32_t live;
  uint32_t ready;
  uint32_t waiting;
  uint32_t workers;
  uint32_t leases;
  int32_t coordinator_alive; /* 1, 0; -1: cannot be told */
  int32_t coordinator_pid;   /* 0: none */
  uint32_t coordinator_epoch;
  char pool[MODELPOOL_POOL_BYTES];
} modelpool_status;
#define MODELPOOL_STATUS_INIT                                  \
  {                                                            \
    sizeof(modelpool_status), 0, 0, 0, 0, 0, 0, 0, 0, 0, { 0 } \
  }

/* status->struct_bytes must be set. */
MODELPOOL_API modelpool_code modelpool_get_status(modelpool_pool pool, modelpool_status* status,
                                                  modelpool_error* error);

/* Lists fill rows[0] to rows[capacity - 1] of the caller's array, row_bytes apart (sizeof of the
 * row), and set *count to how many there are, which may be more: then give more room and ask again.
 * rows may be NULL with capacity 0. Each row is a moment's; struct_bytes in it says how much of it
 * the library wrote. */

typedef struct modelpool_backend {
  size_t struct_bytes;
  char model[MODELPOOL_MODEL_BYTES];
  char address[MODELPOOL_ADDRESS_BYTES]; /* "" before ready */
  char state[16];                        /* reserved starting ready evicting stopping */
  char label[MODELPOOL_LABEL_BYTES];
  int64_t busy_ms;     /* age of the oldest lease; -1: none in flight */
  int64_t idle_ms;     /* -1: not idle */
  int64_t ready_ms;    /* since ready; -1: not yet */
  int64_t reserved_ms; /* since its ticket was granted */
  int64_t size_bytes;  /* -1: unknown */
  uint64_t device_mask;
  uint32_t in_flight;
  uint32_t generation;
  uint32_t slot;
  int32_t pid;       /* 0: none known */
  int32_t owner_pid; /* the worker that loaded it */
  int32_t pinned;
  int32_t external;
  int32_t evict_requested;
  int32_t group; /* its process group; 0: none of its own, or none known */
  int32_t reserved;
  int64_t started_ms; /* since its process was started; -1: not yet */
  char exit[32];      /* "exit status 1", "signal SIGKILL"; "": runs, or unknown */
  /* While it is evicting or stopping; else "", -1 and 0. */
  char stop_reason[32]; /* as of an event */
  char stop_text[512];
  int64_t stop_decided_ms;  /* since then */
  int64_t stop_stopping_ms; /* since it was certain; -1: it may still go back to ready */
  int64_t stop_signalled_ms;
  int64_t stop_killed_ms; /* since SIGKILL */
  int64_t stop_age_ms;    /* measured, and the rule's limit */
  int64_t stop_limit_ms;
  int32_t stop_signal; /* the last one sent */
  int32_t reserved2;
} modelpool_backend;
MODELPOOL_API modelpool_code modelpool_list_backends(modelpool_pool pool, modelpool_backend* rows,
                                                     size_t row_bytes, size_t capacity,
                                                     size_t* count, modelpool_error* error);

typedef struct modelpool_lease_row {
  size_t struct_bytes;
  char model[MODELPOOL_MODEL_BYTES]; /* "" if its backend has just changed */
  char tag[MODELPOOL_TAG_BYTES];
  int64_t age_ms;
  int64_t progress_ms; /* since the last progress */
  int64_t limit_ms;    /* its own busy timeout; -1: none */
  int32_t worker_pid;
  int32_t backend_pid; /* 0: none */
  uint32_t slot;       /* of its backend */
  uint32_t generation;
} modelpool_lease_row;
MODELPOOL_API modelpool_code modelpool_list_leases(modelpool_pool pool, modelpool_lease_row* rows,
                                                   size_t row_bytes, size_t capacity, size_t* count,
                                                   modelpool_error* error);

typedef struct modelpool_worker {
  size_t struct_bytes;
  char command[64];
  int64_t attached_ms;
  uint32_t leases;
  uint32_t row;
  uint32_t generation;
  int32_t pid;
  int32_t alive; /* 1, 0; -1: cannot be told */
  int32_t reserved;
} modelpool_worker;
/* The processes that are attached. */
MODELPOOL_API modelpool_code modelpool_list_workers(modelpool_pool pool, modelpool_worker* rows,
                                                    size_t row_bytes, size_t capacity,
                                                    size_t* count, modelpool_error* error);

typedef struct modelpool_waiter {
  size_t struct_bytes;
  char model[MODELPOOL_MODEL_BYTES];
  char tag[MODELPOOL_TAG_BYTES];
  int64_t waiting_ms;
  int64_t left_ms; /* until its deadline */
  uint64_t arrival;
  uint64_t priority;
  int64_t expected_bytes; /* -1: unknown */
  int32_t worker_pid;
  int32_t reserved;
} modelpool_waiter;
MODELPOOL_API modelpool_code modelpool_list_waiters(modelpool_pool pool, modelpool_waiter* rows,
                                                    size_t row_bytes, size_t capacity,
                                                    size_t* count, modelpool_error* error);

typedef struct modelpool_event {
  size_t struct_bytes;
  uint64_t sequence; /* from 1, without gaps, as long as the ring remembers */
  int64_t time_ms;   /* since 1970, UTC; -1: unknown */
  char kind[32];     /* loaded load_failed evicted killed exited worker_died ... */
  char reason[32];   /* lru idle busy stall load_timeout requested crashed shutdown; "": none */
  char model[MODELPOOL_MODEL_BYTES];
  char tag[MODELPOOL_TAG_BYTES];
  char exit[32]; /* "exit status 1", "signal SIGKILL"; "": unknown */
  char text[512];
  int64_t age_ms;   /* measured */
  int64_t limit_ms; /* the rule's */
  int64_t exit_ms;  /* from the stop signal until gone */
  int64_t load_ms;
  int64_t count; /* of what, the kind says */
  int32_t pid;   /* 0: none */
  int32_t worker_pid;
  int32_t signal; /* 0: none */
  int32_t reserved;
} modelpool_event;
/* Every decision leaves one (P11). From number `first` on, oldest first, as far as the ring
 * remembers; to follow, ask again from the last sequence + 1. */
MODELPOOL_API modelpool_code modelpool_list_events(modelpool_pool pool, uint64_t first,
                                                   modelpool_event* rows, size_t row_bytes,
                                                   size_t capacity, size_t* count,
                                                   modelpool_error* error);

/* --- Rows that describe themselves ---------------------------------------------------------------
 *
 * The same rows, for programs that ask for fields by name: also for those of a library that is
 * newer than this header, and those that the structures above do not have. A structure's members
 * are the beginning of its row.
 *
 *   const modelpool_field* idle = modelpool_find_field(MODELPOOL_BACKENDS, "idle_ms");
 *   modelpool_describe(MODELPOOL_BACKENDS, NULL, NULL, &row_bytes, NULL);
 *   modelpool_list_rows(pool, MODELPOOL_BACKENDS, 0, rows, row_bytes, capacity, &count, &error);
 *   modelpool_field_number(idle, rows + i * row_bytes)
 */

enum {
  MODELPOOL_BACKENDS = 1,
  MODELPOOL_LEASES = 2,
  MODELPOOL_WORKERS = 3,
  MODELPOOL_WAITERS = 4,
  MODELPOOL_EVENTS = 5,
  MODELPOOL_STATUS = 6, /* one row */
  MODELPOOL_MODELS = 7  /* what is known of models beyond their backends' lives */
};

enum {
  MODELPOOL_FIELD_TEXT = 1, /* "" is unknown */
  MODELPOOL_FIELD_NUMBER = 2,
  MODELPOOL_FIELD_FLAG = 3 /* 1, 0 */
};
#define MODELPOOL_ALWAYS_KNOWN INT64_MIN

/* A field of a row; constant, for as long as the library is loaded. Never grows. Offsets are those
 * of this library, at this run. */
typedef struct modelpool_field {
  const char* name; /* as in poolctl's JSON; of a part of a row: "stop.reason" */
  const char* doc;  /* what it says, in a few words */
  int32_t kind;     /* MODELPOOL_FIELD_...; 0: it is shown in the JSON only */
  uint32_t offset;  /* in the row */
  uint32_t bytes;   /* there: of a text with its NUL; 4 or 8 of a number or flag */
  int32_t is_signed;
  int64_t
      unknown; /* the number that means: unknown, or does not apply. MODELPOOL_ALWAYS_KNOWN: none */
} modelpool_field;

/* The fields of a table's rows, and how large a row is. NULL for what is not wanted. Errors:
 * INVALID, for a table that is none. */
MODELPOOL_API modelpool_code modelpool_describe(int table, const modelpool_field** fields,
                                                size_t* count, size_t* row_bytes,
                                                modelpool_error* error);
/* NULL if this library has no such field, or shows it in the JSON only. */
MODELPOOL_API const modelpool_field* modelpool_find_field(int table, const char* name);

/* As the lists above; row_bytes is at least what modelpool_describe says, and a multiple of 8.
 * `first` is for MODELPOOL_EVENTS, and ignored by all others. */
MODELPOOL_API modelpool_code modelpool_list_rows(modelpool_pool pool, int table, uint64_t first,
                                                 void* rows, size_t row_bytes, size_t capacity,
                                                 size_t* count, modelpool_error* error);

/* The field of that row. A text is the row's own; "" if the field is none. A number or flag;
 * -1 if the field is neither, or NULL. */
MODELPOOL_API const char* modelpool_field_text(const modelpool_field* field, const void* row);
MODELPOOL_API int64_t modelpool_field_number(const modelpool_field* field, const void* row);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* MODELPOOL_MODELPOOL_H_ */
