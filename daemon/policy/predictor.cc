// SPDX-License-Identifier: Apache-2.0
#include "daemon/policy/predictor.h"

#include <algorithm>
#include <cmath>

namespace kvt::policy {
namespace {

constexpr uint32_t kShareMemory = 32;   // periods
constexpr uint32_t kSharesNeeded = 8;   // before a shift can be told
constexpr float kShiftDeviations = 6;
constexpr float kLeastDeviation = 0.02f;
constexpr float kShiftFall = 0.75f;     // of the mean: a share above that is no shift

}  // namespace

void Predictor::learn(std::span<const PageHeat> heats, std::span<const uint32_t> pages, uint32_t period) {
  // Only reads of the very next period say how good an expectation was.
  if (period == drawn_in_ + 1 && !drawn_.empty()) {
    const double keep = 1 - 1 / static_cast<double>(settings_.memory);
    for (double& value : product_) value *= keep;
    for (double& value : target_) value *= keep;
    for (const Drawn& drawn : drawn_) {
      const PageHeat& heat = heats[drawn.page];
      const float reads = heat.period == period ? static_cast<float>(heat.reads) : 0;
      if (drawn.advised) {
        advice_ += settings_.learning_rate * (reads - advice_);
        continue;
      }
      const Features& x = drawn.x;
      const float weight = 1 / (std::max(dot(weight_, x), 0.0f) + settings_.least_variance);
      const Features next = features_at(heat, period, shift_);
      const float g = settings_.discount;
      const std::array<float, 6> v{1, x.reads, x.fast, x.slow, x.mean, x.last};
      const std::array<float, 6> u{1 - g, x.reads - g * next.reads, x.fast - g * next.fast, x.slow - g * next.slow, x.mean - g * next.mean, x.last - g * next.last};
      for (size_t i = 0; i < 6; ++i) {
        for (size_t j = 0; j < 6; ++j) product_[i * 6 + j] += static_cast<double>(weight * v[i] * u[j]);
        target_[i] += static_cast<double>(weight * v[i] * reads * (1 - g));
      }
    }
    solve();
  }
  drawn_.clear();
  drawn_in_ = period;
  for (const uint32_t page : pages) {
    const PageHeat& heat = heats[page];
    if (heat.reads != 0) drawn_.push_back({page, features_at(heat, period, shift_), is_advised(heat, period, settings_.advice_periods)});
  }
}

/// (product + prior) weight = target + prior * start, by elimination with pivots.
void Predictor::solve() {
  constexpr size_t n = 6;
  static constexpr std::array<double, n> kStart{0, 0.2, 0.27, 0.27, 0.27, 0};
  std::array<double, 36> a = product_;
  std::array<double, n> y{};
  for (size_t i = 0; i < n; ++i) {
    a[i * n + i] += static_cast<double>(settings_.prior);
    y[i] = target_[i] + static_cast<double>(settings_.prior) * kStart[i];
  }
  for (size_t i = 0; i < n; ++i) {
    size_t best = i;
    for (size_t k = i + 1; k < n; ++k)
      if (std::fabs(a[k * n + i]) > std::fabs(a[best * n + i])) best = k;
    if (std::fabs(a[best * n + i]) < 1e-9) return;
    for (size_t j = 0; j < n; ++j) std::swap(a[i * n + j], a[best * n + j]);
    std::swap(y[i], y[best]);
    for (size_t k = i + 1; k < n; ++k) {
      const double f = a[k * n + i] / a[i * n + i];
      for (size_t j = i; j < n; ++j) a[k * n + j] -= f * a[i * n + j];
      y[k] -= f * y[i];
    }
  }
  for (size_t i = n; i-- > 0;) {
    for (size_t k = i + 1; k < n; ++k) y[i] -= a[i * n + k] * y[k];
    y[i] /= a[i * n + i];
  }
  for (size_t i = 0; i < n; ++i) weight_[i] = static_cast<float>(y[i]);
}

void Predictor::see_share(float share, uint32_t period) {
  const float deviation = std::max(std::sqrt(share_variance_), kLeastDeviation);
  if (settings_.detect_shifts && shares_ >= kSharesNeeded && share < kShiftFall * share_mean_ && share < share_mean_ - kShiftDeviations * deviation) {
    shift_ = period;
    shares_ = 0;
    return;
  }
  const float rate = 1.0f / static_cast<float>(std::min(++shares_, kShareMemory));
  const float change = share - share_mean_;
  share_mean_ += rate * change;
  share_variance_ = shares_ == 1 ? 0 : (1 - rate) * (share_variance_ + rate * change * change);
}

}  // namespace kvt::policy