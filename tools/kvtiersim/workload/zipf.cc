// SPDX-License-Identifier: Apache-2.0
//
// zipf, zipf-shift: many reads of few pages, and who they are may change at once.
#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "tools/kvtiersim/workload/family_makers.h"

namespace kvt::sim {

namespace {

constexpr uint32_t kShiftSteps = 50;
constexpr uint32_t kNever = UINT32_MAX;

double rate_of(uint32_t rank) { return std::min(30.0, 40 / std::pow(rank + 1, .8)); }

/// A page's count since the shuffle has, given its rank, a Poisson law; a priori all ranks are alike. (That
/// no two pages have the same rank is left out: with 4,000 pages it says next to nothing.)
class ZipfBeliefs final : public Beliefs {
 public:
  explicit ZipfBeliefs(uint32_t shift) : shift_(shift), count_(kFamilyPages, 0), next_(kFamilyPages) {
    // Ranks whose rates differ by less than 2 % are one.
    for (uint32_t rank = 0; rank < kFamilyPages; ++rank) {
      if (rates_.empty() || rate_of(rank) < .98 * group_first_) {
        group_first_ = rate_of(rank);
        rates_.push_back({0, 0});
      }
      rates_.back().sum += rate_of(rank);
      rates_.back().ranks += 1;
    }
    expect();
  }

  void observe(const StepView& step) override {
    for (size_t i = 0; i < step.page.size(); ++i) count_[step.page[i]] += step.reads_of(i);
    ++steps_;
    if (shift_ != kNever && (step.step + 1) % shift_ == 0) {
      count_.assign(kFamilyPages, 0);
      steps_ = 0;
    }
    expect();
  }
  [[nodiscard]] std::span<const float> next() const override { return next_; }

 private:
  struct Group {
    double sum = 0;
    double ranks = 0;
    [[nodiscard]] double rate() const { return sum / ranks; }
  };

  void expect() {
    known_.assign(*std::max_element(count_.begin(), count_.end()) + size_t{1}, -1);
    for (uint32_t page = 0; page < kFamilyPages; ++page) {
      float& known = known_[count_[page]];
      if (known < 0) known = posterior_rate(count_[page]);
      next_[page] = known;
    }
  }

  [[nodiscard]] float posterior_rate(uint32_t count) const {
    const auto log_likelihood = [&](const Group& group) {
      return count * std::log(group.rate()) - steps_ * group.rate();
    };
    double best = -INFINITY;
    for (const Group& group : rates_) best = std::max(best, log_likelihood(group));
    double mass = 0, sum = 0;
    for (const Group& group : rates_) {
      const double w = group.ranks * std::exp(log_likelihood(group) - best);
      mass += w;
      sum += w * group.rate();
    }
    return static_cast<float>(sum / mass);
  }

  uint32_t shift_;
  double group_first_ = 0;
  std::vector<Group> rates_;
  std::vector<uint32_t> count_;
  uint32_t steps_ = 0;
  std::vector<float> known_;  // by count
  std::vector<float> next_;
};

Workload make(Random& random, uint32_t shift) {
  std::vector<double> rate(kFamilyPages);
  for (uint32_t rank = 0; rank < kFamilyPages; ++rank) rate[rank] = rate_of(rank);
  std::vector<uint32_t> rank_of(kFamilyPages);
  std::iota(rank_of.begin(), rank_of.end(), 0u);
  Workload workload;
  Trace& trace = workload.trace;
  trace.page_bytes = kFamilyPageBytes;
  trace.pages = kFamilyPages;
  for (uint32_t n = 0; n < kFamilySteps; ++n) {
    if (n == 0 || (shift != kNever && n % shift == 0))
      for (uint32_t i = kFamilyPages - 1; i > 0; --i) std::swap(rank_of[i], rank_of[random.below(i + 1)]);
    for (uint32_t page = 0; page < kFamilyPages; ++page) {
      const uint32_t reads = random.poisson(rate[rank_of[page]]);
      if (reads == 0) continue;
      trace.page.push_back(page);
      trace.reads.push_back(static_cast<uint16_t>(reads));
    }
    trace.end_step();
  }
  workload.beliefs = [shift] { return std::make_unique<ZipfBeliefs>(shift); };
  return workload;
}

}  // namespace

Workload make_zipf_shift(Random& random) { return make(random, kShiftSteps); }
Workload make_zipf(Random& random) { return make(random, kNever); }

}  // namespace kvt::sim
