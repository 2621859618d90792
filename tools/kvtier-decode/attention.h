// SPDX-License-Identifier: Apache-2.0
//
// Attention of one token over the blocks of its sequence: dense, or over those blocks that can matter most.
//
// Top-k (the page attention of Quest, arXiv 2406.10774): of each full block and KV head the least and the
// greatest value of each key dimension are kept. sum_d max(q_d * least_d, q_d * greatest_d) is an upper bound
// of q . k for every key of the block. Each KV head reads the `pages` blocks with the highest bounds (the
// highest among its query heads), and always the first block and the last two.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tools/kvtier-decode/kv_access.h"
#include "tools/kvtier-decode/kv_layout.h"

namespace kvt::decode {

inline constexpr uint32_t kTopPagesDefault = 8;
inline constexpr uint32_t kRecentBlocks = 2;  ///< the one that is being written, and the one before

struct AttentionKind {
  bool top_k = false;
  uint32_t pages = 0;  ///< K; 0 with dense

  /// "dense", "topk" or "topk:K"; nothing when it is something else.
  static std::optional<AttentionKind> parse(std::string_view text);
  [[nodiscard]] std::string text() const;
};

/// Least and greatest keys of the full blocks of one sequence. A function of the keys, so it can be made for
/// blocks that another process has computed. Not thread-safe.
class Summaries {
 public:
  explicit Summaries(const KvLayout& layout) : layout_(layout) {}

  [[nodiscard]] size_t blocks() const;
  /// Forgets all but the first `blocks`.
  void truncate(size_t blocks);
  /// Makes those that are missing of the first `blocks` blocks of `view`. REQUIRES: they are full.
  void extend(KvAccess& access, const KvView& view, size_t blocks);
  [[nodiscard]] const float* least(size_t block, size_t layer, size_t kv_head) const;
  [[nodiscard]] const float* greatest(size_t block, size_t layer, size_t kv_head) const {
    return least(block, layer, kv_head) + layout_.head_dim;
  }

 private:
  [[nodiscard]] size_t block_floats() const {
    return size_t{2} * layout_.layers * layout_.kv_heads * layout_.head_dim;
  }

  KvLayout layout_;
  std::vector<float> values_;  ///< [block][layer][kv head]{least, greatest}[head_dim]
};

/// How much of the attention of dense heads lies in the blocks that top-k would have read.
struct AttentionMass {
  uint32_t pages = 0;    ///< K
  uint64_t samples = 0;  ///< (step, layer, query head), of steps where top-k would have left blocks out
  double in_pages = 0;   ///< sum over samples: share of the probability
  /// Sum over samples: share of the tokens, which is what uniform attention would give
  double of_tokens = 0;
};

/// Which blocks a step has read: for each layer and block, the number of KV heads that read it.
class StepReads {
 public:
  void begin(size_t layers, size_t blocks);
  void add(size_t layer, size_t block) { ++heads_[layer * blocks_ + block]; }
  [[nodiscard]] size_t layers() const { return layers_; }
  [[nodiscard]] size_t blocks() const { return blocks_; }
  [[nodiscard]] uint32_t heads(size_t layer, size_t block) const { return heads_[layer * blocks_ + block]; }
  /// Blocks that any layer has read, in order.
  void collect(std::vector<uint32_t>& blocks) const;

 private:
  size_t layers_ = 0;
  size_t blocks_ = 0;
  std::vector<uint16_t> heads_;
};

/// Attention with its working memory. Not thread-safe.
class Attention {
 public:
  /// `access` outlives the object.
  Attention(const Shape& shape, const KvLayout& layout, AttentionKind kind, KvAccess& access)
      : shape_(shape), layout_(layout), kind_(kind), access_(access) {}

  /// out[heads][head_dim] of the query at `position`, whose own key and value are in `view` already.
  /// REQUIRES: with top-k or `mass`, summaries of all blocks before the last.
  void attend(float* out, const float* queries, size_t layer, size_t position, const KvView& view,
              const Summaries& summaries, StepReads& reads, AttentionMass* mass);

 private:
  void choose(ChosenBlocks& chosen, const float* queries, size_t layer, size_t kv_head, size_t blocks,
              uint32_t pages, const Summaries& summaries);
  void measure(AttentionMass& mass, const float* queries, size_t layer, size_t position,
               const Summaries& summaries);

  Shape shape_;
  KvLayout layout_;
  AttentionKind kind_;
  KvAccess& access_;
  ChosenBlocks chosen_;
  ChosenBlocks measured_;             ///< with mass: what top-k would have chosen
  std::vector<float> probabilities_;  ///< with mass: [head][token]
  struct Bound {
    float score;
    uint32_t block;
  };
  std::vector<Bound> bounds_;
};

}  // namespace kvt::decode
