// SPDX-License-Identifier: Apache-2.0
//
// A session, its owner and a member that joins by token. Sockets close, processes are killed anywhere and their GPU's
// work goes on, the owner dies while the member joins, an operator evicts the session, and the keeper is killed between
// any two stores, KILLS times. What a process that lives has claimed counts until its pidfd says that it is dead, it has
// detached, or it has been told; what nobody has any more is freed. Rules: A1, A2, B6.
//   DEATHS   processes may be killed; with OWNER_DIES the owner alone
//   GPU      their kernels go on when they are dead
//   HANGUP   a living process closes its socket
//   HOLDS    pages are held, too; with OWNER_READS the member uses none
//   JOIN     the member joins; else it is there from the beginning
//   EVICT    an operator ends the session
//   COMMAND  each member posts a command
//   STRANGER another process has the token, and perhaps the number of a dead member
// Twins: Server::on_join, store_and_grant, on_stored, grant, on_resume, on_detach, on_death, end_quarantines,
// end_process, forget_process, begin_end, end_session, evict_session, close, adopt_sessions, adopt_processes, end_gone;
// Arena::add_member, end_member, end_session, take_back_grant; session_records; kvt_join, resume, kvt_detach.
//
// Loads and stores come in the order of the text here: steps, holds and ended have the fences. One page: any session
// may make the keeper evict it, and use its frame for another.
#ifndef KILLS
#define KILLS 1
#endif
#ifndef STEPS
#define STEPS 1
#endif

#define OWNER 0
#define MEMBER 1
#define NONE 2

// What one side asks the other, over a connection.
#define NOTHING 0
#define ASKS_JOIN 1
#define ASKS_RESUME 2
#define ASKS_DETACH 3
#define GRANT 1
#define RESUMED 2
#define ENDED 3
#define DETACHED 4

// The member's word in its region.
#define CLAIM_GRANTED 0
#define CLAIM_TAKEN 1
#define CLAIM_WITHDRAWN 2
#define CLAIM_LEFT 3

// The restart state.
bool slot_valid = true, slot_ending;
bool member_valid[2], member_granted[2];
// The session's region.
byte claim[2];
bool step[2], hold[2];
bool posted[2];  // a command in the ring
bool ended;
// The page, its frame, and what is on its way there.
bool present = true;
bool used_again;
bool writing[2];

// Processes and sockets.
bool dead[2];
bool up;          // the keeper listens
bool open[2];     // the client's connection, as both ends see it
bool closing[2];  // the client has closed one that the keeper has not looked at since
byte asks[2], answer[2];
byte gone;        // processes that do nothing any more
bool stranger_asks, stranger_has_number;

// The keeper's own.
bool exists, ending;
bool joined[2], orphan[2], linked[2], quarantined[2];
bool storing;  // the member's grant waits for the store
bool left[2];  // adopted, and nobody has it

byte kills;
bool keeper_killed, all_over;
#ifdef EVICT
bool evicted;
#endif
// Of what has happened, for the assertions.
bool owner_forgotten;
byte served[2];

// ---- a process ----

inline die(m) {
  if
  :: open[m] -> open[m] = false; closing[m] = true
  :: else
  fi;
  asks[m] = NOTHING;
  answer[m] = NOTHING
}

#ifdef OWNER_READS
#define MEMBER_READS false
#else
#define MEMBER_READS true
#endif
// Only an operator may take from the living what they have claimed, and they are told.
#ifdef EVICT
#define MAY_BE_WRONG ended
#else
#define MAY_BE_WRONG false
#endif
#ifdef COMMAND
#define HAS_DONE_ALL (has_posted && !posted[me])
#else
#define HAS_DONE_ALL (steps == STEPS || (me == MEMBER && !MEMBER_READS))
#endif
#define CLOSE_OWN      \
  if                   \
  :: open[me] ->       \
     open[me] = false; \
     closing[me] = true \
  :: else              \
  fi

