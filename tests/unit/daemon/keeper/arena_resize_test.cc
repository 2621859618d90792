// SPDX-License-Identifier: Apache-2.0
//
// Frames of a tier are closed and opened while sessions read: pages leave, memory is given back and taken again.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>

#include "tests/support/arena_fixture.h"

namespace kvt::keeper {
namespace {

using test::ArenaOptions;
using test::key_of;
using test::TestArena;
using test::TestSession;

ArenaOptions options_of(uint32_t columns) {
  ArenaOptions options;
  options.page_bytes = 1 << 20;  // so that there are whole huge pages to give back
  options.columns = columns;
  options.fast_frames = 16;
  options.slow_frames = 64;
  options.pages = 24;
  return options;
}

class ArenaResize : public testing::TestWithParam<uint32_t> {
 protected:
  ArenaResize() : test(options_of(GetParam())), session(test.attach()), slow(test.slow_tier()) {
    for (uint64_t number = 1; number <= 16; ++number) {
      pages.push_back(session->publish_new(test, key_of(number)));
      KVT_CHECK(!pages.back().none());
      test.fill(pages.back());
    }
  }
  void TearDown() override {
    test.settle();
    EXPECT_EQ(test.inconsistency(), "");
    for (const Handle page : pages)
      if (test.placement(page).generation() == page.generation())
        EXPECT_TRUE(test.is_intact(page, test.placement(page).frame())) << page.index();
  }
  ArenaCounts::Resize state(uint32_t tier) { return test.arena().resize_state(tier); }
  /// Until nothing is left in what was closed, and its memory is given back; false: that does not happen.
  bool finish(uint32_t tier, uint64_t usable) {
    for (int i = 0; i < 500; ++i) {
      test.period_and_copies();
      const ArenaCounts::Resize now = state(tier);
      if (now.usable == usable && now.leaving == 0 && !test.arena().waits()) return true;
    }
    const ArenaCounts::Resize now = state(tier);
    ADD_FAILURE() << "usable " << now.usable << ", leaving " << now.leaving << ", stuck " << now.stuck
                  << ", limbo " << test.arena().counts().limbo;
    return false;
  }
  uint64_t resident(uint32_t tier) {
    struct stat status {};
    KVT_CHECK(::fstat(test.arena().memory().window_fds[tier].get(), &status) == 0);
    return static_cast<uint64_t>(status.st_blocks) * 512;
  }
  /// Pages that lie in the tier, in any column.
  size_t pages_in(uint32_t tier) {
    size_t count = 0;
    for (const Handle page : pages)
      for (uint32_t column = 0; column < GetParam(); ++column)
        if (test.placement(page, column).tier() == tier) ++count;
    return count;
  }

