// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/workload/paper_beliefs.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace kvt::sim {

namespace {

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

// Assumed-density filter. Of a block of tokens, a Gaussian over what they share, (base, z); of each token, a
// Gaussian over its own (base, z) whose mean is linear in the shared ones. The score is
//   shared base + own base + noise * (shared z + own z) + recency,
// and all that is seen of it is on which side of the threshold it was. That is taken in as the Gaussian
// observation of the score which gives the truncated normal's mean and variance; then OU's law carries z on.
// What it ignores: that the posterior is no Gaussian, and that own parts depend on each other through past
// values of the shared z. Without the blocks (each token by itself) 0.1 to 0.3 percent fewer of the next
// step's reads are among the most probable pages.
class ScoreBeliefs : public Beliefs {
 public:
  ScoreBeliefs(const PaperLayer& layer, const PaperDrift& drift,
               std::shared_ptr<const std::vector<float>> threshold)
      : layer_(layer),
        noise_(static_cast<float>(drift.noise)),
        rho_(static_cast<float>(drift.rho)),
        fresh_(1 - rho_ * rho_),
        recency_(static_cast<float>(drift.recency)),
        threshold_(std::move(threshold)),
        token_(paper_tokens(layer, layer.steps - 1)),
        block_(token_.size() / kPaperBlockTokens + 1),
        read_(token_.size(), 0),
        next_(token_.size(), 0) {}

  void observe(const StepView& step) override {
    const uint32_t n = paper_tokens(layer_, step.step);
    const float threshold = (*threshold_)[step.step];
    const float recency = recency_ / static_cast<float>(n);
    const float recency_next = recency_ / static_cast<float>(n + 1);
    for (const uint32_t page : step.page) read_[page] = 1;
    for (uint32_t begin = 0; begin < n; begin += kPaperBlockTokens) {
      Block& block = block_[begin / kPaperBlockTokens];
      const uint32_t end = std::min(n, begin + kPaperBlockTokens);
      for (uint32_t i = begin; i < end; ++i)
        see(block, token_[i], read_[i] != 0, threshold - recency * static_cast<float>(i));
      const Past past = pass(block);
      for (uint32_t i = begin; i < end; ++i) {
        pass(past, token_[i]);
        const Score score = score_of(block, token_[i]);
        next_[i] = tails_.above((threshold - recency_next * static_cast<float>(i) - score.mean) /
                                std::sqrt(score.var));
      }
    }
    for (const uint32_t page : step.page) read_[page] = 0;
  }
  [[nodiscard]] std::span<const float> next() const override { return next_; }

 private:
  static constexpr auto kSharedVar = static_cast<float>(kPaperSharedVariance);
  static constexpr float kOwnVar = 1 - kSharedVar;

  struct Block {
    float base = 0, z = 0;
    float var_base = kSharedVar, cov = 0, var_z = kSharedVar;
  };
  // Own parts, given the block's: mean = (base, z) + slopes times the block's.
  struct Token {
    float base = 0, z = 0;
    float base_by_base = 0, base_by_z = 0, z_by_base = 0, z_by_z = 0;
    float var_base = kOwnVar, cov = 0, var_z = kOwnVar;
  };
  struct Score {
    float by_base, by_z;          // of the shared parts, own ones following
    float own_base, own_z;        // covariance with the own parts, given the shared ones
    float own_var;                // of the score, given the shared parts
    float shared_base, shared_z;  // covariance with the shared parts
    float mean, var;
  };

  [[nodiscard]] Score score_of(const Block& block, const Token& token) const {
    Score score{};
    score.by_base = 1 + token.base_by_base + noise_ * token.z_by_base;
    score.by_z = noise_ + token.base_by_z + noise_ * token.z_by_z;
    score.own_base = token.var_base + noise_ * token.cov;
    score.own_z = token.cov + noise_ * token.var_z;
    score.own_var = score.own_base + noise_ * score.own_z;
    score.shared_base = block.var_base * score.by_base + block.cov * score.by_z;
    score.shared_z = block.cov * score.by_base + block.var_z * score.by_z;
    score.mean = token.base + noise_ * token.z + score.by_base * block.base + score.by_z * block.z;
    score.var = score.by_base * score.shared_base + score.by_z * score.shared_z + score.own_var;
    return score;
  }

