// SPDX-License-Identifier: Apache-2.0
//
// `kvtiersim run`: any trace on any machine under any policy, beside a certified bound.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvt::sim {

struct RunOptions {
  std::string trace;     ///< a file: request trace (Mooncake, Azure, agent), page reads of kvtier-decode, kvtierctl record
  std::string generate;  ///< or a family
  std::string profile = "families";
  std::vector<double> hbm_percent{25};  ///< of all pages
  std::vector<std::string> policies;    ///< empty: all that the trace allows
  std::string cost = "offers";
  bool bound = false;
  std::vector<uint64_t> seeds{1};
  double advice = 0;                    ///< share of the next step's reads that clients announce
  std::string json;
  std::string html;
  uint32_t threads = 0;
};

int run_run(const RunOptions& options);

}  // namespace kvt::sim
