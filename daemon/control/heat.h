// SPDX-License-Identifier: Apache-2.0
//
// How hot the pages of an arena are, from an even sample of them: the cost does not depend on the number of pages. A
// value; on the loop's thread.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "daemon/keeper/arena.h"

namespace kvt::control {

/// Rows that are looked at: a tenth of a millisecond.
inline constexpr uint64_t kHeatLooks = 1024;

/// Upper ends of the buckets, in expected reads a period; the last bucket has none.
inline constexpr std::array<double, 7> kHeatBelow{1.0 / 64, 1.0 / 16, 1.0 / 4, 1, 4, 16, 64};

struct HeatSample {
  uint64_t looked_at = 0;
  uint64_t filled = 0;  ///< of these: not free
  /// By bucket and tier of the arena
  std::array<std::array<uint64_t, KVT_MAX_TIERS>, kHeatBelow.size() + 1> pages{};
};

/// REQUIRES: the column exists.
HeatSample heat_of(const keeper::Arena& arena, uint32_t column);

}  // namespace kvt::control
