// SPDX-License-Identifier: Apache-2.0
//
// A bound must be below every schedule: below all schedules of small worlds, tried one by one in World
// itself, and, for any prices, equal to what a plain walk over all steps finds. And it must be worth
// something: near to a schedule that exists.
#include "tools/kvtiersim/bound/bound.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/support/random.h"
#include "tools/kvtiersim/bound/ascent.h"
#include "tools/kvtiersim/bound/relaxation.h"
#include "tools/kvtiersim/model/random.h"
#include "tools/kvtiersim/model/simulate.h"

namespace kvt::sim {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr double kRounding = 1e-9;  // of sums of doubles, relative

/// Any two-tier machine, and any little trace that fits it.
struct Small {
  Machine machine;
  Trace trace;
  Cost cost;
  BoundOptions options;
};

Small draw(Random& random, uint32_t pages, uint32_t steps, bool with_births = true) {
  Small small;
  const double fast = 1 + 20 * random.uniform(), slow = 0.5 + 3 * random.uniform(),
               write = 0.5 + 3 * random.uniform();
  small.machine.name = "drawn";
  small.machine.tiers = {{"fast", fast, fast, 0, -1}, {"slow", slow, write, UINT64_MAX, -1}};
  small.machine.tiers[0].capacity_pages = random.below(pages + 1);
  small.machine.kappa = random.below(3) == 0 ? random.uniform() : 0;
  Trace& trace = small.trace;
  trace.name = "drawn";
  trace.page_bytes = 1 + random.below(4);
  trace.pages = pages;
  const auto bytes = static_cast<double>(trace.page_bytes);
  if (random.below(3) == 0) trace.fixed_read_bytes = 4 * bytes * random.uniform() * fast / slow;
  if (random.below(3) == 0) trace.written_bytes = 3 * bytes * random.uniform();
  const bool births = with_births && random.below(2) == 0;
  if (births) {
    trace.born_step.resize(pages);
    for (uint32_t& step : trace.born_step) step = static_cast<uint32_t>(random.below(steps));
  }
  const bool counted = random.below(2) == 0;
  const uint64_t density = 1 + random.below(4);
  for (uint32_t n = 0; n < steps; ++n) {
    for (uint32_t page = 0; page < pages; ++page) {
      if ((births && trace.born_step[page] > n) || random.below(5) > density) continue;
      trace.page.push_back(page);
      if (counted) trace.reads.push_back(static_cast<uint16_t>(1 + random.below(6)));
    }
    trace.end_step();
  }
  trace.finish();
  small.cost = random.below(2) == 0 ? Cost::kOffers : Cost::kCopies;
  const uint64_t start = random.below(3);
  small.options.random_start = start == 1 ? 1 + random.below(1000) : 0;
  small.options.free_start = start == 2;
  return small;
}

/// Has the pages of masks[n + 1] in the fast tier from step n + 1 on; of masks[0], at no cost, where the
/// start is free.
class Scripted : public Policy {
 public:
  Scripted(const std::vector<uint32_t>& masks, bool free_start) : masks_(masks), free_start_(free_start) {}
  void begin(World& world) override {
    if (free_start_) go(world, masks_[0]);
  }
  void step(const StepView& step, World& world) override {
    if (step.step + 1 < masks_.size()) go(world, masks_[step.step + 1]);
  }

