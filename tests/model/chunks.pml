// SPDX-License-Identifier: Apache-2.0
//
// Device memory that comes and goes while members have it mapped: the last chunk of a window, one frame in it, and a page
// that moves into the frame and out of it. An operator closes the chunk's frame and opens it, TURNS times. Members read
// in steps whatever the row names; another thread of theirs comes by at any time, also inside a step, and unmaps or maps
// the chunk. What a chunk holds is one value, and memory that is taken anew holds 0. Rules: A9, A5, A2.
//   CLOSED   the chunk is given up at first; else it is there
//   ATTACH   the last member attaches at any time
//   DEATH    the first member is killed anywhere
//   EVICT    an operator ends the first member's session
//   REFUSED  the service manager may refuse to keep a descriptor, or not answer
//   KILLS    times that the keeper is killed
//   IDLE     members never come by, and the keeper need not wait for them at its end
// Twins: Arena::resize, resize_some, clear_out, open_some, give_up_chunks, take_chunks, members_behind, on_chunks,
// adopt_limits; Keeper::unmap_chunks, make_chunks, store_chunks; import_window, drop_unnamed; Server::grant, add_chunks,
// on_chunks; follow_chunks, fetch_chunks, take_grant; resolve_in_step.
//
// A process that dies takes its mappings with it: kernels that outlive it are waited for by A1 (`orphans`).
#ifndef MEMBERS
#define MEMBERS 1
#endif
#ifndef TURNS
#define TURNS 2
#endif
#ifndef MOVES
#define MOVES 2
#endif
#ifndef STEPS
#define STEPS 2
#endif
#ifndef KILLS
#define KILLS 0
#endif
#define MEMORIES 4
#include "words.pml"

#define NOTHING 0

// The table.
Word given_up;  // 1: the chunk
Word row;       // the value that the page has in the chunk's frame; 0: the page is elsewhere
Word epoch;
bool set_aside; // the frame is closed: for the next keeper alone
// The sessions' regions.
Word slot[MEMBERS];
Word unmapped[MEMBERS];  // chunks_unmapped: 1 without the chunk
Word ended[MEMBERS];
// The restart state.
bool joined[MEMBERS], granted[MEMBERS];
// The service manager: bit i, memory i under the chunk's name. Messages are looked at in their order.
byte stored;
bool removing;
byte putting;

// Memory behind the chunk: 0 is none.
byte content[MEMORIES + 1];
byte memories;         // that have been made
byte mapped[MEMBERS];  // which of them a member has there

// The keeper's own.
byte has;        // its device has mapped this one
bool has_fd;     // and members are given its descriptor
bool up;         // it answers
bool wants, usable;
bool told;       // what is closed has been given back
bool in_limbo;
byte limbo_r;
byte work;
#define NO_WORK 0
#define UNMAPS 1
#define MAKES 2
#define STORES 3

bool asks[MEMBERS], grant_sent[MEMBERS];
byte grant_has[MEMBERS];
bool attached[MEMBERS];
bool gone[MEMBERS];  // not counted any more
bool killed[MEMBERS];
byte turns, moves, kills;
bool keeper_killed, started, stop;

#define COUNTS(m) (joined[m] && !gone[m])
#define BEHIND_ONE(m) (COUNTS(m) && unmapped[m].all != given_up.own)
#define READS_ONE(m) (COUNTS(m) && slot[m].all != 0 && slot[m].all <= limbo_r)
#if MEMBERS > 1
#define BEHIND (BEHIND_ONE(0) || BEHIND_ONE(1))
#define READS (READS_ONE(0) || READS_ONE(1))
#define ASKING (asks[0] || asks[1])
#else
#define BEHIND BEHIND_ONE(0)
#define READS READS_ONE(0)
#define ASKING asks[0]
#endif

// ---- a member ----

