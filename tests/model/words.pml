// SPDX-License-Identifier: Apache-2.0
//
// Memory that is weaker than it looks. A word has one writer. `own` is what its writer has stored, `all` is what
// everybody else loads. Between the two lies the writer's store buffer: stores to different words arrive in any
// order, whenever they like (DRAIN); the writer sees its own stores at once. A full fence waits until everything
// that its process has stored has arrived. Loads are done in the order of the text.
//
// A store to a word whose last store is still on its way waits for that one: so a buffer needs one place a word.
typedef Word {
  byte all;
  byte own
}
#define SETTLED(w) (w.all == w.own)
#define STORE(w, v) d_step { SETTLED(w) -> w.own = v }
#define DRAIN(w) :: d_step { !SETTLED(w) -> w.all = w.own }
#define SET_BOTH(w, v) w.own = v; w.all = v
