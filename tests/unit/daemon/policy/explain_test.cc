// SPDX-License-Identifier: Apache-2.0
//
// Explanations beside the plans that they are about: by hand for each verdict, and at random, where what is
// said has to agree with what the plan does.
#include "daemon/policy/explain.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>

#include "tests/support/random.h"

namespace kvt::policy {
namespace {

constexpr uint64_t kPage = 100;

/// Two tiers that read 3:1, both full but for 2 frames of the fast one, 1 of which is its reserve's; a
/// hundred reads of slow pages of 200, so that promotions pay. Residents 1 to 8, of which 1 is read 0.5 times
/// and the others 5 times.
Snapshot two_tiers() {
  Snapshot s;
  s.page_bytes = kPage;
  s.tiers = {{3000, 3000, 10, 2, 0, 2}, {1000, 1000, 100, 50, 0, 0}};
  s.groups = {{{100 * kPage, 100 * kPage}, 0}};
  for (uint32_t page = 1; page <= 8; ++page)
    s.residents.push_back({.page = page, .expected = page == 1 ? 0.5f : 5, .tier = 0});
  return s;
}
PageFacts slow_page(Snapshot& s, uint32_t page, float expected, bool candidate = true) {
  PageFacts facts;
  facts.sample = {.page = page, .expected = expected, .tier = 1};
  facts.candidate = candidate;
  if (candidate) s.candidates.push_back(facts.sample);
  return facts;
}
Explanation explained(const Snapshot& s, const PageFacts& page) { return explain(s, plan(s, {}), {}, page); }

TEST(Explain, WhatWouldMove) {
  Snapshot s = two_tiers();
  const PageFacts hot = slow_page(s, 20, 4);
  const Explanation why = explained(s, hot);
  EXPECT_EQ(why.verdict, Verdict::kMoves);
  EXPECT_EQ(why.move.reason, Reason::kSwap);
  EXPECT_FLOAT_EQ(why.move.replaced, 0.5f);
  EXPECT_EQ(why.target_tier, 0u);
  EXPECT_FLOAT_EQ(why.cost, 1 + 1.0f / 3);
  EXPECT_FLOAT_EQ(why.gate, why.cost / Settings{}.horizon);
  EXPECT_FLOAT_EQ(why.gate, why.move.gate);
  EXPECT_FLOAT_EQ(why.coldest, 0.5f);
  EXPECT_FALSE(why.free_frame);
  EXPECT_FALSE(why.balance.balanced);
  // And the one that leaves for it.
  PageFacts leaving;
  leaving.sample = s.residents[0];
  const Explanation leaves = explained(s, leaving);
  EXPECT_EQ(leaves.verdict, Verdict::kMoves);
  EXPECT_EQ(leaves.move.reason, Reason::kMakeRoom);
  EXPECT_EQ(leaves.target_tier, 1u);
  EXPECT_EQ(leaves.looked_at, 7u);
  EXPECT_FLOAT_EQ(leaves.colder_share, 0);
}

TEST(Explain, WhatKeepsAPage) {
  const auto verdict_of = [](const std::function<void(Snapshot&, PageFacts&)>& change, float expected = 4,
                             bool candidate = true) {
    Snapshot s = two_tiers();
    PageFacts page = slow_page(s, 20, expected, candidate);
    change(s, page);
    if (page.pinned || page.moving || page.cooling != 0 || !page.sealed)
      s.candidates.clear();  // as the keeper leaves them out
    return verdict_name(explained(s, page).verdict) + std::string();
  };
  const auto nothing = [](Snapshot&, PageFacts&) {};
  EXPECT_EQ(verdict_of(nothing), "moves");
  EXPECT_EQ(verdict_of([](Snapshot&, PageFacts& page) { page.sealed = false; }), "not_sealed");
  EXPECT_EQ(verdict_of([](Snapshot&, PageFacts& page) { page.moving = true; }), "moving");
  EXPECT_EQ(verdict_of([](Snapshot&, PageFacts& page) { page.pinned = true; }), "pinned");
  EXPECT_EQ(verdict_of([](Snapshot&, PageFacts& page) { page.cooling = 3; }), "cooling");
  EXPECT_EQ(verdict_of(nothing, 4, false), "not_read");
  EXPECT_EQ(verdict_of(nothing, 0.6f), "gate") << "0.1 reads more are less than the gate";
  EXPECT_EQ(verdict_of([](Snapshot& s, PageFacts&) { s.tiers[0].free_frames = 0; }), "no_room");
  EXPECT_EQ(verdict_of([](Snapshot& s, PageFacts&) { s.allowance.in_bytes = kPage - 1; }), "allowance");
  EXPECT_EQ(verdict_of([](Snapshot& s, PageFacts&) {
              s.allowance.in_bytes = kPage;
              s.candidates.push_back({.page = 21, .expected = 9, .tier = 1});
            }),
            "turn");
  EXPECT_EQ(
      verdict_of([](Snapshot&, PageFacts& page) { page.sample = {.page = 5, .expected = 5, .tier = 0}; }),
      "fastest");
}

TEST(Explain, NothingIsGainedWhereTheSlowTiersWait) {
  Snapshot s = two_tiers();
  s.groups[0].bytes_read = {190 * kPage, 10 * kPage};
  const PageFacts page = slow_page(s, 20, 1);
  const Explanation why = explained(s, page);
  EXPECT_TRUE(why.balance.balanced);
  EXPECT_FLOAT_EQ(why.gate, Settings{}.balanced_gate);
  EXPECT_EQ(why.verdict, Verdict::kGate);
}

TEST(Explain, AFreeFrameNeedsNoGate) {
  Snapshot s = two_tiers();
  s.tiers[0].free_frames = 5;
  const Explanation why = explained(s, slow_page(s, 20, 0.1f));
  EXPECT_EQ(why.verdict, Verdict::kMoves);
  EXPECT_TRUE(why.free_frame);
}

TEST(Explain, AnOfferCostsAWriteAlone) {
  Snapshot s = two_tiers();
  PageFacts page = slow_page(s, 20, 4);
  page.sample.can_offer = s.candidates[0].can_offer = true;
  const Explanation why = explained(s, page);
  EXPECT_EQ(why.move.how, How::kOffer);
  EXPECT_FLOAT_EQ(why.cost, 1.0f / 3);
}

/// A page that moves is said to move as the plan has it; one that does not is held by something that is so.
/// A page of the slowest of three tiers that belongs into the middle one: it is the balance behind that one
/// that counts.
TEST(Explain, TheGateIsThatOfTheLimitThatThePageWouldPass) {
  Snapshot s = two_tiers();
  s.tiers.push_back({100, 100, 100, 50, 0, 0});
  s.groups = {{{0, 100 * kPage, 0}, 0}};
  Plan plan;
  plan.thresholds = {10, 1, 0};
  PageFacts facts;
  facts.sample = {.page = 20, .expected = 5, .tier = 2};
  facts.candidate = true;
  const Explanation why = explain(s, plan, {}, facts);
  EXPECT_EQ(why.target_tier, 1u);
  EXPECT_EQ(why.balance.bytes_slow, 0) << "of the slowest tier alone";
  EXPECT_TRUE(why.balance.balanced);
  EXPECT_EQ(why.gate, Settings{}.balanced_gate);
}

TEST(Explain, AgreesWithThePlan) {
  test::Random random;
  uint64_t seen[12] = {};
  uint64_t gates = 0;
  uint64_t reused = 0;
  for (int round = 0; round < 3000; ++round) {
    Snapshot s;
    s.page_bytes = kPage;
    const uint32_t tiers = 2 + random.below32(3);
    for (uint32_t i = 0; i < tiers; ++i)
      s.tiers.push_back({3000.0 / (1u << (2 * i)), 3000.0 / (1u << (2 * i)), i + 1 < tiers ? 2u : 100u,
                         random.below(4), random.below(2), random.below(3)});
    GroupState group;
    for (uint32_t i = 0; i < tiers; ++i)
      group.bytes_read.push_back(static_cast<double>(random.below(100) * kPage));
    s.groups.push_back(group);
    if (random.one_in(3)) s.allowance = {random.below(4) * kPage, random.below(4) * kPage};
    if (random.one_in(2)) s.stay_periods = 400;
    uint32_t page = 0;
    const auto sample = [&](uint32_t tier) {
      return PageSample{.page = page++,
                        .expected = static_cast<float>(random.below(80)) / (s.stay_periods > 0 ? 4000 : 10),
                        .in_stay = static_cast<float>(random.below(100)) / 100 / 400,
                        .tier = static_cast<uint8_t>(tier),
                        .has_shadow = random.one_in(2),
                        .can_offer = random.one_in(2)};
    };
    for (uint32_t i = random.below32(30); i != 0; --i)
      s.residents.push_back(sample(random.below32(tiers - 1)));
    for (uint32_t i = random.below32(8); i != 0; --i)
      s.candidates.push_back(sample(1 + random.below32(tiers - 1)));
    for (const PageSample& each : s.residents) s.histogram.push_back({each.expected, kPage, 0});
    for (const PageSample& each : s.candidates) s.histogram.push_back({each.expected, kPage, 0});
    const Plan plan = policy::plan(s, {});
    Plan rest = plan;
    rest.moves.clear();
    for (const PageSample& each : s.candidates) {
      PageFacts facts;
      facts.sample = each;
      facts.candidate = true;
      const Explanation why = explain(s, plan, {}, facts);
      ++seen[static_cast<size_t>(why.verdict)];
      const auto move = std::find_if(plan.moves.begin(), plan.moves.end(),
                                     [&](const Move& m) { return m.page == each.page; });
      ASSERT_EQ(why.verdict == Verdict::kMoves, move != plan.moves.end()) << "round " << round;
      switch (why.verdict) {
        case Verdict::kMoves:
          EXPECT_EQ(why.target_tier, move->target_tier);
          // What it would say of a page that is as hot and has not had its turn. The plan may have had to
          // take a slower tier.
          if (const Explanation later = explain(s, rest, {}, facts);
              move->reason == Reason::kSwap && later.target_tier == move->target_tier) {
            EXPECT_EQ(later.gate, move->gate) << "round " << round;
            ++gates;
          }
          if (move->reason == Reason::kReuse && move->target_tier == 0) {
            EXPECT_EQ(explain(s, rest, {}, facts).in_stay_gate, move->gate) << "round " << round;
            ++reused;
          }
          break;
        case Verdict::kBand: EXPECT_EQ(why.target_tier, why.tier); break;
        case Verdict::kGate:
          EXPECT_LE(each.expected - why.coldest, why.gate);
          if (why.in_stay_gate > 0 && each.expected > why.coldest)
            EXPECT_LE(each.in_stay - why.coldest_in_stay, why.in_stay_gate);
          break;
        case Verdict::kNoRoom: EXPECT_EQ(s.tiers[why.target_tier].free_frames, 0u); break;
        case Verdict::kAllowance: EXPECT_LT(s.allowance.in_bytes, kPage); break;
        case Verdict::kTurn: break;
        default: ADD_FAILURE() << verdict_name(why.verdict);
      }
    }
  }
  EXPECT_GT(gates, 100u);
  EXPECT_GT(reused, 30u);
  for (const Verdict verdict : {Verdict::kMoves, Verdict::kBand, Verdict::kGate, Verdict::kNoRoom,
                                Verdict::kAllowance, Verdict::kTurn})
    EXPECT_GT(seen[static_cast<size_t>(verdict)], 10u) << verdict_name(verdict);
}

}  // namespace
}  // namespace kvt::policy
