// SPDX-License-Identifier: Apache-2.0
#include "shm/region/words.h"

#include <gtest/gtest.h>

#include "tests/support/random.h"

namespace kvt {
namespace {

TEST(Words, HandleKeepsIndexAndGeneration) {
  for (const PageIndex index : {0u, 1u, KVT_MAX_PAGES - 1})
    for (const uint32_t generation : {0u, 1u, KVT_MAX_GENERATION}) {
      const Handle handle = Handle::of(index, generation);
      EXPECT_EQ(handle.index(), index);
      EXPECT_EQ(handle.generation(), generation);
      EXPECT_FALSE(handle.none());
    }
  EXPECT_TRUE(kNoHandle.none());
  EXPECT_GT(kNoHandle.generation(), KVT_MAX_GENERATION) << "the handle of no page is no page's";
}

TEST(Words, PlacementKeepsEveryPart) {
  test::Random random;
  for (int i = 0; i < 10'000; ++i) {
    const auto state = static_cast<PageState>(random.below(4));
    const bool keyed = random.one_in(2);
    const uint32_t tier = random.below32(16);
    const Frame frame = random.below32(uint64_t{KVT_MAX_FRAMES} + 1);
    const uint32_t generation = random.below32(uint64_t{KVT_MAX_GENERATION} + 1);
    const Placement placement = Placement::of(state, keyed, tier, frame, generation);
    ASSERT_EQ(placement.state(), state);
    ASSERT_EQ(placement.keyed(), keyed);
    ASSERT_EQ(placement.tier(), tier);
    ASSERT_EQ(placement.frame(), frame);
    ASSERT_EQ(placement.generation(), generation);
    ASSERT_EQ(placement.readable(), state == PageState::kSealed || state == PageState::kEvicting);
  }
}

TEST(Words, ChangingOnePartOfAPlacementLeavesTheOthers) {
  const Placement all =
      Placement::of(PageState::kSealed, true, KVT_MAX_TIERS - 1, KVT_MAX_FRAMES, KVT_MAX_GENERATION);
  EXPECT_EQ(
      all.with_state(PageState::kEvicting).word,
      Placement::of(PageState::kEvicting, true, KVT_MAX_TIERS - 1, KVT_MAX_FRAMES, KVT_MAX_GENERATION).word);
  EXPECT_EQ(
      all.with_keyed(false).word,
      Placement::of(PageState::kSealed, false, KVT_MAX_TIERS - 1, KVT_MAX_FRAMES, KVT_MAX_GENERATION).word);
  EXPECT_EQ(all.with_place(2, 3).word,
            Placement::of(PageState::kSealed, true, 2, 3, KVT_MAX_GENERATION).word);
  EXPECT_EQ(all.with_keyed(true).word, all.word);
}

TEST(Words, ShadowAndOfferKeepEveryPart) {
  const Shadow shadow = Shadow::of(5, KVT_MAX_FRAMES, KVT_MAX_GENERATION);
  EXPECT_TRUE(shadow.valid());
  EXPECT_EQ(shadow.tier(), 5u);
  EXPECT_EQ(shadow.frame(), KVT_MAX_FRAMES);
  EXPECT_EQ(shadow.generation(), KVT_MAX_GENERATION);
  EXPECT_FALSE(Shadow{}.valid());

  for (const uint32_t slot : {0u, KVT_MAX_SESSIONS - 1}) {
    const Offer offer = Offer::of(slot, KVT_MAX_FRAMES, KVT_MAX_GENERATION);
    EXPECT_TRUE(offer.valid());
    EXPECT_EQ(offer.session_slot(), slot);
    EXPECT_EQ(offer.frame(), KVT_MAX_FRAMES);
    EXPECT_EQ(offer.generation(), KVT_MAX_GENERATION);
  }
  EXPECT_FALSE(Offer{}.valid());
}

TEST(Words, AnEmptyRowIsFreeAndUnreadable) {
  EXPECT_EQ(Placement{}.state(), PageState::kFree);
  EXPECT_FALSE(Placement{}.readable());
  EXPECT_TRUE(Key{}.none());
}

}  // namespace
}  // namespace kvt
