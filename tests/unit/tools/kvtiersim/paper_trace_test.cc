// SPDX-License-Identifier: Apache-2.0
//
// The generated layer of the paper's model: its statistics against its parameters, and what its beliefs are
// worth.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "tools/kvtiersim/model/random.h"
#include "tools/kvtiersim/model/ziggurat.h"
#include "tools/kvtiersim/workload/paper.h"

namespace kvt::sim {
namespace {

PaperLayer small(PaperNoise noise, uint32_t steps = 200) {
  PaperLayer layer;
  layer.noise = noise;
  layer.steps = steps;
  return layer;
}

uint64_t digest(const Trace& trace) {
  uint64_t hash = 0xcbf29ce484222325ULL;
  const auto add = [&](uint64_t value) { hash = (hash ^ value) * 0x100000001b3ULL; };
  for (const uint64_t first : trace.first) add(first);
  for (const uint32_t page : trace.page) add(page);
  return hash;
}

TEST(Ziggurat, IsStandardNormal) {
  constexpr int kDraws = 2'000'000;
  constexpr std::array<double, 7> kAt{-3, -2, -1, 0, 1, 2, 3.8};
  Random random(7);
  const Ziggurat normal;
  std::array<double, kAt.size()> below{};
  double sum = 0, squares = 0, fourths = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double x = normal(random);
    sum += x;
    squares += x * x;
    fourths += x * x * x * x;
    for (size_t k = 0; k < kAt.size(); ++k) below[k] += x < kAt[k] ? 1 : 0;
  }
  EXPECT_NEAR(sum / kDraws, 0, 0.004);
  EXPECT_NEAR(squares / kDraws, 1, 0.005);
  EXPECT_NEAR(fourths / kDraws, 3, 0.04);
  for (size_t k = 0; k < kAt.size(); ++k) {
    const double p = 0.5 * std::erfc(-kAt[k] * M_SQRT1_2);
    EXPECT_NEAR(below[k] / kDraws, p, 5 * std::sqrt(p * (1 - p) / kDraws)) << kAt[k];
  }
}

TEST(PaperTrace, ReadsTheShareItIsToldAndNewTokensComeAsAsked) {
  struct Case {
    PaperNoise noise;
    double sparsity, new_tokens;
  };
  for (const Case& at : {Case{PaperNoise::kDrift, .6, .05},
                         {PaperNoise::kDrift, .6, .28},
                         {PaperNoise::kDrift, .4, .28},
                         {PaperNoise::kMemoryless, .5, .11},
                         {PaperNoise::kMemoryless, .4, .28}}) {
    PaperLayer layer = small(at.noise, 60);
    layer.sparsity = at.sparsity;
    layer.new_tokens = at.new_tokens;
    const PaperWorkload made = make_paper_layer(layer);
    EXPECT_NEAR(made.read_share, 1 - at.sparsity, 1e-4);
    EXPECT_NEAR(made.new_share, at.new_tokens, .03 * at.new_tokens + .001) << at.sparsity;
  }
  EXPECT_NEAR(make_paper_layer(small(PaperNoise::kActual)).new_share, .217, .003);
}

TEST(PaperTrace, TheSolvedDriftHasTheShareThatWasAsked) {
  for (const double sparsity : {.4, .5, .6, .9})
    for (const double share : {.05, .11, .21, .28}) {
      const PaperDrift drift = solve_paper_drift(sparsity, share);
      EXPECT_NEAR(paper_new_share(sparsity, drift), share, 1e-6);
      EXPECT_TRUE(drift.rho == PaperDrift{}.rho || drift.noise == 4) << sparsity << " " << share;
    }
  EXPECT_THROW((void)solve_paper_drift(.4, .5),
               std::invalid_argument);  // independent sets have 40 percent at most
}

TEST(PaperTrace, OneTokenIsBornInEachStepAndWritten) {
  for (const uint32_t page_tokens : {1U, 16U}) {
    PaperLayer layer = small(PaperNoise::kActual, 40);
    layer.page_tokens = page_tokens;
    const PaperWorkload made = make_paper_layer(layer);
    const Trace& trace = made.workload.trace;
    EXPECT_EQ(trace.pages, (kPaperPrompt + 39 + page_tokens - 1) / page_tokens);
    EXPECT_EQ(trace.page_bytes, uint64_t{kPaperTokenBytes} * page_tokens);
    EXPECT_EQ(trace.written_bytes, kPaperTokenBytes);
    size_t born = 0;
    for (uint32_t n = 0; n < trace.steps(); ++n) born += trace.step(n).born.size();
    // 31,299 is 3 more than a multiple of 16: the first new page is the 14th token's.
    EXPECT_EQ(born, page_tokens == 1 ? 39U : 2U);
    EXPECT_EQ(made.workload.beliefs == nullptr, page_tokens > 1);
  }
}

TEST(PaperTrace, APageIsReadWhenAnyOfItsTokensIs) {
  PaperLayer layer = small(PaperNoise::kActual, 20);
  const PaperWorkload tokens = make_paper_layer(layer);
  layer.page_tokens = 16;
  const PaperWorkload pages = make_paper_layer(layer);
  EXPECT_EQ(tokens.token_reads, pages.token_reads);
  for (uint32_t n = 0; n < layer.steps; ++n) {
    std::vector<uint32_t> expected;
    for (const uint32_t token : tokens.workload.trace.step(n).page)
      if (expected.empty() || expected.back() != token / 16) expected.push_back(token / 16);
    const auto read = pages.workload.trace.step(n).page;
    ASSERT_TRUE(std::equal(read.begin(), read.end(), expected.begin(), expected.end())) << n;
  }
}

TEST(PaperTrace, SwapsTakeTheLatestTokensAndSomeOthers) {
  for (const PaperNoise noise : {PaperNoise::kLow, PaperNoise::kHigh}) {
    const PaperLayer layer = small(noise);
    const PaperWorkload made = make_paper_layer(layer);
    double swapped = 0;
    for (uint32_t n = 0; n < layer.steps; ++n) {
      const auto read = made.workload.trace.step(n).page;
      const uint32_t latest = kPaperPrompt + n - static_cast<uint32_t>(read.size());
      const auto old =
          static_cast<double>(std::lower_bound(read.begin(), read.end(), latest) - read.begin()) /
          static_cast<double>(read.size());
      if (noise == PaperNoise::kLow) {
        ASSERT_GE(old, .028);
        ASSERT_LE(old, .1);
      }
      swapped += old / layer.steps;
    }
    // Drawn with replacement from 1.5 times as many as are read: 1.5 * (1 - exp(-u / 1.5)), mean over u.
    EXPECT_NEAR(swapped, noise == PaperNoise::kLow ? .0636 : .405, noise == PaperNoise::kLow ? .003 : .04);
  }
}

// Changes when a generator does: results of different versions are then of different traces.
TEST(PaperTrace, IsTheSameEverywhere) {
  struct Golden {
    PaperNoise noise;
    std::array<uint64_t, 5> digest;  // seeds 1 to 5, 40 steps
  };
  constexpr std::array<Golden, 5> kGolden{
      {{PaperNoise::kLow,
        {0x8ebffec1c3a04978, 0xdfb39f5cd593f424, 0xc14416a584102f45, 0xb3c023d9e432359d, 0x0ef7dad9cef298e7}},
       {PaperNoise::kActual,
        {0xc53d168c3278e665, 0xa421181e9bfc8ef8, 0x40f1129aa1999827, 0x2f5740ad530d6ca9, 0x75ba2ada95a12cce}},
       {PaperNoise::kHigh,
        {0x315c1a2ccd7867e5, 0xaf54c2ef00c4ab01, 0x9c716168d2d6c1dd, 0x4f9a27d37eb2e861, 0x04aa61c2e9f59c47}},
       {PaperNoise::kDrift,
        {0xd7d4a9e3cabb238a, 0x951d478c8027e718, 0x0bf40b90817b7716, 0x3144b2ef823bbf20, 0x5cc2fa5ba5476381}},
       {PaperNoise::kMemoryless,
        {0x603cf852b777fb66, 0xecc15e3df3b438b4, 0xb83579bb2686d024, 0x4afba11986123973,
         0xf3a601ee8d18e4bd}}}};
  for (const Golden& golden : kGolden)
    for (uint64_t seed = 1; seed <= 5; ++seed) {
      PaperLayer layer = small(golden.noise, 40);
      layer.seed = seed;
      EXPECT_EQ(digest(make_paper_layer(layer).workload.trace), golden.digest[seed - 1])
          << static_cast<int>(golden.noise) << " seed " << seed;
    }
}

TEST(PaperTrace, LayersAndSeedsDiffer) {
  PaperLayer layer = small(PaperNoise::kDrift, 5);
  const uint64_t one = digest(make_paper_layer(layer).workload.trace);
  layer.layer = 1;
  const uint64_t two = digest(make_paper_layer(layer).workload.trace);
  layer.layer = 0;
  layer.seed = 2;
  const uint64_t three = digest(make_paper_layer(layer).workload.trace);
  EXPECT_NE(one, two);
  EXPECT_NE(one, three);
  EXPECT_NE(two, three);
}

TEST(PaperTrace, BadParametersAreNamed) {
  const auto refused = [](PaperLayer layer) {
    EXPECT_THROW((void)make_paper_layer(layer), std::invalid_argument);
  };
  PaperLayer layer = small(PaperNoise::kMemoryless, 2);
  layer.sparsity = 0;
  refused(layer);
  layer.sparsity = .4;
  layer.new_tokens = .7;  // 60 percent are read: no more than 40 of 60 can be new
  refused(layer);
  layer = small(PaperNoise::kActual, 0);
  refused(layer);
  EXPECT_THROW((void)paper_noise("middle"), std::invalid_argument);
}

// Of the reads that the beliefs call p probable, p come: within two points in each tenth.
TEST(PaperBeliefs, AreCalibrated) {
  for (const PaperNoise noise :
       {PaperNoise::kActual, PaperNoise::kDrift, PaperNoise::kMemoryless, PaperNoise::kLow}) {
    PaperLayer layer = small(noise, 100);
    layer.new_tokens = .28;
    const PaperWorkload made = make_paper_layer(layer);
    const Trace& trace = made.workload.trace;
    const auto beliefs = made.workload.beliefs();
    std::array<double, 10> expected{}, came{}, count{};
    std::vector<uint8_t> read(trace.pages);
    for (uint32_t n = 0; n + 1 < layer.steps; ++n) {
      beliefs->observe(trace.step(n));
      if (n < 40) continue;  // the prior is broad at first, and right; the filter's errors show later
      std::fill(read.begin(), read.end(), uint8_t{0});
      for (const uint32_t page : trace.step(n + 1).page) read[page] = 1;
      for (uint32_t page = 0; page < layer.prompt + n; ++page) {
        const auto p = static_cast<double>(beliefs->next()[page]);
        ASSERT_GE(p, 0);
        ASSERT_LE(p, 1);
        const auto tenth = std::min<size_t>(9, static_cast<size_t>(p * 10));
        expected[tenth] += p;
        came[tenth] += read[page];
        ++count[tenth];
      }
    }
    for (size_t tenth = 0; tenth < 10; ++tenth)
      if (count[tenth] > 2000)
        EXPECT_NEAR(came[tenth] / count[tenth], expected[tenth] / count[tenth], .02)
            << static_cast<int>(noise) << " " << tenth;
  }
}

// Also of the pages with one and the same history of the last four steps; a belief that forgets or mixes up
// steps is not.
TEST(PaperBeliefs, AreCalibratedForEachHistory) {
  PaperLayer layer = small(PaperNoise::kDrift, 100);
  layer.new_tokens = .28;
  const PaperWorkload made = make_paper_layer(layer);
  const Trace& trace = made.workload.trace;
  const auto beliefs = made.workload.beliefs();
  std::vector<uint32_t> history(trace.pages, 0);
  std::array<double, 16> expected{}, came{}, count{};
  for (uint32_t n = 0; n + 1 < layer.steps; ++n) {
    const StepView now = trace.step(n);
    beliefs->observe(now);
    for (uint32_t& bits : history) bits = bits << 1 & 15;
    for (const uint32_t page : now.page) history[page] |= 1;
    if (n < 40) continue;
    const StepView next = trace.step(n + 1);
    for (uint32_t page = 0; page < layer.prompt; ++page) {
      expected[history[page]] += static_cast<double>(beliefs->next()[page]);
      ++count[history[page]];
    }
    for (const uint32_t page : next.page)
      if (page < layer.prompt) ++came[history[page]];
  }
  for (size_t bits = 0; bits < 16; ++bits)
    EXPECT_NEAR(came[bits] / count[bits], expected[bits] / count[bits], .015) << bits;
}

}  // namespace
}  // namespace kvt::sim