// A kernel of its meets no address behind which nothing is, also when its session has ended: that is the end of its
// process's context. What it reads is right, or its step says that it may not be.
active [MEMBERS] proctype reader() {
  byte steps, value, bytes;
  {
    if
    :: grant_sent[_pid] -> mapped[_pid] = grant_has[_pid]; attached[_pid] = true
    :: attached[_pid]
    fi;
    do
    :: steps < STEPS ->
       steps++;
       STORE(slot[_pid], epoch.all);
       SETTLED(slot[_pid]);
       if
       :: ended[_pid].all != 0 -> STORE(slot[_pid], 0); break
       :: else
       fi;
       value = row.all;
#ifndef NO_LOOK_BEHIND_ROWS
       // A row that was stored behind the session's end may name what this process has not mapped.
       if
       :: value != 0 && ended[_pid].all != 0 -> value = 0
       :: else
       fi;
#endif
       if
       :: value != 0 ->
          assert(mapped[_pid] != NOTHING);
          bytes = content[mapped[_pid]];
          assert(bytes == value || ended[_pid].all != 0)
       :: else
       fi;
       STORE(slot[_pid], 0);
       d_step { value = 0; bytes = 0 }
    :: stop || steps == STEPS -> break
    od
  } unless { killed[_pid] };
  atomic { steps = 0; value = 0; bytes = 0 }
}

#define m (_pid - MEMBERS)
// Comes by.
active [MEMBERS] proctype poller() {
  byte wanted, fetched;
  {
    attached[m];
    do
#ifdef IDLE
    :: false ->
#elif defined(NO_LOOK_BEHIND_TABLE)
    :: true ->
       if
       :: ended[m].all != 0 -> break
       :: else
       fi;
#else
    :: given_up.all != (mapped[m] == NOTHING) ->
#endif
       wanted = given_up.all;
       // Behind the table's word: what was given up because its session's steps do not count any more, it keeps.
#if !defined(NO_LOOK_BEHIND_TABLE) && !defined(NO_LOOK)
       if
       :: ended[m].all != 0 -> break
       :: else
       fi;
#endif
       if
       :: wanted == 1 && mapped[m] != NOTHING ->
          mapped[m] = NOTHING;
          STORE(unmapped[m], 1)
       :: wanted == 0 && mapped[m] == NOTHING ->
#ifdef NO_MAPPED_FIRST
          STORE(unmapped[m], 0);
#endif
          // Over its socket. What a message brings was stored before it.
          d_step {
            up && SETTLED(given_up) ->
            if
            :: given_up.own == 0 -> assert(has_fd); fetched = has
            :: else -> fetched = NOTHING
            fi
          }
          if
          :: fetched != NOTHING ->
             mapped[m] = fetched;
#ifndef NO_MAPPED_FIRST
             STORE(unmapped[m], 0);
#endif
             fetched = NOTHING
          :: else
          fi
       :: else
       fi;
       wanted = 0
    :: stop -> break
    od
  } unless { killed[m] };
  atomic { wanted = 0; fetched = NOTHING }
}
#undef m

// ---- the keeper ----

active proctype memory() {
end:
  do
  DRAIN(given_up)
  DRAIN(row)
  DRAIN(epoch)
  DRAIN(slot[0])
  DRAIN(unmapped[0])
  DRAIN(ended[0])
#if MEMBERS > 1
  DRAIN(slot[1])
  DRAIN(unmapped[1])
  DRAIN(ended[1])
#endif
  od
}
#define KEEPER_SETTLED (SETTLED(given_up) && SETTLED(row) && SETTLED(epoch))

active proctype manager() {
end:
  do
  :: d_step { removing -> stored = 0; removing = false }
  :: d_step { putting != NOTHING && !removing -> stored = stored | (1 << putting); putting = NOTHING }
  :: d_step { keeper_killed && removing -> removing = false }  // or it is lost with its sender
  :: d_step { keeper_killed && putting != NOTHING -> putting = NOTHING }
  od
}

// A5, of one frame.
inline page_leaves() {
  STORE(row, 0);
  KEEPER_SETTLED;
  d_step { limbo_r = epoch.own; in_limbo = true }
  STORE(epoch, limbo_r + 1)
}

inline resize() {
  if
  :: wants -> d_step { wants = false; usable = false; set_aside = true; told = false }
  :: else -> d_step { wants = true; told = false }
  fi
}

