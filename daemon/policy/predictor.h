// SPDX-License-Identifier: Apache-2.0
//
// How often will a page be read in the next period? One linear predictor for all pages of a column, learned while they
// are read: normalised least mean squares over a few hundred random pages a period.
//
//   expected = w0 + w1 reads + w2 fast + w3 slow + w4 mean + w5 last        (PageHeat, Features)
//
// Where the reads of all pages change their law at once (another task, another set of requests), the averages are of no
// use, and the fast tier serving far less than it used to says so: a shift. Averages then begin anew.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "daemon/policy/heat.h"

namespace kvt::policy {

struct PredictorSettings {
  float learning_rate = 0.05f;  ///< of advice
  float memory = 128;     ///< periods
  float prior = 10;
  float least_variance = 0.05f;
  float discount = 0.6f;
  bool detect_shifts = true;
  uint32_t advice_periods = 1;  ///< for which clients' advice is believed; < 128
};

class Predictor {
 public:
  explicit Predictor(const PredictorSettings& settings = {}) : settings_(settings) {}

  /// Reads expected in the next period. >= 0.
  [[nodiscard]] float expect(const Features& x) const {
    const float p = dot(weight_, x);
    return p > 0 ? p : 0;
  }
  [[nodiscard]] float expect(const PageHeat& heat, uint32_t period) const {
    if (is_advised(heat, period, settings_.advice_periods)) return std::max(advice_, expect(features_at(heat, period, shift_)));
    return expect(features_at(heat, period, shift_));
  }

  /// Looks at what became of the pages that the last call drew, and learns; then draws `pages` (random ones of those
  /// that are known) for the next. Call it once a period, when all its reads have been added. `heats` are indexed by page.
  void learn(std::span<const PageHeat> heats, std::span<const uint32_t> pages, uint32_t period);

  /// Period of the last shift; 0: never.
  [[nodiscard]] uint32_t shift() const { return shift_; }
  [[nodiscard]] const std::array<float, 6>& weights() const { return weight_; }
  /// Once a period in which something was read, before its reads are added: the share that the fast tier served. Where
  /// it falls far below what it used to be, what all pages are read for has changed.
  void see_share(float share, uint32_t period);

 private:
  struct Drawn {
    uint32_t page;
    Features x;
    bool advised;
  };

  using Weights = std::array<float, 6>;
  static float dot(const Weights& w, const Features& x) {
    return w[0] + w[1] * x.reads + w[2] * x.fast + w[3] * x.slow + w[4] * x.mean + w[5] * x.last;
  }

  PredictorSettings settings_;
  Weights weight_{0, 0.2f, 0.27f, 0.27f, 0.27f, 0};
  float advice_ = 1;  ///< reads of a page that was advised
  void solve();
  std::array<double, 36> product_{};  // sum of weighted x x^T, lower triangle
  std::array<double, 6> target_{};    // of weighted x reads
  std::vector<Drawn> drawn_;
  uint32_t drawn_in_ = 0;
  uint32_t shift_ = 0;
  // The share that the fast tier served: mean and variance over the periods since the last shift.
  float share_mean_ = 0, share_variance_ = 0;
  uint32_t shares_ = 0;
};

}  // namespace kvt::policy
