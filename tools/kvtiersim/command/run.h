// SPDX-License-Identifier: Apache-2.0
//
// `kvtiersim run`: any trace on any machine under any policy, beside a certified bound.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/kvtiersim/report/history.h"
#include "tools/kvtiersim/report/results.h"

namespace kvt::sim {

struct RunOptions {
  /// A file: request trace (Mooncake, Azure, agent), page reads of kvtier-decode, kvtierctl record
  std::string trace;
  std::string generate;         ///< or a family
  std::string as = "requests";  ///< how a request trace is read: requests, decode
  uint32_t concurrency = 16;    ///< of decode
  uint32_t steps = 0;           ///< of a request trace, at most; 0: all
  std::string start;    ///< of the fast tier: random, empty; "": random for a family, empty for a file
  std::string profile;  ///< empty: recorded for a recording, else families
  std::vector<double> hbm_percent;    ///< of all pages; empty: as recorded, where the machine is, else 25
  std::vector<std::string> policies;  ///< empty: all that the trace allows
  std::string cost = "offers";
  bool bound = false;
  std::vector<uint64_t> seeds{1};
  double advice = 0;  ///< share of the next step's reads that clients announce
  std::string json;
  std::string html;
  uint32_t threads = 0;
};

/// `histories`: where it is not null, what happened over the steps, for the first seed of each size. Throws
/// std::invalid_argument with what was expected.
[[nodiscard]] Results simulate_all(const RunOptions& options, std::vector<History>* histories = nullptr);

/// Prints a table, writes what was asked for; 0.
int run_run(const RunOptions& options);

}  // namespace kvt::sim
