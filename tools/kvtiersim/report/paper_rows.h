// SPDX-License-Identifier: Apache-2.0
//
// Results of `kvtiersim paper`: as a table beside what is published, and as JSON.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace kvt::sim {

struct PaperResult {
  double seconds = 0;   ///< decode time, all 32 layers
  double hit_rate = 0;  ///< of KV reads, served where the fast tier held the page when the step began
  double hit_rate_with_weights = 0;  ///< of bytes, weights too
  double bytes_moved = 0;            ///< promoted, all 32 layers
};

struct PaperRow {
  double sparsity = 0;    ///< percent of tokens not read
  std::string variation;  ///< low, actual, high; "generated"
  std::string noise;      ///< drift, memoryless; "swaps" for low and high
  /// Percent of a step's tokens: asked for; with a calibrated trace what was measured
  double new_tokens = 0;
  double new_tokens_measured = 0;
  uint64_t seed = 1;
  double best_seconds = 0;  ///< every byte that attention needs, from both tiers at full speed
  double ub1_seconds = 0;   ///< the same with no more in the fast tier than fits, moved for nothing
  std::vector<std::pair<std::string, PaperResult>> policies;
  std::string annealed;  ///< the setting that annealing found; empty: it did not run

  uint32_t layers = 1;  ///< simulated
  uint32_t steps = 0;
  uint32_t page_tokens = 1;
  uint64_t token_bytes = 0;
  double room = 0;  ///< tokens that fit in the fast tier, in percent of the tokens that there are, mean
  double read_amplification = 1;  ///< bytes of pages read over bytes of tokens asked for
};

/// One table for a row; published figures beside it where there are any for that sparsity and variation.
[[nodiscard]] std::string paper_table(const PaperRow& row);
/// Percent of best by cell and policy, for more than one row.
[[nodiscard]] std::string paper_summary(const std::vector<PaperRow>& rows);
/// {"rows": [...]}, see docs/kvtiersim.md.
[[nodiscard]] std::string paper_json(const std::vector<PaperRow>& rows);

}  // namespace kvt::sim
