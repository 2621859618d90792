// SPDX-License-Identifier: Apache-2.0
//
// `kvtiersim paper`: the model of arXiv 2508.13231, its policies, the classic ones and ours, in decode
// seconds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvt::sim {

struct PaperOptions {
  std::vector<double> sparsity{60};  ///< percent of the tokens that a step does not read
  std::string variation = "actual";  ///< low, actual, high: the calibrated trace
  /// Percent, comma separated; not empty: a generated trace instead of the calibrated one
  std::string new_tokens;
  std::string noise = "drift";  ///< of the generated one: drift, memoryless
  std::vector<uint64_t> seeds{1};
  uint32_t layers = 2;                ///< simulated; the time is scaled to all 32
  uint32_t page_tokens = 1;           ///< tokens of a page: 1 (as the paper), 4, 16, 64
  bool gqa = false;                   ///< keys and values of 8 heads instead of 32
  bool charge_start = false;          ///< HBM starts empty for all policies, what fills it is charged
  double advice = 0;                  ///< share of the next step's reads that clients announce
  bool small = false;                 ///< one layer, 200 steps
  std::vector<std::string> policies;  ///< empty: all
  std::string schedule_out;           ///< a line a step and policy
  std::string json;
  std::string html;      ///< a report in one file
  uint32_t threads = 0;  ///< 0: as many as there are cores
};

/// Prints a table; 0, or 2 for wrong use.
int run_paper(const PaperOptions& options);

}  // namespace kvt::sim
