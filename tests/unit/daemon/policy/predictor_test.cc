// SPDX-License-Identifier: Apache-2.0
//
// The predictor on streams of reads whose law is known: what it learns, what it makes of advice, when it sees
// a shift.
#include "daemon/policy/predictor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "tests/support/random.h"

namespace kvt::policy {
namespace {

constexpr uint32_t kFirst = 1;

/// Pages whose reads a test draws; one predictor, shown 250 of them a period.
class Stream {
 public:
  Stream(uint32_t pages, uint64_t seed, const PredictorSettings& settings = {})
      : predictor(settings), random(seed), heats(pages, heat_at_birth(kFirst)) {}

  /// A period in which `reads` tells what each page is read.
  void period(const std::function<uint32_t(uint32_t)>& reads) {
    ++now;
    for (uint32_t page = 0; page < heats.size(); ++page)
      if (const uint32_t count = reads(page); count != 0) {
        predictor.see_read(page, heats[page], now);
        add_reads(heats[page], now, predictor.shift(), count);
      }
    learn();
  }
  void learn() {
    std::vector<uint32_t> pages;
    for (int i = 0; i < 250; ++i) pages.push_back(random.below32(heats.size()));
    predictor.learn(heats, pages, heats.size(), now);
  }
  [[nodiscard]] float expect(uint32_t page, Measure measure = Measure::kNext) const {
    return predictor.expect(heats[page], now, measure);
  }
  double uniform() { return static_cast<double>(random.next() >> 11) * 0x1p-53; }

