// SPDX-License-Identifier: Apache-2.0
//
// Both sleepers. The keeper sleeps without a timeout when nothing is to do; a member rings only if it sleeps. A member
// sleeps on a futex word; the keeper wakes it only if somebody waits. No timeouts here: a lost wake-up is a state from
// which nothing goes on. Rules: B1 (both sides of each sleep flag), B7.
// Twins: Keeper::sleep_ms, Keeper::awake; try_submit, ring_doorbell; wait_slice, announce_waiter, wait_for_wake;
// MemberRings::wake_if_posted, wake. (wait_slice rings without looking at the flag: here it does not.)
#ifndef COMMANDS
#define COMMANDS 3
#endif
#include "words.pml"

Word sq_tail;   // member
Word waiters;   // member
Word cq_tail;   // keeper
Word asleep;    // keeper
byte wake;      // futex word: changed by a read-modify-write
bool sleeping;  // the member, in the kernel
bool bell;      // an edge of the eventfd that nobody has seen yet

active proctype memory() {
end:
  do
  DRAIN(sq_tail)
  DRAIN(waiters)
  DRAIN(cq_tail)
  DRAIN(asleep)
  od
}

active proctype member() {
  byte sent, seen;
  do
  :: sent < COMMANDS ->
     sent++;
     STORE(sq_tail, sent);
#ifndef NO_SUBMIT_FENCE
     SETTLED(sq_tail);
#endif
     if
     :: asleep.all != 0 -> bell = true
     :: else
     fi;
     do
     :: cq_tail.all == sent -> break
     :: else ->
#ifndef NO_SEEN_FIRST
        seen = wake;
#endif
        STORE(waiters, 1);
#ifndef NO_WAITER_FENCE
        SETTLED(waiters);
#endif
        if
#ifndef NO_SECOND_LOOK
        :: cq_tail.all == sent -> skip
        :: else ->
#else
        :: true ->
#endif
#ifdef NO_SEEN_FIRST
           seen = wake;
#endif
           // FUTEX_WAIT compares and sleeps at once.
           if
           :: d_step { wake == seen -> sleeping = true }
              !sleeping
           :: wake != seen
           fi
        fi;
        STORE(waiters, 0);
        seen = 0
     od
  :: else -> break
  od
}

active proctype keeper_loop() {
  byte served;
  bool posted;
  do
  :: sq_tail.all != served ->
     served++;
     STORE(cq_tail, served);
     posted = true
  :: else ->
     // The end of a pass.
     if
     :: posted ->
        posted = false;
#ifndef NO_POST_FENCE
        SETTLED(cq_tail);
#endif
        if
        :: waiters.all != 0 ->
           wake++;
           sleeping = false
        :: else
        fi
     :: else
     fi;
     STORE(asleep, 1);
#ifndef NO_ASLEEP_FENCE
     SETTLED(asleep);
#endif
     if
     :: sq_tail.all != served
     :: else ->
#ifdef NO_EDGE_KEPT
        bell = false;
#endif
     end_idle:
        bell;
        bell = false
     fi;
     STORE(asleep, 0)
  od
}
