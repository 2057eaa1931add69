/* Admission: workers ask for one or two models, one place (or LIMIT), the coordinator makes room. Single
 * flight, the limit, the order of the line, tickets lost and failed, and what wakes whom.
 *
 * A step is one access to the segment, as in the function named beside it; each may be the last of its
 * process (`may_die`). Worker 0 and 1 want model 1, worker 2 wants model 2; one request each. -DSAME:
 * there is no worker 2, -DOTHER: there is no worker 1, -DALL_SAME: all three want model 1. RESERVED
 * and STARTING are one state, LOADING; how a lease and an eviction meet is in lease.pml and one step
 * here. Time passes only when nothing else can happen: a tick is a slice of a wait, 1 s; a waiter that has
 * not looked for two of them is not counted (policy/line.hpp). -DNO_SLICES: waits have none, so
 * every wake-up that is lost shows. Names with an underscore are known to the model only.
 */
#ifndef LIMIT
#define LIMIT 1
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef EVENTS
#define EVENTS 1          /* a load that times out, fails or is given back, or a waiter that gives up */
#endif
#define TICKS 6

mtype = { FREE, LOADING, READY, STOPPING, GONE }
mtype = { NOTHING, LEASE, TICKET, FAILED, LEFT, NO_COORDINATOR }

mtype st[2] = FREE; byte gen[2] = 1; byte model[2]; byte owner[2];       /* BackendRecord */
byte failed[3];           /* LoadHistory::failed_backend, by model: a REF */
bool row[3]; byte arrival[3]; byte looked[3]; byte next_arrival = 0; bool woken[3];   /* WaiterRecord */
byte mutex = 0;           /* robust */
bool bell = false;

bool dead[3];             /* and its row is not cleared yet */
bool process[2];
byte held[3];             /* slot + 1 of a worker's lease */
byte ticks = 0;
byte _kills = KILLS; byte _events = EVENTS;
mtype _answer[3] = NOTHING;
bool _gone[3];
bool _judge_lives = false;

#define LEASED(s) (held[0] == (s) + 1 || held[1] == (s) + 1 || held[2] == (s) + 1)
#ifdef ALL_SAME
#define MODEL(w) 1
#else
#define MODEL(w) (1 + (w) / 2)
#endif
#define REF(s) (2 * gen[s] + (s))
#ifdef FREE_WHEN_SIGNALLED
#define IS_LIVE(s) (st[s] == LOADING || st[s] == READY)
#else
#define IS_LIVE(s) (st[s] == LOADING || st[s] == READY || st[s] == STOPPING)
#endif
#define LIVE (IS_LIVE(0) + IS_LIVE(1))
#define SERVES(s, m) (model[s] == m && (st[s] == LOADING || st[s] == READY || st[s] == STOPPING))
#define IS_SERVED(m) (SERVES(0, m) || SERVES(1, m))
#define IS_PRESENT(w) (row[w] && looked[w] + 2 > ticks)
/* Does w wait for a place, before arrival a, for another model than m? */
#define AHEAD(w, a, m) (IS_PRESENT(w) && arrival[w] < a && MODEL(w) != m && !IS_SERVED(MODEL(w)))
#define may_die if :: _kills > 0 -> _kills--; goto dying :: skip fi

inline wake(w, m) { if :: row[w] && MODEL(w) == m -> woken[w] = true :: else fi }   /* wake_row() */
inline wake_waiters(m) {
  atomic { may_die; wake(0, m); wake(1, m); wake(2, m) }
}
inline wake_line() {                                                     /* the heads, as many as places */
  atomic {
    may_die;
    if
    :: LIVE < LIMIT && IS_PRESENT(0) && !IS_SERVED(1) && !(LIMIT - LIVE == 1 && AHEAD(2, arrival[0], 1)) &&
       !(IS_PRESENT(1) && arrival[1] < arrival[0]) -> woken[0] = true
    :: else
    fi;
    if
    :: LIVE < LIMIT && IS_PRESENT(1) && !IS_SERVED(1) && !(LIMIT - LIVE == 1 && AHEAD(2, arrival[1], 1)) &&
       !(IS_PRESENT(0) && arrival[0] < arrival[1]) -> woken[1] = true
    :: else
    fi;
    if
    :: LIVE < LIMIT && IS_PRESENT(2) && !IS_SERVED(2) &&
       !(LIMIT - LIVE == 1 && (AHEAD(0, arrival[2], 2) || AHEAD(1, arrival[2], 2))) -> woken[2] = true
    :: else
    fi
  }
}

