// SPDX-License-Identifier: Apache-2.0
//
// Steps on their own: how long each takes at least when pages may be anywhere that fits, and moves are free.
// Their sum is UB1; UB0 looks at bytes alone.
#pragma once

#include <cstdint>
#include <vector>

#include "tools/kvtiersim/model/machine.h"
#include "tools/kvtiersim/model/trace.h"

namespace kvt::sim {

/// Where a page is when step 0 is read.
enum class StartState : uint8_t {
  kSlow,  ///< in the slow tier
  kFast,  ///< in the fast tier
  kAny,   ///< where it suits the schedule, at no cost; what fits there is limited
};

struct SingleSteps {
  double seconds = 0;
  /// Of each step, of what the times of its resources are worth together: see Prices.
  std::vector<double> fast_weight, written_weight;
  std::vector<double> room_price;  ///< seconds that one more page of room would save
};

/// UB0, seconds: all bytes that are read, at the sum of all bandwidths. Any machine.
[[nodiscard]] double ub0_seconds(const Trace& trace, const Machine& machine);

/// UB1, in `seconds`. `start` has one entry a page, or one for all: in step 0 of a start that is given there
/// is no choice. Throws std::invalid_argument for machines that are not two tiers without links.
[[nodiscard]] SingleSteps single_steps(const Trace& trace, const Machine& machine,
                                       const std::vector<StartState>& start = {StartState::kAny});

}  // namespace kvt::sim
