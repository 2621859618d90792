// SPDX-License-Identifier: Apache-2.0
//
// What the generators promise: their laws, and the very same traces for the seeds 1 to 5 that policies were
// tuned on.
#include "tools/kvtiersim/workload/families.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <stdexcept>
#include <vector>

namespace kvt::sim {
namespace {

/// FNV-1a over all that a trace says of reads.
uint64_t digest(const Trace& trace) {
  uint64_t hash = 0xcbf29ce484222325ull;
  const auto add = [&](uint64_t value) {
    for (int i = 0; i < 64; i += 8) hash = (hash ^ ((value >> i) & 0xff)) * 0x100000001b3ull;
  };
  add(trace.pages);
  for (uint32_t n = 0; n < trace.steps(); ++n) {
    const StepView step = trace.step(n);
    add(step.page.size());
    for (size_t i = 0; i < step.page.size(); ++i) add((uint64_t{step.page[i]} << 16) | step.reads_of(i));
  }
  return hash;
}

struct Golden {
  const char* family;
  std::array<uint64_t, 5> digests;  // of seeds 1 to 5
};
const std::array<Golden, 9> kGolden{{
    {"dense",
     {0x78e81e2c8448f4fdull, 0x7108614002532cefull, 0x6dbcf563456f6638ull, 0xcfabcf073757d810ull,
      0x4b63f9f179b49ee5ull}},
    {"shared",
     {0x41995a0d7d9461aaull, 0x18d8393deec92c40ull, 0x1a09049b30b42be2ull, 0x872102382e6e59b9ull,
      0x9a21031eeabb7667ull}},
    {"sparse-slow",
     {0x0eb9c955543545a5ull, 0x414fa1752a326d91ull, 0xddaa66258b396464ull, 0x78104853b0ee9853ull,
      0xc16f9211bf626a6cull}},
    {"sparse-fast",
     {0xae1224bdbba67460ull, 0x83ebb08a3f699c52ull, 0xb67321df44a9335cull, 0x3f38cfe135b143a9ull,
      0x25ea7355d0eb0ceaull}},
    {"zipf-shift",
     {0xccbf160c82fd59feull, 0xf81c813307f4082eull, 0x2aeefd4e6bbe86d0ull, 0x7e9ba318c54750d6ull,
      0x91f9934ff34004eaull}},
    {"zipf",
     {0x1c203c5dbda80f5aull, 0x1368b53d14c13670ull, 0xe769bb7bee04c89aull, 0xb7a2b0b312eb5850ull,
      0xb159fed7a07bfc49ull}},
    {"adversarial-lru",
     {0x5a809569483ea02eull, 0x2086c78025943df0ull, 0x9ecba520a01d85bdull, 0xf3e33b71c2ac1becull,
      0xc087e8bbc41694cfull}},
    {"adversarial-self",
     {0x918a76ee95b342f4ull, 0x6c23a243f8ea9188ull, 0xe3a4792319b42888ull, 0x50e119f695495634ull,
      0xce8a78bb92b27de8ull}},
    {"burst",
     {0x081788fd92b927b6ull, 0xe82fd944a03a9668ull, 0x053a8602ac9e5d4full, 0xd023af95724645acull,
      0x2580e13471127e1bull}},
}};

TEST(Families, SeedsOneToFiveAreWhatTheyWere) {
  for (const Golden& golden : kGolden)
    for (uint64_t seed = 1; seed <= 5; ++seed)
      EXPECT_EQ(digest(make_family(golden.family, seed).trace), golden.digests[seed - 1])
          << golden.family << ", seed " << seed;
}

TEST(Families, UnknownNameIsRefusedWithTheNames) {
  try {
    (void)make_family("zopf", 1);
    FAIL() << "taken";
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what())
                  .find("\"zopf\"; expected dense, shared, sparse-slow, sparse-fast, zipf-shift, zipf,"),
              std::string::npos)
        << error.what();
  }
}

