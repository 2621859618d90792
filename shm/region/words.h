// SPDX-License-Identifier: Apache-2.0
//
// The three 64-bit words of a page row, taken apart and put together (bits: shm/abi/layout.h). Values;
// thread-safe.
#pragma once

#include <cstdint>

#include "shm/abi/layout.h"

namespace kvt {

using PageIndex = uint32_t;
using Frame = uint32_t;
inline constexpr Frame kNoFrame = UINT32_MAX;
inline constexpr Frame kScratchFrame = 0;

enum class PageState : uint8_t {
  kFree = KVT_FREE,
  kFilling = KVT_FILLING,
  kSealed = KVT_SEALED,
  kEvicting = KVT_EVICTING
};

/// Page index and generation; what a client keeps.
struct Handle {
  uint64_t value = UINT64_MAX;
  [[nodiscard]] static constexpr Handle of(PageIndex index, uint32_t generation) {
    return Handle{(static_cast<uint64_t>(generation) << 32) | index};
  }
  [[nodiscard]] constexpr PageIndex index() const { return static_cast<PageIndex>(value); }
  [[nodiscard]] constexpr uint32_t generation() const { return static_cast<uint32_t>(value >> 32); }
  [[nodiscard]] constexpr bool none() const { return value == UINT64_MAX; }
  friend constexpr bool operator==(Handle, Handle) = default;
};
inline constexpr Handle kNoHandle{};

namespace word_detail {
constexpr uint64_t pack(uint32_t tier, Frame frame, uint32_t generation) {
  return (static_cast<uint64_t>(tier) << KVT_WORD_TIER_SHIFT) |
         (static_cast<uint64_t>(frame) << KVT_WORD_FRAME_SHIFT) |
         (static_cast<uint64_t>(generation) << KVT_WORD_GENERATION_SHIFT);
}
constexpr Frame frame(uint64_t word) {
  return static_cast<Frame>((word >> KVT_WORD_FRAME_SHIFT) & KVT_WORD_FRAME_MASK);
}
constexpr uint32_t tier(uint64_t word) {
  return static_cast<uint32_t>((word >> KVT_WORD_TIER_SHIFT) & KVT_WORD_TIER_MASK);
}
constexpr uint32_t generation(uint64_t word) {
  return static_cast<uint32_t>(word >> KVT_WORD_GENERATION_SHIFT);
}
}  // namespace word_detail

/// A page's place and state in one column.
struct Placement {
  uint64_t word = 0;
  [[nodiscard]] static constexpr Placement of(PageState state, bool keyed, uint32_t tier, Frame frame,
                                              uint32_t generation) {
    return Placement{word_detail::pack(tier, frame, generation) | static_cast<uint64_t>(state) |
                     (keyed ? KVT_WORD_KEYED : 0)};
  }
  [[nodiscard]] constexpr PageState state() const {
    return static_cast<PageState>(word & KVT_WORD_STATE_MASK);
  }
  [[nodiscard]] constexpr bool keyed() const { return (word & KVT_WORD_KEYED) != 0; }
  [[nodiscard]] constexpr uint32_t tier() const { return word_detail::tier(word); }
  [[nodiscard]] constexpr Frame frame() const { return word_detail::frame(word); }
  [[nodiscard]] constexpr uint32_t generation() const { return word_detail::generation(word); }
  /// Sealed for whoever resolves: EVICTING of the same generation counts (PROTOCOL B2).
  [[nodiscard]] constexpr bool readable() const { return (word & 2u) != 0; }
  [[nodiscard]] constexpr Placement with_state(PageState state) const {
    return Placement{(word & ~KVT_WORD_STATE_MASK) | static_cast<uint64_t>(state)};
  }
  [[nodiscard]] constexpr Placement with_keyed(bool keyed) const {
    return Placement{(word & ~KVT_WORD_KEYED) | (keyed ? KVT_WORD_KEYED : 0)};
  }
  [[nodiscard]] constexpr Placement with_place(uint32_t tier, Frame frame) const {
    return of(state(), keyed(), tier, frame, generation());
  }
};
static_assert((KVT_SEALED & 2) != 0 && (KVT_EVICTING & 2) != 0 && (KVT_FREE & 2) == 0 &&
                  (KVT_FILLING & 2) == 0,
              "readable() tests one bit");

/// A second valid frame, in a slower tier (PROTOCOL B3: good only with the generation of the placement).
struct Shadow {
  uint64_t word = 0;
  [[nodiscard]] static constexpr Shadow of(uint32_t tier, Frame frame, uint32_t generation) {
    return Shadow{word_detail::pack(tier, frame, generation) | KVT_SHADOW_VALID};
  }
  [[nodiscard]] constexpr bool valid() const { return (word & KVT_SHADOW_VALID) != 0; }
  [[nodiscard]] constexpr uint32_t tier() const { return word_detail::tier(word); }
  [[nodiscard]] constexpr Frame frame() const { return word_detail::frame(word); }
  [[nodiscard]] constexpr uint32_t generation() const { return word_detail::generation(word); }
};

/// A frame that one session may fill while it reads the page (PROTOCOL A3).
struct Offer {
  uint64_t word = 0;
  [[nodiscard]] static constexpr Offer of(uint32_t session_slot, Frame frame, uint32_t generation) {
    return Offer{word_detail::pack(0, frame, generation) | (session_slot + 1)};
  }
  [[nodiscard]] constexpr bool valid() const { return (word & KVT_OFFER_SESSION_MASK) != 0; }
  [[nodiscard]] constexpr uint32_t session_slot() const {
    return static_cast<uint32_t>(word & KVT_OFFER_SESSION_MASK) - 1;
  }
  [[nodiscard]] constexpr Frame frame() const { return word_detail::frame(word); }
  [[nodiscard]] constexpr uint32_t generation() const { return word_detail::generation(word); }
};

struct Key {
  uint64_t lo = 0;
  uint64_t hi = 0;
  [[nodiscard]] constexpr bool none() const { return lo == 0 && hi == 0; }
  friend constexpr bool operator==(const Key&, const Key&) = default;
};

}  // namespace kvt
