// SPDX-License-Identifier: Apache-2.0
#include "daemon/keeper/frame_table.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/support/random.h"
#include "tests/support/shared_memory.h"

namespace kvt::keeper {
namespace {

struct Frames : testing::Test {
  Frames() : made(test::small_geometry(1)), frames(made.table) {}
  test::TestTable made;
  FrameTable frames;
};

TEST_F(Frames, AllAreFreeAtFirst) {
  EXPECT_EQ(frames.frames(0), 10u);
  EXPECT_EQ(frames.counts(0).free, 10u);
  EXPECT_EQ(frames.walk_free(0), 10u);
  EXPECT_EQ(frames.walk_free(1), 100u);
  EXPECT_EQ(frames.first_frame(0), 1u) << "frame 0 is the scratch frame";
}

TEST_F(Frames, TakeGivesEachFrameOfTheTierOnceAndThenNone) {
  std::set<Frame> seen;
  for (uint64_t i = 0; i < frames.frames(1); ++i) {
    const Frame frame = frames.take(1);
    ASSERT_NE(frame, kNoFrame);
    EXPECT_NE(frame, kScratchFrame);
    EXPECT_EQ(made.table.tier_of_frame(frame), 1u);
    EXPECT_EQ(frames.tier_of(frame), 1u);
    EXPECT_TRUE(seen.insert(frame).second);
  }
  EXPECT_EQ(frames.take(1), kNoFrame);
  EXPECT_EQ(frames.counts(1).reserved, 100u);
  EXPECT_EQ(frames.counts(1).free, 0u);
  EXPECT_EQ(frames.walk_free(1), 0u);
}

TEST_F(Frames, GoesThroughItsLife) {
  const Frame frame = frames.take(0);
  EXPECT_EQ(frames.page_of(frame), FrameTable::kNoPage);
  frames.name(frame, 7);
  EXPECT_EQ(frames.page_of(frame), 7u);
  frames.name(frame, 7);  // the word of a second column
  EXPECT_EQ(frames.counts(0).named, 1u);
  EXPECT_FALSE(frames.unname(frame));
  EXPECT_TRUE(frames.unname(frame));
  EXPECT_EQ(frames.counts(0).limbo, 1u);
  EXPECT_EQ(frames.counts(0).named, 0u);
  EXPECT_EQ(frames.page_of(frame), FrameTable::kNoPage);
  EXPECT_EQ(frames.walk_free(0), 9u);
  frames.release(frame);
  EXPECT_EQ(frames.counts(0).free, 10u);
  EXPECT_EQ(frames.walk_free(0), 10u);
  EXPECT_EQ(frames.take(0), frame) << "the last one that was freed is the next one taken";
}

TEST_F(Frames, CancelGoesBackUnnamed) {
  const Frame frame = frames.take(0);
  frames.cancel(frame);
  EXPECT_EQ(frames.counts(0).free, 10u);
  EXPECT_EQ(frames.counts(0).reserved, 0u);
}

TEST_F(Frames, APinnedFrameIsNotFreeBeforeItIsUnpinned) {
  const Frame frame = frames.take(0);
  frames.name(frame, 1);
  frames.pin(frame);
  ASSERT_TRUE(frames.unname(frame));
  frames.release(frame);
  EXPECT_EQ(frames.counts(0).limbo, 1u) << "a copy still reads it";
  EXPECT_EQ(frames.walk_free(0), 9u);
  frames.unpin(frame);
  EXPECT_EQ(frames.counts(0).limbo, 0u);
  EXPECT_EQ(frames.walk_free(0), 10u);
}

TEST_F(Frames, APinThatEndsFirstChangesNothing) {
  const Frame frame = frames.take(0);
  frames.name(frame, 1);
  frames.pin(frame);
  frames.unpin(frame);
  EXPECT_EQ(frames.counts(0).named, 1u);
  ASSERT_TRUE(frames.unname(frame));
  frames.pin(frame);
  frames.unpin(frame);
  EXPECT_EQ(frames.counts(0).limbo, 1u) << "unpinned, but its grace period goes on";
  frames.release(frame);
  EXPECT_EQ(frames.counts(0).free, 10u);
}

TEST_F(Frames, ALeakIsFoundByWalking) {
  const Frame frame = frames.take(0);
  frames.name(frame, 1);
  ASSERT_TRUE(frames.unname(frame));
  frames.leak_next();
  frames.release(frame);
  EXPECT_EQ(frames.counts(0).free, 10u) << "the counts look good";
  EXPECT_EQ(frames.walk_free(0), 9u) << "the list does not";
  const Frame other = frames.take(0);
  frames.cancel(other);
  EXPECT_EQ(frames.walk_free(0), 9u) << "one leak is one leak";
}

TEST_F(Frames, ARetiredFrameIsNeverTakenAgain) {
  const Frame reserved = frames.take(0);
  EXPECT_TRUE(frames.retire(reserved)) << "a copy's target: at once";
  EXPECT_EQ(frames.counts(0).reserved, 0u);
  EXPECT_EQ(frames.counts(0).retired, 1u);
  const Frame named = frames.take(0);
  frames.name(named, 4);
  frames.pin(named);
  EXPECT_TRUE(frames.retire(named));
  EXPECT_FALSE(frames.retire(named)) << "that is known";
  EXPECT_TRUE(frames.is_bad(named));
  EXPECT_EQ(frames.page_of(named), 4u) << "its page has to leave it first";
  EXPECT_EQ(frames.counts(0).retired, 1u);
  ASSERT_TRUE(frames.unname(named));
  frames.release(named);
  EXPECT_EQ(frames.counts(0).retired, 1u) << "a copy has it still";
  frames.unpin(named);
  EXPECT_EQ(frames.counts(0).retired, 2u);
  EXPECT_EQ(frames.counts(0).limbo, 0u);
  EXPECT_EQ(frames.counts(0).free, 8u);
  EXPECT_EQ(frames.walk_free(0), 8u);
  for (Frame frame = frames.take(0); frame != kNoFrame; frame = frames.take(0)) {
    EXPECT_NE(frame, reserved);
    EXPECT_NE(frame, named);
  }
}

TEST_F(Frames, AsManyNamesAsColumnsNeed) {
  const Frame frame = frames.take(0);
  for (uint32_t i = 0; i < KVT_MAX_COLUMNS + 1; ++i) frames.name(frame, 3);
  for (uint32_t i = 0; i < KVT_MAX_COLUMNS; ++i) EXPECT_FALSE(frames.unname(frame));
  EXPECT_TRUE(frames.unname(frame));
}

// Random legal transitions beside a model of sets.
TEST_F(Frames, RandomLivesBesideAModel) {
  test::Random random;
  std::vector<Frame> reserved, named, limbo;
  const auto take_any = [&random](std::vector<Frame>& from) {
    const size_t at = random.below(from.size());
    const Frame frame = from[at];
    from[at] = from.back();
    from.pop_back();
    return frame;
  };
  for (int i = 0; i < 20'000; ++i) {
    switch (random.below(5)) {
      case 0:
        if (const Frame frame = frames.take(1); frame != kNoFrame)
          reserved.push_back(frame);
        else
          ASSERT_EQ(reserved.size() + named.size() + limbo.size(), 100u);
        break;
      case 1:
        if (reserved.empty()) break;
        named.push_back(take_any(reserved));
        frames.name(named.back(), named.back() + 1000);
        break;
      case 2:
        if (!reserved.empty() && random.one_in(3)) frames.cancel(take_any(reserved));
        break;
      case 3:
        if (named.empty()) break;
        limbo.push_back(take_any(named));
        ASSERT_TRUE(frames.unname(limbo.back()));
        break;
      default:
        if (!limbo.empty()) frames.release(take_any(limbo));
    }
    ASSERT_EQ(frames.counts(1).reserved, reserved.size());
    ASSERT_EQ(frames.counts(1).named, named.size());
    ASSERT_EQ(frames.counts(1).limbo, limbo.size());
    ASSERT_EQ(frames.counts(1).free, 100 - reserved.size() - named.size() - limbo.size());
    if (i % 100 == 0) {
      ASSERT_EQ(frames.walk_free(1), frames.counts(1).free);
    }
  }
}

// ---- wrong transitions are bugs of the keeper, and end it ----

struct FramesDeathTest : Frames {
  FramesDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(FramesDeathTest, WrongTransitionsAbort) {
  const Frame free_frame = 5;
  EXPECT_DEATH(frames.cancel(free_frame), "check failed") << "cancel of a free frame";
  EXPECT_DEATH(frames.name(free_frame, 1), "check failed") << "naming of a free frame";
  EXPECT_DEATH((void)frames.unname(free_frame), "check failed") << "unnaming of a free frame";
  EXPECT_DEATH(frames.release(free_frame), "check failed") << "release of a free frame";
  EXPECT_DEATH(frames.pin(free_frame), "check failed") << "pin of a free frame";
  EXPECT_DEATH(frames.retire(free_frame), "check failed") << "a free frame is in a list, and stays there";
  EXPECT_DEATH(frames.unpin(free_frame), "check failed") << "unpin without a pin";
  EXPECT_DEATH((void)frames.tier_of(kScratchFrame), "check failed") << "the scratch frame has no tier";
}

TEST_F(FramesDeathTest, WrongTransitionsOfANamedFrameAbort) {
  const Frame frame = frames.take(0);
  EXPECT_DEATH((void)frames.unname(frame), "check failed") << "unnaming of a reserved frame";
  frames.name(frame, 1);
  EXPECT_DEATH(frames.cancel(frame), "check failed") << "cancel of a named frame";
  EXPECT_DEATH(frames.release(frame), "check failed") << "a named frame never goes straight to free";
  EXPECT_DEATH(frames.name(frame, 2), "check failed") << "a second page in one frame";
}

TEST_F(FramesDeathTest, WrongTransitionsOfAFrameInLimboAbort) {
  const Frame frame = frames.take(0);
  frames.name(frame, 1);
  ASSERT_TRUE(frames.unname(frame));
  EXPECT_DEATH((void)frames.unname(frame), "check failed") << "to limbo a second time (PROTOCOL A4)";
  EXPECT_DEATH(frames.name(frame, 1), "check failed") << "naming what readers may still see as another page";
  EXPECT_DEATH(frames.cancel(frame), "check failed");
  frames.release(frame);
  EXPECT_DEATH(frames.release(frame), "check failed") << "twice free";
}

}  // namespace
}  // namespace kvt::keeper
