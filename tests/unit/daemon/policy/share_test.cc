// SPDX-License-Identifier: Apache-2.0
#include "daemon/policy/share.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "tests/support/random.h"

namespace kvt::policy {
namespace {

// ---- token buckets ----

constexpr TokenBucket::Limits kLimits = {100, 500, 0.5};

/// As the keeper does: only what is there.
bool spend(TokenBucket& bucket, double bytes) {
  if (bucket.available() < bytes) return false;
  bucket.pay(bytes);
  return true;
}

TEST(TokenBucket, IsFullAtFirstAndNeverFuller) {
  TokenBucket bucket(kLimits);
  EXPECT_EQ(bucket.available(), 500);
  bucket.add(10, 1);
  EXPECT_EQ(bucket.available(), 500);
  EXPECT_TRUE(spend(bucket, 450));
  EXPECT_FALSE(spend(bucket, 51));
  EXPECT_TRUE(spend(bucket, 50));
  EXPECT_EQ(bucket.available(), 0);
  bucket.add(2, 1);
  EXPECT_EQ(bucket.available(), 200);
}

TEST(TokenBucket, OtherLimitsLeaveWhatIsThere) {
  TokenBucket bucket(kLimits);
  bucket.pay(200);
  bucket.set_limits({1000, 800, 0});
  EXPECT_EQ(bucket.available(), 300);
  bucket.add(10, 1);
  EXPECT_EQ(bucket.available(), 800);
  bucket.set_limits({100, 50, 0});
  EXPECT_EQ(bucket.available(), 50) << "what does not fit is lost";
  bucket.pay(500);
  bucket.set_limits(kLimits);
  EXPECT_EQ(bucket.available(), -450) << "a debt stays";
}
TEST(TokenBucket, AnIdleLinkRefillsFasterWithinBounds) {
  const auto after = [](double seconds, double utilisation) {
    TokenBucket bucket(kLimits);
    EXPECT_TRUE(spend(bucket, 500));
    bucket.add(seconds, utilisation);
    return bucket.available();
  };
  EXPECT_EQ(after(1, 1), 100);
  EXPECT_EQ(after(1, 0.5), 125);
  EXPECT_EQ(after(1, 0), 150);
  EXPECT_EQ(after(100, 0), 500);
  // Not known, or nonsense: as in full use, or no time.
  EXPECT_EQ(after(1, -1), 100);
  EXPECT_EQ(after(1, 1.5), 100);
  EXPECT_EQ(after(1, std::nan("")), 100);
  EXPECT_EQ(after(std::nan(""), 0), 0);
  EXPECT_EQ(after(-1, 0), 0);
  EXPECT_EQ(after(std::numeric_limits<double>::infinity(), 0), 0);
}

TEST(TokenBucket, ADebtIsPaidFirstAndWhatWasNotDoneComesBack) {
  TokenBucket bucket(kLimits);
  bucket.pay(800);  // an operator's move does not wait
  EXPECT_EQ(bucket.available(), -300);
  bucket.add(2, 1);
  EXPECT_EQ(bucket.available(), -100);
  bucket.add(2, 1);
  EXPECT_TRUE(spend(bucket, 100));
  bucket.give_back(100);
  EXPECT_EQ(bucket.available(), 100);
  bucket.give_back(1000);
  EXPECT_EQ(bucket.available(), 500) << "never more than full";
  EXPECT_TRUE(bucket.is_full());
}

TEST(TokenBucket, WithoutCapacityOrWithNonsenseNothingMoves) {
  TokenBucket none({100, 0, 0});
  none.add(1000, 0);
  EXPECT_FALSE(spend(none, 1));
  TokenBucket bad({std::nan(""), -5, std::nan("")});
  bad.add(1000, 0);
  EXPECT_FALSE(spend(bad, 1));
}

TEST(TokenBucket, OverAnyTimeNoMoreThanCapacityAndRate) {
  test::Random random;
  for (int round = 0; round < 1000; ++round) {
    const TokenBucket::Limits limits = {static_cast<double>(random.below(1000)),
                                        static_cast<double>(1 + random.below(1000)),
                                        static_cast<double>(random.below(3))};
    TokenBucket bucket(limits);
    double taken = 0;
    double added = 0;
    for (int step = 0; step < 100; ++step) {
      const auto bytes = static_cast<double>(random.below(1500));
      const double before = bucket.available();
      if (spend(bucket, bytes)) {
        ASSERT_GE(before, bytes);
        taken += bytes;
      } else {
        ASSERT_EQ(bucket.available(), before);
      }
      const double seconds = static_cast<double>(random.below(100)) / 100;
      bucket.add(seconds, static_cast<double>(random.below(101)) / 100);
      added += seconds * limits.bytes_per_second * (1 + limits.idle_credit);
      ASSERT_LE(bucket.available(), limits.capacity_bytes);
      ASSERT_LE(taken, limits.capacity_bytes + added + 1e-6);
    }
  }
}

// ---- division ----

uint64_t sum_of(const std::vector<uint64_t>& parts) {
  return std::accumulate(parts.begin(), parts.end(), uint64_t{0});
}
using Parts = std::vector<uint64_t>;
Parts divided(uint64_t budget, const std::vector<Claim>& claims) { return divide(budget, claims); }

TEST(Divide, ByWeight) {
  EXPECT_EQ(divided(100, {}), Parts{});
  EXPECT_EQ(divided(100, {{1, 0, 1000}, {3, 0, 1000}}), (Parts{25, 75}));
  EXPECT_EQ(divided(100, {{1, 0, 1000}, {3, 0, 30}}), (Parts{70, 30}));
  EXPECT_EQ(divided(100, {{1, 0, 20}, {3, 0, 30}}), (Parts{20, 30}));
  EXPECT_EQ(divided(0, {{1, 5, 20}, {3, 0, 30}}), (Parts{0, 0}));
}

TEST(Divide, MinimumsFirst) {
  EXPECT_EQ(divided(100, {{1, 60, 1000}, {3, 0, 1000}}), (Parts{60, 40}));
  EXPECT_EQ(divided(100, {{1, 10, 1000}, {3, 0, 1000}}), (Parts{25, 75}));  // its weight has it already
  EXPECT_EQ(divided(100, {{1, 60, 5}, {3, 0, 1000}}), (Parts{5, 95}));  // nobody is given what is not wanted
  EXPECT_EQ(divided(60, {{1, 60, 1000}, {3, 30, 1000}}),
            (Parts{40, 20}));  // more than there is: in proportion
}

TEST(Divide, WithoutWeightOnlyWhatNobodyElseWants) {
  EXPECT_EQ(divided(100, {{0, 0, 1000}, {1, 0, 1000}}), (Parts{0, 100}));
  EXPECT_EQ(divided(100, {{0, 10, 1000}, {1, 0, 1000}}), (Parts{10, 90}));
  EXPECT_EQ(divided(100, {{0, 10, 1000}, {1, 0, 40}, {0, 0, 1000}}), (Parts{30, 40, 30}));
}

TEST(Divide, RoundingGoesToTheLargestRemainderThenTheFirst) {
  EXPECT_EQ(divided(10, {{1, 0, 100}, {1, 0, 100}, {1, 0, 100}}), (Parts{4, 3, 3}));
  EXPECT_EQ(divided(10, {{3, 0, 100}, {4, 0, 100}}), (Parts{4, 6}));  // 4.29 and 5.71
  constexpr uint64_t kLarge = uint64_t{1} << 48;
  EXPECT_EQ(divided(2 * kLarge - 1, {{1, 0, kLarge}, {1, 0, kLarge}, {2, 0, 7}}),
            (Parts{kLarge - 4, kLarge - 4, 7}));
}

TEST(Divide, IsFairExactAndKeepsItsPromises) {
  test::Random random;
  for (int round = 0; round < 3000; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    const uint64_t scale = uint64_t{1} << random.below(43);
    std::vector<Claim> claims(random.below(9));
    uint64_t wanted = 0;
    uint64_t due = 0;
    for (Claim& claim : claims) {
      claim.weight = random.one_in(5) ? 0 : 1 + random.below32(8);
      claim.minimum = random.one_in(2) ? 0 : random.below(10 * scale);
      claim.wanted = random.below(20 * scale + 1);
      wanted += claim.wanted;
      due += std::min(claim.minimum, claim.wanted);
    }
    const uint64_t budget = random.below(100 * scale);
    const Parts parts = divided(budget, claims);
    ASSERT_EQ(sum_of(parts), std::min(budget, wanted));
    ASSERT_EQ(parts, divided(budget, claims));
    const double unit = 1.01;  // of rounding
    for (size_t i = 0; i < claims.size(); ++i) {
      const uint64_t minimum = std::min(claims[i].minimum, claims[i].wanted);
      ASSERT_LE(parts[i], claims[i].wanted);
      if (budget >= due) {
        ASSERT_GE(parts[i], minimum);
      } else {
        ASSERT_NEAR(static_cast<double>(parts[i]),
                    static_cast<double>(minimum) * (static_cast<double>(budget) / static_cast<double>(due)),
                    unit);
      }
      if (budget < due) continue;
      for (size_t k = 0; k < claims.size(); ++k) {
        if (parts[i] == claims[i].wanted || parts[k] <= std::min(claims[k].minimum, claims[k].wanted))
          continue;
        // k has more than it is due, while i wants more: then i has as much for its weight.
        if (claims[k].weight == 0) {
          ASSERT_EQ(claims[i].weight, 0u);
          ASSERT_GE(static_cast<double>(parts[i]) + unit, static_cast<double>(parts[k]));
        } else if (claims[i].weight != 0) {
          ASSERT_GE((static_cast<double>(parts[i]) + unit) / claims[i].weight,
                    (static_cast<double>(parts[k]) - unit) / claims[k].weight);
        }
      }
    }
  }
}

}  // namespace
}  // namespace kvt::policy
