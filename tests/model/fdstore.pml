// SPDX-License-Identifier: Apache-2.0
//
// Attach, when the service manager keeps the descriptors: the session's record in the restart state (fields, then a
// commit word), its region and pidfd as FDSTORE datagrams, a barrier, the scan list, the grant. The daemon is killed
// anywhere. Datagrams of a dead process that have not been looked at yet may be lost. What must hold: who has its
// descriptors is known to whoever frees a frame, in this daemon or in the next. Rule: A2.
// Twins: Server::on_attach, store_and_grant, on_stored, grant; RestartState::commit; FdStore::put, barrier.
#include "words.pml"

#define FDSTORE 1
#define BARRIER 2

chan notify = [2] of { byte };
Word record;  // 1: the session's fields are there
Word commit;  // 1: the record counts
bool stored;  // the manager has region and pidfd
bool answered;  // it has closed the barrier's descriptor
bool listed;    // on the scan list of the daemon that runs
bool granted;   // the client has its descriptors, and reads
bool keeper_killed;
bool next_runs;
bool served;

active proctype memory() {
end:
  do
  DRAIN(record)
  DRAIN(commit)
  od
}

active proctype manager() {
  byte what;
end:
  do
  :: notify ? what ->
     if
     :: what == FDSTORE -> stored = true
     :: else -> answered = true
     fi;
     what = 0
  // The daemon's death is seen first, and what it had sent is thrown away; or it is looked at in time.
  :: keeper_killed && !next_runs ->
     do
     :: nempty(notify) -> notify ? _
     :: next_runs = true; break
     :: nempty(notify) ->
        notify ? what;
        if
        :: what == FDSTORE -> stored = true
        :: else
        fi
     od
  od
}

// The client that reads from when it has its descriptors; so a frame that nobody protects must not become free.
inline frees_a_frame(knows) {
  assert(knows || !granted)
}

inline grant() {
  granted = true
}

active proctype keeper() {
  {
#ifdef NO_GRANT_LAST
    grant();
#endif
#ifdef NO_COMMIT_LAST
    STORE(commit, 1);
#endif
    STORE(record, 1);
    SETTLED(record);
#if !defined(NO_RECORD_FIRST) && !defined(NO_COMMIT_LAST)
    STORE(commit, 1);
#endif
    SETTLED(commit);
    notify ! FDSTORE;
#ifndef NO_BARRIER
    notify ! BARRIER;
    answered;
#endif
#ifndef NO_LIST_FIRST
    listed = true;
#endif
#ifndef NO_GRANT_LAST
    grant();
#endif
#ifdef NO_LIST_FIRST
    listed = true;
#endif
#ifdef NO_RECORD_FIRST
    STORE(commit, 1);
#endif
    served = true
  } unless { keeper_killed };
}

// The keeper loop, if attach is served beside it.
active proctype loop() {
  do
  :: frees_a_frame(listed)
  :: served -> break
  :: keeper_killed -> break
  od
}

active proctype killer() {
  if
  :: d_step { keeper_killed = true; listed = true }  // it frees nothing any more
  :: skip
  fi
}

active proctype next_keeper() {
end:
  next_runs;
  SETTLED(commit) && SETTLED(record);
  assert(commit.own == 0 || record.own != 0);
  // A record without descriptors, or descriptors without a record: nobody has been granted anything.
  frees_a_frame(stored && commit.own != 0)
}