 private:
  static void go(World& world, uint32_t mask) {
    for (uint32_t page = 0; page < world.pages(); ++page)
      if (world.fast(page) && (mask >> page & 1) == 0) world.demote(page);
    for (uint32_t page = 0; page < world.pages(); ++page)
      if (!world.fast(page) && (mask >> page & 1) != 0) world.promote(page);
  }
  const std::vector<uint32_t>& masks_;
  bool free_start_;
};

/// Seconds of the best schedule, all of them tried.
double best_of_all(const Small& small) {
  const Trace& trace = small.trace;
  const auto allowed = [&](uint32_t n, uint32_t mask) {
    if (static_cast<uint64_t>(std::popcount(mask)) > small.machine.tiers[0].capacity_pages) return false;
    for (uint32_t page = 0; page < trace.pages; ++page)  // decided in step n - 1, when it must be there
      if ((mask >> page & 1) != 0 && !trace.born_step.empty() && trace.born_step[page] > (n == 0 ? 0 : n - 1))
        return false;
    return true;
  };
  std::vector<uint32_t> masks(trace.steps(), 0);
  const uint32_t first = small.options.free_start ? 0 : 1;
  double best = kNever;
  for (;;) {
    bool all_allowed = true;
    for (uint32_t n = first; n < trace.steps(); ++n) all_allowed = all_allowed && allowed(n, masks[n]);
    if (all_allowed) {
      Scripted policy(masks, small.options.free_start);
      best = std::min(best, simulate(trace, small.machine, small.cost, policy,
                                     small.options.free_start ? 0 : small.options.random_start)
                                .seconds);
    }
    uint32_t n = first;  // the next one, as a number whose digits are masks
    while (n < trace.steps() && ++masks[n] == 1u << trace.pages) masks[n++] = 0;
    if (n >= trace.steps()) return best;
  }
}

std::vector<StartState> start_of(const Small& small) {
  if (small.options.free_start) return {StartState::kAny};
  World world(small.machine, small.trace, small.cost);
  place_at_random(world, small.options.random_start);
  std::vector<StartState> start;
  for (uint32_t page = 0; page < small.trace.pages; ++page)
    start.push_back(world.fast(page) ? StartState::kFast : StartState::kSlow);
  return start;
}

Prices any_prices(Random& random, const Relaxation& relaxation) {
  Prices prices(3 * size_t{relaxation.steps()});
  const double scale = relaxation.single().seconds / (1 + relaxation.steps());
  for (size_t i = 0; i < prices.size(); ++i) {
    prices[i] = random.below(4) == 0 ? 0 : random.uniform();
    if (i >= 2 * size_t{relaxation.steps()}) prices[i] *= scale;
  }
  relaxation.project(prices);
  return prices;
}

TEST(Bound, NeverAboveAnySchedule) {
  Random random(test::Random().next());
  int tight = 0;
  for (int round = 0; round < 2000; ++round) {
    const uint32_t pages = 2 + static_cast<uint32_t>(random.below(2));
    const uint32_t steps = pages == 2 ? 3 + static_cast<uint32_t>(random.below(3))
                                      : 3 + static_cast<uint32_t>(random.below(20) == 0);
    Small small = draw(random, pages, steps);
    small.options.rounds_max = 60;
    const double best = best_of_all(small);
    const Bounds bounds = compute_bounds(small.trace, small.machine, small.cost, small.options);
    const double above = 1 + kRounding;
    ASSERT_LE(bounds.ub0, bounds.ub1 * above) << "round " << round;
    ASSERT_LE(bounds.ub1, bounds.ub2 * above) << "round " << round;
    ASSERT_LE(bounds.ub2, best * above) << "round " << round;
    ASSERT_LE(best, bounds.feasible_seconds * above) << "round " << round;
    ASSERT_GE(bounds.gap, 0) << "round " << round;
    // UB1 itself, and the relaxation at any prices, not only those that are maximised over.
    Relaxation relaxation(small.trace, small.machine, small.cost, start_of(small));
    ASSERT_LE(relaxation.single().seconds, best * above) << "round " << round;
    Loads loads;
    for (int i = 0; i < 3; ++i)
      ASSERT_LE(relaxation.bound(any_prices(random, relaxation), loads), best * above) << "round " << round;
    if (bounds.ub2 > 0.98 * best) ++tight;
  }
  EXPECT_GT(tight, 600) << "of 2000: bounds of nothing would be right, too";
}

/// What a page's cheapest path costs, one step after the other, as World charges it.
double plain_path(const Small& small, uint32_t page, StartState start, const Prices& prices) {
  const Trace& trace = small.trace;
  const uint32_t steps = trace.steps();
  const auto bytes = static_cast<double>(trace.page_bytes);
  const uint32_t born = trace.born_step.empty() ? 0 : trace.born_step[page];
  double fast = start == StartState::kSlow || born != 0 ? kNever : 0;
  double slow = start == StartState::kFast && born == 0 ? kNever : 0;
  for (uint32_t n = born; n < steps; ++n) {
    const double fast_page = prices[n] * bytes / small.machine.tiers[0].read_bytes_per_second;
    const double slow_page = (1 + small.machine.kappa - prices[n] - prices[steps + n]) * bytes /
                             small.machine.tiers[1].read_bytes_per_second;
    const StepView step = trace.step(n);
    const auto found = std::lower_bound(step.page.begin(), step.page.end(), page);
    const bool is_read = found != step.page.end() && *found == page;
    const double reads = is_read ? step.reads_of(static_cast<size_t>(found - step.page.begin())) : 0;
    fast += reads * std::min(fast_page, slow_page) + prices[2 * size_t{steps} + n];
    slow += reads * slow_page;
    const bool passes = is_read || (born == n && n != 0);
    const double promoted = slow + fast_page + (passes && small.cost == Cost::kOffers ? 0 : slow_page);
    slow = std::min(slow, fast);
    fast = std::min(fast, promoted);
  }
  return std::min(fast, slow);
}

TEST(Bound, PathsAreTheCheapest) {
  Random random(test::Random().next());
  for (int round = 0; round < 300; ++round) {
    Small small = draw(random, 2 + static_cast<uint32_t>(random.below(12)),
                       2 + static_cast<uint32_t>(random.below(30)));
    std::vector<StartState> start = start_of(small);
    Relaxation relaxation(small.trace, small.machine, small.cost, start);
    const Prices prices = any_prices(random, relaxation);
    const uint32_t steps = small.trace.steps();
    Loads loads;
    const double bound = relaxation.bound(prices, loads);
    double constant = 0;
    for (uint32_t n = 0; n < steps; ++n) {
      constant += prices[n] * small.trace.fixed_read_bytes / small.machine.tiers[0].read_bytes_per_second;
      constant +=
          prices[steps + n] * small.trace.written_bytes / small.machine.tiers[1].write_bytes_per_second;
      constant -=
          prices[2 * size_t{steps} + n] *
          static_cast<double>(std::min<uint64_t>(small.machine.tiers[0].capacity_pages, small.trace.pages));
    }
    double plain = constant;
    for (uint32_t page = 0; page < small.trace.pages; ++page)
      plain += plain_path(small, page, start.size() == 1 ? start[0] : start[page], prices);
    ASSERT_NEAR(bound, plain, 1e-9 * (std::abs(plain) + std::abs(constant))) << "round " << round;

    // The loads are those of the paths: at these prices they cost what the bound says.
    const Prices slope = relaxation.slope(prices, loads);
    double by_loads = 0;
    for (uint32_t n = 0; n < steps; ++n) {
      double slow = 0;  // weight 1 + kappa on the slow tier, and what the other weights change of that
      const StepView step = small.trace.step(n);
      for (size_t i = 0; i < step.page.size(); ++i) slow += step.reads_of(i);
      const auto bytes = static_cast<double>(small.trace.page_bytes);
      const double fast_page = bytes / small.machine.tiers[0].read_bytes_per_second,
                   slow_page = bytes / small.machine.tiers[1].read_bytes_per_second;
      const bool from_slow =
          (1 + small.machine.kappa - prices[n] - prices[steps + n]) * slow_page < prices[n] * fast_page;
      slow = (slow - (from_slow ? 0 : loads.fast_reads[n]) + loads.copied[n]) * slow_page;
      by_loads += (1 + small.machine.kappa) * slow + prices[n] * slope[n] +
                  prices[steps + n] * slope[steps + n] +
                  prices[2 * size_t{steps} + n] * slope[2 * size_t{steps} + n];
    }
    ASSERT_NEAR(by_loads, bound, 1e-9 * (std::abs(bound) + std::abs(constant))) << "round " << round;

    // And the direction in which the bound rises: it is under its planes everywhere.
    const Prices others = any_prices(random, relaxation);
    double plane = bound;
    for (size_t i = 0; i < slope.size(); ++i) plane += slope[i] * (others[i] - prices[i]);
    ASSERT_LE(relaxation.bound(others, loads),
              plane + 1e-9 * (std::abs(plane) + std::abs(bound) + std::abs(constant)))
        << "round " << round;
  }
}

/// Content that drifts, of hundreds of pages: what bounds are for.
Small drifting(uint64_t seed, Cost cost, double room, uint32_t pages = 300, uint32_t steps = 40) {
  Random random(seed);
  Small small{find_machine("families"), {}, cost, {}};
  small.machine.tiers[0].capacity_pages = static_cast<uint64_t>(room * pages);
  small.options.random_start = seed;
  Trace& trace = small.trace;
  trace.name = "drifting";
  trace.page_bytes = uint64_t{1} << 20;
  trace.pages = pages;
  std::vector<double> popular(pages), now(pages);
  for (double& each : popular) each = 1.2 * random.normal();
  for (double& each : now) each = random.normal();
  for (uint32_t n = 0; n < steps; ++n) {
    for (uint32_t page = 0; page < pages; ++page) {
      now[page] = 0.97 * now[page] + std::sqrt(1 - 0.97 * 0.97) * random.normal();
      if (random.uniform() < 1 / (1 + std::exp(-2 * (popular[page] + 1.5 * now[page] - 1.5))))
        trace.page.push_back(page);
    }
    trace.end_step();
  }
  trace.finish();
  return small;
}

TEST(Bound, IsNearToASchedule) {
  const uint64_t seed = test::Random().next() % 1000 + 1;
  for (const Cost cost : {Cost::kOffers, Cost::kCopies}) {
    for (const double room : {0.1, 0.25, 0.5}) {
      const Small small = drifting(seed, cost, room);
      const Bounds bounds = compute_bounds(small.trace, small.machine, cost, small.options);
      const auto where = ::testing::Message()
                         << "room " << room << (cost == Cost::kOffers ? ", offers" : ", copies") << ": "
                         << bounds.ub0 << " " << bounds.ub1 << " " << bounds.ub2 << " + " << 100 * bounds.gap
                         << " %, " << bounds.feasible_seconds;
      EXPECT_LE(bounds.ub0, bounds.ub1) << where;
      EXPECT_LE(bounds.ub1, bounds.ub2) << where;
      EXPECT_LT(bounds.gap, 0.02) << where;
      EXPECT_GE(bounds.feasible_seconds, bounds.ub2 * (1 - kRounding)) << where;
      EXPECT_LT(bounds.feasible_seconds, 1.1 * bounds.ub2) << where;
      EXPECT_GE(bounds.feasible_seconds, bounds.ub2 * (1 + bounds.gap) * (1 - kRounding))
          << "the gap is not above a schedule; " << where;
    }
  }
}

TEST(Bound, MoreRoundsAreNeverLower) {
  const uint64_t seed = test::Random().next() % 1000 + 1;
  const Small small = drifting(seed, Cost::kOffers, 0.25, 100, 40);
  Relaxation relaxation(small.trace, small.machine, small.cost, start_of(small));
  double before = 0, mixture = kNever;
  for (const uint32_t rounds : {1u, 2u, 10u, 40u, 80u, 160u, 320u}) {
    const Ascent ascent = maximise(relaxation, {rounds, 0, 0});
    EXPECT_GE(ascent.bound, before) << rounds;
    EXPECT_LE(ascent.mixture_seconds, mixture) << rounds;
    EXPECT_GE(ascent.mixture_seconds, ascent.bound * (1 - kRounding))
        << rounds << ": the relaxation's optimum is between them";
    before = ascent.bound;
    mixture = ascent.mixture_seconds;
    Loads loads;
    EXPECT_DOUBLE_EQ(relaxation.bound(ascent.prices, loads), ascent.bound)
        << rounds << ": the prices are those of the bound";
  }
}

TEST(Bound, UnitsDoNotMatter) {
  const uint64_t seed = test::Random().next() % 1000 + 1;
  const Small small = drifting(seed, Cost::kCopies, 0.25, 100, 40);
  const Bounds bounds = compute_bounds(small.trace, small.machine, small.cost, small.options);
  Small twice = drifting(seed, Cost::kCopies, 0.25, 100, 40);  // pages of twice the size
  twice.trace.page_bytes *= 2;
  const Bounds of_twice = compute_bounds(twice.trace, twice.machine, twice.cost, twice.options);
  EXPECT_DOUBLE_EQ(of_twice.ub0, 2 * bounds.ub0);
  EXPECT_DOUBLE_EQ(of_twice.ub1, 2 * bounds.ub1);
  EXPECT_DOUBLE_EQ(of_twice.ub2, 2 * bounds.ub2);
  EXPECT_DOUBLE_EQ(of_twice.feasible_seconds, 2 * bounds.feasible_seconds);
  for (Tier& tier : twice.machine.tiers) {  // and on a machine that is as much faster
    tier.read_bytes_per_second *= 2;
    tier.write_bytes_per_second *= 2;
  }
  const Bounds of_both = compute_bounds(twice.trace, twice.machine, twice.cost, twice.options);
  EXPECT_DOUBLE_EQ(of_both.ub2, bounds.ub2);
  EXPECT_DOUBLE_EQ(of_both.gap, bounds.gap);
  EXPECT_DOUBLE_EQ(of_both.feasible_seconds, bounds.feasible_seconds);
}

TEST(Bound, PagesThatAreAlikeAreOneGroup) {
  Trace trace;
  trace.name = "alike";
  trace.page_bytes = 1;
  trace.pages = 7;
  trace.born_step = {0, 0, 0, 0, 2, 2, 3};
  // Pages 0 to 3 are read in steps 0 and 3; 4 to 6 in step 3; page 3 twice as much. Page 6 is born later.
  for (uint32_t n = 0; n < 4; ++n) {
    if (n == 0 || n == 3)
      for (uint32_t page = 0; page < (n == 0 ? 4u : 7u); ++page) {
        trace.page.push_back(page);
        trace.reads.push_back(page == 3 ? 2 : 1);
      }
    trace.end_step();
  }
  trace.finish();
  Machine machine = find_machine("families");
  machine.tiers[0].capacity_pages = 3;
  const StartState slow = StartState::kSlow;
  const Relaxation relaxation(trace, machine, Cost::kOffers,
                              {slow, slow, StartState::kFast, slow, slow, slow, slow});
  EXPECT_EQ(relaxation.group_of(), (std::vector<uint32_t>{0, 0, 1, 2, 3, 3, 4}));
  EXPECT_EQ(relaxation.pages_of(0), 2u);
  EXPECT_EQ(relaxation.pages_of(3), 2u);
}

TEST(Bound, LadderByHand) {
  // Bandwidths 9 and 1, two pages of 10 bytes read in each of two steps, room for one, which is there from
  // the start.
  Machine machine;
  machine.name = "by hand";
  machine.tiers = {{"fast", 9, 9, 1, -1}, {"slow", 1, 1, UINT64_MAX, -1}};
  Trace trace;
  trace.name = "by hand";
  trace.page_bytes = 10;
  trace.pages = 2;
  for (int n = 0; n < 2; ++n) {
    trace.page.insert(trace.page.end(), {0, 1});
    trace.end_step();
  }
  trace.finish();
  BoundOptions options;
  options.random_start = 1;
  const Bounds bounds = compute_bounds(trace, machine, Cost::kOffers, options);
  EXPECT_DOUBLE_EQ(bounds.ub0, 40.0 / 10);
  EXPECT_DOUBLE_EQ(bounds.ub1, 2 * 10.0 / 1);  // the other page is slow
  EXPECT_NEAR(bounds.ub2, 20, 1e-6);
  EXPECT_DOUBLE_EQ(bounds.feasible_seconds, 20);
  // From an empty tier the first step reads both from the slow one.
  const Bounds empty = compute_bounds(trace, machine, Cost::kOffers, {});
  EXPECT_DOUBLE_EQ(empty.ub1, 20.0 + 10.0);
  EXPECT_DOUBLE_EQ(empty.feasible_seconds, 30);
  // With room for both, reads are balanced between them and the copies that stay below.
  machine.tiers[0].capacity_pages = 2;
  EXPECT_DOUBLE_EQ(single_steps(trace, machine).seconds, 2 * 20.0 / 10);
  // Weights alone take 40 seconds of the fast tier, so both are read from the other
  trace.fixed_read_bytes = 360;
  EXPECT_DOUBLE_EQ(single_steps(trace, machine).seconds, 2 * 40.0);
  EXPECT_DOUBLE_EQ(ub0_seconds(trace, machine), 80.0) << "weights come from the fast tier alone";
}

TEST(Bound, APageIsSlowInTheStepOfItsBirth) {
  Trace trace;
  trace.name = "born";
  trace.page_bytes = 10;
  trace.pages = 1;
  trace.born_step = {1};
  trace.end_step();
  for (int n = 1; n < 3; ++n) {
    trace.page.push_back(0);
    trace.end_step();
  }
  trace.finish();
  Machine machine;
  machine.name = "by hand";
  machine.tiers = {{"fast", 9, 9, 1, -1}, {"slow", 1, 1, UINT64_MAX, -1}};
  EXPECT_DOUBLE_EQ(single_steps(trace, machine).seconds, 10.0 / 1 + 10.0 / 10);
  const Bounds bounds = compute_bounds(trace, machine, Cost::kOffers);
  EXPECT_DOUBLE_EQ(bounds.feasible_seconds, 11) << "promoted in step 1 beside the slow read";
}

TEST(Bound, NothingIsRead) {
  Trace trace;
  trace.name = "idle";
  trace.page_bytes = 1;
  trace.pages = 3;
  for (int n = 0; n < 4; ++n) trace.end_step();
  trace.finish();
  const Bounds bounds = compute_bounds(trace, find_machine("families"), Cost::kOffers);
  EXPECT_EQ(bounds.ub2, 0);
  EXPECT_EQ(bounds.feasible_seconds, 0);
  EXPECT_EQ(bounds.gap, 0);
}

TEST(Bound, RefusesWhatItIsNotFor) {
  Small small = drifting(1, Cost::kOffers, 0.25, 10, 5);
  const auto message = [&] {
    try {
      (void)compute_bounds(small.trace, small.machine, small.cost);
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_EQ(message(), "accepted");
  small.machine.kappa = 1.5;
  EXPECT_NE(message().find("kappa"), std::string::npos) << message();
  small.machine.kappa = 0;
  small.machine.tiers.push_back(small.machine.tiers[1]);
  EXPECT_NE(message().find("3 tiers"), std::string::npos) << message();
  small.machine.tiers.pop_back();
  small.machine.links.push_back({"link", 1, 1});
  EXPECT_NE(message().find("1 links"), std::string::npos) << message();
  EXPECT_THROW((void)single_steps(small.trace, find_machine("families"), std::vector<StartState>(3)),
               std::invalid_argument);
}

}  // namespace
}  // namespace kvt::sim
