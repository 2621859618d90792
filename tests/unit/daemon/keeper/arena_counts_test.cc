// SPDX-License-Identifier: Apache-2.0
//
// What an arena counts for who looks: how moves are made and what becomes of the pages, how long reads take in the model,
// how long frames wait.
#include <gtest/gtest.h>

#include <algorithm>

#include "daemon/keeper/durations.h"
#include "daemon/keeper/payback.h"
#include "tests/support/arena_fixture.h"

namespace kvt::keeper {
namespace {

using test::ArenaOptions;
using test::key_of;
using test::TestArena;

TEST(Durations, CountWhatTookNoLonger) {
  Durations durations;
  durations.add(0);
  durations.add(1e-5);
  durations.add(2e-5);
  durations.add(61);
  EXPECT_EQ(durations.counts[0], 2u);
  EXPECT_EQ(durations.counts[1], 1u);
  EXPECT_EQ(durations.counts.back(), 1u);
  EXPECT_DOUBLE_EQ(durations.seconds, 61 + 3e-5);
}

TEST(PaybackTest, CountsReadsOfWatchedPagesWhileTheyStay) {
  Payback payback;
  payback.moved(true, 0, Handle::of(1, 1), 0, 1.5, 100);
  payback.moved(false, 0, Handle::of(2, 1), 1, 0, 100);
  int64_t up = 3;
  const auto reads_of = [&](uint32_t, Handle page, uint32_t) { return page.index() == 1 ? up : int64_t{1}; };
  payback.count(100, reads_of);
  up = -1;  // it has left
  payback.count(100, reads_of);
  up = 7;  // and is watched no more
  payback.count(100, reads_of);
  EXPECT_EQ(payback.totals().promotions, 1u);
  EXPECT_EQ(payback.totals().demotions, 1u);
  EXPECT_DOUBLE_EQ(payback.totals().cost_bytes, 150);
  EXPECT_DOUBLE_EQ(payback.totals().saved_bytes, 300);
  EXPECT_DOUBLE_EQ(payback.totals().lost_bytes, 300);
}

TEST(PaybackTest, WatchesSoManyAtOnceAndNotForEver) {
  Payback payback;
  for (uint32_t page = 0; page < 1000; ++page) payback.moved(true, 0, Handle::of(page, 1), 0, 1, 100);
  EXPECT_EQ(payback.totals().promotions, 32u);
  EXPECT_DOUBLE_EQ(payback.totals().cost_bytes, 3200);  // of the watched ones alone
  for (int i = 0; i < 5000; ++i)
    payback.count(1, [](uint32_t, Handle page, uint32_t) { return int64_t{page.index() == 5 ? 1 : 0}; });
  EXPECT_DOUBLE_EQ(payback.totals().saved_bytes, 4096);
  payback.moved(true, 0, Handle::of(2000, 1), 0, 1, 100);
  EXPECT_EQ(payback.totals().promotions, 33u);
}

ArenaOptions options_of() {
  ArenaOptions options;
  options.pages = 40;
  options.settings.policy = PolicyName::kBalance;
  options.settings.promote = Promote::kCopies;
  return options;
}

class ArenaCountsTest : public testing::Test {
 protected:
  ArenaCountsTest() : test(options_of()), session(test.attach()) {
    for (uint64_t key = 1;; ++key) {
      const Handle page = session->publish_new(test, key_of(key));
      if (page.none()) break;
      pages.push_back(page);
    }
  }
  bool is_fast(Handle page) { return test.placement(page).tier() == 0; }
  Handle slow_page() {
    return *std::find_if(pages.begin(), pages.end(), [this](Handle page) { return !is_fast(page); });
  }

  TestArena test;
  std::unique_ptr<test::TestSession> session;
  std::vector<Handle> pages;
};

TEST_F(ArenaCountsTest, HaveTheBytesOfEachTierAndHowLongTheyTake) {
  const Handle slow = slow_page();
  const Handle fast =
      *std::find_if(pages.begin(), pages.end(), [this](Handle page) { return is_fast(page); });
  const ArenaCounts before = test.arena().counts();
  session->read(slow, 2);
  session->read(fast, 1);
  test.period();
  const ArenaCounts after = test.arena().counts();
  EXPECT_EQ(after.tiers[0].bytes_read - before.tiers[0].bytes_read, test.options().page_bytes);
  EXPECT_EQ(after.tiers[1].bytes_read - before.tiers[1].bytes_read, 2 * test.options().page_bytes);
  const double page = static_cast<double>(test.options().page_bytes);
  EXPECT_DOUBLE_EQ(after.modelled.seconds - before.modelled.seconds,
                   2 * page / 3e11);  // the slow one is waited for
  EXPECT_DOUBLE_EQ(after.modelled.best_seconds - before.modelled.best_seconds, 3 * page / 3.3e12);
}

TEST_F(ArenaCountsTest, SayHowPagesWereMovedAndWhetherItPaid) {
  const Handle page = slow_page();
  for (int i = 0; i < 100 && !is_fast(page); ++i) {
    session->read(page, 50);
    test.period_and_copies();
  }
  ASSERT_TRUE(is_fast(page));
  const ArenaCounts promoted = test.arena().counts();
  EXPECT_GE(promoted.moved.up_by_copy, 1u);
  EXPECT_EQ(promoted.moved.up_by_copy + promoted.moved.up_by_reader, test.table().header().counters.promoted);
  EXPECT_EQ(promoted.moved.down_by_copy, test.table().header().counters.demoted_copy);
  EXPECT_EQ(promoted.moved.down_free, test.table().header().counters.demoted_free);
  EXPECT_GE(promoted.begun[static_cast<size_t>(policy::Reason::kFreeFrame)] +
                promoted.begun[static_cast<size_t>(policy::Reason::kSwap)] +
                promoted.begun[static_cast<size_t>(policy::Reason::kReuse)],
            1u);
  EXPECT_GE(promoted.payback.promotions, 1u);
  EXPECT_GT(promoted.payback.cost_bytes, static_cast<double>(test.options().page_bytes));
  session->read(page, 10);
  test.period();
  EXPECT_DOUBLE_EQ(test.arena().counts().payback.saved_bytes - promoted.payback.saved_bytes,
                   10 * static_cast<double>(test.options().page_bytes));
}

TEST_F(ArenaCountsTest, KnowHowLongAFrameWaitsForAStep) {
  const auto reader = test.attach();
  reader->begin_step(test.table());
  session->ask(test, KVT_OP_UNPUBLISH, pages[0]);
  session->let_go(test, pages[0]);
  test.pass();
  ASSERT_GT(test.arena().counts().limbo, 0u);
  const auto waits = [&] { return test.arena().counts().limbo_oldest_seconds; };
  while (waits() < 0.02) test.pass();
  reader->end_step();
  test.pass();
  EXPECT_EQ(test.arena().counts().limbo, 0u);
  EXPECT_EQ(waits(), 0);
}

TEST_F(ArenaCountsTest, ADeadProcessIsOverWhenItsFramesAreFree) {
  const auto reader = test.attach();
  const auto other = test.attach();
  test.settle();
  reader->begin_step(test.table());
  test.end(*other);
  test.arena().watch_reclaim(std::chrono::steady_clock::now());
  test.pass();
  const auto counted = [&] {
    uint64_t all = 0;
    for (const uint64_t count : test.arena().counts().reclaims.counts) all += count;
    return all;
  };
  EXPECT_EQ(counted(), test.arena().counts().limbo == 0 ? 1u : 0u);
  reader->end_step();
  test.pass();
  EXPECT_EQ(counted(), 1u);
}

}  // namespace
}  // namespace kvt::keeper
