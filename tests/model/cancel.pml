/* One lease cell, its worker, the coordinator: asking a holder to end his lease by the cancel words, and
 * killing only after the grace, with SIGKILL of either between any two steps. Memory is sequentially
 * consistent here; what the processor may reorder is the business of orders_test.cpp.
 *
 * A step is one access to the segment, as in the code named beside it (leases.cpp, cancel.cpp,
 * cancel_watch.cpp, decide.cpp and enforce.cpp). What a step leaves out:
 *  - clocks. Starts are numbers that never come again; `due` says up to which start the limit has
 *    passed. The grace has passed when the clock has moved since the ask. World moves both at any moment.
 *  - the state of the backend: that a lease and a close cannot miss each other is lease.pml's.
 *  - the sequence of a lease word has one bit: each word comes again with the next lease but one. It
 *    does not come again within one look of the judge: the real one has 20 bits.
 * Names with a leading underscore are known to the model only: what really happens, not what is read.
 *
 * -DNAME of a mutant breaks one step; then the check must fail (check_model, CMakeLists.txt).
 */
#ifndef KILLS
#define KILLS 1          /* processes killed, of either kind */
#endif
#ifndef LEASES
#define LEASES 3         /* in the cell, by all its owners */
#endif
#ifndef TICKS
#define TICKS 2          /* of the clock */
#endif

/* --- The segment ------------------------------------------------------------------------------- */
byte word = 0;           /* LeaseRecord, line 1 */
byte start = 0;
bool flag = false;       /* line 2: the owner's, kLeaseCancellable */
byte c_start = 0;        /* then the coordinator's */
byte c_at = 0;
byte c_word = 0;
byte cancels = 0;        /* WorkerRecord */
byte wake = 0;
bool stopped = false;    /* the backend, for good */

/* --- What is read of clocks and processes ------------------------------------------------------ */
byte now = 1;
byte due = 0;
bool judge_lives = false;
bool worker_lives = false;
bool dead = false;       /* the worker died, and its row is not cleared yet */

/* --- Known to the model only ------------------------------------------------------------------- */
byte _kills = KILLS;
byte _next = 1;          /* the next start */
byte _live = 0;          /* start of the lease that is granted, 0 = none */
bool _said = false;      /* its holder said that it is cancellable */
byte _asked_at = 0;      /* when the words first named it, 0 = they do not */
bool _hears = false;     /* its holder waits to be told, and would end it */
bool _told = false;

#define NEVER 99
#define WORD_OF(s) (1 + (s) % 2)
#define is_asked(w, s) (c_word == (w) && c_start == (s) && (w) != 0)
#ifdef WORD_ALONE
#define names(w, s) (c_word == (w) && (w) != 0)
#else
#define names(w, s) is_asked(w, s)
#endif

/* The judge sleeps until the grace is over: there is nothing to look at before. */
#ifdef NO_GRACE
#define is_in_grace false
#else
#define is_in_grace (flag && is_asked(word, start) && now <= c_at && c_at != NEVER)
#endif

#define may_die if :: _kills > 0 -> _kills--; goto dying :: skip fi
/* After each of the coordinator's stores: which lease do the words name now? */
#define note_asked \
  if \
  :: _live != 0 && word != 0 && is_asked(word, start) && _asked_at == 0 -> \
     assert(_said && _live <= due); _asked_at = now \
  :: else \
  fi