inline use_page() {
  if
  :: d_step { steps < STEPS && (me == OWNER || MEMBER_READS) -> steps++; step[me] = true }
     if
     :: d_step { ended -> step[me] = false; told = true }
     :: !ended && !present -> step[me] = false
     :: !ended && present ->
#ifdef GPU
        writing[me] = true;       // it writes through, until it arrives
        !writing[me] && !step[me]
#else
        d_step {
          assert(!used_again || MAY_BE_WRONG);  // what it has read was right, or it says that it may not be
          told = ended;
          step[me] = false
        }
#endif
     fi
#ifdef HOLDS
  :: d_step { steps < STEPS && (me == OWNER || MEMBER_READS) -> steps++; hold[me] = true }
     if
     :: present && !ended ->
        d_step {
          assert(present || MAY_BE_WRONG);
          told = ended;
          hold[me] = false
        }
     :: else -> d_step { told = ended; hold[me] = false }
     fi
#endif
  fi
}

// Over a new connection, if there is a daemon; else later.
inline come_back() {
  if
  :: atomic { up -> open[me] = true; answer[me] = NOTHING; asks[me] = ASKS_RESUME }
     atomic {
       answer[me] != NOTHING || !open[me] ->
       told = told || answer[me] == ENDED;
       answer[me] = NOTHING
     }
  :: !up
  fi
}

inline detach() {
  atomic { step[me] = false; claim[me] = CLAIM_LEFT }
  if
  :: !open[me] -> come_back()
  :: else
  fi;
  if
  :: atomic { open[me] -> asks[me] = ASKS_DETACH }
     answer[me] == DETACHED || !open[me]
  :: !open[me]
  fi
}

proctype process(byte me) {
  byte steps;
  bool is_in = true, told;
#ifdef COMMAND
  bool has_posted;
#endif
#ifdef HANGUP
  bool has_hung_up;
#endif
  {
#ifdef JOIN
    if
    :: me == MEMBER ->
       if
       :: d_step { up -> is_in = false; open[me] = true; asks[me] = ASKS_JOIN }
          answer[me] != NOTHING || !open[me];
          d_step {
            if
            :: answer[me] == GRANT && claim[me] == CLAIM_GRANTED -> claim[me] = CLAIM_TAKEN; is_in = true
            :: else -> CLOSE_OWN
            fi;
            answer[me] = NOTHING
          }
       :: is_in = false
       fi
    :: else
    fi;
#endif
    do
    :: is_in && !told && steps < STEPS && (me == OWNER || MEMBER_READS) -> use_page()
#ifdef COMMAND
    :: d_step { is_in && !told && !has_posted -> posted[me] = true; has_posted = true }
    // It waits for the answer, and looks whether its connection is there.
    :: has_posted && posted[me] && !told && !open[me] -> come_back()
    :: d_step { has_posted && posted[me] && !told && ended -> told = true }
#else
    :: is_in && !told && !open[me] && up -> come_back()
#endif
#ifdef HANGUP
    :: d_step {
         is_in && !has_hung_up && open[me] && asks[me] == NOTHING ->
         has_hung_up = true;
         open[me] = false;
         closing[me] = true
       }
#endif
    :: is_in && (told || HAS_DONE_ALL) -> detach(); break
    :: !is_in -> break
    od
  }
#ifdef DEATHS
  unless { dead[me] }
#endif
  ;
  // It exits some time; but one that got nothing lives, and must not be waited for.
  atomic {
    if
    :: claim[me] != CLAIM_TAKEN && claim[me] != CLAIM_LEFT
    :: else ->
       dead[me] = true;
       die(me)
    fi;
    steps = 0;
    is_in = false;
    told = false;
#ifdef COMMAND
    has_posted = false;
#endif
#ifdef HANGUP
    has_hung_up = false;
#endif
    gone++
  }
}

#ifdef DEATHS
#ifdef OWNER_DIES
#define MAY_DIE(c) (c == OWNER)
#else
#define MAY_DIE(c) true
#endif
active proctype killer() {
  do
  :: d_step { !dead[OWNER] && MAY_DIE(OWNER) -> dead[OWNER] = true; die(OWNER) }
  :: d_step { !dead[MEMBER] && MAY_DIE(MEMBER) -> dead[MEMBER] = true; die(MEMBER) }
  :: break
  od
}
#endif

