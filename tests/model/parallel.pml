/* Counted leases (`parallel`): one backend, workers that want a lease each, a tool that changes the setting,
 * a judge that closes and opens the backend and puts right what somebody has left, with SIGKILL of any of
 * them between any two steps. Memory is sequentially consistent here; what the processor may reorder is
 * the business of orders_test.cpp.
 *
 * A step is one access to the segment, as in the code named beside it (leases.cpp, counted.cpp,
 * acquisition.cpp, parallel.cpp, slots.cpp, enforce.cpp). What a step leaves out:
 *  - clocks. A waiter that does not look is passed over after 2 s (line.hpp); here only the dead are, once
 *    they are cleared. A slice of a wait ends at any moment; -DNO_SLICES: it has none, so every wake-up that
 *    is lost shows.
 *  - what makes the judge close a backend, and that its leases keep it: that is lease.pml's.
 *  - `ready`: it opens the backend as `reopen` does.
 * Names with a leading underscore are known to the model only: what really happens, not what is read.
 *
 * -DNAME of a mutant breaks one step; then the check must fail (check_model, CMakeLists.txt).
 */
#ifndef KILLS
#define KILLS 1
#endif
#ifndef EVENTS
#define EVENTS 1          /* a waiter that gives up, or a closing of the backend */
#endif
#ifndef CHANGES
#define CHANGES 1         /* of the setting */
#endif
#ifndef FIRST
#define FIRST 1           /* what it is at first */
#endif
#ifndef NEXT
#define NEXT 2            /* and after a change */
#endif
#ifndef WORKERS
#define WORKERS 2         /* up to 4 */
#endif

mtype = { PLAIN, COUNTED, CLOSED }

/* --- The segment ------------------------------------------------------------------------------- */
byte generation = 0; byte number[3];       /* the settings: a number in each publication */
mtype state = PLAIN;                       /* BackendRecord::state: READY, READY with kCounted, EVICTING */
byte word_of = 0; byte word = 0;           /* BackendRecord::parallel_of, which settings, and parallel, the number */
bool lease[WORKERS]; bool row[WORKERS]; byte arrival[WORKERS]; bool woken[WORKERS];
byte next_arrival = 1;
byte mutex = 0;                            /* robust */

/* --- Known to the model only ------------------------------------------------------------------- */
byte _kills = KILLS; byte _events = EVENTS; byte _changes = CHANGES;
bool dead[WORKERS];                        /* and its row is not cleared yet */
bool _granted[WORKERS]; bool _over[WORKERS];
bool judge_lives = false;
byte _limit = 0;                           /* what somebody was told holds now; 0: nothing */

#define TOOL 8
#define JUDGE 9
#define THIRD (2 % WORKERS)
#define FOURTH (3 % WORKERS)
#define SUM(f, a) (f(0, a) + f(1, a) + (WORKERS > 2 -> f(THIRD, a) : 0) + (WORKERS > 3 -> f(FOURTH, a) : 0))
#define ALL(array) (array[0] && array[1] && array[THIRD] && array[FOURTH])
#define ANY(array) (array[0] || array[1] || array[THIRD] || array[FOURTH])
#define IS_LEASED(v, a) lease[v]
#define IS_GRANTED(v, a) _granted[v]
#define IS_WAITING(v, a) row[v]
#define EARLIER(v, a) (row[v] && arrival[v] < (a))
#define LEASES SUM(IS_LEASED, 0)
#define GRANTED SUM(IS_GRANTED, 0)
#define AHEAD(a) SUM(EARLIER, a)
#define ARE_ALL_OVER (ALL(_over) && !ANY(dead))
#ifdef NUMBER_OF_BEFORE
#define IS_KNOWN true
#else
#define IS_KNOWN (word_of == generation)
#endif
#define may_die if :: _kills > 0 -> _kills--; goto dying :: skip fi

