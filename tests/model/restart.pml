// SPDX-License-Identifier: Apache-2.0
//
// The keeper is killed anywhere, KILLS times: with 2 also inside the rebuild that follows the first. The next one knows
// only what is in shared memory: it rebuilds its own state from the rows and goes on, while clients keep reading. With
// -DOFFERS the clients take offers; with -DDEATH one of them may be killed as well, before or after, and its GPU goes on
// writing. Rules: A2, A3 (serials survive), A1.
// Twins: Arena::adopt, adopt_row, FrameTable::strand_the_rest; restart::open_kept, RestartState::set_daemon_pid,
// wait_for_copies_before; the rest as in rows.pml.
#ifndef CLIENTS
#define CLIENTS 2
#endif
#ifndef PAGES
#define PAGES 2
#endif
#ifndef FRAMES
#define FRAMES 3
#endif
#ifndef OPS
#define OPS 3
#endif
#ifndef KILLS
#define KILLS 1
#endif
#define FULL 1
#include "words.pml"
#include "rows.pml"

bool keeper_killed;
bool started;
byte kills;
byte incarnation;  // of the keeper that runs
byte ops;

// Whose copies the next keeper has to wait for: a word of the restart state.
byte recorded;
byte copy_of;  // whose copy is on its way
#ifdef NO_SECOND_EPOCH
bool adopting;  // in shared memory: a keeper has repaired the rows
#endif

#ifdef OFFERS
#define NOT_OFFERED (record_frame[page] == NONE)
#else
#define NOT_OFFERED true
#endif
#ifdef DEATH
#define MAY_OFFER (!killed[0])
#define MAY_SERVE(c) (!killed[c])
#else
#define MAY_OFFER true
#define MAY_SERVE(c) true
#endif

// The copy is a DMA: it goes on when the daemon is gone.
inline copy_and_place() {
  take_frame(target);
  d_step { copy_frame = target; copy_value = data[FRAME(placement[page].own)]; copy_of = incarnation }
  d_step { copy_frame == NONE -> copy_of = 0 }
  name_frame(target);
  if
  :: place_at(true, 0)
  :: place_at(false, 0)
  fi;
  flush_withdrawals()
}

inline work() {
  do
  :: ops < OPS ->
     atomic {
       ops++;
       ANY_PAGE(page)
     }
     if
#ifdef MOVES
     :: STATE(placement[page].own) == kSealed && NOT_OFFERED && ANY_FRAME(F_FREE) -> copy_and_place()
     :: shadow[page].own != 0 -> drop_shadow()
     :: STATE(placement[page].own) == kSealed && NOT_OFFERED && shadow[page].own != 0 -> demote_free()
#endif
#ifdef OFFERS
     :: STATE(placement[page].own) == kSealed && NOT_OFFERED && ANY_FRAME(F_FREE) && MAY_OFFER -> make_offer()
     :: record_frame[page] != NONE -> withdraw_offer()
#endif
     :: STATE(placement[page].own) == kSealed -> free_page()
     :: STATE(placement[page].own) == kFree && ANY_FRAME(F_FREE) -> refill()
     :: else -> page = 0
     fi
  :: ANY_FRAME(F_LIMBO) -> drain_limbo()
#ifdef OFFERS
  :: reported[0] && MAY_SERVE(0) -> on_offer_done(0)
#if CLIENTS > 1
  :: reported[1] && MAY_SERVE(1) -> on_offer_done(1)
#endif
#endif
#ifdef DEATH
  :: killed[0] && !forgotten[0] -> end_session(0)
#endif
  :: ops == OPS -> break
  od
}
inline finish() {
  stop = true;
  finished == CLIENTS;
#ifdef DEATH
  if
  :: killed[0] && !forgotten[0] -> end_session(0)
  :: else
  fi;
#endif
#ifdef OFFERS
  writing[0] == NONE;
#if CLIENTS > 1
  writing[1] == NONE;
#endif
#endif
  check_at_end()
}

