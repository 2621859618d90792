// SPDX-License-Identifier: Apache-2.0
//
// A fixture that decodes over a cache and compares every step with private memory, for each kind of attention and both
// modes; and ways to wait until pages have moved.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/decode/setup.h"

namespace kvt::test {

inline constexpr size_t kPromptBytes = 330;  // 20 full blocks of 16, and some
inline constexpr size_t kPromptBlocks = (kPromptBytes + 1) / 16;
inline constexpr size_t kTokens = 120;

struct Case {
  const char* attention;
  decode::Place place;
};

inline std::string name_of_case(const ::testing::TestParamInfo<Case>& info) {
  return std::string(info.param.attention == std::string("dense") ? "Dense" : "TopK") +
         (info.param.place == decode::Place::kNative ? "Native" : "Connector");
}

inline auto all_cases() {
  using decode::Place;
  return ::testing::Values(Case{"dense", Place::kNative}, Case{"topk:4", Place::kNative},
                           Case{"dense", Place::kConnector}, Case{"topk:4", Place::kConnector});
}

class Caches : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    prompt_ = decode::tokens_of(text_of_words(kPromptBytes, 11));
    expected_ = decode::run_reference(test_model(), prompt_, options(""), reference_);
    ASSERT_EQ(expected_.result.tokens.size(), prompt_.size() + kTokens);
  }

  [[nodiscard]] static bool native() { return GetParam().place == decode::Place::kNative; }
  [[nodiscard]] static decode::RunOptions options(const std::string& folder) {
    return run_options(folder, GetParam().place, GetParam().attention, kTokens);
  }
  [[nodiscard]] static decode::KvLayout layout() { return {test_model().shape, 16}; }
  [[nodiscard]] static std::unique_ptr<decode::KvCache> cache(const decode::RunOptions& options) {
    return decode::make_cache(test_model(), options, kPromptBytes + 1 + kTokens);
  }
  /// Decodes over `cache`, comparing every step; `then` is called after each.
  decode::DecodeResult decode_and_compare(
      decode::KvCache& cache, const decode::RunOptions& options,
      const std::function<void(const decode::StepEvent&)>& then = {}) const {
    Comparison comparison(reference_);
    decode::DecodeOptions decode_options;
    decode_options.attention = options.attention;
    decode_options.count = options.tokens;
    decode_options.on_step = [&](const decode::StepEvent& event) {
      comparison(event);
      if (then) then(event);
    };
    decode::DecodeResult result = decode::decode(test_model(), layout(), cache, prompt_, decode_options);
    EXPECT_EQ(comparison.difference(), "");
    EXPECT_GE(comparison.steps(), kTokens);
    EXPECT_EQ(result.tokens, expected_.result.tokens);
    EXPECT_EQ(result.logits, expected_.result.logits) << "digest of all logits' bits";
    return result;
  }
  /// Decodes while the daemon moves every page, inside of steps and between them; then over what was left.
  void churn();

  std::vector<decode::Token> prompt_;
  decode::Reference reference_;
  decode::Run expected_;
};

inline double moves_of(const Daemon& daemon) {
  return daemon.number("status", "/arenas/0/moves/promoted") +
         daemon.number("status", "/arenas/0/moves/demoted_copy") +
         daemon.number("status", "/arenas/0/moves/demoted_free");
}

inline void wait_for_moves(const Daemon& daemon, double count) {
  const double before = moves_of(daemon);
  ASSERT_TRUE(eventually([&] { return moves_of(daemon) >= before + count; }))
      << daemon.control("{\"command\":\"arenas\"}");
}

/// A cache whose steps stay open, every now and then, until the daemon has moved pages: what was resolved
/// before must be readable all the same.
class MovesInSteps : public decode::KvCache {
 public:
  MovesInSteps(std::unique_ptr<decode::KvCache> inner, const Daemon& daemon)
      : inner_(std::move(inner)), daemon_(daemon) {}
  size_t prepare(std::span<const decode::Token> tokens) override {
    return position_ = inner_->prepare(tokens);
  }
  decode::KvView begin_step() override {
    const decode::KvView view = inner_->begin_step();
    constexpr size_t kEvery = 16;
    if (position_ > kPromptBytes && position_ % kEvery == 0) {
      wait_for_moves(daemon_, 30);
      ++waits_;
    }
    return view;
  }
  void end_step(std::span<const decode::Token> tokens, std::span<const uint32_t> blocks_read) override {
    inner_->end_step(tokens, blocks_read);
  }
  [[nodiscard]] decode::CacheCounts counts() const override { return inner_->counts(); }
  decode::KvAccess* access() override { return inner_->access(); }
  [[nodiscard]] size_t waits() const { return waits_; }

 private:
  std::unique_ptr<decode::KvCache> inner_;
  const Daemon& daemon_;
  size_t position_ = 0;
  size_t waits_ = 0;
};

inline void Caches::churn() {
  Daemon daemon(decode_world("churn"));
  ASSERT_TRUE(daemon.ok());
  const decode::RunOptions run = options(daemon.folder());
  MovesInSteps first(cache(run), daemon);
  decode_and_compare(first, run, [&](const decode::StepEvent& event) {
    if (event.decoding && event.position % 16 == 8) wait_for_moves(daemon, 2 * kPromptBlocks);
  });
  EXPECT_GE(first.waits(), 6u);
  const decode::CacheCounts counts = first.counts();
  EXPECT_EQ(counts.blocks_found, 0u);
  EXPECT_GE(counts.blocks_published, kPromptBlocks + kTokens / 16 - 1);
  EXPECT_GE(counts.arena_moves, 10 * kPromptBlocks);
  if (native()) {
    EXPECT_GE(counts.blocks_moved, kPromptBlocks) << "every page of the prompt";
    EXPECT_GE(counts.frames_changed, 3 * kPromptBlocks);
    if (test_device() != nullptr) EXPECT_GE(counts.frames_crossed, kPromptBlocks);
  }
  // Pages that have moved, maybe many times, as the prefix of another sequence.
  wait_for_moves(daemon, 2 * kPromptBlocks);
  const auto second = cache(run);
  EXPECT_EQ(decode_and_compare(*second, run).prefill_steps, kPromptBytes - kPromptBlocks * 16);
  EXPECT_EQ(second->counts().blocks_found, kPromptBlocks);
}

}  // namespace kvt::test
