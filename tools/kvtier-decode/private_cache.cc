// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/private_cache.h"

namespace kvt::decode {

size_t PrivateCache::prepare(std::span<const Token> /*tokens*/) {
  if (length_ == blocks_.size() * layout_.block_tokens) {
    blocks_.push_back(std::make_unique<std::byte[]>(layout_.layers * layout_.layer_bytes()));
    addresses_.push_back(blocks_.back().get());
  }
  return length_;
}

KvView PrivateCache::begin_step() { return {addresses_, blocks_.back().get(), layout_.layer_bytes()}; }

void PrivateCache::end_step(std::span<const Token> /*tokens*/, std::span<const uint32_t> /*blocks_read*/) {
  ++length_;
}

}  // namespace kvt::decode
