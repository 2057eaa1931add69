/* One backend slot, two workers, the coordinator: lease, evict, kill, stop, reuse and restart, with
 * SIGKILL of any of them between any two steps. Memory is sequentially consistent here; what the
 * processor may reorder is the business of orders_test.cpp.
 *
 * A step is one access to the segment, as in the code named beside it. What a step leaves out:
 *  - clocks. "Idle for too long", "busy for too long", "not ready in time" and "drained too long" come
 *    from World, at any moment. `used[w]` says that row w's last-used stamp is not what the snapshot
 *    read; `same[w]` that w's lease word is (the word's sequence number never returns).
 *  - the mutex, the waiting line and the waking of workers: a worker that waits sees any change. All
 *    that is in admission.pml.
 * Names with a leading underscore are known to the model only: what really happens, not what is read.
 *
 * Checked: assertions, and what Observer finds when nothing can move any more. -DNAME of a mutant
 * breaks one step; then the check must fail (check_model, CMakeLists.txt).
 */
#ifndef KILLS
#define KILLS 1          /* processes killed, of any kind */
#endif
#ifndef EVENTS
#define EVENTS 1         /* things that fall due, and crashes of the backend */
#endif
#ifndef REQUESTS
#define REQUESTS 1       /* per worker */
#endif
#ifndef GENERATIONS
#define GENERATIONS 2    /* lives of the slot */
#endif
/* -DLOADED: the slot begins READY, its loader gone. */

mtype = { FREE, RESERVED, STARTING, READY, EVICTING, STOPPING, GONE }   /* BackendState */
mtype = { IDLE, BUSY, DRAIN, CRASHED, LOAD_TIMEOUT, DRAIN_TIMEOUT, NONE } /* Reason, and what falls due */

/* --- The segment ------------------------------------------------------------------------------- */
mtype state = FREE;      /* BackendRecord::state, three fields of one word */
byte generation = 1;
byte owner = 0;
byte holder = 0;         /* under the mutex with RESERVED; of the slot's life */
byte payload = 0;        /* address, pid, model...: the generation it was written for */
byte record = 0;         /* StopRecord::generation; its reason, forced and signalled_ns: */
mtype reason = NONE;
bool forced = false;
bool signalled = false;
bool evict_asked = false;  /* control word, kControlEvict */
byte lease[2];           /* the generation a lease word names, 0 = none */
byte epoch = 0;          /* CoordinatorRecord */
bool wanted = false;
bool bell = false;       /* the doorbell rang since the coordinator last looked */
byte life[2];            /* WorkerRecord: generation of the row */

/* --- What is read of clocks and processes ------------------------------------------------------ */
bool used[2] = true;
bool same[2];
mtype due = NONE;
bool judge_lives = false;
bool dead[2];            /* died, and its row is not cleared yet */
byte process = 0;        /* the running backend's generation */

/* --- Known to the model only ------------------------------------------------------------------- */
byte _granted[2];        /* generation of a lease its worker may use */
byte _use[2];            /* of a lease: not yet stamped, stamped but not yet read by a snapshot, or 0 */
#define UNSTAMPED 1
#define UNREAD 2
bool _overdue_at_close = false;
bool _waits[2];
byte _closed_by = 0;     /* the epoch that made it EVICTING */
byte _judge = 0;         /* the living judge's epoch, once it is stored */
byte _kills = KILLS;
bool _done[2];
byte _told = 0;          /* the generation whose process was signalled */
byte _given_up = 0;      /* the generation its own loader stopped */

#define WORKER_WORD(w) (1 + (w) + 2 * life[w])   /* pack_worker() */
#define OWNER_WORD(w) (1 + (w))                  /* StateWord::owner_of(worker), as if its life were cut off */
#define EPOCH_WORD(e) (20 + (e))                 /* StateWord::owner_of_epoch */

/* slots.cpp, move(): one CAS of the state word. Sets `moved`. */
inline cas(s1, o1, g1, s2, o2, g2) {
  if
  :: state == s1 && owner == o1 && generation == g1 ->
     state = s2; owner = o2; generation = g2; moved = true
  :: else -> moved = false
  fi
}

/* SIGKILL, here or never: every step begins with it, so each lies between two places of death. A step
 * is one `atomic`: one access to the segment and what follows from it in private. */
#define may_die if :: _kills > 0 -> _kills--; goto dying :: skip fi
#define move(s1, o1, g1, s2, o2, g2) atomic { may_die; cas(s1, o1, g1, s2, o2, g2) }

