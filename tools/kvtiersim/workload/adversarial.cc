// SPDX-License-Identifier: Apache-2.0
//
// adversarial-lru, adversarial-self: square waves against recency and against moving averages.
#include <algorithm>
#include <array>
#include <memory>
#include <numeric>
#include <vector>

#include "tools/kvtiersim/workload/family_makers.h"

namespace kvt::sim {

namespace {

std::vector<uint32_t> shuffled_pages(Random& random) {
  std::vector<uint32_t> order(kFamilyPages);
  std::iota(order.begin(), order.end(), 0u);
  for (uint32_t i = kFamilyPages - 1; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
  return order;
}

/// Chance of each page to be read in a step, known to the beliefs; the draws are not.
class Schedule {
 public:
  virtual ~Schedule() = default;
  virtual void chances(uint32_t step, std::vector<float>& chance) const = 0;
};

class ScheduleBeliefs final : public Beliefs {
 public:
  explicit ScheduleBeliefs(std::shared_ptr<const Schedule> schedule)
      : schedule_(std::move(schedule)), next_(kFamilyPages) {
    schedule_->chances(0, next_);
  }
  void observe(const StepView& step) override { schedule_->chances(step.step + 1, next_); }
  [[nodiscard]] std::span<const float> next() const override { return next_; }

 private:
  std::shared_ptr<const Schedule> schedule_;
  std::vector<float> next_;
};

Workload make(Random& random, std::shared_ptr<const Schedule> schedule) {
  Workload workload;
  Trace& trace = workload.trace;
  trace.page_bytes = kFamilyPageBytes;
  trace.pages = kFamilyPages;
  std::vector<float> chance(kFamilyPages);
  for (uint32_t n = 0; n < kFamilySteps; ++n) {
    schedule->chances(n, chance);
    for (uint32_t page = 0; page < kFamilyPages; ++page)
      if (random.uniform() < chance[page]) trace.page.push_back(page);
    trace.end_step();
  }
  workload.beliefs = [schedule] { return std::make_unique<ScheduleBeliefs>(schedule); };
  return workload;
}

/// A hot set all the time; beside it scans of two sizes and floods.
class ScansAndFloods final : public Schedule {
 public:
  explicit ScansAndFloods(Random& random) : order_(shuffled_pages(random)) {}
  void chances(uint32_t step, std::vector<float>& chance) const override {
    chance.assign(kFamilyPages, 0);
    for (uint32_t i = 0; i < kHot; ++i) chance[order_[i]] = .5f;
    const uint32_t at = step % (3 * kPhase);
    if (at < kPhase)
      scan(at, kFamilyPages * 27 / 100, chance);
    else if (at < 2 * kPhase)
      scan(at - kPhase, kFamilyPages * 54 / 100, chance);
    else if (at % 4 == 0)
      for (uint32_t i = kHot; i < kFamilyPages; ++i) chance[order_[i]] = .3f;
  }

 private:
  static constexpr uint32_t kHot = 300;
  static constexpr uint32_t kPhase = 20;
  static constexpr uint32_t kRound = 5;  // steps of a scan's round

  void scan(uint32_t at, uint32_t size, std::vector<float>& chance) const {
    const uint32_t piece = size / kRound;
    for (uint32_t i = 0; i < piece; ++i) chance[order_[kHot + (at % kRound) * piece + i]] = 1;
  }

  std::vector<uint32_t> order_;
};

/// Groups with a half-period each; half of a group is hot while the other half is cold.
class InTurn final : public Schedule {
 public:
  explicit InTurn(Random& random) : order_(shuffled_pages(random)) {}
  void chances(uint32_t step, std::vector<float>& chance) const override {
    for (uint32_t i = 0; i < kFamilyPages; ++i) {
      const uint32_t group = i / kGroup;
      const bool first_half = i % kGroup < kGroup / 2;
      const bool first_on = (step / kHalfPeriods[group]) % 2 == 0;
      chance[order_[i]] = first_half == first_on ? 1 : 0;
    }
  }

 private:
  static constexpr std::array<uint32_t, 8> kHalfPeriods{1, 2, 3, 4, 6, 8, 12, 16};
  static constexpr uint32_t kGroup = kFamilyPages / kHalfPeriods.size();

  std::vector<uint32_t> order_;
};

}  // namespace

Workload make_adversarial_lru(Random& random) {
  return make(random, std::make_shared<ScansAndFloods>(random));
}
Workload make_adversarial_self(Random& random) { return make(random, std::make_shared<InTurn>(random)); }

}  // namespace kvt::sim
