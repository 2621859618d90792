// SPDX-License-Identifier: Apache-2.0
//
// Rows, frames, limbo and what the keeper does with them; a reader's step: what the models of steps, offers and restarts
// share. Twins: words.h, frame_table.h, kvt_step_begin, resolve, look_at_shadow, take_offer, kvt_step_end, report_staged;
// Arena::place, demote_free, drop_shadow, free_page, refill, offer, withdraw_offer, on_offer_done, flush_withdrawals,
// oldest_step, drain_limbo.
//
// A model defines PAGES, FRAMES and CLIENTS before it includes this, and OFFERS if there are any. The bytes of a page in
// a generation are one value. A frame that becomes free reads as 0: whoever reads it could as well read another page's
// bytes.

// Placement word: 6-7 state, 3-5 generation, 0-2 frame. Shadow and offer words: the same with kSealed for "valid".
#define kFree 0
#define kFilling 1
#define kSealed 2
#define kEvicting 3
#define PLACE(s, g, f) (((s) << 6) | ((g) << 3) | (f))
#define STATE(w) ((w) >> 6)
#define GENERATION(w) (((w) >> 3) & 7)
#define FRAME(w) ((w) & 7)
#define VALUE(p, g) (1 + (p) * 8 + (g))
#define NONE 7
#define NO_STEP 255

// Private states of a frame (A4).
#define F_FREE 0
#define F_RESERVED 1
#define F_NAMED 2
#define F_LIMBO 3

Word epoch;
Word placement[PAGES];
Word shadow[PAGES];
Word slot[CLIENTS];
byte data[FRAMES];
bool stop;      // the keeper has done what it does in this model
byte finished;  // clients that take no more steps
#ifdef DEATH
bool killed[CLIENTS];
#endif

// The keeper's own. A keeper that starts again knows none of it.
byte frame_state[FRAMES];
byte limbo_r[FRAMES];
byte pins[FRAMES];
byte leaving[3];           // frames that a word has named until now
bool forgotten[CLIENTS];   // sessions that have ended: their slots do not count

// One copy, of a worker or of the keeper itself: a store that bypasses the caches, or a DMA, is on its way here.
byte copy_frame = NONE;
byte copy_value;
#define DRAIN_COPY \
  :: d_step { copy_frame != NONE -> data[copy_frame] = copy_value; copy_frame = NONE; copy_value = 0 }

#ifdef OFFERS
// One session; its members take offers.
Word offer[PAGES];
Word serial[PAGES];
byte record_frame[PAGES];
byte record_serial[PAGES];
// Stores of a member, or of its GPU, into a frame that it was offered: they arrive when they like, and a member's end
// does not stop them (A1).
byte writing[CLIENTS];
byte writing_value[CLIENTS];
#define DRAIN_WRITES(c) \
  :: d_step { writing[c] != NONE -> data[writing[c]] = writing_value[c]; writing[c] = NONE; writing_value[c] = 0 }
// One report of each member is on its way: in its ring.
bool reported[CLIENTS];
byte report_page[CLIENTS];
byte report_generation[CLIENTS];
byte report_frame[CLIENTS];
byte report_serial[CLIENTS];
#define ROW_SETTLED(p) (SETTLED(placement[p]) && SETTLED(shadow[p]) && SETTLED(offer[p]) && SETTLED(serial[p]))
#define DRAIN_ROW(p) DRAIN(placement[p]) DRAIN(shadow[p]) DRAIN(offer[p]) DRAIN(serial[p])
#else
#define ROW_SETTLED(p) (SETTLED(placement[p]) && SETTLED(shadow[p]))
#define DRAIN_ROW(p) DRAIN(placement[p]) DRAIN(shadow[p])
#endif
#if PAGES == 1
#define KEEPER_SETTLED (ROW_SETTLED(0) && SETTLED(epoch))
#define ANY_PAGE(p) p = 0
#else
#define KEEPER_SETTLED (ROW_SETTLED(0) && ROW_SETTLED(1) && SETTLED(epoch))
#define ANY_PAGE(p) \
  if            \
  :: p = 0      \
  :: p = 1      \
  fi
#endif
#define ANY_FRAME3(s) (frame_state[0] == s || frame_state[1] == s || frame_state[2] == s)
#if FRAMES == 3
#define ANY_FRAME(s) ANY_FRAME3(s)
#else
#define ANY_FRAME(s) (ANY_FRAME3(s) || frame_state[3] == s)
#endif

active proctype memory() {
end:
  do
  DRAIN(epoch)
  DRAIN_ROW(0)
#if PAGES > 1
  DRAIN_ROW(1)
#endif
  DRAIN(slot[0])
#if CLIENTS > 1
  DRAIN(slot[1])
#endif
  DRAIN_COPY
#ifdef OFFERS
  DRAIN_WRITES(0)
#if CLIENTS > 1
  DRAIN_WRITES(1)
#endif
#endif
  od
}

