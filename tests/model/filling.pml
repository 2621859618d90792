// SPDX-License-Identifier: Apache-2.0
//
// A page that a GPU fills. The kernel's store arrives when it likes, within its step: the stream ends the step behind
// it. A seal or a release that is given inside the step is kept until the step's work is complete; a page that was
// released goes back to the session's stock and is filled again. The process may be killed anywhere, and the GPU goes on
// (-DDEATH); then the page is freed and the frame used for others. With -DRESTART the keeper may be killed anywhere, too.
// Rules: A1, A2.4, A5, A6.
// Twins: kvt_seal, kvt_release, kvt_step_end, kvt_cuda_step_end, settle_steps, return_to_stock; Arena::on_seal, on_free,
// free_page, end_session; Server::on_death, end_quarantines; copy_page is what looks at the bytes.
#ifndef REFILLS
#define REFILLS 3
#endif
#include "words.pml"

#define kFree 0
#define kFilling 1
#define kSealed 2
#define PLACE(s, g, f) (((s) << 6) | ((g) << 3) | (f))
#define STATE(w) ((w) >> 6)
#define GENERATION(w) (((w) >> 3) & 7)
#define FRAME(w) ((w) & 7)
#define NONE 7
#define FRAMES 2
#define F_FREE 0
#define F_NAMED 2
#define F_LIMBO 3

Word epoch;
Word placement;
Word slot;
byte data[FRAMES];
byte truth;  // what the page must hold once it is sealed

byte gpu_frame = NONE;  // a kernel's store
byte gpu_value;

byte frame_state[FRAMES];
byte limbo_r[FRAMES];
bool own_page;    // the page is the filler's
bool seal_sent;   // in its ring, with the generation
byte seal_generation;
byte seal_value;
bool free_sent;
byte free_generation;
bool stop;
bool killed;
bool forgotten;
bool finished;
bool keeper_killed;

active proctype memory() {
end:
  do
  DRAIN(epoch)
  DRAIN(placement)
  DRAIN(slot)
  :: d_step { gpu_frame != NONE -> data[gpu_frame] = gpu_value; gpu_frame = NONE; gpu_value = 0 }
  od
}

#define SEAL \
  d_step { seal_sent = true; seal_generation = GENERATION(place); seal_value = value; holds = false }

active proctype filler() {
  byte place, fills, value, keep;
  bool holds;  // a page of its own: from the magazine, or from its stock
  {
    do
    :: stop -> break
    :: !holds && !stop && own_page && !seal_sent && !free_sent && STATE(placement.all) == kFilling ->
       atomic {
         place = placement.all;
         holds = true;
         fills = 0
       }
    :: holds ->
       fills++;
       value = 1 + GENERATION(place) * 3 + fills;
       if
       :: // by the GPU, in a step
          STORE(slot, epoch.all);
          SETTLED(slot);
          d_step { gpu_frame == NONE -> gpu_frame = FRAME(place); gpu_value = value }
          if
          :: keep = 1  // seal
          :: fills < 2 -> keep = 2  // back to the stock
          :: keep = 3  // back to the daemon
          fi;
#ifdef NO_SEAL_DEFERRED
          if
          :: keep == 1 -> SEAL
          :: else
          fi;
#endif
#ifndef NO_FREE_DEFERRED
          gpu_frame == NONE;  // the stream's own store, behind the kernel
          d_step { SETTLED(slot) -> slot.own = 0 }
          SETTLED(slot);
#else
          if
          :: keep == 2 -> skip  // filled again while the step is open
          :: else ->
             gpu_frame == NONE;
             d_step { SETTLED(slot) -> slot.own = 0 }
             SETTLED(slot)
          fi;
#endif
          if
          :: keep == 1 && holds -> SEAL
          :: keep == 3 ->
             d_step { free_sent = true; free_generation = GENERATION(place); holds = false }
          :: else
          fi;
          keep = 0
       :: // by the CPU
#ifdef NO_FREE_DEFERRED
          d_step { data[FRAME(place)] = value }
#else
          d_step { gpu_frame == NONE -> data[FRAME(place)] = value }
#endif
          SEAL
       fi;
       value = 0
    od
  }
#ifdef DEATH
  unless { killed }
#endif
  ;
  finished = true
}

#ifdef DEATH
active proctype killer() {
  if
  :: killed = true
  :: skip
  fi
}
#endif

