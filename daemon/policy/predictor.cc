// SPDX-License-Identifier: Apache-2.0
#include "daemon/policy/predictor.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace kvt::policy {
namespace {

constexpr float kAdviceRate = 0.05f;
constexpr uint32_t kShareMemory = 32;   // periods
constexpr uint32_t kSharesNeeded = 8;   // before a shift can be told
constexpr float kShiftDeviations = 6;
constexpr float kLeastDeviation = 0.02f;
constexpr uint32_t kLongAgo = 1u << 30;  // periods
constexpr float kShiftFall = 0.75f;     // of the mean: a share above that is no shift

using Vector = std::array<float, Predictor::kFeatures>;
/// A feature that is not used keeps its first weight, which is 0 for these two.
Vector vector_of(const Features& x, const PredictorSettings& settings) {
  return {1, x.reads, x.fast, x.slow, x.mean, settings.use_last_and_often ? x.last : 0, settings.use_last_and_often ? x.often : 0};
}

}  // namespace

void Predictor::learn(std::span<const PageHeat> heats, std::span<const uint32_t> pages, uint32_t period) {
  // Only reads of the very next period say how good an expectation was.
  if (period == drawn_in_ + 1 && !drawn_.empty()) {
    const double keep = 1 - 1 / static_cast<double>(settings_.memory);
    for (Model& model : model_) {
      for (double& value : model.product) value *= keep;
      for (double& value : model.target) value *= keep;
    }
    for (const Drawn& drawn : drawn_) {
      const PageHeat& heat = heats[drawn.page];
      const float reads = heat.period == period ? static_cast<float>(heat.reads) : 0;
      if (drawn.advised) {
        advice_ += kAdviceRate * (reads - advice_);
        continue;
      }
      const Vector x = vector_of(drawn.x, settings_);
      const Vector later = vector_of(features_at(heat, period, shift_), settings_);
      float expected = 0;
      for (size_t i = 0; i < kFeatures; ++i) expected += weights(Measure::kNext)[i] * x[i];
      const float weight = 1 / (std::max(expected, 0.0f) + settings_.least_variance);
      for (const Measure measure : {Measure::kNext, Measure::kLasting}) {
        Model& model = model_[static_cast<size_t>(measure)];
        const float g = measure == Measure::kNext ? 0 : settings_.discount;
        for (size_t i = 0; i < kFeatures; ++i) {
          for (size_t j = 0; j < kFeatures; ++j) model.product[i * kFeatures + j] += static_cast<double>(weight * x[i] * (x[j] - g * later[j]));
          model.target[i] += static_cast<double>(weight * x[i] * (1 - g) * reads);
        }
      }
    }
    for (Model& model : model_) solve(model);
  }
  drawn_.clear();
  drawn_in_ = period;
  for (const uint32_t page : pages) {
    const PageHeat& heat = heats[page];
    if (heat.known() && heat.reads != 0) drawn_.push_back({page, features_at(heat, period, shift_), is_advised(heat, period, settings_.advice_periods)});
  }
}

/// (product + prior) weight = target + prior * start, by elimination with pivots.
void Predictor::solve(Model& model) const {
  constexpr size_t n = kFeatures;
  constexpr double kSingular = 1e-9;
  std::array<double, n * n> a = model.product;
  std::array<double, n> y = model.target;
  for (size_t i = 0; i < n; ++i) {
    a[i * n + i] += static_cast<double>(settings_.prior);
    y[i] += static_cast<double>(settings_.prior * kStart[i]);
  }
  for (size_t i = 0; i < n; ++i) {
    size_t pivot = i;
    for (size_t k = i + 1; k < n; ++k)
      if (std::fabs(a[k * n + i]) > std::fabs(a[pivot * n + i])) pivot = k;
    if (!(std::fabs(a[pivot * n + i]) > kSingular)) return;  // the weights stay
    for (size_t j = 0; j < n; ++j) std::swap(a[i * n + j], a[pivot * n + j]);
    std::swap(y[i], y[pivot]);
    for (size_t k = i + 1; k < n; ++k) {
      const double factor = a[k * n + i] / a[i * n + i];
      for (size_t j = i; j < n; ++j) a[k * n + j] -= factor * a[i * n + j];
      y[k] -= factor * y[i];
    }
  }
  for (size_t i = n; i-- > 0;) {
    for (size_t k = i + 1; k < n; ++k) y[i] -= a[i * n + k] * y[k];
    y[i] /= a[i * n + i];
    if (!std::isfinite(y[i])) return;
  }
  for (size_t i = 0; i < n; ++i) model.weight[i] = static_cast<float>(y[i]);
}

void Predictor::see_share(float share, uint32_t period) {
  if (!(share >= 0)) return;
  // Periods are compared by their difference: what is this long ago must not become the future. Nothing is left of it.
  if (period - shift_ > kLongAgo) shift_ = period - kLongAgo;
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
