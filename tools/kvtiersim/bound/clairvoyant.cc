// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/bound/clairvoyant.h"

#include <algorithm>

#include "tools/kvtiersim/model/random.h"

namespace kvt::sim {

Clairvoyant::Clairvoyant(const Trace& trace, const Machine& machine, Cost cost, Relaxation& relaxation, const Ascent& ascent)
    : pages_(trace.pages), relaxation_(relaxation), share_(relaxation.groups() * relaxation.steps()),
      saves_(relaxation.steps()), pass_(relaxation.steps()), copy_(relaxation.steps()) {
  for (const Ascent::Part& part : ascent.mixture) relaxation.add_paths(part.prices, part.weight, share_);
  if (ascent.mixture.empty()) return;  // nothing is read
  const auto bytes = static_cast<double>(trace.page_bytes);
  const uint32_t steps = relaxation.steps();
  for (uint32_t n = 0; n < steps; ++n) {
    const double fast = ascent.prices[n] * bytes / machine.tiers[0].read_bytes_per_second;
    const double slow = (1 + machine.kappa - ascent.prices[n] - ascent.prices[steps + n]) * bytes / machine.tiers[1].read_bytes_per_second;
    saves_[n] = slow - std::min(fast, slow);
    pass_[n] = cost == Cost::kOffers ? fast : fast + slow;
    copy_[n] = fast + slow;
  }
}

/// Wants each page where the rounded mixture has it. Pages that are not wanted stay until their room is needed.
class ScheduledPolicy : public Policy {
 public:
  ScheduledPolicy(const Clairvoyant& plan, uint64_t seed) : plan_(plan), steps_(plan.relaxation_.steps()), pages_(plan.pages_) {
    // Of a group of m pages, as many are wanted as its share says: page j where the share is above (j + offset) / m.
    Random random(seed);
    std::vector<float> offset(plan.relaxation_.groups());
    for (float& each : offset) each = static_cast<float>(random.uniform());
    std::vector<uint32_t> seen(plan.relaxation_.groups(), 0);
    threshold_.resize(pages_);
    for (uint32_t page = 0; page < pages_; ++page) {
      const uint32_t group = plan.relaxation_.group_of()[page];
      if (group == UINT32_MAX) continue;
      threshold_[page] = (static_cast<float>(seen[group]++) + offset[group]) / static_cast<float>(plan.relaxation_.pages_of(group));
    }
  }

  void begin(World& world) override {
    if (!plan_.relaxation_.free_start() || steps_ == 0) return;
    for (uint32_t page = 0; page < pages_ && world.room() != 0; ++page)
      if (world.exists(page) && wanted(page, 0)) world.place(page, 0);
  }

  void step(const StepView& step, World& world) override {
    const uint32_t next = step.step + 1;
    if (next == steps_) return;
    enter_.clear();
    spare_.clear();
    for (uint32_t page = 0; page < pages_; ++page) {
      if (!world.exists(page)) continue;
      if (wanted(page, next)) {
        if (!world.fast(page)) {
          // One that found no room when it was wanted first comes later only if that still pays.
          const double worth = saved(page, next) - (world.passes_now(page) ? plan_.pass_[step.step] : plan_.copy_[step.step]);
          if (worth > 0 || !wanted(page, step.step)) enter_.push_back({worth, page});
        }
      } else if (world.fast(page)) {
        spare_.push_back({0, page});
      }
    }
    std::sort(enter_.begin(), enter_.end());
    const size_t needed = std::min(enter_.size(), spare_.size());
    if (needed > world.room()) {
      for (Ranked& each : spare_) each.rank = -static_cast<double>(next_wanted(each.page, next));
      std::sort(spare_.begin(), spare_.end());
    }
    size_t leaves = 0;
    for (size_t i = enter_.size(); i-- > 0;) {
      if (world.room() == 0) {
        if (leaves == spare_.size()) break;
        world.demote(spare_[leaves++].page);
      }
      world.promote(enter_[i].page);
    }
  }

 private:
  struct Ranked {
    double rank;
    uint32_t page;
    bool operator<(const Ranked& other) const { return rank != other.rank ? rank < other.rank : page < other.page; }
  };
  [[nodiscard]] bool wanted(uint32_t page, uint32_t n) const {
    const uint32_t group = plan_.relaxation_.group_of()[page];
    return group != UINT32_MAX && plan_.share_[size_t{group} * steps_ + n] > threshold_[page];
  }
  [[nodiscard]] uint32_t next_wanted(uint32_t page, uint32_t n) const {
    while (n < steps_ && !wanted(page, n)) ++n;
    return n;
  }
  /// Seconds that its reads save until it is not wanted any more.
  [[nodiscard]] double saved(uint32_t page, uint32_t n) const {
    double sum = 0;
    const auto events = plan_.relaxation_.events_of(plan_.relaxation_.group_of()[page]);
    auto i = static_cast<size_t>(std::lower_bound(events.step.begin(), events.step.end(), n) - events.step.begin());
    for (; i < events.step.size() && wanted(page, events.step[i]); ++i) sum += events.reads[i] * plan_.saves_[events.step[i]];
    return sum;
  }

  const Clairvoyant& plan_;
  uint32_t steps_;
  uint32_t pages_;
  std::vector<float> threshold_;
  std::vector<Ranked> enter_, spare_;
};

std::unique_ptr<Policy> Clairvoyant::schedule(uint64_t seed) const { return std::make_unique<ScheduledPolicy>(*this, seed); }

}  // namespace kvt::sim
