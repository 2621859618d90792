// SPDX-License-Identifier: Apache-2.0
//
// Frames whose memory has gone bad: retired for good, and their pages are read from elsewhere or lost.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/arena_fixture.h"

namespace kvt::keeper {
namespace {

using test::ArenaOptions;
using test::key_of;
using test::TestArena;
using test::TestSession;

ArenaOptions options_of(uint32_t columns) {
  ArenaOptions options;
  options.columns = columns;
  options.pages = 60;  // more than are published: nothing is evicted to make room
  options.middle_frames = 24;
  return options;
}

class ArenaDamage : public testing::TestWithParam<uint32_t> {
 protected:
  ArenaDamage() : test(options_of(GetParam())), column(GetParam() - 1), session(test.attach(column)) {
    for (uint64_t key = 1; key <= 40; ++key) {
      pages.push_back(session->publish_new(test, key_of(key)));
      KVT_CHECK(!pages.back().none());
      test.fill(pages.back());
    }
  }
  void TearDown() override {
    test.settle();
    EXPECT_EQ(test.inconsistency(), "");
  }
  void spoil(Frame frame) { test::spoil(test.frame_data(frame), test.options().page_bytes); }
  Placement at(Handle page, uint32_t of_column) { return test.placement(page, of_column); }
  Placement at(Handle page) { return at(page, column); }
  Handle page_in(uint32_t tier) {
    for (const Handle page : pages)
      if (at(page).tier() == tier) return page;
    KVT_CHECK(false);
    return kNoHandle;
  }
  Handle slow_page() { return page_in(test.slow_tier()); }
  /// Moved as an operator does it, to the end.
  MoveRequest move(Handle page, uint32_t tier, uint32_t of_column) {
    const MoveRequest answer = test.arena().move(test.mover(), of_column, page.index(), tier);
    if (answer == MoveRequest::kQueued)
      for (const mover::Job& job : test.finish_copies(1)) test.arena().commit(job);
    test.pass();
    return answer;
  }
  MoveRequest move(Handle page, uint32_t tier) { return move(page, tier, column); }
  uint64_t retired(uint32_t tier) { return test.arena().counts().tiers[tier].counts.retired; }
  uint64_t lost() { return test.arena().counts().lost_pages; }
  std::string notes() {
    std::string all;
    for (const auto& note : test.arena().take_notes()) all += note.text + "\n";
    return all;
  }
  bool is_found(Handle page) {
    const Key key =
        key_of(static_cast<uint64_t>(std::find(pages.begin(), pages.end(), page) - pages.begin()) + 1);
    return session->lookup(test.table(), key, false) == page;
  }
  void let_go(Handle page) { session->let_go(test, page); }

