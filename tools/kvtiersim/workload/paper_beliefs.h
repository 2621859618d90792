// SPDX-License-Identifier: Apache-2.0
//
// What one who knows the law of workload/paper.h expects of the next step.
#pragma once

#include <memory>
#include <vector>

#include "tools/kvtiersim/workload/paper.h"

namespace kvt::sim {

/// The score's law: kActual, kDrift. `threshold`: score of the least token that was read, by step.
[[nodiscard]] std::unique_ptr<Beliefs> make_score_beliefs(
    const PaperLayer& layer, const PaperDrift& drift, std::shared_ptr<const std::vector<float>> threshold);
/// The latest tokens, some swapped: `least` to `most` of the reads are drawn: kLow, kHigh.
[[nodiscard]] std::unique_ptr<Beliefs> make_swap_beliefs(const PaperLayer& layer, double least, double most);
/// `weight`: popularity of each token: kMemoryless.
[[nodiscard]] std::unique_ptr<Beliefs> make_popularity_beliefs(
    const PaperLayer& layer, std::shared_ptr<const std::vector<float>> weight);

/// Tokens that exist in a step, and how many of them it reads.
[[nodiscard]] inline uint32_t paper_tokens(const PaperLayer& layer, uint32_t step) {
  return layer.prompt + step;
}
[[nodiscard]] inline uint32_t paper_reads(const PaperLayer& layer, uint32_t step) {
  return static_cast<uint32_t>((1 - layer.sparsity) * paper_tokens(layer, step) + 0.5);
}

}  // namespace kvt::sim
