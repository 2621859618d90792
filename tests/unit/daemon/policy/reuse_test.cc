// SPDX-License-Identifier: Apache-2.0
//
// The life table of reuse times: cells that hold what they should, estimates beside laws that are known, and
// the predictor where averages cannot say "not yet".
#include "daemon/policy/reuse.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "daemon/policy/predictor.h"
#include "tests/support/random.h"

namespace kvt::policy {
namespace {

double uniform(test::Random& random) { return static_cast<double>(random.next() >> 11) * 0x1p-53; }

/// Read `times`, a period apart, the last time in `period`.
PageHeat read_often(uint32_t times, uint32_t period) {
  PageHeat heat = heat_at_birth(period - times);
  for (uint32_t i = times; i-- > 0;) add_reads(heat, period - i, 0, 1);
  return heat;
}

TEST(ReuseTimes, CellsAreByReadsAndByAge) {
  const auto cell = [](uint32_t times, uint32_t gone) {
    return ReuseTimes::cell_of(read_often(times, 5000), 5000 + gone, 0);
  };
  for (uint32_t gone = 1; gone < 3000; ++gone) EXPECT_LE(cell(1, gone), cell(1, gone + 1)) << gone;
  EXPECT_NE(cell(1, 1), cell(1, 2));
  EXPECT_NE(cell(1, 100), cell(1, 130));
  EXPECT_NE(cell(1, 2048), cell(1, 100'000));
  EXPECT_EQ(cell(1, 140'000), cell(1, 10'000'000)) << "the last is open";
  EXPECT_NE(cell(1, 7), cell(2, 7));
  EXPECT_NE(cell(2, 7), cell(4, 7));
  EXPECT_EQ(cell(3, 7), cell(4, 7));
  EXPECT_LT(cell(2000, 10'000'000), ReuseTimes::kNone);
  // Of a page that was not read since what all pages are read for changed, or never, nothing is known.
  EXPECT_EQ(ReuseTimes::cell_of(read_often(3, 5000), 5100, 5001), ReuseTimes::kNone);
  EXPECT_EQ(ReuseTimes::cell_of(heat_at_birth(5000), 5100, 0), ReuseTimes::kNone);
}

TEST(ReuseTimes, OfNothingNothing) {
  ReuseTimes times;
  times.see(ReuseTimes::kNone, 100, 100);
  times.solve(10);
  EXPECT_EQ(times.next(ReuseTimes::kNone), 0);
  EXPECT_EQ(times.in_stay(ReuseTimes::kNone), 0);
  EXPECT_EQ(times.next(0), 0);
  EXPECT_EQ(times.in_stay(0), 0);
}

/// Pages that are read for the second time `first` to `last` periods after the first, evenly, or never, which
/// is so for one in two.
TEST(ReuseTimes, KnowNotYetAndNoMore) {
  constexpr uint32_t kFirst = 64, kLast = 128, kOver = 400;
  ReuseTimes times;
  test::Random random;
  const PageHeat once = read_often(1, 1000);
  const auto cell = [&](uint32_t gone) { return ReuseTimes::cell_of(once, 1000 + gone, 0); };
  for (int page = 0; page < 4000; ++page) {
    const uint32_t again = random.one_in(2) ? kFirst + random.below32(kLast - kFirst) : UINT32_MAX;
    for (uint32_t gone = 1; gone <= std::min(again, kOver); ++gone)
      times.see(cell(gone), 1, gone == again ? 1 : 0);
  }
  times.solve(200);
  const auto probability = [&](uint32_t gone) {
    return static_cast<double>(times.in_stay(cell(gone))) * 200;
  };
  EXPECT_LT(times.next(cell(1)), 0.001f) << "not yet";
  EXPECT_NEAR(static_cast<double>(times.next(cell(66))), 0.5 / (kLast - kFirst), 0.002);
  EXPECT_NEAR(probability(1), 0.5, 0.03);
  EXPECT_NEAR(probability(40), 0.5, 0.03);
  // Ages 96 to 111 are one, and count as its middle: of those that are left then, 3/16 of all, 3/11 come yet.
  EXPECT_NEAR(probability(97), 3.0 / 11, 0.03);
  EXPECT_LT(probability(140), 0.02) << "no more";
  // In a stay of 40 periods the first ones do not come, and half of those that are to come are there from 60
  // on.
  times.solve(40);
  EXPECT_LT(static_cast<double>(times.in_stay(cell(10))) * 40, 0.03);
  EXPECT_GT(static_cast<double>(times.in_stay(cell(50))) * 40, 0.1);
}

TEST(ReuseTimes, OfLongAgesAreRememberedLonger) {
  const PageHeat once = read_often(1, 1000);
  const ReuseTimes::Cell soon = ReuseTimes::cell_of(once, 1005, 0),
                         late = ReuseTimes::cell_of(once, 11'000, 0);
  ReuseTimes times;
  for (const ReuseTimes::Cell cell : {soon, late}) times.see(cell, 1000, 1000);
  for (int i = 0; i < 20'000; ++i) times.forget();
  for (const ReuseTimes::Cell cell : {soon, late}) times.see(cell, 1000, 0);
  times.solve(10);
  EXPECT_LT(times.next(soon), 0.02f);
  EXPECT_NEAR(static_cast<double>(times.next(late)), 0.48, 0.02);
}

TEST(ReuseTimes, AreProbabilitiesWhateverTheSamplesSay) {
  ReuseTimes times;
  test::Random random;
  for (int round = 0; round < 200; ++round) {
    for (int i = 0; i < 100; ++i)
      times.see(static_cast<ReuseTimes::Cell>(random.below(ReuseTimes::kNone + 1)),
                static_cast<float>(random.below(3)), static_cast<float>(random.below(50)));
    times.forget();
    const float stay = 1 + static_cast<float>(random.below(1024));
    times.solve(stay);
    for (uint32_t cell = 0; cell <= ReuseTimes::kNone; ++cell) {
      const auto at = static_cast<ReuseTimes::Cell>(cell);
      ASSERT_GE(times.next(at), 0);
      ASSERT_LE(times.next(at), 1);
      ASSERT_GE(times.in_stay(at), 0);
      ASSERT_LE(times.in_stay(at) * stay, 1.0001f);
    }
  }
}

/// Two thousand conversations: each is read once, then again after 60 to 120 periods with probability a half,
/// and so on; what ends makes place for another. Ten pages each. Half of them are asked for by the time the
/// next user comes.
TEST(Predictor, KnowsConversationsThatPause) {
  test::Random random;
  constexpr uint32_t kPages = 20'000, kPeriods = 3000;
  std::vector<PageHeat> heats(kPages, heat_at_birth(1));
  std::vector<uint32_t> next(kPages / 10);
  for (uint32_t& turn : next) turn = 2 + random.below32(200);
  Predictor predictor;
  for (uint32_t period = 2; period < kPeriods; ++period) {
    for (uint32_t talk = 0; talk < next.size(); ++talk) {
      if (next[talk] != period) continue;
      for (uint32_t page = talk * 10; page < talk * 10 + 10; ++page) {
        if (heats[page].period != period) predictor.see_read(page, heats[page], period);
        add_reads(heats[page], period, predictor.shift(), 1);
      }
      next[talk] = period + (uniform(random) < 0.5 ? 60 + random.below32(60) : 400 + random.below32(400));
    }
    std::vector<uint32_t> pages;
    for (int i = 0; i < 256; ++i) pages.push_back(random.below32(kPages));
    predictor.see_arrivals(10, 2000);
    predictor.learn(heats, pages, kPages, period);
  }
  EXPECT_NEAR(static_cast<double>(predictor.stay()), 200, 1);
  // By what is to come in the next 200 periods: pages that were read lately come with probability a half,
  // those that have been silent for 150 to 300 hardly.
  double lately = 0, silent = 0;
  uint32_t of_lately = 0, of_silent = 0;
  for (uint32_t page = 0; page < kPages; page += 10) {
    const uint32_t gone = kPeriods - 1 - heats[page].period;
    if (heats[page].reads == 0) continue;
    const double probability =
        static_cast<double>(predictor.expect_in_stay(heats[page], kPeriods - 1) * predictor.stay());
    if (gone < 50)
      lately += probability, ++of_lately;
    else if (gone > 150 && gone < 180)
      silent += probability, ++of_silent;
  }
  ASSERT_GT(of_lately, 50u);
  ASSERT_GT(of_silent, 20u);
  EXPECT_NEAR(lately / of_lately, 0.5, 0.1);
  EXPECT_LT(silent / of_silent, 0.25);
}

/// Reads that a period samples stand for all of them: many read pages, few random ones, and the level is
/// right.
TEST(Predictor, ReadsThatAreDrawnStandForAll) {
  test::Random random;
  constexpr uint32_t kPages = 4000;
  for (const double rate : {0.002, 0.05, 0.6}) {
    std::vector<PageHeat> heats(kPages, heat_at_birth(1));
    Predictor predictor;
    double expected = 0;
    uint32_t looks = 0;
    for (uint32_t period = 2; period < 800; ++period) {
      for (uint32_t page = 0; page < kPages; ++page) {
        if (uniform(random) >= rate) continue;
        predictor.see_read(page, heats[page], period);
        add_reads(heats[page], period, predictor.shift(), 1);
      }
      std::vector<uint32_t> pages;
      for (int i = 0; i < 256; ++i) pages.push_back(random.below32(kPages));
      predictor.learn(heats, pages, kPages, period);
      if (period < 500) continue;
      for (uint32_t page = 0; page < kPages; page += 7) {
        if (heats[page].reads == 0) continue;  // never, so far: nothing is expected of those
        expected += static_cast<double>(predictor.expect(heats[page], period));
        ++looks;
      }
    }
    EXPECT_NEAR(expected / looks / rate, 1, 0.1) << rate;
  }
}

}  // namespace
}  // namespace kvt::policy
