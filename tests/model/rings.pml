// SPDX-License-Identifier: Apache-2.0
//
// The rings of one member. Each command frees a page of its own, by generation; the keeper gives the page to another
// session at once. The keeper may be killed between any two stores (-DRESTART); the next one goes on where the published
// indices say. Rules: B4 (effect first, head last, each command idempotent), C8.
//   ANSWER_FIRST   the completion is posted before the head advances; else behind it, as Arena::serve does
//   NO_TAGS        no command wants a completion
//   COUNT_ANSWERS  the member counts completions, as drain() does; else it notes each tag
// Twins: SubmissionWriter::try_push, CompletionReader::try_pop, MemberRings, Arena::serve, on_free, submit_and_wait.
#ifndef COMMANDS
#define COMMANDS 3
#endif
#define CAPACITY 2
#include "words.pml"

Word sq[CAPACITY];
Word sq_tail;
Word sq_head;
Word cq[CAPACITY];
Word cq_tail;
Word cq_head;
#define SQ_SETTLED (SETTLED(sq[0]) && SETTLED(sq[1]))
#define CQ_SETTLED (SETTLED(cq[0]) && SETTLED(cq[1]))

// Command n is about page n in generation 0.
Word generation[COMMANDS + 1];
bool given[COMMANDS + 1];  // to another session, since
byte effects;

bool keeper_killed;
bool done;

active proctype memory() {
end:
  do
  DRAIN(sq[0])
  DRAIN(sq[1])
  DRAIN(sq_tail)
  DRAIN(sq_head)
  DRAIN(cq[0])
  DRAIN(cq[1])
  DRAIN(cq_tail)
  DRAIN(cq_head)
  DRAIN(generation[1])
  DRAIN(generation[2])
  DRAIN(generation[3])
  od
}

active proctype member() {
  byte sent, head, tail, tag, outstanding = COMMANDS;
  bool answered[COMMANDS + 1];
  do
#ifdef NO_TAGS
  :: sent == COMMANDS && sq_head.all == COMMANDS -> break
#else
  :: outstanding == 0 -> break
#endif
  :: sent < COMMANDS ->
     head = sq_head.all;
     if
     :: sent - head < CAPACITY ->
        STORE(sq[sent % CAPACITY], sent + 1);
#ifndef NO_TAIL_ORDER
        SQ_SETTLED;  // the tail is a release store
#endif
        sent++;
        STORE(sq_tail, sent)
     :: else -> sq_head.all != head  // full: waits
     fi;
     head = 0
  :: outstanding != 0 && cq_tail.all != tail ->
     tag = cq[tail % CAPACITY].all;
     assert(tag != 0);
     tail++;
     STORE(cq_head, tail);
#ifdef COUNT_ANSWERS
     answered[tag] = true;
     outstanding--;
#else
     if
     :: !answered[tag] ->
        answered[tag] = true;
        outstanding--
     :: else
     fi;
#endif
     tag = 0
  od;
#ifndef NO_TAGS
  assert(answered[1] && answered[2] && answered[3]);
#endif
  done = true
}

#ifdef NO_GENERATION
#define GENERATION_AGREES true
#else
#define GENERATION_AGREES (generation[command].own == 0)
#endif
inline effect() {
  if
  :: GENERATION_AGREES ->
     assert(!given[command]);  // another's page
     d_step {
       SETTLED(generation[command]) -> generation[command].own = generation[command].own + 1;
       effects++;
       given[command] = true  // refilled
     }
  :: else  // stale: it has been done
  fi
}
inline advance() {
  head++;
  STORE(sq_head, head)
}
inline answer() {
  STORE(cq[tail % CAPACITY], command);
#ifndef NO_TAIL_ORDER
  CQ_SETTLED;
#endif
  tail++;
  STORE(cq_tail, tail)
}

inline serve() {
  do
  :: done -> break
  :: !done && sq_tail.all != head && tail - cq_head.all < CAPACITY ->
     command = sq[head % CAPACITY].all;
     assert(command != 0);
#ifdef NO_EFFECT_FIRST
     advance();
     effect();
#else
     effect();
     generation[1].all == generation[1].own && generation[2].all == generation[2].own &&
       generation[3].all == generation[3].own;  // release
#if defined(ANSWER_FIRST) && !defined(NO_TAGS)
     answer();
     CQ_SETTLED && SETTLED(cq_tail);
#endif
     advance();
#endif
#if !defined(ANSWER_FIRST) && !defined(NO_TAGS)
     answer();
#endif
     command = 0
  od
}

inline finish() {
  // Each command has had its effect, once.
  assert(effects == COMMANDS)
}

active proctype keeper() {
  byte head, tail, command;
  serve() unless { keeper_killed };
#ifdef RESTART
  if
  :: keeper_killed -> run next_keeper()
  :: else -> finish()
  fi
#else
  finish()
#endif
}

#ifdef RESTART
active proctype killer() {
  if
  :: d_step { !done -> keeper_killed = true }
  :: skip
  fi
}
#endif

#ifdef RESTART
proctype next_keeper() {
  byte head, tail, command;
  // What the dead process has stored arrives.
  SETTLED(sq_head) && CQ_SETTLED && SETTLED(cq_tail) && SETTLED(generation[1]) && SETTLED(generation[2]) &&
    SETTLED(generation[3]);
  head = sq_head.all;
  tail = cq_tail.all;
  serve();
  finish()
}
#endif
