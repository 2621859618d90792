// SPDX-License-Identifier: Apache-2.0
//
// Pages that move: promotion leaves a shadow, demotion is free or a copy, and a commit follows the row as it
// is then.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "shm/region/change_log.h"
#include "tests/support/arena_fixture.h"

namespace kvt::keeper {
namespace {

using test::ArenaOptions;
using test::key_of;
using test::TestArena;
using test::TestSession;

/// 40 pages in 16 fast and 64 slow frames. With one column 15 of them begin in the fast tier, with two none
/// does.
ArenaOptions options_of(uint32_t columns) {
  ArenaOptions options;
  options.columns = columns;
  options.pages = 40;
  options.settings.policy = PolicyName::kBalance;
  return options;
}

class ArenaMoves : public testing::TestWithParam<uint32_t> {
 protected:
  ArenaMoves() : ArenaMoves(options_of(GetParam())) {}
  explicit ArenaMoves(const ArenaOptions& options)
      : test(options), column(GetParam() - 1), session(test.attach(column)) {
    for (uint64_t key = 1;; ++key) {
      const Handle page = session->publish_new(test, key_of(key));
      if (page.none()) break;
      pages.push_back(page);
      test.fill(page);
    }
    KVT_CHECK(pages.size() == options.pages);
  }
  void TearDown() override {
    test.settle();
    EXPECT_EQ(test.inconsistency(), "");
  }
  Placement at(Handle page) { return test.placement(page, column); }
  bool is_fast(Handle page) { return at(page).tier() == column; }  // hbm<column>
  Handle slow_page(size_t skip = 0) {
    for (const Handle page : pages)
      if (!is_fast(page) && skip-- == 0) return page;
    KVT_CHECK(false);
    return kNoHandle;
  }
  /// Reads the page until it has been promoted.
  void promote(Handle page) {
    for (int i = 0; i < 100 && !is_fast(page); ++i) {
      session->read(page, 50);
      test.period_and_copies();
    }
    ASSERT_TRUE(is_fast(page));
  }
  uint64_t counter(uint64_t kvt_abi_arena_counters::*which) {
    return load_relaxed(test.table().counters().*which);
  }

