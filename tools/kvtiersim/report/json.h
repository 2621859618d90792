// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "tools/kvtiersim/report/results.h"

namespace kvt::sim {

/// docs/kvtiersim.md: one object for one size and seed; for several {"rows": [such objects]}.
[[nodiscard]] std::string json_text(const Results& results);

}  // namespace kvt::sim
