// SPDX-License-Identifier: Apache-2.0
//
// One row of `kvtiersim paper`: a trace of some layers, and every policy on it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tools/kvtiersim/model/machine.h"
#include "tools/kvtiersim/report/paper_rows.h"
#include "tools/kvtiersim/workload/paper.h"

namespace kvt::sim {

/// What a policy did in a step of layer 0. In pages; the reader takes what it balances in fractions of them.
struct ScheduleLine {
  uint32_t step = 0;
  uint64_t reads = 0;           ///< pages that the step read
  uint64_t hbm = 0;             ///< of them, in HBM when the step began
  double promoted_in_read = 0;  ///< promoted for one HBM write, as they were read or written anyway
  double promoted_copy = 0;     ///< promoted by an external read and an HBM write
  /// By the reader: all that is not in HBM, and of what is there as much as balances
  double read_from_external = 0;
  double seconds = 0;
};

struct PaperCell {
  PaperLayer layer;  ///< its `layer` is counted up
  uint32_t layers = 2;
  bool one_counter = true;  ///< reactive_flush: 32 layers share a counter. Else each layer has its own
  bool charge_start = false;
  double advice = 0;                  ///< share of the next step's reads that clients announce
  std::vector<std::string> policies;  ///< in the order of the table; static, reactive_flush, page_oracle,
                                      ///< page_oracle_plain, sa or of the registry
  uint32_t threads = 1;
};

/// The paper's machine for a page size: HBM of kPaperHbmTokenLayers * kPaperTokenBytes bytes, a 32nd for each
/// layer.
[[nodiscard]] Machine paper_machine(const PaperLayer& layer);

/// `schedule`, where it is not empty, gets what every policy did in each step of layer 0; with `one_counter`
/// not of reactive_flush, which has no layer that stands for all. Calls are never at the same time; in order
/// for each policy.
[[nodiscard]] PaperRow run_paper_cell(
    const PaperCell& cell,
    const std::function<void(const std::string& policy, const std::vector<ScheduleLine>&)>& schedule = {});

/// All names in the contract's order; `beliefs`: with bayes, of which the law of pages of several tokens is
/// not worked out.
[[nodiscard]] std::vector<std::string> paper_policy_names(bool beliefs);

}  // namespace kvt::sim