#ifdef GPU
inline arrive(m) {
#ifdef EVICT
  assert(!used_again || evicted);  // the operator's word
#else
  assert(!used_again);
#endif
  writing[m] = false;
  step[m] = false  // the stream's own store, behind the kernel
}

active proctype kernels() {
end:
  do
  :: d_step { writing[OWNER] -> arrive(OWNER) }
  :: d_step { writing[MEMBER] -> arrive(MEMBER) }
  od
}
#endif

#ifdef STRANGER
// A process that was given the token; its number may be one that was a member's.
active proctype stranger() {
  if
  :: d_step { dead[OWNER] -> stranger_has_number = true; stranger_asks = true }
  :: stranger_asks = true
  :: skip
  fi
}
#endif

// ---- the keeper ----

inline forget_all() {
  d_step {
    exists = false;
    ending = false;
    storing = false;
    for (k : 0 .. 1) {
      joined[k] = false;
      orphan[k] = false;
      linked[k] = false;
      quarantined[k] = false;
      left[k] = false;
      open[k] = false;  // what has been answered can still be read
      closing[k] = false;
      asks[k] = NOTHING
    }
    k = 0;
    asking = 0;
    m = NONE;
    up = false;
    keeper_killed = false
  }
}

// The connection's end becomes known to its client. What has been sent comes before it.
#define CLOSE(c) linked[c] = false; open[c] = false; closing[c] = false; asks[c] = NOTHING

inline close_connections() {
  for (k : 0 .. 1) {
    if
    :: linked[k] -> CLOSE(k)
    :: else
    fi
  }
  k = 0
}

// One step of the keeper stores one word that outlives it; what is its own changes with it.
inline begin_end() {
  d_step {
    assert(!ending);
    ending = true;
    slot_ending = true;
    orphan[OWNER] = true;
    orphan[MEMBER] = true;
#ifndef NO_CLOSED_AT_ENDING
    close_connections()
#endif
  }
}

inline end_session() {
#ifndef NO_ENDED_FIRST
  ended = true;
#endif
  d_step {
    slot_valid = false;
    m = NONE
  }
  d_step {
    ended = true;
    exists = false;
    ending = false;
    storing = false;
    for (k : 0 .. 1) {
      joined[k] = false;
      orphan[k] = false;
      linked[k] = false;
      quarantined[k] = false;
      left[k] = false
    }
    k = 0
  }
}

// Of process m: its own claims are over, and the session's with the last one's.
inline end_process() {
  if
  :: !joined[1 - m] -> end_session()
  :: else ->
#ifndef NO_ENDING_FIRST
     if
     :: m == OWNER && !ending -> slot_ending = true
     :: else
     fi;
#endif
     d_step {
       assert(joined[m]);
       member_valid[m] = false;
       joined[m] = false;
       linked[m] = false;
       quarantined[m] = false;
       left[m] = false;
       if
       :: m == OWNER -> owner_forgotten = true
       :: else -> storing = false
       fi
     }
     if
#ifdef NO_MEMBERS_KEPT
     :: m == OWNER -> end_session()
#else
     :: m == OWNER && !ending -> begin_end()
#endif
     :: else
     fi
  fi
}

inline on_death() {
#if defined(GPU) && !defined(NO_QUARANTINE)
  d_step {
    quarantined[m] = true;
    orphan[m] = true;
    if
    :: linked[m] -> CLOSE(m)
    :: else
    fi
  }
  if
  :: m == OWNER && !ending -> begin_end()
  :: else
  fi
#else
  end_process()
#endif
}

