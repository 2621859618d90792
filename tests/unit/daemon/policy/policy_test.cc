// SPDX-License-Identifier: Apache-2.0
//
// The policy from hand-written snapshots. Sizes are small numbers: a page is 100 bytes, so heat 1 = 100 bytes a period.
#include "daemon/policy/policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "tests/support/random.h"

namespace kvt::policy {
namespace {

constexpr uint64_t kPage = 100;
constexpr uint64_t kPlenty = 1'000'000;

/// Nothing is in limbo.
TierState tier(double bandwidth, uint64_t free, uint64_t reserve, double bytes_read) { return {bandwidth, free, 0, reserve, bytes_read}; }

/// Two tiers that read 3:1; nothing read yet, room everywhere, no reserves.
Snapshot two_tiers(double fast_read, double slow_read) {
  Snapshot s;
  s.page_bytes = kPage;
  s.budget_bytes = kPlenty;
  s.tiers.push_back(tier(3000, 100, 0, fast_read));
  s.tiers.push_back(tier(1000, 100, 0, slow_read));
  return s;
}
/// A swap's promotion goes into the reserve, which its demotion makes good when no step reads there any more.
void full_but_for_the_reserve(Snapshot& s) { s.tiers[0].free_frames = s.tiers[0].reserve_frames = 1; }
PageSample slow(uint32_t page, float heat) { return {page, 1, heat, false}; }
PageSample fast(uint32_t page, float heat, bool shadow = false) { return {page, 0, heat, shadow}; }

/// "+7" page 7 is promoted, "-7" demoted; in order.
std::string text(const Plan& plan) {
  std::string all;
  for (const Move& move : plan.moves) all += (all.empty() ? "" : " ") + std::string(move.target_tier == 0 ? "+" : "-") + std::to_string(move.page);
  return all;
}
Settings exact() {
  Settings settings;
  settings.dead_band = 0;
  return settings;
}

uint64_t copies(const Plan& plan, const Snapshot& s) {
  uint64_t bytes = 0;
  for (const Move& move : plan.moves) {
    const auto sample = std::find_if(s.fast_sample.begin(), s.fast_sample.end(), [&](const PageSample& page) { return page.page == move.page; });
    if (move.target_tier == 0 || sample == s.fast_sample.end() || !sample->has_shadow) bytes += s.page_bytes;
  }
  return bytes;
}

// ---- the balance point ----

TEST(Balance, TheBalancePointIsTheShareOfTheBandwidths) {
  Snapshot s = two_tiers(0, 4000);
  EXPECT_DOUBLE_EQ(balance(s, exact()).bytes_fast_best, 3000);
  s.tiers.push_back(tier(2000, 10, 0, 2000));  // more tiers behind count as their sum
  const Plan plan = balance(s, exact());
  EXPECT_DOUBLE_EQ(plan.bytes_read, 6000);
  EXPECT_DOUBLE_EQ(plan.bytes_fast, 0);
  EXPECT_DOUBLE_EQ(plan.bytes_fast_best, 3000);
}

TEST(Balance, OneTierHasNothingToBalance) {
  Snapshot s = two_tiers(100, 0);
  s.tiers.pop_back();
  s.fast_sample = {fast(1, 1, true)};
  EXPECT_TRUE(balance(s, exact()).moves.empty());
  EXPECT_TRUE(balance(Snapshot{}, exact()).moves.empty());
}

TEST(Balance, BelowItTheHottestAreMovedUpUntilItIsReached) {
  // 4 pages of 10 reads each: 4000 bytes, 3000 of them belong up.
  Snapshot s = two_tiers(0, 4000);
  s.slow_touched = {slow(1, 10), slow(2, 10), slow(3, 10), slow(4, 10)};
  EXPECT_EQ(text(balance(s, exact())), "+1 +2 +3");
  s.slow_touched = {slow(1, 5), slow(2, 25), slow(3, 8), slow(4, 2)};
  EXPECT_EQ(text(balance(s, exact())), "+2 +1") << "2500 and 500; the 800 between them would pass the point";
}

TEST(Balance, APageThatWouldPassThePointStaysAndAColderOneGoes) {
  Snapshot s = two_tiers(0, 4000);
  s.slow_touched = {slow(1, 35), slow(2, 4), slow(3, 1)};
  EXPECT_EQ(text(balance(s, exact())), "+2 +3");
}

TEST(Balance, NothingMovesAtThePoint) {
  Snapshot s = two_tiers(3000, 1000);
  s.slow_touched = {slow(1, 10)};
  s.fast_sample = {fast(2, 10, true), fast(3, 20)};
  EXPECT_TRUE(balance(s, exact()).moves.empty());
}

TEST(Balance, NothingMovesWithinTheDeadBand) {
  Settings settings;
  settings.dead_band = 0.05;  // of 4000: 200 bytes
  for (const double fast_read : {2801.0, 3000.0, 3199.0}) {
    Snapshot s = two_tiers(fast_read, 4000 - fast_read);
    s.slow_touched = {slow(1, 1)};
    s.fast_sample = {fast(2, 1, true)};
    EXPECT_TRUE(balance(s, settings).moves.empty()) << fast_read;
  }
  Snapshot below = two_tiers(2799, 1201);
  below.slow_touched = {slow(1, 1)};
  EXPECT_EQ(text(balance(below, settings)), "+1");
  Snapshot above = two_tiers(3201, 799);
  above.fast_sample = {fast(2, 1, true)};
  EXPECT_EQ(text(balance(above, settings)), "-2");
}

TEST(Balance, AboveItHotPagesWithAShadowAreReadFromTheSlowTierForNothing) {
  Snapshot s = two_tiers(4000, 0);
  s.budget_bytes = 0;
  s.fast_sample = {fast(1, 4, true), fast(2, 9), fast(3, 5, true), fast(4, 8, true), fast(5, 0, true)};
  EXPECT_EQ(text(balance(s, exact())), "-4") << "800 of 1000 too many; 500 or 400 more would pass the point; 2 has no shadow, 5 is cold";
  s.fast_sample = {fast(1, 4, true), fast(3, 5, true)};
  EXPECT_EQ(text(balance(s, exact())), "-3 -1");
}

// ---- room ----

TEST(Balance, FreeFramesAreUsedFirst) {
  Snapshot s = two_tiers(0, 4000);
  s.tiers[0].free_frames = 3;
  s.tiers[0].reserve_frames = 1;
  s.slow_touched = {slow(1, 10), slow(2, 10), slow(3, 10)};
  s.fast_sample = {fast(8, 0), fast(9, 0, true)};
  EXPECT_EQ(text(balance(s, exact())), "+1 +2 -9 +3") << "the demotion comes before the promotion that it makes room for";
}

TEST(Balance, APageReplacesAnotherOnlyIfItIsHotterByTheSwapGain) {
  Snapshot s = two_tiers(0, 4000);
  full_but_for_the_reserve(s);
  s.slow_touched = {slow(1, 10)};
  Settings settings = exact();
  settings.swap_gain = 1.25f;
  s.fast_sample = {fast(9, 8.1f)};
  EXPECT_TRUE(balance(s, settings).moves.empty());
  s.fast_sample = {fast(9, 7.9f)};
  EXPECT_EQ(text(balance(s, settings)), "-9 +1");
}

TEST(Balance, TheColdestOfTheSampleLeavesAndOfEqualsTheOneWithAShadow) {
  Snapshot s = two_tiers(0, 4000);
  full_but_for_the_reserve(s);
  s.slow_touched = {slow(1, 10)};
  s.fast_sample = {fast(7, 2), fast(8, 1), fast(9, 1, true)};
  EXPECT_EQ(text(balance(s, exact())), "-9 +1");
}

TEST(Balance, WithoutVictimsNothingIsReplaced) {
  Snapshot s = two_tiers(0, 4000);
  full_but_for_the_reserve(s);
  s.slow_touched = {slow(1, 10)};
  EXPECT_TRUE(balance(s, exact()).moves.empty());
}

TEST(Balance, TheReserveIsKeptFreeForNewPages) {
  Snapshot s = two_tiers(0, 4000);
  s.tiers[0].free_frames = 3;
  s.tiers[0].reserve_frames = 2;
  s.slow_touched = {slow(1, 10), slow(2, 10)};
  EXPECT_EQ(text(balance(s, exact())), "+1") << "promotions stop at the reserve";
}

TEST(Balance, BelowTheReserveTheColdestLeaveEvenIfNobodyReads) {
  Snapshot s = two_tiers(0, 0);
  s.tiers[0].free_frames = 1;
  s.tiers[0].reserve_frames = 3;
  s.fast_sample = {fast(1, 3), fast(2, 1), fast(3, 2), fast(4, 2, true)};
  const Plan plan = balance(s, exact());
  EXPECT_EQ(text(plan), "-2 -4");
  for (const Move& move : plan.moves) EXPECT_EQ(move.reason, Reason::kReserve);
}

TEST(Balance, ADemotionNeedsRoomInASlowTierAboveItsReserve) {
  Snapshot s = two_tiers(0, 0);
  s.tiers[0].free_frames = 0;
  s.tiers[0].reserve_frames = 4;
  s.tiers[1].free_frames = 5;
  s.tiers[1].reserve_frames = 4;
  s.fast_sample = {fast(1, 1), fast(2, 2), fast(3, 3)};
  EXPECT_EQ(text(balance(s, exact())), "-1") << "one frame above the reserve";
  s.tiers.push_back(tier(500, 10, 9, 0));
  const Plan plan = balance(s, exact());
  ASSERT_EQ(text(plan), "-1 -2");
  EXPECT_EQ(plan.moves[0].target_tier, 1u) << "the fastest slow tier with room";
  EXPECT_EQ(plan.moves[1].target_tier, 2u);
}

// ---- budget ----

TEST(Balance, CopiesStayWithinTheBudget) {
  Snapshot s = two_tiers(0, 40'000);
  for (uint32_t page = 0; page < 20; ++page) s.slow_touched.push_back(slow(page, 10));
  for (const uint64_t budget : {0ull, 99ull, 100ull, 550ull}) {
    s.budget_bytes = budget;
    EXPECT_EQ(balance(s, exact()).moves.size(), budget / kPage) << budget;
  }
}

TEST(Balance, ASwapCostsTwoCopiesAndAShadowedVictimOne) {
  Snapshot s = two_tiers(0, 4000);
  full_but_for_the_reserve(s);
  s.slow_touched = {slow(1, 10)};
  s.budget_bytes = 2 * kPage - 1;
  s.fast_sample = {fast(9, 1)};
  EXPECT_TRUE(balance(s, exact()).moves.empty()) << "no half of a swap";
  s.fast_sample = {fast(9, 1, true)};
  EXPECT_EQ(text(balance(s, exact())), "-9 +1");
}

TEST(Balance, APlanHasAtMostSoManyMoves) {
  Snapshot s = two_tiers(0, 40'000);
  for (uint32_t page = 0; page < 100; ++page) s.slow_touched.push_back(slow(page, 1));
  Settings settings = exact();
  settings.moves_max = 7;
  EXPECT_EQ(balance(s, settings).moves.size(), 7u);
}

// ---- laws ----

Snapshot random_snapshot(test::Random& random) {
  Snapshot s = two_tiers(static_cast<double>(random.below(20'000)), static_cast<double>(random.below(20'000)));
  s.budget_bytes = random.below(30) * kPage + random.below(kPage);
  for (TierState& tier : s.tiers) {
    tier.free_frames = random.below(20);
    tier.reserve_frames = random.below(8);
  }
  if (random.one_in(3)) s.tiers.push_back(tier(500, random.below(5), random.below(5), static_cast<double>(random.below(1000))));
  for (uint64_t i = random.below(40); i != 0; --i) s.slow_touched.push_back(slow(1000 + random.below32(1000), static_cast<float>(random.below(300)) / 10));
  // A sample may name a page twice: it is drawn with replacement.
  for (uint64_t i = random.below(40); i != 0; --i) {
    const uint32_t page = random.below32(100);
    s.fast_sample.push_back(fast(page, static_cast<float>(page % 30), page % 3 == 0));
  }
  return s;
}

TEST(Balance, LawsOnRandomSnapshots) {
  test::Random random;
  Settings settings;
  for (int i = 0; i < 5000; ++i) {
    Snapshot s = random_snapshot(random);
    // The slow sample of one page: two sessions of different columns never meet here, so a page comes once.
    std::sort(s.slow_touched.begin(), s.slow_touched.end(), [](const auto& a, const auto& b) { return a.page < b.page; });
    s.slow_touched.erase(std::unique(s.slow_touched.begin(), s.slow_touched.end(), [](const auto& a, const auto& b) { return a.page == b.page; }),
                         s.slow_touched.end());
    const Plan plan = balance(s, settings);
    const Plan again = balance(s, settings);
    ASSERT_EQ(text(plan), text(again)) << "same input, same plan";
    ASSERT_LE(copies(plan, s), s.budget_bytes);
    ASSERT_LE(plan.moves.size(), settings.moves_max);
    std::set<uint32_t> pages;
    uint64_t free_fast = s.tiers[0].free_frames;
    std::vector<uint64_t> taken(s.tiers.size());
    for (const Move& move : plan.moves) {
      ASSERT_TRUE(pages.insert(move.page).second) << "page " << move.page << " twice in " << text(plan);
      ASSERT_LT(move.target_tier, s.tiers.size());
      if (move.target_tier == 0) {
        ASSERT_GT(free_fast, 0u) << "a promotion without a frame: " << text(plan);
        --free_fast;
      } else {
        ++free_fast;
        const auto sample = std::find_if(s.fast_sample.begin(), s.fast_sample.end(), [&](const PageSample& page) { return page.page == move.page; });
        ASSERT_NE(sample, s.fast_sample.end());
        if (!sample->has_shadow) {
          ++taken[move.target_tier];
          ASSERT_LE(taken[move.target_tier] + s.tiers[move.target_tier].reserve_frames, s.tiers[move.target_tier].free_frames);
        }
      }
    }
  }
}

TEST(Balance, APageThatTwoSessionsReadIsPromotedOnce) {
  Snapshot s = two_tiers(0, 4000);
  s.slow_touched = {slow(1, 5), slow(2, 3), slow(1, 10)};  // the keeper notes a page once for each session that read it
  const Plan plan = balance(s, exact());
  EXPECT_EQ(std::count_if(plan.moves.begin(), plan.moves.end(), [](const Move& move) { return move.page == 1; }), 1) << text(plan);
}

TEST(Balance, DoesItTwiceAndTheSecondPlanIsEmpty) {
  // Carry a plan out by hand, and ask again.
  Snapshot s = two_tiers(0, 4000);
  s.slow_touched = {slow(1, 10), slow(2, 10), slow(3, 10), slow(4, 10)};
  const Plan plan = balance(s, exact());
  Snapshot after = two_tiers(0, 4000);
  for (const PageSample& page : s.slow_touched) {
    const bool moved = std::any_of(plan.moves.begin(), plan.moves.end(), [&](const Move& move) { return move.page == page.page; });
    const double bytes = static_cast<double>(page.heat) * kPage;
    if (moved) {
      after.tiers[0].bytes_read += bytes;
      after.tiers[1].bytes_read -= bytes;
      after.fast_sample.push_back(fast(page.page, page.heat, true));
    } else {
      after.slow_touched.push_back(page);
    }
  }
  EXPECT_TRUE(balance(after, exact()).moves.empty()) << text(balance(after, exact()));
}

// ---- churn ----

TEST(Churn, StaysWithinBudgetMovesAndFrames) {
  test::Random random;
  for (int i = 0; i < 2000; ++i) {
    const Snapshot s = random_snapshot(random);
    const uint64_t moves_max = random.below(20);
    const Plan plan = churn(s, random.next(), moves_max);
    ASSERT_LE(copies(plan, s), s.budget_bytes);
    ASSERT_LE(plan.moves.size(), moves_max + 1);
    uint64_t promotions = 0;
    for (const Move& move : plan.moves) promotions += move.target_tier == 0 ? 1 : 0;
    ASSERT_LE(promotions, s.tiers[0].free_frames);
  }
}

TEST(Churn, TheSeedDecides) {
  Snapshot s = two_tiers(0, 0);
  for (uint32_t page = 0; page < 60; ++page) s.fast_sample.push_back(fast(page, 1, true));
  s.tiers.push_back(tier(100, 100, 0, 0));
  s.tiers[1].free_frames = 0;
  EXPECT_EQ(text(churn(s, 1, 100)), text(churn(s, 1, 100)));
  const auto targets = [&](uint64_t seed) {
    std::string all;
    for (const Move& move : churn(s, seed, 100).moves) all += std::to_string(move.target_tier);
    return all;
  };
  EXPECT_NE(targets(1), targets(2));
}

// ---- heat ----

TEST(Heat, DecaysAsTheNaiveLoop) {
  test::Random random;
  Heat heat;
  double naive = 0;
  for (uint32_t period = 1; period < 2000;) {
    const auto reads = static_cast<float>(random.below(100));
    heat = heat_after(heat, period, reads);
    naive += static_cast<double>(kHeatGain) * static_cast<double>(reads);
    ASSERT_NEAR(static_cast<double>(heat.rate), naive, 1e-4 * naive + 1e-6) << "period " << period;
    const uint32_t gap = random.below32(30);
    for (uint32_t i = 0; i < gap; ++i) naive *= 1 - static_cast<double>(kHeatGain);
    period += gap;
    ASSERT_NEAR(static_cast<double>(heat_now(heat, period)), naive, 1e-4 * naive + 1e-6);
  }
}

TEST(Heat, OfASteadyPageIsItsRate) {
  Heat heat;
  for (uint32_t period = 1; period <= 200; ++period) heat = heat_after(heat, period, 7);
  EXPECT_NEAR(static_cast<double>(heat.rate), 7, 0.01);
}

TEST(Heat, IsGoneAfterLongAndOverTheWrapOfPeriods) {
  const Heat heat{1000, 5};
  EXPECT_EQ(heat_now(heat, 5), 1000);
  EXPECT_LT(heat_now(heat, 204), 1e-6f);
  EXPECT_EQ(heat_now(heat, 205), 0);
  EXPECT_EQ(heat_now(heat, UINT32_MAX), 0);
  const Heat late{64, UINT32_MAX};
  EXPECT_NEAR(static_cast<double>(heat_now(late, 0)), 64 * 0.875, 1e-3) << "period 0 comes after the last one";
}

TEST(Heat, TheByteGrowsWithTheRate) {
  EXPECT_EQ(heat_byte(0), 0);
  EXPECT_EQ(heat_byte(-1), 0);
  EXPECT_EQ(heat_byte(std::nanf("")), 0);
  EXPECT_EQ(heat_byte(1), 128);
  EXPECT_EQ(heat_byte(2), 136) << "8 steps an octave";
  EXPECT_EQ(heat_byte(1e30f), 255);
  EXPECT_EQ(heat_byte(1e-30f), 1) << "not 0: it was read";
  EXPECT_EQ(heat_byte(std::numeric_limits<float>::infinity()), 255);
  uint8_t before = 0;
  for (float rate = 1e-9f; rate < 1e9f; rate *= 1.01f) {
    const uint8_t byte = heat_byte(rate);
    ASSERT_GE(byte, before) << rate;
    before = byte;
  }
}

}  // namespace
}  // namespace kvt::policy
