// SPDX-License-Identifier: Apache-2.0
//
// What holds for every policy that the registry has, and single ones beside naive ones.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <stdexcept>

#include "tests/support/random.h"
#include "tools/kvtiersim/model/random.h"
#include "tools/kvtiersim/model/simulate.h"
#include "tools/kvtiersim/policy/registry.h"
#include "tools/kvtiersim/workload/families.h"

namespace kvt::sim {
namespace {

Machine machine_for(const Trace& trace, double share) {
  Machine machine = find_machine("families");
  machine.tiers[0].capacity_pages = static_cast<uint64_t>(share * trace.pages);
  return machine;
}

/// Where every page was after each step.
struct Result {
  Outcome outcome;
  std::vector<uint64_t> placements;  // a hash a step
};

Result run(const std::string& name, const Workload& workload, const Machine& machine, Cost cost,
           uint64_t random_start) {
  const auto policy = make_policy(name, {.workload = workload, .machine = machine, .cost = cost, .seed = 5});
  Result result;
  result.outcome = simulate(workload.trace, machine, cost, *policy, random_start,
                            [&](const StepView&, const World& world, const StepTime&) {
                              uint64_t hash = 0xcbf29ce484222325ull;
                              uint64_t fast = 0;
                              for (uint32_t page = 0; page < world.pages(); ++page) {
                                hash = (hash ^ world.tier(page)) * 0x100000001b3ull;
                                fast += world.fast(page);
                              }
                              result.placements.push_back(hash);
                              EXPECT_EQ(fast, world.used(0));
                              EXPECT_LE(fast, world.capacity()) << name;
                            });
  return result;
}

/// Reads by chance, pages that come to be on the way, a parent each: what no family has.
Workload growing(uint64_t seed) {
  Random random(seed);
  Workload workload;
  Trace& trace = workload.trace;
  trace.name = "growing";
  trace.page_bytes = 4096;
  trace.pages = 600;
  trace.born_step.resize(trace.pages);
  trace.parent.assign(trace.pages, UINT32_MAX);
  for (uint32_t page = 0; page < trace.pages; ++page) {
    trace.born_step[page] = page < 200 ? 0 : (page - 200) / 4;
    if (page >= 4) trace.parent[page] = page - 4;
  }
  for (uint32_t n = 0; n < 120; ++n) {
    for (uint32_t page = 0; page < trace.pages; ++page) {
      if (trace.born_step[page] > n || random.below(10) >= 1 + page % 7) continue;
      trace.page.push_back(page);
      trace.reads.push_back(static_cast<uint16_t>(1 + random.below(3)));
    }
    trace.end_step();
  }
  trace.finish();
  return workload;
}

std::vector<std::string> not_oracles(const Workload& workload) {
  std::vector<std::string> names = policy_names(workload);
  std::erase_if(names, [](const std::string& name) { return is_oracle(name); });
  return names;
}

TEST(Policies, NamesAreKnownOrRefused) {
  const Workload workload = growing(1);
  const Machine machine = machine_for(workload.trace, .3);
  const auto fails = [&](const std::string& name) -> std::string {
    try {
      (void)make_policy(name, {.workload = workload, .machine = machine});
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "taken";
  };
  EXPECT_NE(fails("lruu").find("no policy \"lruu\"; expected static, random, lru,"), std::string::npos)
      << fails("lruu");
  EXPECT_NE(fails("bayes").find("needs a generated trace"), std::string::npos) << fails("bayes");
  const auto allowed = policy_names(workload);
  EXPECT_EQ(std::count(allowed.begin(), allowed.end(), "bayes"), 0);
  EXPECT_TRUE(is_oracle("belady"));
  EXPECT_FALSE(is_oracle("bayes"));
}

TEST(Policies, SameInputTwiceGivesTheSame) {
  const std::array<Workload, 2> workloads{growing(2), make_family("shared", 4)};
  for (const Workload& workload : workloads) {
    const Machine machine = machine_for(workload.trace, .3);
    for (const std::string& name : policy_names(workload)) {
      for (const Cost cost : {Cost::kOffers, Cost::kCopies}) {
        const Result one = run(name, workload, machine, cost, 9);
        const Result other = run(name, workload, machine, cost, 9);
        EXPECT_EQ(one.placements, other.placements) << name;
        EXPECT_EQ(one.outcome.seconds, other.outcome.seconds) << name;
        EXPECT_EQ(one.outcome.asked, workload.trace.asked());
        EXPECT_LE(one.outcome.hits, one.outcome.asked) << name;
      }
    }
  }
}

TEST(Policies, EmptyFastTierIsFilled) {
  const Workload workload = make_family("sparse-fast", 3);
  const Machine machine = machine_for(workload.trace, .25);
  for (const std::string& name : policy_names(workload)) {
    const auto policy = make_policy(name, {.workload = workload, .machine = machine});
    uint64_t used = 0;
    (void)simulate(workload.trace, machine, Cost::kOffers, *policy, 0,
                   [&](const StepView&, const World& world, const StepTime&) { used = world.used(0); });
    EXPECT_GE(used, machine.tiers[0].capacity_pages * 9 / 10) << name;
  }
}

TEST(Policies, FastTierOfNothingOrOfOnePage) {
  const Workload workload = growing(3);
  for (const uint64_t pages : {0, 1}) {
    Machine machine = machine_for(workload.trace, 0);
    machine.tiers[0].capacity_pages = pages;
    for (const std::string& name : policy_names(workload)) {
      const Result result = run(name, workload, machine, Cost::kOffers, 0);
      if (pages == 0) EXPECT_EQ(result.outcome.hits, 0u) << name;
    }
  }
}

/// The trace up to and with step `last`, and other reads after that.
Trace with_other_future(const Trace& trace, uint32_t last, Random& random) {
  Trace other;
  other.name = trace.name;
  other.page_bytes = trace.page_bytes;
  other.pages = trace.pages;
  other.born_step = trace.born_step;
  other.parent = trace.parent;
  for (uint32_t n = 0; n < trace.steps(); ++n) {
    const StepView step = trace.step(n);
    if (n <= last) {
      other.page.insert(other.page.end(), step.page.begin(), step.page.end());
      other.reads.insert(other.reads.end(), step.reads.begin(), step.reads.end());
    } else {
      for (uint32_t page = 0; page < trace.pages; ++page) {
        if (!trace.born_step.empty() && trace.born_step[page] > n) continue;
        if (random.below(4) != 0) continue;
        other.page.push_back(page);
        if (!trace.reads.empty()) other.reads.push_back(static_cast<uint16_t>(1 + random.below(5)));
      }
    }
    other.end_step();
  }
  other.finish();
  return other;
}

/// Up to a step, placements are the same whatever is read after it.
TEST(Policies, NoneButOraclesSeesTheFuture) {
  test::Random seeds;
  std::vector<Workload> workloads;
  workloads.push_back(growing(seeds.next()));
  for (const char* family : {"dense", "shared", "sparse-slow", "zipf-shift", "adversarial-self", "burst"})
    workloads.push_back(make_family(family, seeds.below(1000)));
  uint64_t oracles_differ = 0;
  for (Workload& workload : workloads) {
    const Machine machine = machine_for(workload.trace, .3);
    const auto last = static_cast<uint32_t>(seeds.below(workload.trace.steps() - 2));
    Random random(seeds.next());
    Workload changed;
    changed.trace = with_other_future(workload.trace, last, random);
    changed.beliefs = workload.beliefs;  // the law's, of which they have been shown the reads
    for (const std::string& name : policy_names(workload)) {
      const Cost cost = seeds.one_in(2) ? Cost::kOffers : Cost::kCopies;
      const Result one = run(name, workload, machine, cost, 3);
      const Result other = run(name, changed, machine, cost, 3);
      const bool same =
          std::equal(one.placements.begin(), one.placements.begin() + last + 1, other.placements.begin());
      if (is_oracle(name))
        oracles_differ += !same;
      else
        EXPECT_TRUE(same) << name << " on " << workload.trace.name << ", other reads after step " << last;
    }
  }
  EXPECT_GT(oracles_differ, 0u) << "the change of the future is too small to show anything";
}

TEST(Policies, BeladyHasTheMostHits) {
  for (const char* family :
       {"dense", "sparse-slow", "sparse-fast", "adversarial-lru", "adversarial-self", "burst"}) {
    const Workload workload = make_family(family, 6);
    const Machine machine = machine_for(workload.trace, .25);
    const uint64_t best = run("belady", workload, machine, Cost::kOffers, 1).outcome.hits;
    for (const std::string& name : not_oracles(workload))
      EXPECT_GE(best, run(name, workload, machine, Cost::kOffers, 1).outcome.hits)
          << name << " on " << family;
  }
}

/// Keeps the best `capacity` pages of those that are there and those that were read, by eagerly kept scores.
template <class Update>
uint64_t naive_hits(const Trace& trace, uint64_t capacity, Update update) {
  std::map<uint32_t, double> score;  // of pages that were read
  std::set<uint32_t> fast;
  uint64_t hits = 0;
  for (uint32_t n = 0; n < trace.steps(); ++n) {
    const StepView step = trace.step(n);
    for (size_t i = 0; i < step.page.size(); ++i)
      if (fast.count(step.page[i]) != 0) hits += step.reads_of(i);
    update(step, score);
    // The worst of the fast and the best of the others change places, one pair after another.
    for (;;) {
      const auto better = [&](uint32_t a, uint32_t b) {
        return score[a] != score[b] ? score[a] > score[b] : a < b;
      };
      uint32_t best = UINT32_MAX, worst = UINT32_MAX;
      for (const uint32_t page : step.page)
        if (fast.count(page) == 0 && (best == UINT32_MAX || better(page, best))) best = page;
      if (best == UINT32_MAX) break;
      if (fast.size() < capacity) {
        fast.insert(best);
        continue;
      }
      for (const uint32_t page : fast)
        if (worst == UINT32_MAX || score[page] < score[worst] ||
            (score[page] == score[worst] && page > worst))
          worst = page;
      if (!(score[best] > score[worst])) break;
      fast.erase(worst);
      fast.insert(best);
    }
  }
  return hits;
}

TEST(Policies, LruIsAPlainLru) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    const Workload workload = growing(seed);
    const Machine machine = machine_for(workload.trace, .1 * static_cast<double>(seed));
    const uint64_t naive = naive_hits(workload.trace, machine.tiers[0].capacity_pages,
                                      [](const StepView& step, std::map<uint32_t, double>& score) {
                                        for (const uint32_t page : step.page) score[page] = step.step + 1;
                                        for (const uint32_t page : step.born) score[page] = step.step + 1;
                                      });
    Workload unborn = workload;  // births pass by as well and would be promoted: the naive one knows none
    unborn.trace.born_step.clear();
    unborn.trace.finish();
    EXPECT_EQ(run("lru", unborn, machine, Cost::kOffers, 0).outcome.hits, naive) << seed;
  }
}

TEST(Policies, LfuKeepsTheMostRead) {
  Workload workload = growing(5);
  workload.trace.born_step.clear();
  workload.trace.finish();
  const Machine machine = machine_for(workload.trace, .2);
  std::map<uint32_t, std::pair<double, double>> counts;
  const uint64_t naive = naive_hits(workload.trace, machine.tiers[0].capacity_pages,
                                    [&](const StepView& step, std::map<uint32_t, double>& score) {
                                      for (size_t i = 0; i < step.page.size(); ++i) {
                                        auto& [reads, last] = counts[step.page[i]];
                                        reads += step.reads_of(i);
                                        last = step.step;
                                        score[step.page[i]] = reads + last / 1e6;
                                      }
                                    });
  EXPECT_EQ(run("lfu", workload, machine, Cost::kOffers, 0).outcome.hits, naive);
}

TEST(Policies, LazyMovingAverageIsTheEagerOne) {
  Workload workload = growing(6);
  workload.trace.born_step.clear();
  workload.trace.finish();
  for (const auto& [name, rate] :
       std::map<std::string, double>{{"ewma_fast", .3}, {"ewma_slow", .05}, {"hemem", .125}}) {
    const Machine machine = machine_for(workload.trace, .2);
    const uint64_t naive = naive_hits(workload.trace, machine.tiers[0].capacity_pages,
                                      [&, r = rate](const StepView& step, std::map<uint32_t, double>& score) {
                                        for (auto& [page, mean] : score) mean *= 1 - r;
                                        for (size_t i = 0; i < step.page.size(); ++i)
                                          score[step.page[i]] += r * step.reads_of(i);
                                      });
    // Rounding may order two equal pages the other way round.
    EXPECT_NEAR(static_cast<double>(run(name, workload, machine, Cost::kOffers, 0).outcome.hits),
                static_cast<double>(naive), .002 * static_cast<double>(naive))
        << name;
  }
}

TEST(Policies, OffersAreNoDearerThanCopies) {
  const Workload workload = make_family("sparse-slow", 8);
  const Machine machine = machine_for(workload.trace, .25);
  for (const char* name : {"lru", "lfu", "ewma_fast", "belady", "memtis"})
    EXPECT_LT(run(name, workload, machine, Cost::kOffers, 1).outcome.seconds,
              run(name, workload, machine, Cost::kCopies, 1).outcome.seconds)
        << name;
}

TEST(Policies, StaticMovesNothingOnceFull) {
  const Workload workload = make_family("dense", 8);
  const Machine machine = machine_for(workload.trace, .25);
  const Result result = run("static", workload, machine, Cost::kOffers, 1);
  EXPECT_EQ(result.outcome.counts.moves(), 0u);
  EXPECT_GT(result.outcome.hits, 0u);
}

/// The rule of POLICY, on the shares of the ceiling that it states (and nearer than the baselines).
TEST(Policies, ReferenceIsNearTheCeiling) {
  struct Row {
    const char* family;
    double share;
    double least;  // of the ceiling's speed
  };
  for (const Row& row : {Row{"dense", .25, .98}, Row{"dense", .5, .98}, Row{"shared", .25, .97},
                         Row{"sparse-slow", .25, .96}, Row{"sparse-slow", .5, .98},
                         Row{"sparse-fast", .25, .95}, Row{"zipf-shift", .5, .91}, Row{"zipf", .25, .96}}) {
    const Workload workload = make_family(row.family, 5);
    const Machine machine = machine_for(workload.trace, row.share);
    const double ceiling = run("bayes", workload, machine, Cost::kOffers, 1).outcome.seconds;
    EXPECT_GT(ceiling / run("reference", workload, machine, Cost::kOffers, 1).outcome.seconds, row.least)
        << row.family << " " << row.share;
  }
}

}  // namespace
}  // namespace kvt::sim