// ---- a reader ----

#ifdef OFFERS
#define OWN_BYTES(f) (writing[me] == f -> writing_value[me] : data[f])
#else
#define OWN_BYTES(f) data[f]
#endif

inline step() {
#ifdef FRESH_EPOCH
  d_step { SETTLED(slot[me]) -> slot[me].own = epoch.all }
#else
  seen = epoch.all;  // an old one is smaller, and only delays
  STORE(slot[me], seen);
  seen = 0;
#endif
#ifndef NO_READER_FENCE
  SETTLED(slot[me]);
#endif
  ANY_PAGE(page);
#if defined(OFFERS) && !defined(SHADOWS)
  place = placement[page].all;
#else
  if  // either order is safe (B3)
  :: place = placement[page].all;
     second = shadow[page].all
  :: second = shadow[page].all;
     place = placement[page].all
  fi;
#endif
  if
  :: STATE(place) == kSealed ->
     if
     :: frame = FRAME(place)
#ifdef NO_SHADOW_GENERATION
     :: second != 0 -> frame = FRAME(second)
#else
     :: second != 0 && GENERATION(second) == GENERATION(place) -> frame = FRAME(second)
#endif
     fi;
#ifdef OFFERS
     second = offer[page].all;  // inside the step, behind the fence of its begin (A3)
     if
     :: second != 0 && GENERATION(second) == GENERATION(place) && FRAME(second) != FRAME(place) ->
        seen = serial[page].all;
        if
        :: seen == 0  // it is being withdrawn
#ifdef MEMO
        // Copied by an earlier step of this process: the word names the frame still.
        :: taken_frame == FRAME(second) && taken_page == page && taken_serial == seen -> frame = taken_frame
#endif
        :: else ->
           d_step {
             writing_value[me] = data[frame];
             assert(writing_value[me] == VALUE(page, GENERATION(place)));
             frame = FRAME(second);
             writing[me] = frame;
             taken_page = page;
             taken_frame = frame;
             taken_serial = seen;
             has_report = true
           }
        fi;
        seen = 0
     :: else
     fi;
#endif
     second = 0;
     assert(OWN_BYTES(frame) == VALUE(page, GENERATION(place)))
  :: else
  fi;
#if defined(OFFERS) && !defined(NO_END_ORDER) && !defined(NO_WORK_COMPLETE)
  writing[me] == NONE;  // the end is a release: what the step wrote has arrived (B1)
#endif
  d_step { SETTLED(slot[me]) -> slot[me].own = 0; frame = 0 }
#ifdef OFFERS
#ifndef NO_WORK_COMPLETE
  writing[me] == NONE;
#endif
  // Behind the end: nothing keeps the frame from here on. A ring that is full loses the report.
  if
  :: has_report ->
     SETTLED(slot[me]);  // the ring's tail is a release store behind the slot's
     d_step {
       if
       :: !reported[me] ->
          reported[me] = true;
          report_page[me] = taken_page;
          report_generation[me] = GENERATION(place);
          report_frame[me] = taken_frame;
          report_serial[me] = taken_serial
       :: else
       fi;
       has_report = false;
#ifndef MEMO
       taken_page = 0;
       taken_frame = NONE;
       taken_serial = 0
#endif
     }
  :: else
  fi;
#endif
  d_step { page = 0; place = 0; second = 0; seen = 0 }
}

proctype client(byte me) {
  byte seen, page, place, second, frame;
#ifdef STEPS
  byte steps;
#endif
#ifdef OFFERS
  byte taken_page, taken_frame = NONE, taken_serial;
  bool has_report;
#endif
  {
    do
#ifdef STEPS
    :: !stop && steps < STEPS -> step(); steps++
#else
    :: !stop -> step()
#endif
    :: stop -> break
    od
  }
#ifdef DEATH
  unless { killed[me] }
#endif
  ;
  finished++
}

#ifdef DEATH
active proctype killer() {
  if
  :: killed[0] = true
#if CLIENTS > 1
  :: killed[1] = true
#endif
  :: skip
  fi
}
#endif

// ---- frames and limbo ----

// The lowest free frame becomes RESERVED; NONE when there is none.
inline take_frame(f) {
  d_step {
    f = 0;
    do
    :: f < FRAMES && frame_state[f] != F_FREE -> f++
    :: else -> break
    od;
    if
    :: f == FRAMES -> f = NONE
    :: else -> frame_state[f] = F_RESERVED
    fi
  }
}
inline name_frame(f) {
  assert(frame_state[f] == F_RESERVED);
  frame_state[f] = F_NAMED
}
inline leave_frame(i, f) {
  assert(frame_state[f] == F_NAMED);
  leaving[i] = f
}
inline free_at_once(f) {
  d_step {
    assert(frame_state[f] == F_NAMED);
    frame_state[f] = F_FREE;
    data[f] = 0
  }
}

