// SPDX-License-Identifier: Apache-2.0
//
// How fast a trace could be served: lower bounds on the time of every schedule, each at least the one before
// it, and a schedule that knows all reads. The optimum is between ub2 and feasible_seconds.
//
// (Called upper bounds because they bound performance from above; all are seconds.)
#pragma once

#include <cstdint>

#include "tools/kvtiersim/bound/single_steps.h"
#include "tools/kvtiersim/model/machine.h"
#include "tools/kvtiersim/model/trace.h"

namespace kvt::sim {

struct BoundOptions {
  /// As of simulate(): the fast tier's random pages, or 0: it starts empty. The bound is that of this very
  /// start.
  uint64_t random_start = 0;
  /// Instead: pages start where they like, at no cost. For policies that place pages in Policy::begin().
  bool free_start = false;
  /// Of the ascent; more never give a lower bound. 0: 600, or 1500 where they are cheap
  uint32_t rounds_max = 0;
  double gap = 0.005;  ///< the ascent ends when it is this near to its optimum
  /// Roundings that are tried for the schedule; 0: none is made.
  uint32_t schedules = 4;
};

struct Bounds {
  double ub0 = 0;  ///< all bytes at all bandwidths
  double ub1 = 0;  ///< the best of each step on its own: capacity, free migration
  double ub2 = 0;  ///< with migration: the relaxation's bound, for the prices that were found
  /// What better prices could add at most, as a share of ub2: the relaxation's optimum is at most ub2 * (1 +
  /// gap).
  double gap = 0;
  /// Of the best schedule that was found, by simulate(); infinity: none was made
  double feasible_seconds = 0;
  uint32_t rounds = 0;
};

/// Bounds for World, simulate() and step_time(), with all that they charge: promotions in passing and copies,
/// kappa, fixed traffic, writes of new tokens, births. Deterministic, one thread: seconds for thousands of
/// pages and hundreds of steps; memory is about 100 bytes a page read, and a schedule takes 4 bytes a group
/// of like pages and step (none is made where that is more than 512 MiB). Throws std::invalid_argument as
/// single_steps() does.
[[nodiscard]] Bounds compute_bounds(const Trace& trace, const Machine& machine, Cost cost,
                                    const BoundOptions& options = {});

}  // namespace kvt::sim
