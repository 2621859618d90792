// SPDX-License-Identifier: Apache-2.0
//
// Greedy decoding of one sequence over a KvCache: feeds tokens, takes the most probable byte, checks that a
// position that has to be computed again gives the same bits. Not thread-safe.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "tools/kvtier-decode/attention.h"
#include "tools/kvtier-decode/digest.h"
#include "tools/kvtier-decode/forward.h"
#include "tools/kvtier-decode/kv_cache.h"

namespace kvt::decode {

struct StepEvent {
  size_t position;
  bool decoding;  ///< a position of the prompt's end or after; else prefill
  bool again;     ///< it was computed before, and lost
  std::span<const float> logits;
  const StepReads& reads;
  std::span<const Token> tokens;  ///< all, the one that this step has chosen included
};

struct DecodeOptions {
  AttentionKind attention;
  size_t count = 0;  ///< tokens to decode
  std::function<void(const StepEvent&)>
      on_step;                    ///< after each step; may be empty. What it throws ends the decoding
  AttentionMass* mass = nullptr;  ///< measured in decoding steps; dense attention only
};

struct DecodeResult {
  std::vector<Token> tokens;  ///< prompt and decoded ones
  size_t prompt_tokens = 0;
  size_t prefill_steps = 0;
  size_t decode_steps = 0;
  size_t steps_again = 0;  ///< of both: computed before, and lost
  double prefill_seconds = 0;
  double decode_seconds = 0;      ///< from the first decoding step on, whatever happened
  double decode_cpu_seconds = 0;  ///< the same, of this thread: what is the same on a busy machine
  Digest logits;                  ///< of all logits of the decoding positions, in order

  [[nodiscard]] double decode_tokens_per_second() const { return tokens_by(decode_seconds); }
  [[nodiscard]] double decode_tokens_per_cpu_second() const { return tokens_by(decode_cpu_seconds); }

 private:
  [[nodiscard]] double tokens_by(double seconds) const {
    return seconds > 0 ? static_cast<double>(tokens.size() - prompt_tokens) / seconds : 0;
  }
};

/// `prompt` is not empty. Throws what the cache throws, and std::runtime_error when a position that is
/// computed again gives other logits.
DecodeResult decode(const Model& model, const KvLayout& layout, KvCache& cache, std::span<const Token> prompt,
                    const DecodeOptions& options);

}  // namespace kvt::decode