/* wake_first(): of those who have a row. */
inline wake_first() {
  atomic {
    if
    :: row[0] && AHEAD(arrival[0]) == 0 -> woken[0] = true
    :: row[1] && AHEAD(arrival[1]) == 0 -> woken[1] = true
    :: WORKERS > 2 && row[THIRD] && AHEAD(arrival[THIRD]) == 0 -> woken[THIRD] = true
    :: WORKERS > 3 && row[FOURTH] && AHEAD(arrival[FOURTH]) == 0 -> woken[FOURTH] = true
    :: else
    fi
  }
}
inline wake_all() {
  atomic { woken[0] = woken[0] || row[0]; woken[1] = woken[1] || row[1];
           woken[THIRD] = woken[THIRD] || row[THIRD]; woken[FOURTH] = woken[FOURTH] || row[FOURTH] }
}
/* note_parallel(). Two stores in one step: nobody looks at a number of no settings. */
#define NO_SETTINGS 9
inline note(settings, requests) {
  atomic { may_die; word_of = NO_SETTINGS; word = requests };
  atomic { may_die; word_of = settings }
}
/* settle_counted(), with the mutex: reads the word, then the CAS. */
inline settle(must, changed) {
  atomic { may_die; must = !IS_KNOWN || word != 0 };
  atomic { may_die;
           if
           :: state == PLAIN && must -> state = COUNTED; changed = true
           :: state == COUNTED && !must -> state = PLAIN; changed = true
           :: else
           fi }
}
/* reopen(): the mutex if it can be had at once. */
inline open(me, must, opened) {
#ifdef REOPEN_WITHOUT_MUTEX
  atomic { may_die; must = !IS_KNOWN || word != 0 };
  atomic { may_die; if :: state == CLOSED -> opened = true; state = (must -> COUNTED : PLAIN) :: else fi }
#else
  if
  :: atomic { mutex == 0 -> may_die; mutex = me };
     atomic { may_die; must = !IS_KNOWN || word != 0 };
     atomic { may_die; if :: state == CLOSED -> opened = true; state = (must -> COUNTED : PLAIN) :: else fi };
     atomic { may_die; mutex = 0 }
  :: atomic { mutex != 0 -> may_die; if :: state == CLOSED -> opened = true; state = COUNTED :: else fi }
  fi
#endif
}

