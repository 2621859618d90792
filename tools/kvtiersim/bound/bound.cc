// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/bound/bound.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "tools/kvtiersim/bound/ascent.h"
#include "tools/kvtiersim/bound/clairvoyant.h"
#include "tools/kvtiersim/bound/relaxation.h"
#include "tools/kvtiersim/model/simulate.h"

namespace kvt::sim {

namespace {

constexpr size_t kShareBytesMax = size_t{512} << 20;

std::vector<StartState> start_of(const Trace& trace, const Machine& machine, Cost cost,
                                 const BoundOptions& options) {
  if (options.free_start) return {StartState::kAny};
  if (options.random_start == 0) return {StartState::kSlow};
  World world(machine, trace, cost);
  place_at_random(world, options.random_start);
  std::vector<StartState> start(trace.pages);
  for (uint32_t page = 0; page < trace.pages; ++page)
    start[page] = world.fast(page) ? StartState::kFast : StartState::kSlow;
  return start;
}

}  // namespace

Bounds compute_bounds(const Trace& trace, const Machine& machine, Cost cost, const BoundOptions& options) {
  Relaxation relaxation(trace, machine, cost, start_of(trace, machine, cost, options));
  const uint32_t rounds = options.rounds_max != 0                                    ? options.rounds_max
                          : relaxation.groups() < 1000 && relaxation.steps() <= 1000 ? 1500
                                                                                     : 600;
  const Ascent ascent = maximise(relaxation, {rounds, options.gap, 0});
  Bounds bounds;
  bounds.ub0 = ub0_seconds(trace, machine);
  // Each is a bound, so the larger of two is.
  bounds.ub1 = std::max(bounds.ub0, relaxation.single().seconds);
  bounds.ub2 = std::max(bounds.ub1, ascent.bound);
  bounds.rounds = ascent.rounds;
  bounds.feasible_seconds = std::numeric_limits<double>::infinity();
  if (options.schedules != 0 && relaxation.groups() * relaxation.steps() * sizeof(float) <= kShareBytesMax) {
    const Clairvoyant clairvoyant(trace, machine, cost, relaxation, ascent);
    for (uint64_t seed = 1; seed <= options.schedules; ++seed) {
      const std::unique_ptr<Policy> policy = clairvoyant.schedule(seed);
      const Outcome outcome =
          simulate(trace, machine, cost, *policy, options.free_start ? 0 : options.random_start);
      bounds.feasible_seconds = std::min(bounds.feasible_seconds, outcome.seconds);
    }
  }
  // Any schedule, also one of fractions of pages, is a limit to what prices can reach.
  if (bounds.ub2 > 0)
    bounds.gap = std::max(0.0, std::min(ascent.mixture_seconds, bounds.feasible_seconds) / bounds.ub2 - 1);
  return bounds;
}

}  // namespace kvt::sim
