// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/workload/paper_beliefs.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace kvt::sim {

namespace {

constexpr float kRecency = 1.7F;

// Of a standard normal: P(X > x) and the hazard phi(x) / P(X > x), from tables.
class Tails {
 public:
  static constexpr float kMost = 8;
  static constexpr int kPerUnit = 64;
  static constexpr int kEntries = 2 * static_cast<int>(kMost) * kPerUnit;

  Tails() {
    for (size_t i = 0; i < above_.size(); ++i) {
      const double x = static_cast<double>(i) / kPerUnit - static_cast<double>(kMost);
      const double above = 0.5 * std::erfc(x * M_SQRT1_2);
      above_[i] = static_cast<float>(above);
      hazard_[i] = static_cast<float>(std::exp(-x * x / 2) / std::sqrt(2 * M_PI) / above);
    }
  }
  [[nodiscard]] float above(float x) const { return between(above_, x); }
  [[nodiscard]] float hazard(float x) const { return between(hazard_, x); }

 private:
  using Table = std::array<float, kEntries + 2>;
  static float between(const Table& table, float x) {
    const float at = (std::clamp(x, -kMost, kMost) + kMost) * kPerUnit;
    const auto i = static_cast<size_t>(static_cast<int32_t>(at));
    return table[i] + (table[i + 1] - table[i]) * (at - static_cast<float>(i));
  }
  Table above_{}, hazard_{};
};

// A Gaussian over (base, z) of each token, score = base + noise * z + recency: conditioned on which side of the
// threshold the score was (moments of the truncated normal), then carried on by the OU's law. What it ignores: that
// the posterior of a truncated Gaussian is none, and what the other tokens of a block tell of the variance they share.
class ScoreBeliefs : public Beliefs {
 public:
  ScoreBeliefs(const PaperLayer& layer, const PaperDrift& drift, std::shared_ptr<const std::vector<float>> threshold)
      : layer_(layer), noise_(static_cast<float>(drift.noise)), rho_(static_cast<float>(drift.rho)), threshold_(std::move(threshold)),
        token_(paper_tokens(layer, layer.steps - 1)), read_(token_.size(), 0), next_(token_.size(), 0) {}

  void observe(const StepView& step) override {
    const uint32_t n = paper_tokens(layer_, step.step);
    const float threshold = (*threshold_)[step.step];
    const float recency = kRecency / static_cast<float>(n);
    const float recency_next = kRecency / static_cast<float>(n + 1);
    for (const uint32_t page : step.page) read_[page] = 1;
    for (uint32_t i = 0; i < n; ++i) {
      Token& token = token_[i];
      const float cov_base = token.var_base + noise_ * token.cov;  // of base and score
      const float cov_z = token.cov + noise_ * token.var_z;
      const float var = cov_base + noise_ * cov_z;
      const float deviation = std::sqrt(var);
      const float sign = read_[i] != 0 ? 1.0F : -1.0F;
      const float mean = token.base + noise_ * token.z + recency * static_cast<float>(i);
      const float x = sign * (threshold - mean) / deviation;
      const float hazard = tails_.hazard(x);
      const float shift = sign * hazard / deviation;
      const float shrink = hazard * (hazard - x) / var;
      const float base = token.base + cov_base * shift;
      const float z = rho_ * (token.z + cov_z * shift);
      const float var_base = token.var_base - cov_base * cov_base * shrink;
      const float cov = rho_ * (token.cov - cov_base * cov_z * shrink);
      const float var_z = rho_ * rho_ * (token.var_z - cov_z * cov_z * shrink) + 1 - rho_ * rho_;
      token = {base, z, var_base, cov, var_z};
      const float next_var = var_base + 2 * noise_ * cov + noise_ * noise_ * var_z;
      next_[i] = tails_.above((threshold - base - noise_ * z - recency_next * static_cast<float>(i)) / std::sqrt(next_var));
    }
    for (const uint32_t page : step.page) read_[page] = 0;
  }
  [[nodiscard]] std::span<const float> next() const override { return next_; }

