// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/policy/bayes.h"

#include <algorithm>
#include <cmath>

#include "tools/kvtiersim/policy/reference.h"

namespace kvt::sim {

void Bayes::step(const StepView& step, World& world) {
  beliefs_->observe(step);
  const std::span<const float> next = beliefs_->next();
  double gain_max = INFINITY;
  if (until_ == Until::kBalanced) {
    // Reads that the slow tiers are expected to serve in the next step, less those that they can beside the
    // fast one.
    double all = 0, slow = 0;
    for (uint32_t page = 0; page < next.size(); ++page) {
      all += static_cast<double>(next[page]);
      if (!world.fast(page)) slow += static_cast<double>(next[page]);
    }
    const double balanced =
        world.machine().balanced_slow_share() * (all + world.fixed_read_bytes() / world.page_bytes());
    gain_max = std::max(0.0, slow - kOfBalance * balanced);
  }
  exchange_.run(step, world, swap_gate(world), gain_max,
                [next](uint32_t page) { return static_cast<double>(next[page]); });
}

}  // namespace kvt::sim
