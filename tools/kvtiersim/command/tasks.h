// SPDX-License-Identifier: Apache-2.0
//
// Independent pieces of work on several threads. Each writes to a place of its own, so that results do not
// depend on how many threads there are.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace kvt::sim {

/// Runs all of them, begun in order, on up to `threads` threads (0: as many as there are cores). When some
/// throw, the exception of the first in order is thrown after all have ended.
void run_tasks(const std::vector<std::function<void()>>& tasks, uint32_t threads);

}  // namespace kvt::sim
