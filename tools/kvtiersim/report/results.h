// SPDX-License-Identifier: Apache-2.0
//
// What `kvtiersim run` found, before it is printed, written as JSON or drawn.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tools/kvtiersim/model/simulate.h"

namespace kvt::sim {

/// Lower bounds of every schedule's time, seconds; `feasible_seconds` is that of a schedule that knows the
/// future.
struct BoundFigures {
  double ub0 = 0;
  double ub1 = 0;
  double ub2 = 0;
  double gap = 0;  ///< how much higher than ub2 the best certificate can be, as a share of ub2
  double feasible_seconds = 0;
};

struct PolicyResult {
  std::string name;
  bool oracle = false;
  Outcome outcome;
};

/// One size of the fast tier and one seed.
struct Cell {
  double hbm_percent = 0;
  uint64_t hbm_pages = 0;
  uint64_t seed = 0;
  uint32_t pages = 0;
  uint32_t steps = 0;
  std::optional<BoundFigures> bounds;
  std::vector<PolicyResult> policies;

  /// Percent of ub2. REQUIRES: bounds.
  [[nodiscard]] double percent_of_bound(const PolicyResult& policy) const {
    return 100 * bounds->ub2 / policy.outcome.seconds;
  }
};

struct Results {
  std::string trace;
  std::string modelled;  ///< what of the reads is measured and what is a model, a sentence
  std::string profile;
  std::string machine;  ///< tiers and their bandwidths, a line
  std::string cost;
  double advice = 0;
  uint64_t page_bytes = 0;
  std::vector<Cell> cells;  ///< by size of the fast tier, then seed; all with the same policies
};

/// Share of the promotions that did not pay back, 0 to 1.
[[nodiscard]] double not_paid_back(const Outcome& outcome);

/// Mean and standard deviation over seeds.
struct Spread {
  double mean = 0;
  double deviation = 0;
};
[[nodiscard]] Spread spread_of(const std::vector<double>& values);

}  // namespace kvt::sim
