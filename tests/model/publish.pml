// SPDX-License-Identifier: Apache-2.0
//
// One PUBLISH command that is done again, because the keeper was killed inside it or before the head advanced. The next
// keeper makes the prefix index anew from the rows, and then finds the command in the ring. Rules: B4, C1, A7.
//   default    a key that is in the row without its flag is taken for this command's own when it is the same key
//   NO_UNDO    a row with a key and no flag takes none again
// Twins: Arena::on_publish, Arena::adopt_row.
#include "words.pml"

#define KEY 1
#define R_NONE 0
#define R_OK 1
#define R_STATE 2

Word index;
Word key;
Word keyed;
Word head;
byte result;
bool keeper_killed;
bool done;

active proctype memory() {
end:
  do
  DRAIN(index)
  DRAIN(key)
  DRAIN(keyed)
  DRAIN(head)
  od
}

inline on_publish() {
  if
  :: keyed.own != 0 -> result = (key.own == KEY -> R_OK : R_STATE)
#ifdef NO_UNDO
  :: keyed.own == 0 && key.own != 0 -> result = R_STATE
  :: keyed.own == 0 && key.own == 0 ->
#else
  :: keyed.own == 0 && key.own != 0 && key.own != KEY -> result = R_STATE
  :: keyed.own == 0 && (key.own == 0 || key.own == KEY) ->
#endif
     STORE(index, 1);
     STORE(key, KEY);
#ifndef NO_KEY_ORDER
     SETTLED(key) && SETTLED(index);
#endif
     STORE(keyed, 1);
     result = R_OK
  fi
}

inline serve() {
  if
  :: head.own == 0 ->
     on_publish();
     SETTLED(key) && SETTLED(keyed) && SETTLED(index);
     STORE(head, 1)
  :: else
  fi;
  SETTLED(head);
  done = true
}

active proctype keeper() {
  serve() unless { keeper_killed };
  if
  :: keeper_killed -> run next_keeper()
  :: else
  fi
}

active proctype killer() {
  if
  :: d_step { !done -> keeper_killed = true }
  :: skip
  fi
}

proctype next_keeper() {
  SETTLED(index) && SETTLED(key) && SETTLED(keyed) && SETTLED(head);
  STORE(index, keyed.own);
  serve()
}

// A reader that sees the flag sees the key.
active proctype reader() {
  keyed.all == 1;
  assert(key.all == KEY)
}

active proctype publisher() {
  done;
  assert(result != R_STATE);
  assert(keyed.all == 1 && key.all == KEY && index.all == 1)
}
