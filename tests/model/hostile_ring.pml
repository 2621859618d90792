// SPDX-License-Identifier: Apache-2.0
//
// A member that stores anything it likes into the ring's indices, at any time. The keeper loads each once, believes no
// impossible distance, keeps its own head, and takes at most one ring's worth a pass. Rule: C8.
// Twins: MemberRings::look, Arena::serve.
#define CAPACITY 2
#define INDICES 8  // an index has three bits
#ifndef PASSES
#define PASSES 3
#endif

byte sq_tail;
byte sq_head;
bool stop;

active proctype hostile() {
  do
  :: stop -> break
  :: !stop ->
     if
     :: sq_tail < INDICES - 1 -> sq_tail++
     :: sq_tail > 0 -> sq_tail--
     :: sq_tail = 0
     :: sq_head = sq_tail
     :: sq_head = (sq_tail + 5) % INDICES
     fi
  od
}

active proctype keeper() {
  byte head, before, distance, taken, passes;
  bool broken;
  do
  :: passes < PASSES && !broken ->
     taken = 0;
     before = head;
#ifdef NO_PRIVATE_HEAD
     head = sq_head;
#endif
     assert(head == before);  // no command is done twice or left out because of what the member wrote
     distance = (sq_tail + INDICES - head) % INDICES;
#ifndef NO_CAPACITY_CHECK
     if
     :: distance > CAPACITY ->
        broken = true;
        distance = 0
     :: else
     fi;
#endif
#ifdef NO_ONE_LOAD
     do
     :: sq_tail != head ->
#else
     do
     :: distance != 0 ->
        distance--;
#endif
        taken++;
        assert(taken <= CAPACITY);
        head = (head + 1) % INDICES;
        sq_head = head
     :: else -> break
     od;
     passes++
  :: else -> break
  od;
  stop = true
}
