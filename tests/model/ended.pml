// SPDX-License-Identifier: Apache-2.0
//
// An operator ends a session whose processes live: its steps keep nothing from here on. A step that was open may read
// anything, and must say so at its end. Rules: B1 (the fence behind `ended`), B6.
// Twins: Arena::end_session; begin_step (has_ended), kvt_step_end.
#include "words.pml"

#define VALUE 1
#define OTHER 2

Word ended;
Word slot;
Word placement;  // 1: the page is there
byte data = VALUE;
bool over;

active proctype memory() {
end:
  do
  DRAIN(ended)
  DRAIN(slot)
  DRAIN(placement)
  od
}

active proctype client() {
  byte bytes;
  bool cut_short;
  do
  :: over -> break
  :: !over ->
     STORE(slot, 1);
     SETTLED(slot);
     if
     :: ended.all != 0 -> STORE(slot, 0); break  // refused
     :: else
     fi;
     if
     :: placement.all != 0 ->
#ifdef NO_LOOK_LAST
        cut_short = (ended.all != 0);
#endif
        bytes = data;
#ifndef NO_LOOK_LAST
        // The step's reads are over before this load: an acquire fence stands between.
        cut_short = (ended.all != 0);
#endif
        STORE(slot, 0);
        assert(cut_short || bytes == VALUE)  // what it has read was right, or it says that it may not be
     :: else -> STORE(slot, 0)
     fi;
     d_step { bytes = 0; cut_short = false }
  od
}

active proctype keeper() {
  d_step { SET_BOTH(placement, 1) }
#ifndef NO_ENDED_FIRST
  STORE(ended, 1);
#endif
#if !defined(NO_ENDED_FENCE) && !defined(NO_ENDED_FIRST)
  SETTLED(ended);
#endif
  // Its pages are freed. Its slots do not count any more, so nothing waits for its steps.
  STORE(placement, 0);
  SETTLED(placement);
  data = OTHER;
#ifdef NO_ENDED_FIRST
  STORE(ended, 1);
#endif
  over = true
}