/* has_turn(): nobody of another model comes first. Only one other model exists here, so it takes at
 * most one place. */
inline has_turn() {
  turn = LIVE < LIMIT && (LIMIT - LIVE > 1 ||
         !((me != 2 && AHEAD(2, mine, MODEL(me))) || (me == 2 && (AHEAD(0, mine, 2) || AHEAD(1, mine, 2)))))
}

proctype Worker(byte me) {
  byte mine = 255;        /* arrival_, kNever without a row */
  byte s = 0; byte awaited = 0; byte seen = 0;
  byte tick = 0; bool turn = false; bool fresh = false;
  byte before = 0;        /* what was on record before fail_load() */

poll:
  atomic {                                                               /* read the word, then look */
    may_die; woken[me] = false; fresh = false;
    if :: row[me] -> looked[me] = ticks :: else fi                       /* note_look() */
  };
look:
  atomic {                                                               /* find_backend() */
    may_die;
    if
    :: SERVES(0, MODEL(me)) -> s = 0
    :: !SERVES(0, MODEL(me)) && SERVES(1, MODEL(me)) -> s = 1
    :: else -> goto ask_for_place
    fi;
    seen = REF(s);
    if
    :: st[s] == READY -> held[me] = s + 1; assert(process[s]); _answer[me] = LEASE; goto leave
#ifdef RESERVED_FOR_ANOTHER
    :: st[s] == LOADING && owner[s] == me + 1 -> _answer[me] = TICKET; goto load
#endif
    :: else
    fi;
    /* look_at_backend() */
    if
    :: (st[s] == STOPPING || (awaited != 0 && awaited != seen)) && awaited != 0 && failed[MODEL(me)] == awaited ->
       _answer[me] = FAILED; goto leave
    :: else
    fi;
    if :: st[s] == LOADING -> awaited = seen :: else fi
  };
#ifdef TWO_TAKE_LOST
  if
  :: st[s] == LOADING && REF(s) == seen && dead[owner[s] - 1] ->
     atomic { may_die; owner[s] = me + 1; _answer[me] = TICKET };
     goto load
  :: else
  fi;
#endif
  goto keep_waiting;

ask_for_place:
  atomic {                                                               /* failure_of_awaited() */
    may_die;
    if
    :: failed[MODEL(me)] != 0 -> _answer[me] = FAILED; goto leave        /* its text, or the cool-down */
    :: else
    fi
  };
  atomic {
    may_die;
    has_turn();
    if :: !turn && mine != 255 -> goto keep_waiting :: else fi
  };
  atomic { mutex == 0 -> may_die; mutex = me + 1 };
#ifndef DUPLICATE_OUTSIDE_HOLD
  atomic { may_die; if :: IS_SERVED(MODEL(me)) -> goto join :: else fi };
  atomic { may_die; has_turn(); if :: !turn -> goto join :: else fi };
#endif
  atomic {                                                               /* reserve() */
    may_die;
    if
    :: turn && st[0] == FREE -> s = 0
    :: turn && st[0] != FREE && st[1] == FREE -> s = 1
    :: else -> goto join
    fi;
    st[s] = LOADING; model[s] = MODEL(me); owner[s] = me + 1; seen = REF(s);
    /* P3, P4, P5 */
    assert(process[0] + process[1] < LIMIT);
    assert(!(SERVES(0, 1) && SERVES(1, 1)) && !(SERVES(0, 2) && SERVES(1, 2)));
    assert(awaited == 0 || failed[MODEL(me)] != awaited);
    _answer[me] = TICKET
  };
  atomic { may_die; mutex = 0; bell = true };
  goto load;
join:                                                                    /* join_line(), still in the hold */
  atomic {
    may_die;
    if
    :: mine == 255 -> next_arrival++; mine = next_arrival; arrival[me] = mine; looked[me] = ticks; row[me] = true; fresh = true
    :: else
    fi
  };
  atomic { may_die; mutex = 0; bell = true };
keep_waiting:
  atomic {
    if :: mine == 255 && mutex == 0 -> may_die; mutex = me + 1; goto join :: mine != 255 fi
  };
#ifndef NO_LOOK_AFTER_ROW
  if :: fresh -> goto poll :: else fi;                                   /* what came before woke nobody */
#endif
  tick = ticks;
end_waiting:
  if
  :: atomic { woken[me] -> tick = 0; goto poll }
#ifndef NO_SLICES
  :: atomic { ticks != tick -> tick = 0; goto poll }
#endif
  :: atomic { !_judge_lives && ticks >= 4 -> _answer[me] = NO_COORDINATOR; goto leave }
  :: atomic { _events > 0 -> _events--; _answer[me] = LEFT; goto leave }  /* cancelled, or its deadline */
  fi;

load:
  atomic { may_die; if :: st[s] == LOADING && REF(s) == seen && owner[s] == me + 1 ->
              assert(!process[s]);                                       /* P4: it is started once */
              process[s] = true
           :: else -> goto lost
           fi
         };
  assert(process[0] + process[1] <= LIMIT);                              /* P3 */
  if
  :: atomic { _events > 0 -> _events-- };                                /* fail() */
#ifdef FAIL_AFTER_CHANGE
     atomic { may_die; if :: st[s] == LOADING && REF(s) == seen -> st[s] = STOPPING :: else fi;
              if :: REF(s) == seen && owner[s] == me + 1 -> owner[s] = 0 :: else fi };
     wake_waiters(MODEL(me));
     atomic { may_die; failed[MODEL(me)] = seen };
#else
     /* fail_load(): the record and the transition in one hold, or neither */
     atomic { mutex == 0 -> may_die; mutex = me + 1 };
     atomic { may_die; before = failed[MODEL(me)];
              if :: st[s] == LOADING && REF(s) == seen -> failed[MODEL(me)] = seen :: else fi };
     atomic { may_die; if :: st[s] == LOADING && REF(s) == seen -> st[s] = STOPPING :: else -> failed[MODEL(me)] = before fi;
              if :: REF(s) == seen && owner[s] == me + 1 -> owner[s] = 0 :: else fi;
              before = 0 };
     atomic { may_die; mutex = 0 };
     wake_waiters(MODEL(me));
#endif
     atomic { may_die; bell = true; _answer[me] = FAILED };
     goto leave
  :: atomic { _events > 0 -> _events-- };                                /* give_back(): no text */
     atomic { may_die; if :: st[s] == LOADING && REF(s) == seen -> st[s] = STOPPING :: else fi;
              if :: REF(s) == seen && owner[s] == me + 1 -> owner[s] = 0 :: else fi };
     wake_waiters(MODEL(me));
     atomic { may_die; bell = true; _answer[me] = FAILED };
     goto leave
  :: skip
  fi;
#ifdef WAKE_BEFORE_CHANGE
  wake_waiters(MODEL(me));
#endif
  atomic {                                                               /* publish_ready() */
    may_die;
#ifdef READY_WITHOUT_CAS
    st[s] = READY; held[me] = s + 1
#else
    if :: st[s] == LOADING && REF(s) == seen && owner[s] == me + 1 -> st[s] = READY; held[me] = s + 1; owner[s] = 0 :: else -> goto lost fi
#endif
  };
  assert(REF(s) == seen && process[s]);                                  /* nobody else's life of the slot */
#ifndef WAKE_BEFORE_CHANGE
  wake_waiters(MODEL(me));
#endif
  goto leave;
lost:                                                                    /* let_go() */
  atomic { may_die; if :: REF(s) == seen && owner[s] == me + 1 -> owner[s] = 0 :: else fi; bell = true; _answer[me] = FAILED };

leave:
  atomic { may_die; row[me] = false };
  if
  :: _answer[me] == LEFT || _answer[me] == FAILED || _answer[me] == NO_COORDINATOR -> wake_line()
  :: else                                                                /* the request runs and ends */
     atomic { may_die; held[me] = 0; assert(REF(s) == seen) }
  fi;
  atomic { bell = true; _gone[me] = true };
  goto over;

dying:
  atomic {
    dead[me] = true;
    if :: mutex == me + 1 -> mutex = 0 :: else fi;
    mine = 0; s = 0; awaited = 0; seen = 0; tick = 0; turn = false; fresh = false; before = 0
  };
over:
  skip
}

