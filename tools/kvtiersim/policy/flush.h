// SPDX-License-Identifier: Apache-2.0
//
// The paper's reactive policy as its authors' code has it: every miss is promoted, and when there is no room
// the layer that is just being read is emptied.
#pragma once

#include <span>

#include "tools/kvtiersim/model/policy.h"

namespace kvt::sim {

/// With a fast tier of its own.
class Flush : public Policy {
 public:
  void step(const StepView& step, World& world) override;
};

/// What several layers that share one counter of used pages do: a layer that is flushed makes room for all,
/// so some end up resident as a whole and the others in turmoil. No layer alone shows that.
struct FlushedLayers {
  double seconds = 0;       ///< of `steps` steps of all layers
  double best_seconds = 0;  ///< the same steps, every byte at its tier's full speed together
  uint64_t hits = 0, asked = 0;
  double bytes_moved = 0;
  uint64_t promotions = 0;
};

/// `layers` layers, one after the other in each step, with `capacity_pages` for all together. Layer i takes
/// its reads from traces[i % n], displaced by an even share of the trace, so that a few sampled traces make
/// many layers; each runs `steps` steps, around the end to the beginning. Costs as Cost::kOffers. REQUIRES:
/// traces of one length.
[[nodiscard]] FlushedLayers simulate_flushed_layers(std::span<const Trace* const> traces,
                                                    const Machine& machine, uint32_t layers,
                                                    uint64_t capacity_pages, uint32_t steps);

}  // namespace kvt::sim
