// SPDX-License-Identifier: Apache-2.0
//
// The histogram beside a naive one, which keeps every page and sorts it anew each time it is asked.
#include "daemon/policy/histogram.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "tests/support/random.h"

namespace kvt::policy {
namespace {

using Bins = std::array<DensityHistogram::Bin, DensityHistogram::kBins>;

/// The bin that holds `density`, by the edges that are shown.
size_t bin_of(const Bins& bins, double density) {
  size_t bin = 0;
  while (bin + 1 < bins.size() && density >= bins[bin + 1].least) ++bin;
  return bin;
}

TEST(Histogram, StampsAreLogarithms) {
  for (int i = -1500; i < 1600; ++i) {
    const float value = std::exp2(static_cast<float>(i) / 100 + 0.003f);
    ASSERT_NEAR(static_cast<double>(log2_fixed(value)) / static_cast<double>(kOctave), std::log2(value),
                0.006)
        << value;
  }
}

TEST(Histogram, EdgesAreHalfOctavesFromTheColdBinUp) {
  DensityHistogram histogram(0.875);
  for (const uint32_t period : {0u, 1u, 7u, 100'000u, 4'000'000'000u}) {
    histogram.advance(period);
    const Bins bins = histogram.bins();
    EXPECT_EQ(bins[0].least, 0);
    EXPECT_LE(bins[1].least, 0x1p-15 * 1.000001) << period;
    EXPECT_GT(bins[1].least * DensityHistogram::kRatio, 0x1p-15) << period;
    for (size_t i = 2; i < bins.size(); ++i)
      EXPECT_NEAR(bins[i].least / bins[i - 1].least, DensityHistogram::kRatio, 1e-9);
  }
}

TEST(Histogram, AnUntouchedPageSinksABinForEachHalving) {
  DensityHistogram histogram(std::sqrt(0.5));  // half an octave a period
  histogram.advance(10);
  const Stamp stamp = histogram.stamp(1.2f, 10);
  histogram.add(stamp);
  size_t before = bin_of(histogram.bins(), 1.2);
  for (uint32_t period = 11; period < 100; ++period) {
    histogram.advance(period);
    const Bins bins = histogram.bins();
    before = before == 0 ? 0 : before - 1;
    for (size_t i = 0; i < bins.size(); ++i)
      ASSERT_EQ(bins[i].pages, i == before) << "period " << period << " bin " << i;
  }
  EXPECT_EQ(before, 0u);
  histogram.remove(stamp);
  EXPECT_EQ(histogram.pages(), 0u);
  EXPECT_EQ(histogram.bins()[0].pages, 0u);
}

TEST(Histogram, ValuesOutOfRangeCountAtItsEnds) {
  DensityHistogram histogram(0.9);
  histogram.advance(1000);
  std::vector<Stamp> stamps;
  for (const float value : {0.0f, -1.0f, std::nanf(""), 1e-30f, 1e-40f, 1e6f, 3e38f, INFINITY})
    stamps.push_back(histogram.stamp(value, 1000));
  for (const Stamp stamp : stamps) histogram.add(stamp);
  EXPECT_EQ(histogram.bins()[0].pages, 5u);
  EXPECT_EQ(histogram.bins()[63].pages, 3u);
  EXPECT_NEAR(histogram.bins()[63].least, 0x1p16, 0x1p16 * 0.5);
  histogram.advance(1010);  // 1.5 octaves on, the upper three come out as they went in
  for (const Stamp stamp : stamps) histogram.remove(stamp);
  for (const auto& bin : histogram.bins()) EXPECT_EQ(bin.pages, 0u);
}

TEST(Histogram, AStampFromThePeriodToComeIsCountedAndTakenOut) {
  DensityHistogram histogram(0.5);
  const Stamp old = histogram.stamp(1, 0);
  const Stamp early = histogram.stamp(60000, 40);
  histogram.add(old);
  histogram.add(early);
  EXPECT_EQ(histogram.pages(), 2u);
  histogram.remove(old);
  EXPECT_EQ(histogram.pages(), 1u);
  histogram.advance(40);
  const Bins bins = histogram.bins();
  EXPECT_EQ(bins[bin_of(bins, 60000)].pages, 1u);
  histogram.remove(early);
  EXPECT_EQ(histogram.pages(), 0u);
}

struct Page {
  float value = 0;
  uint32_t period = 0;
  Stamp stamp = kNeverRead;
};

TEST(Histogram, AgreesWithCountingEveryPageAnew) {
  test::Random random;
  uint64_t in_sight = 0;
  uint64_t cold = 0;
  for (int round = 0; round < 1000; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    const double decay = 0.5 + 0.499 * (static_cast<double>(random.below(1000)) / 1000);
    DensityHistogram histogram(decay);
    std::vector<Page> pages;
    uint32_t period = random.one_in(2) ? 0 : random.below32(1'000'000);
    histogram.advance(period);
    for (int step = 0; step < 60; ++step) {
      const auto touch = [&](Page& page) {
        page.value =
            random.one_in(10) ? 0 : std::exp2(static_cast<float>(random.below(4000)) / 100.0f - 20.0f);
        page.period = period;
        page.stamp = histogram.stamp(page.value, period);
        histogram.add(page.stamp);
      };
      switch (random.below(5)) {
        case 0:
        case 1: touch(pages.emplace_back()); break;
        case 2:
          if (!pages.empty()) {
            Page& page = pages[random.below(pages.size())];
            histogram.remove(page.stamp);
            touch(page);
          }
          break;
        case 3:
          if (!pages.empty()) {
            const size_t at = random.below(pages.size());
            histogram.remove(pages[at].stamp);
            pages[at] = pages.back();
            pages.pop_back();
          }
          break;
        default:
          period += random.one_in(20) ? random.below32(300) : random.below32(4);
          histogram.advance(period);
          if (period > 5) histogram.advance(period - 5);  // nothing goes back
      }
      // The naive one: each page's value as of now, into the bins that are shown. A value at an edge may be
      // on either side of it, by the error of the logarithm.
      const Bins bins = histogram.bins();
      std::array<uint64_t, DensityHistogram::kBins> least{};
      std::array<uint64_t, DensityHistogram::kBins> most{};
      for (const Page& page : pages) {
        const double now =
            std::min(static_cast<double>(page.value), 0x1p16) * std::pow(decay, period - page.period);
        // Values too small to be stamped are cold at once, though the lowest bin may begin below that.
        const size_t low = page.value < 0x1p-15f ? 0 : bin_of(bins, now * std::exp2(-0.01));
        const size_t high = page.value < 0x1p-15f ? 0 : bin_of(bins, now * std::exp2(0.01));
        ASSERT_LE(high, low + 1);
        if (low == high) ++least[low];
        ++most[low];
        if (high != low) ++most[high];
      }
      uint64_t sum = 0;
      for (size_t i = 0; i < bins.size(); ++i) {
        ASSERT_GE(bins[i].pages, least[i]) << "bin " << i;
        ASSERT_LE(bins[i].pages, most[i]) << "bin " << i;
        sum += bins[i].pages;
        (i == 0 ? cold : in_sight) += bins[i].pages;
      }
      ASSERT_EQ(sum, pages.size());
      ASSERT_EQ(histogram.pages(), pages.size());
    }
    for (const Page& page : pages) histogram.remove(page.stamp);
    for (const auto& bin : histogram.bins()) ASSERT_EQ(bin.pages, 0u);
  }
  EXPECT_GT(cold, 1000u);
  EXPECT_GT(in_sight, 1000u);
}

}  // namespace
}  // namespace kvt::policy