/* --- A worker ---------------------------------------------------------------------------------- */
proctype Worker(byte w) {
  mtype s = PLAIN; byte n = 0; byte c = 0; byte e = 0; byte r_of = 0; byte r = 0;
  bool resolved = false; bool must = false; bool changed = false; bool again = false; bool opened = false;
look:
  atomic { may_die; woken[w] = false; resolved = false; changed = false; opened = false; again = false;
           must = false; n = 0; c = 0; e = 0; r_of = 0; r = 0; s = PLAIN };
  atomic { may_die; s = state };                                           /* find_backend() */
  if
  :: s == PLAIN ->                                                         /* begin_lease() */
     atomic { may_die; lease[w] = true };
     atomic { may_die;
              if
              :: state == PLAIN -> _granted[w] = true; assert(_limit == 0 || GRANTED <= _limit)
              :: else -> again = true
              fi };
     if
     :: again ->
        atomic { may_die; lease[w] = false };
        atomic { may_die; if :: state == COUNTED -> wake_first() :: else fi };
        goto look
     :: else
     fi;
     if :: row[w] -> atomic { may_die; row[w] = false } :: else fi
  :: s == COUNTED ->
     if
     :: IS_KNOWN
     :: !IS_KNOWN -> atomic { may_die; resolved = true; r_of = generation; r = number[generation] }
     fi;
#ifndef COUNT_OUTSIDE_HOLD
     atomic { mutex == 0 -> may_die; mutex = w + 1 };
#endif
     /* number_of() */
     atomic { may_die;
              if
              :: IS_KNOWN -> n = word
              :: !IS_KNOWN && resolved && r_of == generation -> n = 98
              :: !IS_KNOWN && !(resolved && r_of == generation) -> n = 99
              fi };
     if :: n == 98 -> note(r_of, r); n = r :: else fi;
     if
     :: n != 99 -> settle(must, changed); atomic { may_die; s = state }
     :: else
     fi;
     if
     :: n == 99 || s != COUNTED -> again = true                             /* look again */
     :: else ->
        /* One step: meanwhile leases end, and then wake somebody; none is granted. */
        atomic { may_die; c = LEASES };
        atomic { may_die; e = (row[w] -> AHEAD(arrival[w]) : AHEAD(99)) };
        if
#ifdef OVERTAKES
        :: c >= n ->
#else
        :: c >= n || e >= n - c ->
#endif
#ifndef COUNT_OUTSIDE_HOLD
           atomic { may_die; mutex = 0 };
#endif
           goto waits
        :: else
        fi;
        atomic { may_die; lease[w] = true };
        atomic { may_die;
                 if
                 :: state == CLOSED -> lease[w] = false; again = true
                 :: else ->
                    _granted[w] = true;
                    assert(_limit == 0 || GRANTED <= _limit);
                    assert((row[w] -> AHEAD(arrival[w]) : AHEAD(99)) < n - c)
                 fi };
#ifndef ROW_AFTER_NEXT
        if :: !again && row[w] -> atomic { may_die; row[w] = false } :: else fi
#endif
     fi;
#ifndef COUNT_OUTSIDE_HOLD
     atomic { may_die; mutex = 0 };
#endif
     if :: changed -> atomic { may_die; wake_all() } :: else fi;
     if :: again -> goto look :: else fi;
#ifndef NO_NEXT
     /* wake_next_if_free() */
     atomic { may_die; c = LEASES };
     atomic { may_die; if :: IS_KNOWN && word != 0 && c >= word -> skip :: else -> wake_first() fi };
#endif
#ifdef ROW_AFTER_NEXT
     if :: row[w] -> atomic { may_die; row[w] = false } :: else fi;
#endif
  :: s == CLOSED ->
     if
     :: !judge_lives -> open(w + 1, must, opened);
        if :: opened -> atomic { may_die; wake_all() } :: else fi;
        goto look
     :: else -> goto waits
     fi
  fi;
  /* The request runs; then end_lease(). */
#ifdef LONG                                  /* it does not end before all who can be served are */
  SUM(IS_WAITING, 0) == 0 || number[generation] == 0 || GRANTED >= number[generation];
#endif
  atomic { resolved = false; changed = false; opened = false; again = false; must = false;
           n = 0; c = 0; e = 0; r_of = 0; r = 0; s = PLAIN };
#ifdef WAKE_BEFORE_CLEAR
  atomic { may_die; if :: state == COUNTED -> wake_first() :: else fi };
#endif
  atomic { may_die; lease[w] = false; _granted[w] = false };
#ifndef WAKE_BEFORE_CLEAR
  atomic { may_die; if :: state == COUNTED -> wake_first() :: else fi };
#endif
  goto done;
waits:
  atomic { resolved = false; changed = false; opened = false; must = false;
           n = 0; c = 0; e = 0; r_of = 0; r = 0; s = PLAIN };
  if
  :: !row[w] ->                                                            /* join_line() */
     atomic { mutex == 0 -> may_die; mutex = w + 1 };
     atomic { may_die; arrival[w] = next_arrival; next_arrival++; row[w] = true };
     atomic { may_die; mutex = 0 };
#ifndef NO_LOOK_AFTER_ROW
     goto look
#endif
  :: else
  fi;
  if
  :: woken[w] -> goto look
  :: atomic { !judge_lives && state == CLOSED -> goto look }               /* its second look finds that */
#ifndef NO_SLICES
  :: skip -> goto look                                                     /* a second later */
#endif
  :: atomic { _events > 0 -> _events-- };                                  /* leave() */
     atomic { may_die; row[w] = false };
#ifndef LEAVES_SILENTLY
     atomic { may_die; wake_first() }
#endif
  fi;
  goto done;
dying:
  atomic { resolved = false; changed = false; opened = false; again = false; must = false;
           n = 0; c = 0; e = 0; r_of = 0; r = 0; s = PLAIN; woken[w] = false;
           dead[w] = true; _granted[w] = false; if :: mutex == w + 1 -> mutex = 0 :: else fi };
done:
  _over[w] = true
}

