// SPDX-License-Identifier: Apache-2.0
//
// Results as one HTML file: charts as inline SVG with tables of the same figures, no scripts, nothing that is
// loaded from elsewhere, light or dark as the reader's system is. Pure: results in, text out.
#pragma once

#include <string>
#include <vector>

#include "tools/kvtiersim/report/history.h"
#include "tools/kvtiersim/report/paper_rows.h"
#include "tools/kvtiersim/report/results.h"

namespace kvt::sim {

/// Of `kvtiersim run`. `histories`: of any of its cells, one a size at best; may be empty.
[[nodiscard]] std::string html_text(const Results& results, const std::vector<History>& histories);

/// Of `kvtiersim paper`.
[[nodiscard]] std::string html_text(const std::vector<PaperRow>& rows);

}  // namespace kvt::sim
