// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/command/paper_cell.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <stdexcept>

#include "tools/kvtiersim/bound/single_steps.h"
#include "tools/kvtiersim/command/tasks.h"
#include "tools/kvtiersim/model/simulate.h"
#include "tools/kvtiersim/policy/annealed.h"
#include "tools/kvtiersim/policy/bayes.h"
#include "tools/kvtiersim/policy/flush.h"
#include "tools/kvtiersim/policy/oldest.h"
#include "tools/kvtiersim/policy/page_oracle.h"
#include "tools/kvtiersim/policy/registry.h"
#include "tools/kvtiersim/workload/advice.h"

namespace kvt::sim {

namespace {

constexpr std::array kOfThePaper{"static", "reactive_flush", "page_oracle", "page_oracle_plain", "sa"};

bool of_the_paper(const std::string& name) {
  return std::find(kOfThePaper.begin(), kOfThePaper.end(), name) != kOfThePaper.end();
}

std::unique_ptr<Policy> make(const std::string& name, const PaperCell& cell, const Workload& workload,
                             const Machine& machine, AnnealedSetting annealed) {
  const uint32_t block = std::max(1U, kPaperBlockTokens / cell.layer.page_tokens);
  if (name == "static") return std::make_unique<Oldest>();
  if (name == "reactive_flush") return std::make_unique<Flush>();
  if (name == "page_oracle")
    return std::make_unique<PageOracle>(workload.trace, block, PageOracle::Gate::kPays);
  if (name == "page_oracle_plain")
    return std::make_unique<PageOracle>(workload.trace, block, PageOracle::Gate::kNone);
  if (name == "sa")
    return std::make_unique<Annealed>(workload.trace, annealed,
                                      cell.charge_start ? Annealed::Start::kEmpty : Annealed::Start::kFilled);
  if (name == "bayes" && workload.beliefs)
    return std::make_unique<Bayes>(workload.beliefs(), Bayes::Until::kBalanced);
  return make_policy(name, {workload, machine, Cost::kOffers, cell.layer.seed});
}

// Of sampled layers; scaled when all are there.
struct Sum {
  double seconds = 0, bytes_moved = 0, hit_bytes = 0, asked_bytes = 0, weight_bytes = 0;
  void add(const Sum& other) {
    seconds += other.seconds;
    bytes_moved += other.bytes_moved;
    hit_bytes += other.hit_bytes;
    asked_bytes += other.asked_bytes;
    weight_bytes += other.weight_bytes;
  }
};

}  // namespace

Machine paper_machine(const PaperLayer& layer) {
  Machine machine = find_machine("paper");
  const double bytes = kPaperHbmTokenLayers * kPaperTokenBytes / kPaperLayers;
  machine.tiers[0].capacity_pages =
      static_cast<uint64_t>(bytes / (static_cast<double>(layer.token_bytes) * layer.page_tokens));
  return machine;
}

std::vector<std::string> paper_policy_names(bool beliefs) {
  std::vector<std::string> names{"static",      "reactive_flush", "lru", "lfu",   "ewma_fast", "ewma_slow",
                                 "sink_recent", "page_oracle",    "sa",  "bayes", "reference", "kvtier"};
  if (!beliefs) std::erase(names, "bayes");
  return names;
}

PaperRow run_paper_cell(
    const PaperCell& cell,
    const std::function<void(const std::string&, const std::vector<ScheduleLine>&)>& schedule) {
  if (cell.layers == 0 || cell.layers > kPaperLayers)
    throw std::invalid_argument("1 to 32 layers are expected");
  const std::vector<std::string> registered = policy_names();
  for (const std::string& name : cell.policies) {
    if (of_the_paper(name) || std::find(registered.begin(), registered.end(), name) != registered.end())
      continue;
    std::string known = "static, reactive_flush, page_oracle, page_oracle_plain, sa";
    for (const std::string& other : registered)
      if (!of_the_paper(other)) known += ", " + other;
    throw std::invalid_argument("no policy \"" + name + "\"; expected " + known);
  }
  const Machine machine = paper_machine(cell.layer);
  const double speed =
      machine.tiers[0].read_bytes_per_second + machine.tiers[machine.last()].read_bytes_per_second;
  const size_t count = cell.policies.size();
  PaperRow row;
  std::vector<Sum> sums(count);
  AnnealedSetting setting;
  const auto annealed = static_cast<size_t>(std::find(cell.policies.begin(), cell.policies.end(), "sa") -
                                            cell.policies.begin());
  const auto flush =
      cell.one_counter
          ? static_cast<size_t>(std::find(cell.policies.begin(), cell.policies.end(), "reactive_flush") -
                                cell.policies.begin())
          : count;
  double new_share = 0, page_bytes_read = 0, token_bytes_read = 0;
  std::mutex writing;

  // Two layers at a time: a layer's trace takes up to 0.9 GB.
  constexpr uint32_t kAtOnce = 2;
  for (uint32_t begin = 0; begin < cell.layers; begin += kAtOnce) {
    const uint32_t layers = std::min(kAtOnce, cell.layers - begin);
    std::vector<PaperWorkload> made(layers);
    std::vector<std::function<void()>> tasks;
    for (uint32_t i = 0; i < layers; ++i) {
      tasks.emplace_back([&, i] {
        PaperLayer layer = cell.layer;
        layer.layer = begin + i;
        made[i] = make_paper_layer(layer);
        announce(made[i].workload.trace, cell.advice, layer.seed * kPaperLayers + layer.layer);
      });
    }
    run_tasks(tasks, cell.threads);

    std::vector<std::vector<Sum>> by_layer(layers, std::vector<Sum>(count));
    std::vector<double> bound(layers, 0);
    const auto run = [&](size_t which, uint32_t i) {
      const Trace& trace = made[i].workload.trace;
      const std::unique_ptr<Policy> policy =
          make(cell.policies[which], cell, made[i].workload, machine, setting);
      std::vector<ScheduleLine> lines;
      Observer observer;
      uint64_t hits = 0;
      if (schedule && begin + i == 0) {
        observer = [&](const StepView& step, const World& world, const StepTime& time) {
          const auto bytes = static_cast<double>(trace.page_bytes);
          lines.push_back({step.step, step.page.size(), world.hits() - hits,
                           world.traffic().promoted_in_read / bytes, world.traffic().promoted_copy / bytes,
                           time.read[machine.last()] / bytes, time.seconds});
          hits = world.hits();
        };
      }
      const Outcome outcome = simulate(trace, machine, Cost::kOffers, *policy, 0, observer);
      const auto bytes = static_cast<double>(trace.page_bytes);
      by_layer[i][which] = {outcome.seconds, outcome.bytes_moved, static_cast<double>(outcome.hits) * bytes,
                            static_cast<double>(outcome.asked) * bytes,
                            trace.fixed_read_bytes * trace.steps()};
      if (!lines.empty()) {
        const std::lock_guard lock(writing);
        schedule(cell.policies[which], lines);
      }
    };
    tasks.clear();
    if (annealed < count && begin > 0) {
      for (uint32_t i = 0; i < layers; ++i) tasks.emplace_back([&, i] { run(annealed, i); });
    } else if (annealed < count) {  // first: it takes longest
      tasks.emplace_back([&] {
        const AnnealedSearch found = anneal(made[0].workload.trace, machine, Cost::kOffers, cell.layer.seed);
        setting = found.setting;
        row.annealed = fmt::format(
            "look-ahead of {} steps, {} of 10 candidates, the best of {} settings tried on 128 steps of a "
            "layer",
            setting.window, setting.tenths, found.evaluated);
        for (uint32_t i = 0; i < layers; ++i) run(annealed, i);
      });
    }
    if (flush < count && begin == 0) {
      tasks.emplace_back([&] {
        std::vector<const Trace*> traces;
        for (const PaperWorkload& layer : made) traces.push_back(&layer.workload.trace);
        // Displaced layers cover the whole trace between them: a quarter of the steps is enough.
        const uint32_t steps = std::max(1U, cell.layer.steps / 4);
        const FlushedLayers all = simulate_flushed_layers(
            traces, machine, kPaperLayers, machine.tiers[0].capacity_pages * kPaperLayers, steps);
        const double scale = static_cast<double>(cell.layer.steps) / steps / kPaperLayers * cell.layers;
        const auto bytes = static_cast<double>(traces[0]->page_bytes) * scale;
        sums[flush] = {all.seconds * scale, all.bytes_moved * scale, static_cast<double>(all.hits) * bytes,
                       static_cast<double>(all.asked) * bytes,
                       traces[0]->fixed_read_bytes * cell.layer.steps * cell.layers};
      });
    }
    for (size_t which = 0; which < count; ++which) {
      if (which == annealed || which == flush) continue;
      for (uint32_t i = 0; i < layers; ++i) tasks.emplace_back([&, which, i] { run(which, i); });
    }
    for (uint32_t i = 0; i < layers; ++i)
      tasks.emplace_back([&, i] { bound[i] = single_steps(made[i].workload.trace, machine).seconds; });
    run_tasks(tasks, cell.threads);

    for (uint32_t i = 0; i < layers; ++i) {
      for (size_t which = 0; which < count; ++which) sums[which].add(by_layer[i][which]);
      const double asked = static_cast<double>(made[i].token_reads) * cell.layer.token_bytes;
      row.best_seconds += (kPaperWeightBytes * cell.layer.steps + asked) / speed;
      row.ub1_seconds += bound[i];
      new_share += made[i].new_share / cell.layers;
      token_bytes_read += asked;
      page_bytes_read += static_cast<double>(made[i].workload.trace.asked()) *
                         static_cast<double>(made[i].workload.trace.page_bytes);
    }
  }

  const double scale = static_cast<double>(kPaperLayers) / cell.layers;
  row.best_seconds *= scale;
  row.ub1_seconds *= scale;
  for (size_t which = 0; which < count; ++which) {
    const Sum& sum = sums[which];
    row.policies.emplace_back(
        cell.policies[which],
        PaperResult{sum.seconds * scale, sum.hit_bytes / sum.asked_bytes,
                    (sum.hit_bytes + sum.weight_bytes) / (sum.asked_bytes + sum.weight_bytes),
                    sum.bytes_moved * scale});
  }
  row.sparsity = 100 * cell.layer.sparsity;
  row.seed = cell.layer.seed;
  row.new_tokens_measured = 100 * new_share;
  row.layers = cell.layers;
  row.steps = cell.layer.steps;
  row.page_tokens = cell.layer.page_tokens;
  row.token_bytes = cell.layer.token_bytes;
  row.room = 100.0 * static_cast<double>(machine.tiers[0].capacity_pages) * cell.layer.page_tokens /
             (cell.layer.prompt + cell.layer.steps / 2.0);
  row.read_amplification = page_bytes_read / token_bytes_read;
  return row;
}

}  // namespace kvt::sim
