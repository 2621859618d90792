// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/report/results.h"

#include <cmath>

namespace kvt::sim {

double not_paid_back(const Outcome& outcome) {
  const uint64_t promotions = outcome.counts.promoted_in_read + outcome.counts.promoted_copy;
  return promotions == 0
             ? 0
             : static_cast<double>(outcome.counts.not_paid_back) / static_cast<double>(promotions);
}

Spread spread_of(const std::vector<double>& values) {
  Spread spread;
  if (values.empty()) return spread;
  const auto count = static_cast<double>(values.size());
  for (const double value : values) spread.mean += value / count;
  for (const double value : values) spread.deviation += (value - spread.mean) * (value - spread.mean);
  spread.deviation = values.size() < 2 ? 0 : std::sqrt(spread.deviation / (count - 1));
  return spread;
}

}  // namespace kvt::sim
