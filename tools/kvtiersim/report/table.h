// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "tools/kvtiersim/report/results.h"

namespace kvt::sim {

/// For people: what was simulated, then a table for each size of the fast tier, with means over the seeds.
[[nodiscard]] std::string table_text(const Results& results);

}  // namespace kvt::sim
