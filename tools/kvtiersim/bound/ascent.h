// SPDX-License-Identifier: Apache-2.0
//
// Maximises the bound of a Relaxation over its prices: a proximal bundle method. What the bound was at some
// prices, and its slope there, is a plane that the bound lies under everywhere; the next prices are the
// highest point under all planes that are kept, less a penalty for the distance from the best prices so far.
// The mixture of planes that meets there is a mixture of paths: it nears the optimum of the linear program
// whose dual this is, so its time shows how much more could be had.
#pragma once

#include <cstdint>
#include <vector>

#include "tools/kvtiersim/bound/relaxation.h"

namespace kvt::sim {

struct AscentOptions {
  uint32_t rounds_max = 600;  ///< evaluations of the bound
  double gap = 0.005;         ///< ends when mixture_seconds is this share above the bound
  /// Kept; the two that matter least become one beyond that. 0: by the number of steps
  uint32_t planes_max = 0;
};

struct Ascent {
  struct Part {
    Prices prices;
    double weight;
  };
  double bound = 0;            ///< the best that was found
  Prices prices;               ///< there
  double mixture_seconds = 0;  ///< of fractional placement that fits; at least the linear program's optimum
  std::vector<Part> mixture;   ///< paths of these prices, with weights of sum 1
  uint32_t rounds = 0;
};

/// Deterministic. More rounds never give a lower bound.
[[nodiscard]] Ascent maximise(Relaxation& relaxation, const AscentOptions& options);

}  // namespace kvt::sim
