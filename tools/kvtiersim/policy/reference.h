// SPDX-License-Identifier: Apache-2.0
//
// The rule that kvtier's policy started from: one linear predictor, learnt online, and pairwise swaps.
// Written for itself, so that what daemon/policy adds to it can be measured.
//
// - A page's state: means of its reads a step over about 4, 32 and 128 steps (f, s, m; m is a running mean
//   while the page is young), decayed lazily.
// - Prediction of its reads in the next step: p = w . (1, a, f, s, m), a = reads in this step.
// - Learning: normalised LMS on random pages that have been seen, read now or not.
// - Moves: slow pages that were read in this step, hottest first; the victim is the best of some random fast
//   pages; swap while p(u) - p(v) > gate. The gate is a quarter of the promotion's cost in slow reads, and
//   high when the slow tier has little to do anyway.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "tools/kvtiersim/model/policy.h"
#include "tools/kvtiersim/model/random.h"
#include "tools/kvtiersim/policy/exchange.h"
#include "tools/kvtiersim/policy/ranked.h"

namespace kvt::sim {

class Reference final : public Policy {
 public:
  explicit Reference(uint64_t seed) : random_(seed) {}
  void begin(World& world) override;
  void step(const StepView& step, World& world) override;

 private:
  static constexpr size_t kFeatures = 5;
  using Features = std::array<float, kFeatures>;

  struct Page {
    uint32_t born = kUnseen;  // step in which it was seen first
    uint32_t last = 0;        // step in which it was read last
    float fast = 0, slow = 0, mean = 0;
    float reads = 0;  // in `last`
  };
  static constexpr uint32_t kUnseen = UINT32_MAX;

  /// Of the page as it was at the end of step `now`. REQUIRES: seen, and not read after `now`.
  [[nodiscard]] Features features(const Page& page, uint32_t now) const;
  [[nodiscard]] float predict(const Features& x) const;
  [[nodiscard]] float mean_decay(const Page& page, uint32_t now) const;
  /// The prediction for the step after `now`, made once a step and page.
  [[nodiscard]] double score(uint32_t page, uint32_t now);
  void learn(const StepView& step);
  void observe(const StepView& step);

  Random random_;
  Decay fast_decay_{3.0 / 4}, slow_decay_{31.0 / 32}, mean_decay_{127.0 / 128};
  Features weights_{0, .2f, .27f, .27f, .27f};
  std::vector<Page> pages_;
  std::vector<uint32_t> seen_;
  struct Score {
    uint32_t made = 0;  // step + 1
    float value = 0;
  };
  std::vector<Score> scores_;
  std::vector<float> reads_now_;  // [pages], zero between steps
  Exchange exchange_;
};

/// What swap policies want a promotion to gain, in reads of the next step. POLICY: a quarter of the cost;
/// where this step's misses are under 3/4 of what the slow tier serves in balance, at least .75.
[[nodiscard]] double swap_gate(const World& world);

}  // namespace kvt::sim
