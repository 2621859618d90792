// SPDX-License-Identifier: Apache-2.0
//
// Content keys of the blocks of one sequence: a chain, so that equal keys mean equal tokens from the
// beginning on, with everything folded in that their KV data depends on besides the model: attention, tokens
// of a block, salt, what computes the attention. (The model is the arena's fingerprint.) Not thread-safe.
#pragma once

#include <kvtier/kvtier.h>

#include <array>
#include <span>
#include <string_view>
#include <vector>

#include "tools/kvtier-decode/attention.h"
#include "tools/kvtier-decode/model.h"

namespace kvt::decode {

class KeyChain {
 public:
  /// `arithmetic`: what computes the attention, where it is not this CPU's: its sums and exponentials may differ in
  /// their last bits, and so may the KV data of the layers above.
  KeyChain(AttentionKind attention, uint32_t block_tokens, uint64_t salt, std::string_view arithmetic = {});

  /// Keys of the first `blocks` blocks of a sequence that only grows. REQUIRES: blocks * block_tokens <=
  /// tokens.size().
  std::span<const kvt_key> keys(std::span<const Token> tokens, size_t blocks);

 private:
  uint32_t block_tokens_;
  kvt_key root_;
  std::vector<kvt_key> keys_;
};

/// What makes KV data of two programs incompatible: model and layout.
std::array<uint8_t, 32> fingerprint_of(const Model& model, const KvLayout& layout);

}  // namespace kvt::decode
