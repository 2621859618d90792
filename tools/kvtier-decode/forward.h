// SPDX-License-Identifier: Apache-2.0
//
// The forward pass of one token. It gets addresses of blocks and does not know what memory they are in; a KvAccess
// that does reads and writes them. Every position goes through this same path, in prefill and in decoding, so its KV
// data and logits are a function of weights, attention and the tokens up to it: to the last bit, whoever computes it.
// Not thread-safe.
#pragma once

#include <span>
#include <vector>

#include "tools/kvtier-decode/attention.h"
#include "tools/kvtier-decode/kernels.h"
#include "tools/kvtier-decode/kv_layout.h"
#include "tools/kvtier-decode/model.h"

namespace kvt::decode {

class Forward {
 public:
  /// `model` and `access` outlive the object.
  Forward(const Model& model, const KvLayout& layout, AttentionKind attention, KvAccess& access);

  /// Writes key and value of `token` at `position` into view.current, and computes what comes next: the
  /// logits of all tokens, good until the next call. `summaries` is brought up to date with the full blocks
  /// before.
  std::span<const float> step(Token token, size_t position, const KvView& view, Summaries& summaries,
                              StepReads& reads, AttentionMass* mass);

 private:
  void attention_layer(size_t layer, size_t position, const KvView& view, const Summaries& summaries,
                       StepReads& reads, AttentionMass* mass);
  void feed_forward_layer(size_t layer);

  const Model& model_;
  KvLayout layout_;
  bool summarise_;
  KvAccess& access_;
  Attention attention_;
  Rope rope_;
  std::vector<float> residual_, normed_, queries_, keys_, values_, mixed_, gate_, up_, logits_;
};

}  // namespace kvt::decode
