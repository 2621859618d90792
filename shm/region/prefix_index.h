// SPDX-License-Identifier: Apache-2.0
//
// The prefix index: 128-bit content key -> page. Open addressing with linear probing, one 64-bit word a slot:
// page (32) | generation (24) | tag of the key (8); 0 is empty. One writer (the keeper loop), readers without
// a lock.
//
// It is a hint (PROTOCOL A7): it may miss a key that is there (a reader that races with a deletion, or a key
// that found no slot within KVT_INDEX_PROBES), and never decides: the reader holds the page and compares the
// page's own key. So deletion shifts entries back instead of leaving tombstones, and there is no rebuilding
// (docs/decisions/0003-index-deletion.md). It is rebuilt from the rows after a restart.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "shm/region/arena_table.h"

namespace kvt {

class PrefixIndex {
 public:
  PrefixIndex() = default;
  explicit PrefixIndex(const ArenaTable& table)
      : slots_(reinterpret_cast<uint64_t*>(table.data() + table.header().index_offset)),
        mask_(table.header().index_slots - 1) {}

  /// Slots for an arena of `pages`: a power of two, filled to 3/4 at most.
  static uint64_t slots_for(uint64_t pages);

  [[nodiscard]] static uint64_t hash(Key key) {
    uint64_t h = (key.lo ^ (key.hi * 0x9e3779b97f4a7c15ull)) * 0xff51afd7ed558ccdull;
    return h ^ (h >> 32);
  }
  [[gnu::always_inline]] void prefetch(uint64_t hash) const { __builtin_prefetch(&slots_[hash & mask_]); }

  /// Calls `visit(page, generation)` for each entry that may have the key, until it returns true. Returns
  /// whether one did.
  template <typename Visit>
  bool find(uint64_t hash, Visit&& visit) const {
    const uint64_t tag = tag_of(hash);
    for (uint64_t probe = 0; probe < KVT_INDEX_PROBES; ++probe) {
      const uint64_t word = load_acquire(slots_[(hash + probe) & mask_]);
      if (word == 0) return false;
      if ((word >> 56) == tag &&
          visit(static_cast<PageIndex>(word), static_cast<uint32_t>(word >> 32) & 0xffffffu))
        return true;
    }
    return false;
  }

  // ---- the keeper loop alone ----

  enum class Insert { kInserted, kNoSlot };
  Insert insert(Key key, PageIndex page, uint32_t generation);
  /// Takes the entry of this page out. `key_of(page)` gives the key of any page in the index.
  template <typename KeyOf>
  bool erase(Key key, PageIndex page, KeyOf&& key_of);
  void clear();
  /// How many of the pages `begin` to `end` have a key, when a reader finds each of them; nothing: one is not found.
  /// `generation_of(page)`: kNotKeyed of a page without a key. Looks at pages in their order: only the index is at random.
  /// Changes nothing: threads may share the pages among them.
  template <typename GenerationOf, typename KeyOf>
  [[nodiscard]] std::optional<uint64_t> find_each(uint64_t begin, uint64_t end, GenerationOf&& generation_of,
                                                  KeyOf&& key_of) const;
  /// Slots that are not empty.
  [[nodiscard]] uint64_t entries() const;
  static constexpr uint32_t kNotKeyed = UINT32_MAX;

 private:
  static uint64_t tag_of(uint64_t hash) { return ((hash >> 48) & 0xff) | 0x80; }
  static uint64_t encode(uint64_t hash, PageIndex page, uint32_t generation) {
    return (tag_of(hash) << 56) | (static_cast<uint64_t>(generation & 0xffffffu) << 32) | page;
  }

  uint64_t* slots_ = nullptr;
  uint64_t mask_ = 0;
};

template <typename KeyOf>
bool PrefixIndex::erase(Key key, PageIndex page, KeyOf&& key_of) {
  const uint64_t home = hash(key);
  uint64_t hole = UINT64_MAX;
  for (uint64_t probe = 0; probe < KVT_INDEX_PROBES; ++probe) {
    const uint64_t word = load_relaxed(slots_[(home + probe) & mask_]);
    if (word == 0) return false;
    if (static_cast<PageIndex>(word) == page && (word >> 56) == tag_of(home)) {
      hole = (home + probe) & mask_;
      break;
    }
  }
  if (hole == UINT64_MAX) return false;
  // Shift back what may move: an entry stays findable from its home slot. It is written to its new slot
  // before the old one is overwritten, so a reader sees it once or twice or, having passed the hole, misses
  // it once.
  for (uint64_t at = (hole + 1) & mask_;; at = (at + 1) & mask_) {
    const uint64_t word = load_relaxed(slots_[at]);
    if (word == 0) break;
    const uint64_t wanted = hash(key_of(static_cast<PageIndex>(word))) & mask_;
    if (((at - wanted) & mask_) >= ((at - hole) & mask_)) {
      store_release(slots_[hole], word);
      hole = at;
    }
  }
  store_release(slots_[hole], uint64_t{0});
  return true;
}

template <typename GenerationOf, typename KeyOf>
std::optional<uint64_t> PrefixIndex::find_each(uint64_t begin, uint64_t end, GenerationOf&& generation_of,
                                               KeyOf&& key_of) const {
  constexpr uint64_t kAhead = 32;  // a power of two
  std::array<uint64_t, kAhead> hashes{};
  const auto bring = [&](uint64_t page) __attribute__((always_inline)) {
    if (page >= end || generation_of(static_cast<PageIndex>(page)) == kNotKeyed) return;
    hashes[page % kAhead] = hash(key_of(static_cast<PageIndex>(page)));
    prefetch(hashes[page % kAhead]);
  };
  for (uint64_t page = begin; page < begin + kAhead; ++page) bring(page);
  uint64_t found = 0;
  for (uint64_t i = begin; i < end; ++i) {
    const auto page = static_cast<PageIndex>(i);
    const uint64_t home = hashes[i % kAhead];
    bring(i + kAhead);
    const uint32_t generation = generation_of(page);
    if (generation == kNotKeyed) continue;
    const uint64_t wanted = encode(home, page, generation);
    uint64_t probe = 0;
    while (probe < KVT_INDEX_PROBES) {
      const uint64_t word = load_relaxed(slots_[(home + probe) & mask_]);
      if (word == wanted) break;
      if (word == 0) return std::nullopt;
      ++probe;
    }
    if (probe == KVT_INDEX_PROBES) return std::nullopt;
    ++found;
  }
  return found;
}

inline uint64_t PrefixIndex::entries() const {
  uint64_t entries = 0;
  for (uint64_t at = 0; at <= mask_; ++at) entries += load_relaxed(slots_[at]) != 0 ? 1 : 0;
  return entries;
}

}  // namespace kvt
