// SPDX-License-Identifier: Apache-2.0
//
// What operators ask of an arena: pins, moves, and numbers that cost little.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "tests/support/arena_fixture.h"

namespace kvt::keeper {
namespace {

using test::ArenaOptions;
using test::key_of;
using test::TestArena;
using test::TestSession;

/// 24 pages in 16 fast and 16 slow frames, all published and held by one session of the last column. With one column
/// 15 of them begin in the fast tier, with two all begin in the slow one.
ArenaOptions options_of(uint32_t columns) {
  ArenaOptions options;
  options.columns = columns;
  options.slow_frames = columns == 1 ? 16 : 28;
  options.pages = 24;
  return options;
}

class ArenaOperator : public testing::TestWithParam<uint32_t> {
 protected:
  ArenaOperator() : ArenaOperator(options_of(GetParam())) {}
  explicit ArenaOperator(const ArenaOptions& options) : test(options), column(GetParam() - 1), session(test.attach(column)) {
    for (uint64_t key = 1;; ++key) {
      const Handle page = session->publish_new(test, key_of(key));
      if (page.none()) break;
      pages.push_back(page);
    }
    KVT_CHECK(pages.size() == options.pages);
  }
  void TearDown() override {
    test.settle();
    EXPECT_EQ(test.inconsistency(), "");
  }
  [[nodiscard]] uint32_t fast_tier() const { return column; }
  Placement at(Handle page) { return test.placement(page, column); }
  MoveRequest ask_move(Handle page, uint32_t tier) { return test.arena().move(test.mover(), column, page.index(), tier); }
  /// Asks, and waits for the copy.
  void move(Handle page, uint32_t tier) {
    ASSERT_EQ(ask_move(page, tier), MoveRequest::kQueued);
    EXPECT_TRUE(test.arena().is_moving(page.index()));
    for (const mover::Job& job : test.finish_copies(1)) test.arena().commit(job);
    EXPECT_FALSE(test.arena().is_moving(page.index()));
    ASSERT_EQ(at(page).tier(), tier);
    ASSERT_EQ(at(page).generation(), page.generation());
    test.pass();
  }
  Handle page_in(uint32_t tier, size_t skip = 0) {
    for (const Handle page : pages)
      if (at(page).tier() == tier && skip-- == 0) return page;
    KVT_CHECK(false);
    return kNoHandle;
  }
  uint64_t counter(uint64_t kvt_abi_arena_counters::*which) { return load_relaxed(test.table().counters().*which); }
  bool lies_as_written(Handle page) {
    Key key;
    std::memcpy(&key, test.frame_data(at(page).frame()), sizeof key);
    return key == test.table().key(page.index());
  }