TEST(Families, AllHave300Steps) {
  for (const Golden& golden : kGolden) {
    const Trace trace = make_family(golden.family, 7).trace;
    EXPECT_EQ(trace.steps(), 300u) << golden.family;
    EXPECT_EQ(trace.name, golden.family);
    EXPECT_GT(trace.page_bytes, 0u);
  }
}

/// The reads of each page, a row a step.
std::vector<std::vector<uint16_t>> table(const Trace& trace) {
  std::vector<std::vector<uint16_t>> rows(trace.steps(), std::vector<uint16_t>(trace.pages, 0));
  for (uint32_t n = 0; n < trace.steps(); ++n) {
    const StepView step = trace.step(n);
    for (size_t i = 0; i < step.page.size(); ++i)
      rows[n][step.page[i]] = static_cast<uint16_t>(step.reads_of(i));
  }
  return rows;
}

TEST(Families, DenseIsAChainOfOnAndOff) {
  double on_to_off = 0, was_on = 0, off_to_on = 0, was_off = 0, on_at_first = 0, pages = 0;
  for (uint64_t seed = 11; seed <= 50; ++seed) {
    const auto rows = table(make_family("dense", seed).trace);
    pages += static_cast<double>(rows[0].size());
    for (const uint16_t reads : rows[0]) on_at_first += reads;
    for (size_t n = 1; n < rows.size(); ++n) {
      for (size_t page = 0; page < rows[n].size(); ++page) {
        (rows[n - 1][page] != 0 ? was_on : was_off) += 1;
        if (rows[n - 1][page] != 0 && rows[n][page] == 0) on_to_off += 1;
        if (rows[n - 1][page] == 0 && rows[n][page] != 0) off_to_on += 1;
      }
    }
  }
  // 3,200 sequences: 3 sigma and some.
  EXPECT_NEAR(pages / 3200, 69.5, 2);
  EXPECT_NEAR(on_at_first / pages, .3, .035);
  EXPECT_NEAR(on_to_off / was_on, 1.0 / 40, .001);
  EXPECT_NEAR(off_to_on / was_off, 1.0 / 93, .0005);
}

TEST(Families, SharedSequencesHaveOneToSixReaders) {
  std::map<uint32_t, double> share;
  double read = 0;
  for (uint64_t seed = 11; seed <= 50; ++seed) {
    const Trace trace = make_family("shared", seed).trace;
    for (const uint16_t reads : trace.reads) {
      share[reads] += 1;
      read += 1;
    }
  }
  ASSERT_EQ(share.begin()->first, 1u);
  ASSERT_LE(share.rbegin()->first, 6u);
  for (uint32_t readers = 1; readers <= 6; ++readers)
    EXPECT_NEAR(share[readers] / read, std::pow(readers / 6.0, .25) - std::pow((readers - 1) / 6.0, .25), .04)
        << readers;
}

TEST(Families, SparsePagesAreReadByTheirOdds) {
  // E[sigmoid(2 (x - 1.5))], x normal with variance 1.2^2 + 1.5^2, by a fine sum.
  const double sigma = std::sqrt(1.2 * 1.2 + 1.5 * 1.5);
  double mean = 0, mass = 0;
  for (double u = -6; u <= 6; u += .001) {
    mean += std::exp(-u * u / 2) / (1 + std::exp(-2 * (sigma * u - 1.5)));
    mass += std::exp(-u * u / 2);
  }
  mean /= mass;
  std::map<std::string, double> again;  // P(read in the next step | read)
  for (const char* name : {"sparse-slow", "sparse-fast"}) {
    double read = 0, both = 0, before = 0;
    for (uint64_t seed = 11; seed <= 15; ++seed) {
      const auto rows = table(make_family(name, seed).trace);
      for (size_t n = 0; n < rows.size(); ++n) {
        for (size_t page = 0; page < rows[n].size(); ++page) {
          read += rows[n][page];
          if (n == 0) continue;
          before += rows[n - 1][page];
          both += rows[n][page] * rows[n - 1][page];
        }
      }
    }
    EXPECT_NEAR(read / (5 * 300 * 4000.0), mean, .01) << name;
    again[name] = both / before;
  }
  EXPECT_GT(again["sparse-slow"], again["sparse-fast"] + .03);
}

