// SPDX-License-Identifier: Apache-2.0
#include "daemon/keeper/frame_table.h"

namespace kvt::keeper {

FrameTable::FrameTable(const ArenaTable& table) : bits_(table.header().frames), link_(table.header().frames) {
  for (uint32_t i = 0; i < table.tiers(); ++i) {
    Tier tier;
    tier.first = table.tier(i).first_frame;
    tier.frames = table.tier(i).frames;
    tier.counts.free = tier.frames;
    tiers_.push_back(tier);
  }
}

uint32_t FrameTable::tier_of(Frame frame) const {
  for (uint32_t i = 0; i < tiers_.size(); ++i)
    if (frame >= tiers_[i].first && frame - tiers_[i].first < tiers_[i].frames) return i;
  KVT_CHECK(false);
  return 0;
}

Frame FrameTable::take(uint32_t tier_index) {
  Tier& tier = tiers_[tier_index];
  Frame frame = kNoFrame;
  if (tier.head != UINT32_MAX) {
    frame = tier.head;
    tier.head = link_[frame];
  } else if (tier.never_used < tier.frames) {
    frame = static_cast<Frame>(tier.first + tier.never_used++);
  } else {
    return kNoFrame;
  }
  KVT_CHECK(state(frame) == kFree);
  bits_[frame] = kReserved;
  --tier.counts.free;
  ++tier.counts.reserved;
  return frame;
}

void FrameTable::put(Frame frame) {
  Tier& tier = tiers_[tier_of(frame)];
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

void FrameTable::cancel(Frame frame) {
  KVT_CHECK(state(frame) == kReserved);
  --tiers_[tier_of(frame)].counts.reserved;
  put(frame);
}

void FrameTable::name(Frame frame, PageIndex page) {
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

bool FrameTable::unname(Frame frame) {
  KVT_CHECK(state(frame) == kNamed && bits_[frame] / kNameStep > 0);
  bits_[frame] = static_cast<uint8_t>(bits_[frame] - kNameStep);
  if (bits_[frame] / kNameStep != 0) return false;
  Tier& tier = tiers_[tier_of(frame)];
  --tier.counts.named;
  ++tier.counts.limbo;
  set_state(frame, kLimbo);
  return true;
}

void FrameTable::release(Frame frame) {
  KVT_CHECK(state(frame) == kLimbo);
  if ((bits_[frame] & kPinned) != 0) {
    bits_[frame] |= kReleased;
    return;
  }
  --tiers_[tier_of(frame)].counts.limbo;
  put(frame);
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

uint64_t FrameTable::walk_free(uint32_t tier_index) const {
  const Tier& tier = tiers_[tier_index];
  uint64_t count = tier.frames - tier.never_used;
  for (uint32_t frame = tier.head; frame != UINT32_MAX; frame = link_[frame]) ++count;
  return count;
}

}  // namespace kvt::keeper