  TestArena test;
  std::unique_ptr<TestSession> session;
  uint32_t slow;
  std::vector<Handle> pages;
};
INSTANTIATE_TEST_SUITE_P(Columns, ArenaResize, testing::Values(1u, 2u));
/// Where new pages may begin in any tier.
class ResizeOneColumn : public ArenaResize {};
INSTANTIATE_TEST_SUITE_P(Columns, ResizeOneColumn, testing::Values(1u));

TEST_P(ArenaResize, ADrainedTierIsEmptyAndItsMemoryIsGivenBack) {
  if (GetParam() == 1) ASSERT_GT(pages_in(0), 0u);
  ASSERT_TRUE(test.arena().resize(0, 0));
  ASSERT_TRUE(finish(0, 0));
  EXPECT_EQ(pages_in(0), 0u);
  EXPECT_EQ(state(0).given_back_bytes, 16u << 20);
  EXPECT_EQ(test.arena().counts().tiers[0].counts.aside, 16u);
  EXPECT_LE(resident(0), 2u << 20) << "all but the OS page of frame 0";
  for (const Handle page : pages) EXPECT_EQ(test.placement(page).generation(), page.generation());
  // New pages begin elsewhere.
  const Handle more = session->publish_new(test, key_of(99));
  ASSERT_FALSE(more.none());
  EXPECT_NE(test.placement(more).tier(), 0u);
}

TEST_P(ArenaResize, WhatWasClosedIsOpenedAgain) {
  ASSERT_TRUE(test.arena().resize(0, 0));
  ASSERT_TRUE(finish(0, 0));
  ASSERT_TRUE(test.arena().resize(0, 16));
  ASSERT_TRUE(finish(0, 16));
  EXPECT_EQ(state(0).given_back_bytes, 0u);
  EXPECT_EQ(test.table().set_aside(0), 0u);
  EXPECT_EQ(test.arena().counts().tiers[0].counts.aside, 0u);
  EXPECT_EQ(test.arena().move(test.mover(), 0, pages[0].index(), 0), MoveRequest::kQueued);
  for (const mover::Job& job : test.finish_copies(1)) test.arena().commit(job);
  EXPECT_EQ(test.placement(pages[0]).tier(), 0u);
}

TEST_P(ResizeOneColumn, PagesThatAreHeldAndReadMeanwhileStayReadable) {
  const Handle page = pages[0];
  const Placement before = test.placement(page);
  session->begin_step(test.table());
  ASSERT_TRUE(test.arena().resize(before.tier(), 0));
  for (int i = 0; i < 50; ++i) test.period_and_copies();
  EXPECT_NE(test.placement(page).tier(), before.tier());
  EXPECT_TRUE(test.is_intact(page, before.frame())) << "the step may still read it there";
  EXPECT_EQ(state(before.tier()).given_back_bytes, 0u);
  session->end_step();
  ASSERT_TRUE(finish(before.tier(), 0));
}

TEST_P(ArenaResize, LessOfATier) {
  ASSERT_TRUE(test.arena().resize(slow, 20));
  ASSERT_TRUE(finish(slow, 20));
  EXPECT_EQ(test.table().set_aside(slow), 44u);
  for (const Handle page : pages)
    for (uint32_t column = 0; column < GetParam(); ++column)
      EXPECT_FALSE(test.arena().is_leaving(column, page.index()));
}

TEST_P(ResizeOneColumn, PagesThatHaveNowhereToGoAreEvicted) {
  for (const Handle page : pages) session->release(page);
  // 16 pages, 10 frames.
  ASSERT_TRUE(test.arena().resize(0, 10));
  ASSERT_TRUE(test.arena().resize(slow, 0));
  ASSERT_TRUE(finish(slow, 0));
  size_t left = 0;
  for (const Handle page : pages)
    if (test.placement(page).generation() == page.generation()) ++left;
  EXPECT_GE(left, 5u);
  EXPECT_LE(left, 10u);
}

TEST_P(ArenaResize, NewPagesNeedATierThatEveryColumnReads) {
  if (GetParam() == 1) ASSERT_TRUE(test.arena().resize(0, 0));
  const auto refused = test.arena().resize(slow, 0);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kFull);
  EXPECT_EQ(state(slow).usable, 64u);
  EXPECT_EQ(state(slow).wanted, 64u);
}

TEST_P(ResizeOneColumn, HeldPagesWithoutAPlaceStay) {
  ASSERT_TRUE(test.arena().resize(0, 4));
  ASSERT_TRUE(finish(0, 4));
  ASSERT_TRUE(test.arena().resize(slow, 4));
  for (int i = 0; i < 100; ++i) test.period_and_copies();
  EXPECT_GT(state(slow).leaving, 0u);
  EXPECT_EQ(state(slow).stuck, state(slow).leaving);
  for (const Handle page : pages) ASSERT_EQ(test.placement(page).generation(), page.generation()) << "held";
  for (const Handle page : pages) session->release(page);
  ASSERT_TRUE(finish(slow, 4));
}

TEST_P(ArenaResize, WhatIsGuaranteedIsNotClosed) {
  session->let_go(test, pages[0]);
  auto other = test.attach(0, true, 20);
  const uint64_t too_few = GetParam() == 1 ? 3 : 19;
  EXPECT_EQ(test.arena().resize(slow, too_few).error().code, Code::kFull);
  EXPECT_EQ(state(slow).usable, 64u);
  EXPECT_EQ(test.arena().resize(slow, 65).error().code, Code::kLimit);
  test.end(*other);
}

TEST_P(ResizeOneColumn, WhatIsBeingFilledOrPinnedStaysUntilItIsNot) {
  const Handle filling = session->allocate(test);
  ASSERT_FALSE(filling.none());
  const uint32_t tier = test.placement(filling).tier();
  Handle pinned = kNoHandle;
  for (const Handle page : pages)
    if (test.placement(page).tier() == tier) pinned = page;
  ASSERT_FALSE(pinned.none());
  ASSERT_EQ(test.arena().pin(pinned.index()), PinRequest::kPinned);
  for (const Handle page : pages) session->release(page);  // so that there is room for what leaves
  ASSERT_TRUE(test.arena().resize(tier, 0));
  for (int i = 0; i < 100; ++i) test.period_and_copies();
  EXPECT_EQ(state(tier).leaving, 2u);
  EXPECT_EQ(state(tier).stuck, 2u);
  EXPECT_EQ(session->ask(test, KVT_OP_PUBLISH, filling, key_of(77)).result, uint32_t{KVT_RESULT_OK});
  test.arena().unpin(pinned.index());
  ASSERT_TRUE(finish(tier, 0));
}

TEST_P(ArenaResize, BadFramesAreNotWaitedFor) {
  const Handle page = pages[0];
  const uint32_t tier = test.placement(page).tier();
  if (GetParam() != 1) ASSERT_EQ(tier, slow);
  // A frame of the fast tier goes bad while a copy into it is made.
  const Handle moved = *std::find_if(pages.begin(), pages.end(), [&](Handle each) {
    return GetParam() != 1 || test.placement(each).tier() == slow;
  });
  ASSERT_EQ(test.arena().move(test.mover(), 0, moved.index(), 0), MoveRequest::kQueued);
  for (mover::Job job : test.finish_copies(1)) {
    job.failed = true;
    job.bad = mover::BadSide::kTarget;
    test.arena().commit(job);
  }
  EXPECT_EQ(test.arena().counts().tiers[0].counts.retired, 1u);
  ASSERT_TRUE(test.arena().resize(0, 0));
  ASSERT_TRUE(finish(0, 0));
  EXPECT_EQ(test.arena().counts().tiers[0].counts.aside, 16u);
  ASSERT_TRUE(test.arena().resize(0, 16));
  ASSERT_TRUE(finish(0, 16));
  EXPECT_EQ(test.arena().counts().tiers[0].counts.retired, 1u) << "it is still bad";
}

TEST_P(ArenaResize, TheNextDaemonGoesOn) {
  ASSERT_TRUE(test.arena().resize(0, 3));
  test.restart({session.get()});
  EXPECT_EQ(state(0).wanted, 3u);
  ASSERT_TRUE(finish(0, 3));
  EXPECT_EQ(state(0).given_back_bytes, 13u << 20);
  ASSERT_TRUE(test.arena().resize(0, 16));
  ASSERT_TRUE(finish(0, 16));
}

/// Its memory is offline: the tier is closed until an operator opens it.
TEST_P(ArenaResize, ATierWithoutNodesIsLeft) {
  const std::string name = test.table().tier(0).name;
  const auto notes = [&] {
    std::string all;
    for (const auto& [kind, text] : test.arena().take_notes()) all += text + "\n";
    return all;
  };
  test.arena().on_node(name, 4, true, false);
  EXPECT_NE(notes().find("NUMA node 4 of tier " + name + " has no memory any more; the kernel has moved"),
            std::string::npos);
  EXPECT_FALSE(test.arena().has_lost_nodes(0));
  EXPECT_EQ(state(0).usable, test.table().tier(0).frames) << "the tier has another node";
  test.arena().on_node(name, 3, true, true);
  EXPECT_NE(notes().find("the tier is closed"), std::string::npos);
  EXPECT_TRUE(test.arena().has_lost_nodes(0));
  ASSERT_TRUE(finish(0, 0));
  EXPECT_EQ(pages_in(0), 0u);
  test.arena().on_node(name, 3, false, false);
  EXPECT_NE(notes().find("kvtierctl resize"), std::string::npos);
  EXPECT_FALSE(test.arena().has_lost_nodes(0));
  EXPECT_EQ(state(0).usable, 0u);
  // The last tier stays: pages are read from wherever the kernel has moved them.
  test.arena().on_node(test.table().tier(slow).name, 5, true, true);
  if (GetParam() == 1) EXPECT_NE(notes().find("the last in which new pages"), std::string::npos);
}

TEST_P(ArenaResize, MemoryThatIsNotThereIsNotTaken) {
  ArenaOptions options = options_of(GetParam());
  options.settings.has_memory = [](uint64_t) { return Result<void>(fail(Code::kFull, "none")); };
  TestArena poor(options);
  ASSERT_TRUE(poor.arena().resize(0, 4));
  for (int i = 0; i < 100; ++i) poor.period_and_copies();
  EXPECT_EQ(poor.arena().resize_state(0).given_back_bytes, 12u << 20);
  (void)poor.arena().take_notes();
  ASSERT_TRUE(poor.arena().resize(0, 16));
  for (int i = 0; i < 10; ++i) poor.period();
  EXPECT_EQ(poor.arena().resize_state(0).usable, 4u);
  EXPECT_EQ(poor.arena().resize_state(0).wanted, 4u);
  const auto notes = poor.arena().take_notes();
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes[0].text.find("stays at 4 of 16 frames: none"), std::string::npos) << notes[0].text;
}