/* --- The coordinator ------------------------------------------------------------------------------ */

#define NEEDS_ROOM(w) (IS_PRESENT(w) && !dead[w] && !IS_SERVED(MODEL(w)))
#define MAY_EVICT(s) (st[s] == READY && !LEASED(s) && LIVE >= LIMIT && \
  (NEEDS_ROOM(0) || NEEDS_ROOM(1) || NEEDS_ROOM(2)))

inline free_slot(s) {
  atomic {
    may_die; st[s] = FREE; gen[s]++;
#ifdef RESERVED_FOR_ANOTHER
    if
    :: mutex == 0 && LIVE < LIMIT && NEEDS_ROOM(2) && !AHEAD(0, arrival[2], 2) -> st[s] = LOADING; model[s] = 2; owner[s] = 3
    :: else
    fi
#endif
  };
  wake_line()
}

inline judge(s) {
  if
  :: st[s] == LOADING && owner[s] != 0 && dead[owner[s] - 1] ->          /* a lost ticket: no text */
     atomic { may_die; if :: st[s] == LOADING && owner[s] != 0 && dead[owner[s] - 1] -> st[s] = STOPPING :: else fi };
     wake_waiters(model[s])
  :: atomic { st[s] == LOADING && owner[s] != 0 && _events > 0 && mutex == 0 -> _events--; mutex = 4 };   /* load_timeout: fail_load() */
     atomic { may_die; before = failed[model[s]]; if :: st[s] == LOADING -> failed[model[s]] = REF(s) :: else fi };
     atomic { may_die; if :: st[s] == LOADING -> st[s] = STOPPING :: else -> failed[model[s]] = before fi; before = 0 };
     atomic { may_die; mutex = 0 };
     wake_waiters(model[s])
  :: atomic { st[s] == LOADING && owner[s] != 0 && _events > 0 -> _events-- };   /* evicted: no text */
     atomic { may_die; if :: st[s] == LOADING -> st[s] = STOPPING :: else fi };
     wake_waiters(model[s])
  :: atomic { MAY_EVICT(s) -> may_die; st[s] = STOPPING };               /* lease.pml */
     wake_waiters(model[s])
  :: st[s] == STOPPING ->
     process[s] = false;                                                 /* signalled, seen to be gone */
     atomic { may_die; st[s] = GONE };
     wake_waiters(model[s]);
     wake_line()
  :: st[s] == GONE && (owner[s] == 0 || dead[owner[s] - 1]) ->
     atomic { may_die; owner[s] = 0 };
     free_slot(s)
  fi
}