// A mutant's way: the epoch is advanced before the words are stored over.
#ifdef NO_R_ORDER
#define ADVANCE_EARLY  \
  r = epoch.own;       \
  STORE(epoch, r + 1);
#else
#define ADVANCE_EARLY
#endif

// After the words: full fence; R := epoch, epoch + 1; the frames go to limbo with R (A5, B1).
inline flush_withdrawals() {
#ifndef NO_DAEMON_FENCE
  KEEPER_SETTLED;
#endif
#ifndef NO_R_ORDER
  r = epoch.own;
  STORE(epoch, r + 1);
#endif
#ifdef R_LATE
  r = r + 1;
#endif
  d_step {
    k = 0;
    do
    :: k < 3 ->
       if
       :: leaving[k] != NONE ->
          assert(frame_state[leaving[k]] == F_NAMED);
          frame_state[leaving[k]] = F_LIMBO;
          limbo_r[leaving[k]] = r;
          leaving[k] = NONE
       :: else
       fi;
       k++
    :: else -> break
    od;
    k = 0;
    r = 0;
    old = 0;
    second = 0;
    target = 0;
    page = 0
  }
}

// One slot after another is loaded; then every frame of limbo whose R is below the oldest open step is free.
inline drain_limbo() {
  oldest = NO_STEP;
  do
  :: i < CLIENTS ->
     d_step {
       if
       :: !forgotten[i] && slot[i].all != 0 && slot[i].all < oldest -> oldest = slot[i].all
       :: else
       fi;
       i++
     }
  :: else -> break
  od;
  i = 0;
  d_step {
    k = 0;
    do
    :: k < FRAMES ->
       if
       :: frame_state[k] == F_LIMBO && limbo_r[k] < oldest && pins[k] == 0 ->
          frame_state[k] = F_FREE;
          limbo_r[k] = 0;
          data[k] = 0
       :: else
       fi;
       k++
    :: else -> break
    od;
    k = 0;
    i = 0;
    oldest = 0
  }
}

// ---- what the keeper does with a page ----

#define KEEPER_LOCALS byte page, target, old, second, r, k, i, oldest

// Steps 7 and 8 of a move: the row names `target`, which has the page's bytes and is NAMED. What it named until now
// becomes the shadow, or leaves. `recorded` is what the row named when the copy began.
inline place_at(promotion, recorded) {
  d_step {
    old = placement[page].own;
    second = shadow[page].own
  }
  ADVANCE_EARLY
  STORE(placement[page], PLACE(kSealed, GENERATION(old), target));
  if
  :: promotion ->
#ifdef NO_ROW_AT_COMMIT
     STORE(shadow[page], PLACE(kSealed, GENERATION(old), recorded));
#else
     STORE(shadow[page], PLACE(kSealed, GENERATION(old), FRAME(old)));
#endif
     if
     :: second != 0 -> leave_shadow(0, FRAME(second))
     :: else
     fi
  :: else ->
     if
     :: second != 0 ->
        STORE(shadow[page], 0);
        leave_shadow(0, FRAME(second))
     :: else
     fi;
     leave_frame(1, FRAME(old))
  fi
}
inline leave_shadow(n, f) {
#ifdef NO_SHADOW_LIMBO
  free_at_once(f)
#else
  leave_frame(n, f)
#endif
}

// The shadow is read again; no copy.
inline demote_free() {
  d_step {
    old = placement[page].own;
    second = shadow[page].own
  }
  ADVANCE_EARLY
  STORE(placement[page], second);
  STORE(shadow[page], 0);
  leave_frame(0, FRAME(old));
  flush_withdrawals()
}

inline drop_shadow() {
  second = shadow[page].own;
  ADVANCE_EARLY
  STORE(shadow[page], 0);
  leave_shadow(0, FRAME(second));
  flush_withdrawals()
}

// FREE and the next generation are one store; every word that named a frame is stored over.
inline free_page() {
#ifdef OFFERS
  if
  :: record_frame[page] != NONE ->
     clear_offer();
     leave_frame(2, record_frame[page]);
     record_frame[page] = NONE
  :: else
  fi;
#endif
  d_step {
    old = placement[page].own;
    second = shadow[page].own
  }
  STORE(placement[page], PLACE(kFree, GENERATION(old) + 1, 0));
  leave_frame(0, FRAME(old));
  if
  :: second != 0 ->
#ifndef NO_EVICT_SHADOW
     STORE(shadow[page], 0);
#endif
     leave_frame(1, FRAME(second))
  :: else
  fi;
  flush_withdrawals()
}