TEST_P(ArenaResize, WhatAGpuHasPinnedIsGivenBackWhenItsProcessHasGone) {
  auto engine = test.attach();
  engine->state().has_gpu = true;
  ASSERT_TRUE(test.arena().resize(0, 4));
  for (int i = 0; i < 100; ++i) test.period_and_copies();
  EXPECT_EQ(state(0).leaving, 0u);
  EXPECT_EQ(state(0).given_back_bytes, 0u);
  test.end(*engine);
  ASSERT_TRUE(finish(0, 4));
  EXPECT_EQ(state(0).given_back_bytes, 12u << 20);
}

TEST(ArenaLimbo, AStepThatStaysOpenStopsMovesAndIsNamed) {
  ArenaOptions options;
  options.fast_frames = 256;
  options.slow_frames = 1024;
  options.settings.policy = PolicyName::kChurn;
  TestArena test(options);
  auto session = test.attach();
  for (uint64_t number = 1; number <= 600; ++number) {
    const Handle page = session->publish_new(test, key_of(number));
    ASSERT_FALSE(page.none());
    test.fill(page);
  }
  auto other = test.attach();
  other->begin_step(test.table());
  uint64_t before = 0;
  const auto begin = std::chrono::steady_clock::now();
  while (!test.arena().counts().limbo_holder.stops_moves &&
         std::chrono::steady_clock::now() - begin < std::chrono::seconds(20))
    test.period_and_copies();
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1));
  test.period_and_copies();
  before = test.arena().counts().limbo;
  for (int i = 0; i < 50; ++i) test.period_and_copies();
  const ArenaCounts counts = test.arena().counts();
  EXPECT_TRUE(counts.limbo_holder.stops_moves);
  EXPECT_EQ(counts.limbo_holder.session_id, other->id());
  EXPECT_GE(counts.limbo, 80u);
  EXPECT_EQ(counts.limbo, before) << "nothing more is moved";
  bool told = false;
  for (const Arena::Note& note : test.arena().take_notes())
    told = told || note.text.find("has been open for 1 s") != std::string::npos;
  EXPECT_TRUE(told);
  other->end_step();
  for (int i = 0; i < 3; ++i) test.period_and_copies();
  EXPECT_FALSE(test.arena().counts().limbo_holder.stops_moves);
  EXPECT_EQ(test.inconsistency(), "");
}

}  // namespace
}  // namespace kvt::keeper