/* --- Whoever changes the setting: edit_settings() ----------------------------------------------- */
proctype Tool() {
  bool must = false; bool changed = false; byte mine = 0;
  do
  :: _changes > 0 ->
     atomic { mutex == 0 -> may_die; mutex = TOOL };
     atomic { may_die; _changes--; _limit = 0; mine = generation + 1;
              number[mine] = (number[generation] == FIRST -> NEXT : FIRST); generation = mine };
#ifndef NOBODY_SETTLES
     note(mine, number[mine]);                                             /* NextParallel::settle() */
#ifdef SETTLES_AFTER_HOLD
     atomic { may_die; mutex = 0; if :: generation == mine -> _limit = number[mine] :: else fi };
#endif
     settle(must, changed);
#endif
     atomic { may_die; if :: mutex == TOOL -> mutex = 0 :: else fi };
     atomic { may_die; wake_all();
              if :: generation == mine -> _limit = number[mine] :: else fi }
  :: else -> break
  od;
  goto done;
dying:
  if :: mutex == TOOL -> mutex = 0 :: else fi;
done: skip
}

/* --- The coordinator --------------------------------------------------------------------------- */
proctype Judge() {
  byte seen = 0; byte n = 0; bool must = false; bool changed = false; bool opened = false; byte w = 0;
  mtype s = PLAIN;
end_looks: do
  :: atomic { s != PLAIN || seen != 0 || n != 0 || must || changed || opened || w != 0 ->
              s = PLAIN; seen = 0; n = 0; must = false; changed = false; opened = false; w = 0 }
  /* Enforcer::reap() */
  :: atomic { dead[0] -> w = 0 }; goto reap
  :: atomic { dead[1] -> w = 1 }; goto reap
  :: atomic { WORKERS > 2 && dead[THIRD] -> w = THIRD }; goto reap
  :: atomic { WORKERS > 3 && dead[FOURTH] -> w = FOURTH }; goto reap
  /* settle_counted_backends(): the snapshot, then what it says is put right. */
  :: atomic { state != CLOSED && (!IS_KNOWN || (word != 0) != (state == COUNTED)) ->
              may_die; seen = generation; n = number[seen]; s = state; changed = false };
#ifdef FLAG_TAKEN_WITHOUT_MUTEX
     atomic { may_die; if :: state == COUNTED && n == 0 -> state = PLAIN
                         :: state == PLAIN && n != 0 -> state = COUNTED :: else fi };
#else
     if
     :: atomic { mutex == 0 -> may_die; mutex = JUDGE };
        if :: atomic { seen == generation -> may_die }; note(seen, n) :: atomic { seen != generation -> may_die } fi;
        settle(must, changed);
        atomic { may_die; mutex = 0 }
     :: atomic { mutex != 0 -> may_die;
                 if :: state == PLAIN && (!IS_KNOWN || word != 0) -> state = COUNTED; changed = true :: else fi }
     fi;
#endif
     if :: changed -> atomic { may_die; wake_all() } :: else fi
     /* Then it tells of the change. */
  :: atomic { state != CLOSED && _limit == 0 && number[generation] != 0 && IS_KNOWN && state == COUNTED ->
              may_die; _limit = number[generation] }
  /* A closing that is taken back. */
  :: atomic { _events > 0 && state != CLOSED -> may_die; _events--; state = CLOSED };
     opened = false;
     open(JUDGE, must, opened);
     if :: opened -> atomic { may_die; wake_all() } :: else fi
  :: atomic { ARE_ALL_OVER -> break }
  od;
  goto done;
reap:
  atomic { may_die; lease[w] = false };
  atomic { may_die; row[w] = false };
  atomic { may_die; dead[w] = false };
  atomic { may_die; wake_first() };
  goto end_looks;
dying:
  if :: mutex == JUDGE -> mutex = 0 :: else fi;
done:
  atomic { judge_lives = false; wake_all() }                               /* the next one wakes everyone */
}

init {
  atomic {
    number[0] = FIRST; word = FIRST;
    if :: FIRST != 0 -> state = COUNTED; _limit = FIRST :: else fi;
    run Worker(0); run Worker(1);
    if :: WORKERS > 2 -> run Worker(THIRD) :: else fi;
    if :: WORKERS > 3 -> run Worker(FOURTH) :: else fi;
    run Tool()
  };
end_world: do
  :: atomic { !judge_lives && !ARE_ALL_OVER -> judge_lives = true; run Judge() }
  od
}

/* When nothing can move any more nobody waits: all had their lease, died or gave up. */
active proctype Observer() {
  timeout;
  assert(ALL(_over));
  assert(LEASES == 0)
}