  TestArena test;
  uint32_t column;
  std::unique_ptr<TestSession> session;
  std::vector<Handle> pages;  ///< all published and held
};
INSTANTIATE_TEST_SUITE_P(Columns, ArenaMoves, testing::Values(1u, 2u));

/// How long pages stay in the fast tier: its frames over those that come into it in a period.
TEST_P(ArenaMoves, APageStaysAsLongAsArrivalsLetIt) {
  const auto stay = [&] { return test.arena().dry_run(column).snapshot.stay_periods; };
  constexpr double kFrames = 16;
  int periods = 0;
  for (int i = 0; i < 150; ++i) {
    const Handle page = slow_page(static_cast<size_t>(i) % 8);
    for (int reads = 0; reads < 20 && !is_fast(page); ++reads, ++periods) {
      session->read(page, 50);
      test.period_and_copies();
    }
  }
  const auto came = static_cast<double>(counter(&kvt_abi_arena_counters::promoted));
  ASSERT_GT(came, periods / 10.0);
  EXPECT_NEAR(stay(), kFrames * periods / came, 0.3 * kFrames * periods / came);
  // Nobody comes any more: as far as can be told from the periods that were seen.
  const Handle fast = *std::find_if(pages.begin(), pages.end(), [&](Handle page) { return is_fast(page); });
  for (int i = 0; i < 1500; ++i) {
    session->read(fast);
    test.period_and_copies();
  }
  EXPECT_NEAR(stay(), (periods + 1500) / 4, 10);
}

TEST_P(ArenaMoves, APromotionLeavesTheSlowCopyAsShadow) {
  const Handle page = slow_page();
  const Placement before = at(page);
  promote(page);
  EXPECT_TRUE(test.is_intact(page, at(page).frame()));
  const Shadow shadow = test.shadow(page, column);
  ASSERT_TRUE(shadow.valid());
  EXPECT_EQ(shadow.frame(), before.frame());
  EXPECT_EQ(shadow.tier(), test.slow_tier());
  EXPECT_EQ(shadow.generation(), page.generation());
  EXPECT_TRUE(test.is_intact(page, shadow.frame()));
  EXPECT_EQ(at(page).state(), PageState::kSealed);
  EXPECT_TRUE(at(page).keyed());
  EXPECT_EQ(at(page).generation(), page.generation()) << "a page's handle is good wherever it lies";
  EXPECT_GE(counter(&kvt_abi_arena_counters::promoted), 1u);
  EXPECT_EQ(counter(&kvt_abi_arena_counters::aborted), 0u);
  for (uint32_t other = 0; other < column; ++other)
    EXPECT_EQ(test.placement(page, other).word, before.word) << "only the column that reads it";
}

TEST_P(ArenaMoves, AMoveIsInTheLogBeforeItsEpoch) {
  const Handle page = slow_page();
  const ChangeLog log(test.table());
  const uint64_t tail = log.tail();
  const uint64_t epoch = test.table().epoch();
  promote(page);
  EXPECT_GT(test.table().epoch(), epoch);
  bool found = false;
  for (uint64_t position = tail; position < log.tail(); ++position) {
    ChangeLog::Entry entry{};
    ASSERT_EQ(log.read(position, entry), ChangeLog::Read::kEntry);
    found = found || (entry.page == page.index() && entry.column == column);
  }
  EXPECT_TRUE(found);
}

TEST_P(ArenaMoves, NothingMovesWhereNobodyReads) {
  for (int i = 0; i < 30; ++i) test.period_and_copies();
  EXPECT_EQ(counter(&kvt_abi_arena_counters::demoted_copy) + counter(&kvt_abi_arena_counters::promoted), 0u);
}

/// With several columns new pages lie in the slow tier; with one they fill the fast one into its reserve of 2
/// frames.
class FullFastTier : public ArenaMoves {
 protected:
  FullFastTier() : ArenaMoves(full()) {}
  static ArenaOptions full() {
    ArenaOptions options = options_of(1);
    options.fast_frames = 64;
    options.slow_frames = 96;
    options.pages = 100;
    return options;
  }
};
INSTANTIATE_TEST_SUITE_P(Columns, FullFastTier, testing::Values(1u));

TEST_P(FullFastTier, MakesItsReserveByCopying) {
  EXPECT_EQ(test.arena().report().tiers[0].counts.free, 1u);
  test.period_and_copies();
  EXPECT_EQ(counter(&kvt_abi_arena_counters::demoted_copy), 1u);
  EXPECT_EQ(test.arena().report().tiers[0].counts.free, 2u);
  const auto left =
      std::find_if(pages.begin(), pages.begin() + 63, [&](Handle page) { return !is_fast(page); });
  ASSERT_NE(left, pages.begin() + 63);
  for (int i = 0; i < 30; ++i) test.period_and_copies();
  EXPECT_EQ(counter(&kvt_abi_arena_counters::demoted_copy), 1u) << "and then there is rest";
  EXPECT_TRUE(test.is_intact(*left, at(*left).frame()));
  EXPECT_FALSE(test.shadow(*left).valid());
}

TEST_P(FullFastTier, TheSlowReaderStillReadsTheFrameThatItResolved) {
  session->begin_step(test.table());
  std::vector<Frame> resolved;
  for (const Handle page : pages) resolved.push_back(at(page).frame());
  test.period_and_copies();
  ASSERT_EQ(counter(&kvt_abi_arena_counters::demoted_copy), 1u);
  EXPECT_EQ(test.arena().report().limbo, 1u);
  for (size_t i = 0; i < pages.size(); ++i)
    EXPECT_TRUE(test.is_intact(pages[i], resolved[i])) << "page " << i;
  session->end_step();
  test.pass();
  EXPECT_EQ(test.arena().report().limbo, 0u);
}

TEST_P(ArenaMoves, CooldownKeepsAPageThatHasMoved) {
  ArenaOptions options = options_of(GetParam());
  options.settings.cooldown_ms = 1000;  // 100 periods
  TestArena arena(options);
  const auto reader = arena.attach(column);
  std::vector<Handle> all;
  for (uint64_t key = 1; all.size() < 40; ++key) all.push_back(reader->publish_new(arena, key_of(key)));
  const Handle page = *std::find_if(
      all.begin(), all.end(), [&](Handle one) { return arena.placement(one, column).tier() != column; });
  for (int i = 0; i < 200 && arena.placement(page, column).tier() != column; ++i) {
    reader->read(page, 50);
    arena.period_and_copies();
  }
  ASSERT_EQ(arena.placement(page, column).tier(), column);
  // Now it is cold, and everything else is hot: it would be the first to leave.
  for (int i = 0; i < 90; ++i) {
    for (const Handle other : all)
      if (!(other == page)) reader->read(other, 200);
    arena.period_and_copies();
    ASSERT_EQ(arena.placement(page, column).tier(), column) << "period " << i;
  }
}

/// A prefix that many sequences share is read once for each of them; others want to go up, too.
TEST_P(ArenaMoves, APageOfManySequencesLeavesRoomForOthers) {
  const Handle shared = slow_page(0);
  const Handle other = slow_page(1);
  kvt_abi_member& member = session->member();
  for (uint32_t i = 0; i < 4000; ++i) member.sequence_pool[i] = shared.index();
  member.sequence[0].first = 0;
  member.sequence[0].length = 4000;
  for (int i = 0; i < 3 && !(is_fast(shared) && is_fast(other));
       ++i) {  // at once, not when the first is out of the way
    session->read(other);
    member.sequence[0].count = member.sequence[0].count + 1;
    member.sequences_touched[0] = 1;
    test.period_and_copies();
  }
  EXPECT_TRUE(is_fast(shared));
  EXPECT_TRUE(is_fast(other));
}

TEST_P(ArenaMoves, WithPolicyOffNothingMoves) {
  ArenaOptions options = options_of(GetParam());
  options.settings.policy = PolicyName::kOff;
  TestArena arena(options);
  const auto reader = arena.attach(column);
  const Handle page = reader->publish_new(arena, key_of(1));
  const uint64_t word = arena.placement(page, column).word;
  for (int i = 0; i < 20; ++i) {
    reader->read(page, 100);
    arena.period_and_copies();
  }
  EXPECT_EQ(arena.placement(page, column).word, word);
  EXPECT_GT(arena.arena().heat(column, page.index()).slow, 0) << "heat is kept all the same";
  EXPECT_GT(arena.table().heat(column, page.index()), 0) << "and published";
}

TEST_P(ArenaMoves, TheFlipThatIsOrderedIsInTheCopy) {
  ArenaOptions options = options_of(GetParam());
  options.settings.inject = Inject::kFlip;
  TestArena arena(options);
  const auto reader = arena.attach(column);
  std::vector<Handle> all;
  for (uint64_t key = 1; all.size() < 40; ++key) all.push_back(reader->publish_new(arena, key_of(key)));
  const Handle page = *std::find_if(
      all.begin(), all.end(), [&](Handle one) { return arena.placement(one, column).tier() != column; });
  for (int i = 0; i < 200 && arena.placement(page, column).tier() != column; ++i) {
    reader->read(page, 50);
    arena.period_and_copies();
  }
  const Shadow shadow = arena.shadow(page, column);
  ASSERT_TRUE(shadow.valid());
  EXPECT_NE(std::memcmp(arena.frame_data(arena.placement(page, column).frame()),
                        arena.frame_data(shadow.frame()), options.page_bytes),
            0);
}

// ---- the hottest pages, with a shadow each, and then others become hot ----

class OtherPagesBecomeHot : public ArenaMoves {
 protected:
  void SetUp() override {
    for (size_t i = 0; i < 15; ++i) first.push_back(slow_page(i));
    for (size_t i = 15; i < 20; ++i) second.push_back(slow_page(i));
    const auto promoted = [&] {
      return std::count_if(first.begin(), first.end(), [&](Handle page) { return is_fast(page); });
    };
    for (int i = 0; i < 200 && promoted() < 15; ++i) {
      for (const Handle page : first) session->read(page, 20);
      test.period_and_copies();
    }
    ASSERT_EQ(promoted(), 15) << "all but the reserve of one frame";
    test.settle();
  }
  void read_the_second() {
    for (const Handle page : second) session->read(page, 20);
  }
  std::vector<Handle> first, second;
};
INSTANTIATE_TEST_SUITE_P(Columns, OtherPagesBecomeHot, testing::Values(1u, 2u));

TEST_P(OtherPagesBecomeHot, TheColdOnesLeaveForNothing) {
  std::vector<Frame> shadows;
  for (const Handle page : first) shadows.push_back(test.shadow(page, column).frame());
  const uint64_t copied = counter(&kvt_abi_arena_counters::demoted_copy);
  const auto promoted = [&] {
    return std::count_if(second.begin(), second.end(), [&](Handle page) { return is_fast(page); });
  };
  for (int i = 0; i < 300 && promoted() < 5; ++i) {
    read_the_second();
    test.period_and_copies();
  }
  EXPECT_EQ(promoted(), 5);
  EXPECT_EQ(counter(&kvt_abi_arena_counters::demoted_free), 5u) << "one for each, and no more";
  EXPECT_EQ(counter(&kvt_abi_arena_counters::demoted_copy), copied);
  size_t back = 0;
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_TRUE(test.is_intact(first[i], at(first[i]).frame()));
    if (is_fast(first[i])) continue;
    ++back;
    EXPECT_EQ(at(first[i]).frame(), shadows[i]) << "in the frame of its shadow";
    EXPECT_FALSE(test.shadow(first[i], column).valid());
  }
  EXPECT_EQ(back, 5u);
}

TEST_P(OtherPagesBecomeHot, AFreeDemotionLeavesItsFastFrameInLimboForTheReader) {
  session->begin_step(test.table());
  std::vector<Frame> resolved;
  for (const Handle page : first) resolved.push_back(at(page).frame());
  for (int i = 0; i < 300 && counter(&kvt_abi_arena_counters::demoted_free) == 0; ++i) {
    read_the_second();
    test.period_and_copies();
  }
  ASSERT_GE(counter(&kvt_abi_arena_counters::demoted_free), 1u);
  EXPECT_GE(test.arena().report().limbo, 1u);
  for (int i = 0; i < 10; ++i) {
    read_the_second();
    test.period_and_copies();
  }
  EXPECT_EQ(counter(&kvt_abi_arena_counters::demoted_free), 1u) << "the reserve has lent its frame";
  for (size_t i = 0; i < first.size(); ++i)
    EXPECT_TRUE(test.is_intact(first[i], resolved[i])) << "the reader reads on where it was";
  session->end_step();
  test.settle();
  EXPECT_EQ(test.arena().report().limbo, 0u);
}

TEST_P(OtherPagesBecomeHot, WhereTheSetStaysSoDoesEverything) {
  const uint64_t promoted = counter(&kvt_abi_arena_counters::promoted);
  for (int i = 0; i < 100; ++i) {
    for (const Handle page : first) session->read(page, 20);
    test.period_and_copies();
  }
  EXPECT_EQ(counter(&kvt_abi_arena_counters::promoted), promoted);
  EXPECT_EQ(counter(&kvt_abi_arena_counters::demoted_free), 0u);
}

// ---- commits that come late ----

/// A copy of a slow page that has been done and not yet committed.
class LateCommit : public ArenaMoves {
 protected:
  void SetUp() override {
    page = slow_page();
    for (int i = 0; i < 100 && jobs.empty(); ++i) {
      session->read(page, 50);
      test.period();
      size_t under_way = 0;
      for (const auto& tier : test.arena().report().tiers) under_way += tier.counts.reserved;
      for (const mover::Job& job : test.finish_copies(under_way)) {
        if (job.page == page)
          jobs.push_back(job);
        else
          test.arena().commit(job);
      }
    }
    ASSERT_EQ(jobs.size(), 1u);
    ASSERT_EQ(test.inconsistency(), "");
  }
  Handle page = kNoHandle;
  std::vector<mover::Job> jobs;
};
INSTANTIATE_TEST_SUITE_P(Columns, LateCommit, testing::Values(1u, 2u));

TEST_P(LateCommit, APageThatIsBeingCopiedIsNeitherEvictedNorMovedOtherwise) {
  session->ask(test, KVT_OP_UNPUBLISH, page);
  session->release(page);
  EXPECT_EQ(session->ask(test, KVT_OP_FREE, page).result, KVT_RESULT_STATE);
  EXPECT_EQ(at(page).generation(), page.generation());
  session->read(page, 50);
  test.period();
  EXPECT_EQ(at(page).frame(), jobs[0].source_frame);
  test.arena().commit(jobs[0]);
  EXPECT_EQ(at(page).generation(), page.generation() + 1) << "it goes as soon as it can";
}

TEST_P(LateCommit, ThePageOfADeadSessionGoesAfterTheCopy) {
  const auto other = test.attach(column);
  session->ask(test, KVT_OP_UNPUBLISH, page);
  test.end(*session);
  EXPECT_EQ(test.placement(page, column).generation(), page.generation()) << "the copy has not come back";
  test.arena().commit(jobs[0]);
  EXPECT_EQ(test.placement(page, column).generation(), page.generation() + 1);
  EXPECT_EQ(test.inconsistency(), "");
}

// The rows are set by hand, as a restart or a later keeper might leave them: whatever the row says then
// decides.
TEST_P(LateCommit, AnotherGenerationAborts) {
  const Placement before = at(page);
  test.table().set_placement(
      column, page.index(),
      Placement::of(PageState::kSealed, true, before.tier(), before.frame(), page.generation() + 1));
  test.arena().commit(jobs[0]);
  EXPECT_EQ(counter(&kvt_abi_arena_counters::aborted), 1u);
  EXPECT_EQ(at(page).frame(), before.frame());
  EXPECT_FALSE(test.shadow(page, column).valid());
  EXPECT_EQ(test.arena().report().tiers[column].counts.reserved, 0u) << "the target is free again";
  test.table().set_placement(column, page.index(), before);
}

TEST_P(LateCommit, APageThatIsNotSealedAborts) {
  const Placement before = at(page);
  for (const PageState state : {PageState::kFree, PageState::kFilling, PageState::kEvicting}) {
    test.table().set_placement(column, page.index(), before.with_state(state));
    if (state == PageState::kFree) {
      test.arena().commit(jobs[0]);
      EXPECT_EQ(counter(&kvt_abi_arena_counters::aborted), 1u);
    }
    EXPECT_EQ(at(page).frame(), before.frame());
  }
  test.table().set_placement(column, page.index(), before);
}

TEST_P(LateCommit, TheFrameThatTheRowNamesNowBecomesTheShadow) {
  // As if the page had been moved to another slow frame meanwhile (PROTOCOL A4, oldjob).
  const Placement before = at(page);
  const Frame elsewhere = static_cast<Frame>(test.table().tier(test.slow_tier()).first_frame +
                                             test.table().tier(test.slow_tier()).frames - 1);
  ASSERT_NE(elsewhere, before.frame());
  test.table().set_placement(column, page.index(), before.with_place(test.slow_tier(), elsewhere));
  test.arena().commit(jobs[0]);
  EXPECT_EQ(at(page).frame(), jobs[0].target_frame);
  EXPECT_EQ(test.shadow(page, column).frame(), elsewhere) << "not the frame that the job recorded";
  test.table().set_shadow(column, page.index(),
                          Shadow::of(test.slow_tier(), before.frame(), page.generation()));  // as it was
}

TEST_P(LateCommit, AStepThatIsOpenOverTheCommitSeesItsOldFrameWhole) {
  session->begin_step(test.table());
  const Frame resolved = at(page).frame();
  test.arena().commit(jobs[0]);
  test.pass();
  EXPECT_NE(at(page).frame(), resolved);
  EXPECT_TRUE(test.is_intact(page, resolved));
  EXPECT_TRUE(test.is_intact(page, at(page).frame()));
  session->end_step();
}

// ---- budget ----

/// Pages that random moves copy in two seconds, up and down, after a while in which the burst was used up.
/// The budget is 100 pages a second in each direction. The reader reads `reads` slow pages a period, of 200
/// that the slow tier could serve.
std::pair<uint64_t, uint64_t> copied_in_two_seconds(uint32_t columns, double idle_credit, uint32_t reads) {
  ArenaOptions options = options_of(columns);
  options.settings.policy = PolicyName::kChurn;
  options.settings.move_bytes_per_second = 100 * options.page_bytes;  // one page a period of 10 ms
  options.settings.idle_credit = idle_credit;
  options.slow_bytes_per_second = 200 * 100 * options.page_bytes;
  TestArena arena(options);
  const uint32_t column = columns - 1;
  const auto reader = arena.attach(column);
  std::vector<Handle> all;
  for (uint64_t key = 1; all.size() < 40; ++key) all.push_back(reader->publish_new(arena, key_of(key)));
  const auto period = [&] {
    for (const Handle page : all)
      if (arena.placement(page, column).tier() != column) {
        reader->read(page, reads);
        break;
      }
    arena.period_and_copies();
  };
  for (int i = 0; i < 50; ++i) period();
  const kvt_abi_arena_counters& counters = arena.table().counters();
  const uint64_t up = load_relaxed(counters.promoted);
  const uint64_t down = load_relaxed(counters.demoted_copy);
  for (int i = 0; i < 200; ++i) period();
  EXPECT_EQ(load_relaxed(counters.aborted), 0u);
  EXPECT_EQ(arena.inconsistency(), "");
  return {load_relaxed(counters.promoted) - up, load_relaxed(counters.demoted_copy) - down};
}

// What is copied in a second is bounded in each direction, however many columns there are; and a burst is 10
// pages.
TEST_P(ArenaMoves, CopiesKeepToTheBudgetOfTheirDirection) {
  const auto [up, down] = copied_in_two_seconds(GetParam(), 0, 0);
  EXPECT_LE(up, 200u + 10u);
  EXPECT_GE(up, 150u);
  EXPECT_LE(down, 200u + 10u);
  EXPECT_GE(down, 50u) << "the others left for their shadows";
}

TEST_P(ArenaMoves, IdleTiersGiveCredit) {
  const auto [idle, idle_down] = copied_in_two_seconds(GetParam(), 0.5, 0);
  EXPECT_LE(idle, 300u + 10u);
  EXPECT_GE(idle, 250u);
  const auto [half, half_down] = copied_in_two_seconds(GetParam(), 0.5, 100);
  EXPECT_LE(half, 250u + 10u);
  EXPECT_GE(half, 220u);
  const auto [busy, busy_down] = copied_in_two_seconds(GetParam(), 0.5, 1000);
  EXPECT_LE(busy, 200u + 10u);
  EXPECT_GE(busy, 180u);
}

TEST_P(ArenaMoves, ChurnKeepsEveryByte) {
  ArenaOptions options = options_of(GetParam());
  options.settings.policy = PolicyName::kChurn;
  options.page_bytes = 16896;
  options.pages = 60;  // each reader's magazine has some of them
  TestArena arena(options);
  std::vector<std::unique_ptr<TestSession>> readers;
  for (uint32_t i = 0; i < GetParam(); ++i) readers.push_back(arena.attach(i));
  std::vector<Handle> all;
  for (uint64_t key = 1; all.size() < 40; ++key) {
    const Handle page = readers[0]->publish_new(arena, key_of(key));
    KVT_CHECK(!page.none());
    std::memset(arena.frame_data(arena.placement(page).frame()), static_cast<int>(page.index() + 1),
                options.page_bytes);
    all.push_back(page);
  }
  for (int i = 0; i < 300; ++i) {
    arena.period_and_copies();
    for (const Handle page : all)
      for (uint32_t each = 0; each < GetParam(); ++each) {
        const std::byte* const data = arena.frame_data(arena.placement(page, each).frame());
        for (uint64_t at_byte = 0; at_byte < options.page_bytes; at_byte += 511)
          ASSERT_EQ(data[at_byte], static_cast<std::byte>(page.index() + 1));
        if (const Shadow shadow = arena.shadow(page, each); shadow.valid()) {
          ASSERT_EQ(arena.frame_data(shadow.frame())[17], static_cast<std::byte>(page.index() + 1));
        }
      }
    if (i % 10 == 0) {
      ASSERT_EQ(arena.inconsistency(), "") << "period " << i;
    }
  }
  const kvt_abi_arena_counters& counters = arena.table().counters();
  EXPECT_GT(load_relaxed(counters.promoted), 100u);
  EXPECT_GT(load_relaxed(counters.demoted_free) + load_relaxed(counters.demoted_copy), 100u);
}

// Two columns can have a copy each in the tier that both read. Pages that are free must have frames all the
// same.
TEST_P(ArenaMoves, AfterChurnEveryPageCanBeHad) {
  for (const bool keep : {false, true}) {
    ArenaOptions options = options_of(GetParam());
    options.settings.policy = PolicyName::kChurn;
    options.fast_frames = 4;
    options.pages = 60;
    TestArena arena(options);
    const auto first = arena.attach(column);
    std::vector<Handle> published;
    for (uint64_t key = 1; key <= 40; ++key) published.push_back(first->publish_new(arena, key_of(key)));
    for (int i = 0; i < 300; ++i) arena.period_and_copies();
    if (!keep)
      for (const Handle page : published) first->let_go(arena, page);
    uint64_t had = 0;
    for (int i = 0; i < 400; ++i) {
      if (!first->allocate(arena).none()) ++had;
      arena.period_and_copies();
    }
    EXPECT_EQ(had, keep ? 20u : 60u) << (keep ? "held pages stay" : "all others make room");
    EXPECT_EQ(arena.inconsistency(), "");
  }
}

}  // namespace
}  // namespace kvt::keeper
