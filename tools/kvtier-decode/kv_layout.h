// SPDX-License-Identifier: Apache-2.0
//
// How a block of tokens lies in memory, and the memory of one sequence as the forward pass sees it: addresses
// of blocks, wherever they are. A block has for each layer, `layer_stride` bytes apart:
//
//   keys   [kv head][token][head_dim]     (rotated)
//   values [kv head][token][head_dim]
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tools/kvtier-decode/model.h"

namespace kvt::decode {

struct KvLayout {
  uint32_t layers = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t block_tokens = 0;

  KvLayout() = default;
  KvLayout(const Shape& shape, uint32_t tokens)
      : layers(shape.layers), kv_heads(shape.kv_heads), head_dim(shape.head_dim), block_tokens(tokens) {}

  [[nodiscard]] size_t layer_floats() const { return size_t{2} * kv_heads * block_tokens * head_dim; }
  [[nodiscard]] size_t layer_bytes() const { return layer_floats() * sizeof(float); }
  /// Offsets in floats from the beginning of a layer.
  [[nodiscard]] size_t key(size_t kv_head, size_t token) const {
    return (kv_head * block_tokens + token) * head_dim;
  }
  [[nodiscard]] size_t value(size_t kv_head, size_t token) const {
    return layer_floats() / 2 + key(kv_head, token);
  }
};

/// One sequence's KV data during one step.
struct KvView {
  std::span<const std::byte* const> blocks;  ///< block b holds tokens b * block_tokens and on
  std::byte* current = nullptr;  ///< the last of them, to be written: it holds the step's position
  uint64_t layer_stride = 0;     ///< bytes

  [[nodiscard]] const float* layer(size_t block, size_t layer_index) const {
    return reinterpret_cast<const float*>(blocks[block] + layer_index * layer_stride);
  }
  [[nodiscard]] float* current_layer(size_t layer_index) const {
    return reinterpret_cast<float*>(current + layer_index * layer_stride);
  }
};

}  // namespace kvt::decode
