// SPDX-License-Identifier: Apache-2.0
//
// Who finds a page by its key, holds it and looks again, against eviction and reuse of the page's index. The prefix
// index is a hint: an entry of another key with the same tag, or an old one. -DGENERATIONS=2: the generation has one
// bit, and the key must carry what it does not. -DDEATH: a client is killed anywhere; -DRESTART: the keeper is.
// Rules: A7, B1, B2, B5 (death leaves a hold too many, never one too few), C4.
// Twins: kvt_lookup, lookup_one, has_key, hold_add, hold_drop, kvt_resolve (Placement::readable); Arena::evict,
// free_page, on_publish.
#ifndef CLIENTS
#define CLIENTS 2
#endif
#ifndef EVICTIONS
#define EVICTIONS 3
#endif
#ifndef GENERATIONS
#define GENERATIONS 8
#endif
#include "words.pml"

// Placement word: 5-6 state, 4 keyed, 0-3 generation. An index entry: 1 + generation, 0 for none.
#define kFree 0
#define kSealed 2
#define kEvicting 3
#define PLACE(s, keyed, g) (((s) << 5) | ((keyed) << 4) | (g))
#define STATE(w) ((w) >> 5)
#define KEYED(w) (((w) >> 4) & 1)
#define GENERATION(w) ((w) & 15)

Word placement;
Word key_lo;
Word key_hi;
Word index;
Word hold[CLIENTS];
#define KEEPER_SETTLED (SETTLED(placement) && SETTLED(key_lo) && SETTLED(key_hi) && SETTLED(index))

// What is true, for the assertions: the key of the page that is there (0: none), and which page of the index it is.
byte truth;
byte birth;

bool stop;
byte finished;
bool killed[CLIENTS];
bool forgotten[CLIENTS];
bool keeper_killed;

active proctype memory() {
end:
  do
  DRAIN(placement)
  DRAIN(key_lo)
  DRAIN(key_hi)
  DRAIN(index)
  DRAIN(hold[0])
#if CLIENTS > 1
  DRAIN(hold[1])
#endif
  od
}

inline look_at_key() {
  key = key_lo.all;
  same = (key == want);
  key = key_hi.all;
  same = same && (key == want)
}

inline lookup() {
  hint = index.all;
  if
  :: hint != 0 ->
     if
     :: want = 1
     :: want = 2
     fi;
#if defined(NO_KEY_UNDER_HOLD)
     look_at_key();
#else
     same = true;
#endif
     STORE(hold[me], hold[me].own + 1);
#ifndef NO_HOLD_FENCE
     SETTLED(hold[me]);
#endif
     place = placement.all;
     same = same && STATE(place) == kSealed && KEYED(place) && GENERATION(place) == hint - 1;
#if !defined(NO_KEY_UNDER_HOLD) && !defined(NO_KEY_CHECK)
     if
     :: same -> look_at_key()
     :: else
     fi;
#endif
     if
     :: same ->
        // Held: from here on it is that page, and it stays.
        d_step {
          assert(truth == want);
          seen_birth = birth
        }
        place = placement.all;  // kvt_resolve, in a step
#ifdef NO_EVICTING_READABLE
        assert(STATE(place) == kSealed);
#else
        assert(STATE(place) == kSealed || STATE(place) == kEvicting);
#endif
        assert(GENERATION(place) == hint - 1);
        assert(truth == want && birth == seen_birth)
     :: else
     fi;
     STORE(hold[me], hold[me].own - 1);
     d_step { want = 0; same = false; place = 0; key = 0; seen_birth = 0; hint = 0 }
  :: else
  fi
}

proctype client(byte me) {
  byte hint, want, place, key, seen_birth;
  bool same;
  {
    do
    :: !stop -> lookup()
    :: stop -> break
    od
  } unless { killed[me] };
  finished++
}

#ifdef DEATH
active proctype killer() {
  if
  :: killed[0] = true
  :: skip
  fi
}
#endif
#ifdef RESTART
active proctype keeper_killer() {
  if
  :: d_step { !stop -> keeper_killed = true }
  :: skip
  fi
}
#endif

