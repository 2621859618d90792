// SPDX-License-Identifier: Apache-2.0
//
// The paper's machine and its policies: against hand computation and against each other.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <vector>

#include "tools/kvtiersim/command/paper.h"
#include "tools/kvtiersim/command/paper_cell.h"
#include "tools/kvtiersim/model/simulate.h"
#include "tools/kvtiersim/policy/annealed.h"
#include "tools/kvtiersim/policy/flush.h"
#include "tools/kvtiersim/policy/oldest.h"
#include "tools/kvtiersim/policy/page_oracle.h"

namespace kvt::sim {
namespace {

// Pages 0 .. pages-1, all there; a list of reads for each step.
Trace trace_of(uint32_t pages, const std::vector<std::vector<uint32_t>>& steps) {
  Trace trace;
  trace.name = "by hand";
  trace.page_bytes = kPaperTokenBytes;
  trace.pages = pages;
  for (const std::vector<uint32_t>& step : steps) {
    trace.page.insert(trace.page.end(), step.begin(), step.end());
    trace.end_step();
  }
  trace.finish();
  return trace;
}

Machine machine_with(uint64_t capacity) {
  Machine machine = find_machine("paper");
  machine.tiers[0].capacity_pages = capacity;
  return machine;
}

// The formulas of the paper, written down once more: seconds of a step, given what is read from where.
double by_hand(double weights, double hbm, double external, double promoted_in_read, double promoted_copy,
               double written) {
  const double t_h = (weights + hbm + promoted_in_read + promoted_copy) / 4900e9;
  const double t_e =
      std::max((external + promoted_copy) / std::min(450e9, 500e9), written / std::min(450e9, 500e9 - 450e9));
  return std::max(t_h, t_e);
}

TEST(PaperMachine, StepsTakeAsLongAsThePapersFormulasSay) {
  const Machine machine = find_machine("paper");
  const double weights = kPaperWeightBytes;
  // Most in external memory: nothing to balance.
  Traffic traffic;
  traffic.read = {40e6, 200e6};
  traffic.also_in_last = 40e6;
  traffic.written = {10e6, 16384};
  traffic.copied_out_of[1] = 4e6;
  EXPECT_DOUBLE_EQ(step_time(machine, traffic, weights).seconds,
                   by_hand(weights, 40e6, 200e6, 6e6, 4e6, 16384));
  // All in HBM, with a copy: read from both so that alpha = alpha* = B_H / (B_H + B_E).
  traffic = {};
  traffic.read[0] = traffic.also_in_last = 238e6;
  const StepTime balanced = step_time(machine, traffic, weights);
  EXPECT_NEAR(balanced.seconds, (weights + 238e6) / (4900e9 + 450e9), 1e-15);
  EXPECT_NEAR((weights + balanced.read[0]) / (weights + 238e6), 4900.0 / 5350, 1e-12);
  EXPECT_NEAR(machine.balanced_slow_share(), 450.0 / 5350, 1e-12);
  // Writes of new tokens have what reads leave of external memory: 50 GB/s.
  traffic = {};
  traffic.written[1] = 100e6;
  EXPECT_DOUBLE_EQ(step_time(machine, traffic, weights).seconds, 100e6 / 50e9);
}

// "best" is a sum over steps that no trace is needed for.
TEST(PaperBest, IsThePublishedOne) {
  struct Published {
    double sparsity, seconds;
  };
  for (const Published& at : {Published{.4, 31.904}, {.5, 28.250}, {.6, 24.595}}) {
    double best = 0, bound = 0;
    // 8 of each 640 steps, from the middle.
    for (uint32_t begin = 316; begin < kPaperSteps; begin += 640) {
      PaperCell cell;
      cell.layer.sparsity = at.sparsity;
      cell.layer.noise = PaperNoise::kLow;  // the quickest to make; best is the same for all
      cell.layer.steps = 8;
      cell.layer.prompt = kPaperPrompt + begin;
      cell.layers = 1;
      cell.threads = 1;
      const PaperRow row = run_paper_cell(cell);
      best += 80 * row.best_seconds;
      bound += 80 * row.ub1_seconds;
    }
    EXPECT_NEAR(best / at.seconds, 1, .001) << at.sparsity;
    // What fits: 50.8 percent of best at 40, 89.7 at 50, all from 60 on.
    EXPECT_NEAR(best / bound, at.sparsity < .45 ? .508 : at.sparsity < .55 ? .897 : 1, .002) << at.sparsity;
  }
}

TEST(PaperPolicies, StaticKeepsTheOldest) {
  const Trace trace = trace_of(6, {{3, 4}, {0, 1, 2}, {0, 5}});
  const Machine machine = machine_with(3);
  Oldest policy;
  const Outcome outcome = simulate(trace, machine, Cost::kOffers, policy, 0,
                                   [&](const StepView&, const World& world, const StepTime&) {
                                     EXPECT_TRUE(world.fast(0) && world.fast(1) && world.fast(2));
                                   });
  EXPECT_EQ(outcome.hits, 4U);
  EXPECT_EQ(outcome.counts.moves(), 3U);
}

TEST(PaperPolicies, FlushEmptiesTheLayerThatIsRead) {
  const Trace trace = trace_of(6, {{0, 1}, {2, 3}, {0, 3}});
  Flush policy;
  std::vector<std::vector<uint32_t>> fast;
  (void)simulate(trace, machine_with(3), Cost::kOffers, policy, 0,
                 [&](const StepView&, const World& world, const StepTime&) {
                   fast.push_back(world.members(0));
                   std::sort(fast.back().begin(), fast.back().end());
                 });
  // Step 1: 2 fits beside 0 and 1; 3 does not: all leave, 3 comes. Step 2: 0 comes.
  EXPECT_EQ(fast, (std::vector<std::vector<uint32_t>>{{0, 1}, {3}, {0, 3}}));
}

TEST(PaperPolicies, AFlushedLayerMakesRoomForAllThatShareItsCounter) {
  // One layer by itself is Flush.
  const PaperWorkload made = make_paper_layer([] {
    PaperLayer layer;
    layer.steps = 30;
    return layer;
  }());
  const Machine machine = paper_machine(PaperLayer{});
  const Trace* const one[] = {&made.workload.trace};
  const FlushedLayers alone = simulate_flushed_layers(one, machine, 1, machine.tiers[0].capacity_pages, 30);
  Flush policy;
  const Outcome outcome = simulate(made.workload.trace, machine, Cost::kOffers, policy);
  EXPECT_NEAR(alone.seconds, outcome.seconds, 1e-12);
  EXPECT_EQ(alone.hits, outcome.hits);
  EXPECT_EQ(alone.promotions, outcome.counts.moves());
  // Two layers that read the same two pages of two each in turn, with room for three: the second to be read
  // fills the counter, is flushed, and again; the first stays. Hits from the second step on: 2 and 1.
  const Trace trace = trace_of(2, {{0, 1}, {0, 1}, {0, 1}, {0, 1}});
  const Trace* const twice[] = {&trace, &trace};
  const FlushedLayers both = simulate_flushed_layers(twice, machine, 2, 3, 4);
  EXPECT_EQ(both.asked, 16U);
  EXPECT_EQ(both.hits, 3U * 2 + 3U * 1);
}

TEST(PaperPolicies, GatedPageOracleMovesOnlyWhatPays) {
  // Blocks of two, room for one. Block 0 comes first. Block 1's two pages save at most two reads in a step:
  // copies of both cost 2.2, of one while the other passes by 1.2.
  const Trace trace = trace_of(4, {{0, 1}, {0, 1}, {2}, {2, 3}, {2, 3}});
  const auto after = [&](Cost cost) {
    std::vector<bool> there;
    PageOracle policy(trace, 2, PageOracle::Gate::kPays);
    (void)simulate(trace, machine_with(2), cost, policy, 0,
                   [&](const StepView&, const World& world, const StepTime&) {
                     there.push_back(world.fast(2) && world.fast(3));
                   });
    return there;
  };
  EXPECT_EQ(after(Cost::kCopies), (std::vector<bool>{false, false, false, false, false}));
  EXPECT_EQ(after(Cost::kOffers), (std::vector<bool>{false, false, true, true, true}));
}

TEST(PaperPolicies, PlainPageOracleTakesTheLongestThereOfWhatIsNotRead) {
  // Blocks of one, room for two; 0 comes before 1, both are read on, then neither.
  const Trace trace = trace_of(4, {{3}, {0}, {0, 1}, {0, 1}, {2}, {2, 3}});
  std::vector<std::vector<uint32_t>> fast;
  PageOracle policy(trace, 1, PageOracle::Gate::kNone);
  (void)simulate(trace, machine_with(2), Cost::kOffers, policy, 0,
                 [&](const StepView&, const World& world, const StepTime&) {
                   fast.push_back(world.members(0));
                   std::sort(fast.back().begin(), fast.back().end());
                 });
  EXPECT_EQ(fast, (std::vector<std::vector<uint32_t>>{{0}, {0, 1}, {0, 1}, {1, 2}, {2, 3}, {2, 3}}));
}

TEST(PaperPolicies, AnnealedStartsWithWhatIsReadSoonest) {
  const Trace trace = trace_of(4, {{0, 1}, {1, 2}, {3}, {1, 3}});
  Annealed filled(trace, {2, 10}, Annealed::Start::kFilled);
  // Worth in a window of two: page 1 1.5, page 0 1, page 2 .5; two fit. Hits: 0 and 1; 1, as 0 has left;
  // none; 1, and 3, which passed by in the step before.
  const Outcome outcome = simulate(trace, machine_with(2), Cost::kOffers, filled);
  EXPECT_EQ(outcome.hits, 2U + 1U + 0U + 2U);
  Annealed empty(trace, {2, 10}, Annealed::Start::kEmpty);
  EXPECT_LT(simulate(trace, machine_with(2), Cost::kOffers, empty).hits, outcome.hits);
  EXPECT_THROW(Annealed(trace, {0, 10}, Annealed::Start::kFilled), std::invalid_argument);
  EXPECT_THROW(Annealed(trace, {1, 11}, Annealed::Start::kFilled), std::invalid_argument);
}

TEST(PaperPolicies, AnnealingFindsNoWorseThanItsNeighbours) {
  PaperLayer layer;
  layer.steps = 160;
  layer.prompt = 36'000;
  const PaperWorkload made = make_paper_layer(layer);
  const Machine machine = paper_machine(layer);
  const AnnealedSearch found = anneal(made.workload.trace, machine, Cost::kOffers, 1);
  const AnnealedSearch again = anneal(made.workload.trace, machine, Cost::kOffers, 1);
  EXPECT_EQ(found.setting.window, again.setting.window);
  EXPECT_EQ(found.setting.tenths, again.setting.tenths);
  EXPECT_GT(found.evaluated, 10U);
  const auto seconds = [&](AnnealedSetting setting) {
    Annealed policy(made.workload.trace, setting, Annealed::Start::kFilled);
    return simulate(made.workload.trace, machine, Cost::kOffers, policy).seconds;
  };
  // Judged on stretches, so a little tolerance on the whole.
  EXPECT_LT(seconds(found.setting), 1.01 * seconds({found.setting.window + 3, found.setting.tenths}));
  EXPECT_LT(seconds(found.setting), .99 * seconds({1, 1}));
}

PaperCell small_cell() {
  PaperCell cell;
  cell.layer.steps = 60;
  cell.layers = 1;
  cell.one_counter = false;
  cell.threads = 2;
  cell.policies = paper_policy_names(true);
  cell.policies.emplace_back("page_oracle_plain");
  return cell;
}

TEST(PaperCell, NothingBeatsTheBoundsAndSchedulesAddUp) {
  const PaperCell cell = small_cell();
  std::vector<std::pair<std::string, std::vector<ScheduleLine>>> schedules;
  const PaperRow row =
      run_paper_cell(cell, [&](const std::string& policy, const std::vector<ScheduleLine>& lines) {
        schedules.emplace_back(policy, lines);
      });
  EXPECT_LE(row.best_seconds, row.ub1_seconds * (1 + 1e-12));
  ASSERT_EQ(row.policies.size(), cell.policies.size());
  ASSERT_EQ(schedules.size(), cell.policies.size());
  for (const auto& [name, result] : row.policies) {
    EXPECT_GE(result.seconds, row.ub1_seconds) << name;
    EXPECT_GE(result.hit_rate, 0) << name;
    EXPECT_LE(result.hit_rate, 1) << name;
    EXPECT_LT(result.hit_rate, result.hit_rate_with_weights) << name;
    const auto at = std::find_if(schedules.begin(), schedules.end(),
                                 [&, &policy = name](const auto& entry) { return entry.first == policy; });
    ASSERT_NE(at, schedules.end()) << name;
    ASSERT_EQ(at->second.size(), cell.layer.steps) << name;
    double seconds = 0;
    uint64_t reads = 0, hits = 0;
    for (const ScheduleLine& line : at->second) {
      // A line is enough to compute its time: the paper's formulas.
      const double bytes = kPaperTokenBytes;
      const double hand = by_hand(
          kPaperWeightBytes, (static_cast<double>(line.reads) - line.read_from_external) * bytes,
          line.read_from_external * bytes, line.promoted_in_read * bytes, line.promoted_copy * bytes, bytes);
      ASSERT_NEAR(line.seconds, hand, 1e-9 * hand) << name << " step " << line.step;
      ASSERT_GE(line.read_from_external, static_cast<double>(line.reads - line.hbm) - 1e-6);
      seconds += line.seconds;
      reads += line.reads;
      hits += line.hbm;
    }
    EXPECT_NEAR(seconds * kPaperLayers, result.seconds, 1e-9 * result.seconds) << name;
    EXPECT_NEAR(static_cast<double>(hits) / static_cast<double>(reads), result.hit_rate, 1e-12) << name;
  }
}

TEST(PaperCell, ThreadsDoNotMatter) {
  PaperCell cell = small_cell();
  cell.layers = 3;  // more than are made at once
  cell.layer.steps = 20;
  cell.one_counter = true;
  cell.policies = {"reactive_flush", "sa", "lru", "page_oracle"};
  cell.threads = 1;
  const PaperRow one = run_paper_cell(cell);
  cell.threads = 4;
  const PaperRow four = run_paper_cell(cell);
  EXPECT_EQ(paper_json({one}), paper_json({four}));
}

TEST(PaperCell, LargerPagesReadMoreAndGqaFits) {
  PaperCell cell = small_cell();
  cell.policies = {"lru"};
  cell.layer.steps = 20;
  const PaperRow tokens = run_paper_cell(cell);
  EXPECT_DOUBLE_EQ(tokens.read_amplification, 1);
  cell.layer.page_tokens = 16;
  const PaperRow pages = run_paper_cell(cell);
  EXPECT_GT(pages.read_amplification, 1.5);
  EXPECT_DOUBLE_EQ(pages.best_seconds, tokens.best_seconds);
  EXPECT_GT(pages.ub1_seconds, tokens.ub1_seconds);
  cell.layer.page_tokens = 1;
  cell.layer.token_bytes = kPaperGqaTokenBytes;
  EXPECT_GT(run_paper_cell(cell).room, 100);
}

TEST(PaperCell, UnknownPoliciesAreNamed) {
  PaperCell cell = small_cell();
  cell.policies = {"static", "statics"};
  try {
    (void)run_paper_cell(cell);
    FAIL() << "no exception";
  } catch (const std::invalid_argument& error) {
    EXPECT_EQ(std::string(error.what()).rfind("no policy \"statics\"; expected static, reactive_flush", 0),
              0U)
        << error.what();
  }
}

TEST(PaperReport, JsonHasTheContractsFields) {
  PaperCell cell = small_cell();
  cell.layer.steps = 10;
  cell.policies = {"static", "lru"};
  PaperRow row = run_paper_cell(cell);
  row.variation = "actual";
  row.noise = "drift";
  const auto json = nlohmann::json::parse(paper_json({row}));
  ASSERT_EQ(json.at("rows").size(), 1U);
  const auto& first = json.at("rows").at(0);
  EXPECT_DOUBLE_EQ(first.at("sparsity").get<double>(), 60);
  EXPECT_EQ(first.at("variation"), "actual");
  EXPECT_EQ(first.at("noise"), "drift");
  EXPECT_EQ(first.at("seed"), 1);
  EXPECT_TRUE(first.at("new_tokens").is_number());
  EXPECT_DOUBLE_EQ(first.at("best_seconds").get<double>(), row.best_seconds);
  EXPECT_DOUBLE_EQ(first.at("ub1_seconds").get<double>(), row.ub1_seconds);
  for (const char* const policy : {"static", "lru"}) {
    EXPECT_GT(first.at("policies").at(policy).get<double>(), 0);
    EXPECT_TRUE(first.at("hbm_hit_rate").at(policy).is_number());
  }
  const std::string table = paper_table(row);
  EXPECT_NE(table.find("1 of 32 layers simulated, times scaled by 32"), std::string::npos) << table;
}

TEST(PaperCommand, OptionsThatDoNotGoTogetherAreRefused) {
  PaperOptions options;
  options.schedule_out = "schedule.jsonl";
  EXPECT_THROW((void)run_paper(options), std::invalid_argument);  // without --small
  options = {};
  options.new_tokens = "5";
  options.variation = "low";
  EXPECT_THROW((void)run_paper(options), std::invalid_argument);
  options = {};
  for (const char* const wrong : {"5,", "x", "0", "5;11", "101"}) {
    options.new_tokens = wrong;
    EXPECT_THROW((void)run_paper(options), std::invalid_argument) << wrong;
  }
}

}  // namespace
}  // namespace kvt::sim
