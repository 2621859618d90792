// SPDX-License-Identifier: Apache-2.0
//
// Lazily decayed means beside a naive recomputation, period by period.
#include "daemon/policy/heat.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/support/random.h"

namespace kvt::policy {
namespace {

/// What heat.h promises, one period after the other. Of a page that is born in `first`.
class Naive {
 public:
  explicit Naive(uint32_t first) : period_(first) { begin(); }
  void read(uint32_t reads) {
    reads_ += reads;
    last_ = reads_;
  }
  /// What was known before the coming period says nothing any more.
  void shift() { shifted_ = true; }
  void next_period() {
    end();
    ++period_;
    if (shifted_) {
      age_ = 0;
      fast_ = slow_ = mean_ = 0;
      shifted_ = false;
    }
    begin();
  }
  /// If nothing more is read in this period.
  struct Means {
    double reads, fast, slow, mean, last;
  };
  [[nodiscard]] Means now() const {
    return {reads_, after(fast_, kFastMemory), after(slow_, kSlowMemory), after(mean_, kMemory), last_};
  }
  [[nodiscard]] uint32_t period() const { return period_; }

 private:
  void begin() {
    age_ = std::min(age_ + 1, kMemory);
    reads_ = 0;
  }
  void end() {
    fast_ = after(fast_, kFastMemory);
    slow_ = after(slow_, kSlowMemory);
    mean_ = after(mean_, kMemory);
  }
  [[nodiscard]] double after(double mean, uint32_t memory) const {
    return mean + (reads_ - mean) / std::min(age_, memory);
  }