  void see(Block& block, Token& token, bool read, float threshold) const {
    const Score score = score_of(block, token);
    const float sign = read ? 1.0F : -1.0F;
    const float precision = 1 / std::sqrt(score.var);
    const float x = sign * (threshold - score.mean) * precision;
    const float hazard = tails_.hazard(x);
    const float shrink = std::clamp(hazard * (hazard - x), 1e-6F, 0.999F);  // of the score's variance
    const float shift = sign * hazard * precision;
    // The same as a Gaussian observation: noise of variance var * (1 / shrink - 1), and shift * var / shrink
    // off the mean. Own parts, given the shared ones, take the part of it that the shared ones' own distance
    // leaves.
    const float gain = 1 / (score.own_var * shrink + score.var * (1 - shrink));
    const float gain_base = score.own_base * shrink * gain;
    const float gain_z = score.own_z * shrink * gain;
    const float surprise = shift * score.var * gain;
    const float rest = score.by_base * block.base + score.by_z * block.z;
    token.base += score.own_base * surprise + gain_base * rest;
    token.z += score.own_z * surprise + gain_z * rest;
    token.base_by_base -= gain_base * score.by_base;
    token.base_by_z -= gain_base * score.by_z;
    token.z_by_base -= gain_z * score.by_base;
    token.z_by_z -= gain_z * score.by_z;
    token.var_base -= gain_base * score.own_base;
    token.cov -= gain_base * score.own_z;
    token.var_z -= gain_z * score.own_z;
    const float gone = shrink * precision * precision;
    block.base += score.shared_base * shift;
    block.z += score.shared_z * shift;
    block.var_base = std::max(kLeastVar, block.var_base - score.shared_base * score.shared_base * gone);
    block.cov -= score.shared_base * score.shared_z * gone;
    block.var_z = std::max(kLeastVar, block.var_z - score.shared_z * score.shared_z * gone);
  }

  // The block's last z, given its base and its new z: mean = rest + by_base * base + by_z * z.
  struct Past {
    float rest, by_base, by_z, var;
  };
  Past pass(Block& block) const {
    const float base = block.base;
    const float z = block.z;
    const float last_cov = block.cov;
    const float last_var = block.var_z;
    block.z = rho_ * z;
    block.cov = rho_ * last_cov;
    block.var_z = rho_ * rho_ * last_var + kSharedVar * fresh_;
    const float determinant = block.var_base * block.var_z - block.cov * block.cov;
    Past past{};
    past.by_base = (last_cov * block.var_z - rho_ * last_var * block.cov) / determinant;
    past.by_z = (rho_ * last_var * block.var_base - last_cov * block.cov) / determinant;
    past.rest = z - past.by_base * base - past.by_z * block.z;
    past.var = std::max(0.0F, last_var - past.by_base * last_cov - past.by_z * rho_ * last_var);
    return past;
  }
  void pass(const Past& past, Token& token) const {
    token.base += token.base_by_z * past.rest;
    token.z += token.z_by_z * past.rest;
    token.base_by_base += token.base_by_z * past.by_base;
    token.z_by_base += token.z_by_z * past.by_base;
    token.var_base += token.base_by_z * token.base_by_z * past.var;
    token.cov += token.base_by_z * token.z_by_z * past.var;
    token.var_z += token.z_by_z * token.z_by_z * past.var;
    token.base_by_z *= past.by_z;
    token.z_by_z *= past.by_z;
    // Its own z moves on.
    token.z *= rho_;
    token.z_by_base *= rho_;
    token.z_by_z *= rho_;
    token.cov *= rho_;
    token.var_z = rho_ * rho_ * token.var_z + kOwnVar * fresh_;
  }

  static constexpr float kLeastVar = 1e-4F;  // rounding must not make it negative
  PaperLayer layer_;
  float noise_, rho_, fresh_, recency_;
  std::shared_ptr<const std::vector<float>> threshold_;
  Tails tails_;
  std::vector<Token> token_;
  std::vector<Block> block_;
  std::vector<uint8_t> read_;
  std::vector<float> next_;
};

class SwapBeliefs : public Beliefs {
 public:
  SwapBeliefs(const PaperLayer& layer, double least, double most)
      : layer_(layer), least_(least), most_(most), next_(paper_tokens(layer, layer.steps - 1), 0) {}

  void observe(const StepView& step) override {
    const uint32_t n = paper_tokens(layer_, step.step) + 1;
    const uint32_t count = std::min(n - 1, paper_reads(layer_, step.step + 1));
    const uint32_t end = std::min(n, static_cast<uint32_t>(next_.size()));
    const uint32_t latest = n - count;
    // u * count draws with replacement hit a given one of `latest` with 1 - exp(-u * count / latest): the
    // mean over u.
    const double rate = static_cast<double>(count) / latest;
    const double swapped =
        1 - (std::exp(-least_ * rate) - std::exp(-most_ * rate)) / (rate * (most_ - least_));
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
    // Alarms that ring before `until_` are drawn. It drifts by little: one Newton step each time, more at
    // first.
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

std::unique_ptr<Beliefs> make_score_beliefs(const PaperLayer& layer, const PaperDrift& drift,
                                            std::shared_ptr<const std::vector<float>> threshold) {
  return std::make_unique<ScoreBeliefs>(layer, drift, std::move(threshold));
}
std::unique_ptr<Beliefs> make_swap_beliefs(const PaperLayer& layer, double least, double most) {
  return std::make_unique<SwapBeliefs>(layer, least, most);
}
std::unique_ptr<Beliefs> make_popularity_beliefs(const PaperLayer& layer,
                                                 std::shared_ptr<const std::vector<float>> weight) {
  return std::make_unique<PopularityBeliefs>(layer, std::move(weight));
}

}  // namespace kvt::sim
