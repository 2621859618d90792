// SPDX-License-Identifier: Apache-2.0
//
// Summary bits: a member counts a read and sets the bit of the block; the keeper takes the bits by an exchange and
// then looks at the counters that they name. Rule: C7.
//   default     the bit is set by a read-modify-write each time: no touch is lost
//   TESTED      the bit is tested first, as the code does: a touch may wait until the next one in its block
//   TESTED_FENCED  with a full fence between the count and the test: none is lost again
// Twins: touch, touch_range, collect_counters.
#ifndef TOUCHES
#define TOUCHES 3
#endif
#include "words.pml"

Word count;
bool summary;  // changed by read-modify-writes only, which arrive at once
byte seen;
bool stop;

active proctype memory() {
end:
  do
  DRAIN(count)
  od
}

active proctype member() {
  byte touches;
  bool before;
  do
  :: touches < TOUCHES ->
     touches++;
     STORE(count, count.own + 1);
#ifdef TESTED_FENCED
     SETTLED(count);
#endif
#if defined(TESTED) || defined(TESTED_FENCED)
     before = summary;
     if
     :: !before -> d_step { SETTLED(count) -> summary = true }  // release
     :: else
     fi;
     before = false
#else
     d_step { SETTLED(count) -> summary = true }
#endif
  :: else -> break
  od;
  SETTLED(count);
  stop = true
}

active proctype keeper() {
  bool taken, last;
  do
  :: last = stop;
     d_step { taken = summary; summary = false }
     if
     :: taken -> seen = count.all
     :: else
     fi;
     taken = false;
     if
     :: last -> break
     :: else
     fi
  od;
  assert(seen == TOUCHES)
}
