// SPDX-License-Identifier: Apache-2.0
#include "daemon/policy/predictor.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace kvt::policy {
namespace {

constexpr float kAdviceRate = 0.05f;
constexpr uint32_t kShareMemory = 32;  // periods
constexpr uint32_t kSharesNeeded = 8;  // before a shift can be told
constexpr float kShiftDeviations = 6;
constexpr float kLeastDeviation = 0.02f;
constexpr uint32_t kLongAgo = 1u << 30;  // periods
constexpr float kShiftFall = 0.75f;      // of the mean: a share above that is no shift

constexpr uint32_t kStayMemory = 128;  // periods
constexpr float kStayTold = 0.25f;     // of the periods that were seen
constexpr float kLeastStayTold = 16;   // periods

}  // namespace

/// A feature that is not used keeps its first weight, which is 0 for these.
Predictor::Weights Predictor::vector_at(const PageHeat& heat, uint32_t period) const {
  const Features x = features_at(heat, period, shift_);
  const bool both = settings_.use_last_and_often;
  return {1,
          x.reads,
          x.fast,
          x.slow,
          x.mean,
          both ? x.last : 0,
          both ? x.often : 0,
          reuse_.next(reuse_cell(heat, period + 1))};
}

Predictor::Drawn Predictor::drawn_at(uint32_t page, const PageHeat& heat, uint32_t period) const {
  return {page, reuse_cell(heat, period + 1), is_advised(heat, period, settings_.advice_periods),
          vector_at(heat, period)};
}

void Predictor::draw_read(uint32_t page, const PageHeat& heat, uint32_t period) {
  if (heat.reads == 0) return;  // its first
  reads_drawn_.push_back(drawn_at(page, heat, period - 1));
  if (reads_drawn_.size() < 2 * kReadsDrawn) return;
  // Every second one stays.
  for (size_t i = 0; i < kReadsDrawn; ++i) reads_drawn_[i] = reads_drawn_[2 * i];
  reads_drawn_.resize(kReadsDrawn);
  read_stride_ = 2 * read_stride_ + 1;
}

void Predictor::learn_from(const Drawn& drawn, std::span<const PageHeat> heats, float stands_for,
                           uint32_t period) {
  const PageHeat& heat = heats[drawn.page];
  const float reads = heat.period == period ? static_cast<float>(heat.reads) : 0;
  const Weights& x = drawn.x;
  const Weights later = vector_at(heat, period);
  float expected = 0;
  for (size_t i = 0; i < kFeatures; ++i) expected += weights(Measure::kNext)[i] * x[i];
  const float weight = stands_for / (std::max(expected, 0.0f) + settings_.least_variance);
  for (const Measure measure : {Measure::kNext, Measure::kLasting}) {
    Model& model = model_[static_cast<size_t>(measure)];
    const float g = measure == Measure::kNext ? 0 : settings_.discount;
    for (size_t i = 0; i < kFeatures; ++i) {
      for (size_t j = 0; j < kFeatures; ++j)
        model.product[i * kFeatures + j] += static_cast<double>(weight * x[i] * (x[j] - g * later[j]));
      model.target[i] += static_cast<double>(weight * x[i] * (1 - g) * reads);
    }
  }
}

void Predictor::learn(std::span<const PageHeat> heats, std::span<const uint32_t> pages, uint64_t population,
                      uint32_t period) {
  // Only reads of the very next period say how good an expectation was.
  if (period == drawn_in_ + 1 && !drawn_.empty()) {
    const double keep = 1 - 1 / static_cast<double>(settings_.memory);
    for (Model& model : model_) {
      for (double& value : model.product) value *= keep;
      for (double& value : model.target) value *= keep;
    }
    reuse_.forget();
    const auto was_read = [&](const Drawn& drawn) {
      return heats[drawn.page].period == period && heats[drawn.page].reads != 0;
    };
    for (const Drawn& drawn : drawn_) {
      reuse_.see(drawn.cell, 1, 0);
      if (drawn.advised)
        advice_ +=
            kAdviceRate * ((was_read(drawn) ? static_cast<float>(heats[drawn.page].reads) : 0) - advice_);
      else if (!was_read(drawn))
        learn_from(drawn, heats, 1, period);
    }
    // As many as so many random pages would have met.
    const float stands_for = drawn_share_ * static_cast<float>(read_stride_ + 1);
    for (const Drawn& drawn : reads_drawn_) {
      reuse_.see(drawn.cell, 0, stands_for);
      if (!drawn.advised && was_read(drawn)) learn_from(drawn, heats, stands_for, period);
    }
    solve(model_[static_cast<size_t>(Measure::kNext)], settings_.prior);
    solve(model_[static_cast<size_t>(Measure::kLasting)], settings_.lasting_prior);
    reuse_.solve(stay_);
  }
  reads_drawn_.clear();
  reads_seen_ = read_stride_ = 0;
  drawn_.clear();
  drawn_in_ = period;
  drawn_share_ = static_cast<float>(pages.size()) / static_cast<float>(std::max<uint64_t>(1, population));
  for (const uint32_t page : pages) {
    const PageHeat& heat = heats[page];
    if (heat.known() && heat.reads != 0) drawn_.push_back(drawn_at(page, heat, period));
  }
}

void Predictor::see_arrivals(uint64_t pages, uint64_t frames) {
  if (frames == 0) return;
  if (stays_seen_ < UINT32_MAX) ++stays_seen_;
  const float share = static_cast<float>(pages) / static_cast<float>(frames);
  arrivals_ += (share - arrivals_) / static_cast<float>(std::min(stays_seen_, kStayMemory));
  // Of ages near those that have passed at all the table knows little, and that from the oldest pages alone.
  const float most = std::max(kLeastStayTold, static_cast<float>(stays_seen_) * kStayTold);
  stay_ = std::clamp(1 / std::max(arrivals_, 1 / most), 1.0f, most);
}

/// (product + prior) weight = target + prior * start, by elimination with pivots.
void Predictor::solve(Model& model, float prior) const {
  constexpr size_t n = kFeatures;
  constexpr double kSingular = 1e-9;
  std::array<double, n* n> a = model.product;
  std::array<double, n> y = model.target;
  for (size_t i = 0; i < n; ++i) {
    a[i * n + i] += static_cast<double>(prior);
    y[i] += static_cast<double>(prior * kStart[i]);
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
  // Periods are compared by their difference: what is this long ago must not become the future. Nothing is
  // left of it.
  if (period - shift_ > kLongAgo) shift_ = period - kLongAgo;
  const float deviation = std::max(std::sqrt(share_variance_), kLeastDeviation);
  if (settings_.detect_shifts && shares_ >= kSharesNeeded && share < kShiftFall * share_mean_ &&
      share < share_mean_ - kShiftDeviations * deviation) {
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
