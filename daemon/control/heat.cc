// SPDX-License-Identifier: Apache-2.0
#include "daemon/control/heat.h"

#include <algorithm>

namespace kvt::control {

HeatSample heat_of(const keeper::Arena& arena, uint32_t column) {
  HeatSample sample;
  const ArenaTable& table = arena.table();
  const uint64_t pages = table.pages();
  sample.looked_at = std::min(pages, kHeatLooks);
  for (uint64_t i = 0; i < sample.looked_at; ++i) {
    const auto page = static_cast<PageIndex>(i * pages / sample.looked_at);
    const Placement placement = table.placement(column, page);
    if (placement.state() == PageState::kFree) continue;
    ++sample.filled;
    const double reads = arena.expected_reads(column, page);
    const auto bucket = std::upper_bound(kHeatBelow.begin(), kHeatBelow.end(), reads) - kHeatBelow.begin();
    ++sample.pages[static_cast<size_t>(bucket)][placement.tier()];
  }
  return sample;
}

}  // namespace kvt::control
