// SPDX-License-Identifier: Apache-2.0
//
// Which pages each step of a sparse decode reads: modelled, from a seed, the same for everybody who asks. Values.
//
// Every sequence reads its first block, its last four, and a content set. The set's members come by a Zipf-like
// popularity, and a share of them is replaced now and then; besides, a share of the set is another one in each step, for
// that step alone, as the choice by scores of a query has it. Popularities drift, too: at each replacement two blocks of
// a sequence exchange theirs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <span>
#include <utility>
#include <vector>

namespace kvt::loop {

struct ReadsShape {
  uint32_t sequences = 0;
  uint32_t blocks = 0;       ///< of a sequence
  uint32_t read_blocks = 0;  ///< of a sequence in a step
  uint32_t steps = 0;
  uint32_t drift_steps = 1;  ///< from one replacement to the next
  double drift_share = 0;    ///< of the content set, which is replaced then
  double flicker_share = 0;  ///< of the content set, which is another one in each step
  double zipf = 0;           ///< popularity of rank r is (r + 1)^-zipf
  uint64_t seed = 1;
};

/// The blocks at the end that every step reads.
inline constexpr uint32_t kRecentBlocks = 4;

class Reads {
 public:
  /// REQUIRES: kRecentBlocks + 2 <= read_blocks, 2 * read_blocks <= blocks.
  explicit Reads(const ReadsShape& shape) : shape_(shape), random_(shape.seed) {
    const uint32_t content_blocks = shape.blocks - 1 - kRecentBlocks;
    const uint32_t set_blocks = shape.read_blocks - 1 - kRecentBlocks;
    popularity_.resize(content_blocks);
    for (uint32_t i = 0; i < content_blocks; ++i) popularity_[i] = std::pow(i + 1.0, -shape.zipf);
    std::partial_sum(popularity_.begin(), popularity_.end(), popularity_.begin());
    std::vector<Sequence> sequences(shape.sequences);
    for (Sequence& sequence : sequences) {
      sequence.block_of_rank.resize(content_blocks);
      std::iota(sequence.block_of_rank.begin(), sequence.block_of_rank.end(), 1u);
      std::shuffle(sequence.block_of_rank.begin(), sequence.block_of_rank.end(), random_);
      sequence.chosen.assign(shape.blocks, 0);
      while (sequence.set.size() < set_blocks) sequence.set.push_back(draw(sequence));
    }
    pages_.reserve(size_t{shape.steps} * shape.sequences * shape.read_blocks);
    std::vector<uint32_t> read_in(size_t{shape.sequences} * shape.blocks, UINT32_MAX);
    uint64_t fresh = 0;
    for (uint32_t step = 0; step < shape.steps; ++step)
      for (uint32_t s = 0; s < shape.sequences; ++s) {
        Sequence& sequence = sequences[s];
        if (step != 0 && step % shape.drift_steps == 0) replace(sequence);
        const size_t at = pages_.size();
        pages_.push_back(page(s, 0));
        for (uint32_t i = 0; i < kRecentBlocks; ++i) pages_.push_back(page(s, shape.blocks - 1 - i));
        const size_t content_at = pages_.size();
        for (const uint32_t block : sequence.set) pages_.push_back(page(s, block));
        flicker(sequence, s, content_at);
        for (size_t i = at; i < pages_.size(); ++i) {
          fresh += step != 0 && read_in[pages_[i]] != step - 1 ? 1 : 0;
          read_in[pages_[i]] = step;
        }
      }
    fresh_share_ = static_cast<double>(fresh) / static_cast<double>(std::max<size_t>(pages_.size(), 1));
  }

  /// [sequences][read_blocks] page numbers. Page number = block * sequences + sequence: in this order they are written.
  [[nodiscard]] std::span<const uint32_t> at(uint32_t step) const {
    const size_t n = pages_of_step();
    return std::span(pages_).subspan(step * n, n);
  }
  [[nodiscard]] size_t pages_of_step() const { return size_t{shape_.sequences} * shape_.read_blocks; }
  /// Of the pages of a step, those that the step before did not read.
  [[nodiscard]] double fresh_share() const { return fresh_share_; }
  [[nodiscard]] const ReadsShape& shape() const { return shape_; }

 private:
  struct Sequence {
    std::vector<uint32_t> block_of_rank;
    std::vector<uint32_t> set;
    std::vector<uint8_t> chosen;  ///< by block: in the set, or in this step besides
  };

  [[nodiscard]] uint32_t page(uint32_t sequence, uint32_t block) const {
    return block * shape_.sequences + sequence;
  }
  double uniform() { return static_cast<double>(random_() >> 11) * 0x1p-53; }
  uint32_t below(size_t bound) { return static_cast<uint32_t>(uniform() * static_cast<double>(bound)); }
  /// A share of n: the whole part, and one more with the probability of the rest.
  uint32_t share_of(double share, size_t n) {
    return static_cast<uint32_t>(share * static_cast<double>(n) + uniform());
  }

  /// A block that is not chosen yet; chooses it.
  uint32_t draw(Sequence& sequence) {
    for (;;) {
      const auto found =
          std::upper_bound(popularity_.begin(), popularity_.end(), uniform() * popularity_.back());
      const auto rank =
          std::min<size_t>(static_cast<size_t>(found - popularity_.begin()), popularity_.size() - 1);
      const uint32_t block = sequence.block_of_rank[rank];
      if (sequence.chosen[block] != 0) continue;
      sequence.chosen[block] = 1;
      return block;
    }
  }
  void replace(Sequence& sequence) {
    for (uint32_t n = share_of(shape_.drift_share, sequence.set.size()); n > 0; --n) {
      uint32_t& member = sequence.set[below(sequence.set.size())];
      sequence.chosen[member] = 0;
      member = draw(sequence);
    }
    const uint32_t first = below(sequence.block_of_rank.size());
    const uint32_t second = below(sequence.block_of_rank.size());
    std::swap(sequence.block_of_rank[first], sequence.block_of_rank[second]);
  }
  void flicker(Sequence& sequence, uint32_t s, size_t content_at) {
    guests_.clear();
    for (uint32_t n = share_of(shape_.flicker_share, sequence.set.size()); n > 0; --n) {
      guests_.push_back(draw(sequence));
      pages_[content_at + below(sequence.set.size())] = page(s, guests_.back());
    }
    for (const uint32_t block : guests_) sequence.chosen[block] = 0;
  }

  ReadsShape shape_;
  std::mt19937_64 random_;
  std::vector<double> popularity_;  // sums, by rank
  std::vector<uint32_t> pages_;
  std::vector<uint32_t> guests_;
  double fresh_share_ = 0;
};

}  // namespace kvt::loop
