// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/command/run.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <stdexcept>

#include "tools/kvtiersim/bound/bound.h"
#include "tools/kvtiersim/command/tasks.h"
#include "tools/kvtiersim/policy/registry.h"
#include "tools/kvtiersim/report/file.h"
#include "tools/kvtiersim/report/html.h"
#include "tools/kvtiersim/report/json.h"
#include "tools/kvtiersim/report/table.h"
#include "tools/kvtiersim/workload/advice.h"
#include "tools/kvtiersim/workload/decode_reads.h"
#include "tools/kvtiersim/workload/families.h"
#include "tools/kvtiersim/workload/recording.h"
#include "tools/kvtiersim/workload/requests.h"

namespace kvt::sim {

namespace {

/// Draws of another kind with the same seed are to have nothing in common.
constexpr uint64_t kStartDraws = 0x5354;
constexpr uint64_t kAdviceDraws = 0x4144;
constexpr uint64_t kPolicyDraws = 0x504f;

/// What the daemon did, as a recording has it: no policies that decide, and none of the registry.
constexpr const char* kRecorded = "recorded";
constexpr const char* kRecordedReads = "recorded-reads";
constexpr double kHbmPercent = 25;

bool is_recorded(const std::string& policy) { return policy == kRecorded || policy == kRecordedReads; }

uint64_t draws_of(uint64_t seed, uint64_t what) { return seed * 0x10000 + what; }

Workload open(const RunOptions& options, uint64_t seed) {
  Workload workload;
  if (!options.generate.empty()) {
    workload = make_family(options.generate, seed);
  } else if (is_request_trace(options.trace)) {
    workload = read_requests(options.trace,
                             {.as = options.as == "decode" ? RequestsAs::kDecode : RequestsAs::kRequests,
                              .concurrency = options.concurrency,
                              .steps_max = options.steps});
  } else if (is_recording(options.trace)) {
    workload = read_recording(options.trace);
  } else if (is_decode_reads(options.trace)) {
    workload = read_decode_reads(options.trace);
  } else {
    throw std::invalid_argument(
        options.trace +
        ": expected what kvtierctl record or kvtier-decode --record wrote, or a request trace (a line "
        "{\"input_length\": ...} or the header TIMESTAMP,ContextTokens,GeneratedTokens)");
  }
  announce(workload.trace, options.advice, draws_of(seed, kAdviceDraws));
  return workload;
}

std::string modelled(const RunOptions& options, const Workload& workload) {
  if (workload.recorded != nullptr)
    return fmt::format(
        "nothing of the reads: {:.1f} s of a daemon with policy {}, a step for each period with reads{}",
        workload.recorded->wall_seconds, workload.recorded->policy,
        workload.recorded->dropped_entries == 0
            ? ""
            : fmt::format("; {} pages read are not in it", workload.recorded->dropped_entries));
  if (!options.trace.empty() && is_decode_reads(options.trace))
    return "nothing of the reads: a transformer's attention, a token each a step";
  if (!options.generate.empty()) return "all reads are generated, by a law that only `bayes` knows";
  if (options.as == "decode")
    return fmt::format(
        "prompts and lengths are recorded; decoding is modelled: {} requests at a time, dense attention, a "
        "token each a step",
        options.concurrency);
  return "blocks of prompts are recorded, a request is a step; which pages decoding reads is not in the "
         "trace";
}

std::string machine_text(const Machine& machine) {
  std::string text;
  for (const Tier& tier : machine.tiers) {
    text +=
        fmt::format("{}{} {:g} GB/s", text.empty() ? "" : ", ", tier.name, tier.read_bytes_per_second / 1e9);
    if (tier.write_bytes_per_second != tier.read_bytes_per_second)
      text += fmt::format(" (written {:g})", tier.write_bytes_per_second / 1e9);
    if (tier.link >= 0) text += fmt::format(" behind {}", machine.links[static_cast<size_t>(tier.link)].name);
  }
  if (machine.kappa != 0) text += fmt::format(", kappa {:g}", machine.kappa);
  return text;
}

BoundFigures bound_figures(const Trace& trace, const Machine& machine, Cost cost, uint64_t random_start) {
  const Bounds bounds = compute_bounds(trace, machine, cost, {.random_start = random_start});
  return {.ub0 = bounds.ub0,
          .ub1 = bounds.ub1,
          .ub2 = bounds.ub2,
          .gap = bounds.gap,
          .feasible_seconds = bounds.feasible_seconds};
}

}  // namespace

namespace {

Machine machine_of(const RunOptions& options, const Workload& workload) {
  const std::string profile = !options.profile.empty()       ? options.profile
                              : workload.recorded != nullptr ? kRecorded
                                                             : "families";
  if (profile != kRecorded) return find_machine(profile);
  if (workload.recorded == nullptr)
    throw std::invalid_argument("--profile recorded: expected a trace that kvtierctl record wrote");
  return workload.recorded->machine;
}

/// Percent of the pages that the fast tier holds: as asked for, else as the machine was.
std::vector<double> sizes_of(const RunOptions& options, const Machine& machine, const Trace& trace) {
  if (!options.hbm_percent.empty()) return options.hbm_percent;
  if (machine.tiers[0].capacity_pages == UINT64_MAX || machine.tiers[0].capacity_pages == 0)
    return {kHbmPercent};
  return {std::min(100.0, 100 * static_cast<double>(machine.tiers[0].capacity_pages) / trace.pages)};
}

}  // namespace

Results simulate_all(const RunOptions& options, std::vector<History>* histories) {
  const Cost cost = options.cost == "copies" ? Cost::kCopies : Cost::kOffers;
  if (options.seeds.empty()) throw std::invalid_argument("--seed: expected one value or more");
  for (const double percent : options.hbm_percent)
    if (!(percent > 0 && percent <= 100))
      throw std::invalid_argument("--hbm: expected percent of all pages, above 0 and at most 100");
  for (const std::string& name : options.policies)
    if (!is_recorded(name)) (void)is_oracle(name);  // a wrong name is told before anything is made
  const bool random_start = options.start == "random" || (options.start.empty() && !options.generate.empty());

  // A file is the same for all seeds, but what is drawn beside it is not.
  std::vector<Workload> workloads(options.seeds.size());
  std::vector<std::function<void()>> tasks;
  for (size_t i = 0; i < workloads.size(); ++i)
    tasks.emplace_back([&, i] { workloads[i] = open(options, options.seeds[i]); });
  run_tasks(tasks, options.threads);

  const Workload& any = workloads.front();
  const Machine machine = machine_of(options, any);
  Results results;
  results.trace = any.trace.name;
  results.modelled = modelled(options, any);
  results.profile = machine.name;
  results.machine = machine_text(machine);
  results.cost = options.cost;
  results.advice = options.advice;
  results.page_bytes = workloads.front().trace.page_bytes;
  std::vector<std::string> names = options.policies;
  if (names.empty()) {
    names = policy_names(any);
    if (any.recorded != nullptr) names.insert(names.begin(), {kRecorded, kRecordedReads});
  }
  for (const std::string& name : names)
    if (is_recorded(name) && any.recorded == nullptr)
      throw std::invalid_argument("policy \"" + name + "\": expected a trace that kvtierctl record wrote");
  std::vector<Machine> machines;
  for (const double percent : sizes_of(options, machine, any.trace)) {
    for (size_t i = 0; i < options.seeds.size(); ++i) {
      const Trace& trace = workloads[i].trace;
      Cell cell;
      cell.hbm_percent = percent;
      cell.hbm_pages =
          std::max<uint64_t>(1, static_cast<uint64_t>(std::llround(percent / 100 * trace.pages)));
      cell.seed = options.seeds[i];
      cell.pages = trace.pages;
      cell.steps = trace.steps();
      for (const std::string& name : names)
        cell.policies.push_back(
            {.name = name, .oracle = !is_recorded(name) && is_oracle(name), .outcome = {}});
      machines.push_back(machine);
      machines.back().tiers[0].capacity_pages = cell.hbm_pages;
      results.cells.push_back(std::move(cell));
    }
  }

  if (histories != nullptr) {  // of the first seed of each size
    histories->clear();
    for (size_t index = 0; index < results.cells.size(); index += workloads.size()) {
      histories->push_back({.hbm_percent = results.cells[index].hbm_percent,
                            .seed = results.cells[index].seed,
                            .heat = {},
                            .courses = std::vector<Course>(names.size())});
      if (index == 0) histories->back().heat = heat_map(workloads.front().trace);
    }
  }

  // A task is a policy, or the bound, of a cell; each writes its own place.
  tasks.clear();
  for (size_t index = 0; index < results.cells.size(); ++index) {
    Cell& cell = results.cells[index];
    const Workload& workload = workloads[index % workloads.size()];
    const uint64_t start = random_start ? draws_of(cell.seed, kStartDraws) : 0;
    if (options.bound)
      tasks.emplace_back(
          [&, index, start] { cell.bounds = bound_figures(workload.trace, machines[index], cost, start); });
    for (size_t which = 0; which < cell.policies.size(); ++which) {
      PolicyResult& result = cell.policies[which];
      if (is_recorded(result.name)) {
        tasks.emplace_back([&, index] {
          result.outcome =
              replay_recorded(workload.trace, *workload.recorded, machines[index], result.name == kRecorded);
        });
        continue;
      }
      tasks.emplace_back([&, index, start, which] {
        const auto policy = make_policy(result.name, {.workload = workload,
                                                      .machine = machines[index],
                                                      .cost = cost,
                                                      .seed = draws_of(cell.seed, kPolicyDraws)});
        if (histories == nullptr || index % workloads.size() != 0) {
          result.outcome = simulate(workload.trace, machines[index], cost, *policy, start);
          return;
        }
        CourseRecorder recorder(result.name, result.oracle, workload.trace.steps());
        result.outcome = simulate(workload.trace, machines[index], cost, *policy, start, std::ref(recorder));
        (*histories)[index / workloads.size()].courses[which] = recorder.course();
      });
    }
  }
  run_tasks(tasks, options.threads);
  if (histories != nullptr)  // what was replayed as recorded has none
    for (History& history : *histories)
      std::erase_if(history.courses, [](const Course& course) { return course.policy.empty(); });
  return results;
}

int run_run(const RunOptions& options) {
  OutputFile json(options.json, "--json");
  OutputFile html(options.html, "--html");
  std::vector<History> histories;
  const Results results = simulate_all(options, options.html.empty() ? nullptr : &histories);
  fmt::print("{}", table_text(results));
  if (json.wanted()) {
    json.stream() << json_text(results);
    json.finish();
  }
  if (html.wanted()) {
    html.stream() << html_text(results, histories);
    html.finish();
  }
  return 0;
}

}  // namespace kvt::sim
