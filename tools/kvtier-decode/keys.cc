// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/keys.h"

#include <cstring>

#include "tools/kvtier-decode/digest.h"

namespace kvt::decode {
namespace {

/// Raised when the same inputs give other KV data or another layout than before.
constexpr uint64_t kDataVersion = 1;

}  // namespace

KeyChain::KeyChain(AttentionKind attention, uint32_t block_tokens, uint64_t salt, std::string_view arithmetic)
    : block_tokens_(block_tokens) {
  const uint64_t numbers[] = {kDataVersion, attention.top_k ? 1u : 0u, attention.pages, block_tokens, salt};
  Digest root = digest_of(numbers, sizeof numbers, {});
  if (!arithmetic.empty()) root = digest_of(arithmetic.data(), arithmetic.size(), root);
  root_ = {root.lo, root.hi};
}

std::span<const kvt_key> KeyChain::keys(std::span<const Token> tokens, size_t blocks) {
  while (keys_.size() < blocks) {
    const kvt_key before = keys_.empty() ? root_ : keys_.back();
    const auto block = tokens.subspan(keys_.size() * block_tokens_, block_tokens_);
    const Digest digest = digest_of(block.data(), block.size_bytes(), {before.lo, before.hi});
    keys_.push_back({digest.lo | 1, digest.hi});  // {0,0} is no key
  }
  return std::span(keys_).first(blocks);
}

std::array<uint8_t, 32> fingerprint_of(const Model& model, const KvLayout& layout) {
  const auto digest = model.digest();
  const uint32_t numbers[] = {layout.layers, layout.kv_heads, layout.head_dim, layout.block_tokens};
  const Digest of_layout = digest_of(numbers, sizeof numbers, {kDataVersion, 0});
  std::array<uint8_t, 32> fingerprint{};
  std::memcpy(fingerprint.data(), digest.data(), 16);
  std::memcpy(fingerprint.data() + 16, &of_layout, 16);
  return fingerprint;
}

}  // namespace kvt::decode
