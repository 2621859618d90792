// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/model/simulate.h"

#include "tools/kvtiersim/model/random.h"

namespace kvt::sim {

void place_at_random(World& world, uint64_t seed) {
  if (seed == 0) return;
  Random random(seed);
  const auto& slow = world.members(world.machine().last());
  while (world.room() != 0 && !slow.empty()) world.place(slow[random.below(slow.size())], 0);
}

Outcome simulate(const Trace& trace, const Machine& machine, Cost cost, Policy& policy, uint64_t random_start,
                 const Observer& observer) {
  World world(machine, trace, cost);
  place_at_random(world, random_start);
  policy.begin(world);
  Outcome outcome;
  for (uint32_t n = 0; n < trace.steps(); ++n) {
    const StepView step = trace.step(n);
    world.begin_step(step);
    policy.step(step, world);
    const StepTime time = world.end_step();
    outcome.seconds += time.seconds;
    const Traffic& traffic = world.traffic();
    outcome.bytes_moved += traffic.promoted_in_read + traffic.promoted_copy + traffic.demoted_copy;
    if (observer) observer(step, world, time);
  }
  world.finish();
  outcome.counts = world.counts();
  outcome.hits = world.hits();
  outcome.asked = trace.asked();
  return outcome;
}

}  // namespace kvt::sim
