// SPDX-License-Identifier: Apache-2.0
//
// Policies that are a score a page: the fast tier holds the pages with the highest, as far as they pass by.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "tools/kvtiersim/model/policy.h"
#include "tools/kvtiersim/policy/exchange.h"

namespace kvt::sim {

/// A Score is made for a number of pages, observes steps, and is called with a page.
template <class Score>
class Ranked final : public Policy {
 public:
  explicit Ranked(Score score) : score_(std::move(score)) {}
  void begin(World& world) override { score_.begin(world); }
  void step(const StepView& step, World& world) override {
    score_.observe(step, world);
    exchange_.run(step, world, 0, INFINITY, score_);
  }

 private:
  Score score_;
  Exchange exchange_;
};

/// LRU: the step of the last read; within a step, the order of the pages. Every miss is promoted; a page of
/// this step has no advantage over another of this step.
class Recency {
 public:
  void begin(const World& world) { last_.assign(world.pages(), 0); }
  void observe(const StepView& step, const World&) {
    for (const uint32_t page : step.page) last_[page] = step.step + 1;
    for (const uint32_t page : step.born) last_[page] = step.step + 1;
  }
  double operator()(uint32_t page) const { return last_[page]; }

 private:
  std::vector<uint32_t> last_;
};

/// LFU: reads so far; of equal ones the one that was read later.
class Frequency {
 public:
  void begin(const World& world) { pages_.assign(world.pages(), {}); }
  void observe(const StepView& step, const World&) {
    for (size_t i = 0; i < step.page.size(); ++i) {
      Page& page = pages_[step.page[i]];
      page.reads += step.reads_of(i);
      page.last = step.step;
    }
  }
  double operator()(uint32_t page) const { return pages_[page].reads + 0x1p-32 * pages_[page].last; }

 private:
  struct Page {
    uint32_t reads = 0;
    uint32_t last = 0;
  };
  std::vector<Page> pages_;
};

/// Powers of a decay by the number of steps, for lazily decayed averages.
class Decay {
 public:
  explicit Decay(double keep) {
    double power = 1;
    for (float& entry : power_) {
      entry = static_cast<float>(power);
      power *= keep;
    }
  }
  [[nodiscard]] float over(uint32_t steps) const { return power_[std::min<size_t>(steps, kSteps - 1)]; }

 private:
  static constexpr size_t kSteps = 2048;  // of any rate in use: below 1e-6
  std::array<float, kSteps> power_{};
};

/// An exponentially weighted mean of the reads a step.
class MovingAverage {
 public:
  explicit MovingAverage(double rate) : rate_(static_cast<float>(rate)), decay_(1 - rate) {}
  void begin(const World& world) { pages_.assign(world.pages(), {}); }
  void observe(const StepView& step, const World&) {
    now_ = step.step;
    for (size_t i = 0; i < step.page.size(); ++i) {
      Page& page = pages_[step.page[i]];
      page.mean = page.mean * decay_.over(now_ - page.step) + rate_ * static_cast<float>(step.reads_of(i));
      page.step = now_;
    }
  }
  double operator()(uint32_t page) const {
    return static_cast<double>(pages_[page].mean * decay_.over(now_ - pages_[page].step));
  }

 private:
  struct Page {
    float mean = 0;
    uint32_t step = 0;
  };
  float rate_;
  Decay decay_;
  uint32_t now_ = 0;
  std::vector<Page> pages_;
};

/// The beginning of the context and its end (as StreamingLLM attends): the first pages always, then those
/// written last; of a trace without births, those with the highest number.
class SinkAndRecent {
 public:
  void begin(const World&) {}
  void observe(const StepView&, const World&) {}
  double operator()(uint32_t page) const { return page < kSinks ? std::numeric_limits<double>::max() : page; }

 private:
  static constexpr uint32_t kSinks = 4;
};

}  // namespace kvt::sim
