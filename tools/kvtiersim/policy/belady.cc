// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/policy/belady.h"

#include <cmath>

namespace kvt::sim {

Belady::Belady(const Trace& trace) : trace_(trace), next_of_(trace.page.size()), next_(trace.pages, kNever) {
  for (uint32_t n = trace.steps(); n-- > 0;) {
    for (auto i = static_cast<size_t>(trace.first[n]); i < trace.first[n + 1]; ++i) {
      next_of_[i] = next_[trace.page[i]];
      next_[trace.page[i]] = n;
    }
  }
}

void Belady::step(const StepView& step, World& world) {
  const auto begin = static_cast<size_t>(trace_.first[step.step]);
  for (size_t i = 0; i < step.page.size(); ++i) next_[step.page[i]] = next_of_[begin + i];
  exchange_.run(step, world, 0, INFINITY, [&](uint32_t page) { return -static_cast<double>(next_[page]); });
}

}  // namespace kvt::sim
