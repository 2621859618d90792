// SPDX-License-Identifier: Apache-2.0
#include "tests/gpu/decode_loop_expected.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "tools/kvtiersim/model/machine.h"
#include "tools/kvtiersim/model/simulate.h"
#include "tools/kvtiersim/model/trace.h"
#include "tools/kvtiersim/policy/registry.h"

namespace kvt::loop {
namespace {

/// A run in the simulator's terms.
struct Simulated {
  const char* run;
  const char* policy;  ///< of kvtiersim; nullptr: nobody moves anything
  sim::Cost cost;
  double kappa;    ///< 0: both memories are read at once; 1: what is missing is fetched first
  bool in_period;  ///< decides once a period of kvtierd, else after each step
  bool balances;   ///< reads pages that are in both memories from either
  bool all_in_hbm;
};
constexpr Simulated kRuns[] = {
    {"hbm", nullptr, sim::Cost::kOffers, 0, false, false, true},
    {"balance", "kvtier", sim::Cost::kOffers, 0, true, true, false},
    {"balance-copies", "kvtier", sim::Cost::kCopies, 0, true, true, false},
    // Pages have one place: nothing has been moved.
    {"static", nullptr, sim::Cost::kOffers, 0, false, false, false},
    // A page is read over the link once, and written once.
    {"lru-fetch", "lru", sim::Cost::kOffers, 1, false, false, false},
    {"lru-read", "lru", sim::Cost::kCopies, 0, false, false, false},
};

/// Plays the policy, and sums up what the loop's steps read and take. Where a period is several of them, each is timed for
/// itself: a step is over when the slower memory is through, and what one needs more of the link is not made up for by
/// the next. What has been moved in the period is charged to all of its steps alike.
class Watched final : public sim::Policy {
 public:
  Watched(std::unique_ptr<sim::Policy> policy, bool balances, const Reads& reads, uint32_t together,
          uint32_t first)
      : policy_(std::move(policy)), balances_(balances), reads_(reads), together_(together), first_(first) {}

  /// HBM has the first pages, as all runs begin: they were written in this order, and HBM had room.
  void begin(sim::World& world) override {
    for (uint32_t page = 0; page < world.pages() && world.room() > 0; ++page) world.place(page, 0);
    if (policy_ != nullptr) policy_->begin(world);
  }
  void step(const sim::StepView& view, sim::World& world) override {
    std::vector<sim::Traffic> steps(together_);
    for (uint32_t i = 0; i < together_; ++i) {
      uint64_t in_hbm = 0;
      const auto pages = reads_.at(view.step * together_ + i);
      for (const uint32_t page : pages) in_hbm += world.fast(page) ? 1 : 0;
      steps[i].read[0] = static_cast<double>(in_hbm) * world.page_bytes();
      steps[i].read[1] = static_cast<double>(pages.size() - in_hbm) * world.page_bytes();
      if (balances_) steps[i].also_in_last = steps[i].read[0];
    }
    if (policy_ != nullptr) policy_->step(view, world);
    if (view.step * together_ < first_) return;
    for (sim::Traffic& traffic : steps) {
      traffic.written[0] = world.traffic().written[0] / together_;
      traffic.copied_out_of[1] = world.traffic().copied_out_of[1] / together_;
      const sim::StepTime time = sim::step_time(world.machine(), traffic, 0);
      seconds_ += time.seconds;
      hbm_bytes_ += time.read[0];
      host_bytes_ += time.read[1];
      copied_bytes_ += traffic.copied_out_of[1];
      ++steps_;
    }
  }
  [[nodiscard]] Expected expected() const {
    if (steps_ == 0) throw std::invalid_argument("the run is shorter than a period");
    const auto steps = static_cast<double>(steps_);
    return {.step_s = seconds_ / steps,
            .hbm_share = hbm_bytes_ / (hbm_bytes_ + host_bytes_),
            .link_bytes = (host_bytes_ + copied_bytes_) / steps,
            .period_steps = together_};
  }

