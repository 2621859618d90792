// SPDX-License-Identifier: Apache-2.0
//
// A schedule that knows all reads, made from the bound's mixture of paths: the other end of the bracket. What
// the mixture has as fractions of pages is rounded to whole ones, and World sees to it that it fits and what
// it costs.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "tools/kvtiersim/bound/ascent.h"
#include "tools/kvtiersim/model/policy.h"

namespace kvt::sim {

class Clairvoyant {
 public:
  /// `relaxation` outlives it, and it its schedules.
  Clairvoyant(const Trace& trace, const Machine& machine, Cost cost, Relaxation& relaxation,
              const Ascent& ascent);
  /// The schedule for one way to round; `seed` draws it. An oracle: made from the trace.
  [[nodiscard]] std::unique_ptr<Policy> schedule(uint64_t seed) const;

 private:
  friend class ScheduledPolicy;
  uint32_t pages_;
  const Relaxation& relaxation_;
  std::vector<float> share_;   // [group * steps + n]: of the group's pages, in the fast tier while n is read
  std::vector<double> saves_;  // [n]: what a read from the fast tier saves, seconds
  std::vector<double> pass_;   // [n]: what a promotion costs, in passing and as a copy
  std::vector<double> copy_;
};

}  // namespace kvt::sim