 private:
  struct Token {
    float base = 0, z = 0, var_base = 1, cov = 0, var_z = 1;
  };
  PaperLayer layer_;
  float noise_, rho_;
  std::shared_ptr<const std::vector<float>> threshold_;
  Tails tails_;
  std::vector<Token> token_;
  std::vector<uint8_t> read_;
  std::vector<float> next_;
};

class SwapBeliefs : public Beliefs {
 public:
  SwapBeliefs(const PaperLayer& layer, double least, double most) : layer_(layer), least_(least), most_(most), next_(paper_tokens(layer, layer.steps - 1), 0) {}

  void observe(const StepView& step) override {
    const uint32_t n = paper_tokens(layer_, step.step) + 1;
    const uint32_t count = std::min(n - 1, paper_reads(layer_, step.step + 1));
    const uint32_t end = std::min(n, static_cast<uint32_t>(next_.size()));
    const uint32_t latest = n - count;
    // u * count draws with replacement hit a given one of `latest` with 1 - exp(-u * count / latest): the mean over u.
    const double rate = static_cast<double>(count) / latest;
    const double swapped = 1 - (std::exp(-least_ * rate) - std::exp(-most_ * rate)) / (rate * (most_ - least_));
    std::fill(next_.begin(), next_.begin() + latest, static_cast<float>(swapped));
    std::fill(next_.begin() + latest, next_.begin() + end, static_cast<float>(1 - swapped * latest / count));
  }
  [[nodiscard]] std::span<const float> next() const override { return next_; }

 private:
  PaperLayer layer_;
  double least_, most_;
  std::vector<float> next_;
};

class PopularityBeliefs : public Beliefs {
 public:
  PopularityBeliefs(const PaperLayer& layer, std::shared_ptr<const std::vector<float>> weight)
      : layer_(layer), weight_(std::move(weight)), next_(weight_->size(), 0) {}

  void observe(const StepView& step) override {
    // Alarms that ring before `until_` are drawn. It drifts by little: one Newton step each time, more at first.
    const uint32_t n = std::min(paper_tokens(layer_, step.step) + 1, static_cast<uint32_t>(next_.size()));
    const uint32_t count = paper_reads(layer_, step.step + 1);
    const auto fresh = static_cast<double>(static_cast<uint32_t>(layer_.new_tokens * count + 0.5));
    const double members = static_cast<double>(step.page.size());
    const auto stays = static_cast<float>((count - fresh) / members);
    for (int round = step.step == 0 ? 20 : 1; round > 0; --round) {
      double drawn = 0, slope = 0;
      size_t at = 0;
      for (uint32_t i = 0; i < n; ++i) {
        if (at < step.page.size() && step.page[at] == i) {
          next_[i] = stays;
          ++at;
          continue;
        }
        const float later = std::exp(-(*weight_)[i] * until_);
        next_[i] = 1 - later;
        drawn += static_cast<double>(1 - later);
        slope += static_cast<double>((*weight_)[i] * later);
      }
      until_ = std::max(0.0F, until_ + static_cast<float>((fresh - drawn) / slope));
    }
  }
  [[nodiscard]] std::span<const float> next() const override { return next_; }

 private:
  PaperLayer layer_;
  std::shared_ptr<const std::vector<float>> weight_;
  float until_ = 0;
  std::vector<float> next_;
};

}  // namespace

std::unique_ptr<Beliefs> make_score_beliefs(const PaperLayer& layer, const PaperDrift& drift, std::shared_ptr<const std::vector<float>> threshold) {
  return std::make_unique<ScoreBeliefs>(layer, drift, std::move(threshold));
}
std::unique_ptr<Beliefs> make_swap_beliefs(const PaperLayer& layer, double least, double most) { return std::make_unique<SwapBeliefs>(layer, least, most); }
std::unique_ptr<Beliefs> make_popularity_beliefs(const PaperLayer& layer, std::shared_ptr<const std::vector<float>> weight) {
  return std::make_unique<PopularityBeliefs>(layer, std::move(weight));
}

}  // namespace kvt::sim