/* --- A worker ---------------------------------------------------------------------------------- */

/* leases.cpp, withdraw_lease() */
inline withdraw_lease() {
#ifdef WANTED_READ_FIRST
  atomic { may_die; ring_it = wanted };
  atomic { may_die; lease[me] = 0; same[me] = false; _granted[me] = 0 };
#else
  atomic { may_die; lease[me] = 0; same[me] = false; _granted[me] = 0 };
  atomic { may_die; ring_it = wanted };                                   /* ring_if_wanted() */
#endif
  if :: ring_it -> atomic { may_die; bell = true; ring_it = false } :: else fi
}

/* leases.cpp, end_lease() */
inline end_lease() {
#ifdef USE_AFTER_CLEAR
  withdraw_lease();
  atomic { may_die; used[me] = true; _use[me] = UNREAD }
#else
  atomic { may_die; used[me] = true; _use[me] = UNREAD };                 /* raise_last_used() */
  withdraw_lease()
#endif
}

#define grant _granted[me] = g; _use[me] = UNSTAMPED

proctype Worker(byte me) {
  byte requests = 0; mtype s = NONE; byte g = 0; byte o = 0; byte e = 0;
  bool moved = false; bool lives = false; bool ring_it = false;

next:
  atomic { s = NONE; g = 0; o = 0; e = 0; moved = false; lives = false; _waits[me] = false };
  atomic {                                                                /* find_backend() */
    may_die;
    s = state; g = generation; o = owner;
    if
    :: requests == REQUESTS -> goto finished
    :: requests < REQUESTS && s == READY -> goto begin_lease
    :: requests < REQUESTS && s == EVICTING -> goto is_its_judge_dead
    :: requests < REQUESTS && s == FREE -> goto ask_for_place
    :: else -> _waits[me] = true
    fi
  };
end_waiting:                                                              /* keep_waiting() */
  atomic { state != s || generation != g || owner != o -> goto next };

begin_lease:
#ifdef VALIDATE_FIRST
  atomic { may_die; if :: state == READY && generation == g :: else -> goto next fi };
  atomic { may_die; lease[me] = g; same[me] = false; grant };
#else
  atomic { may_die; lease[me] = g; same[me] = false };                    /* publish_lease() */
  atomic { may_die; if :: state == READY && generation == g -> grant :: else -> goto withdraw fi };
#endif

use_lease:
  /* The request reads its address while it holds the lease: nobody else's may stand there. */
  atomic { may_die; assert(payload == g) };
  end_lease();
  requests++;
  goto next;

withdraw:
  withdraw_lease();
  goto next;

is_its_judge_dead:                                                        /* look() */
  atomic { may_die; e = epoch };                                          /* read_coordinator() */
  atomic { may_die; lives = judge_lives };
  atomic {
    may_die;
    if
#ifndef NOBODY_REOPENS
    :: e == epoch && (!lives || EPOCH_WORD(e) != o)
#endif
    :: else -> _waits[me] = true; goto end_closed
    fi
  };
  atomic {                                                                /* reopen() */
    may_die;
#ifdef NO_EPOCH
    o = owner;
#endif
    if
    :: state == EVICTING && owner == o && generation == g ->
       assert(_judge == 0 || _closed_by != _judge);                       /* never a living judge's */
       state = READY; owner = 0
    :: else
    fi
  };
  goto next;
end_closed:
  atomic { state != s || generation != g || owner != o || epoch != e || judge_lives != lives -> goto next };

ask_for_place:                                                            /* reserve() */
  if :: g > GENERATIONS -> goto finished :: else fi;
  atomic { may_die; if :: state == FREE && generation == g -> payload = g :: else -> goto next fi };
  atomic {
    may_die;
    cas(FREE, 0, g, RESERVED, OWNER_WORD(me), g);
    if :: moved -> evict_asked = false; holder = WORKER_WORD(me) :: else -> goto next fi
  };

  if
  :: goto give_up                                                         /* nothing could be started */
  :: skip
  fi;
  atomic {                                                                /* spawn(): record_start(), the gate */
    may_die;
    cas(RESERVED, OWNER_WORD(me), g, STARTING, OWNER_WORD(me), g);
    if :: moved -> process = g :: else -> goto give_up fi
  };
  if
  :: goto give_up                                                         /* fail() */
  :: skip
  fi;
  atomic { may_die; lease[me] = g; same[me] = false };                    /* ready(): publish_lease() */
  atomic {                                                                /* publish_ready() */
    may_die;
    cas(STARTING, OWNER_WORD(me), g, READY, 0, g);
    if :: moved -> grant; goto use_lease :: else fi
  };
  withdraw_lease();

give_up:
  atomic {
    may_die;
    s = state;
    if
    :: generation != g || owner != OWNER_WORD(me) -> s = NONE
    :: else
    fi
  };
  if
  :: s == RESERVED -> move(RESERVED, OWNER_WORD(me), g, GONE, 0, g); goto give_up
  :: s == STARTING ->
     atomic {
       may_die;
       cas(STARTING, OWNER_WORD(me), g, STOPPING, 0, g);
       if :: moved -> _given_up = g :: else fi
     };
     goto give_up
  :: s == STOPPING || s == GONE -> move(s, OWNER_WORD(me), g, s, 0, g); goto give_up
  :: else
  fi;
  atomic { may_die; bell = true };
  requests++;
  goto next;

dying:
  atomic {
    dead[me] = true; _granted[me] = 0; _waits[me] = false;
    s = NONE; g = 0; o = 0; e = 0; moved = false; lives = false; ring_it = false;
    requests = REQUESTS - 1
  };
end_dead:
  !dead[me];                                                              /* another takes the row */
  goto next;

finished:
  skip
}