#define IS_OPENING (wants && !usable && work == NO_WORK)
#ifdef NO_LIMBO
#define IS_EMPTY (row.own == 0)
#else
#define IS_EMPTY (row.own == 0 && !in_limbo)
#endif
#define IS_CLOSING (!wants && !told && work == NO_WORK && IS_EMPTY)
// The table's word changes when all have done what it said before.
#ifdef NO_AGREED_TAKE
#define AGREED_TAKE true
#else
#define AGREED_TAKE (!BEHIND)
#endif
#ifdef NO_AGREED_GIVE
#define AGREED_GIVE true
#else
#define AGREED_GIVE (!BEHIND)
#endif
#ifdef NO_WAIT
#define MAY_OPEN true
#else
#define MAY_OPEN (!BEHIND)
#endif

inline take_chunks() {
  if
  :: !has_fd && AGREED_TAKE -> work = MAKES
  :: has_fd && given_up.own == 1 && AGREED_TAKE -> STORE(given_up, 0)
  :: has_fd && given_up.own == 0 && MAY_OPEN -> d_step { usable = true; set_aside = false }
  fi
}

inline give_up_chunks() {
  if
  :: given_up.own == 0 && AGREED_GIVE -> STORE(given_up, 1)
  :: given_up.own == 1 && has_fd && !BEHIND ->
     has_fd = false;
#ifndef NO_REMOVAL
     removing = true;
#endif
     work = UNMAPS
  :: given_up.own == 1 && !has_fd -> told = true
  fi
}
#define MAY_TAKE (has_fd && given_up.own == 0 -> MAY_OPEN : AGREED_TAKE)
#define MAY_GIVE (given_up.own == 0 -> AGREED_GIVE : !has_fd || !BEHIND)

// on_chunks() with an error: what was taken goes again.
inline stays_closed() {
#ifndef NO_UNDOING
  d_step { has = NOTHING; removing = true; putting = NOTHING }
#endif
  d_step { has_fd = (has != NOTHING); wants = false; told = true; work = NO_WORK }
}

inline loop() {
  do
  :: turns < TURNS -> turns++; resize()
  // Moves, also of what lies in a frame that is closed.
  :: usable && row.own == 0 && !in_limbo && moves < MOVES ->
     moves++;
     content[has] = moves;
     STORE(row, moves)
  :: row.own != 0 && (!usable || moves < MOVES) -> page_leaves()
  :: in_limbo && !READS -> d_step { in_limbo = false; limbo_r = 0 }
  // resize_some()
  :: IS_OPENING && MAY_TAKE -> take_chunks()
  :: IS_CLOSING && MAY_GIVE -> give_up_chunks()
  // What a thread of its has done.
  :: work == UNMAPS -> d_step { has = NOTHING; work = NO_WORK }
  :: work == MAKES ->
     d_step { memories++; has = memories }
#ifdef NO_BARRIER
     d_step { putting = has; has_fd = true; work = NO_WORK }
#else
     if
     :: !removing ->
        putting = has;
        work = STORES
#ifdef REFUSED
     :: stays_closed()
#endif
     fi
#endif
  :: work == STORES && putting == NOTHING -> d_step { has_fd = true; work = NO_WORK }
#ifdef REFUSED
  :: work == STORES -> stays_closed()  // it has not answered
#endif
#ifdef ATTACH
  :: asks[MEMBERS - 1] ->
     d_step { joined[MEMBERS - 1] = true; SET_BOTH(unmapped[MEMBERS - 1], 0); asks[MEMBERS - 1] = false }
  :: joined[MEMBERS - 1] && !granted[MEMBERS - 1] ->
#ifndef NO_GRANTED_WORD
     STORE(unmapped[MEMBERS - 1], given_up.own);
#endif
     // What is stored before a message is there for whoever has it.
     SETTLED(unmapped[MEMBERS - 1]) && KEEPER_SETTLED;
     d_step {
       granted[MEMBERS - 1] = true;
       if
       :: given_up.own == 0 -> assert(has_fd); grant_has[MEMBERS - 1] = has
       :: else
       fi;
       grant_sent[MEMBERS - 1] = true
     }
#endif
#ifdef EVICT
  :: !gone[0] && joined[0] ->
     STORE(ended[0], 1);
     SETTLED(ended[0]);
     gone[0] = true
#endif
#ifdef DEATH
  :: killed[0] && !gone[0] -> gone[0] = true
#endif
#ifdef IDLE
  :: turns == TURNS -> break  // it would wait for who never comes by
#endif
  :: turns == TURNS && work == NO_WORK && wants == usable && (usable || (told && row.own == 0 && !in_limbo)) && !ASKING &&
     granted[MEMBERS - 1] -> break
  od
}

