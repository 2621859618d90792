// SPDX-License-Identifier: Apache-2.0
//
// Promotion by readers: members of one session take offers inside steps and report behind them, while the keeper
// withdraws, offers again, evicts and reuses. With -DDEATH a member may be killed at any time, and its GPU goes on
// writing. Rules: A1, A3, A5.
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
#define FULL 1  // page 1 is free in the beginning
#define OFFERS
#include "words.pml"
#include "rows.pml"

#ifdef DEATH
#define MAY_OFFER (!killed[0])
#else
#define MAY_OFFER true
#endif

active proctype keeper() {
  byte ops;
  KEEPER_LOCALS;
  start();
  do
  :: ops < OPS ->
     atomic {
       ops++;
       ANY_PAGE(page)
     }
     if
     :: STATE(placement[page].own) == kSealed && record_frame[page] == NONE && ANY_FRAME(F_FREE) && MAY_OFFER ->
        make_offer()
     :: record_frame[page] != NONE -> withdraw_offer()
#ifdef SHADOWS
     :: shadow[page].own != 0 -> drop_shadow()
     :: STATE(placement[page].own) == kSealed && record_frame[page] == NONE && shadow[page].own != 0 -> demote_free()
#endif
#ifdef EVICTION
     :: STATE(placement[page].own) == kSealed -> free_page()
     :: STATE(placement[page].own) == kFree && ANY_FRAME(F_FREE) -> refill()
#endif
     :: else -> page = 0
     fi
  :: ANY_FRAME(F_LIMBO) -> drain_limbo()
  :: reported[0] -> on_offer_done(0)
#if CLIENTS > 1
  :: reported[1] -> on_offer_done(1)
#endif
#ifdef DEATH
  :: killed[0] && !forgotten[0] -> end_session(0)
#endif
  :: ops == OPS -> break
  od;
  stop = true;
  finished == CLIENTS;
#ifdef DEATH
  if
  :: killed[0] && !forgotten[0] -> end_session(0)
  :: else
  fi;
#endif
  writing[0] == NONE;
#if CLIENTS > 1
  writing[1] == NONE;
#endif
  check_at_end()
}