// The index has another page: filled by its owner, sealed.
inline refill() {
  take_frame(target);
  d_step {
    name_frame(target);
    old = GENERATION(placement[page].own);
    data[target] = VALUE(page, old)
  }
  STORE(placement[page], PLACE(kSealed, old, target));
  d_step { old = 0; target = 0; page = 0 }
}

#ifdef OFFERS
inline clear_offer() {
  STORE(serial[page], 0);
  STORE(offer[page], 0)
}
inline make_offer() {
  take_frame(target);
  d_step {
    name_frame(target);
    old = GENERATION(placement[page].own);
    record_frame[page] = target;
    record_serial[page] = epoch.own
  }
  STORE(serial[page], record_serial[page]);
  STORE(offer[page], PLACE(kSealed, old, target));
  d_step { old = 0; target = 0; page = 0 }
}
inline withdraw_offer() {
  clear_offer();
#ifdef NO_OFFER_LIMBO
  free_at_once(record_frame[page]);
#else
  leave_frame(0, record_frame[page]);
#endif
  d_step { record_frame[page] = NONE; record_serial[page] = 0 }
  flush_withdrawals()
}
#ifdef NO_SERIAL
#define SAME_SERIAL(who) true
#else
#define SAME_SERIAL(who) record_serial[page] == report_serial[who]
#endif
// It moves the page if it is about the offer that is out: this frame, this serial, SEALED in that generation.
inline on_offer_done(who) {
  page = report_page[who];
  if
  :: record_frame[page] == report_frame[who] && STATE(placement[page].own) == kSealed &&
     GENERATION(placement[page].own) == report_generation[who] && SAME_SERIAL(who) ->
     target = record_frame[page];
     place_at(true, 0);
     clear_offer();
     d_step { record_frame[page] = NONE; record_serial[page] = 0 }
     flush_withdrawals()
  :: else -> page = 0
  fi;
  d_step {
    reported[who] = false;
    report_page[who] = 0;
    report_generation[who] = 0;
    report_frame[who] = 0;
    report_serial[who] = 0
  }
}
#endif

#ifdef DEATH
// The process is gone, but its GPU may still write: only when the driver shows no context of it, its slots and what was
// offered to it do not count any more (A1).
inline end_session(who) {
#ifdef OFFERS
#ifndef NO_QUARANTINE
  writing[who] == NONE;
#endif
  do
  :: page < PAGES ->
     if
     :: record_frame[page] != NONE ->
        old = page;
        withdraw_offer();
        page = page + 1
     :: else -> page++
     fi
  :: else -> break
  od;
  page = 0;
  reported[who] = false;
#endif
  forgotten[who] = true
}
#endif

inline start() {
  d_step {
    do
    :: k < FRAMES ->
       if
       :: k < PAGES && k < FULL ->
          SET_BOTH(placement[k], PLACE(kSealed, 0, k));
          data[k] = VALUE(k, 0);
          frame_state[k] = F_NAMED
       :: else
       fi;
       k++
    :: else -> break
    od;
    for (k : 0 .. 2) {
      leaving[k] = NONE
    }
#ifdef OFFERS
    for (k : 0 .. PAGES - 1) {
      record_frame[k] = NONE
    }
    for (k : 0 .. CLIENTS - 1) {
      writing[k] = NONE
    }
#endif
#ifdef NO_EPOCH_FROM_ONE
    SET_BOTH(epoch, 0);
#else
    SET_BOTH(epoch, 1);
#endif
    k = 0
  }
  run client(0);
#if CLIENTS > 1
  run client(1);
#endif
}

// When nobody works any more: a frame is free, or one word names it, and the words lead to the page's bytes.
inline check_at_end() {
  stop = true;
  finished == CLIENTS && KEEPER_SETTLED && copy_frame == NONE;
  SETTLED(slot[0]);
#if CLIENTS > 1
  SETTLED(slot[1]);
#endif
  drain_limbo();
  d_step {
    k = 0;
    do
    :: k < FRAMES ->
       i = 0;
       page = 0;
       do
       :: page < PAGES ->
          if
          :: STATE(placement[page].own) != kFree && FRAME(placement[page].own) == k ->
             assert(data[k] == VALUE(page, GENERATION(placement[page].own)));
             i++
          :: else
          fi;
          if
          :: shadow[page].own != 0 && FRAME(shadow[page].own) == k ->
             assert(GENERATION(shadow[page].own) == GENERATION(placement[page].own));
             assert(data[k] == VALUE(page, GENERATION(shadow[page].own)));
             i++
          :: else
          fi;
#ifdef OFFERS
          if
          :: offer[page].own != 0 && FRAME(offer[page].own) == k -> i++
          :: else
          fi;
#endif
          page++
       :: else -> break
       od;
       assert(i <= 1);
       assert((i == 1) == (frame_state[k] == F_NAMED));
       assert(i == 1 || frame_state[k] == F_FREE);
       k++
    :: else -> break
    od
  }
}
