// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "tools/kvtiersim/report/results.h"

namespace kvt::sim {

/// docs/kvtiersim.md: one object for one size and seed; for several {"rows": [such objects]}.
[[nodiscard]] std::string json_text(const Results& results);

/// Throws std::runtime_error with the path when not all could be written.
void write_file(const std::string& path, const std::string& text);

}  // namespace kvt::sim