 private:
  std::unique_ptr<sim::Policy> policy_;
  bool balances_;
  const Reads& reads_;
  uint32_t together_, first_;
  double seconds_ = 0, hbm_bytes_ = 0, host_bytes_ = 0, copied_bytes_ = 0;
  uint64_t steps_ = 0;
};

/// A step of it is `together` steps of the loop; what is left at the end is left out.
sim::Trace trace_of(const Reads& reads, uint64_t page_bytes, uint32_t end, uint32_t together) {
  sim::Trace trace;
  trace.name = "decode loop";
  trace.page_bytes = page_bytes;
  trace.pages = reads.shape().sequences * reads.shape().blocks;
  std::vector<uint32_t> pages;
  for (uint32_t step = 0; step + together <= end; step += together) {
    pages.clear();
    for (uint32_t i = 0; i < together; ++i)
      pages.insert(pages.end(), reads.at(step + i).begin(), reads.at(step + i).end());
    std::sort(pages.begin(), pages.end());
    for (size_t i = 0; i < pages.size();) {
      const auto next =
          std::upper_bound(pages.begin() + static_cast<std::ptrdiff_t>(i), pages.end(), pages[i]);
      const size_t after = static_cast<size_t>(next - pages.begin());
      trace.page.push_back(pages[i]);
      trace.reads.push_back(static_cast<uint16_t>(after - i));
      i = after;
    }
    trace.end_step();
  }
  trace.finish();
  return trace;
}

Expected simulate_together(const Simulated& run, const Reads& reads, const SimulatedMachine& speeds,
                           uint32_t first, uint32_t end, uint32_t together) {
  sim::Workload workload;
  workload.trace = trace_of(reads, speeds.page_bytes, end, together);
  sim::Machine machine;
  machine.name = "measured";
  machine.kappa = run.kappa;
  const uint64_t frames = run.all_in_hbm ? workload.trace.pages : speeds.hbm_frames;
  machine.tiers = {{"hbm", speeds.hbm_bytes_per_second, speeds.hbm_bytes_per_second, frames, -1},
                   {"host", speeds.link_bytes_per_second, speeds.link_bytes_per_second, UINT64_MAX, -1}};
  std::unique_ptr<sim::Policy> inner;
  if (run.policy != nullptr)
    inner =
        sim::make_policy(run.policy, {.workload = workload, .machine = machine, .cost = run.cost, .seed = 1});
  Watched policy(std::move(inner), run.balances, reads, together, first);
  static_cast<void>(sim::simulate(workload.trace, machine, run.cost, policy));
  return policy.expected();
}

}  // namespace

Expected simulate_run(const std::string& name, const Reads& reads, const SimulatedMachine& machine,
                      uint32_t first, uint32_t end) {
  const auto* const run = std::find_if(std::begin(kRuns), std::end(kRuns),
                                       [&](const Simulated& each) { return name == each.run; });
  if (run == std::end(kRuns)) throw std::invalid_argument("the simulator knows no run " + name);
  Expected expected = simulate_together(*run, reads, machine, first, end, 1);
  if (!run->in_period) return expected;
  // Later decisions make steps longer, and fewer of them fit into a period. One or two rounds, mostly; in the last one
  // the number of steps need not be exact.
  for (int round = 0; round < 3; ++round) {
    const double step_s = std::max(expected.step_s, machine.least_step_s);
    const double fit = std::clamp(std::round(machine.period_s / step_s), 1.0, (end - first) / 2.0);
    const auto together = std::max(1u, static_cast<uint32_t>(fit));
    if (together == expected.period_steps) break;
    expected = simulate_together(*run, reads, machine, first, end, together);
  }
  return expected;
}

SimulatedMachine machine_of_profile(const std::string& profile) {
  const sim::Machine machine = sim::find_machine(profile);
  SimulatedMachine speeds;
  speeds.hbm_bytes_per_second = machine.tiers.front().read_bytes_per_second;
  speeds.link_bytes_per_second = machine.tiers.back().read_bytes_per_second;
  return speeds;
}

}  // namespace kvt::loop