inline reap(w) {
  atomic {
    dead[w] && !_gone[w] && !(st[0] == LOADING && owner[0] == w + 1) && !(st[1] == LOADING && owner[1] == w + 1) ->
    may_die;
    held[w] = 0; row[w] = false; _gone[w] = true
  };
  wake_line()
}

proctype Coordinator() {
  byte before = 0;
start:
  _judge_lives = true;
  woken[0] = row[0]; woken[1] = row[1]; woken[2] = row[2];               /* wake_everyone() */
end_asleep:
  do
  :: judge(0)
  :: judge(1)
  :: reap(0)
  :: reap(1)
  :: reap(2)
  od;
dying:
  atomic { _judge_lives = false; before = 0; if :: mutex == 4 -> mutex = 0 :: else fi };
  if :: goto start :: skip fi
}

/* Only when nothing else can happen. */
proctype Clock() {
  do
  :: timeout ->
     if
     :: ticks < TICKS -> ticks++
     :: else ->
        assert(mutex == 0);
        /* Everyone has an answer, or is dead. */
        assert((_answer[0] != NOTHING && _gone[0]) || dead[0]);
        assert((_answer[1] != NOTHING && _gone[1]) || dead[1]);
        assert((_answer[2] != NOTHING && _gone[2]) || dead[2]);
        break
     fi
  od
}

init {
  atomic {
#ifndef ABSENT
    run Coordinator();
#endif
    run Worker(0);
#ifdef SAME
    _answer[2] = LEFT; _gone[2] = true;
#else
    run Worker(2);
#endif
#ifdef OTHER
    _answer[1] = LEFT; _gone[1] = true;
#else
    run Worker(1);
#endif
    run Clock()
  }
}