inline on_request() {
  if
  :: asks[m] == ASKS_DETACH && linked[m] ->
     asking = m;
     end_process();
     d_step {
       if
       :: open[asking] && asks[asking] == ASKS_DETACH -> answer[asking] = DETACHED; asks[asking] = NOTHING
       :: else
       fi;
       asking = 0
     }
  :: d_step { asks[m] == ASKS_DETACH && !linked[m] -> CLOSE(m) }  // without a session: dropped
  :: d_step {
       asks[m] == ASKS_RESUME ->
       asks[m] = NOTHING;
       if
       :: !exists || !joined[m] || quarantined[m] -> answer[m] = ENDED
       :: else ->
          linked[m] = true;
#ifndef NO_OLD_UNLINKED
          closing[m] = false;  // the connection of before has no member any more
#endif
          if
          :: ending -> answer[m] = ENDED
          :: else ->
             assert(!owner_forgotten);  // nothing goes on in a session whose owner has gone
             orphan[m] = false;
             answer[m] = RESUMED
          fi
       fi
     }
#ifdef JOIN
  :: d_step {
       asks[m] == ASKS_JOIN ->
       asks[m] = NOTHING;
       if
       :: !exists || ending || joined[m] -> answer[m] = ENDED
       :: else ->
          claim[m] = CLAIM_GRANTED;
          step[m] = false;
          joined[m] = true;
          orphan[m] = false;
          linked[m] = true;
          member_granted[m] = false;
          member_valid[m] = true;
          storing = true
       fi
     }
#endif
  :: asks[m] == NOTHING  // it has died meanwhile
  fi
}

#ifdef JOIN
inline on_stored() {
  if
  :: d_step { !linked[MEMBER] || !open[MEMBER] -> storing = false; m = MEMBER }
     end_process()  // it did not wait, and got nothing
  :: d_step {
       linked[MEMBER] && open[MEMBER] ->
       storing = false;
       assert(!owner_forgotten && !ending);  // nothing begins in a session whose owner has gone
#ifndef NO_GRANTED_FIRST
       member_granted[MEMBER] = true
#endif
     }
     if
     :: d_step { open[MEMBER] -> answer[MEMBER] = GRANT }
#ifdef NO_GRANTED_FIRST
        member_granted[MEMBER] = true
#endif
     :: !open[MEMBER]
     fi
  fi
}
#endif

inline look_at_claim() {
#ifdef NO_CLAIM
  skip
#else
#ifdef NO_CLAIM_SWAP
  taken = (claim[m] == CLAIM_TAKEN);
  if
  :: !taken -> claim[m] = CLAIM_WITHDRAWN
  :: else
  fi;
  left[m] = !taken;
  taken = false;
#else
  d_step {
    if
    :: claim[m] == CLAIM_GRANTED -> claim[m] = CLAIM_WITHDRAWN; left[m] = true
    :: claim[m] == CLAIM_WITHDRAWN || claim[m] == CLAIM_LEFT -> left[m] = true
    :: else
    fi
  }
#endif
#endif
}

// The sessions that may have been granted; then who of them has gone meanwhile. The rest are orphans until they resume.
inline adopt() {
  if
  :: slot_valid ->
     d_step {
       for (k : 0 .. 1) {
         member_valid[k] = member_valid[k] && member_granted[k];
         joined[k] = member_valid[k];
         orphan[k] = member_valid[k]
       }
       k = 0;
       slot_valid = joined[OWNER] || joined[MEMBER];
       exists = slot_valid;
       ending = slot_valid && slot_ending
     }
     m = OWNER;
     if
     :: joined[m] -> look_at_claim()
     :: else
     fi;
     m = MEMBER;
     if
     :: joined[m] -> look_at_claim()
     :: else
     fi;
     m = OWNER;
     if
     :: joined[m] && left[m] -> end_process()
     :: else
     fi;
     m = MEMBER;
     if
     :: joined[m] && left[m] -> end_process()
     :: else
     fi;
     m = NONE;
     if
     :: exists && ending && ended -> end_session()  // its members have been told
     :: else
     fi
  :: else
  fi
}

#ifdef NO_ORPHANS_COUNT
#define COUNTS(c) (exists && joined[c] && !orphan[c])
#define HELD ((hold[0] && COUNTS(0)) || (hold[1] && COUNTS(1)))
#else
#define COUNTS(c) (exists && joined[c])
#define HELD (exists && (hold[0] || hold[1]))
#endif
#define READ ((step[0] && COUNTS(0)) || (step[1] && COUNTS(1)))
#define NOBODY_LEFT (gone == 2 && !exists && !slot_valid)

