// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/workload/paper.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

#include "tools/kvtiersim/model/random.h"
#include "tools/kvtiersim/model/ziggurat.h"
#include "tools/kvtiersim/workload/paper_beliefs.h"

namespace kvt::sim {

namespace {

constexpr double kShared = kPaperSharedVariance;
constexpr uint32_t kBlockTokens = kPaperBlockTokens;
constexpr double kNoiseMax = 4;  // beyond it more noise makes no more new tokens worth speaking of

// ---- Law of two successive scores ----

double above(double x) { return 0.5 * std::erfc(x * M_SQRT1_2); }  // of a standard normal

// P(X > a and Y > a), correlation r, by Simpson's rule over X.
double both_above(double a, double r) {
  constexpr int kIntervals = 160;
  const double end = std::max(a, 0.0) + 8;
  const double start = std::max(a, -8.0);
  const double width = (end - start) / kIntervals;
  const double spread = std::sqrt(1 - r * r);
  double sum = 0;
  for (int i = 0; i <= kIntervals; ++i) {
    const double x = start + i * width;
    const double weight = i == 0 || i == kIntervals ? 1 : i % 2 == 1 ? 4 : 2;
    sum += weight * std::exp(-x * x / 2) * above((a - r * x) / spread);
  }
  return sum * width / 3 / std::sqrt(2 * M_PI);
}

// ---- Generators: each names the tokens that step n reads, ascending ----

class Generator {
 public:
  virtual ~Generator() = default;
  virtual void read(uint32_t step, std::vector<uint32_t>& tokens) = 0;
};

// The `count` largest of scores[0 .. n); ascending indices.
class Selection {
 public:
  void operator()(const std::vector<float>& scores, uint32_t n, uint32_t count,
                  std::vector<uint32_t>& largest) {
    const float least = threshold(scores, n, count);
    largest.resize(n + size_t{1});
    size_t found = 0;
    for (uint32_t i = 0; i < n; ++i) {
      largest[found] = i;
      found += scores[i] >= least ? 1 : 0;
    }
    largest.resize(std::min<size_t>(found, count));  // more only where scores tie
    last_ = least;
  }
  [[nodiscard]] float last() const { return last_; }

 private:
  // The count-th largest. It moves little between steps: only scores near the last one are put in order.
  float threshold(const std::vector<float>& scores, uint32_t n, uint32_t count) {
    constexpr float kNear = 0.03F;
    near_.resize(n + size_t{1});
    size_t above = 0;
    size_t found = 0;
    const float high = last_ + kNear;
    const float low = last_ - kNear;
    for (uint32_t i = 0; i < n; ++i) {
      const float score = scores[i];
      above += score > high ? 1 : 0;
      near_[found] = score;
      found += score >= low && score <= high ? 1 : 0;
    }
    if (above >= count || above + found < count) {
      near_.assign(scores.begin(), scores.begin() + n);
      above = 0;
      found = n;
    }
    const auto least = near_.begin() + static_cast<std::ptrdiff_t>(count - above - 1);
    std::nth_element(near_.begin(), least, near_.begin() + static_cast<std::ptrdiff_t>(found),
                     std::greater<>());
    return *least;
  }

  float last_ = 0;
  std::vector<float> near_;
};

class Scores : public Generator {
 public:
  Scores(const PaperLayer& layer, const PaperDrift& drift, Random random,
         std::shared_ptr<std::vector<float>> threshold)
      : layer_(layer),
        rho_(static_cast<float>(drift.rho)),
        fresh_(static_cast<float>(std::sqrt(1 - drift.rho * drift.rho))),
        recency_(static_cast<float>(drift.recency)),
        own_(static_cast<float>(drift.noise * std::sqrt(1 - kShared))),
        block_(static_cast<float>(drift.noise * std::sqrt(kShared))),
        random_(random),
        threshold_(std::move(threshold)) {}

