// SPDX-License-Identifier: Apache-2.0
//
// The private state of every frame of an arena. Keeper loop only.
//
//        take()            name()             unname(), last one         release()
//   FREE ------> RESERVED ------> NAMED (n) ----------------> LIMBO ------------> FREE
//                    |  cancel()                                        (pinned: waits for unpin)
//                    +-------> FREE
//
// retire() says that a frame's memory is bad: where it would become FREE, it is RETIRED instead, for good.
// limit() closes the end of a tier: where a frame there would become FREE, it is ASIDE, until it is opened again.
//
// A frame is NAMED while n words of rows (placements, shadows and offers of all columns) name it. Every
// transition checks the one before (PROTOCOL A4). A frame that a copy reads from or writes to is pinned: it
// does not become FREE before the copy's completion has been taken.
#pragma once

#include <unordered_set>
#include <vector>

#include "daemon/keeper/lazy_array.h"
#include "shm/region/arena_table.h"

namespace kvt::keeper {

class FrameTable {
 public:
  struct Counts {
    uint64_t free = 0;
    uint64_t reserved = 0;
    uint64_t named = 0;
    uint64_t limbo = 0;
    uint64_t retired = 0;
    uint64_t aside = 0;
  };

  FrameTable() = default;
  explicit FrameTable(const ArenaTable& table);

  /// A free frame of the tier, RESERVED; kNoFrame when there is none.
  Frame take(uint32_t tier);
  /// Brings near what the next take() touches.
  [[gnu::always_inline]] void prefetch_free(uint32_t tier) const {
    if (const uint32_t head = tiers_[tier].head; head != UINT32_MAX) {
      __builtin_prefetch(&link_[head]);
      __builtin_prefetch(&bits_[head], 1);
    }
  }
  void cancel(Frame frame);
  /// One more word names the frame, for `page`.
  void name(Frame frame, PageIndex page);
  /// One word less. true: it was the last, the frame is in LIMBO now.
  [[nodiscard]] bool unname(Frame frame);
  /// Its grace period is over.
  void release(Frame frame);
  /// Its memory is bad: it is not taken again, at once where it is RESERVED (and not pinned; as cancel()), else when its
  /// grace period is over. false: that was known. REQUIRES: it is not FREE.
  bool retire(Frame frame);
  [[nodiscard]] bool is_bad(Frame frame) const {
    return !bad_.empty() && bad_.contains(frame);  // empty as long as the machine is well
  }
  /// Of both frames of a copy, until its completion is taken: a page may be moved again meanwhile (PROTOCOL A4).
  void pin(Frame frame);
  void unpin(Frame frame);

  /// The tier has so many frames from now on, of those that it began with; the ones at its end are not taken any more.
  /// More than before: they are free again, where nothing is in them. As many steps as there are free frames.
  void limit(uint32_t tier, uint64_t frames);
  /// Of those that may be taken: first_frame() to first_frame() + usable() - 1.
  [[nodiscard]] uint64_t usable(uint32_t tier) const { return tiers_[tier].usable; }
  [[nodiscard]] bool is_usable(Frame frame) const {
    const Tier& tier = tiers_[tier_of(frame)];
    return frame - tier.first < tier.usable;
  }

  // ---- adoption of rows that an earlier daemon has left; before anything else ----

  /// Whether a word of `page` may name the frame: no other page's word names it. REQUIRES: it is a frame of a tier.
  [[nodiscard]] bool can_adopt(Frame frame, PageIndex page) const;
  /// A word of `page` names it. REQUIRES: can_adopt().
  void adopt(Frame frame, PageIndex page);
  /// Every frame that no word names is in LIMBO from now on; `visit(frame)` for each.
  template <typename Visit>
  void strand_the_rest(Visit&& visit) {
    for (Tier& tier : tiers_) {
      for (uint64_t i = 0; i < tier.frames; ++i) {
        const auto frame = static_cast<Frame>(tier.first + i);
        if (bits_[frame] != kFree) continue;
        set_state(frame, kLimbo);
        --tier.counts.free;
        ++tier.counts.limbo;
        visit(frame);
      }
      tier.never_used = tier.fresh_end = tier.frames;
    }
  }

  [[nodiscard]] const Counts& counts(uint32_t tier) const { return tiers_[tier].counts; }
  [[nodiscard]] uint32_t tier_of(Frame frame) const;
  /// The page that a NAMED frame belongs to; kNoPage for any other frame.
  static constexpr PageIndex kNoPage = UINT32_MAX;
  [[nodiscard]] PageIndex page_of(Frame frame) const {
    return state(frame) == kNamed ? link_[frame] : kNoPage;
  }
  [[nodiscard]] uint64_t first_frame(uint32_t tier) const { return tiers_[tier].first; }
  [[nodiscard]] uint64_t frames(uint32_t tier) const { return tiers_[tier].frames; }
  /// Frames in the free lists, counted by walking them: what an audit compares with counts().
  [[nodiscard]] uint64_t walk_free(uint32_t tier) const;
  /// Fault to order for tests: the next release() forgets its frame.
  void leak_next() { leak_next_ = true; }