  TestArena test;
  uint32_t column;
  std::unique_ptr<TestSession> session;
  std::vector<Handle> pages;
};
INSTANTIATE_TEST_SUITE_P(Columns, ArenaOperator, testing::Values(1u, 2u));

// ---- moves ----

TEST_P(ArenaOperator, MovesUpAndBackForFree) {
  const Handle page = page_in(test.slow_tier());
  const Frame slow = at(page).frame();
  EXPECT_EQ(ask_move(page, test.slow_tier()), MoveRequest::kThere);
  move(page, fast_tier());
  EXPECT_TRUE(lies_as_written(page));
  EXPECT_EQ(test.shadow(page, column).frame(), slow);
  EXPECT_EQ(counter(&kvt_abi_arena_counters::promoted), 1u);
  EXPECT_EQ(ask_move(page, test.slow_tier()), MoveRequest::kMoved) << "its shadow is there";
  EXPECT_EQ(at(page).frame(), slow);
  EXPECT_TRUE(lies_as_written(page));
  EXPECT_EQ(counter(&kvt_abi_arena_counters::demoted_free), 1u);
  EXPECT_EQ(counter(&kvt_abi_arena_counters::demoted_copy), 0u);
}

TEST_P(ArenaOperator, AReaderKeepsTheFrameThatItResolved) {
  const Handle page = page_in(test.slow_tier());
  move(page, fast_tier());
  session->begin_step(test.table());
  ASSERT_EQ(ask_move(page, test.slow_tier()), MoveRequest::kMoved);
  test.pass();
  EXPECT_EQ(test.arena().counts().limbo, 1u);
  session->end_step();
  test.pass();
  EXPECT_EQ(test.arena().counts().limbo, 0u);
}

TEST_P(ArenaOperator, AMoveSaysWhyNot) {
  const Handle page = page_in(test.slow_tier());
  if (GetParam() == 2) {
    EXPECT_EQ(ask_move(page, 0), MoveRequest::kNotOfColumn);
  }
  ASSERT_EQ(ask_move(page, fast_tier()), MoveRequest::kQueued);
  EXPECT_EQ(ask_move(page, fast_tier()), MoveRequest::kBusy);
  EXPECT_EQ(test.arena().pin(page.index()), PinRequest::kBusy);
  test.settle();
  EXPECT_EQ(ask_move(page, fast_tier()), MoveRequest::kThere);

  const Handle gone = pages.back();
  session->ask(test, KVT_OP_UNPUBLISH, gone);
  session->let_go(test, gone);
  pages.pop_back();
  ASSERT_EQ(test.placement(gone).generation(), gone.generation() + 1);
  const Handle filling = session->allocate(test);
  EXPECT_EQ(ask_move(filling, fast_tier()), MoveRequest::kNotSealed);

  // The fast tier is full, and no page of it leaves by itself.
  size_t moved = 0;
  for (const Handle each : pages)
    if (at(each).tier() != fast_tier() && ask_move(each, fast_tier()) == MoveRequest::kQueued) ++moved;
  EXPECT_EQ(test.arena().counts().copies, moved);
  test.settle();
  EXPECT_EQ(test.arena().counts().tiers[fast_tier()].counts.free, 0u);
  EXPECT_EQ(ask_move(page_in(test.slow_tier()), fast_tier()), MoveRequest::kNoFrame);
}

TEST_P(ArenaOperator, AsManyCopiesAsThereMayBe) {
  ArenaOptions options = options_of(GetParam());
  options.settings.jobs_max = 1;
  options.settings.move_bytes_per_second = 0;  // an operator's move is not the policy's
  TestArena arena(options);
  const auto writer = arena.attach(column);
  const Handle first = writer->publish_new(arena, key_of(1));
  const Handle second = writer->publish_new(arena, key_of(2));
  const uint32_t target = GetParam() == 1 ? arena.slow_tier() : fast_tier();
  EXPECT_EQ(arena.arena().move(arena.mover(), column, first.index(), target), MoveRequest::kQueued);
  EXPECT_EQ(arena.arena().move(arena.mover(), column, second.index(), target), MoveRequest::kManyCopies);
  arena.settle();
  EXPECT_EQ(arena.placement(first, column).tier(), target);
  EXPECT_EQ(arena.arena().move(arena.mover(), column, second.index(), target), MoveRequest::kQueued);
  arena.settle();
}

/// The page goes while its copy is under way: the copy is dropped.
TEST_P(ArenaOperator, AMoveOfAPageThatGoes) {
  const Handle page = page_in(test.slow_tier());
  session->ask(test, KVT_OP_UNPUBLISH, page);
  ASSERT_EQ(ask_move(page, fast_tier()), MoveRequest::kQueued);
  session->let_go(test, page);
  std::erase(pages, page);
  test.settle();
  EXPECT_EQ(test.placement(page).generation(), page.generation() + 1);
}

// ---- pins ----

TEST_P(ArenaOperator, APinnedPageIsNotEvicted) {
  const Handle page = pages[3];
  ASSERT_EQ(test.arena().pin(page.index()), PinRequest::kPinned);
  ASSERT_EQ(test.arena().pin(page.index()), PinRequest::kPinned) << "twice is once";
  EXPECT_EQ(test.arena().counts().pinned, 1u);
  const Placement before = at(page);
  test.end(*session);  // nobody holds anything
  const auto taker = test.attach(column);
  size_t taken = 0;
  while (!taker->allocate(test).none()) ++taken;
  EXPECT_EQ(taken, pages.size() - 1) << "all but the pinned one";
  EXPECT_EQ(at(page).word, before.word);
  EXPECT_EQ(taker->lookup(test.table(), test.table().key(page.index()), false), page);
  EXPECT_TRUE(test.arena().unpin(page.index()));
  EXPECT_FALSE(test.arena().unpin(page.index()));
  EXPECT_FALSE(taker->allocate(test).none()) << "now it gives way";
  EXPECT_EQ(test.placement(page).generation(), page.generation() + 1);
  EXPECT_EQ(test.arena().counts().pinned, 0u);
  pages.clear();
}

TEST_P(ArenaOperator, AncestorsOfAPinnedPageStay) {
  TestArena arena(options_of(GetParam()));
  const auto writer = arena.attach(column);
  const Handle root = writer->publish_new(arena, key_of(1));
  const Handle leaf = writer->publish_new(arena, key_of(2), root);
  ASSERT_EQ(arena.arena().pin(leaf.index()), PinRequest::kPinned);
  writer->release(root);
  writer->release(leaf);
  while (!writer->allocate(arena).none()) {
  }
  EXPECT_EQ(arena.placement(root).generation(), root.generation());
  EXPECT_EQ(arena.placement(leaf).generation(), leaf.generation());
}

/// Every page moves at random, except where it is pinned.
class OperatorAndChurn : public ArenaOperator {
 protected:
  OperatorAndChurn() : ArenaOperator(churn()) {}
  static ArenaOptions churn() {
    ArenaOptions options = options_of(GetParam());
    options.settings.policy = PolicyName::kChurn;
    return options;
  }
};
INSTANTIATE_TEST_SUITE_P(Columns, OperatorAndChurn, testing::Values(1u, 2u));

TEST_P(OperatorAndChurn, APinnedPageIsNotMoved) {
  std::vector<std::pair<Handle, Placement>> pinned;
  for (size_t i = 0; i < pages.size(); i += 4) {
    ASSERT_EQ(test.arena().pin(pages[i].index()), PinRequest::kPinned);
    pinned.emplace_back(pages[i], at(pages[i]));
  }
  EXPECT_EQ(ask_move(pages[0], at(pages[0]).tier() == fast_tier() ? test.slow_tier() : fast_tier()), MoveRequest::kPinned);
  std::vector<Placement> others;
  for (const Handle page : pages) others.push_back(at(page));
  for (int i = 0; i < 100; ++i) test.period_and_copies();
  for (const auto& [page, place] : pinned) EXPECT_EQ(at(page).word, place.word) << "page " << page.index();
  size_t moved = 0;
  for (size_t i = 0; i < pages.size(); ++i) moved += at(pages[i]).word != others[i].word ? 1 : 0;
  EXPECT_GT(moved, 3u) << "the others have moved";
  for (const auto& [page, place] : pinned) test.arena().unpin(page.index());
  for (int i = 0; i < 100; ++i) test.period_and_copies();
  EXPECT_TRUE(std::any_of(pinned.begin(), pinned.end(), [&](const auto& each) { return at(each.first).word != each.second.word; }));
}

TEST_P(ArenaOperator, APinEndsWithTheContent) {
  const Handle page = session->allocate(test).none() ? pages.back() : kNoHandle;
  ASSERT_FALSE(page.none()) << "the arena is full of held pages";
  ASSERT_EQ(test.arena().pin(page.index()), PinRequest::kPinned);
  session->ask(test, KVT_OP_UNPUBLISH, page);
  EXPECT_TRUE(test.arena().is_pinned(page.index())) << "somebody holds it still";
  session->let_go(test, page);
  EXPECT_EQ(test.placement(page).generation(), page.generation() + 1);
  EXPECT_EQ(test.arena().counts().pinned, 0u);
  const Handle next = session->publish_new(test, key_of(1000));
  ASSERT_EQ(next.index(), page.index());
  EXPECT_FALSE(test.arena().is_pinned(next.index())) << "a pin is of one generation";
}

TEST_P(ArenaOperator, OnlySealedPagesArePinned) {
  const Handle page = pages.back();
  session->ask(test, KVT_OP_UNPUBLISH, page);
  session->let_go(test, page);
  pages.pop_back();
  const PinRequest free_or_filling = test.arena().pin(page.index());
  EXPECT_EQ(free_or_filling, PinRequest::kNotSealed);
  const Handle filling = session->allocate(test);
  ASSERT_EQ(test.placement(filling).state(), PageState::kFilling);
  EXPECT_EQ(test.arena().pin(filling.index()), PinRequest::kNotSealed);
  session->ask(test, KVT_OP_SEAL, filling);
  EXPECT_EQ(test.arena().pin(filling.index()), PinRequest::kPinned) << "a key is not needed";
}

TEST_P(ArenaOperator, HalfOfThePagesCanBePinned) {
  for (size_t i = 0; i < pages.size() / 2; ++i) ASSERT_EQ(test.arena().pin(pages[i].index()), PinRequest::kPinned);
  EXPECT_EQ(test.arena().pin(pages.back().index()), PinRequest::kTooMany);
  EXPECT_EQ(test.arena().pin(pages.front().index()), PinRequest::kPinned) << "it is one of them";
  EXPECT_EQ(test.arena().counts().pinned, pins_max(test.table().pages()));
  ASSERT_TRUE(test.arena().unpin(pages.front().index()));
  EXPECT_EQ(test.arena().pin(pages.back().index()), PinRequest::kPinned);
}

/// Half is pinned, the rest is held: nothing can be had, and the loop comes to rest.
TEST_P(ArenaOperator, LookingForRoomAmongPinnedPagesEnds) {
  for (size_t i = 0; i < pages.size() / 2; ++i) {
    test.arena().pin(pages[i].index());
    session->release(pages[i]);
  }
  EXPECT_TRUE(session->allocate(test).none());
  for (int i = 0; i < 40; ++i) test.period();
  bool worked = false;
  for (int i = 0; i < 40; ++i) worked = worked || test.arena().pass(test.mover(), true, 0.01);
  EXPECT_FALSE(worked);
  EXPECT_FALSE(test.arena().has_work());
  EXPECT_EQ(session->free_count(), 0u) << "the session is told that the arena is full";
}

/// With one column: pages that go down fill the slow tier.
class FullSlowTier : public ArenaOperator {};
INSTANTIATE_TEST_SUITE_P(Columns, FullSlowTier, testing::Values(1u));

/// A shadow is a spare frame, whoever has pinned the page.
TEST_P(FullSlowTier, TheShadowOfAPinnedPageGivesWay) {
  const Handle page = page_in(test.slow_tier());
  move(page, fast_tier());
  const Placement place = at(page);
  ASSERT_TRUE(test.shadow(page).valid());
  ASSERT_EQ(test.arena().pin(page.index()), PinRequest::kPinned);
  size_t moved = 0;
  for (const Handle each : pages) {
    if (each == page || at(each).tier() != fast_tier()) continue;
    if (!test.shadow(page).valid()) break;
    move(each, test.slow_tier());
    ++moved;
  }
  EXPECT_GT(moved, 3u);
  EXPECT_FALSE(test.shadow(page).valid());
  EXPECT_EQ(at(page).word, place.word);
  EXPECT_EQ(test.arena().counts().shadows, 0u);
}

// ---- held pages ----

TEST(HeldPagesOfASession, ExactWhileFewAreNamed) {
  ArenaOptions options;
  options.fast_frames = 1024;
  options.slow_frames = 4096;
  TestArena test(options);
  const auto session = test.attach();
  EXPECT_EQ(Arena::held_pages(session->state(), 1).pages, 0u);
  EXPECT_TRUE(Arena::held_pages(session->state(), 1).exact);
  const uint64_t pages = test.table().pages();
  const uint64_t groups = (pages + KVT_SUMMARY_PAGES - 1) / KVT_SUMMARY_PAGES;
  uint64_t held = 0;
  for (uint64_t page = 0; page < pages; page += 3, ++held) hold_add(session->region(), static_cast<PageIndex>(page));
  EXPECT_EQ(Arena::held_pages(session->state(), groups).pages, held);
  EXPECT_TRUE(Arena::held_pages(session->state(), groups).exact);
  // Every third page of any group: the estimate is near.
  const HeldPages some = Arena::held_pages(session->state(), groups / 8);
  EXPECT_FALSE(some.exact);
  EXPECT_NEAR(static_cast<double>(some.pages), static_cast<double>(held), 0.05 * static_cast<double>(held));
  const HeldPages one = Arena::held_pages(session->state(), 1);
  EXPECT_FALSE(one.exact);
  EXPECT_GT(one.pages, 0u);
  // Bits are hints: they stay when the holds have gone.
  for (uint64_t page = 0; page < pages; page += 3) hold_drop(session->region(), static_cast<PageIndex>(page));
  EXPECT_EQ(Arena::held_pages(session->state(), groups).pages, 0u);
}

TEST(HeldPagesOfASession, MaliciousBitsBeyondThePages) {
  TestArena test;
  const auto session = test.attach();
  for (uint64_t word = 0; word < session->region().summary_words(); ++word) session->region().held()[word] = ~uint64_t{0};
  EXPECT_EQ(Arena::held_pages(session->state(), 1'000).pages, 0u);
  EXPECT_EQ(Arena::held_pages(session->state(), 3).pages, 0u);
}

}  // namespace
}  // namespace kvt::keeper