  void read(uint32_t step, std::vector<uint32_t>& tokens) override {
    const uint32_t n = paper_tokens(layer_, step);
    for (float& z : z_) z = rho_ * z + fresh_ * normal();
    for (float& z : block_z_) z = rho_ * z + fresh_ * normal();
    while (z_.size() < n) {
      if (z_.size() % kBlockTokens == 0) {
        block_base_.push_back(static_cast<float>(std::sqrt(kShared)) * normal());
        block_z_.push_back(normal());
      }
      base_.push_back(block_base_.back() + static_cast<float>(std::sqrt(1 - kShared)) * normal());
      z_.push_back(normal());
    }
    scores_.resize(n);
    const float recency = recency_ / static_cast<float>(n);
    for (uint32_t begin = 0; begin < n; begin += kBlockTokens) {
      const float block = block_ * block_z_[begin / kBlockTokens];
      for (uint32_t i = begin; i < std::min(n, begin + kBlockTokens); ++i)
        scores_[i] = base_[i] + own_ * z_[i] + block + recency * static_cast<float>(i);
    }
    select_(scores_, n, paper_reads(layer_, step), tokens);
    threshold_->push_back(select_.last());
  }

 private:
  float normal() { return static_cast<float>(ziggurat_(random_)); }

  PaperLayer layer_;
  float rho_, fresh_, recency_, own_, block_;
  Random random_;
  Ziggurat ziggurat_;
  Selection select_;
  std::vector<float> base_, z_, block_base_, block_z_, scores_;
  std::shared_ptr<std::vector<float>> threshold_;
};

class Swaps : public Generator {
 public:
  Swaps(const PaperLayer& layer, double least, double most, Random random)
      : layer_(layer), least_(least), most_(most), random_(random) {}

  void read(uint32_t step, std::vector<uint32_t>& tokens) override {
    const uint32_t n = paper_tokens(layer_, step);
    const uint32_t count = paper_reads(layer_, step);
    const double share = least_ + (most_ - least_) * random_.uniform();
    const auto draws = static_cast<uint32_t>(share * count + 0.5);
    drawn_.assign(n - count, 0);
    uint32_t swapped = 0;
    for (uint32_t i = 0; i < draws; ++i) {
      uint8_t& drawn = drawn_[random_.below(n - count)];
      swapped += 1U - drawn;
      drawn = 1;
    }
    tokens.clear();
    for (uint32_t i = 0; i < n - count; ++i)
      if (drawn_[i] != 0) tokens.push_back(i);
    // Of the latest, those that are not swapped: all sets alike.
    uint32_t stay = count - swapped;
    for (uint32_t i = n - count; i < n; ++i) {
      if (random_.below(n - i) >= stay) continue;
      tokens.push_back(i);
      --stay;
    }
  }

 private:
  PaperLayer layer_;
  double least_, most_;
  Random random_;
  std::vector<uint8_t> drawn_;
};

class Popularity : public Generator {
 public:
  Popularity(const PaperLayer& layer, Random random, std::shared_ptr<std::vector<float>> weight)
      : layer_(layer), random_(random), weight_(std::move(weight)) {
    const uint32_t all = paper_tokens(layer, layer.steps - 1);
    float block = 0;
    for (uint32_t i = 0; i < all; ++i) {
      if (i % kBlockTokens == 0) block = static_cast<float>(std::sqrt(kShared)) * normal();
      weight_->push_back(std::exp(block + static_cast<float>(std::sqrt(1 - kShared)) * normal()));
    }
    state_.assign(all, State::kOut);
  }

  void read(uint32_t step, std::vector<uint32_t>& tokens) override {
    const uint32_t n = paper_tokens(layer_, step);
    const uint32_t count = paper_reads(layer_, step);
    if (step > 0) {
      // So that the share of new ones is exact: those that stay are what is left of `count`.
      const auto fresh = static_cast<uint32_t>(layer_.new_tokens * count + 0.5);
      size_t left = members_;
      size_t drop = members_ + fresh - count;
      for (uint32_t i = 0; i < n && drop > 0; ++i) {
        if (state_[i] != State::kIn) continue;
        if (random_.below(left--) >= drop) continue;
        state_[i] = State::kDropped;
        --drop;
        --members_;
      }
    }
    draw(n, count - members_);
    tokens.clear();
    for (uint32_t i = 0; i < n; ++i) {
      if (state_[i] == State::kIn)
        tokens.push_back(i);
      else
        state_[i] = State::kOut;
    }
  }

 private:
  enum class State : uint8_t { kOut, kIn, kDropped };

