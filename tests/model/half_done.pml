// SPDX-License-Identifier: Apache-2.0
//
// Rows that a killed keeper has changed in part: a fresh page that is FILLING and not yet in the magazine, a page that is
// taken back, a publish, a row of two columns. `changing` names it. Meanwhile the session lives and takes the page from one
// place to the next: out of the magazine, into its stock, out again. The keeper is killed anywhere, KILLS times, and so
// while it adopts. What must hold: a page that a member has stays its own, a publish can be done, no page gets lost, and
// the columns agree. Rules: A2.4, B4, C1.
// Twins: Arena::refill, take_back_waiting, free_page, on_publish, on_free; Arena::adopt, adopt_row, adopt_free,
// is_known_to; ArenaWriter::set_adopted; magazine_pop, stock_pop, return_to_stock, kvt_release.
//
// Loads and stores are in order here (magazine, publish and holds have the fences). One page; its generation tells whose
// it is: a page that is free may be anybody's.
#ifndef KILLS
#define KILLS 1
#endif
#ifndef OPS
#define OPS 4
#endif
#ifndef TURNS
#define TURNS 3
#endif
#define kFree 0
#define kFilling 1
#define kSealed 2
#define kKeyed 3
#define ROW(s, g) ((s) * 16 + (g))
#define STATE(w) ((w) / 16)
#define GENERATION(w) ((w) % 16)
#define NONE 15

byte row[2];           // one word a column
bool key;
byte changing = NONE;  // the page's generation
byte entry[2];         // the magazine
byte head, tail;
byte stock = NONE;
byte hold;
bool publishes, frees;  // in the ring, with the generation
byte command_generation;
bool refused;

byte ops, kills;
bool keeper_killed, over, finished;
bool taken_back;  // it is out of the magazine, and the keeper's

active proctype member() {
  byte mine = NONE, at, turns;
  do
  :: mine == NONE && turns < TURNS && head != tail ->
     at = head;
     hold++;
     if
     :: d_step { head == at && at != tail -> mine = entry[at % 2]; head++; turns++ }
     :: head != at || at == tail -> hold--
     fi;
     at = 0
  :: mine == NONE && turns < TURNS && stock != NONE ->
     hold++;
     d_step { mine = stock; stock = NONE; turns++ }
     if
     :: row[0] == ROW(kFilling, mine)
     :: else -> d_step { hold--; mine = NONE }  // it is not this session's any more
     fi
  :: mine != NONE ->
     assert(row[0] == ROW(kFilling, mine));  // it writes into the page's frame
     if
     :: hold--;
        d_step { stock = mine; mine = NONE }
     :: hold--;
        d_step { command_generation = mine; frees = true; mine = NONE }
        !frees
     :: d_step { command_generation = mine; publishes = true }
        !publishes;
        assert(!refused);
        d_step { hold--; mine = NONE }
     fi
  :: mine == NONE -> break
  od;
  finished = true
}

inline free_page(g) {
  row[0] = ROW(kFree, g + 1);
  row[1] = row[0];
  key = false
}

inline work() {
  do
  :: ops < OPS && STATE(row[0]) == kFree && !over ->
     d_step { ops++; changing = GENERATION(row[0]) }
     row[0] = ROW(kFilling, changing);
     row[1] = ROW(kFilling, changing);
     entry[tail % 2] = changing;
     tail++;
     changing = NONE
  :: d_step { ops < OPS && head != tail -> at = head; ops++ }
     if
     :: d_step { head == at -> head++; taken_back = true }
        changing = entry[at % 2];
        free_page(changing)
     :: head != at
     fi;
     d_step { changing = NONE; taken_back = false; at = 0 }
  :: frees ->
     if
     :: row[0] == ROW(kFilling, command_generation) && hold == 0 -> free_page(command_generation)
     :: else
     fi;
     frees = false
  :: publishes ->
     if
     :: GENERATION(row[0]) != command_generation || STATE(row[0]) == kKeyed  // it has been done
     :: GENERATION(row[0]) == command_generation && STATE(row[0]) != kKeyed && key -> refused = true
     :: else ->
        row[0] = ROW(kSealed, command_generation);
        row[1] = ROW(kSealed, command_generation);
        changing = command_generation;
        key = true;
        row[0] = ROW(kKeyed, command_generation);
        row[1] = ROW(kKeyed, command_generation);
        changing = NONE
     fi;
     publishes = false
  :: ops < OPS && STATE(row[0]) >= kSealed && hold == 0 && !publishes ->
     ops++;
     free_page(GENERATION(row[0]))
  :: finished && !frees && !publishes -> break
  od
}

// Whether a member may know of the page. It is never only where it has been looked for already, but for the moment
// between a release and the stock.
// A hold may be of a member that has lost the race for another page: then the page stays the session's until that ends.
inline look_at_hold() {
  d_step {
    lost = lost || (!known && hold != 0);
    known = known || hold != 0
  }
}
inline look_for_it() {
#ifndef NO_NEWEST
  known = (tail != 0 && entry[(tail + 1) % 2] == named);  // the last that was pushed: wherever they have it by now
#endif
  known = known || (head != tail && entry[head % 2] == named);
  look_at_hold();
  known = known || stock == named;
  look_at_hold()
}

inline adopt() {
  d_step { named = changing; half_done = (named == GENERATION(row[0])) }
#ifdef NO_CHANGING_LAST
  changing = NONE;
#endif
  if
  :: STATE(row[0]) == kFree ->
     row[1] = row[0];
     key = false
  :: STATE(row[0]) == kFilling && STATE(row[1]) == kFree -> free_page(GENERATION(row[0]))
  :: STATE(row[0]) == kFilling && STATE(row[1]) != kFree ->
     if
     :: half_done ->
        look_for_it();
        if
        :: !known -> free_page(GENERATION(row[0]))
        :: else
        fi;
        known = false
     :: else
     fi
  :: else ->
#ifndef NO_KEY_UNDONE
     if
     :: half_done && STATE(row[0]) == kSealed -> key = false
     :: else
     fi;
#endif
#ifndef NO_COLUMNS_REPAIRED
     row[1] = row[0]
#endif
  fi;
  changing = NONE;
  d_step { half_done = false; named = 0 }
}

active proctype keeper() {
  byte at, named;
  bool known, half_done, lost;
  do
  :: {
       if
       :: kills != 0 -> adopt()
       :: else
       fi;
       work();
       over = true;
       break
     } unless { keeper_killed };
     d_step {
       lost = lost || taken_back;  // one that was on its way back may stay the session's until that ends
       taken_back = false;
       at = 0;
       named = 0;
       known = false;
       half_done = false;
       keeper_killed = false
     }
  od;
  assert(row[0] == row[1]);
  assert(key == (STATE(row[0]) == kKeyed));
  assert(STATE(row[0]) != kFilling || lost || stock == GENERATION(row[0]) ||
         (head != tail && entry[head % 2] == GENERATION(row[0])))
}

active proctype keeper_killer() {
  do
  :: d_step { kills < KILLS && !over && !keeper_killed -> keeper_killed = true; kills++ }
  :: break
  od
}