inline look_at_holds() {
  i = 0;
  is_held = false;
  do
  :: i < CLIENTS && !is_held ->
     d_step {
       is_held = (!forgotten[i] && hold[i].all != 0);
       if
       :: i == CLIENTS - 1 && !is_held && decides -> truth = 0
       :: else
       fi;
       i++
     }
  :: else -> break
  od;
  i = 0
}

inline evict() {
  decides = false;
  look_at_holds();
  if
  :: !is_held ->
     old = placement.own;
     STORE(placement, PLACE(kEvicting, 1, GENERATION(old)));
#ifndef NO_EVICT_FENCE
     KEEPER_SETTLED;
#endif
#ifndef NO_SECOND_LOOK
     decides = true;
     look_at_holds();
     decides = false;
#else
     truth = 0;
#endif
     if
     :: is_held -> STORE(placement, old)
     :: else ->
        STORE(index, 0);
        STORE(placement, PLACE(kFree, 0, (GENERATION(old) + 1) % GENERATIONS));
#ifndef NO_KEY_CLEARED
        STORE(key_lo, 0);
        STORE(key_hi, 0);
#endif
        evictions++
     fi;
     old = 0
  :: else
  fi;
  is_held = false
}

// The index has another page: with the same key or another.
inline publish() {
  if
  :: want = 1
  :: want = 2
  fi;
  d_step {
    truth = want;
    birth++
  }
  STORE(index, 1 + GENERATION(placement.own));  // the hint may come first
  STORE(key_lo, want);
  STORE(key_hi, want);
#ifndef NO_KEY_ORDER
  KEEPER_SETTLED;  // the flag is a release store behind the key
#endif
  STORE(placement, PLACE(kSealed, 1, GENERATION(placement.own)));
  want = 0
}

byte evictions;
#define KEEPER_LOCALS \
  byte i, old, want; \
  bool is_held, decides

inline work() {
  do
  :: evictions < EVICTIONS && STATE(placement.own) == kSealed -> evict()
  :: STATE(placement.own) == kFree -> publish()
#ifdef DEATH
  :: killed[0] && !forgotten[0] -> forgotten[0] = true
#endif
  :: evictions == EVICTIONS && STATE(placement.own) == kSealed -> break
  od
}

inline finish() {
  stop = true;
  finished == CLIENTS;
  if
  :: killed[0] -> forgotten[0] = true
  :: else
  fi;
  (forgotten[0] || SETTLED(hold[0])) && KEEPER_SETTLED;
#if CLIENTS > 1
  SETTLED(hold[1]);
#endif
  // Nothing has leaked: nobody holds the page, and it can be evicted.
  evictions = 0;
  evict();
  assert(evictions == 1)
}

active proctype keeper() {
  KEEPER_LOCALS;
  d_step {
    SET_BOTH(placement, PLACE(kSealed, 1, 0));
    SET_BOTH(key_lo, 1);
    SET_BOTH(key_hi, 1);
    SET_BOTH(index, 1);
    truth = 1
  }
  run client(0);
#if CLIENTS > 1
  run client(1);
#endif
  {
    work();
    stop = true
  } unless { keeper_killed };
#ifdef RESTART
  if
  :: keeper_killed -> run next_keeper()
  :: else -> finish()
  fi
#else
  finish()
#endif
}

#ifdef RESTART
// The state of a row may be anything that one of its stores leaves: EVICTING goes back to SEALED, a page whose key had
// no flag yet has none, and the prefix index is made anew from the rows.
proctype next_keeper() {
  KEEPER_LOCALS;
  KEEPER_SETTLED;
  STORE(index, 0);
  if
  :: STATE(placement.own) == kEvicting ->
     truth = key_lo.own;  // decided or not: no store says so yet, so it stays
#ifndef NO_EVICTING_REPAIRED
     STORE(placement, PLACE(kSealed, 1, GENERATION(placement.own)))
#endif
  :: STATE(placement.own) == kFree ->
     truth = 0;
     STORE(key_lo, 0);
     STORE(key_hi, 0)
  :: else
  fi;
  KEEPER_SETTLED;
  if
  :: STATE(placement.own) == kSealed -> STORE(index, 1 + GENERATION(placement.own))
  :: else
  fi;
  assert(STATE(placement.own) != kEvicting);
  work();
  finish()
}
#endif