inline free_page() {
  d_step { old = placement.own; own_page = false }
  STORE(placement, PLACE(kFree, GENERATION(old) + 1, 0));
  SETTLED(placement) && SETTLED(epoch);
  r = epoch.own;
  STORE(epoch, r + 1);
  d_step {
    assert(frame_state[FRAME(old)] == F_NAMED);
    frame_state[FRAME(old)] = F_LIMBO;
    limbo_r[FRAME(old)] = r;
    truth = 0;
    old = 0;
    r = 0
  }
}

byte refills;
#define KEEPER_LOCALS byte old, r, k, target

inline work() {
  do
  // The magazine, or another session: its pages are filled at once here.
  :: refills < REFILLS && STATE(placement.own) == kFree && (frame_state[0] == F_FREE || frame_state[1] == F_FREE) ->
     refills++;
     d_step {
       target = (frame_state[0] == F_FREE -> 0 : 1);
       frame_state[target] = F_NAMED;
       old = GENERATION(placement.own)
     }
     if
     :: !killed ->
        own_page = true;
        STORE(placement, PLACE(kFilling, old, target))
     :: d_step { truth = 100 + old; data[target] = truth }
        STORE(placement, PLACE(kSealed, old, target))
     fi;
     old = 0;
     target = 0
  :: seal_sent ->
     if
     :: STATE(placement.own) == kFilling && GENERATION(placement.own) == seal_generation && !forgotten ->
        d_step { truth = seal_value; own_page = false }
        STORE(placement, PLACE(kSealed, GENERATION(placement.own), FRAME(placement.own)))
     :: else
     fi;
     d_step { seal_sent = false; seal_generation = 0; seal_value = 0 }
  :: free_sent ->
     if
     :: STATE(placement.own) == kFilling && GENERATION(placement.own) == free_generation -> free_page()
     :: else
     fi;
     d_step { free_sent = false; free_generation = 0 }
  // A copy, or anybody's read.
  :: STATE(placement.own) == kSealed -> assert(data[FRAME(placement.own)] == truth)
  :: STATE(placement.own) == kSealed && refills < REFILLS -> free_page()
#ifdef DEATH
  :: killed && !forgotten ->
#ifndef NO_QUARANTINE
     gpu_frame == NONE;  // the driver shows no context of it
#endif
     d_step { seal_sent = false; free_sent = false; forgotten = true }
     if
     :: STATE(placement.own) == kFilling -> free_page()
     :: else
     fi
#endif
  :: frame_state[0] == F_LIMBO || frame_state[1] == F_LIMBO ->
     r = (forgotten -> 0 : slot.all);
     d_step {
       for (k : 0 .. FRAMES - 1) {
         if
         :: frame_state[k] == F_LIMBO && (r == 0 || limbo_r[k] < r) ->
            frame_state[k] = F_FREE;
            limbo_r[k] = 0;
            data[k] = 0
         :: else
         fi
       }
       k = 0;
       r = 0
     }
  :: refills == REFILLS && !seal_sent && !free_sent && STATE(placement.own) != kFilling -> break
  od
}

inline finish() {
  stop = true;
  finished && gpu_frame == NONE;
  if
  :: STATE(placement.own) == kSealed -> assert(data[FRAME(placement.own)] == truth)
  :: else
  fi
}

active proctype keeper() {
  KEEPER_LOCALS;
  d_step {
    SET_BOTH(epoch, 1);
    SET_BOTH(placement, PLACE(kFree, 0, 0))
  }
#ifdef RESTART
  {
    work();
    stop = true
  } unless { keeper_killed };
  if
  :: keeper_killed -> run next_keeper()
  :: else -> finish()
  fi
#else
  work();
  finish()
#endif
}

#ifdef RESTART
active proctype keeper_killer() {
  if
  :: d_step { !stop -> keeper_killed = true }
  :: skip
  fi
}

// A FILLING page keeps its frame: its owner may live, and else it is freed when the owner's GPU is done (A2.4, A1).
// Commands that were under way are still in the ring.
proctype next_keeper() {
  KEEPER_LOCALS;
  SETTLED(placement) && SETTLED(epoch);
  forgotten = false;
#ifdef NO_FILLING_KEPT
  if
  :: STATE(placement.own) == kFilling -> STORE(placement, PLACE(kFree, GENERATION(placement.own) + 1, 0))
  :: else
  fi;
#endif
  SETTLED(placement);
  r = epoch.own;
  STORE(epoch, r + 1);
  d_step {
    for (k : 0 .. FRAMES - 1) {
      if
      :: STATE(placement.own) != kFree && FRAME(placement.own) == k -> frame_state[k] = F_NAMED
      :: else ->
         frame_state[k] = F_LIMBO;
         limbo_r[k] = r
      fi
    }
    k = 0;
    r = 0
  }
  work();
  finish()
}
#endif
