// SPDX-License-Identifier: Apache-2.0
//
// Which requests are replayed, when each arrives, and by which worker: decided once, before anything runs, so
// that the same source, seed and sizes give the same replay. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "tools/kvtier-replay/board.h"
#include "tools/kvtier-replay/request.h"

namespace kvt::replay {

struct PlanLimits {
  uint64_t pages = 0;           ///< of the arena
  double unique_share = 0;      ///< distinct blocks of the plan / pages; above 1 pages must be evicted
  uint64_t requests_max = 0;    ///< 0: no other limit
  uint64_t request_blocks = 0;  ///< longer prompts are cut to this
  uint32_t workers = 1;
  double seconds = 0;
  uint64_t seed = 0;
};

struct Plan {
  std::vector<PlannedRequest> requests;  ///< in order of arrival
  std::vector<uint64_t> block_ids;
  uint64_t distinct_blocks = 0;
  uint64_t prompts_cut = 0;
  double source_seconds = 0;  ///< the time that these requests took in the source
  /// References to a block that an earlier request had: what is found when nothing is evicted.
  [[nodiscard]] double reuse() const;
};

/// The first requests of the source, in order, as many as fit; at least one if the source has one.
Plan make_plan(RequestSource& source, const PlanLimits& limits);

}  // namespace kvt::replay
