// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/workload/advice.h"

#include <utility>
#include <vector>

#include "tools/kvtiersim/model/random.h"

namespace kvt::sim {

void announce(Trace& trace, double share, uint64_t seed) {
  trace.advised.clear();
  trace.advised_first.clear();
  if (share <= 0) return;
  Random random(seed);
  std::vector<uint64_t> first{0};  // apart: step() looks at what the trace has
  for (uint32_t n = 0; n < trace.steps(); ++n) {
    if (n + 1 < trace.steps()) {
      for (const uint32_t page : trace.step(n + 1).page)
        if (random.uniform() < share && (trace.born_step.empty() || trace.born_step[page] <= n))
          trace.advised.push_back(page);
    }
    first.push_back(trace.advised.size());
  }
  trace.advised_first = std::move(first);
}

}  // namespace kvt::sim