// What is the dead keeper's own goes with it.
inline forget_all() {
  d_step {
    has = NOTHING;
    has_fd = false;
    wants = false;
    usable = false;
    told = false;
    in_limbo = false;
    limbo_r = 0;
    work = NO_WORK
  }
}

inline adopt() {
  KEEPER_SETTLED && SETTLED(ended[0]);  // what a dead process has stored arrives
  if
  :: given_up.own == 0 ->
     // Its chunk, by its name. Without it the tier is lost, and what lies there.
     if
     :: stored & 2 -> has = 1
     :: stored & 4 -> has = 2
     :: stored & 8 -> has = 3
     :: stored & 16 -> has = 4
     :: else -> assert(false)
     fi;
     has_fd = true
  :: else ->
#ifndef NO_REST_REMOVED
     if
     :: stored != 0 -> removing = true
     :: else
     fi
#endif
  fi;
#ifdef ATTACH
  // A grant that nobody was sent is taken back; who wanted it comes again.
  if
  :: joined[MEMBERS - 1] && !granted[MEMBERS - 1] ->
     d_step { joined[MEMBERS - 1] = false; asks[MEMBERS - 1] = true }
  :: else
  fi;
#endif
#ifdef EVICT
  gone[0] = (ended[0].own != 0);
#endif
#ifdef NO_ASIDE_KEPT
  set_aside = (given_up.own == 1);
#endif
  d_step { usable = !set_aside && given_up.own == 0; wants = usable }
  // What no word names is in limbo.
  d_step { in_limbo = (row.own == 0); limbo_r = epoch.own * in_limbo }
  STORE(epoch, epoch.own + 1);
  up = true
}

active proctype keeper() {
  byte k;
  d_step {
    SET_BOTH(epoch, 1);
    for (k : 0 .. MEMBERS - 1) {
      joined[k] = true;
      granted[k] = true;
      attached[k] = true
    }
#ifdef ATTACH
    joined[MEMBERS - 1] = false;
    granted[MEMBERS - 1] = false;
    attached[MEMBERS - 1] = false;
    asks[MEMBERS - 1] = true;
#endif
#ifdef CLOSED
    SET_BOTH(given_up, 1);
    for (k : 0 .. MEMBERS - 1) {
      SET_BOTH(unmapped[k], 1)
    }
    set_aside = true;
    told = true;
#else
    memories = 1;
    has = 1;
    has_fd = true;
    stored = 2;
    for (k : 0 .. MEMBERS - 1) {
      mapped[k] = (attached[k] -> 1 : NOTHING)
    }
    wants = true;
    usable = true;
#endif
    k = 0;
    up = true;
    started = true
  }
  do
  :: {
       if
       :: !up -> adopt()
       :: else
       fi;
       loop();
       stop = true;
       break
     } unless { keeper_killed };
     forget_all();
     // What it had sent has been looked at, or is lost.
     d_step { !removing && putting == NOTHING -> keeper_killed = false }
  od;
#ifndef IDLE
  !removing && putting == NOTHING;
  assert(stored == (has != NOTHING) << has && has_fd == (has != NOTHING) && has_fd == usable)
#endif
}

#if KILLS > 0
active proctype keeper_killer() {
  started;
  do
  :: d_step { kills < KILLS && !stop && !keeper_killed -> keeper_killed = true; up = false; kills++ }
  :: break
  od
}
#endif
#ifdef DEATH
active proctype killer() {
  started;
  if
  :: d_step { killed[0] = true; mapped[0] = NOTHING }
  :: skip
  fi
}
#endif
