// SPDX-License-Identifier: Apache-2.0
//
// What a placement policy is to the simulator.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tools/kvtiersim/model/world.h"

namespace kvt::sim {

/// Decides after each step's reads, knowing them and all before them and nothing else: a policy never sees
/// the trace. (Those that do, to show what could be had, are called oracles and are made from a trace.)
class Policy {
 public:
  Policy() = default;
  Policy(const Policy&) = delete;
  Policy& operator=(const Policy&) = delete;
  virtual ~Policy() = default;
  /// Once, before the first step.
  virtual void begin(World& world) { (void)world; }
  /// The reads of `step` have been served from where the pages were. Moves made now are charged to this step;
  /// a page that was read or born in it passes by anyway.
  virtual void step(const StepView& step, World& world) = 0;
};

}  // namespace kvt::sim