 private:
  static constexpr uint8_t kFree = 0;
  static constexpr uint8_t kReserved = 1;
  static constexpr uint8_t kNamed = 2;
  static constexpr uint8_t kLimbo = 3;
  static constexpr uint8_t kStateMask = 3;
  static constexpr uint8_t kPinned = 4;
  static constexpr uint8_t kReleased = 8;  // its grace period ended while it was pinned
  static constexpr uint8_t kRetired = kFree | kReleased;
  static constexpr uint8_t kAside = kFree | kPinned;
  static constexpr uint8_t kNameStep = 16;
  static_assert(KVT_MAX_COLUMNS + 1 < 16,
                "the names of a frame fit 4 bits: one word a column, and one more in a switch");

  struct Tier {
    uint64_t first = 0;
    uint64_t frames = 0;
    uint64_t usable = 0;      // frames from here on are not taken
    uint64_t never_used = 0;  // frames from here to fresh_end were never taken: first + never_used ...
    uint64_t fresh_end = 0;
    uint32_t head = UINT32_MAX;
    Counts counts;
  };

  [[nodiscard]] uint8_t state(Frame frame) const { return bits_[frame] & kStateMask; }
  void set_state(Frame frame, uint8_t state) {
    bits_[frame] = static_cast<uint8_t>((bits_[frame] & ~kStateMask) | state);
  }
  void put(Frame frame);

  std::vector<Tier> tiers_;
  std::unordered_set<Frame> bad_;  // the retired ones, and those that will be
  LazyArray<uint8_t> bits_;        // state, pinned, number of names
  LazyArray<uint32_t> link_;       // FREE: next free frame; NAMED: page
  bool leak_next_ = false;
};

// ---- inline: several of these for each page that is taken or freed ----

inline uint32_t FrameTable::tier_of(Frame frame) const {
  auto tier = static_cast<uint32_t>(tiers_.size() - 1);
  while (tier != 0 && frame < tiers_[tier].first) --tier;
  KVT_CHECK(frame - tiers_[tier].first < tiers_[tier].frames);
  return tier;
}

inline bool FrameTable::can_adopt(Frame frame, PageIndex page) const {
  return state(frame) == kFree ||
         (state(frame) == kNamed && link_[frame] == page && bits_[frame] / kNameStep < 15);
}

inline void FrameTable::adopt(Frame frame, PageIndex page) {
  if (state(frame) == kFree) {
    Tier& tier = tiers_[tier_of(frame)];
    --tier.counts.free;
    ++tier.counts.named;
    set_state(frame, kNamed);
    link_[frame] = page;
  }
  KVT_CHECK(state(frame) == kNamed && link_[frame] == page);
  bits_[frame] = static_cast<uint8_t>(bits_[frame] + kNameStep);
}

inline Frame FrameTable::take(uint32_t tier_index) {
  Tier& tier = tiers_[tier_index];
  Frame frame = kNoFrame;
  if (tier.head != UINT32_MAX) {
    frame = tier.head;
    tier.head = link_[frame];
  } else if (tier.never_used < tier.fresh_end) {
    frame = static_cast<Frame>(tier.first + tier.never_used++);
  } else {
    return kNoFrame;
  }
  KVT_CHECK(bits_[frame] == kFree);
  bits_[frame] = kReserved;
  --tier.counts.free;
  ++tier.counts.reserved;
  return frame;
}

inline void FrameTable::put(Frame frame) {
  Tier& tier = tiers_[tier_of(frame)];
  if (frame - tier.first >= tier.usable) {  // a bad one, too: it is retired when it is opened
    bits_[frame] = kAside;
    ++tier.counts.aside;
    return;
  }
  if (is_bad(frame)) {
    bits_[frame] = kRetired;
    ++tier.counts.retired;
    return;
  }
  bits_[frame] = kFree;
  if (leak_next_) {
    leak_next_ = false;  // counted as free, but in no list: walk_free() finds it
    ++tier.counts.free;
    return;
  }
  link_[frame] = tier.head;
  tier.head = frame;
  ++tier.counts.free;
}

inline void FrameTable::name(Frame frame, PageIndex page) {
  Tier& tier = tiers_[tier_of(frame)];
  if (state(frame) == kReserved) {
    --tier.counts.reserved;
    ++tier.counts.named;
    set_state(frame, kNamed);
    link_[frame] = page;
  }
  KVT_CHECK(state(frame) == kNamed && link_[frame] == page);
  KVT_CHECK(bits_[frame] / kNameStep < 15);
  bits_[frame] = static_cast<uint8_t>(bits_[frame] + kNameStep);
}

inline bool FrameTable::unname(Frame frame) {
  KVT_CHECK(state(frame) == kNamed && bits_[frame] / kNameStep > 0);
  bits_[frame] = static_cast<uint8_t>(bits_[frame] - kNameStep);
  if (bits_[frame] / kNameStep != 0) return false;
  Tier& tier = tiers_[tier_of(frame)];
  --tier.counts.named;
  ++tier.counts.limbo;
  set_state(frame, kLimbo);
  return true;
}

inline void FrameTable::release(Frame frame) {
  KVT_CHECK(state(frame) == kLimbo);
  if ((bits_[frame] & kPinned) != 0) {
    bits_[frame] |= kReleased;
    return;
  }
  --tiers_[tier_of(frame)].counts.limbo;
  put(frame);
}

}  // namespace kvt::keeper
