// SPDX-License-Identifier: Apache-2.0
//
// What every row about N pages agrees on: the content key of page number i, and the random order in which
// pages are visited. A row and its baseline visit the same numbers in the same order. Pure functions;
// thread-safe.
#pragma once

#include <kvtier/kvtier.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace kvt::bench {

/// Pages that a row hands to one call: a block table of 64 sequences of some 16 blocks.
inline constexpr uint64_t kBatch = 1024;
/// Visits before the order repeats, at most: of 10 million pages each batch then still misses every cache.
inline constexpr uint64_t kVisitsMax = uint64_t{1} << 22;

/// splitmix64's finalizer: a bijection, so different i give different values.
constexpr uint64_t mix(uint64_t i) {
  i += 0x9e3779b97f4a7c15ull;
  i = (i ^ (i >> 30)) * 0xbf58476d1ce4e5b9ull;
  i = (i ^ (i >> 27)) * 0x94d049bb133111ebull;
  return i ^ (i >> 31);
}

/// Distinct for distinct numbers, and never {0,0}: hi is 0 for one number only, lo for another.
constexpr kvt_key key_of(uint64_t number) { return kvt_key{mix(number), mix(~number)}; }

/// Page numbers 0 .. pages-1 in random order, each drawn anew; a multiple of kBatch of them. REQUIRES: pages
/// < 2^32.
inline std::vector<uint32_t> visits(uint64_t pages) {
  const uint64_t length = std::max(kBatch, std::min(pages, kVisitsMax) / kBatch * kBatch);
  std::vector<uint32_t> order(length);
  for (uint64_t i = 0; i < length; ++i)
    order[i] = static_cast<uint32_t>(((mix(i ^ (pages << 32)) >> 32) * pages) >> 32);
  return order;
}

/// Walks through visits() batch by batch, round and round, and goes on where the last run of the row stopped.
class BatchCursor {
 public:
  explicit BatchCursor(uint64_t length) : batches_(length / kBatch) {}
  /// First visit of the next batch.
  uint64_t next() {
    const uint64_t first = batch_ * kBatch;
    batch_ = batch_ + 1 < batches_ ? batch_ + 1 : 0;
    return first;
  }
  [[nodiscard]] uint64_t batch() const { return batch_; }
  [[nodiscard]] uint64_t batches() const { return batches_; }

 private:
  uint64_t batches_;
  uint64_t batch_ = 0;
};

/// Sum over `count` batches that begin with batch `first`, when a batch's own sum is `sums[batch]`. Modulo
/// 2^64.
inline uint64_t sum_of_batches(const std::vector<uint64_t>& sums, uint64_t first, uint64_t count) {
  uint64_t round = 0;
  for (const uint64_t sum : sums) round += sum;
  uint64_t total = round * (count / sums.size());
  for (uint64_t i = 0; i < count % sums.size(); ++i) total += sums[(first + i) % sums.size()];
  return total;
}

}  // namespace kvt::bench