  // Without replacement, by weight: the earliest of independent exponential alarms (Efraimidis and Spirakis).
  void draw(uint32_t n, size_t count) {
    alarms_.clear();
    for (uint32_t i = 0; i < n; ++i)
      if (state_[i] == State::kOut)
        alarms_.emplace_back(static_cast<float>(-std::log(1 - random_.uniform())) / (*weight_)[i], i);
    if (count < alarms_.size())
      std::nth_element(alarms_.begin(), alarms_.begin() + static_cast<std::ptrdiff_t>(count), alarms_.end());
    for (size_t k = 0; k < count; ++k) state_[alarms_[k].second] = State::kIn;
    members_ += count;
  }
  float normal() { return static_cast<float>(ziggurat_(random_)); }

  PaperLayer layer_;
  Random random_;
  Ziggurat ziggurat_;
  std::shared_ptr<std::vector<float>> weight_;
  std::vector<State> state_;
  size_t members_ = 0;
  std::vector<std::pair<float, uint32_t>> alarms_;
};

void check(const PaperLayer& layer) {
  const auto bad = [](const char* what) { throw std::invalid_argument(std::string("paper trace: ") + what); };
  if (!(layer.sparsity > 0 && layer.sparsity < 1)) bad("sparsity: more than 0 and less than 1 is expected");
  if (layer.prompt == 0 || layer.steps == 0) bad("a prompt and at least one step are expected");
  if (layer.page_tokens == 0 || layer.token_bytes == 0)
    bad("pages of at least one token and one byte are expected");
  if (layer.noise == PaperNoise::kMemoryless &&
      !(layer.new_tokens > 0 && layer.new_tokens <= std::min(1.0, layer.sparsity / (1 - layer.sparsity))))
    bad("new tokens: more than 0 and no more than the tokens that the step before did not read are expected");
}

}  // namespace

double paper_new_share(double sparsity, const PaperDrift& drift) {
  constexpr int kPositions = 48;
  const double spread = std::sqrt(1 + drift.noise * drift.noise);
  const double r = (1 + drift.rho * drift.noise * drift.noise) / (spread * spread);
  const auto at = [&](double threshold, int i) {
    return (threshold - drift.recency * (i + 0.5) / kPositions) / spread;
  };
  double low = -10 * spread, high = 10 * spread + drift.recency;
  for (int k = 0; k < 60; ++k) {
    const double middle = (low + high) / 2;
    double read = 0;
    for (int i = 0; i < kPositions; ++i) read += above(at(middle, i)) / kPositions;
    (read > 1 - sparsity ? low : high) = middle;
  }
  double both = 0;
  for (int i = 0; i < kPositions; ++i) both += both_above(at(low, i), r) / kPositions;
  return 1 - both / (1 - sparsity);
}

PaperDrift solve_paper_drift(double sparsity, double new_tokens) {
  if (!(new_tokens > 0 && new_tokens < 1))
    throw std::invalid_argument("new tokens: more than 0 and less than 100 percent are expected");
  const auto solve = [&](double low, double high, auto rising) {
    for (int i = 0; i < 40; ++i) {
      const double middle = (low + high) / 2;
      (rising(middle) < new_tokens ? low : high) = middle;
    }
    return (low + high) / 2;
  };
  const auto with = [](double noise, double rho) { return PaperDrift{noise, rho, PaperDrift{}.recency}; };
  const double rho = PaperDrift{}.rho;
  const auto share = [&](double noise, double less) {
    return paper_new_share(sparsity, with(noise, rho - less));
  };
  if (share(kNoiseMax, 0) >= new_tokens)
    return with(solve(0, kNoiseMax, [&](double noise) { return share(noise, 0); }), rho);
  if (share(kNoiseMax, rho) < new_tokens)
    throw std::invalid_argument("new tokens: at this sparsity even scores without memory have only " +
                                std::to_string(100 * share(kNoiseMax, rho)) + " percent");
  return with(kNoiseMax, rho - solve(0, rho, [&](double less) { return share(kNoiseMax, less); }));
}

PaperNoise paper_noise(const std::string& name) {
  constexpr std::array<std::pair<const char*, PaperNoise>, 5> kNames{
      {{"low", PaperNoise::kLow},
       {"actual", PaperNoise::kActual},
       {"high", PaperNoise::kHigh},
       {"drift", PaperNoise::kDrift},
       {"memoryless", PaperNoise::kMemoryless}}};
  for (const auto& [text, noise] : kNames)
    if (name == text) return noise;
  throw std::invalid_argument("no variation or noise \"" + name +
                              "\"; expected low, actual, high, drift or memoryless");
}

PaperWorkload make_paper_layer(const PaperLayer& layer) {
  check(layer);
  PaperWorkload made;
  Trace& trace = made.workload.trace;
  const Random random(layer.seed * 0x9e3779b97f4a7c15ULL + layer.layer);
  const auto beliefs = [&](auto make) {
    if (layer.page_tokens == 1)
      made.workload.beliefs = std::move(make);  // the law of larger pages: not worked out
  };
  std::unique_ptr<Generator> generator;
  switch (layer.noise) {
    case PaperNoise::kActual:
    case PaperNoise::kDrift: {
      const PaperDrift drift = layer.noise == PaperNoise::kActual
                                   ? kPaperActual
                                   : solve_paper_drift(layer.sparsity, layer.new_tokens);
      auto threshold = std::make_shared<std::vector<float>>();
      generator = std::make_unique<Scores>(layer, drift, random, threshold);
      beliefs([layer, drift, threshold] { return make_score_beliefs(layer, drift, threshold); });
      break;
    }
    case PaperNoise::kLow:
    case PaperNoise::kHigh: {
      const double least = layer.noise == PaperNoise::kLow ? 0.03 : 0;
      const double most = layer.noise == PaperNoise::kLow ? 0.10 : 1;
      generator = std::make_unique<Swaps>(layer, least, most, random);
      beliefs([layer, least, most] { return make_swap_beliefs(layer, least, most); });
      break;
    }
    case PaperNoise::kMemoryless: {
      auto weight = std::make_shared<std::vector<float>>();
      generator = std::make_unique<Popularity>(layer, random, weight);
      beliefs([layer, weight] { return make_popularity_beliefs(layer, weight); });
      break;
    }
  }

  const uint32_t tokens = paper_tokens(layer, layer.steps - 1);
  trace.name = "paper, layer " + std::to_string(layer.layer) + ", seed " + std::to_string(layer.seed);
  trace.page_bytes = uint64_t{layer.token_bytes} * layer.page_tokens;
  trace.pages = (tokens + layer.page_tokens - 1) / layer.page_tokens;
  trace.fixed_read_bytes = kPaperWeightBytes;
  trace.written_bytes = layer.token_bytes;
  trace.born_step.resize(trace.pages);
  for (uint32_t page = 0; page < trace.pages; ++page) {
    const uint32_t token = page * layer.page_tokens;
    trace.born_step[page] = token < layer.prompt ? 0 : token - layer.prompt + 1;
  }
  uint64_t reads = 0;
  for (uint32_t n = 0; n < layer.steps; ++n) reads += paper_reads(layer, n);
  made.token_reads = reads;
  if (layer.page_tokens == 1) trace.page.reserve(reads);
  trace.first.reserve(layer.steps + size_t{1});

  std::vector<uint8_t> before(tokens, 0), now(tokens, 0);
  std::vector<uint32_t> read;
  double fresh_sum = 0, read_sum = 0;
  for (uint32_t n = 0; n < layer.steps; ++n) {
    generator->read(n, read);
    std::fill(now.begin(), now.end(), uint8_t{0});
    uint32_t known = 0;
    for (const uint32_t token : read) {
      now[token] = 1;
      known += before[token];
    }
    std::swap(before, now);
    if (n > 0) fresh_sum += 1 - static_cast<double>(known) / static_cast<double>(read.size());
    read_sum += static_cast<double>(read.size()) / paper_tokens(layer, n);
    const size_t begin = trace.page.size();
    for (const uint32_t token : read) {
      const uint32_t page = token / layer.page_tokens;
      if (trace.page.size() == begin || trace.page.back() != page) trace.page.push_back(page);
    }
    trace.end_step();
  }
  made.new_share = layer.steps > 1 ? fresh_sum / (layer.steps - 1) : 0;
  made.read_share = read_sum / layer.steps;
  trace.finish();
  return made;
}

}  // namespace kvt::sim