/* --- The coordinator --------------------------------------------------------------------------- */

/* What the slot is while the evidence is read again. */
#ifdef STOPPING_BEFORE_EVIDENCE
#define CLOSED STOPPING
#define CLOSED_OWNER 0
#else
#define CLOSED EVICTING
#ifdef NO_EPOCH
#define CLOSED_OWNER 0
#else
#define CLOSED_OWNER EPOCH_WORD(mine)
#endif
#endif

/* leases.cpp, any_lease_names() */
inline any_lease_names() {
  atomic { may_die; leased = lease[0] == g };
  atomic { may_die; if :: lease[1] == g -> leased = true :: else fi }
}

/* enforce.cpp, evidence_holds() */
inline read_evidence() {
  atomic {
    may_die;
    if
    :: why == BUSY -> holds = same[culprit]
    :: why == IDLE -> holds = !used[0]
    :: why == DRAIN -> holds = evict_asked
    :: why == CRASHED -> holds = true
    fi
  };
#ifdef USE_NOT_READ_AGAIN
  if :: why == IDLE -> holds = true :: else fi
#else
  if :: why == IDLE -> atomic { may_die; if :: used[1] -> holds = false :: else fi } :: else fi
#endif
}

inline write_record() {
  atomic { may_die; record = g; reason = why; forced = (why == BUSY || why == CRASHED); signalled = false }
}

/* enforce.cpp, stop_or_take_back(): the slot is closed, and ours */
inline stop_or_take_back() {
#ifdef EVIDENCE_BEFORE_LEASES
  read_evidence();
  any_lease_names();
#else
  any_lease_names();
  read_evidence();
#endif
  atomic { if :: why == BUSY || why == CRASHED -> leased = false :: else fi };    /* forced */
  if
  :: !holds || (leased && why != DRAIN) ->
     move(CLOSED, CLOSED_OWNER, g, READY, 0, g);                          /* open_again() */
     changed = true
  :: holds && leased && why == DRAIN -> if :: s == READY -> changed = true :: else fi    /* held closed */
  :: holds && !leased ->
#ifndef RECORD_AFTER_STOPPING
     write_record();
#endif
     move(CLOSED, CLOSED_OWNER, g, STOPPING, 0, g);                       /* commit_stop() */
     d_step {
       if
       :: moved ->
          changed = true;
          assert(why != BUSY || _overdue_at_close);     /* the request that was too long was there */
          assert(why != IDLE || (_use[0] == 0 && _use[1] == 0))           /* nobody had used it since */
       :: else
       fi
     };
#ifdef RECORD_AFTER_STOPPING
     write_record();
#endif
  fi;
  d_step { leased = false; holds = false; moved = false }
}

/* decide.cpp, owner_is_dead(): who holds the ticket of this life of the slot */
#define HOLDER_IS_DEAD \
  !((holder == WORKER_WORD(0) && !dead[0]) || (holder == WORKER_WORD(1) && !dead[1]))

/* SnapshotReader::read(), one row: last-used first. All of it is a hint that is read again. */
inline read_row(w) {
  atomic {
    may_die;
    if :: s == READY -> used[w] = false; same[w] = true :: else fi;
    if :: s == READY && _use[w] == UNREAD -> _use[w] = 0 :: else fi;
    if :: lease[w] == g -> culprit = w; in_flight = true :: else fi
  }
}

