// SPDX-License-Identifier: Apache-2.0
#include "daemon/keeper/frame_table.h"

#include <algorithm>
#include <utility>

namespace kvt::keeper {

FrameTable::FrameTable(const ArenaTable& table) : bits_(table.header().frames), link_(table.header().frames) {
  for (uint32_t i = 0; i < table.tiers(); ++i) {
    Tier tier;
    tier.first = table.tier(i).first_frame;
    tier.frames = table.tier(i).frames;
    tier.counts.free = tier.usable = tier.fresh_end = tier.frames;
    tiers_.push_back(tier);
  }
}

void FrameTable::cancel(Frame frame) {
  KVT_CHECK(state(frame) == kReserved);
  --tiers_[tier_of(frame)].counts.reserved;
  put(frame);
}

bool FrameTable::retire(Frame frame) {
  KVT_CHECK(bits_[frame] != kFree);
  if (!bad_.insert(frame).second) return false;
  if (state(frame) != kReserved) return true;
  KVT_CHECK((bits_[frame] & kPinned) == 0);
  cancel(frame);
  return true;
}

void FrameTable::pin(Frame frame) {
  KVT_CHECK((bits_[frame] & kPinned) == 0 && state(frame) != kFree);
  bits_[frame] |= kPinned;
}

void FrameTable::unpin(Frame frame) {
  KVT_CHECK((bits_[frame] & kPinned) != 0);
  bits_[frame] = static_cast<uint8_t>(bits_[frame] & ~kPinned);
  if ((bits_[frame] & kReleased) != 0) {
    bits_[frame] = static_cast<uint8_t>(bits_[frame] & ~kReleased);
    release(frame);
  }
}

void FrameTable::limit(uint32_t tier_index, uint64_t frames) {
  Tier& tier = tiers_[tier_index];
  KVT_CHECK(frames <= tier.frames);
  const uint64_t before = std::exchange(tier.usable, frames);
  // Opened: those that were left alone.
  for (uint64_t at = before; at < frames; ++at) {
    const auto frame = static_cast<Frame>(tier.first + at);
    if (bits_[frame] != kAside) continue;
    --tier.counts.aside;
    put(frame);
  }
  if (frames >= before) return;
  for (const Frame frame : bad_)
    if (frame >= tier.first + frames && frame < tier.first + before && bits_[frame] == kRetired) {
      --tier.counts.retired;
      bits_[frame] = kAside;
      ++tier.counts.aside;
    }
  // Closed: what has never been taken, and what is in the free list.
  const auto put_aside = [&](uint64_t at) {
    bits_[tier.first + at] = kAside;
    --tier.counts.free;
    ++tier.counts.aside;
  };
  for (uint64_t at = std::max(frames, tier.never_used); at < tier.fresh_end; ++at) put_aside(at);
  tier.fresh_end = std::max(std::min(tier.fresh_end, frames), tier.never_used);
  uint32_t* end = &tier.head;
  for (uint32_t frame = tier.head; frame != UINT32_MAX; frame = link_[frame]) {
    if (frame - tier.first >= frames) {
      put_aside(frame - tier.first);
    } else {
      *end = frame;
      end = &link_[frame];
    }
  }
  *end = UINT32_MAX;
}

uint64_t FrameTable::walk_free(uint32_t tier_index) const {
  const Tier& tier = tiers_[tier_index];
  uint64_t count = tier.fresh_end - tier.never_used;
  for (uint32_t frame = tier.head; frame != UINT32_MAX; frame = link_[frame]) ++count;
  return count;
}

}  // namespace kvt::keeper