  uint32_t period_;
  uint32_t age_ = 0;
  double reads_ = 0, last_ = 0;
  double fast_ = 0, slow_ = 0, mean_ = 0;
  bool shifted_ = false;
};

testing::AssertionResult same(const Features& lazy, const Naive& naive, double tolerance) {
  const Naive::Means means = naive.now();
  const auto near = [&](float a, double b) {
    return std::fabs(static_cast<double>(a) - b) <= tolerance + 1e-4 * b;
  };
  if (static_cast<double>(lazy.reads) != means.reads)
    return testing::AssertionFailure() << "reads " << lazy.reads << ", expected " << means.reads;
  if (static_cast<double>(lazy.last) != means.last)
    return testing::AssertionFailure() << "last reads " << lazy.last << ", expected " << means.last;
  if (!near(lazy.fast, means.fast))
    return testing::AssertionFailure() << "fast " << lazy.fast << ", expected " << means.fast;
  if (!near(lazy.slow, means.slow))
    return testing::AssertionFailure() << "slow " << lazy.slow << ", expected " << means.slow;
  if (!near(lazy.mean, means.mean))
    return testing::AssertionFailure() << "mean " << lazy.mean << ", expected " << means.mean;
  return testing::AssertionSuccess();
}

/// One page's reads over some thousand periods: bursts, pauses, some of them long, and shifts.
void beside_the_naive_loop(test::Random& random, uint32_t first, bool shifts) {
  PageHeat heat = heat_at_birth(first);
  Naive naive(first);
  uint32_t shift = first;  // as the predictor has it: not in the far past
  double most = 0;
  const uint64_t turns = 5 + random.below(40);
  for (uint64_t turn = 0; turn < turns; ++turn) {
    for (uint64_t calls = random.below(3); calls != 0; --calls) {
      const uint32_t reads = random.below32(100);
      add_reads(heat, naive.period(), shift, reads);
      naive.read(reads);
      most = std::max(most, naive.now().reads);
    }
    // A mean is dropped after 8,192 periods: what is left of the longest is 1/50 of what it was, and that of
    // one read 1/100,000.
    ASSERT_TRUE(same(features_at(heat, naive.period(), shift), naive, most * 4e-4))
        << "period " << naive.period() - first;
    ASSERT_TRUE(heat.known());
    const uint64_t pause = random.one_in(20) ? random.below(1500) : random.one_in(3) ? random.below(60) : 1;
    for (uint64_t i = 0; i < pause; ++i) {
      if (shifts && random.one_in(50)) {
        naive.shift();
        shift = naive.period() + 1;
      }
      naive.next_period();
      if (i % 16 == 0) {
        ASSERT_TRUE(same(features_at(heat, naive.period(), shift), naive, most * 4e-4))
            << "period " << naive.period() - first << ", not read";
      }
    }
  }
}

TEST(Heat, IsWhatTheNaiveLoopSays) {
  test::Random random;
  for (int i = 0; i < 1000; ++i) {
    beside_the_naive_loop(random, random.below32(1000), false);
    if (testing::Test::HasFatalFailure()) FAIL() << "sequence " << i;
  }
}

TEST(Heat, WhatWasKnownBeforeAShiftIsForgotten) {
  test::Random random;
  for (int i = 0; i < 1000; ++i) {
    beside_the_naive_loop(random, random.below32(1000), true);
    if (testing::Test::HasFatalFailure()) FAIL() << "sequence " << i;
  }
}

TEST(Heat, DoesNotCareThatPeriodsWrap) {
  test::Random random;
  for (int i = 0; i < 300; ++i) {
    beside_the_naive_loop(random, UINT32_MAX - random.below32(1000), i % 2 == 0);
    if (testing::Test::HasFatalFailure()) FAIL() << "sequence " << i;
  }
}

TEST(Heat, OfAYoungPageIsThePlainMean) {
  PageHeat heat = heat_at_birth(7);
  add_reads(heat, 8, 0, 6);
  for (const float mean : {heat.fast, heat.slow, heat.mean}) EXPECT_FLOAT_EQ(mean, 3) << "0 and 6";
  add_reads(heat, 9, 0, 3);
  for (const float mean : {heat.fast, heat.slow, heat.mean}) EXPECT_FLOAT_EQ(mean, 3) << "0, 6 and 3";
  add_reads(heat, 9, 0, 3);
  for (const float mean : {heat.fast, heat.slow, heat.mean})
    EXPECT_FLOAT_EQ(mean, 4) << "two calls in a period add up";
  add_reads(heat, 13, 0, 0);
  EXPECT_FLOAT_EQ(heat.slow, 12.0f / 7);
  EXPECT_LT(heat.fast, heat.slow) << "which remembers 4 periods";
}

TEST(Heat, OfASteadyPageIsItsRate) {
  PageHeat heat = heat_at_birth(1);
  for (uint32_t period = 2; period <= 1500; ++period) add_reads(heat, period, 0, 7);
  EXPECT_NEAR(static_cast<double>(heat.fast), 7, 0.01);
  EXPECT_NEAR(static_cast<double>(heat.slow), 7, 0.01);
  EXPECT_NEAR(static_cast<double>(heat.mean), 7, 0.01);
}

TEST(Heat, NeverReadIsNothing) {
  const PageHeat nobody;
  EXPECT_FALSE(nobody.known());
  const Features none = features_at(nobody, 1000, 0);
  EXPECT_EQ(none.fast + none.slow + none.mean + none.reads + none.last, 0);
  const Features born = features_at(heat_at_birth(5), 1000, 0);
  EXPECT_EQ(born.fast + born.slow + born.mean + born.reads + born.last, 0);
}

TEST(Heat, CountsManyReadsWithoutAWrap) {
  PageHeat heat = heat_at_birth(1);
  for (int i = 0; i < 5; ++i) add_reads(heat, 1, 0, 60'000);
  EXPECT_EQ(heat.reads, kReadsMost);
  EXPECT_FLOAT_EQ(heat.mean, 300'000);
}

// ---- advice ----

TEST(Advice, IsBelievedForItsPeriods) {
  PageHeat heat = heat_at_birth(1);
  EXPECT_FALSE(is_advised(heat, 1, 127));
  for (const uint32_t first : {1u, 127u, 128u, UINT32_MAX - 2}) {
    advise(heat, first);
    for (const uint32_t periods : {1u, 5u, 127u})
      for (uint32_t since = 0; since < 128; ++since)
        ASSERT_EQ(is_advised(heat, first + since, periods), since < periods) << first << " + " << since;
  }
}

// ---- bytes ----

TEST(HeatByte, GrowsWithTheRate) {
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

TEST(HeatByte, ChangesWithTheOctaveAtLeast) {
  for (float rate = 1.0f / 1024; rate < 1024; rate *= 1.1f) {
    ASSERT_EQ(octave(rate) + 1, octave(2 * rate)) << rate;
    ASSERT_EQ(heat_byte(rate) + 8, heat_byte(2 * rate)) << rate;
  }
}

}  // namespace
}  // namespace kvt::policy
