// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/policy/oldest.h"

namespace kvt::sim {

void Oldest::step(const StepView& step, World& world) {
  (void)step;
  // Once full it stays full; until then new pages are the oldest that are left.
  for (uint32_t page = static_cast<uint32_t>(world.used());
       page < world.pages() && world.room() > 0 && world.exists(page); ++page)
    world.promote(page);
}

}  // namespace kvt::sim