/* enforce.cpp, reap(): its ticket is judged before, its row goes last */
inline reap(w) {
  if
  :: dead[w] && !((state == RESERVED || state == STARTING) && holder == WORKER_WORD(w)) ->
     /* clear_worker_row(): stamps for the dead before it clears their words */
     atomic { may_die; if :: lease[w] != 0 -> used[w] = true; _use[w] = UNREAD :: else fi };
     atomic { may_die; lease[w] = 0; same[w] = false };
     atomic { may_die; dead[w] = false; life[w]++; changed = true }
  :: else
  fi
}

proctype Coordinator() {
  byte mine = 0; mtype s = NONE; byte g = 0; byte o = 0; bool in_flight = false; byte culprit = 0;
  mtype why = NONE; mtype fell_due = NONE;
  bool want = false; bool more = false; bool changed = false; bool moved = false;
  bool leased = false; bool holds = false;

start:                                                                    /* become_coordinator() */
  atomic { judge_lives = true };                                          /* the identity first */
  atomic { may_die; wanted = false };
  atomic { may_die; epoch++; mine = epoch; _judge = mine };                              /* the epoch last */

scan:
  atomic {                                                                /* drain the bell, read the clock */
    may_die;
    d_step { bell = false; changed = false; in_flight = false; culprit = 0; moved = false; why = NONE };
    d_step { fell_due = due; due = NONE }
  };
  atomic { may_die; s = state; g = generation; o = owner };               /* SnapshotReader::read() */
  if
  :: s == READY || s == EVICTING || s == GONE -> read_row(0); read_row(1)
  :: else                                                                 /* what they say is not used */
  fi;

  /* decide(), judge() by state. `wanted` is stored before anything is done about it; if it is new, the
   * next look comes after the store. */
  atomic {
    may_die;
    want = (s == EVICTING && reason == DRAIN) || (s == GONE && o == 0);
#ifdef NO_LOOK_AFTER_WANTED
    more = false;
#else
    more = want && !wanted;
#endif
    wanted = want;
    want = false
  };

  if
  :: (s == RESERVED || s == STARTING) ->                                  /* judge_load(), lose() */
     if
     :: HOLDER_IS_DEAD || (s == STARTING && process != g) || fell_due == LOAD_TIMEOUT ->
        atomic { may_die; record = g; reason = LOAD_TIMEOUT; forced = true; signalled = false };
        if
        :: s == RESERVED -> move(RESERVED, o, g, GONE, o, g)
        :: s == STARTING -> move(STARTING, o, g, STOPPING, o, g)
        fi;
        changed = true
     :: else
     fi
  :: s == READY ->                                                        /* judge_ready(), close() */
     atomic {
       if
       :: process != g -> why = CRASHED
       :: process == g && evict_asked -> why = DRAIN
       :: process == g && !evict_asked && fell_due == BUSY && in_flight -> why = BUSY
       :: process == g && !evict_asked && fell_due == IDLE && !in_flight -> why = IDLE
       :: else
       fi
     };
     if
     :: why != NONE ->
#ifndef RECORD_AFTER_STOPPING
        write_record();                                                   /* why goes first */
#endif
        atomic {                                                          /* close_to_leases() */
          may_die;
          cas(READY, 0, g, CLOSED, CLOSED_OWNER, g);
          if :: moved -> _overdue_at_close = same[culprit]; _closed_by = mine :: else fi
        };
        if :: moved -> stop_or_take_back() :: else fi;
        _overdue_at_close = false
     :: else
     fi
  :: s == EVICTING ->                                                     /* judge_closed() */
     if
#ifndef NO_EPOCH
     :: o != EPOCH_WORD(mine) -> move(EVICTING, o, g, READY, 0, g); changed = true
#endif
     :: else ->
        if
        :: process != g -> why = CRASHED; stop_or_take_back()
        :: process == g && !evict_asked -> move(EVICTING, o, g, READY, 0, g); changed = true
        :: process == g && evict_asked && !in_flight -> why = DRAIN; stop_or_take_back()
        :: process == g && evict_asked && in_flight && fell_due == DRAIN_TIMEOUT ->
           move(EVICTING, o, g, READY, 0, g);                             /* kReopen, kRefuseEvict */
           atomic { may_die; evict_asked = false };
           changed = true
        :: else
        fi
     fi
  :: s == STOPPING ->                                                     /* judge_stopping() */
#ifdef RESTART_FORGETS
     if :: mine > 1 && record == g -> goto act_on_workers :: else fi;
#endif
     if
     :: o != 0 && HOLDER_IS_DEAD -> move(STOPPING, o, g, STOPPING, 0, g); changed = true
     :: else
     fi;
     if
     :: process != g -> move(STOPPING, owner, g, GONE, owner, g); changed = true    /* finish() */
     :: process == g && !(record == g && signalled) ->                    /* send() */
        atomic {
          may_die;
          assert(record == g || _given_up == g);                          /* no end without its record */
          /* P2: only a broken rule, a crash or a lost load cuts a lease. */
          assert((record == g && forced) || (_granted[0] != g && _granted[1] != g));
          _told = g
        };
        atomic {                                /* a loader's own end has had no record until now */
          may_die;
          if :: record != g -> record = g; reason = NONE; forced = false :: else fi;
          signalled = true
        };
        changed = true
     :: else
     fi
  :: s == GONE ->                                                         /* judge_gone(), free() */
     if
     :: o != 0 && HOLDER_IS_DEAD -> move(GONE, o, g, GONE, 0, g); changed = true
#ifdef FREED_WHILE_LEASED
     :: o == 0 -> move(GONE, 0, g, FREE, 0, g + 1); changed = true
#else
     :: o == 0 && !in_flight ->
        any_lease_names();
        if :: !leased -> move(GONE, 0, g, FREE, 0, g + 1); changed = true :: else fi;
        leased = false
#endif
     :: else
     fi
  :: s == FREE
  fi;

act_on_workers:
  reap(0);
  reap(1);
  /* What the next scan reads anew is forgotten: fewer states to tell apart. */
  atomic { used[0] = true; used[1] = true; same[0] = false; same[1] = false };
  if :: changed || more -> goto scan :: else fi;
  d_step {
    s = NONE; g = 0; o = 0; in_flight = false; culprit = 0; moved = false; why = NONE; fell_due = NONE
  };
end_asleep:
  if
  :: d_step { _kills > 0 -> _kills-- }; goto dying
  :: bell || dead[0] || dead[1] || due != NONE -> goto scan
  :: process != generation && (state == STARTING || state == READY || state == EVICTING || state == STOPPING) ->
     goto scan                                                            /* its pidfd tells */
  fi;

dying:
  atomic {
    judge_lives = false; _judge = 0; s = NONE; g = 0; o = 0; in_flight = false; culprit = 0; why = NONE;
    fell_due = NONE; want = false; more = false; changed = false; moved = false; leased = false;
    holds = false; mine = 0; _overdue_at_close = false;
    used[0] = true; used[1] = true; same[0] = false; same[1] = false
  };
  if
  :: goto start
  :: skip                                                                 /* no other is ever started */
  fi
}

