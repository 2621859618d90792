// SPDX-License-Identifier: Apache-2.0
//
// Training: the gradient is the gradient, the loss falls, the trained model decodes what it has learnt, and
// its attention is not noise.
#include "tools/kvtier-decode/train.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "tests/decode/setup.h"
#include "tests/support/random.h"
#include "tools/kvtier-decode/errors.h"
#include "tools/kvtier-decode/gradient.h"

namespace kvt::test {
namespace {

using decode::Place;
using decode::Shape;
using decode::Token;

TEST(Gradient, IsWhatSmallChangesSay) {
  const Shape shape{.layers = 2, .width = 12, .heads = 4, .kv_heads = 2, .head_dim = 6, .hidden = 10};
  constexpr size_t kContext = 9;
  decode::Model model(shape, 3);
  decode::Gradient work(shape, kContext);
  Random random;
  std::vector<Token> tokens;
  for (size_t i = 0; i <= kContext; ++i)
    tokens.push_back(static_cast<Token>(random.below(decode::kVocabulary)));
  std::vector<float> gradient(model.weights.size());
  const float loss = work.loss_and_gradient(model, tokens, 1, gradient);
  EXPECT_NEAR(static_cast<double>(loss), std::log(257.0), 2);

  // Along random directions within each matrix: single floats are too small to be told from rounding.
  const decode::WeightPlaces& places = model.places;
  std::vector<size_t> begins{places.embedding, places.final_norm, places.head, places.count};
  for (const auto& layer : places.layers)
    begins.insert(begins.end(), {layer.attention_norm, layer.query, layer.key, layer.value, layer.output,
                                 layer.ffn_norm, layer.gate, layer.up, layer.down});
  std::sort(begins.begin(), begins.end());
  const std::vector<float> weights = model.weights;
  for (size_t part = 0; part + 1 < begins.size(); ++part) {
    std::vector<double> direction(begins[part + 1] - begins[part]);
    double slope = 0;
    double norm = 0;
    for (size_t i = 0; i < direction.size(); ++i) {
      // Half along the gradient, so that the slope is not lost in noise; half anywhere.
      const auto g = static_cast<double>(gradient[begins[part] + i]);
      direction[i] = g + std::abs(g) * (static_cast<double>(random.below(2001)) / 1000 - 1);
      slope += direction[i] * g;
      norm += direction[i] * direction[i];
    }
    ASSERT_GT(norm, 0) << "part " << part << " has no gradient";
    const double step = 2e-2 / std::sqrt(norm);
    const auto loss_at = [&](double way) {
      model.weights = weights;
      for (size_t i = 0; i < direction.size(); ++i)
        model.weights[begins[part] + i] += static_cast<float>(way * direction[i]);
      return static_cast<double>(work.loss(model, tokens));
    };
    const double found = (loss_at(step) - loss_at(-step)) / (2 * step);
    EXPECT_NEAR(found / slope, 1, 0.03) << "part " << part << " of " << begins.size() - 1;
  }
}

/// The matrices of training and the steps of decoding are one model.
TEST(Gradient, SeesTheModelThatDecodes) {
  const auto tokens = decode::tokens_of(text_of_words(40, 9));
  decode::Gradient work(test_model().shape, tokens.size() - 1);
  work.loss(test_model(), tokens);
  decode::run_once(
      test_model(), tokens, run_options("", Place::kPrivate, "dense", 1),
      [&](const decode::StepEvent& event) {
        if (event.position + 1 >= tokens.size()) return;
        std::vector<float> probabilities(event.logits.begin(), event.logits.end());
        decode::softmax(probabilities.data(), probabilities.size());
        for (size_t i = 0; i < probabilities.size(); ++i)
          ASSERT_NEAR(static_cast<double>(probabilities[i]),
                      static_cast<double>(work.probabilities()[event.position * decode::kVocabulary + i]),
                      1e-5);
      });
}

decode::TrainOptions small_training() {
  decode::TrainOptions options;
  options.steps = 150;
  options.context = 192;
  options.batch = 2;
  options.learning_rate = 6e-3;
  return options;
}

TEST(Training, MakesAModelWhoseAttentionIsNotNoise) {
  const Shape shape{.layers = 2, .width = 32, .heads = 4, .kv_heads = 2, .head_dim = 8, .hidden = 64};
  const std::string text = text_of_words(20000, 21);
  decode::Model model(shape, 1);
  decode::Model again(shape, 1);
  std::vector<float> losses;
  const auto trained =
      decode::train(model, text, small_training(), [&](size_t, float loss) { losses.push_back(loss); });
  EXPECT_EQ(losses.size(), 3u);
  EXPECT_GT(trained.loss_before, 4.5f);
  EXPECT_LT(trained.loss_after, 1.3f);
  EXPECT_LT(trained.loss_after, trained.loss_before / 3);
  std::printf("held-out loss %.3f -> %.3f in %.2f s\n", static_cast<double>(trained.loss_before),
              static_cast<double>(trained.loss_after), trained.seconds);

  decode::TrainOptions one_thread = small_training();
  one_thread.steps = 2;
  decode::train(again, text, one_thread, {});
  decode::Model twice(shape, 1);
  decode::train(twice, text, one_thread, {});
  EXPECT_EQ(again.weights, twice.weights) << "the same text and seed give the same weights";

  // It writes words of the text, and looks where they are: more than uniform attention would.
  auto options = run_options("", Place::kPrivate, "dense", 100);
  options.mass_pages = 1;
  const auto prompt = decode::tokens_of(text_of_words(90, 22));
  const decode::Run run = decode::run_once(model, prompt, options, {});
  const std::string decoded = decode::text_of(run.result.tokens, prompt.size());
  EXPECT_GE(std::count(decoded.begin(), decoded.end(), ' '), 8) << decoded;
  ASSERT_GT(run.mass.samples, 0u);
  const double in_pages = run.mass.in_pages / static_cast<double>(run.mass.samples);
  const double of_tokens = run.mass.of_tokens / static_cast<double>(run.mass.samples);
  std::printf("attention in the pages of topk:1: %.3f, of tokens %.3f; decoded: %s\n", in_pages, of_tokens,
              decoded.c_str());
  EXPECT_GT(in_pages, of_tokens * 1.3);

  // And the trained one in an arena, under moves.
  World world = decode_world("churn");
  world.planes = 2;
  Daemon daemon(world);
  for (const char* const attention : {"dense", "topk:4"}) {
    for (const Place place : {Place::kNative, Place::kConnector}) {
      auto in_arena = run_options(daemon.folder(), place, attention, 100);
      decode::Reference reference;
      decode::run_reference(model, prompt, in_arena, reference);
      Comparison comparison(reference);
      decode::run_once(model, prompt, in_arena, [&](const decode::StepEvent& event) { comparison(event); });
      EXPECT_EQ(comparison.difference(), "");
      EXPECT_GE(comparison.steps(), 100u);
    }
  }
}

TEST(Training, ATextThatIsTooShort) {
  decode::Model model(Shape{}, 1);
  try {
    decode::train(model, "short", small_training(), {});
    FAIL();
  } catch (const decode::UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("5 bytes to train on: expected at least 1930"),
              std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace kvt::test
