// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/train.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numbers>
#include <thread>

#include "tools/kvtier-decode/errors.h"
#include "tools/kvtier-decode/gradient.h"
#include "tools/kvtier-decode/random.h"

namespace kvt::decode {
namespace {

constexpr size_t kReportSteps = 50;
constexpr size_t kWarmUpSteps = 30;
constexpr size_t kHeldOutPart = 10;  ///< one in ten bytes, at the end of the text
constexpr size_t kHeldOutWindowsMax = 16;
constexpr size_t kWindowsMin = 10;
constexpr float kGradientNormMax = 1;

class Adam {
 public:
  explicit Adam(size_t weights) : first_(weights), second_(weights) {}

  void update(std::vector<float>& weights, const std::vector<float>& gradient, float rate) {
    constexpr float kFirst = 0.9f;
    constexpr float kSecond = 0.98f;
    constexpr float kEpsilon = 1e-8f;
    first_power_ *= static_cast<double>(kFirst);
    second_power_ *= static_cast<double>(kSecond);
    const float norm = std::sqrt(dot(gradient.data(), gradient.data(), gradient.size()));
    const float clip = norm > kGradientNormMax ? kGradientNormMax / norm : 1;
    const auto first_correction = static_cast<float>(1 / (1 - first_power_));
    const auto second_correction = static_cast<float>(1 / (1 - second_power_));
    for (size_t i = 0; i < weights.size(); ++i) {
      const float g = gradient[i] * clip;
      first_[i] = kFirst * first_[i] + (1 - kFirst) * g;
      second_[i] = kSecond * second_[i] + (1 - kSecond) * g * g;
      weights[i] -=
          rate * first_[i] * first_correction / (std::sqrt(second_[i] * second_correction) + kEpsilon);
    }
  }

 private:
  std::vector<float> first_;
  std::vector<float> second_;
  double first_power_ = 1;
  double second_power_ = 1;
};

/// A thread's part of every batch.
struct Part {
  Part(const Shape& shape, size_t context, size_t weights) : work(shape, context), gradient(weights) {}
  Gradient work;
  std::vector<float> gradient;
  double loss = 0;
};

double rate_at(const TrainOptions& options, size_t step) {
  if (step < kWarmUpSteps) return options.learning_rate * static_cast<double>(step + 1) / kWarmUpSteps;
  const double way = static_cast<double>(step - kWarmUpSteps) /
                     static_cast<double>(std::max<size_t>(options.steps - kWarmUpSteps, 1));
  return options.learning_rate * (0.1 + 0.9 * 0.5 * (1 + std::cos(std::numbers::pi * std::min(way, 1.0))));
}

}  // namespace

TrainResult train(Model& model, std::string_view text, const TrainOptions& options,
                  const std::function<void(size_t step, float loss)>& on_step) {
  const auto begin = std::chrono::steady_clock::now();
  const size_t window = options.context + 1;
  if (text.size() < kWindowsMin * window)
    throw UsageError(
        fmt::format("a text of {} bytes to train on: expected at least {}, for windows of {} tokens",
                    text.size(), kWindowsMin * window, window));
  std::vector<Token> tokens = tokens_of(text);
  const size_t held_out = std::max(tokens.size() / kHeldOutPart, window);
  const std::span<const Token> learn(tokens.data(), tokens.size() - held_out);
  const std::span<const Token> test(tokens.data() + learn.size(), held_out);

  const size_t threads = std::clamp<size_t>(options.threads, 1, options.batch);
  std::vector<Part> parts;
  parts.reserve(threads);
  for (size_t i = 0; i < threads; ++i) parts.emplace_back(model.shape, options.context, model.weights.size());
  const auto test_loss = [&] {
    double sum = 0;
    const size_t windows = std::min(test.size() / window, kHeldOutWindowsMax);
    for (size_t i = 0; i < windows; ++i)
      sum += static_cast<double>(parts[0].work.loss(model, test.subspan(i * window, window)));
    return static_cast<float>(sum / static_cast<double>(windows));
  };

  TrainResult result;
  result.loss_before = test_loss();
  Random random(options.seed);
  Adam adam(model.weights.size());
  std::vector<size_t> starts(options.batch);
  double loss = 0;
  size_t since = 0;
  for (size_t step = 0; step < options.steps; ++step) {
    for (size_t& start : starts) start = random.below(learn.size() - window + 1);
    const auto work = [&](size_t part) {
      Part& mine = parts[part];
      std::fill(mine.gradient.begin(), mine.gradient.end(), 0.0f);
      mine.loss = 0;
      for (size_t i = part; i < options.batch; i += threads)
        mine.loss += static_cast<double>(mine.work.loss_and_gradient(
            model, learn.subspan(starts[i], window), 1 / static_cast<float>(options.batch), mine.gradient));
    };
    {
      std::vector<std::jthread> others;
      for (size_t part = 1; part < threads; ++part) others.emplace_back(work, part);
      work(0);
    }
    for (size_t part = 1; part < threads; ++part) {
      add_scaled(parts[0].gradient.data(), parts[part].gradient.data(), 1, model.weights.size());
      parts[0].loss += parts[part].loss;
    }
    adam.update(model.weights, parts[0].gradient, static_cast<float>(rate_at(options, step)));
    loss += parts[0].loss / static_cast<double>(options.batch);
    if (++since < kReportSteps && step + 1 < options.steps) continue;
    if (on_step) on_step(step + 1, static_cast<float>(loss / static_cast<double>(since)));
    loss = 0;
    since = 0;
  }
  result.loss_after = test_loss();
  result.tokens = options.steps * options.batch * options.context;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

}  // namespace kvt::decode
