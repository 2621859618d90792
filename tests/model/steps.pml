// SPDX-License-Identifier: Apache-2.0
//
// A reader's step against moves, shadows, limbo and reuse; with -DEVICTION also against eviction and reuse of the page's
// index; with -DWORKER a process of its own copies, and the page may be evicted or demoted meanwhile.
// Rules: A4, A5, A6 (the worker's fence), A8, B1, B3.
// Twins, besides those of rows.pml: Arena::start_copy, Arena::commit, copy_page.
#ifndef CLIENTS
#define CLIENTS 2
#endif
#ifndef PAGES
#define PAGES 2
#endif
#ifndef FRAMES
#define FRAMES 3
#endif
#ifndef OPS
#define OPS 3
#endif
#define FULL PAGES
#include "words.pml"
#include "rows.pml"

#ifdef WORKER
#define JOB_NONE 0
#define JOB_OUT 1
#define JOB_DONE 2
byte job;
byte job_page, job_generation, job_source, job_target;

active proctype worker() {
  byte value;
end:
  do
  :: job == JOB_OUT ->
     value = data[job_source];
     d_step { copy_frame = job_target; copy_value = value; value = 0 }
#ifndef NO_WORKER_FENCE
     copy_frame == NONE;  // sfence, dmb (A6)
#endif
     job = JOB_DONE
  od
}

// Steps 3 to 5 of a move. Source and target cannot become free until the completion has been taken (A4).
inline start_copy() {
  take_frame(target);
  d_step {
    job_page = page;
    job_generation = GENERATION(placement[page].own);
    job_source = FRAME(placement[page].own);
    job_target = target;
#ifndef NO_PIN
    pins[job_source]++;
#endif
    pins[job_target]++;
    target = 0;
    page = 0;
    job = JOB_OUT
  }
}
// Steps 6 to 8.
inline commit() {
  d_step {
#ifndef NO_PIN
    pins[job_source]--;
#endif
    pins[job_target]--;
    page = job_page;
    target = job_target
  }
  if
  :: STATE(placement[page].own) == kSealed && GENERATION(placement[page].own) == job_generation ->
     name_frame(target);
     place_at(true, job_source);
     flush_withdrawals()
  :: else -> d_step { frame_state[target] = F_FREE; page = 0; target = 0 }  // never named
  fi;
  d_step { job = JOB_NONE; job_page = 0; job_generation = 0; job_source = 0; job_target = 0 }
}
#endif

active proctype keeper() {
  byte ops;
  KEEPER_LOCALS;
  start();
  do
  :: ops < OPS ->
     atomic {
       ops++;
       ANY_PAGE(page)
     }
     if
#ifdef WORKER
     :: STATE(placement[page].own) == kSealed && job == JOB_NONE && ANY_FRAME(F_FREE) -> start_copy()
#else
     :: STATE(placement[page].own) == kSealed && ANY_FRAME(F_FREE) ->
        take_frame(target);
        d_step {
          data[target] = data[FRAME(placement[page].own)];
          name_frame(target)
        }
        if
        :: place_at(true, FRAME(placement[page].own))
        :: place_at(false, 0)
        fi;
        flush_withdrawals()
     :: shadow[page].own != 0 -> drop_shadow()
#endif
     :: STATE(placement[page].own) == kSealed && shadow[page].own != 0 -> demote_free()
#ifdef EVICTION
     :: STATE(placement[page].own) == kSealed -> free_page()
     :: STATE(placement[page].own) == kFree && ANY_FRAME(F_FREE) -> refill()
#endif
     :: else -> page = 0
     fi
  :: ANY_FRAME(F_LIMBO) -> drain_limbo()
#ifdef WORKER
  :: job == JOB_DONE -> commit()
  :: ops == OPS && job == JOB_NONE -> break
#else
  :: ops == OPS -> break
#endif
  od;
  check_at_end()
}
