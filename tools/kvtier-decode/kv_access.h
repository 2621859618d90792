// SPDX-License-Identifier: Apache-2.0
//
// The part of the forward pass that touches KV data: where the data can be read decides who does it. Everything else
// of a layer gets and gives ordinary memory of this process. Not thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tools/kvtier-decode/kv_layout.h"

namespace kvt::decode {

/// Which blocks the KV heads of a layer read, ascending. The sequence's last block is read by every head.
struct ChosenBlocks {
  std::vector<uint32_t> blocks;  ///< of all KV heads, one after the other
  std::vector<uint32_t> first;   ///< KV head h has blocks[first[h]] to blocks[first[h + 1] - 1]

  void clear() {
    blocks.clear();
    first.assign(1, 0);
  }
  void end_head() { first.push_back(static_cast<uint32_t>(blocks.size())); }
  [[nodiscard]] std::span<const uint32_t> of(size_t kv_head) const {
    return std::span(blocks).subspan(first[kv_head], first[kv_head + 1] - first[kv_head]);
  }
};

class KvAccess {
 public:
  virtual ~KvAccess() = default;
  /// Writes key and value [kv_heads][head_dim] of `position` into the current block.
  virtual void store(const KvView& view, size_t layer, size_t position, const float* keys,
                     const float* values) = 0;
  /// out[heads][head_dim] of the queries at `position` over the chosen blocks. `probabilities`: null, or what each
  /// query head gave each token of its blocks, [heads][tokens]; the heads must read the same number of blocks then.
  virtual void attend(float* out, const float* queries, const KvView& view, size_t layer, size_t position,
                      const ChosenBlocks& chosen, std::vector<float>* probabilities) = 0;
  /// The keys of a block's layer, [kv_heads][block_tokens][head_dim]; good until the next call.
  virtual const float* keys(const KvView& view, size_t block, size_t layer) = 0;
};

/// KV data that this CPU reads and writes where it is.
class HostAccess : public KvAccess {
 public:
  HostAccess(const Shape& shape, const KvLayout& layout) : shape_(shape), layout_(layout) {}

  void store(const KvView& view, size_t layer, size_t position, const float* keys,
             const float* values) override;
  void attend(float* out, const float* queries, const KvView& view, size_t layer, size_t position,
              const ChosenBlocks& chosen, std::vector<float>* probabilities) override;
  const float* keys(const KvView& view, size_t block, size_t layer) override {
    return view.layer(block, layer);
  }

 private:
  Shape shape_;
  KvLayout layout_;
  std::vector<float> scores_;
};

}  // namespace kvt::decode