  Predictor predictor;
  test::Random random;
  std::vector<PageHeat> heats;
  uint32_t now = kFirst;
};

bool finite(const Predictor& predictor) {
  for (const Measure measure : {Measure::kNext, Measure::kLasting})
    for (const float weight : predictor.weights(measure))
      if (!std::isfinite(weight)) return false;
  return true;
}

/// Each page goes its own way between read once (on) and not (off). Whether it is on in the next period
/// depends on whether it is on now, and on nothing else: a law that the features have exactly.
struct Chain {
  double stays = 0.9, comes = 0.2;  ///< probability of on, after on and after off
  std::vector<bool> on;
  uint32_t read(Stream& stream, uint32_t page) {
    if (on.size() <= page) on.resize(page + 1);
    on[page] = stream.uniform() < (on[page] ? stays : comes);
    return on[page] ? 1 : 0;
  }
  /// Of on, k periods later.
  [[nodiscard]] double later(bool now, int k) const {
    double p = now ? 1 : 0;
    for (int i = 0; i < k; ++i) p = p * stays + (1 - p) * comes;
    return p;
  }
};

TEST(Predictor, LearnsALinearLaw) {
  for (const auto& [stays, comes] :
       {std::pair(0.9, 0.2), std::pair(0.5, 0.5), std::pair(0.3, 0.7), std::pair(0.97, 0.01)}) {
    Stream stream(1000, 1);
    Chain chain{stays, comes, {}};
    for (int i = 0; i < 400; ++i) stream.period([&](uint32_t page) { return chain.read(stream, page); });
    double error = 0;
    for (uint32_t page = 0; page < 1000; ++page)
      error += std::pow(static_cast<double>(stream.expect(page)) - chain.later(chain.on[page], 1), 2);
    EXPECT_LT(std::sqrt(error / 1000), 0.05) << stays << ", " << comes;
  }
}

/// The mean of the next reads, the k-th weighing (1-g) g^(k-1).
TEST(Predictor, LastingIsTheMeanOfThePeriodsThatFollow) {
  PredictorSettings settings;
  const double g = static_cast<double>(settings.discount);
  for (const auto& [stays, comes] : {std::pair(0.9, 0.2), std::pair(0.3, 0.7), std::pair(0.97, 0.01)}) {
    Stream stream(1000, 2);
    Chain chain{stays, comes, {}};
    for (int i = 0; i < 500; ++i) stream.period([&](uint32_t page) { return chain.read(stream, page); });
    std::array<double, 2> lasting{};
    for (const bool on : {false, true})
      for (int k = 1; k < 60; ++k) lasting[on ? 1 : 0] += (1 - g) * std::pow(g, k - 1) * chain.later(on, k);
    double error = 0;
    double next_error = 0;
    for (uint32_t page = 0; page < 1000; ++page) {
      error += std::pow(
          static_cast<double>(stream.expect(page, Measure::kLasting)) - lasting[chain.on[page] ? 1 : 0], 2);
      next_error += std::pow(
          static_cast<double>(stream.expect(page, Measure::kNext)) - lasting[chain.on[page] ? 1 : 0], 2);
    }
    EXPECT_LT(std::sqrt(error / 1000), 0.06) << stays << ", " << comes;
    EXPECT_LT(error, next_error) << "another measure than the next period alone";
  }
}

/// Beside what really followed, on pages of different rates: simulated on, not computed.
TEST(Predictor, LastingIsWhatFollowed) {
  Stream stream(2000, 3);
  std::vector<double> rate(2000);
  std::vector<uint32_t> reads(2000);
  for (double& one : rate) one = 4 * std::pow(stream.uniform(), 3);
  // A rate's integer part, and one more with the probability of the rest.
  const auto draw = [&](uint32_t page) { return static_cast<uint32_t>(rate[page] + stream.uniform()); };
  for (int i = 0; i < 300; ++i) stream.period(draw);
  std::vector<float> said(2000);
  std::vector<double> followed(2000);
  for (uint32_t page = 0; page < 2000; ++page) said[page] = stream.expect(page, Measure::kLasting);
  const double g = 0.75;
  for (int k = 1; k <= 30; ++k)
    for (uint32_t page = 0; page < 2000; ++page) followed[page] += (1 - g) * std::pow(g, k - 1) * draw(page);
  double bias = 0;
  double error = 0;
  for (uint32_t page = 0; page < 2000; ++page) {
    bias += static_cast<double>(said[page]) - followed[page];
    error += std::pow(static_cast<double>(said[page]) - rate[page], 2);
  }
  EXPECT_NEAR(bias / 2000, 0, 0.05);
  EXPECT_LT(std::sqrt(error / 2000), 0.15) << "of rates up to 4";
}

TEST(Predictor, FollowsALawThatChanges) {
  Stream stream(1000, 4);
  Chain chain{0.95, 0.02, {}};
  for (int i = 0; i < 400; ++i) stream.period([&](uint32_t page) { return chain.read(stream, page); });
  chain.stays = 0.1;  // from now on, who was read is not read
  chain.comes = 0.6;
  for (int i = 0; i < 600; ++i) stream.period([&](uint32_t page) { return chain.read(stream, page); });
  double on = 0;
  double off = 0;
  uint32_t count = 0;
  for (uint32_t page = 0; page < 1000; ++page) {
    (chain.on[page] ? on : off) += static_cast<double>(stream.expect(page));
    count += chain.on[page] ? 1 : 0;
  }
  EXPECT_NEAR(on / count, 0.1, 0.05);
  EXPECT_NEAR(off / (1000 - count), 0.6, 0.05);
}

TEST(Predictor, IsDeterministic) {
  std::vector<std::vector<float>> said(2);
  for (auto& one : said) {
    Stream stream(300, 5);
    for (int i = 0; i < 200; ++i)
      stream.period([&](uint32_t page) { return page % 7 == 0 ? stream.random.below32(5) : 0; });
    for (uint32_t page = 0; page < 300; ++page)
      for (const Measure measure : {Measure::kNext, Measure::kLasting})
        one.push_back(stream.expect(page, measure));
  }
  EXPECT_EQ(said[0], said[1]) << "bit by bit";
}

// ---- advice ----

TEST(Predictor, BelievesAdviceAsFarAsItWasTrue) {
  for (const double truth : {1.0, 0.4}) {
    Stream stream(2000, 6);
    std::vector<bool> advised(2000);
    for (int i = 0; i < 200; ++i) {
      stream.period([&](uint32_t page) {
        return advised[page] && stream.uniform() < truth ? 1 : stream.uniform() < 0.05 ? 1 : 0;
      });
      for (uint32_t page = 0; page < 2000; ++page) {
        advised[page] = stream.random.one_in(4);
        if (advised[page]) advise(stream.heats[page], stream.now);
      }
      stream.learn();  // draws again, now that advice is known
    }
    double heard = 0;
    double others = 0;
    uint32_t count = 0;
    for (uint32_t page = 0; page < 2000; ++page) {
      (advised[page] ? heard : others) += static_cast<double>(stream.expect(page));
      count += advised[page] ? 1 : 0;
    }
    heard /= count;
    others /= 2000 - count;
    EXPECT_NEAR(heard, truth, 0.15) << "of advice that is true as often";
    EXPECT_GT(heard, others);
  }
}

TEST(Predictor, AdviceNeverMakesAHotPageCold) {
  Stream stream(100, 7);
  for (int i = 0; i < 100; ++i) stream.period([](uint32_t page) { return page < 10 ? 30u : 0u; });
  const float before = stream.expect(3);
  ASSERT_GT(before, 20);
  advise(stream.heats[3], stream.now);
  EXPECT_EQ(stream.expect(3), before);
  advise(stream.heats[50], stream.now);
  EXPECT_EQ(stream.expect(50), 1);
}

/// Advice that speaks for one period weighs one of those that a copy has to be paid from; advice for more,
/// all of them.
TEST(Predictor, AdviceSpeaksForItsPeriodsOnly) {
  for (const auto& [speaks_for, weight] : {std::pair{1u, 1.0f / 6}, {3u, 0.5f}, {100u, 1.0f}}) {
    PredictorSettings settings;
    settings.advice_periods = speaks_for;
    const Predictor predictor(settings);
    PageHeat heat = heat_at_birth(1);
    add_reads(heat, 1, 0, 1);
    const float without = predictor.expect_over(heat, 50, Measure::kNext, 6);
    EXPECT_EQ(without, predictor.expect(heat, 50)) << "nothing was said";
    advise(heat, 50);
    EXPECT_EQ(predictor.expect(heat, 50), 1);
    EXPECT_NEAR(predictor.expect_over(heat, 50, Measure::kNext, 6), without + (1 - without) * weight, 1e-5)
        << speaks_for << " periods";
  }
}

// ---- shifts ----

/// Shares of the fast tier as a period has them: about `mean`, and noise of `deviation`.
struct Shares {
  Predictor predictor;
  test::Random random;
  uint32_t now = 1;
  void see(double mean, double deviation, int periods) {
    for (int i = 0; i < periods; ++i) {
      double noise = -6;
      for (int k = 0; k < 12; ++k) noise += static_cast<double>(random.next() >> 11) * 0x1p-53;  // variance 1
      predictor.see_share(static_cast<float>(std::clamp(mean + deviation * noise, 0.0, 1.0)), now++);
    }
  }
};

TEST(Shift, IsSeenWhereTheFastTierServesFarLessAtOnce) {
  for (const double before : {0.4, 0.7, 0.95}) {
    Shares shares{Predictor(), test::Random(8)};
    shares.see(before, 0.01, 100);
    ASSERT_EQ(shares.predictor.shift(), 0u);
    const uint32_t when = shares.now;
    shares.see(before * 0.5, 0.01, 1);
    EXPECT_EQ(shares.predictor.shift(), when) << before;
    shares.see(before * 0.5, 0.01, 200);
    EXPECT_EQ(shares.predictor.shift(), when) << "and then it is so";
  }
}

/// As of a period whose reads were all of pages that are gone: 0/0.
TEST(Shift, IsSeenAfterAPeriodThatHadNoShare) {
  Shares shares{Predictor(), test::Random(18)};
  shares.see(0.9, 0.01, 100);
  shares.predictor.see_share(std::numeric_limits<float>::quiet_NaN(), shares.now++);
  shares.see(0.9, 0.01, 20);
  EXPECT_EQ(shares.predictor.shift(), 0u);
  shares.see(0.3, 0.01, 1);
  EXPECT_NE(shares.predictor.shift(), 0u);
}

TEST(Shift, IsNotSeenInNoise) {
  test::Random random;
  for (const double mean : {0.05, 0.3, 0.6, 0.9})
    for (const double deviation : {0.0, 0.01, 0.05, 0.15}) {
      Shares shares{Predictor(), test::Random(random.next())};
      shares.see(mean, deviation, 2000);
      EXPECT_EQ(shares.predictor.shift(), 0u) << mean << " with " << deviation;
    }
}

/// However quiet it was before: what is read has not changed altogether.
TEST(Shift, IsNotSeenWhereTheShareFallsByLessThanAQuarter) {
  Shares shares{Predictor(), test::Random(12)};
  shares.see(0.9, 0, 100);
  shares.see(0.7, 0, 100);
  EXPECT_EQ(shares.predictor.shift(), 0u);
}

TEST(Shift, IsNotSeenInASlowDecline) {
  Shares shares{Predictor(), test::Random(9)};
  for (double share = 0.9; share > 0.1; share *= 0.99) shares.see(share, 0.01, 1);
  EXPECT_EQ(shares.predictor.shift(), 0u);
}

TEST(Shift, IsNotSeenWhereNobodyAsks) {
  PredictorSettings settings;
  settings.detect_shifts = false;
  Shares shares{Predictor(settings), test::Random(10)};
  shares.see(0.9, 0.01, 100);
  shares.see(0.1, 0.01, 100);
  EXPECT_EQ(shares.predictor.shift(), 0u);
}

/// 10 ms a period: 2^31 of them are 248 days.
TEST(Shift, IsNotOfTheFutureAfterManyPeriods) {
  Predictor predictor;
  uint32_t now = 1;
  PageHeat heat = heat_at_birth(now);
  for (const uint32_t at :
       {1u << 20, 1u << 30, (1u << 31) - 5, (1u << 31) + 5, 3u << 30, UINT32_MAX, 100u, 1u << 30, 3u << 30}) {
    for (now = at; now != at + 40; ++now) {
      predictor.see_share(0.9f, now);
      add_reads(heat, now, predictor.shift(), 5);
    }
    const Features later = features_at(heat, now, predictor.shift());
    EXPECT_GT(later.slow, 1) << "period " << at;
  }
}

/// Averages begin anew, and what is read then counts at once.
TEST(Shift, LetsANewLawInFaster) {
  std::array<float, 2> expected{};
  for (const bool detect : {false, true}) {
    PredictorSettings settings;
    settings.detect_shifts = detect;
    Stream stream(400, 11, settings);
    const auto shift_to = [&](uint32_t first, double share, int periods) {
      for (int i = 0; i < periods; ++i) {
        stream.predictor.see_share(static_cast<float>(share), stream.now + 1);
        stream.period([&](uint32_t page) {
          return page >= first && page < first + 100 && stream.random.one_in(2) ? 2u : 0u;
        });
      }
    };
    shift_to(0, 0.9, 200);
    shift_to(200, 0.1, 5);
    double old_ones = 0;
    for (uint32_t page = 0; page < 100; ++page) old_ones += static_cast<double>(stream.expect(page));
    expected[detect ? 1 : 0] = static_cast<float>(old_ones / 100);
  }
  EXPECT_LT(expected[1], 0.7f * expected[0]) << "of pages that nobody reads any more";
}

// ---- input that teaches nothing ----

TEST(Predictor, StaysANumber) {
  const auto run = [](const char* what, Stream& stream, const std::function<uint32_t(uint32_t)>& reads) {
    for (int i = 0; i < 300; ++i) {
      stream.period(reads);
      ASSERT_TRUE(finite(stream.predictor)) << what << ", period " << i;
      for (uint32_t page = 0; page < stream.heats.size(); ++page)
        for (const Measure measure : {Measure::kNext, Measure::kLasting}) {
          const float expected = stream.expect(page, measure);
          ASSERT_TRUE(std::isfinite(expected) && expected >= 0)
              << what << ", period " << i << ", page " << page << ": " << expected;
        }
    }
  };
  Stream nothing(50, 12);
  run("nothing is read", nothing, [](uint32_t) { return 0u; });
  Stream one(1, 13);
  run("one page", one, [](uint32_t) { return 1u; });
  Stream same(50, 14);
  run("all pages alike", same, [](uint32_t) { return 3u; });
  Stream most(50, 15);
  run("as many reads as can be counted", most, [](uint32_t) { return 4096u; });
  Stream square(50, 16);
  uint32_t turn = 0;
  run("a square wave", square, [&](uint32_t page) { return (turn++ / 500 + page) % 2 == 0 ? 4000u : 0u; });
  Stream wild(50, 17);
  run("wild", wild, [&](uint32_t) { return wild.random.one_in(100) ? wild.random.below32(65536) : 0u; });
}

TEST(Predictor, WithoutPagesOrWithAGapLearnsNothing) {
  Predictor predictor;
  const Predictor::Weights start = predictor.weights(Measure::kNext);
  std::vector<PageHeat> heats(10, heat_at_birth(1));
  predictor.learn({}, {}, 0, 1);
  predictor.learn({}, {}, 0, 2);
  const std::vector<uint32_t> pages{0, 1, 2, 3};
  for (uint32_t period = 10; period < 1000; period += 2) {  // never the very next one
    for (PageHeat& heat : heats) add_reads(heat, period, 0, 9);
    predictor.learn(heats, pages, heats.size(), period);
  }
  EXPECT_EQ(predictor.weights(Measure::kNext), start);
  EXPECT_EQ(predictor.weights(Measure::kLasting), start);
}

}  // namespace
}  // namespace kvt::policy
