// SPDX-License-Identifier: Apache-2.0
//
// The pure parts of the policy: the exact placement of a step over a histogram's bins, beside one greedy pass
// over the same bins; and touching a page in the histogram itself.
#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "daemon/policy/bands.h"
#include "daemon/policy/histogram.h"
#include "tools/bench/memory.h"
#include "tools/bench/rows.h"
#include "tools/bench/sequence.h"

namespace kvt::bench {
namespace {

namespace bands = policy::bands;

constexpr uint64_t kProblems =
    16;  ///< visited in turn: one alone would teach the branch predictor its answer

/// A number in [0, 1) that `i` always gives.
double unit(uint64_t i) { return static_cast<double>(mix(i) >> 11) * 0x1p-53; }

struct Problem {
  std::vector<bands::Bin> bins;
  std::vector<bands::Tier> tiers;
  std::vector<bands::Link> links;
  [[nodiscard]] bands::Step step() const { return {bins, tiers, links, 1, {}}; }
};

/// Densities over 20 octaves, the bytes of a heavy tail; tiers ever slower and not all full; with more than
/// two of them, a link in front of all but the fastest.
Problem problem(uint64_t number, uint32_t tiers, uint64_t bins) {
  Problem made;
  uint64_t seed = number << 32;
  const auto next = [&seed] { return unit(++seed); };
  double all = 0;
  const double fall = 5 + 20 * next();
  for (uint64_t i = 0; i < bins; ++i) {
    const double place = static_cast<double>(i) / static_cast<double>(bins);
    made.bins.push_back({std::exp2(20 * place - 10), (0.1 + next()) * 1e9 * std::exp2(-fall * place), 0});
    all += made.bins.back().bytes;
  }
  double room = 0;
  for (uint32_t t = 0; t < tiers; ++t) {
    made.tiers.push_back({all * 0.7 * std::pow(next(), 3), 4e12 / std::pow(1 + 3 * next(), t)});
    room += made.tiers.back().capacity_bytes;
  }
  made.tiers.back().capacity_bytes += std::max(0.0, 1.5 * all - room);
  if (tiers > 2 && number % 2 == 0)
    made.links.push_back({1.2 * made.tiers.back().read_bytes_per_second, ((1u << tiers) - 1) & ~1u});
  return made;
}

void solve_row(benchmark::State& state, uint32_t tiers, uint64_t bins) {
  std::vector<Problem> problems;
  for (uint64_t i = 0; i < kProblems; ++i) problems.push_back(problem(i, tiers, bins));
  bands::Workspace workspace;
  bands::Solution solution;
  uint64_t pivots = 0;
  uint64_t solved = 0;
  double gap = 0;
  uint64_t at = 0;
  for (auto _ : state) {
    bands::solve(problems[at].step(), workspace, solution);
    at = (at + 1) % kProblems;
    solved += solution.outcome == bands::Outcome::kSolved;
    pivots += solution.pivots;
    gap = std::max(gap, solution.gap());
  }
  state.counters["pivots"] =
      benchmark::Counter(static_cast<double>(pivots), benchmark::Counter::kAvgIterations);
  require(solved == static_cast<uint64_t>(state.iterations()), "a step was not solved");
  require(gap <= 1e-9, "a placement is not certified");
}

/// Seconds of the step when the hottest go into the fastest tier until it is full, and so on: one pass, no
/// balance.
double greedy(const Problem& p) {
  std::array<double, bands::kTiersMax> read{};
  size_t tier = 0;
  double room = p.tiers[0].capacity_bytes;
  for (size_t i = p.bins.size(); i-- > 0;) {
    for (double left = p.bins[i].bytes; left > 0;) {
      const double part = std::min(left, room);
      read[tier] += part * p.bins[i].density;
      left -= part;
      room -= part;
      if (left > 0) room = p.tiers.at(++tier).capacity_bytes;
    }
  }
  double seconds = 0;
  double behind_link = 0;
  for (size_t t = 0; t < p.tiers.size(); ++t) {
    seconds = std::max(seconds, read[t] / p.tiers[t].read_bytes_per_second);
    if (t > 0) behind_link += read[t];
  }
  return p.links.empty() ? seconds : std::max(seconds, behind_link / p.links[0].read_bytes_per_second);
}

void greedy_row(benchmark::State& state, uint32_t tiers, uint64_t bins) {
  std::vector<Problem> problems;
  for (uint64_t i = 0; i < kProblems; ++i) problems.push_back(problem(i, tiers, bins));
  uint64_t at = 0;
  std::vector<double> seconds(kProblems);
  for (auto _ : state) {
    seconds[at] = greedy(problems[at]);
    benchmark::DoNotOptimize(seconds[at]);
    at = (at + 1) % kProblems;
  }
  double times = 0;  // how long its step takes, as a multiple of the optimum
  for (const Problem& p : problems) {
    bands::Workspace workspace;
    bands::Solution solution;
    bands::solve(p.step(), workspace, solution);
    const double ratio = greedy(p) / solution.seconds;
    require(ratio > 1 - 1e-9, "a greedy placement beats the optimum");
    times += ratio / static_cast<double>(kProblems);
  }
  state.counters["times_optimum"] = times;
}

/// Touches pages in random order: a new value, the old stamp out of the histogram, the new one into it.
void histogram_row(benchmark::State& state, uint64_t pages) {
  policy::DensityHistogram histogram(0.875);
  const std::vector<uint32_t> order = visits(pages);
  const SharedArray<policy::Stamp> stamps(pages);
  for (uint64_t i = 0; i < pages; ++i) histogram.add(stamps[i] = policy::kNeverRead);
  std::vector<float> values(kBatch);
  for (uint64_t i = 0; i < kBatch; ++i) values[i] = static_cast<float>(std::exp2(20 * unit(i) - 10));
  BatchCursor cursor(order.size());
  uint32_t period = 0;
  while (state.KeepRunningBatch(kBatch)) {
    const uint32_t* const batch = &order[cursor.next()];
    histogram.advance(++period);
    for (uint64_t i = 0; i < kBatch; ++i) {
      policy::Stamp& stamp = stamps[batch[i]];
      histogram.remove(stamp);
      stamp = histogram.stamp(values[i], period);
      histogram.add(stamp);
    }
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()));
  require(histogram.pages() == pages, "pages were lost");
  for (uint64_t i = 0; i < pages; ++i) histogram.remove(stamps[i]);
  for (const auto& bin : histogram.bins()) require(bin.pages == 0, "a page was counted in another bin");
}

}  // namespace

void add_policy_rows(RowList& rows, const Sizes& sizes) {
  for (const uint32_t tiers : {2u, 4u, 8u})
    for (const uint64_t bins : {uint64_t{64}, uint64_t{256}, uint64_t{1024}}) {
      const std::string end = std::to_string(tiers) + "_tiers";
      const std::string group = "bands/" + end + "/" + std::to_string(bins);
      rows.add({"bands_" + end, bins, group, Timing::kThreadCpu, 0,
                [=](benchmark::State& state) { solve_row(state, tiers, bins); }});
      rows.add({"baseline_greedy_" + end, bins, group, Timing::kThreadCpu, 0,
                [=](benchmark::State& state) { greedy_row(state, tiers, bins); }});
    }
  for (const uint64_t pages : sizes.pages)
    rows.add({"histogram_touch", pages, still_group(pages), Timing::kThreadCpu, 0,
              [=](benchmark::State& state) { histogram_row(state, pages); }});
}

}  // namespace kvt::bench
