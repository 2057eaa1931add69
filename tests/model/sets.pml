/* Two backends that only together make room for one who waits, somebody who uses them, the coordinator:
 * they go both or none, with SIGKILL of the coordinator between any two steps. One that is stopped is one
 * that takes its next step late: that is every interleaving. Memory is sequentially consistent here.
 *
 * A step is one access to the segment, as in the code named beside it (decide.cpp, enforce.cpp, slots.cpp,
 * leases.cpp, acquisition.cpp). What a step leaves out:
 *  - the line and what is missing in it (admission.pml): the one who waits needs both, or has left.
 *  - drains. A set with a member in use is not ended.
 *  - the ending of processes: STOPPING is for good, and that is room.
 * Names with a leading underscore are known to the model only: what really happens, not what is read.
 *
 * -DNAME of a mutant breaks one step; then the check must fail (check_model, CMakeLists.txt).
 */
#ifndef KILLS
#define KILLS 2          /* of the coordinator */
#endif
#ifndef USES
#define USES 2           /* requests */
#endif

#define READY 0
#define EVICTING 1
#define STOPPING 2

/* --- The segment ------------------------------------------------------------------------------- */
byte state[2] = READY;
byte owner[2] = 0;       /* EVICTING: the epoch of who closed it */
bool for_it[2] = false;  /* StopRecord::for_arrival is the one who waits */
bool lease[2] = false;   /* a lease word */
bool waits = true;       /* the waiter's row */
byte epoch = 0;

/* --- What is read of processes ----------------------------------------------------------------- */
bool judge_lives = false;

/* --- Known to the model only ------------------------------------------------------------------- */
byte _kills = KILLS;
byte _uses = USES;
bool _granted[2] = false;

#define may_die if :: _kills > 0 -> _kills--; goto dying :: skip fi
#define cas(i, s, o, new, by) \
  if :: state[i] == s && owner[i] == o -> state[i] = new; owner[i] = by :: else fi

/* --- Who uses them ----------------------------------------------------------------------------- */
active proctype User() {
  byte i = 0; byte o = 0;
end_uses: do
  :: _uses > 0 && state[0] + state[1] < 2 * STOPPING -> _uses--;
     if :: i = 0 :: i = 1 fi;
     if
     :: atomic { state[i] == READY -> lease[i] = true };                   /* begin_lease() */
        if
        :: atomic { state[i] == READY -> _granted[i] = true };
           atomic { lease[i] = false; _granted[i] = false }                /* end_lease() */
        :: atomic { state[i] != READY -> lease[i] = false }                /* withdraw_lease() */
        fi
     :: atomic { state[i] == EVICTING && owner[i] != epoch -> o = owner[i] };
        atomic { cas(i, EVICTING, o, READY, 0) }                           /* Acquisition: of a dead judge */
     :: atomic { state[i] != READY && !(state[i] == EVICTING && owner[i] != epoch) -> skip }
     fi
  od
}

/* --- The coordinator --------------------------------------------------------------------------- */
#ifdef NEXT_REOPENS
#define is_left(i) false
#else
#define is_left(i) (w && s[1 - (i)] == STOPPING && f[i] && f[1 - (i)])
#endif
#define may_be_ended(i) (s[i] == STOPPING || (s[i] == READY && !l[i]) || is_left(i))

proctype Judge(byte mine) {
  byte s[2]; byte o[2]; bool f[2]; bool l[2]; bool w = false; bool may_go = false; byte i = 0; byte by = 0;
  bool _left = false;    /* the waiter, before that was read for the last time */
end_looks: do
  :: atomic { (waits && state[0] + state[1] < 2 * STOPPING) ||
              state[0] == EVICTING || state[1] == EVICTING -> may_die; w = waits; _left = !waits };   /* a scan */
     atomic { may_die; s[0] = state[0]; o[0] = owner[0] };
     atomic { may_die; f[0] = for_it[0]; l[0] = lease[0] };
     atomic { may_die; s[1] = state[1]; o[1] = owner[1] };
     atomic { may_die; f[1] = for_it[1]; l[1] = lease[1] };
     i = 0;
     do                                                                    /* judge_closed() */
     :: i < 2 ->
        if
        :: s[i] == EVICTING && !is_left(i) ->
           atomic { may_die;
                    /* The other went for one who still waits, and this one is given to others. */
                    assert(!(state[1 - i] == STOPPING && waits && w));
                    cas(i, EVICTING, o[i], READY, 0) }
        :: else
        fi;
        i++
     :: else -> break
     od;
     if
     :: w && may_be_ended(0) && may_be_ended(1) && (s[0] != STOPPING || s[1] != STOPPING) ->
        /* end_together() */
        may_go = true;
        i = 0;
        do
        :: i < 2 && s[i] == READY ->
           atomic { may_die; for_it[i] = true };
           atomic { may_die;
                    may_go = may_go && state[i] == READY;
                    cas(i, READY, 0, EVICTING, mine) };
           i++
        :: i < 2 && s[i] != READY -> i++
        :: i >= 2 -> break
        od;
        atomic { i = 0; _left = _left || !waits };
        do
        :: i < 2 ->
#ifndef LEASES_NOT_READ
           atomic { may_die; may_go = may_go && (s[i] == STOPPING || !lease[i]) };
#endif
#ifndef WAITER_NOT_READ
           atomic { may_die; may_go = may_go && waits };
#endif
           i++
        :: else -> break
        od;
        i = 0;
        do
        :: i < 2 && s[i] != STOPPING ->
           if
           :: may_go ->
              atomic { may_die; for_it[i] = true };
#ifdef OWN_EPOCH_ALONE
              by = mine;
#else
              atomic { may_die; by = owner[i] };
#endif
              atomic { may_die;
                       if
                       :: state[i] == EVICTING && owner[i] == by ->
                          assert(!_granted[i]);                            /* P2 */
                          assert(!_left);                                  /* P5 */
                          state[i] = STOPPING; owner[i] = 0
                       :: else -> assert(state[i] != EVICTING)             /* closed for ever */
                       fi }
           :: else ->
              atomic { may_die; by = owner[i] };
              atomic { may_die; cas(i, EVICTING, by, READY, 0) }           /* open_again() */
           fi;
           i++
        :: i < 2 && s[i] == STOPPING -> i++
        :: i >= 2 -> break
        od
     :: else
     fi;
     s[0] = 0; s[1] = 0; o[0] = 0; o[1] = 0; f[0] = false; f[1] = false; l[0] = false; l[1] = false;
     w = false; may_go = false; i = 0; by = 0; _left = false
  od;
dying:
  judge_lives = false
}

/* --- What happens ------------------------------------------------------------------------------ */
active proctype World() {
  byte mine = 0;
end_world: do
  :: atomic { !judge_lives -> judge_lives = true; mine++; epoch = mine; run Judge(mine) }
  :: atomic { waits -> waits = false }                                     /* it leaves */
  od
}

/* When nothing can move any more: nothing is held closed, and one who waits has his room. */
active proctype Observer() {
  timeout;
  assert(state[0] != EVICTING && state[1] != EVICTING);
  assert(!waits || (state[0] == STOPPING && state[1] == STOPPING))
}
