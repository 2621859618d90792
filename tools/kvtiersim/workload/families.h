// SPDX-License-Identifier: Apache-2.0
//
// Generated workloads: six families with a known law, of which placement is measured, and three that are made
// to hurt. All have 300 steps, and 4,000 pages or 80 sequences (5,600 pages in the mean).
//
// - dense: 80 sequences of 20-119 pages. On at first with .3; on -> off with 1/40, off -> on with 1/93 a
//   step. A sequence that is on reads each of its pages once a step.
// - shared: as dense; each sequence has 1 + floor(6 u^4) readers, which each read every page.
// - sparse-slow, sparse-fast: base b ~ N(0, 1.2^2) a page, z an AR(1) process of unit variance with rho .995
//   or .90; read with probability sigmoid(2 (b + 1.5 z - 1.5)).
// - zipf-shift, zipf: Poisson(min(30, 40 / (rank + 1)^.8)) reads; ranks are shuffled every 50 steps, or
//   never.
// - adversarial-lru: 300 pages that are read every second step or so, and in turn, 20 steps each: a cyclic
//   scan of 27 % of the pages, one of 54 % (just more than a fast tier of 25 or 50 % holds), and floods of
//   pages that are read once.
// - adversarial-self: every page is read in each step for a while and then not for as long, half of them in
//   turn with the other half: 1 to 16 steps, the time scales at which moving averages have just learnt what
//   is no longer true.
// - burst: dense's sequences in a cycle of 20 idle steps (a sequence that is on is read with .05), 10 steps
//   of prefill (as well, a sequence that is off is read with .08), and 20 steps of decoding (all that are
//   on).
//
// What the beliefs of each know (the ceiling of an online policy, `bayes`): the law with its parameters and
// the times of its phases, which pages are a sequence, the order of scans and who is in turn with whom; of
// what was drawn only what reads have shown: a sequence is known to be on once read, its readers once
// counted; base and process of a sparse page are a Gaussian that its reads update; the rank of a zipf page
// has a posterior from its count since the shuffle.
#pragma once

#include <cstdint>
#include <string>

#include "tools/kvtiersim/model/trace.h"

namespace kvt::sim {

/// The same for the same name and seed, on every machine. Throws std::invalid_argument with the names that
/// there are.
[[nodiscard]] Workload make_family(const std::string& name, uint64_t seed);
[[nodiscard]] std::string family_names();

}  // namespace kvt::sim
