// SPDX-License-Identifier: Apache-2.0
//
// The rules of policy.h, each on a snapshot made by hand; then laws that every plan keeps, on random
// snapshots.
#include "daemon/policy/policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "tests/support/random.h"

namespace kvt::policy {
namespace {

constexpr uint64_t kPage = 100;
constexpr double kFast = 3000, kSlow = 1000;

/// Two tiers that read 3:1, the fast one full but for one frame, which is its reserve's; the slow one has
/// room. All reads come from the slow tier, so that promotions pay.
Snapshot two_tiers() {
  Snapshot s;
  s.page_bytes = kPage;
  s.tiers = {{kFast, kFast, 10, 1, 0, 1}, {kSlow, kSlow, 100, 50, 0, 0}};
  s.groups = {{{0, 100 * kPage}, 0}};
  return s;
}
/// More free frames of the fast tier than its reserve.
Snapshot with_free_frames(uint64_t free) {
  Snapshot s = two_tiers();
  s.tiers[0].free_frames = free + 1;
  return s;
}
PageSample slow(uint32_t page, float expected, uint32_t group = 0) {
  return {.page = page, .expected = expected, .tier = 1, .group = static_cast<uint8_t>(group)};
}
PageSample offered(uint32_t page, float expected) {
  return {.page = page, .expected = expected, .tier = 1, .can_offer = true};
}
PageSample fast(uint32_t page, float expected, bool shadow = false) {
  return {.page = page, .expected = expected, .tier = 0, .has_shadow = shadow};
}

/// "7>0" page 7 goes to tier 0; in order.
std::string text(const Plan& plan) {
  std::string all;
  for (const Move& move : plan.moves)
    all += (all.empty() ? "" : " ") + std::to_string(move.page) + ">" + std::to_string(move.target_tier);
  return all;
}
std::string planned(const Snapshot& s, const Settings& settings = {}) { return text(plan(s, settings)); }

// ---- rule 2: the balance ----

TEST(Balance, TheSlowTiersServeTheShareOfTheirBandwidth) {
  Snapshot s = two_tiers();
  s.groups[0].bytes_read = {3000, 1000};
  Balance balance = plan(s, {}).groups.at(0);
  EXPECT_DOUBLE_EQ(balance.bytes_read, 4000);
  EXPECT_DOUBLE_EQ(balance.bytes_slow, 1000);
  EXPECT_DOUBLE_EQ(balance.bytes_slow_best, 1000) << "then both take a second";
  EXPECT_FALSE(balance.balanced);
  s.groups[0].bytes_read = {3251, 749};
  EXPECT_TRUE(plan(s, {}).groups.at(0).balanced) << "under three quarters of 1000";
  s.groups[0].bytes_read = {3249, 751};
  EXPECT_FALSE(plan(s, {}).groups.at(0).balanced);
  Settings settings;
  settings.balanced_share = 0.5f;
  s.groups[0].bytes_read = {3499, 501};
  EXPECT_FALSE(plan(s, settings).groups.at(0).balanced);
}

TEST(Balance, FixedTrafficCounts) {
  Snapshot s = two_tiers();
  s.groups[0] = {{2000, 2000}, 6000};
  // Of 10,000 bytes the slow tier has a quarter, 2500, in the best case.
  EXPECT_DOUBLE_EQ(plan(s, {}).groups.at(0).bytes_slow_best, 2500);
  s.groups[0] = {{2000, 2000}, 100'000};
  EXPECT_DOUBLE_EQ(plan(s, {}).groups.at(0).bytes_slow_best, 4000) << "no more than there is";
}

TEST(Balance, TiersBehindALinkReadNoMoreThanTheLink) {
  Snapshot s = two_tiers();
  s.tiers.push_back({2000, 2000, 100, 50, 0, 0});
  s.groups[0].bytes_read = {1000, 3000, 2000};
  EXPECT_DOUBLE_EQ(plan(s, {}).groups.at(0).bytes_slow_best, 3000) << "of 6000, as 3000 : (1000 + 2000)";
  s.links = {{1500, 0b110}};
  EXPECT_DOUBLE_EQ(plan(s, {}).groups.at(0).bytes_slow_best, 2000) << "3000 : 1500";
  s.links = {{1500, 0b110}, {300, 0b010}};
  EXPECT_DOUBLE_EQ(plan(s, {}).groups.at(0).bytes_slow_best, 2000)
      << "the inner link leaves 300 + 2000, the outer 1500";
  s.links = {{300, 0b010}, {10'000, 0b110}};
  EXPECT_DOUBLE_EQ(plan(s, {}).groups.at(0).bytes_slow_best, 6000.0 * 2300 / 5300)
      << "a tier behind two links counts once";
  s.links = {{1500, 0b100}};
  EXPECT_DOUBLE_EQ(plan(s, {}).groups.at(0).bytes_slow_best, 6000.0 * 2500 / 5500) << "1000 + 1500";
}

TEST(Balance, NothingReadIsNotBalanced) {
  Snapshot s = two_tiers();
  s.groups[0].bytes_read = {0, 0};
  const Balance balance = plan(s, {}).groups.at(0);
  EXPECT_EQ(balance.bytes_slow_best, 0);
  EXPECT_FALSE(balance.balanced);
}

// ---- rule 3: the gate ----

/// The least difference of expected reads that a plan makes a swap for.
float least_gain(const Snapshot& from, PageSample candidate, const Settings& settings = {}) {
  float low = 0;
  float high = 64;
  for (int i = 0; i < 40; ++i) {
    Snapshot s = from;
    candidate.expected = 10 + (low + high) / 2;
    s.candidates = {candidate};
    s.residents = {fast(1, 10)};
    (plan(s, settings).moves.empty() ? low : high) = (low + high) / 2;
  }
  return high;
}

TEST(Gate, IsAShareOfTheCost) {
  const Settings settings;
  EXPECT_NEAR(least_gain(two_tiers(), slow(2, 0)), (1 + 1.0 / 3) / static_cast<double>(settings.horizon),
              1e-4)
      << "a copy reads, and writes";
  EXPECT_NEAR(least_gain(two_tiers(), offered(2, 0)), 1.0 / 3 / static_cast<double>(settings.horizon), 1e-4)
      << "who reads it anyway only writes";
  Settings longer;
  longer.horizon = 12;
  EXPECT_NEAR(least_gain(two_tiers(), slow(2, 0), longer), (1 + 1.0 / 3) / 12, 1e-4);
  Snapshot s = two_tiers();
  s.tiers[0].write_bytes_per_second = 500;  // memory that writes slowly
  EXPECT_NEAR(least_gain(s, slow(2, 0)), (1 + 2.0) / static_cast<double>(settings.horizon), 1e-4);
}

TEST(Gate, IsAtLeastWhatExpectationsAreWrongBy) {
  Snapshot s = two_tiers();
  s.tiers[0] = {100 * kSlow, 100 * kSlow, 10, 1, 0, 1};  // an offer costs a hundredth of a read
  s.residents = {fast(1, 1)};
  s.candidates = {offered(2, 1.013f)};
  EXPECT_EQ(planned(s), "");
  s.candidates = {offered(2, 1.015f)};
  EXPECT_EQ(planned(s), "1>1 2>0");
}

TEST(Gate, IsThreeQuartersOfAReadWhereTheSlowTierIsIdle) {
  Snapshot s = two_tiers();
  s.groups[0].bytes_read = {4000, 100};
  EXPECT_NEAR(least_gain(s, slow(2, 0)), 0.75, 1e-4);
  EXPECT_NEAR(least_gain(s, offered(2, 0)), 0.75, 1e-4);
  Settings settings;
  settings.balanced_gate = 2;
  EXPECT_NEAR(least_gain(s, slow(2, 0), settings), 2, 1e-4);
  settings.balanced_gate = 0.01f;
  EXPECT_NEAR(least_gain(s, slow(2, 0), settings), (1 + 1.0 / 3) / static_cast<double>(settings.horizon),
              1e-4)
      << "never less than the cost asks for";
}

TEST(Gate, IsEachGroupsOwn) {
  Snapshot s = two_tiers();
  s.groups = {{{4000, 100}, 0}, {{100, 4000}, 0}};
  s.residents = {fast(1, 10)};
  s.candidates = {slow(2, 10.5f, 0)};
  EXPECT_EQ(planned(s), "") << "its group reads too little of the slow tier";
  s.candidates = {slow(2, 10.5f, 1)};
  EXPECT_EQ(planned(s), "1>1 2>0");
  // A hotter page that its own group holds back is in nobody's way, offered or not.
  for (const bool offer : {false, true}) {
    s.candidates = {slow(2, 10.5f, 0), slow(3, 10.4f, 1)};
    for (PageSample& page : s.candidates) page.can_offer = offer;
    EXPECT_EQ(planned(s), "1>1 3>0") << offer;
    const Plan made = plan(s, {});
    EXPECT_EQ(made.held_back, HeldBack::kGate);
    EXPECT_FLOAT_EQ(made.gate, 0.75f) << "of the hottest that stays";
  }
}

TEST(Gate, NothingIsReplacedByItsEqual) {
  Snapshot s = two_tiers();
  s.candidates = {slow(2, 5), offered(3, 5)};
  s.residents = {fast(1, 5, true)};
  EXPECT_EQ(planned(s), "");
  EXPECT_EQ(plan(s, {}).held_back, HeldBack::kGate);
}

TEST(Gate, FreeFramesHaveNone) {
  Snapshot s = with_free_frames(2);
  s.groups[0].bytes_read = {4000, 0};  // nothing to gain now
  s.candidates = {slow(1, 0.01f), slow(2, 0.02f), slow(3, 0.03f)};
  s.residents = {fast(9, 50)};
  const Plan made = plan(s, {});
  EXPECT_EQ(text(made), "3>0 2>0") << "the hottest first";
  for (const Move& move : made.moves) EXPECT_EQ(move.reason, Reason::kFreeFrame);
}

TEST(Gate, TheHottestTakeThePlacesOfTheColdest) {
  Snapshot s = two_tiers();
  s.tiers[0].free_frames = s.tiers[0].reserve_frames = 3;
  s.candidates = {slow(10, 3), slow(11, 9), slow(12, 6)};
  s.residents = {fast(1, 2), fast(2, 5), fast(3, 0), fast(4, 8)};
  const Plan made = plan(s, {});
  EXPECT_EQ(text(made), "3>1 11>0 1>1 12>0") << "3 reads are no reason to let 5 go";
  EXPECT_FLOAT_EQ(made.moves[1].replaced, 0);
  EXPECT_FLOAT_EQ(made.moves[3].replaced, 2);
  EXPECT_FLOAT_EQ(made.coldest, 5) << "the last that was looked at";
}

// ---- rule 3, second half: read while it stays ----

/// A fast page that nobody expects, and a slow one that is hardly expected in any period, but with
/// `probability` in a stay of
/// 400. An offer costs a third of a read.
Snapshot rarely_read(float probability) {
  Snapshot s = two_tiers();
  s.stay_periods = 400;
  s.residents = {fast(1, 0)};
  s.candidates = {offered(2, probability / 400)};
  s.candidates[0].in_stay = probability / 400;
  return s;
}

TEST(Reuse, PaysWhereTheProbabilityOfAReadIsMoreThanTheCost) {
  EXPECT_EQ(planned(rarely_read(.32f)), "");
  const Plan paid = plan(rarely_read(.35f), {});
  EXPECT_EQ(text(paid), "1>1 2>0");
  EXPECT_EQ(paid.moves[1].reason, Reason::kReuse);
  EXPECT_FLOAT_EQ(paid.moves[1].gate, 1.0f / 3 / 400);
  EXPECT_GT(paid.moves[1].expected - paid.moves[1].replaced, paid.moves[1].gate);
}

TEST(Reuse, IsOverThatOfThePageThatLeaves) {
  Snapshot s = rarely_read(.6f);
  s.residents[0].in_stay = .3f / 400;
  EXPECT_EQ(planned(s), "");
  s.residents[0].in_stay = .2f / 400;
  EXPECT_EQ(planned(s), "1>1 2>0");
  s.residents[0].expected = .7f / 400;
  EXPECT_EQ(planned(s), "") << "it is hotter now: they would change places again";
}

TEST(Reuse, NeverPaysForACopyNorIfTheSlowTierIsIdleNorIfNobodyKnowsTheStay) {
  Snapshot s = rarely_read(1);
  s.candidates[0].can_offer = false;
  EXPECT_EQ(planned(s), "") << "a read and a third for one read";
  s = rarely_read(1);
  s.groups[0].bytes_read = {100 * kPage, 0};
  EXPECT_EQ(planned(s), "");
  s = rarely_read(1);
  s.stay_periods = 0;
  EXPECT_EQ(planned(s), "");
}

// ---- rule 4: costs ----

TEST(Cost, OfOffersAndCopies) {
  Snapshot s = two_tiers();
  s.tiers.push_back({500, 500, 100, 50, 0, 0});
  EXPECT_FLOAT_EQ(promotion_cost(s, 1, 0, true), 1.0f / 3);
  EXPECT_FLOAT_EQ(promotion_cost(s, 1, 0, false), 1 + 1.0f / 3);
  EXPECT_FLOAT_EQ(promotion_cost(s, 2, 1, false), 1.5f);
  EXPECT_FLOAT_EQ(promotion_cost(s, 2, 0, true), 1.0f / 6);
}

TEST(Cost, IsInThePlan) {
  Snapshot s = with_free_frames(2);
  s.candidates = {slow(1, 5), offered(2, 4)};
  const Plan made = plan(s, {});
  ASSERT_EQ(text(made), "1>0 2>0");
  EXPECT_EQ(made.moves[0].how, How::kCopy);
  EXPECT_FLOAT_EQ(made.moves[0].cost, 1 + 1.0f / 3);
  EXPECT_EQ(made.moves[1].how, How::kOffer);
  EXPECT_FLOAT_EQ(made.moves[1].cost, 1.0f / 3);
}

TEST(Cost, LeavingForAShadowIsFree) {
  Snapshot s = two_tiers();
  s.candidates = {slow(2, 10)};
  s.residents = {fast(1, 0, true)};
  s.allowance.out_bytes = 0;
  s.tiers[1].free_frames = 0;
  const Plan made = plan(s, {});
  ASSERT_EQ(text(made), "1>1 2>0");
  EXPECT_EQ(made.moves[0].how, How::kShadow);
  EXPECT_EQ(made.moves[0].cost, 0);
  EXPECT_EQ(made.moves[0].reason, Reason::kMakeRoom);
  EXPECT_EQ(made.moves[1].reason, Reason::kSwap);
}

// ---- rule 5: who leaves ----

TEST(Victim, OfEqualsTheOneThatNobodysPrefixNeedsThenTheOneWithAShadow) {
  Snapshot s = two_tiers();
  s.candidates = {slow(9, 10)};
  PageSample parent = fast(1, 1, true);
  parent.has_children = true;
  s.residents = {parent, fast(2, 1), fast(3, 1, true), fast(4, 2)};
  EXPECT_EQ(planned(s), "3>1 9>0");
  s.residents = {parent, fast(2, 1)};
  EXPECT_EQ(planned(s), "2>1 9>0") << "a leaf without a shadow before a parent with one";
  s.residents = {parent, fast(4, 1.001f)};
  EXPECT_EQ(planned(s), "1>1 9>0") << "but the colder one is colder";
  s.residents = {};
  EXPECT_EQ(planned(s), "");
  EXPECT_EQ(plan(s, {}).held_back, HeldBack::kNoRoom);
}

TEST(Victim, ThoseThatWereColdAndStayAreNamedForTheNextPlan) {
  Snapshot s = two_tiers();
  Settings settings;
  settings.sample = 2;
  s.candidates = {slow(99, 100)};
  for (uint32_t page = 0; page < 20; ++page) s.residents.push_back(fast(page, static_cast<float>(page)));
  Plan made = plan(s, settings);
  EXPECT_EQ(text(made), "0>1 99>0");
  std::sort(made.cold.begin(), made.cold.end());
  EXPECT_EQ(made.cold, (std::vector<uint32_t>{1, 2, 3})) << "four for a candidate, of which one leaves";
  for (const PageSample& page : std::vector(s.residents))
    s.residents.push_back(page);  // each was drawn twice
  made = plan(s, settings);
  std::sort(made.cold.begin(), made.cold.end());
  EXPECT_EQ(made.cold, (std::vector<uint32_t>{1})) << "each once";
}

// ---- rule 6: the reserve ----

TEST(Reserve, IsMadeEvenIfNobodyReads) {
  Snapshot s = two_tiers();
  s.groups[0].bytes_read = {0, 0};
  s.tiers[0].reserve_frames = 3;
  s.residents = {fast(1, 3), fast(2, 1), fast(3, 2), fast(4, 2, true)};
  const Plan made = plan(s, {});
  EXPECT_EQ(text(made), "2>1 4>1");
  for (const Move& move : made.moves) EXPECT_EQ(move.reason, Reason::kReserve);
  EXPECT_EQ(made.held_back, HeldBack::kNoCandidate);
  s.tiers[0].coming_frames = 1;
  EXPECT_EQ(planned(s), "2>1") << "one is on its way";
}

TEST(Reserve, IsNotForPromotions) {
  Snapshot s = two_tiers();
  s.tiers[0].free_frames = 3;
  s.tiers[0].reserve_frames = 2;
  s.candidates = {slow(1, 10), slow(2, 9)};
  EXPECT_EQ(planned(s), "1>0") << "one above the reserve, and nobody to replace";
  EXPECT_EQ(plan(s, {}).held_back, HeldBack::kNoRoom);
}

TEST(Reserve, LendsAFrameUntilTheOneThatLeavesIsFree) {
  Snapshot s = two_tiers();
  s.tiers[0].free_frames = s.tiers[0].reserve_frames = 2;
  for (uint32_t i = 0; i < 5; ++i) {
    s.candidates.push_back(slow(10 + i, 20));
    s.residents.push_back(fast(i, 0));
  }
  EXPECT_EQ(planned(s), "0>1 10>0 1>1 11>0") << "what leaves now is in limbo until steps have ended";
  EXPECT_EQ(plan(s, {}).held_back, HeldBack::kNoRoom);
}

TEST(Reserve, OfASlowTierIsLeftByDemotions) {
  Snapshot s = two_tiers();
  s.groups[0].bytes_read = {0, 0};
  s.tiers[0] = {kFast, kFast, 10, 0, 0, 4};
  s.tiers[1].free_frames = 5;
  s.tiers[1].reserve_frames = 4;
  s.residents = {fast(1, 1), fast(2, 2), fast(3, 3)};
  EXPECT_EQ(planned(s), "1>1") << "one frame above the reserve";
  s.tiers.push_back({500, 500, 10, 10, 0, 9});
  EXPECT_EQ(planned(s), "1>1 2>2") << "the fastest slower tier with room";
}

// ---- rule 7: bands ----

/// Three tiers that read 60 : 3 : 1, pages of three kinds, and room for about a kind each.
Snapshot three_tiers() {
  Snapshot s;
  s.page_bytes = kPage;
  s.tiers = {{6000, 6000, 20, 4, 0, 1}, {300, 300, 100, 10, 0, 1}, {100, 100, 1000, 100, 0, 0}};
  s.groups = {{{20 * kPage, 100 * kPage, 100 * kPage}, 0}};
  s.histogram = {{0.01, 800 * kPage, 0}, {0.5, 100 * kPage, 0}, {8, 16 * kPage, 0}};
  return s;
}
PageSample in_tier(uint32_t page, uint32_t tier, float expected) {
  return {.page = page, .expected = expected, .tier = static_cast<uint8_t>(tier)};
}

/// The fast tier is full with what is hot, and waits for the other two, which read for as long as each other:
/// so it is the same in which of them a page is, and only the limit of the fast tier is one.
TEST(Tiers, APageGoesToTheTierOfItsDensity) {
  Snapshot s = three_tiers();
  s.candidates = {in_tier(1, 2, 8), in_tier(2, 2, 0.51f), in_tier(3, 2, 0.49f), in_tier(4, 1, 8),
                  in_tier(5, 1, 0.49f)};
  const Plan made = plan(s, {});
  EXPECT_EQ(made.thresholds, (std::vector<float>{0.5f, 0, 0}))
      << "16 frames of 20 for the hottest kind, and 4 for the next";
  EXPECT_EQ(text(made), "1>0 4>0 2>0 3>1");
}

TEST(Tiers, TheGateHoldsAtEveryLimit) {
  Snapshot s = three_tiers();
  for (TierState& tier : s.tiers) tier.free_frames = tier.reserve_frames = 1;
  s.tiers[2].free_frames = 100;
  s.candidates = {in_tier(1, 2, 0.4f)};
  const float gate = promotion_cost(s, 2, 1, false) / Settings{}.horizon;
  s.residents = {in_tier(8, 1, 0), in_tier(9, 0, 0)};
  EXPECT_EQ(planned(s), "8>2 1>1") << "the cold one in the fast tier is none of its business";
  s.residents[0].expected = 0.4f - gate * 0.99f;
  EXPECT_EQ(planned(s), "");
  s.residents[0].expected = 0.4f - gate * 1.01f;
  EXPECT_EQ(planned(s), "8>2 1>1");
  // At this limit the two slow tiers stand to each other as the fast one to both at the other.
  s.groups[0].bytes_read = {20 * kPage, 100 * kPage, 0};
  s.residents[0].expected = 0;
  EXPECT_EQ(planned(s), "") << "the slowest is idle: the gate is three quarters of a read";
}

TEST(Tiers, WithoutAHistogramTheHottestGoesAsFarUpAsItMay) {
  Snapshot s = three_tiers();
  s.histogram.clear();
  s.candidates = {in_tier(1, 2, 0.1f)};
  EXPECT_EQ(planned(s), "1>0");
  EXPECT_EQ(plan(s, {}).thresholds, (std::vector<float>{0, 0, 0}));
}

TEST(Tiers, AHistogramThatDoesNotFitIsAsNone) {
  Snapshot s = three_tiers();
  s.histogram.push_back({0.001, 1e9, 0});
  EXPECT_EQ(plan(s, {}).thresholds, (std::vector<float>{0, 0, 0}));
}

/// The slowest tier is what all others wait for: these are full, and worth the same.
TEST(Tiers, FourTiers) {
  Snapshot s;
  s.page_bytes = kPage;
  s.tiers = {{8000, 8000, 10, 2, 0, 1},
             {1000, 1000, 50, 2, 0, 1},
             {200, 200, 200, 2, 0, 1},
             {20, 20, 2000, 500, 0, 0}};
  s.groups = {{{100, 100, 100, 100}, 0}};
  s.histogram = {{0.001, 1500 * kPage, 0}, {0.05, 150 * kPage, 0}, {1, 40 * kPage, 0}, {40, 8 * kPage, 0}};
  s.candidates = {in_tier(1, 3, 40), in_tier(2, 3, 1), in_tier(3, 3, 0.05f), in_tier(4, 3, 0.0005f)};
  const Plan made = plan(s, {});
  EXPECT_EQ(made.thresholds, (std::vector<float>{0.001f, 0.001f, 0.001f, 0}))
      << "of 1698 pages 260 have room in the faster ones";
  EXPECT_EQ(text(made), "1>0 2>1 3>2") << "each in the fastest with a free frame; the coldest stays";
}

// ---- rule 8: allowances ----

TEST(Allowance, OfEachDirectionByItself) {
  Snapshot s = with_free_frames(9);
  for (uint32_t page = 0; page < 20; ++page) s.candidates.push_back(slow(page, 10));
  s.allowance.out_bytes = 0;
  for (const uint64_t bytes : {0ull, 99ull, 100ull, 550ull}) {
    s.allowance.in_bytes = bytes;
    const Plan made = plan(s, {});
    EXPECT_EQ(made.moves.size(), bytes / kPage) << bytes;
    EXPECT_EQ(made.held_back, HeldBack::kAllowance);
  }
  s = two_tiers();
  s.candidates = {slow(9, 10)};
  s.residents = {fast(1, 0)};
  s.allowance = {kPage, kPage - 1};
  EXPECT_EQ(planned(s), "") << "no half of a swap";
  EXPECT_EQ(plan(s, {}).held_back, HeldBack::kAllowance);
  s.allowance = {kPage, kPage};
  EXPECT_EQ(planned(s), "1>1 9>0");
  s.allowance = {kPage - 1, kPage};
  EXPECT_EQ(planned(s), "");
}

TEST(Allowance, OffersCountAsCopiesDo) {
  Snapshot s = with_free_frames(9);
  s.candidates = {offered(1, 5), offered(2, 5), offered(3, 5)};
  s.allowance.in_bytes = 2 * kPage;
  EXPECT_EQ(planned(s), "1>0 2>0");
}

TEST(Allowance, APlanHasAtMostSoManyMoves) {
  Snapshot s = with_free_frames(9);
  for (uint32_t page = 0; page < 20; ++page) s.candidates.push_back(slow(page, 1));
  Settings settings;
  settings.moves_max = 4;
  EXPECT_EQ(plan(s, settings).moves.size(), 3u) << "there is always room for a swap";
  EXPECT_EQ(plan(s, settings).held_back, HeldBack::kMovesMax);
}

// ---- what a plan is not made for ----

TEST(Plan, OfOneTierIsEmpty) {
  Snapshot s = two_tiers();
  s.tiers.pop_back();
  s.residents = {fast(1, 1, true)};
  EXPECT_TRUE(plan(s, {}).moves.empty());
  EXPECT_TRUE(plan(Snapshot{}, {}).moves.empty());
}

TEST(Plan, APageThatTwoSessionsReadIsPromotedOnce) {
  Snapshot s = with_free_frames(9);
  s.candidates = {slow(1, 5), slow(2, 3), slow(1, 5), slow(1, 4)};
  EXPECT_EQ(planned(s), "1>0 2>0");
}

// ---- laws ----

/// Pages of all tiers, and what of them a snapshot shows.
struct World {
  std::vector<PageSample> pages;  ///< by page number
  Snapshot snapshot;
};

World random_world(test::Random& random, uint32_t tiers_max = 4) {
  const auto uniform = [&] { return static_cast<double>(random.below(1'000'000)) / 1e6; };
  World world;
  Snapshot& s = world.snapshot;
  s.page_bytes = kPage;
  const uint32_t tiers = 2 + random.below32(tiers_max - 1);
  double bandwidth = 1000 + static_cast<double>(random.below(9000));
  for (uint32_t tier = 0; tier < tiers; ++tier) {
    TierState state;
    state.read_bytes_per_second = bandwidth;
    state.write_bytes_per_second = bandwidth * (0.3 + 0.7 * uniform());
    state.frames = 200 << tier;
    state.free_frames = random.one_in(4) ? random.below(3) : random.below(40);
    state.coming_frames = random.below(4);
    state.reserve_frames = random.below(12);
    s.tiers.push_back(state);
    bandwidth *= 0.05 + 0.9 * uniform();
  }
  if (random.one_in(3)) s.links = {{bandwidth * (0.3 + uniform()), ((1u << tiers) - 1) & ~1u}};
  const uint32_t groups = 1 + random.below32(3);
  for (uint32_t group = 0; group < groups; ++group) {
    GroupState state;
    for (uint32_t tier = 0; tier < tiers; ++tier)
      state.bytes_read.push_back(static_cast<double>(random.one_in(4) ? 0 : random.below(30'000)));
    state.fixed_fast_bytes = static_cast<double>(random.one_in(2) ? 0 : random.below(10'000));
    s.groups.push_back(std::move(state));
  }
  s.allowance.in_bytes = random.one_in(3) ? random.below(20) * kPage + random.below(kPage) : UINT64_MAX;
  s.allowance.out_bytes = random.one_in(3) ? random.below(20) * kPage + random.below(kPage) : UINT64_MAX;
  if (random.one_in(2)) s.stay_periods = 20 + static_cast<double>(random.below(300));
  const bool rare = random.one_in(s.stay_periods > 0 ? 1 : 3);
  const bool counts = random.one_in(3);  // expectations that are often the same
  for (uint32_t page = 0; page < 200; ++page) {
    PageSample sample;
    sample.page = page;
    sample.tier = static_cast<uint8_t>(random.below(tiers));
    sample.group = static_cast<uint8_t>(random.below(groups));
    sample.expected = counts ? static_cast<float>(random.below(4))
                             : static_cast<float>((rare ? 0.1 : 8) * std::pow(uniform(), 3));
    // A probability over the stay, and no more than what is expected: as a predictor has it.
    if (s.stay_periods > 0)
      sample.in_stay = std::min(sample.expected, static_cast<float>(uniform() / s.stay_periods));
    sample.has_shadow = sample.tier + 1u < tiers && random.one_in(2);
    sample.has_children = random.one_in(3);
    sample.can_offer = random.one_in(2);
    world.pages.push_back(sample);
    s.histogram.push_back({static_cast<double>(sample.expected), static_cast<double>(kPage), 0});
    if (sample.tier != 0 && random.one_in(2)) s.candidates.push_back(sample);
    if (sample.tier + 1u != tiers && random.one_in(2)) s.residents.push_back(sample);
  }
  if (random.one_in(4)) s.histogram.clear();
  return world;
}

std::string wrong_move(const World& world, const Settings& settings, const Plan& made) {
  const Snapshot& s = world.snapshot;
  const auto among = [](const std::vector<PageSample>& samples, uint32_t page) {
    return std::any_of(samples.begin(), samples.end(),
                       [&](const PageSample& one) { return one.page == page; });
  };
  if (made.moves.size() > settings.moves_max) return "more moves than a plan may have";
  std::set<uint32_t> pages;
  uint64_t in = 0;
  uint64_t out = 0;
  std::vector<uint64_t> free_now;
  std::vector<uint64_t> free_soon;
  for (const TierState& tier : s.tiers) {
    free_now.push_back(tier.free_frames);
    free_soon.push_back(tier.free_frames + tier.coming_frames);
  }
  for (size_t i = 0; i < made.moves.size(); ++i) {
    const Move& move = made.moves[i];
    const std::string name = "page " + std::to_string(move.page) + ": ";
    if (!pages.insert(move.page).second) return name + "twice";
    if (move.page >= world.pages.size()) return name + "there is none";
    const PageSample& page = world.pages[move.page];
    if (move.target_tier >= s.tiers.size() || move.target_tier == page.tier)
      return name + "goes to tier " + std::to_string(move.target_tier);
    if (move.expected != (move.reason == Reason::kReuse ? page.in_stay : page.expected))
      return name + "another expectation";
    const TierState& target = s.tiers[move.target_tier];
    if (move.target_tier < page.tier) {
      if (!among(s.candidates, move.page)) return name + "promoted, but no candidate";
      if (move.how != (page.can_offer ? How::kOffer : How::kCopy))
        return name + "promoted in another way than it can be";
      if (page.expected < made.thresholds[move.target_tier]) return name + "too cold for the tier";
      in += kPage;
      if (free_now[move.target_tier]-- == 0) return name + "promoted into no frame";
      if (move.reason == Reason::kSwap || move.reason == Reason::kReuse) {
        const Balance balance = [&] {
          Balance all;
          double slow_bandwidth = 0;
          double fast_bandwidth = 0;
          const GroupState& group = s.groups[page.group];
          for (uint32_t tier = 0; tier < s.tiers.size(); ++tier) {
            all.bytes_read += group.bytes_read[tier];
            if (tier > move.target_tier) all.bytes_slow += group.bytes_read[tier];
            if (tier <= move.target_tier)
              fast_bandwidth += s.tiers[tier].read_bytes_per_second;
            else
              slow_bandwidth += s.tiers[tier].read_bytes_per_second;
          }
          if (!s.links.empty()) {
            // All but the fastest tier are behind it, so it limits either side.
            double before = 0;
            for (uint32_t tier = 1; tier <= move.target_tier; ++tier)
              before += s.tiers[tier].read_bytes_per_second;
            fast_bandwidth += std::min(before, s.links[0].read_bytes_per_second) - before;
            slow_bandwidth = std::min(slow_bandwidth, s.links[0].read_bytes_per_second);
          }
          // Both sides take the same time t: slow = B_slow t - fixed, all = (B_fast + B_slow) t - fixed of
          // both.
          const double seconds =
              (all.bytes_read + group.fixed_fast_bytes) / (fast_bandwidth + slow_bandwidth);
          all.bytes_slow_best = std::clamp(slow_bandwidth * seconds, 0.0, all.bytes_read);
          return all;
        }();
        const float cost = promotion_cost(s, page.tier, move.target_tier, page.can_offer);
        float gate = std::max(cost, 1.0f / 12) / settings.horizon;
        const bool balanced = balance.bytes_slow < 0.749 * balance.bytes_slow_best;
        if (balanced) gate = std::max(gate, settings.balanced_gate);
        if (i == 0 || made.moves[i - 1].reason != Reason::kMakeRoom) return name + "replaces nobody";
        const PageSample& replaced = world.pages[made.moves[i - 1].page];
        if (move.replaced != (move.reason == Reason::kReuse ? replaced.in_stay : replaced.expected))
          return name + "replaces nobody";
        if (move.reason == Reason::kReuse) {
          if (move.target_tier != 0 || balanced || s.stay_periods == 0) return name + "is not for its reuse";
          if (page.expected <= replaced.expected)
            return name + "is not hotter, and takes its place for its reuse";
          gate = static_cast<float>(static_cast<double>(cost) / s.stay_periods);
        }
        if (!(move.expected - move.replaced > gate))
          return name + "swapped for too little: " + std::to_string(move.expected - move.replaced) + " of " +
                 std::to_string(gate);
        if (replaced.tier != move.target_tier) return name + "replaces a page of another tier";
      } else if (move.reason == Reason::kFreeFrame) {
        if (free_soon[move.target_tier]-- <= target.reserve_frames) return name + "promoted into the reserve";
      } else {
        return name + "promoted for another reason";
      }
      continue;
    }
    if (!among(s.residents, move.page)) return name + "demoted, but not in the sample";
    if (move.how == How::kShadow) {
      if (!page.has_shadow) return name + "has no shadow";
    } else if (move.how == How::kCopy) {
      if (page.has_shadow) return name + "is copied, and has a shadow";
      out += kPage;
      if (free_now[move.target_tier] <= target.reserve_frames) return name + "demoted into the reserve";
      --free_now[move.target_tier];
      --free_soon[move.target_tier];
    } else {
      return name + "nobody offers a slower place";
    }
    if (move.reason == Reason::kReserve) {
      if (page.tier != 0 || free_soon[0]++ >= s.tiers[0].reserve_frames)
        return name + "leaves a reserve that is there";
    } else if (move.reason != Reason::kMakeRoom) {
      return name + "demoted for another reason";
    } else if (i + 1 == made.moves.size() ||
               (made.moves[i + 1].reason != Reason::kSwap && made.moves[i + 1].reason != Reason::kReuse)) {
      return name + "makes room for nobody";
    }
  }
  if (in > s.allowance.in_bytes) return "more upwards than allowed";
  if (out > s.allowance.out_bytes) return "more downwards than allowed";
  std::set<uint32_t> cold;
  for (const uint32_t page : made.cold) {
    if (!cold.insert(page).second) return "cold page " + std::to_string(page) + ": twice";
    if (pages.contains(page)) return "cold page " + std::to_string(page) + ": moves";
    if (!among(s.residents, page)) return "cold page " + std::to_string(page) + ": not in the sample";
  }
  return "";
}

TEST(Laws, OfEveryPlan) {
  test::Random random;
  uint64_t swaps = 0;
  uint64_t reused = 0;
  uint64_t reserves = 0;
  for (int i = 0; i < 3000; ++i) {
    World world = random_world(random);
    Settings settings;
    settings.moves_max = 2 + random.below(60);
    const Plan made = plan(world.snapshot, settings);
    ASSERT_EQ(wrong_move(world, settings, made), "") << "snapshot " << i << ": " << text(made);
    for (const Move& move : made.moves) {
      swaps += move.reason == Reason::kSwap ? 1 : 0;
      reused += move.reason == Reason::kReuse ? 1 : 0;
      reserves += move.reason == Reason::kReserve ? 1 : 0;
    }
    ASSERT_EQ(text(made), text(plan(world.snapshot, settings))) << "same input, same plan";
    // Whatever the order of pages, and though some come twice.
    Snapshot shuffled = world.snapshot;
    for (auto* const samples : {&shuffled.candidates, &shuffled.residents}) {
      for (size_t k = samples->size(); k > 1; --k) std::swap((*samples)[k - 1], (*samples)[random.below(k)]);
      if (!samples->empty() && samples == &shuffled.candidates) samples->push_back(samples->front());
    }
    ASSERT_EQ(text(made), text(plan(shuffled, settings))) << "snapshot " << i;
  }
  EXPECT_GT(swaps, 1000u);
  EXPECT_GT(reused, 30u);
  EXPECT_GT(reserves, 500u);
}

/// The pages as they are when all of the plan has been done, and whoever was moved in limbo is free.
World after(const World& before, const Plan& made) {
  World world = before;
  Snapshot& s = world.snapshot;
  for (const Move& move : made.moves) {
    PageSample& page = world.pages[move.page];
    if (move.target_tier > page.tier) {  // its frame comes free
      ++s.tiers[page.tier].free_frames;
      if (move.how != How::kShadow) --s.tiers[move.target_tier].free_frames;
      page.has_shadow = false;
    } else {
      --s.tiers[move.target_tier].free_frames;
      page.has_shadow = true;
    }
    page.tier = static_cast<uint8_t>(move.target_tier);
  }
  // All that was seen is seen again, wherever it is now.
  std::set<uint32_t> seen;
  for (const auto* const samples : {&before.snapshot.candidates, &before.snapshot.residents})
    for (const PageSample& page : *samples) seen.insert(page.page);
  s.candidates.clear();
  s.residents.clear();
  for (const uint32_t page : seen) {
    if (world.pages[page].tier != 0) s.candidates.push_back(world.pages[page]);
    if (world.pages[page].tier + 1u != s.tiers.size()) s.residents.push_back(world.pages[page]);
  }
  return world;
}

/// A cold page of the slow tier that was not read is no candidate, but now it is: that alone is no reason to
/// move.
World with_all_candidates(World world) {
  Snapshot& s = world.snapshot;
  s.allowance = {};
  s.candidates.clear();
  s.residents.clear();
  for (const PageSample& page : world.pages) {
    if (page.tier != 0) s.candidates.push_back(page);
    if (page.tier + 1u != s.tiers.size()) s.residents.push_back(page);
  }
  return world;
}

TEST(Laws, DoneTwiceThereIsNothingToDo) {
  test::Random random;
  Settings settings;
  settings.moves_max = 100'000;
  int moved = 0;
  for (int i = 0; i < 1000; ++i) {
    World world = with_all_candidates(random_world(random, 2));
    world.snapshot.tiers[1].free_frames = 1000;
    world.snapshot.tiers[0].coming_frames = 0;
    // Where the reserve lends too few frames for all swaps at once, the next plan goes on.
    world.snapshot.tiers[0].free_frames = std::max<uint64_t>(200, world.snapshot.tiers[0].reserve_frames);
    world.snapshot.tiers[0].reserve_frames = world.snapshot.tiers[0].free_frames - random.below(20);
    const Plan first = plan(world.snapshot, settings);
    moved += first.moves.empty() ? 0 : 1;
    ASSERT_EQ(planned(after(world, first).snapshot, settings), "")
        << "snapshot " << i << ", first plan " << text(first);
  }
  EXPECT_GT(moved, 800);
}

/// With two tiers no page that was promoted is the next plan's victim, but where it is one for its reuse.
/// With more of them, what is squeezed out of one may squeeze out another of the next; but that ends.
TEST(Laws, PlansComeToRest) {
  test::Random random;
  Settings settings;
  for (int i = 0; i < 1000; ++i) {
    World world = with_all_candidates(random_world(random));
    for (TierState& tier : world.snapshot.tiers) {
      tier.coming_frames = 0;
      tier.free_frames = std::max(tier.free_frames, tier.reserve_frames + 1);
    }
    world.snapshot.tiers.back().free_frames = 1000;
    int plans = 0;
    Plan before;
    for (; plans < 60; ++plans) {
      const Plan made = plan(world.snapshot, settings);
      if (made.moves.empty()) break;
      for (const Move& move : made.moves) {
        const auto promoted = std::find_if(before.moves.begin(), before.moves.end(), [&](const Move& one) {
          return one.page == move.page && (one.reason == Reason::kSwap || one.reason == Reason::kReuse);
        });
        ASSERT_TRUE(world.snapshot.tiers.size() > 2 || promoted == before.moves.end() ||
                    move.target_tier <= promoted->target_tier)
            << "snapshot " << i << ": page " << move.page << " was promoted by " << text(before)
            << " and leaves by " << text(made);
      }
      world = after(world, made);
      before = made;
    }
    ASSERT_LT(plans, 60) << "snapshot " << i << " with " << world.snapshot.tiers.size()
                         << " tiers: " << planned(world.snapshot);
  }
}

// ---- names ----

TEST(Names, AreThere) {
  std::set<std::string> names;
  for (const Reason reason : {Reason::kFreeFrame, Reason::kSwap, Reason::kReuse, Reason::kMakeRoom,
                              Reason::kReserve, Reason::kChurn})
    names.insert(reason_name(reason));
  EXPECT_EQ(names.size(), 6u);
  for (const HeldBack held : {HeldBack::kNothing, HeldBack::kNoCandidate, HeldBack::kGate,
                              HeldBack::kAllowance, HeldBack::kMovesMax, HeldBack::kNoRoom})
    names.insert(held_back_name(held));
  EXPECT_EQ(names.size(), 12u);
  EXPECT_FALSE(names.contains(""));
}

// ---- churn ----

TEST(Churn, StaysWithinAllowanceMovesAndFrames) {
  test::Random random;
  for (int i = 0; i < 2000; ++i) {
    const World world = random_world(random);
    const Snapshot& s = world.snapshot;
    const uint64_t moves_max = random.below(20);
    const Plan made = churn(s, random.next(), moves_max);
    ASSERT_LE(made.moves.size(), moves_max + 1) << "one of each direction at a time";
    uint64_t copies = 0;
    uint64_t promotions = 0;
    std::vector<uint64_t> taken(s.tiers.size());
    for (const Move& move : made.moves) {
      ASSERT_EQ(move.reason, Reason::kChurn);
      ASSERT_NE(move.target_tier, world.pages[move.page].tier);
      copies += move.how != How::kShadow ? kPage : 0;
      promotions += move.target_tier == 0 ? 1 : 0;
      if (move.target_tier != 0 && move.how == How::kCopy) ++taken[move.target_tier];
    }
    ASSERT_LE(copies, std::min(s.allowance.in_bytes, s.allowance.out_bytes));
    ASSERT_LE(promotions, s.tiers[0].free_frames);
    for (size_t tier = 1; tier < taken.size(); ++tier) ASSERT_LE(taken[tier], s.tiers[tier].free_frames);
  }
}

TEST(Churn, TheSeedDecides) {
  Snapshot s = two_tiers();
  for (uint32_t page = 0; page < 60; ++page) s.residents.push_back(fast(page, 1, true));
  s.tiers.push_back({100, 100, 100, 100, 0, 0});
  s.tiers[1].free_frames = 0;
  const auto targets = [&](uint64_t seed) { return text(churn(s, seed, 100)); };
  EXPECT_EQ(targets(1), targets(1));
  EXPECT_NE(targets(1), targets(2));
}

}  // namespace
}  // namespace kvt::policy
