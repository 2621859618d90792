// SPDX-License-Identifier: Apache-2.0
//
// Fresh pages: the keeper pushes, two members of a session pop by compare-and-swap, the keeper takes back what an idle
// session leaves and gives it out again. A member may be killed anywhere; what it had is the session's until it ends.
// Rules: B5 (the hold comes before the pop), C3.
// Twins: magazine_pop, MagazineWriter::push, take_back; Arena::refill, trim_magazine, on_free, end_session.
//
// A page is one of 3. `owner` is the keeper's: whose FILLING page it is (0: nobody's). `used` is who works with it.
#include "words.pml"
#define PAGES 3
#define CAPACITY 2
#ifndef POPS
#define POPS 2
#endif
#ifndef OPS
#define OPS 4
#endif
#define NOBODY 9

Word tail;
Word entry[CAPACITY];
byte head;         // changed by compare-and-swap only
byte hold[PAGES];  // one session's counts: changed by read-modify-writes
bool owned[PAGES];
byte used[PAGES];  // 0: by none; 1, 2: by that member
bool killed;       // member 1
byte finished;
bool ended;

active proctype memory() {
end:
  do
  DRAIN(tail)
  DRAIN(entry[0])
  DRAIN(entry[1])
  od
}

proctype member(byte me) {
  byte at, last, page = NOBODY, pops;
  {
    do
    :: pops < POPS ->
       pops++;
    again:
       // Loads of two words: nothing orders a relaxed one before an acquiring one, and nothing orders the keeper's swap
       // behind its store of the tail. So the tail may look older than the head.
       if
       :: at = head;
          last = tail.all
       :: last = tail.all;
          at = head
       fi;
       if
#ifdef NO_DISTANCE
       :: at == last -> skip  // empty
#else
       :: at >= last -> skip  // empty, or older than the head
#endif
       :: else ->
          page = entry[at % CAPACITY].all;
#ifndef NO_HOLD_FIRST
          hold[page]++;
#endif
          if
          :: atomic { head == at -> head = at + 1 }
             // Out of the magazine.
#ifdef NO_HOLD_FIRST
             hold[page]++;
#endif
             d_step {
               assert(owned[page] && used[page] == 0);
               used[page] = me
             }
             // It works with the page, and gives it back to the keeper: a command in the ring.
             assert(owned[page] && used[page] == me);
             d_step {
               used[page] = 0;
               hold[page]--
             }
          :: head != at ->
#ifndef NO_HOLD_FIRST
             hold[page]--;
#endif
             page = NOBODY;
             goto again
          fi
       fi;
       d_step { page = NOBODY; at = 0; last = 0 }
    :: else -> break
    od
  } unless { me == 1 && killed };
  atomic {
    if
    :: page != NOBODY && used[page] == me -> used[page] = 0  // it works no more
    :: else
    fi;
    finished++
  }
}

#ifdef DEATH
active proctype killer() {
  if
  :: killed = true
  :: skip
  fi
}
#endif

// FREE: of a page of this session that nobody of it holds.
inline free_page() {
  d_step {
    assert(used[page] == 0);
    owned[page] = false
  }
}

inline in_magazine() {
  d_step {
    waits = false;
    i = head;
    do
    :: i != tail.own ->
       if
       :: entry[i % CAPACITY].own == page -> waits = true
       :: else
       fi;
       i++
    :: else -> break
    od;
    i = 0
  }
}

active proctype keeper() {
  byte ops, page, i, at;
  bool waits;
  run member(1);
  run member(2);
  do
  :: ops < OPS ->
     ops++;
     if
     // refill: a page that nobody has
     :: tail.own - head < CAPACITY ->
        d_step {
          page = 0;
          do
          :: page < PAGES && owned[page] -> page++
          :: else -> break
          od
        }
        if
        :: page < PAGES ->
           owned[page] = true;
           STORE(entry[tail.own % CAPACITY], page);
#ifndef NO_TAIL_ORDER
           SETTLED(entry[tail.own % CAPACITY]);
#endif
           STORE(tail, tail.own + 1)
        :: else
        fi
#ifndef NO_TAKE_BACK
     // take_back, of the oldest
     :: tail.own != head ->
        at = head;
#ifndef NO_PAGE_BEFORE_SWAP
        page = entry[at % CAPACITY].own;
#endif
        if
        :: atomic { head == at && at != tail.own -> head = at + 1 }
           free_page()
        :: else  // a member was first
        fi
#endif
     // on_free: what a member lets go of and nobody holds
     :: (owned[0] && hold[0] == 0) || (owned[1] && hold[1] == 0) || (owned[2] && hold[2] == 0) ->
        if
        :: page = 0
        :: page = 1
        :: page = 2
        fi;
        in_magazine();  // the command is about a page that has been popped
        if
        :: owned[page] && !waits && hold[page] == 0 -> free_page()
        :: else
        fi
     :: else
     fi;
     d_step { page = 0; at = 0; waits = false }
  :: else -> break
  od;
  // The session ends with its last process: all that was its own is free; nothing has leaked.
  finished == 2;
  d_step {
    for (i : 0 .. PAGES - 1) {
      assert(used[i] == 0);
      if
      :: !killed -> assert(hold[i] == 0)
      :: else
      fi
    }
  }
}