/* --- What may happen at any moment -------------------------------------------------------------
 * What has not happened keeps the model from coming to rest. How it rests without is for the runs with
 * fewer EVENTS and KILLS. */

proctype World() {
  byte events = EVENTS;
end_world:
  do
  :: d_step { events > 0 && due == NONE && state == READY -> events--; due = IDLE }
  :: d_step { events > 0 && due == NONE && state == READY -> events--; due = BUSY }
  :: d_step { events > 0 && due == NONE && state == EVICTING -> events--; due = DRAIN_TIMEOUT }
  :: d_step { events > 0 && due == NONE && (state == RESERVED || state == STARTING) ->
              events--; due = LOAD_TIMEOUT }
  :: d_step { events > 0 && !evict_asked && state == READY -> events--; evict_asked = true; bell = true }
  :: d_step { events > 0 && process != 0 && _told != process -> events--; process = 0 }
  od
}

/* The backend's process: it ends when it is told to. */
proctype Backend() {
end_serves:
  do
  :: d_step { process != 0 && _told == process -> process = 0 }
  od
}

/* Nothing can move any more: then nothing may be left undone. */
proctype Observer() {
  timeout;
  if
  :: judge_lives ->
     assert(state == FREE || state == READY);      /* no slot lost, every end finished, every drain noticed */
     assert(lease[0] == 0 && lease[1] == 0);       /* no lease outlives its worker */
     assert(!_waits[0] && !_waits[1] && !dead[0] && !dead[1])
  :: else ->
     assert(!((_waits[0] || _waits[1]) && state == EVICTING))   /* a dead judge holds nothing closed */
  fi
}

init {
  atomic {
#ifdef LOADED
    state = READY; payload = 1; process = 1;
#endif
    run Worker(0); run Worker(1); run Coordinator(); run World(); run Backend(); run Observer()
  }
}
