// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "tools/kvtiersim/model/policy.h"

namespace kvt::sim {

struct Outcome {
  double seconds = 0;
  MoveCounts counts;
  double bytes_moved = 0;  ///< written by promotions and demotions
  uint64_t hits = 0;       ///< reads served by the fastest tier
  uint64_t asked = 0;
};

/// Called after each step with its bytes and time.
using Observer = std::function<void(const StepView&, const World&, const StepTime&)>;

/// Fills the fast tier with random pages at no cost, before the first step; nothing for seed 0.
void place_at_random(World& world, uint64_t seed);

/// Runs the policy over the whole trace. `random_start` is the seed of place_at_random(); 0: the fast tier
/// starts empty and the policy fills it.
[[nodiscard]] Outcome simulate(const Trace& trace, const Machine& machine, Cost cost, Policy& policy,
                               uint64_t random_start = 0, const Observer& observer = {});

}  // namespace kvt::sim
