// SPDX-License-Identifier: Apache-2.0
//
// The reads of one layer while the model of arXiv 2508.13231 decodes one long sequence, and who knows their
// law.
//
// A step reads the `1 - sparsity` share of the tokens that exist; one token is born in each. Which ones:
//   kActual      the tokens with the highest scores: base + noise * OU + recency * position / tokens, where
//   base is
//                N(0, 1), OU an autoregression of unit variance with rho .65, both with 60 % of their
//                variance shared by the 16 tokens of a block; noise 1, recency 1.8. Fits what is published of
//                the paper's "actual" trace.
//   kLow, kHigh  the latest tokens, some of them, another set in each step, swapped for older ones: as many
//   are drawn,
//                with replacement, as a share of the reads that is uniform in 3-10 % or 0-100 %.
//   kDrift       the same with recency 1.7 and the noise solved so that the wanted share of a step's reads
//   was not
//                read in the step before; where no noise suffices, 4 and a smaller rho.
//   kMemoryless  that share of the read set is dropped in each step, whichever, and as many others are drawn,
//   without
//                replacement, with weights exp(base) that never change.
// This is a model: no attention was computed.
#pragma once

#include <cstdint>
#include <string>

#include "tools/kvtiersim/model/trace.h"

namespace kvt::sim {

inline constexpr uint32_t kPaperLayers = 32;
inline constexpr uint32_t kPaperPrompt = 31'299;        ///< tokens when the first step reads
inline constexpr uint32_t kPaperSteps = 10'240;         ///< the last one reads of 41,538
inline constexpr uint32_t kPaperTokenBytes = 16'384;    ///< keys and values of a token in a layer, 32 heads
inline constexpr uint32_t kPaperGqaTokenBytes = 4'096;  ///< the same with 8 heads
inline constexpr double kPaperWeightBytes = 162.9e6;    ///< of a layer
inline constexpr double kPaperHbmTokenLayers =
    530'800;  ///< entries of kPaperTokenBytes in the HBM, of all layers
inline constexpr double kPaperSharedVariance = 0.6;  ///< of a block, of base and OU
inline constexpr uint32_t kPaperBlockTokens = 16;

enum class PaperNoise : uint8_t { kLow, kActual, kHigh, kDrift, kMemoryless };

struct PaperLayer {
  PaperNoise noise = PaperNoise::kActual;
  double sparsity = 0.6;  ///< share of tokens that a step does not read
  /// KDrift, kMemoryless: share of a step's reads that the step before did not read
  double new_tokens = 0.21;
  uint64_t seed = 1;
  uint32_t layer = 0;  ///< layers of a seed differ in all that is random
  uint32_t prompt = kPaperPrompt;
  uint32_t steps = kPaperSteps;
  /// Of a page: 1, 4, 16, 64. A page is read, whole, when any of its tokens is.
  uint32_t page_tokens = 1;
  uint32_t token_bytes = kPaperTokenBytes;
};

struct PaperWorkload {
  Workload workload;
  double new_share = 0;      ///< of a step's tokens, not read in the step before: the mean over steps
  double read_share = 0;     ///< of tokens, mean
  uint64_t token_reads = 0;  ///< tokens that attention asked for; pages carry more
};

/// The score's law.
struct PaperDrift {
  double noise = 1;
  double rho = 0.65;
  double recency = 1.7;
};
/// With 1.7 the paper's `static` would be 15.5 % faster than published, with 1.8 it is 14 %.
inline constexpr PaperDrift kPaperActual{1, 0.65, 1.8};

/// What makes the mean share of new tokens a step `new_tokens`, by integrating the law of two successive
/// scores. Throws std::invalid_argument where even scores without memory have less.
[[nodiscard]] PaperDrift solve_paper_drift(double sparsity, double new_tokens);
/// The share that a drift makes.
[[nodiscard]] double paper_new_share(double sparsity, const PaperDrift& drift);

/// Throws std::invalid_argument with what was expected. Beliefs (for pages of one token): see
/// paper_beliefs.cc. About 0.4 ms and 4 bytes a token read for a step.
[[nodiscard]] PaperWorkload make_paper_layer(const PaperLayer& layer);

/// low, actual, high, drift, memoryless.
[[nodiscard]] PaperNoise paper_noise(const std::string& name);

}  // namespace kvt::sim
