// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/policy/bayes.h"

#include <cmath>

#include "tools/kvtiersim/policy/reference.h"

namespace kvt::sim {

void Bayes::step(const StepView& step, World& world) {
  beliefs_->observe(step);
  exchange_.run(step, world, swap_gate(world), INFINITY, [next = beliefs_->next()](uint32_t page) { return static_cast<double>(next[page]); });
}

}  // namespace kvt::sim
