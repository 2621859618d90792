// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/bound/clairvoyant.h"

#include <algorithm>
#include <iterator>

#include "tools/kvtiersim/model/random.h"

namespace kvt::sim {

Clairvoyant::Clairvoyant(const Trace& trace, const Machine& machine, Cost cost, Relaxation& relaxation,
                         const Ascent& ascent)
    : pages_(trace.pages),
      relaxation_(relaxation),
      share_(relaxation.groups() * relaxation.steps()),
      saves_(relaxation.steps()),
      pass_(relaxation.steps()),
      copy_(relaxation.steps()) {
  for (const Ascent::Part& part : ascent.mixture) relaxation.add_paths(part.prices, part.weight, share_);
  if (ascent.mixture.empty()) return;  // nothing is read
  const auto bytes = static_cast<double>(trace.page_bytes);
  const uint32_t steps = relaxation.steps();
  for (uint32_t n = 0; n < steps; ++n) {
    const double fast = ascent.prices[n] * bytes / machine.tiers[0].read_bytes_per_second;
    const double slow = (1 + machine.kappa - ascent.prices[n] - ascent.prices[steps + n]) * bytes /
                        machine.tiers[1].read_bytes_per_second;
    saves_[n] = slow - std::min(fast, slow);
    pass_[n] = cost == Cost::kOffers ? fast : fast + slow;
    copy_[n] = fast + slow;
  }
}

/// Wants each page where the rounded mixture has it. Pages that are not wanted stay until their room is
/// needed.
class ScheduledPolicy : public Policy {
 public:
  ScheduledPolicy(const Clairvoyant& plan, uint64_t seed) : plan_(plan), steps_(plan.relaxation_.steps()) {
    // Of a group of m pages, as many are wanted as its share says: page j where the share is above (j +
    // offset) / m.
    const Relaxation& relaxation = plan.relaxation_;
    Random random(seed);
    std::vector<float> threshold(relaxation.groups());
    for (size_t group = 0; group < threshold.size(); ++group)
      threshold[group] = static_cast<float>(random.uniform() / relaxation.pages_of(group));
    for (uint32_t page = 0; page < plan.pages_; ++page) {
      const uint32_t group = relaxation.group_of()[page];
      if (group == UINT32_MAX) continue;
      const float* const share = plan.share_.data() + size_t{group} * steps_;
      const size_t begin = spans_.size();
      for (uint32_t n = 0; n < steps_; ++n) {
        if (share[n] <= threshold[group]) continue;
        if (spans_.size() == begin || spans_.back().to + 1 != n) spans_.push_back({n, n});
        spans_.back().to = n;
      }
      threshold[group] += 1.0F / static_cast<float>(relaxation.pages_of(group));
      if (spans_.size() != begin) pages_.push_back({page, begin, spans_.size()});
    }
    is_wanted_.resize(plan.pages_);
    for (const Wanted& each : pages_) is_wanted_[each.page] = true;
  }

  void begin(World& world) override {
    if (!plan_.relaxation_.free_start()) return;
    for (const Wanted& each : pages_)
      if (world.room() != 0 && world.exists(each.page) && spans_[each.span].from == 0)
        world.place(each.page, 0);
  }

  void step(const StepView& step, World& world) override {
    const uint32_t next = step.step + 1;
    if (next == steps_) return;
    if (step.step == 0)  // what a given start left there
      std::copy_if(world.members(0).begin(), world.members(0).end(), std::back_inserter(unwanted_),
                   [&](uint32_t page) { return !is_wanted_[page]; });
    enter_.clear();
    spare_.clear();
    for (Wanted& each : pages_) {
      while (each.span != each.end && spans_[each.span].to < next) ++each.span;
      // That it is in, or the next
      const Span span = each.span != each.end ? spans_[each.span] : Span{steps_, steps_};
      const bool fast = world.fast(each.page);
      if (span.from > next) {
        if (fast) spare_.push_back({-static_cast<double>(span.from), each.page});
      } else if (!fast && world.exists(each.page)) {
        // One that found no room when it was wanted first comes later only if that still pays.
        const double worth = saved(each.page, next, span.to) -
                             (world.passes_now(each.page) ? plan_.pass_[step.step] : plan_.copy_[step.step]);
        if (worth > 0 || span.from == next) enter_.push_back({worth, each.page});
      }
    }
    std::sort(enter_.begin(), enter_.end());
    if (enter_.size() > world.room()) std::sort(spare_.begin(), spare_.end());
    size_t leaves = 0;
    for (size_t i = enter_.size(); i-- > 0;) {
      if (world.room() == 0) {
        if (!unwanted_.empty()) {
          world.demote(unwanted_.back());
          unwanted_.pop_back();
        } else if (leaves != spare_.size()) {
          world.demote(spare_[leaves++].page);
        } else {
          break;
        }
      }
      world.promote(enter_[i].page);
    }
  }

 private:
  struct Span {
    uint32_t from;
    uint32_t to;
  };
  struct Wanted {
    uint32_t page;
    size_t span;  // of spans_, the first that has not passed
    size_t end;
  };
  struct Ranked {
    double rank;
    uint32_t page;
    bool operator<(const Ranked& other) const {
      return rank != other.rank ? rank < other.rank : page < other.page;
    }
  };
  /// Seconds that reads in steps from..to save.
  [[nodiscard]] double saved(uint32_t page, uint32_t from, uint32_t to) const {
    const auto events = plan_.relaxation_.events_of(plan_.relaxation_.group_of()[page]);
    auto i = static_cast<size_t>(std::lower_bound(events.step.begin(), events.step.end(), from) -
                                 events.step.begin());
    double sum = 0;
    for (; i < events.step.size() && events.step[i] <= to; ++i)
      sum += events.reads[i] * plan_.saves_[events.step[i]];
    return sum;
  }

  const Clairvoyant& plan_;
  uint32_t steps_;
  std::vector<Span> spans_;
  std::vector<Wanted> pages_;  // that are wanted at all
  std::vector<bool> is_wanted_;
  std::vector<uint32_t> unwanted_;  // pages in the fast tier that never are
  std::vector<Ranked> enter_, spare_;
};

std::unique_ptr<Policy> Clairvoyant::schedule(uint64_t seed) const {
  return std::make_unique<ScheduledPolicy>(*this, seed);
}

}  // namespace kvt::sim