TEST(Families, ZipfRatesFallByRankAndShift) {
  for (const bool shift : {false, true}) {
    const auto rows = table(make_family(shift ? "zipf-shift" : "zipf", 11).trace);
    std::vector<std::vector<double>> reads(6, std::vector<double>(4000, 0));  // by 50 steps and page
    for (size_t n = 0; n < rows.size(); ++n)
      for (size_t page = 0; page < 4000; ++page) reads[n / 50][page] += rows[n][page];
    for (auto& period : reads) {
      auto sorted = period;
      std::sort(sorted.begin(), sorted.end(), std::greater<>());
      EXPECT_NEAR(sorted[0] / 50, 30, 2.5);
      EXPECT_NEAR(sorted[1] / 50, 40 / std::pow(2, .8), 2.5);
      EXPECT_NEAR(sorted[99] / 50, 40 / std::pow(100, .8), .15);
    }
    const auto hottest = [&](size_t period) {
      return std::max_element(reads[period].begin(), reads[period].end()) - reads[period].begin();
    };
    EXPECT_EQ(hottest(0) == hottest(1) && hottest(1) == hottest(2), !shift);
  }
}

/// The expectation is right where it says .1 and where it says .9, and is worth something.
TEST(Families, BeliefsAreCalibrated) {
  for (const Golden& golden : kGolden) {
    const Workload workload = make_family(golden.family, 12);
    const auto rows = table(workload.trace);
    const auto beliefs = workload.beliefs();
    struct Bin {
      double expected = 0, read = 0, square = 0, pages = 0;
    };
    std::map<int, Bin> bins;
    double error = 0, error_of_mean = 0, all = 0;
    for (const auto& row : rows)
      for (const uint16_t reads : row) all += reads;
    all /= static_cast<double>(rows.size()) * workload.trace.pages;
    for (uint32_t n = 0; n < rows.size(); ++n) {
      const auto next = beliefs->next();
      ASSERT_EQ(next.size(), workload.trace.pages);
      for (uint32_t page = 0; page < workload.trace.pages; ++page) {
        const double difference = rows[n][page] - static_cast<double>(next[page]);
        Bin& bin = bins[static_cast<int>(std::floor(4 * std::log2(static_cast<double>(next[page]) + 1e-3)))];
        bin.expected += static_cast<double>(next[page]);
        bin.read += rows[n][page];
        bin.square += difference * difference;
        bin.pages += 1;
        error += difference * difference;
        error_of_mean += (rows[n][page] - all) * (rows[n][page] - all);
      }
      beliefs->observe(workload.trace.step(n));
    }
    EXPECT_LT(error, .8 * error_of_mean) << golden.family;
    // Given what has been seen, what is read next beyond expectation has mean 0 and nothing to do with other
    // steps; nor with other pages, but for those of a sequence, at most 119, which are one draw. 2 %: a
    // Gaussian, ranks taken for independent.
    const bool sequences = std::string("dense shared burst").find(golden.family) != std::string::npos;
    for (const auto& [key, bin] : bins) {
      const double sigma = std::sqrt(std::max(bin.square, bin.expected) * (sequences ? 119 : 1));
      EXPECT_NEAR(bin.read, bin.expected, 4 * sigma + .02 * bin.expected)
          << golden.family << ", where " << bin.expected / bin.pages << " reads were expected of "
          << bin.pages;
    }
  }
}

}  // namespace
}  // namespace kvt::sim
