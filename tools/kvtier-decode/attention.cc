// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/attention.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace kvt::decode {

std::optional<AttentionKind> AttentionKind::parse(std::string_view text) {
  if (text == "dense") return AttentionKind{};
  if (text == "topk") return AttentionKind{true, kTopPagesDefault};
  constexpr std::string_view kPrefix = "topk:";
  if (!text.starts_with(kPrefix)) return std::nullopt;
  text.remove_prefix(kPrefix.size());
  uint32_t pages = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), pages);
  if (error != std::errc() || end != text.data() + text.size() || pages == 0) return std::nullopt;
  return AttentionKind{true, pages};
}

std::string AttentionKind::text() const { return top_k ? fmt::format("topk:{}", pages) : "dense"; }

size_t Summaries::blocks() const { return values_.size() / block_floats(); }

void Summaries::truncate(size_t blocks) { values_.resize(std::min(values_.size(), blocks * block_floats())); }

void Summaries::extend(KvAccess& access, const KvView& view, size_t blocks) {
  for (size_t block = this->blocks(); block < blocks; ++block) {
    for (size_t layer = 0; layer < layout_.layers; ++layer) {
      const float* const data = access.keys(view, block, layer);
      for (size_t kv_head = 0; kv_head < layout_.kv_heads; ++kv_head) {
        const size_t at = values_.size();
        const float* const first = data + layout_.key(kv_head, 0);
        values_.insert(values_.end(), first, first + layout_.head_dim);
        values_.insert(values_.end(), first, first + layout_.head_dim);
        for (size_t token = 1; token < layout_.block_tokens; ++token) {
          const float* const key = data + layout_.key(kv_head, token);
          for (size_t d = 0; d < layout_.head_dim; ++d) {
            float& least = values_[at + d];
            float& greatest = values_[at + layout_.head_dim + d];
            least = std::min(least, key[d]);
            greatest = std::max(greatest, key[d]);
          }
        }
      }
    }
  }
}

const float* Summaries::least(size_t block, size_t layer, size_t kv_head) const {
  return values_.data() + block * block_floats() +
         (layer * layout_.kv_heads + kv_head) * 2 * layout_.head_dim;
}

void StepReads::begin(size_t layers, size_t blocks) {
  layers_ = layers;
  blocks_ = blocks;
  heads_.assign(layers * blocks, 0);
}

void StepReads::collect(std::vector<uint32_t>& blocks) const {
  blocks.clear();
  for (size_t block = 0; block < blocks_; ++block) {
    for (size_t layer = 0; layer < layers_; ++layer) {
      if (heads(layer, block) == 0) continue;
      blocks.push_back(static_cast<uint32_t>(block));
      break;
    }
  }
}

/// Adds the KV head's blocks: all, or those that top-k with `pages` reads (0: all).
void Attention::choose(ChosenBlocks& chosen, const float* queries, size_t layer, size_t kv_head,
                       size_t blocks, uint32_t pages, const Summaries& summaries) {
  std::vector<uint32_t>& list = chosen.blocks;
  const size_t recent = blocks > kRecentBlocks ? blocks - kRecentBlocks : 0;  // the first of the recent ones
  if (pages == 0 || recent <= 1 + size_t{pages}) {
    for (size_t block = 0; block < blocks; ++block) list.push_back(static_cast<uint32_t>(block));
    return chosen.end_head();
  }
  bounds_.clear();
  const size_t group = shape_.heads_of_kv_head();
  for (size_t block = 1; block < recent; ++block) {
    const float* const least = summaries.least(block, layer, kv_head);
    const float* const greatest = summaries.greatest(block, layer, kv_head);
    float highest = -INFINITY;
    for (size_t head = 0; head < group; ++head) {
      const float* const query = queries + (kv_head * group + head) * layout_.head_dim;
      float bound = 0;
      for (size_t d = 0; d < layout_.head_dim; ++d)
        bound += std::max(query[d] * least[d], query[d] * greatest[d]);
      highest = std::max(highest, bound);
    }
    bounds_.push_back({highest, static_cast<uint32_t>(block)});
  }
  // Equal bounds: the earlier block, so that the choice is the same everywhere.
  std::nth_element(bounds_.begin(), bounds_.begin() + pages, bounds_.end(),
                   [](const Bound& a, const Bound& b) {
                     return a.score != b.score ? a.score > b.score : a.block < b.block;
                   });
  list.push_back(0);
  const auto best = static_cast<ptrdiff_t>(list.size());
  for (uint32_t i = 0; i < pages; ++i) list.push_back(bounds_[i].block);
  std::sort(list.begin() + best, list.end());
  for (size_t block = recent; block < blocks; ++block) list.push_back(static_cast<uint32_t>(block));
  chosen.end_head();
}

void Attention::attend(float* out, const float* queries, size_t layer, size_t position, const KvView& view,
                       const Summaries& summaries, StepReads& reads, AttentionMass* mass) {
  chosen_.clear();
  for (size_t kv_head = 0; kv_head < layout_.kv_heads; ++kv_head) {
    choose(chosen_, queries, layer, kv_head, view.blocks.size(), kind_.pages, summaries);
    for (const uint32_t block : chosen_.of(kv_head)) reads.add(layer, block);
  }
  access_.attend(out, queries, view, layer, position, chosen_, mass != nullptr ? &probabilities_ : nullptr);
  if (mass != nullptr) measure(*mass, queries, layer, position, summaries);
}

/// REQUIRES: dense attention, whose probabilities are in probabilities_.
void Attention::measure(AttentionMass& mass, const float* queries, size_t layer, size_t position,
                        const Summaries& summaries) {
  const size_t tokens = position + 1;
  const size_t blocks = position / layout_.block_tokens + 1;
  measured_.clear();
  for (size_t kv_head = 0; kv_head < layout_.kv_heads; ++kv_head)
    choose(measured_, queries, layer, kv_head, blocks, mass.pages, summaries);
  for (size_t head = 0; head < shape_.heads; ++head) {
    const auto chosen = measured_.of(head / shape_.heads_of_kv_head());
    if (chosen.size() == blocks) continue;
    const float* const probabilities = probabilities_.data() + head * tokens;
    double in_pages = 0;
    size_t in_tokens = 0;
    for (const uint32_t block : chosen) {
      const size_t first = size_t{block} * layout_.block_tokens;
      const size_t end = std::min(first + layout_.block_tokens, tokens);
      for (size_t token = first; token < end; ++token) in_pages += static_cast<double>(probabilities[token]);
      in_tokens += end - first;
    }
    ++mass.samples;
    mass.in_pages += in_pages;
    mass.of_tokens += static_cast<double>(in_tokens) / static_cast<double>(tokens);
  }
}

}  // namespace kvt::decode
