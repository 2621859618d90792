// SPDX-License-Identifier: Apache-2.0
//
// The exact placement of one step, against everything that can be tried: all assignments of few pages, the
// closed form of two tiers, and its own certificate, computed here from the shares and prices that it
// returns.
#include "daemon/policy/bands.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>
#include <numeric>
#include <string>

#include "tests/support/random.h"

namespace {
uint64_t allocations = 0;
}  // namespace

// Counted, for the test that a caller with a workspace allocates nothing. Not inlined: g++ then takes new and
// free for a pair that do not match.
[[gnu::noinline]] void* operator new(size_t bytes) {
  ++allocations;
  if (void* const memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace kvt::policy::bands {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int kSeeds = 1000;

/// A step that owns what it shows.
struct Problem {
  std::vector<Bin> bins;
  std::vector<Tier> tiers;
  std::vector<Link> links;
  uint32_t groups = 1;
  std::vector<double> fixed;

  [[nodiscard]] Step step() const { return {bins, tiers, links, groups, fixed}; }
  [[nodiscard]] double fixed_bytes(size_t group, size_t tier) const {
    return fixed.empty() ? 0 : fixed[group * tiers.size() + tier];
  }
  [[nodiscard]] bool readable(size_t tier) const {
    return tiers[tier].read_bytes_per_second > 0 &&
           std::none_of(links.begin(), links.end(), [&](const Link& link) {
             return (link.tiers >> tier & 1) != 0 && !(link.read_bytes_per_second > 0);
           });
  }
};

Solution solved(const Problem& problem) {
  Workspace workspace;
  Solution solution;
  solve(problem.step(), workspace, solution);
  EXPECT_EQ(solution.outcome, Outcome::kSolved) << solution.error;
  return solution;
}
Solution refused(const Problem& problem, Outcome outcome) {
  Workspace workspace;
  Solution solution;
  solve(problem.step(), workspace, solution);
  EXPECT_EQ(solution.outcome, outcome);
  EXPECT_FALSE(solution.error.empty());
  return solution;
}

struct Cost {
  double seconds = 0;
  std::vector<double> group_seconds;
  std::vector<double> bytes;  ///< by tier
  bool possible = true;       ///< fits, and nothing is read from where nothing can be
};
/// What an assignment takes, straight from the definition.
Cost evaluate(const Problem& problem, const std::vector<double>& shares, double slack) {
  const size_t tiers = problem.tiers.size();
  Cost cost;
  cost.bytes.assign(tiers, 0);
  double all = 0;
  std::vector<double> read(problem.groups * tiers, 0);
  for (size_t i = 0; i < problem.bins.size(); ++i) {
    const Bin& bin = problem.bins[i];
    all += bin.bytes;
    for (size_t t = 0; t < tiers; ++t) {
      cost.bytes[t] += shares[i * tiers + t] * bin.bytes;
      read[bin.group * tiers + t] += shares[i * tiers + t] * bin.bytes * bin.density;
    }
  }
  for (size_t t = 0; t < tiers; ++t) {
    if (cost.bytes[t] > problem.tiers[t].capacity_bytes + slack * all) cost.possible = false;
    for (size_t g = 0; g < problem.groups; ++g)
      if (!problem.readable(t) && read[g * tiers + t] > 0) cost.possible = false;
  }
  for (size_t g = 0; g < problem.groups; ++g) {
    double seconds = 0;
    const auto load = [&](size_t t) { return problem.fixed_bytes(g, t) + read[g * tiers + t]; };
    for (size_t t = 0; t < tiers; ++t)
      if (problem.tiers[t].read_bytes_per_second > 0)
        seconds = std::max(seconds, load(t) / problem.tiers[t].read_bytes_per_second);
    for (const Link& link : problem.links) {
      double sum = 0;
      for (size_t t = 0; t < tiers; ++t)
        if ((link.tiers >> t & 1) != 0) sum += load(t);
      if (link.read_bytes_per_second > 0) seconds = std::max(seconds, sum / link.read_bytes_per_second);
    }
    cost.group_seconds.push_back(seconds);
    cost.seconds += seconds;
  }
  return cost;
}

/// All that a solution promises: the shares are an assignment that fits and takes what is said, and the
/// prices prove that nothing takes less.
void check(const Problem& problem, const Solution& solution) {
  const size_t tiers = problem.tiers.size();
  ASSERT_EQ(solution.shares.size(), problem.bins.size() * tiers);
  for (size_t i = 0; i < problem.bins.size(); ++i) {
    double sum = 0;
    for (size_t t = 0; t < tiers; ++t) {
      ASSERT_GE(solution.shares[i * tiers + t], 0) << "bin " << i << " tier " << t;
      sum += solution.shares[i * tiers + t];
    }
    ASSERT_NEAR(sum, 1, 1e-12) << "bin " << i;
  }
  const Cost cost = evaluate(problem, solution.shares, 1e-9);
  ASSERT_TRUE(cost.possible);
  ASSERT_NEAR(cost.seconds, solution.seconds, 1e-9 * cost.seconds);
  for (size_t g = 0; g < problem.groups; ++g)
    ASSERT_NEAR(cost.group_seconds[g], solution.group_seconds[g], 1e-9 * cost.seconds);
  for (size_t t = 0; t < tiers; ++t) {
    ASSERT_NEAR(cost.bytes[t], solution.bytes[t],
                1e-9 * std::accumulate(cost.bytes.begin(), cost.bytes.end(), 0.0));
    ASSERT_GE(solution.room_price[t], 0);
  }
  for (const double price : solution.resource_price) ASSERT_GE(price, 0);
  ASSERT_EQ(solution.bound_seconds, bound(problem.step(), solution.resource_price, solution.room_price));
  ASSERT_LE(solution.bound_seconds, solution.seconds * (1 + 1e-10));
  ASSERT_LE(solution.gap(), 1e-9);
}

struct Shape {
  uint32_t tiers = 3;
  uint32_t bins = 6;
  uint32_t groups = 1;
  bool links = false;
  bool whole = false;  ///< small whole numbers: ties everywhere
  bool equal = false;  ///< bins of equal size, capacities multiples of it
};

double uniform(test::Random& random) { return static_cast<double>(random.next() >> 11) * 0x1p-53; }

/// Fits always: the last tier has room for everything, every third problem exactly. Some tiers have no room,
/// some tiers and links no bandwidth, some bins no reads or no bytes.
Problem random_problem(test::Random& random, const Shape& shape) {
  Problem problem;
  problem.groups = shape.groups;
  double all = 0;
  for (uint32_t i = 0; i < shape.bins; ++i) {
    Bin bin;
    bin.density = shape.whole        ? static_cast<double>(random.below(4))
                  : random.one_in(8) ? 0
                                     : std::exp(6 * uniform(random));
    bin.bytes = shape.equal         ? 8
                : shape.whole       ? static_cast<double>(random.below(5))
                : random.one_in(10) ? 0
                                    : uniform(random);
    bin.group = random.below32(shape.groups);
    all += bin.bytes;
    problem.bins.push_back(bin);
  }
  double room = 0;
  for (uint32_t t = 0; t < shape.tiers; ++t) {
    Tier tier;
    const double share = std::pow(uniform(random), 2);
    tier.capacity_bytes = random.one_in(8) ? 0
                          : shape.equal    ? 8 * std::floor(share * shape.bins)
                          : shape.whole    ? std::floor(share * all)
                                           : share * all;
    tier.read_bytes_per_second = random.one_in(12) ? 0
                                 : shape.whole     ? static_cast<double>(1 + random.below(4))
                                                   : std::exp(4 * uniform(random));
    if (t + 1 == shape.tiers) {
      tier.read_bytes_per_second = std::max(tier.read_bytes_per_second, 1.0);
      tier.capacity_bytes = random.one_in(3) ? std::max(0.0, all - room) : random.one_in(2) ? all : kInfinity;
    }
    room += tier.capacity_bytes;
    problem.tiers.push_back(tier);
  }
  if (shape.links && shape.tiers > 1)
    for (uint32_t l = 0, count = 1 + random.below32(2); l < count; ++l) {
      // A link may be down, if not in front of the last tier.
      const bool down = random.one_in(12);
      const uint32_t mask = 1 + random.below32((1u << (down ? shape.tiers - 1 : shape.tiers)) - 1);
      problem.links.push_back({down          ? 0
                               : shape.whole ? static_cast<double>(1 + random.below(4))
                                             : std::exp(4 * uniform(random)),
                               mask});
    }
  if (random.one_in(2))
    for (uint32_t k = 0; k < shape.groups * shape.tiers; ++k)
      problem.fixed.push_back(
          problem.readable(k % shape.tiers)
              ? (shape.whole ? static_cast<double>(random.below(6)) : uniform(random) * 20)
              : 0);
  // What is read must fit where it can be read.
  double hot = 0;
  double hot_room = 0;
  for (const Bin& bin : problem.bins) hot += bin.density > 0 ? bin.bytes : 0;
  for (uint32_t t = 0; t < shape.tiers; ++t)
    hot_room += problem.readable(t) ? problem.tiers[t].capacity_bytes : 0;
  if (hot_room < hot)
    problem.tiers.back().capacity_bytes += shape.equal ? 8 * std::ceil((hot - hot_room) / 8) : hot - hot_room;
  return problem;
}

/// Calls `visit` with each assignment of whole bins to tiers.
template <typename F>
void each_assignment(const Problem& problem, F visit) {
  const size_t tiers = problem.tiers.size();
  std::vector<size_t> tier(problem.bins.size(), 0);
  std::vector<double> shares(problem.bins.size() * tiers, 0);
  for (size_t i = 0; i < tier.size(); ++i) shares[i * tiers] = 1;
  for (;;) {
    visit(shares);
    size_t i = 0;
    for (; i < tier.size(); ++i) {
      shares[i * tiers + tier[i]] = 0;
      tier[i] = (tier[i] + 1) % tiers;
      shares[i * tiers + tier[i]] = 1;
      if (tier[i] != 0) break;
    }
    if (i == tier.size()) return;
  }
}

/// How much the reads of bins that `solution` splits can add to a resource.
double rounding_seconds(const Problem& problem, const Solution& solution) {
  const size_t tiers = problem.tiers.size();
  double sum = 0;
  for (size_t g = 0; g < problem.groups; ++g) {
    double split = 0;
    for (size_t i = 0; i < problem.bins.size(); ++i) {
      const auto shares = solution.shares.begin() + static_cast<std::ptrdiff_t>(i * tiers);
      if (problem.bins[i].group == g &&
          *std::max_element(shares, shares + static_cast<std::ptrdiff_t>(tiers)) < 1 - 1e-9)
        split += problem.bins[i].bytes * problem.bins[i].density;
    }
    double slowest = kInfinity;
    for (size_t t = 0; t < tiers; ++t)
      if (problem.readable(t)) slowest = std::min(slowest, problem.tiers[t].read_bytes_per_second);
    for (const Link& link : problem.links)
      if (link.read_bytes_per_second > 0) slowest = std::min(slowest, link.read_bytes_per_second);
    sum += split / slowest;
  }
  return sum;
}

/// Equal pages, so that capacities lose nothing to rounding: a fractional assignment can then be rounded page
/// by page, up or down, with all capacities kept (flows are integral), and only split pages change their
/// tier.
void against_all_assignments(const Shape& shape, int seeds) {
  test::Random random;
  for (int round = 0; round < seeds; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    Shape one = shape;
    one.tiers = 2 + random.below32(shape.tiers - 1);
    one.bins = 1 + random.below32(shape.bins);
    one.whole = random.one_in(2);
    const Problem problem = random_problem(random, one);
    const Solution solution = solved(problem);
    check(problem, solution);
    if (testing::Test::HasFatalFailure()) return;
    double best = kInfinity;
    // Weak duality at any prices, while at it.
    std::vector<double> lambda(solution.resource_price.size());
    std::vector<double> mu(one.tiers);
    for (double& price : lambda) price = random.one_in(3) ? 0 : uniform(random);
    for (double& price : mu) price = random.one_in(3) ? 0 : uniform(random) * 100;
    const double any_bound = bound(problem.step(), lambda, mu);
    each_assignment(problem, [&](const std::vector<double>& shares) {
      const Cost cost = evaluate(problem, shares, 1e-12);
      if (cost.possible) best = std::min(best, cost.seconds);
    });
    ASSERT_LT(best, kInfinity);
    ASSERT_LE(solution.seconds, best * (1 + 1e-9));
    ASSERT_LE(solution.bound_seconds, best * (1 + 1e-12));
    ASSERT_LE(any_bound, best * (1 + 1e-12) + 1e-12);
    ASSERT_LE(best, (solution.seconds + rounding_seconds(problem, solution)) * (1 + 1e-9));
  }
}

TEST(Bands, NoAssignmentOfPagesIsFasterAndTheBestIsOneRoundingAway) {
  against_all_assignments({.tiers = 4, .bins = 6, .equal = true}, kSeeds);
}
TEST(Bands, TheSameBehindLinks) {
  against_all_assignments({.tiers = 4, .bins = 6, .links = true, .equal = true}, kSeeds);
}
TEST(Bands, TheSameForGroupsThatShareTheRoom) {
  against_all_assignments({.tiers = 3, .bins = 8, .groups = 2, .links = true, .equal = true}, kSeeds / 2);
}

TEST(Bands, EverySizeIsCertified) {
  test::Random random;
  for (int round = 0; round < kSeeds; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    const Shape shape{.tiers = 1 + random.below32(kTiersMax),
                      .bins = random.below32(300),
                      .groups = random.one_in(3) ? 1 + random.below32(5) : 1,
                      .links = random.one_in(2),
                      .whole = random.one_in(3)};
    const Problem problem = random_problem(random, shape);
    check(problem, solved(problem));
    if (HasFatalFailure()) return;
  }
}

TEST(Bands, ManyGroups) {
  test::Random random;
  for (const uint32_t groups : {32u, kGroupsMax}) {
    const Problem problem =
        random_problem(random, {.tiers = 3, .bins = 1000, .groups = groups, .links = true});
    check(problem, solved(problem));
  }
}

// ---- two tiers: the closed form ----

/// tau(H) = max((w0+H)/B0, (w1+A-H)/B1) with H clamped between what the tiers can hold, written down a second
/// time.
double closed_form(const Problem& problem) {
  std::vector<Bin> bins = problem.bins;
  std::sort(bins.begin(), bins.end(), [](const Bin& a, const Bin& b) { return a.density > b.density; });
  const auto most_reads = [&](double room) {
    double reads = 0;
    for (const Bin& bin : bins) {
      const double bytes = std::min(room, bin.bytes);
      reads += bytes * bin.density;
      room -= bytes;
    }
    return reads;
  };
  const double all = most_reads(kInfinity);
  const double high = most_reads(problem.tiers[0].capacity_bytes);
  const double low = all - most_reads(problem.tiers[1].capacity_bytes);
  const double b0 = problem.tiers[0].read_bytes_per_second;
  const double b1 = problem.tiers[1].read_bytes_per_second;
  const double w0 = problem.fixed_bytes(0, 0);
  const double w1 = problem.fixed_bytes(0, 1);
  const double best = std::max(low, std::min(high, (b0 * (all + w1) - b1 * w0) / (b0 + b1)));
  return std::max((w0 + best) / b0, (w1 + all - best) / b1);
}

TEST(Bands, TwoTiersAgreeWithTheClosedFormAndTheSimplexWithBoth) {
  test::Random random;
  int simplex = 0;
  for (int round = 0; round < 3 * kSeeds; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    Problem problem =
        random_problem(random, {.tiers = 2, .bins = 1 + random.below32(100), .whole = random.one_in(3)});
    const Solution fast = solved(problem);
    check(problem, fast);
    if (HasFatalFailure()) return;
    if (!problem.readable(0) || !problem.readable(1)) continue;
    ASSERT_EQ(fast.pivots, 0u);
    ASSERT_NEAR(fast.seconds, closed_form(problem), 1e-10 * fast.seconds);
    // A link in front of both that is never the slowest changes nothing but who solves it.
    problem.links.push_back(
        {2 * (problem.tiers[0].read_bytes_per_second + problem.tiers[1].read_bytes_per_second), 3});
    const Solution general = solved(problem);
    check(problem, general);
    if (HasFatalFailure()) return;
    ASSERT_NEAR(general.seconds, fast.seconds, 1e-9 * fast.seconds);
    simplex += general.pivots != 0;
  }
  EXPECT_GT(simplex, kSeeds);
}

TEST(Bands, ALinkInFrontOfOneTierIsItsBandwidth) {
  Problem problem;
  problem.bins = {{1, 1000, 0}, {5, 100, 0}};
  problem.tiers = {{kInfinity, 3000}, {kInfinity, 9000}};
  problem.links = {{1000, 2}};
  const Solution solution = solved(problem);
  check(problem, solution);
  EXPECT_DOUBLE_EQ(solution.seconds, 1500.0 / 4000);
  EXPECT_EQ(solution.resource_price[1], 0);
  EXPECT_DOUBLE_EQ(solution.resource_price[2], 1.0 / 4000);
}

TEST(Bands, TheFigureOfAKnownMachine) {
  // 4900 and 450 GB/s, all of it balanced: each byte costs 1/5350 of a nanosecond, wherever it is.
  Problem problem;
  for (int i = 0; i < 50; ++i) problem.bins.push_back({i < 20 ? 0.0 : 1.0, 16384e3, 0});
  problem.tiers = {{1e12, 4900e9}, {1e12, 450e9}};
  problem.fixed = {162.9e6, 0};
  const Solution solution = solved(problem);
  check(problem, solution);
  EXPECT_NEAR(solution.seconds, (162.9e6 + 30 * 16384e3) / 5350e9, 1e-15);
  EXPECT_NEAR((162.9e6 + solution.read_bytes[0]) / (162.9e6 + 30 * 16384e3), 0.9159, 1e-4);
}

// ---- prices and bands ----

TEST(Bands, APageOnTheWrongSideOfAThresholdCostsMore) {
  test::Random random;
  int thresholds = 0;
  for (int round = 0; round < kSeeds; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    const Shape shape{.tiers = 2 + random.below32(5),
                      .bins = 40,
                      .groups = 1 + random.below32(2),
                      .links = random.one_in(2)};
    const Problem problem = random_problem(random, shape);
    const Solution solution = solved(problem);
    const auto cost = [&](uint32_t group, uint32_t tier, double density) {
      return solution.cost(group, tier, density);
    };
    double all = 0;
    for (const Bin& bin : problem.bins) all += bin.bytes;
    const double rounding = 1e-8 * solution.seconds / all;
    for (size_t k = 0; k < solution.thresholds.size(); ++k) {
      const Threshold& band = solution.thresholds[k];
      const bool first = k == 0 || solution.thresholds[k - 1].group != band.group;
      const bool last = k + 1 == solution.thresholds.size() || solution.thresholds[k + 1].group != band.group;
      if (first) {
        ASSERT_EQ(band.from_density, 0);
      } else {
        ASSERT_GT(band.from_density, solution.thresholds[k - 1].from_density);
      }
      const double end = last ? band.from_density * 2 + 1 : solution.thresholds[k + 1].from_density;
      const double inside = band.from_density + (end - band.from_density) * uniform(random);
      for (uint32_t t = 0; t < shape.tiers; ++t)
        ASSERT_LE(cost(band.group, band.tier, inside), cost(band.group, t, inside) * (1 + 1e-8) + rounding);
      if (last) continue;
      // On either side of the border the other tier costs more, and in between they cost the same.
      const Threshold& above = solution.thresholds[k + 1];
      const double border = above.from_density;
      ASSERT_GT(border, 1e-6) << "of rounding: densities are 1 and more";
      ASSERT_LT(border, 1e6) << "of rounding: densities are below 404";
      ASSERT_GT(cost(band.group, band.tier, border * 1.01), cost(band.group, above.tier, border * 1.01));
      ASSERT_LT(cost(band.group, band.tier, border * 0.99), cost(band.group, above.tier, border * 0.99));
      ASSERT_NEAR(cost(band.group, band.tier, border), cost(band.group, above.tier, border),
                  1e-9 * cost(band.group, above.tier, border));
      ++thresholds;
    }
    // Complementary slackness: what a bin has in a tier, it has where it costs least.
    for (size_t i = 0; i < problem.bins.size(); ++i) {
      const Bin& bin = problem.bins[i];
      double least = kInfinity;
      for (uint32_t t = 0; t < shape.tiers; ++t) least = std::min(least, cost(bin.group, t, bin.density));
      for (uint32_t t = 0; t < shape.tiers; ++t)
        if (solution.shares[i * shape.tiers + t] > 0) {
          ASSERT_LE(
              solution.shares[i * shape.tiers + t] * bin.bytes * (cost(bin.group, t, bin.density) - least),
              1e-9 * solution.seconds);
        }
    }
  }
  EXPECT_GT(thresholds, kSeeds / 2);
}

TEST(Bands, TheHottestFillTheTiersThatWait) {
  // The slowest tier takes all the time. The others wait for it, whatever they hold: reads there cost
  // nothing, room does, the same in both. One border, and no bin but that at the border on both sides of it.
  Problem problem;
  for (int i = 0; i < 256; ++i) problem.bins.push_back({std::pow(1.01, i), 10 + i % 7 * 1.3, 0});
  problem.tiers = {{200, 4000}, {500, 400}, {kInfinity, 50}};
  const Solution solution = solved(problem);
  check(problem, solution);
  ASSERT_EQ(solution.thresholds.size(), 2u);
  EXPECT_EQ(solution.thresholds[0].tier, 2u);
  EXPECT_NEAR(solution.room_price[0], solution.room_price[1], 1e-9 * solution.room_price[0]);
  EXPECT_EQ(solution.room_price[2], 0);
  int split = 0;
  for (size_t i = 0; i < 256; ++i) {
    const double slow = solution.shares[3 * i + 2];
    const double border = solution.thresholds[1].from_density;
    if (problem.bins[i].density < border * (1 - 1e-9)) EXPECT_EQ(slow, 1) << i;
    if (problem.bins[i].density > border * (1 + 1e-9)) EXPECT_EQ(slow, 0) << i;
    split += slow > 0 && slow < 1;
  }
  EXPECT_LE(split, 1);
}

TEST(Bands, TiersThatNeitherFillNorIdleAreMixed) {
  // A fast tier with little room and two slow ones with plenty: hottest first by speed is not the optimum,
  // since both slow ones must be busy until the end.
  Problem problem;
  for (int i = 0; i < 10; ++i) problem.bins.push_back({1, 10, 0});
  problem.tiers = {{10, 1000}, {kInfinity, 30}, {kInfinity, 15}};
  const Solution solution = solved(problem);
  check(problem, solution);
  EXPECT_NEAR(solution.seconds, 90.0 / 45, 1e-9);
  EXPECT_NEAR(solution.read_bytes[1], 60, 1e-6);
  EXPECT_NEAR(solution.read_bytes[2], 30, 1e-6);
}

// ---- histograms ----

TEST(Bands, BinsOfRatioAreWithinItOfTheOptimum) {
  test::Random random;
  for (int round = 0; round < kSeeds; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    const double ratio = 1 + 0.01 + 0.5 * uniform(random);
    Problem pages =
        random_problem(random, {.tiers = 2 + random.below32(4), .bins = 200, .links = random.one_in(2)});
    pages.fixed.clear();
    Problem binned = pages;
    binned.bins.clear();
    for (const Bin& page : pages.bins) {  // each in a bin that stands for its least density
      const double density =
          page.density > 0 ? std::pow(ratio, std::floor(std::log(page.density) / std::log(ratio) + 1e-9)) : 0;
      const auto same = std::find_if(binned.bins.begin(), binned.bins.end(),
                                     [&](const Bin& bin) { return bin.density == density; });
      if (same == binned.bins.end())
        binned.bins.push_back({density, page.bytes, 0});
      else
        same->bytes += page.bytes;
    }
    const Solution exact = solved(pages);
    const Solution coarse = solved(binned);
    ASSERT_LE(coarse.seconds, exact.seconds * (1 + 1e-9));
    ASSERT_LE(exact.seconds, ratio * coarse.seconds * (1 + 1e-9));
    // And the coarse prices certify as much of the pages themselves.
    ASSERT_GE(bound(pages.step(), coarse.resource_price, coarse.room_price) * (1 + 1e-9), coarse.seconds);
  }
}

// ---- links, groups ----

TEST(Bands, TiersBehindOneLinkGetNoMoreThanTheLink) {
  // Two host tiers of 100 each behind 120, beside 1000: 1120 in all, however much the host could do.
  Problem problem;
  for (int i = 0; i < 64; ++i) problem.bins.push_back({1.0 + i, 10, 0});
  problem.tiers = {{kInfinity, 1000}, {kInfinity, 100}, {kInfinity, 100}};
  problem.links = {{120, 0b110}};
  double reads = 0;
  for (const Bin& bin : problem.bins) reads += bin.density * bin.bytes;
  const Solution solution = solved(problem);
  check(problem, solution);
  EXPECT_NEAR(solution.seconds, reads / 1120, 1e-9 * solution.seconds);
  EXPECT_NEAR(solution.read_bytes[1] + solution.read_bytes[2], reads * 120 / 1120, 1e-6 * reads);
  // As a wider link they are worth what they are.
  problem.links[0].read_bytes_per_second = 300;
  EXPECT_NEAR(solved(problem).seconds, reads / 1200, 1e-9 * solution.seconds);
}

TEST(Bands, GroupsAreBalancedEachByItself) {
  // Both launches read 1200 bytes; were they one, a launch for each tier would do. Each needs its own share
  // of both.
  Problem problem;
  problem.groups = 2;
  problem.bins = {{1, 1200, 0}, {1, 1200, 1}};
  problem.tiers = {{kInfinity, 300}, {kInfinity, 100}};
  const Solution solution = solved(problem);
  check(problem, solution);
  EXPECT_NEAR(solution.seconds, 6, 1e-9);
  for (size_t g = 0; g < 2; ++g) {
    EXPECT_NEAR(solution.group_seconds[g], 3, 1e-9);
    EXPECT_NEAR(solution.read_bytes[g * 2], 900, 1e-6);
  }
}

TEST(Bands, SharedRoomGoesToTheGroupThatGainsMore) {
  Problem problem;
  problem.groups = 2;
  problem.bins = {{1, 1000, 0}, {10, 1000, 1}};
  problem.tiers = {{500, 3000}, {kInfinity, 100}};
  const Solution solution = solved(problem);
  check(problem, solution);
  EXPECT_NEAR(solution.shares[2 * 1 + 0], 0.5, 1e-9);
  EXPECT_NEAR(solution.shares[2 * 0 + 0], 0, 1e-9);
  EXPECT_NEAR(solution.seconds, 10 + 50, 1e-9);
}

// ---- units ----

TEST(Bands, UnitsDoNotMatter) {
  test::Random random;
  for (int round = 0; round < 200; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    const Problem problem = random_problem(random, {.tiers = 2 + random.below32(5),
                                                    .bins = 80,
                                                    .groups = 1 + random.below32(2),
                                                    .links = random.one_in(2)});
    const Solution solution = solved(problem);
    const double bytes = std::exp2(static_cast<double>(random.below(80)) - 20);
    const double seconds = std::exp2(static_cast<double>(random.below(60)) - 30);
    const double reads = std::exp2(static_cast<double>(random.below(40)) - 20);
    Problem scaled = problem;
    for (Bin& bin : scaled.bins) {
      bin.bytes *= bytes;
      bin.density *= reads;
    }
    for (Tier& tier : scaled.tiers) {
      tier.capacity_bytes *= bytes;
      tier.read_bytes_per_second *= bytes * reads / seconds;
    }
    for (Link& link : scaled.links) link.read_bytes_per_second *= bytes * reads / seconds;
    for (double& fixed : scaled.fixed) fixed *= bytes * reads;
    const Solution other = solved(scaled);
    ASSERT_NEAR(other.seconds, solution.seconds * seconds, 1e-12 * other.seconds);
    ASSERT_EQ(other.pivots, solution.pivots);
    ASSERT_LE(other.gap(), 1e-9);
  }
}

TEST(Bands, OrderOfBinsDoesNotMatter) {
  test::Random random;
  for (int round = 0; round < 200; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    Problem problem = random_problem(random, {.tiers = 4, .bins = 60, .groups = 1 + random.below32(2)});
    std::sort(problem.bins.begin(), problem.bins.end(),
              [](const Bin& a, const Bin& b) { return a.density < b.density; });
    const Solution ascending = solved(problem);
    for (size_t i = problem.bins.size(); i > 1; --i)
      std::swap(problem.bins[i - 1], problem.bins[random.below(i)]);
    const Solution shuffled = solved(problem);
    check(problem, shuffled);
    if (HasFatalFailure()) return;
    ASSERT_NEAR(shuffled.seconds, ascending.seconds, 1e-9 * ascending.seconds);
  }
}

TEST(Bands, SameInputSameOutputWhateverTheWorkspaceDidBefore) {
  test::Random random;
  Workspace used;
  for (int round = 0; round < 200; ++round) {
    const Shape shape{.tiers = 1 + random.below32(kTiersMax),
                      .bins = random.below32(100),
                      .groups = 1 + random.below32(3),
                      .links = true};
    const Problem problem = random_problem(random, shape);
    Solution one;
    Solution two;
    Workspace fresh;
    solve(problem.step(), used, one);
    solve(problem.step(), fresh, two);
    ASSERT_EQ(one.shares, two.shares);
    ASSERT_EQ(one.resource_price, two.resource_price);
    ASSERT_EQ(one.room_price, two.room_price);
    ASSERT_EQ(one.seconds, two.seconds);
  }
}

TEST(Bands, TheSecondCallAllocatesNothing) {
  test::Random random;
  for (const uint32_t tiers : {2u, 4u, 8u}) {
    Workspace workspace;
    Solution solution;
    const Problem problem = random_problem(random, {.tiers = tiers, .bins = 256, .links = tiers > 2});
    solve(problem.step(), workspace, solution);
    const uint64_t before = allocations;
    solve(problem.step(), workspace, solution);
    EXPECT_EQ(allocations, before) << tiers << " tiers";
    EXPECT_EQ(solution.outcome, Outcome::kSolved);
  }
  EXPECT_GT(allocations, 0u);
}

// ---- the edges ----

TEST(Bands, NothingIsRead) {
  Problem problem;
  problem.bins = {{0, 70, 0}, {0, 30, 0}};
  problem.tiers = {{50, 1000}, {60, 100}, {20, 0}};
  const Solution solution = solved(problem);
  check(problem, solution);
  EXPECT_EQ(solution.seconds, 0);
  EXPECT_EQ(solution.gap(), 0);
  EXPECT_DOUBLE_EQ(solution.bytes[0], 20);  // the slow end fills first
}

TEST(Bands, NoBins) {
  Problem problem;
  problem.tiers = {{50, 1000}, {60, 100}, {0, 10}};
  EXPECT_EQ(solved(problem).seconds, 0);
  problem.fixed = {500, 100, 0};
  const Solution solution = solved(problem);
  check(problem, solution);
  EXPECT_DOUBLE_EQ(solution.seconds, 1);
  EXPECT_DOUBLE_EQ(solution.bound_seconds, 1);
}

TEST(Bands, OneBinIsSplitByBandwidth) {
  Problem problem;
  problem.bins = {{2, 100, 0}};
  problem.tiers = {{kInfinity, 50}, {kInfinity, 30}, {kInfinity, 20}};
  const Solution solution = solved(problem);
  check(problem, solution);
  EXPECT_NEAR(solution.seconds, 2, 1e-12);
  EXPECT_NEAR(solution.shares[0], 0.5, 1e-9);
  EXPECT_NEAR(solution.shares[1], 0.3, 1e-9);
  EXPECT_NEAR(solution.shares[2], 0.2, 1e-9);
}

TEST(Bands, TiersWithoutBandwidthHoldWhatIsNotRead) {
  Problem problem;
  problem.bins = {{1, 100, 0}, {0, 100, 0}};
  problem.tiers = {{100, 10}, {0, 5}, {100, 0}};
  const Solution solution = solved(problem);
  check(problem, solution);
  EXPECT_DOUBLE_EQ(solution.seconds, 10);
  EXPECT_EQ(solution.shares[0], 1);
  EXPECT_EQ(solution.shares[3 + 2], 1);
  EXPECT_EQ(solution.read_price[2], kInfinity);
  EXPECT_EQ(solution.cost(0, 2, 0), solution.room_price[2]);
}

TEST(Bands, WhatDoesNotFitIsSaid) {
  Problem problem;
  problem.bins = {{1, 100, 0}, {0, 100, 0}};
  problem.tiers = {{50, 10}, {60, 5}, {70, 0}};
  Solution solution = refused(problem, Outcome::kNoRoom);
  EXPECT_DOUBLE_EQ(solution.missing_bytes, 20);
  EXPECT_NE(solution.error.find("200"), std::string::npos) << solution.error;
  EXPECT_NE(solution.error.find("180"), std::string::npos) << solution.error;
  problem.bins[1].bytes = 10;
  problem.tiers[1].capacity_bytes = 40;
  solution = refused(problem, Outcome::kNoRoom);  // room there is, but not to read from
  EXPECT_DOUBLE_EQ(solution.missing_bytes, 10);
  EXPECT_NE(solution.error.find("read"), std::string::npos) << solution.error;
  problem.tiers[1].capacity_bytes = 50;
  EXPECT_EQ(solved(problem).missing_bytes, 0);
}

TEST(Bands, NonsenseIsRefusedByName) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  Problem good;
  good.bins = {{1, 100, 0}, {2, 50, 1}};
  good.groups = 2;
  good.tiers = {{100, 10}, {100, 5}};
  good.links = {{7, 0b11}};
  good.fixed = {1, 2, 3, 4};
  check(good, solved(good));
  const auto says = [&](const char* what, auto change) {
    Problem bad = good;
    change(bad);
    const Solution solution = refused(bad, Outcome::kInvalid);
    EXPECT_NE(solution.error.find(what), std::string::npos) << solution.error;
    EXPECT_NE(solution.error.find("expected"), std::string::npos) << solution.error;
  };
  says("density of bin 1", [&](Problem& p) { p.bins[1].density = nan; });
  says("density of bin 0", [&](Problem& p) { p.bins[0].density = -1; });
  says("density of bin 0", [&](Problem& p) { p.bins[0].density = kInfinity; });
  says("bytes of bin 1", [&](Problem& p) { p.bins[1].bytes = -1; });
  says("all bins", [&](Problem& p) { p.bins[0].bytes = p.bins[0].density = 1e200; });
  says("group 2", [&](Problem& p) { p.bins[1].group = 2; });
  says("capacity of tier 0", [&](Problem& p) { p.tiers[0].capacity_bytes = nan; });
  says("bandwidth of tier 1", [&](Problem& p) { p.tiers[1].read_bytes_per_second = kInfinity; });
  says("0 tiers", [&](Problem& p) { p.tiers.clear(); });
  says("9 tiers", [&](Problem& p) { p.tiers.resize(9); });
  says("bandwidth of link 0", [&](Problem& p) { p.links[0].read_bytes_per_second = nan; });
  says("link 0", [&](Problem& p) { p.links[0].tiers = 0; });
  says("link 0", [&](Problem& p) { p.links[0].tiers = 4; });
  says("9 links", [&](Problem& p) { p.links.resize(9, p.links[0]); });
  says("0 groups", [&](Problem& p) { p.groups = 0; });
  says("65 groups", [&](Problem& p) { p.groups = 65; });
  says("3 fixed bytes", [&](Problem& p) { p.fixed.resize(3); });
  says("group 1 in tier 0", [&](Problem& p) { p.fixed[2] = nan; });
  says("group 1 in tier 1", [&](Problem& p) {
    p.tiers[1].read_bytes_per_second = 0;
    p.fixed[1] = 0;
  });
}

}  // namespace
}  // namespace kvt::policy::bands