// What is the dead keeper's own goes with it.
inline forget_all() {
  d_step {
    page = 0;
    target = 0;
    old = 0;
    second = 0;
    r = 0;
    i = 0;
    oldest = 0;
    before = 0;
    for (k : 0 .. FRAMES - 1) {
      frame_state[k] = F_FREE;
      limbo_r[k] = 0
    }
    for (k : 0 .. 2) {
      leaving[k] = NONE
    }
    for (k : 0 .. CLIENTS - 1) {
      forgotten[k] = false
    }
#ifdef OFFERS
    for (k : 0 .. PAGES - 1) {
      record_frame[k] = NONE;
      record_serial[k] = 0
    }
#endif
    k = 0;
    incarnation++;
    keeper_killed = false
  }
}

#define COPIES_OVER (copy_frame == NONE || copy_of != before)

// A2, in its order: 1 the old daemon and its copies are dead; 2 every session is counted; 3 the epoch goes on; 4 the
// rows are repaired; 5 full fence, R := epoch, epoch + 1, and every frame that no word names is in limbo.
inline adopt() {
  KEEPER_SETTLED;  // what a dead process has stored arrives
#ifndef NO_OLD_COPIES_DEAD
  before = recorded;
#ifdef NO_RECORD_LAST
  recorded = incarnation;
#endif
  COPIES_OVER;
  // It has no copies before this; killed before, the next one waits for those of before.
  recorded = incarnation;
  before = 0;
#endif
#ifdef NO_ALL_REGIONS
  forgotten[CLIENTS - 1] = true;
#endif
#ifdef NO_EPOCH_KEPT
  STORE(epoch, 1);
#endif
  do
  :: page < PAGES ->
#if defined(OFFERS) && !defined(NO_OFFERS_CLEARED)
     if
     :: offer[page].own != 0 || serial[page].own != 0 -> clear_offer()
     :: else
     fi;
#endif
#ifndef NO_DOUBLE_REPAIRED
     if
     :: shadow[page].own != 0 &&
        (STATE(placement[page].own) != kSealed || GENERATION(shadow[page].own) != GENERATION(placement[page].own) ||
         FRAME(shadow[page].own) == FRAME(placement[page].own)) ->
        STORE(shadow[page], 0)
     :: else
     fi;
#endif
     page++
  :: else -> break
  od;
  page = 0;
  KEEPER_SETTLED;
#ifdef NO_SECOND_EPOCH
  if
  :: !adopting ->
     adopting = true;
     r = epoch.own;
     STORE(epoch, r + 1)
  :: else -> r = epoch.own - 1  // the one before has advanced it, has it not
  fi;
#else
  r = epoch.own;
  STORE(epoch, r + 1);
#endif
  d_step {
    for (page : 0 .. PAGES - 1) {
      if
      :: STATE(placement[page].own) == kSealed -> frame_state[FRAME(placement[page].own)] = F_NAMED
      :: else
      fi;
      if
      :: shadow[page].own != 0 -> frame_state[FRAME(shadow[page].own)] = F_NAMED
      :: else
      fi
    }
    for (k : 0 .. FRAMES - 1) {
      if
      :: frame_state[k] != F_NAMED ->
#ifdef NO_REBUILD_LIMBO
         data[k] = 0
#else
         frame_state[k] = F_LIMBO;
         limbo_r[k] = r
#endif
      :: else
      fi
    }
#ifdef NO_SECOND_EPOCH
    adopting = false;
#endif
    k = 0;
    page = 0;
    r = 0
  }
}

active proctype keeper() {
  byte before;
  KEEPER_LOCALS;
  start();
  started = true;
  do
  :: {
       if
       :: incarnation != 0 -> adopt()
       :: else
       fi;
       work();
       stop = true;  // from here on it may be killed no more: the next one would have nothing to do
       break
     } unless { keeper_killed };
     forget_all()
  od;
  finish()
}

active proctype keeper_killer() {
  started;
  do
  :: d_step { kills < KILLS && !stop && !keeper_killed -> keeper_killed = true; kills++ }
  :: break
  od
}
