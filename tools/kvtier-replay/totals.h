// SPDX-License-Identifier: Apache-2.0
//
// What all workers have counted so far, in one plain value.
#pragma once

#include <array>
#include <cstdint>

#include "tools/kvtier-replay/board.h"

namespace kvt::replay {

struct Totals {
  uint64_t requests = 0;
  uint64_t requests_cut = 0;
  uint64_t requests_shortened = 0;
  uint64_t blocks_asked = 0;
  uint64_t blocks_found = 0;
  uint64_t blocks_written = 0;
  uint64_t publish_present = 0;
  uint64_t pages_appended = 0;
  uint64_t steps = 0;
  uint64_t words_verified_own = 0;
  uint64_t words_verified = 0;
  uint64_t words_verified_moved = 0;
  uint64_t pages_verified_in_move = 0;
  uint64_t corrupt = 0;
  uint64_t lost = 0;
  std::array<uint64_t, KVT_TIERS_MAX> bytes_read{};
  double seconds_kvtier = 0;
  double seconds_static = 0;
  double seconds_best = 0;
  double seconds_together = 0;  ///< all processes' reads of each window as one step

  [[nodiscard]] double hit_ratio() const {
    return blocks_asked == 0 ? 0 : static_cast<double>(blocks_found) / static_cast<double>(blocks_asked);
  }
};

/// Racy while workers run; exact when they have ended.
inline Totals sum_of(const Board& board) {
  Totals totals;
  for (const WorkerStatistics& worker : board.statistics()) {
    const auto add = [](auto& to, const auto& from) { to += from.load(std::memory_order_relaxed); };
    add(totals.requests, worker.requests);
    add(totals.requests_cut, worker.requests_cut);
    add(totals.requests_shortened, worker.requests_shortened);
    add(totals.blocks_asked, worker.blocks_asked);
    add(totals.blocks_found, worker.blocks_found);
    add(totals.blocks_written, worker.blocks_written);
    add(totals.publish_present, worker.publish_present);
    add(totals.pages_appended, worker.pages_appended);
    add(totals.steps, worker.steps);
    add(totals.words_verified_own, worker.words_verified_own);
    add(totals.words_verified, worker.words_verified);
    add(totals.words_verified_moved, worker.words_verified_moved);
    add(totals.pages_verified_in_move, worker.pages_verified_in_move);
    add(totals.corrupt, worker.corrupt);
    add(totals.lost, worker.lost);
    for (size_t tier = 0; tier < totals.bytes_read.size(); ++tier)
      add(totals.bytes_read[tier], worker.bytes_read[tier]);
    add(totals.seconds_kvtier, worker.seconds_kvtier);
    add(totals.seconds_static, worker.seconds_static);
    add(totals.seconds_best, worker.seconds_best);
  }
  return totals;
}

}  // namespace kvt::replay
