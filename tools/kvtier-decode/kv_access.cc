// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/kv_access.h"

#include <algorithm>
#include <cmath>

#include "tools/kvtier-decode/kernels.h"

namespace kvt::decode {

void HostAccess::store(const KvView& view, size_t layer, size_t position, const float* keys,
                       const float* values) {
  float* const block = view.current_layer(layer);
  const size_t slot = position % layout_.block_tokens;
  for (size_t kv_head = 0; kv_head < layout_.kv_heads; ++kv_head) {
    const size_t at = kv_head * layout_.head_dim;
    std::copy_n(keys + at, layout_.head_dim, block + layout_.key(kv_head, slot));
    std::copy_n(values + at, layout_.head_dim, block + layout_.value(kv_head, slot));
  }
}

void HostAccess::attend(float* out, const float* queries, const KvView& view, size_t layer, size_t position,
                        const ChosenBlocks& chosen, std::vector<float>* probabilities) {
  const size_t group = shape_.heads_of_kv_head();
  const float scale = 1 / std::sqrt(static_cast<float>(layout_.head_dim));
  const auto tokens_in = [&](uint32_t block) {
    return std::min<size_t>(layout_.block_tokens, position + 1 - size_t{block} * layout_.block_tokens);
  };
  if (probabilities != nullptr) probabilities->clear();
  for (size_t head = 0; head < shape_.heads; ++head) {
    const size_t kv_head = head / group;
    const float* const query = queries + head * layout_.head_dim;
    scores_.clear();
    for (const uint32_t block : chosen.of(kv_head)) {
      const float* const keys = view.layer(block, layer) + layout_.key(kv_head, 0);
      const size_t tokens = tokens_in(block);
      for (size_t token = 0; token < tokens; ++token)
        scores_.push_back(dot(query, keys + token * layout_.head_dim, layout_.head_dim) * scale);
    }
    softmax(scores_.data(), scores_.size());
    float* const sum = out + head * layout_.head_dim;
    std::fill_n(sum, layout_.head_dim, 0.0f);
    const float* probability = scores_.data();
    for (const uint32_t block : chosen.of(kv_head)) {
      const float* const values = view.layer(block, layer) + layout_.value(kv_head, 0);
      const size_t tokens = tokens_in(block);
      for (size_t token = 0; token < tokens; ++token)
        add_scaled(sum, values + token * layout_.head_dim, *probability++, layout_.head_dim);
    }
    if (probabilities != nullptr) probabilities->insert(probabilities->end(), scores_.begin(), scores_.end());
  }
}

}  // namespace kvt::decode