/* --- A worker ---------------------------------------------------------------------------------- */
proctype Worker() {
  byte seen = 0; byte seen_cancels = 0;
#ifdef NEW_OWNER_TRUSTS
  bool said = false;
#else
  bool said = true;      /* Worker::tagged: whatever the row's last owner left */
#endif
  bool deaf = false; bool hung = false;
  do
  :: !stopped && _next <= LEASES ->
     atomic { may_die; start = _next; _next++ };                          /* publish() */
#ifndef FLAG_STAYS
     if :: said -> atomic { may_die; flag = false; said = false } :: else fi;
#endif
     atomic { may_die; word = WORD_OF(start); _live = start; _said = false; _asked_at = 0;
              _told = false };
     if
     :: skip                                                               /* not cancellable */
     :: atomic { may_die; said = true; flag = true; _said = true };        /* say_cancellable() */
        if :: deaf = true :: deaf = false fi;
        if
        :: deaf
        :: else ->
           /* CancelWatch: registered, then the look of add(); then serve() */
           atomic { seen = wake; seen_cancels = cancels };
           if
           :: atomic { names(word, start) -> assert(_live <= due); _told = true }
           :: atomic { !names(word, start) -> _hears = true };
              if :: hung = true :: hung = false fi;
end_waits:    do
              :: atomic { wake != seen || cancels != seen_cancels -> seen = wake };
                 seen_cancels = cancels;
                 if :: names(word, start) -> break :: else fi
#ifndef NO_SLICES
              :: atomic { names(word, start) -> break }                    /* a second later */
#endif
              :: !hung -> break                                            /* ends by itself */
              :: stopped -> break
              od;
              atomic { may_die; _hears = false;
                       if :: names(word, start) -> assert(_live <= due); _told = true :: else fi }
           fi
        fi
     fi;
     atomic { may_die; word = 0; _live = 0; _hears = false }               /* end_lease() */
  :: stopped || _next > LEASES -> break
  od;
  worker_lives = false;
  goto done;
dying:
  atomic { dead = true; worker_lives = false; _live = 0; _hears = false };
done: skip
}

/* --- The coordinator --------------------------------------------------------------------------- */
proctype Judge() {
  byte w = 0; byte s = 0; bool f = false; byte cw = 0; byte cs = 0; byte ca = 0; byte again = 0;
  byte _begun = 0;
end_looks: do
  :: atomic { dead -> may_die; word = 0; dead = false }                    /* clear_worker_row() */
  :: atomic { stopped -> break }
  :: atomic { !stopped && word != 0 && start <= due && !dead && !is_in_grace -> may_die; w = word; _begun = _next };  /* a scan */
     atomic { may_die; s = start };
     atomic { may_die; f = flag };
     atomic { may_die; cw = c_word };
     atomic { may_die; cs = c_start };
     atomic { may_die; ca = c_at };
     atomic { may_die; again = word };
     if
     :: again != w || s > due || _next > _begun + 1 -> skip
     :: else ->
        if
        :: f && !(cw == w && cs == s && ca != NEVER) ->
           /* Enforcer::ask_to_end(): the evidence is read again, then ask_holder() */
           atomic { may_die; again = word };
           if
           :: again == w && start == s ->
#ifdef WAKE_BEFORE_WORD
              atomic { may_die; cancels++ };
              atomic { may_die; wake++ };
#endif
#ifdef TIME_OF_BEFORE
              atomic { may_die; c_at = now };
#else
#ifndef NO_NEVER
              atomic { may_die; c_at = NEVER };
#endif
#endif
              atomic { may_die; c_start = s; note_asked };
              atomic { may_die; c_word = w; note_asked };
#ifndef TIME_OF_BEFORE
              atomic { may_die; c_at = now };
#endif
#ifndef WAKE_BEFORE_WORD
              atomic { may_die; cancels++ };
              atomic { may_die; wake++ }
#endif
           :: else -> skip
           fi
        :: else ->
           if
#ifdef NO_GRACE
           :: true ->
#else
           :: !f || (cw == w && cs == s && ca != NEVER && now > ca) ->
#endif
              /* stop_or_take_back(): the evidence again, then certain */
              atomic { may_die;
                       if
                       :: word == w && start == s && !dead ->
                          if
                          :: _live == s ->
                             assert(_live <= due);
                             assert(!f || (_asked_at != 0 && now > _asked_at))
                          :: else
                          fi;
                          stopped = true; break
                       :: else
                       fi }
           :: else -> skip
           fi
        fi
     fi;
     w = 0; s = 0; f = false; cw = 0; cs = 0; ca = 0; again = 0
  od;
  judge_lives = false;
  goto done;
dying:
  judge_lives = false;
done: skip
}

/* --- What happens ------------------------------------------------------------------------------ */
active proctype World() {
end_world: do
  :: atomic { !judge_lives && !stopped -> judge_lives = true; run Judge() }
  :: atomic { !worker_lives && !dead && !stopped && _next <= LEASES -> worker_lives = true; run Worker() }
  :: atomic { now <= TICKS -> now++ }
  :: atomic { due < _live -> due = _live }
  od
}

/* When nothing can move any more: a holder who would have ended his lease was told to. */
active proctype Observer() {
  timeout;
  assert(!(_hears && _asked_at != 0 && !_told))
}
