// SPDX-License-Identifier: Apache-2.0
//
// The paper's `static`: the fast tier is filled with the oldest pages, once, and stays so.
#pragma once

#include "tools/kvtiersim/model/policy.h"

namespace kvt::sim {

class Oldest : public Policy {
 public:
  void step(const StepView& step, World& world) override;
};

}  // namespace kvt::sim
