/* Two backends on one device, the driver, one who is let in, the coordinator: a place is given on when
 * its memory is back, with SIGKILL of the coordinator between any two steps. One that is stopped is one
 * that takes its next step late: that is every interleaving. Memory is sequentially consistent here.
 *
 * A step is one access to the segment, as in the code named beside it (decide.cpp, settling.cpp,
 * enforce.cpp). What a step leaves out:
 *  - clocks. `settle` passes only when the memory is back: it is meant to be longer than the driver takes.
 *    Whoever goes by time before that makes later baselines too low; nothing here can know.
 *  - closing and leases (lease.pml), the line (admission.pml), the ending of processes.
 * Names with a leading underscore are known to the model only: what really happens, not what is read.
 *
 * -DNAMES: the driver names processes. -DNAME of a mutant breaks one step; then the check must fail.
 */
#ifndef KILLS
#define KILLS 1          /* of the coordinator */
#endif
#ifndef CRASHES
#define CRASHES 1        /* backends that end by themselves */
#endif

#define READY 0
#define STOPPING 1
#define GONE 2
#define NONE 99
#define SPARE 6          /* free before anything happens, and what the one who is let in takes */
#define held(i) ((i) == 0 -> 8 : 2)

/* --- The segment ------------------------------------------------------------------------------- */
byte state[2] = READY;
byte base[2] = NONE;     /* StopRecord::baseline */
bool decided[2] = false; /* StopRecord::stopping_ns */
bool ended[2] = false;   /* StopRecord::ended_ns */
bool reserved = false;   /* the place of the one who is let in */
bool later[2] = false;   /* ... after the stop of that one was decided */

/* --- What is read of processes ----------------------------------------------------------------- */
bool alive[2] = true;
bool judge_lives = false;

/* --- Known to the model only ------------------------------------------------------------------- */
byte _kills = KILLS;
byte _crashes = CRASHES;
bool _signalled[2] = false;
bool _out[2] = true;     /* the driver has its memory still */
bool _taken = false;     /* the one who was let in has allocated */

#define free_now (SPARE + (_out[0] -> 0 : 8) + (_out[1] -> 0 : 2) - (_taken -> SPARE : 0))
#define may_die if :: _kills > 0 -> _kills--; goto dying :: skip fi
#define other (1 - i)

/* DeviceReturns::is_ending() */
#define is_ending(j) (state[j] == STOPPING || (state[j] == READY && !alive[j]))

/* DeviceReturns::settling_of() and is_back(), of the sample s_ */
#ifdef OTHERS_NOT_COUNTED
#define others_of(i) 0
#else
#define others_of(i) (is_ending(1 - (i)) -> held(1 - (i)) : 0)
#endif
#ifdef RESERVED_IS_TAKEN
#define taken_of(i) (later[i] && reserved -> SPARE : 0)
#else
#define taken_of(i) (later[i] -> s_taken : 0)
#endif
#ifdef QUARTERS_ALONE
#define half_of(i) 0
#else
#define half_of(i) (others_of(i) + held(i) / 2)
#endif
#define quarters_of(i) (held(i) + others_of(i) - (held(i) + others_of(i)) / 4)
#define owed_of(i) (quarters_of(i) > half_of(i) -> quarters_of(i) : half_of(i))
#ifdef NAMES
#define is_back(i) (s_after[i] && !s_listed[i])
#else
#ifdef RESTART_FORGETS
#define base_of(i) (base_known[i] -> base[i] : 0)
#else
#define base_of(i) base[i]
#endif
#define is_back(i) (s_after[i] && base[i] != NONE && s_free + taken_of(i) >= base_of(i) + owed_of(i))
#endif

/* --- The coordinator --------------------------------------------------------------------------- */
proctype Judge() {
  byte i = 0;
  bool has_sample = false; bool s_tells = false; byte s_free = 0; byte s_taken = 0;
  bool s_after[2] = false; bool s_listed[2] = false; bool base_known[2] = false;
  do
  :: atomic { !has_sample || s_free != free_now || s_after[0] != ended[0] || s_after[1] != ended[1] ->
       /* Sampler::take(), of what has changed */
       has_sample = true; s_tells = true; s_free = free_now; s_taken = (_taken -> SPARE : 0);
       s_after[0] = ended[0]; s_after[1] = ended[1];
       s_listed[0] = _out[0]; s_listed[1] = _out[1] }
  :: atomic { i == 0 -> i = 1 }
  :: atomic { i == 1 -> i = 0 }
  :: atomic { state[i] == READY && (has_sample || !alive[i]) -> may_die };
     /* Enforcer::stop(): the record, then the state */
     atomic { may_die;
              base[i] = (alive[i] && s_tells -> s_free : NONE);
              base_known[i] = true; decided[i] = true; later[i] = false };
     atomic { may_die; state[i] = STOPPING }
  :: atomic { state[i] == STOPPING && alive[i] && !_signalled[i] -> may_die; _signalled[i] = true }
#ifdef RESTART_GIVES_ON
  :: atomic { state[i] == STOPPING && !alive[i] && !ended[i] && !base_known[i] ->
              assert(!_out[i]); state[i] = GONE }
#endif
#ifdef NO_SETTLE
  :: atomic { state[i] == STOPPING && !alive[i] && !ended[i] -> may_die; assert(!_out[i]); state[i] = GONE }
#endif
  :: atomic { state[i] == STOPPING && !alive[i] && !ended[i] -> may_die; ended[i] = true }  /* settle() */
  :: atomic { state[i] == STOPPING && ended[i] && (is_back(i) || !_out[i]) -> may_die;      /* or by time */
#ifndef OLD_BASELINE
              /* DeviceFacts::baselines_from_ns */
              if :: !is_back(i) -> s_tells = false :: else fi
#endif
     };
     /* Enforcer::finish() */
#ifdef RAISE_AFTER_GONE
     atomic { may_die; assert(!_out[i]); state[i] = GONE };
#endif
#ifndef NO_RAISE
     atomic { may_die;
              if
              :: state[other] == STOPPING && base[other] != NONE -> base[other] = base[other] + held(i)
              :: else
              fi };
#endif
#ifndef RAISE_AFTER_GONE
     atomic { may_die; assert(!_out[i]); state[i] = GONE }
#else
     skip
#endif
  :: atomic { state[0] == GONE && state[1] == GONE -> break }
  od;
  goto done;
dying:
  judge_lives = false;
done: skip
}

/* --- What happens ------------------------------------------------------------------------------ */
proctype Backend(byte i) {
  if
  :: atomic { _signalled[i] -> alive[i] = false }
  :: atomic { _crashes > 0 -> _crashes--; alive[i] = false }
  fi;
  _out[i] = false
}

/* A worker that takes the room that there is, loads, or is killed before it has. */
proctype LetIn() {
  atomic { reserved = true; later[0] = decided[0]; later[1] = decided[1] };
  if
  :: _taken = true
  :: reserved = false
  fi
}

init {
  atomic { run Backend(0); run Backend(1); run LetIn() };
end_init: do
  :: atomic { !judge_lives && !(state[0] == GONE && state[1] == GONE) -> judge_lives = true; run Judge() }
  od
}

/* When nothing can move any more, nothing waits for its end. */
active proctype Observer() {
  timeout;
  assert(state[0] == GONE && state[1] == GONE)
}