  TestArena test;
  uint32_t column;
  std::unique_ptr<TestSession> session;
  std::vector<Handle> pages;  ///< all published and held
};
INSTANTIATE_TEST_SUITE_P(Columns, ArenaDamage, testing::Values(1u, 2u));

TEST_P(ArenaDamage, ABadTargetIsRetiredAndThePageStays) {
  const Handle page = slow_page();
  const Placement before = at(page);
  const auto first_free = [&] { return test.arena().counts().tiers[column].counts.free; };
  const uint64_t free_frames = first_free();
  ASSERT_GT(free_frames, 0u);
  // Every frame of the tier that the page could go to.
  std::vector<bool> taken(test.table().header().frames);
  for (const Handle each : pages)
    for (uint32_t of = 0; of < GetParam(); ++of) taken[at(each, of).frame()] = true;
  const auto first = test.table().tier(column).first_frame;
  for (uint64_t i = 0; i < test.table().tier(column).frames; ++i)
    if (!taken[first + i]) spoil(static_cast<Frame>(first + i));
  ASSERT_EQ(move(page, column), MoveRequest::kQueued);
  EXPECT_EQ(at(page).word, before.word);
  EXPECT_EQ(retired(column), 1u);
  EXPECT_EQ(first_free(), free_frames - 1);
  EXPECT_EQ(lost(), 0u);
  EXPECT_NE(notes().find("cannot be written"), std::string::npos);
  EXPECT_TRUE(is_found(page));
  EXPECT_TRUE(test.is_intact(page, at(page).frame()));
  // Again, as later plans do: another frame each time, until there is none.
  for (uint64_t i = 1; i < free_frames; ++i) ASSERT_EQ(move(page, column), MoveRequest::kQueued);
  EXPECT_EQ(retired(column), free_frames);
  test.settle();
  EXPECT_EQ(test.inconsistency(), "");
}

TEST_P(ArenaDamage, ABadFrameIsLeftForTheShadow) {
  const Handle page = slow_page();
  ASSERT_EQ(move(page, column), MoveRequest::kQueued);
  ASSERT_EQ(at(page).tier(), column);
  const Frame fast = at(page).frame();
  const Frame slow = test.shadow(page, column).frame();
  spoil(fast);
  const uint32_t middle = test.slow_tier() - 1;  // not where the shadow is, so it has to be copied
  ASSERT_EQ(move(page, middle), MoveRequest::kQueued);
  EXPECT_EQ(at(page).frame(), slow);
  EXPECT_FALSE(test.shadow(page, column).valid());
  EXPECT_FALSE(test.arena().is_damaged(page.index()));
  EXPECT_TRUE(is_found(page));
  EXPECT_TRUE(test.is_intact(page, at(page).frame()));
  test.settle();
  EXPECT_EQ(retired(column), 1u);
  EXPECT_EQ(lost(), 0u);
  EXPECT_NE(notes().find("it is read from frame " + std::to_string(slow)), std::string::npos);
  EXPECT_EQ(move(page, middle), MoveRequest::kQueued) << "it moves as ever";
}

TEST_P(ArenaDamage, APageWithoutAnotherFrameIsLost) {
  const Handle page = slow_page();
  const Frame frame = at(page).frame();
  spoil(frame);
  ASSERT_EQ(move(page, column), MoveRequest::kQueued);
  EXPECT_EQ(lost(), 1u);
  EXPECT_FALSE(is_found(page)) << "nobody gets it any more";
  EXPECT_EQ(at(page).frame(), frame) << "somebody holds it";
  EXPECT_EQ(at(page).state(), PageState::kSealed);
  EXPECT_TRUE(test.arena().is_damaged(page.index()));
  EXPECT_NE(notes().find("the page is lost"), std::string::npos);
  EXPECT_EQ(move(page, column), MoveRequest::kDamaged) << "and no copy of it is tried again";
  EXPECT_FALSE(test.arena().offer(column, page.index(), column, session->state().geometry.slot));
  EXPECT_EQ(test.arena().counts().tiers[test.slow_tier()].counts.retired, 0u) << "it is named still";
  EXPECT_EQ(test.inconsistency(), "");
  let_go(page);
  test.settle();
  EXPECT_NE(test.placement(page).generation(), page.generation()) << "it has been freed";
  EXPECT_FALSE(test.arena().is_damaged(page.index()));
  EXPECT_EQ(retired(test.slow_tier()), 1u);
  EXPECT_EQ(lost(), 1u);
  // Its key can be published again, elsewhere.
  const Handle again = session->publish_new(test, key_of(100));
  ASSERT_FALSE(again.none());
  EXPECT_NE(at(again).frame(), frame);
}

TEST_P(ArenaDamage, ALostPageThatNobodyHoldsIsGoneAtOnce) {
  const Handle page = slow_page();
  let_go(page);
  spoil(at(page).frame());
  ASSERT_EQ(move(page, column), MoveRequest::kQueued);
  test.settle();
  EXPECT_NE(test.placement(page).generation(), page.generation()) << "it has been freed";
  EXPECT_EQ(lost(), 1u);
  EXPECT_EQ(retired(test.slow_tier()), 1u);
}

/// The frame that both columns read is bad; one of them has the page in its own memory as well.
TEST(ArenaDamageOfColumns, APageComesBackFromAnotherConsumersMemory) {
  TestArena test(options_of(2));
  const auto session = test.attach(0);
  const Handle page = session->publish_new(test, key_of(1));
  test.fill(page);
  const auto move = [&](uint32_t column, uint32_t tier) {
    ASSERT_EQ(test.arena().move(test.mover(), column, page.index(), tier), MoveRequest::kQueued);
    for (const mover::Job& job : test.finish_copies(1)) test.arena().commit(job);
    test.pass();
  };
  move(1, 1);
  const Frame shared = test.placement(page, 0).frame();
  ASSERT_EQ(test.shadow(page, 1).frame(), shared);
  test::spoil(test.frame_data(shared), test.options().page_bytes);
  move(0, 0);
  ASSERT_TRUE(test.arena().is_damaged(page.index()));
  for (const mover::Job& job : test.finish_copies(1)) test.arena().commit(job);
  test.pass();
  EXPECT_FALSE(test.arena().is_damaged(page.index()));
  EXPECT_NE(test.placement(page, 0).frame(), shared);
  EXPECT_EQ(test.placement(page, 0).tier(), test.table().tier_of_frame(shared));
  EXPECT_TRUE(test.is_intact(page, test.placement(page, 0).frame()));
  EXPECT_FALSE(test.shadow(page, 1).valid()) << "it was the bad one";
  test.settle();
  EXPECT_EQ(test.arena().counts().tiers[test.slow_tier()].counts.retired +
                test.arena().counts().tiers[2].counts.retired,
            1u);
  EXPECT_EQ(test.arena().counts().lost_pages, 0u);
  EXPECT_EQ(test.inconsistency(), "");
}

TEST(ArenaDamageNotes, AreNotMoreThanAFew) {
  ArenaOptions options = options_of(1);
  options.fast_frames = 2;
  TestArena test(options);
  const auto session = test.attach(0);
  std::vector<Handle> pages;
  for (uint64_t key = 1; key <= 30; ++key) pages.push_back(session->publish_new(test, key_of(key)));
  for (const Handle page : pages)
    test::spoil(test.frame_data(test.placement(page).frame()), options.page_bytes);
  size_t moved = 0;
  for (const Handle page : pages) {
    const uint32_t tier = test.placement(page).tier() == 1 ? 2 : 1;
    if (test.arena().move(test.mover(), 0, page.index(), tier) != MoveRequest::kQueued) continue;
    ++moved;
    for (const mover::Job& job : test.finish_copies(1)) test.arena().commit(job);
    test.pass();
  }
  ASSERT_GT(moved, 20u);
  const auto notes = test.arena().take_notes();
  EXPECT_EQ(notes.size(), 17u);
  EXPECT_NE(notes.back().text.find(std::to_string(moved - 16) + " more lines"), std::string::npos)
      << notes.back().text;
  EXPECT_TRUE(test.arena().take_notes().empty());
}

}  // namespace
}  // namespace kvt::keeper