inline loop() {
  up = true;
  do
  // The pidfd of a member. A process that has done all that it does here is not dead for that.
  :: d_step { dead[OWNER] && joined[OWNER] && !quarantined[OWNER] -> m = OWNER } on_death(); m = NONE
  :: d_step { dead[MEMBER] && joined[MEMBER] && !quarantined[MEMBER] -> m = MEMBER } on_death(); m = NONE
#ifdef GPU
  :: d_step { quarantined[OWNER] && !writing[OWNER] -> m = OWNER } end_process(); m = NONE
  :: d_step { quarantined[MEMBER] && !writing[MEMBER] -> m = MEMBER } end_process(); m = NONE
#endif
  :: d_step { closing[OWNER] -> m = OWNER } on_close(); m = NONE
  :: d_step { closing[MEMBER] -> m = MEMBER } on_close(); m = NONE
  :: d_step { asks[OWNER] != NOTHING -> m = OWNER } on_request(); m = NONE
  :: d_step { asks[MEMBER] != NOTHING -> m = MEMBER } on_request(); m = NONE
#ifdef JOIN
  :: storing -> on_stored(); m = NONE
#endif
#ifdef COMMAND
  :: d_step { exists && joined[OWNER] && !orphan[OWNER] && posted[OWNER] -> serve(OWNER) }
  :: d_step { exists && joined[MEMBER] && !orphan[MEMBER] && posted[MEMBER] -> serve(MEMBER) }
#endif
#ifdef EVICT
  :: d_step {
       exists && !evicted ->
       evicted = true;
#ifndef NO_ENDED_FIRST
       slot_ending = true;
#endif
       close_connections()
     }
     end_session(); m = NONE
#endif
#ifdef STRANGER
  :: stranger_asks ->
     if
     :: exists && joined[OWNER] && !quarantined[OWNER] && !ending && stranger_has_number &&
#ifdef NO_PIDFD_LOOK
        true ->
#else
        !dead[OWNER] ->
#endif
        assert(false)  // resumed, by another process
#ifdef NO_SAME_PROCESS
     :: exists && joined[OWNER] && !quarantined[OWNER] && !ending -> assert(false)
#endif
     :: else
     fi;
     stranger_asks = false
#endif
  :: d_step { present && !HELD -> present = false }
  :: d_step { !present && !used_again && !READ -> used_again = true }
  :: NOBODY_LEFT -> break
  od
}

// The socket is gone. Its process may live.
inline on_close() {
#ifdef NO_ORPHANS
  closing[m] = false;
  if
  :: linked[m] -> end_process()
  :: else
  fi
#else
  d_step {
    closing[m] = false;
    orphan[m] = orphan[m] || linked[m];
    linked[m] = false
  }
#endif
}

#ifdef COMMAND
inline serve(c) {
  posted[c] = false;
  served[c]++;
  assert(served[c] == 1)
}
#endif

active proctype keeper() {
  byte m = NONE, k, asking;
#ifdef NO_CLAIM_SWAP
  bool taken;
#endif
  d_step {
    exists = true;
    member_valid[OWNER] = true;
    member_granted[OWNER] = true;
    claim[OWNER] = CLAIM_TAKEN;
    joined[OWNER] = true;
    linked[OWNER] = true;
    open[OWNER] = true;
#ifndef JOIN
    member_valid[MEMBER] = true;
    member_granted[MEMBER] = true;
    claim[MEMBER] = CLAIM_TAKEN;
    joined[MEMBER] = true;
    linked[MEMBER] = true;
    open[MEMBER] = true;
#endif
    up = true
  }
  run process(OWNER);
  run process(MEMBER);
  do
  :: {
       if
       :: kills != 0 -> adopt()
       :: else
       fi;
       loop();
       all_over = true;
       break
     } unless { keeper_killed };
     forget_all()
  od;
  assert(!slot_valid)
}

active proctype keeper_killer() {
  up;
  do
  :: d_step { kills < KILLS && !all_over && !keeper_killed -> keeper_killed = true; kills++ }
  :: break
  od
}
