// SPDX-License-Identifier: Apache-2.0
#include "daemon/policy/histogram.h"

#include <cmath>
#include <cstddef>
#include <numeric>

namespace kvt::policy {

DensityHistogram::DensityHistogram(double decay)
    : shift_(static_cast<Stamp>(std::llround(-std::log2(decay) * static_cast<double>(kOctave)))),
      base_(bin_of(Stamp{kLeastOctave} * kOctave)) {}

void DensityHistogram::advance(uint32_t period) {
  if (period <= period_) return;
  period_ = period;
  raise(bin_of(Stamp{kLeastOctave} * kOctave + Stamp{period} * shift_));
}

/// Bins below `base` become cold.
void DensityHistogram::raise(int64_t base) {
  for (int64_t bin = base_; bin < std::min(base, base_ + kInSight); ++bin) {
    uint64_t& pages = pages_[place(bin)];
    pages_[kCold] += pages;
    pages = 0;
  }
  base_ = std::max(base_, base);
}

uint64_t DensityHistogram::pages() const {
  return std::accumulate(pages_.begin(), pages_.end(), uint64_t{0});
}

std::array<DensityHistogram::Bin, DensityHistogram::kBins> DensityHistogram::bins() const {
  std::array<Bin, kBins> bins;
  bins[0].pages = pages_[kCold];
  for (int64_t i = 0; i < kInSight; ++i) {
    const int64_t bin = base_ + i;
    const Stamp now = bin * (kOctave / 2) - Stamp{period_} * shift_;  // log2 of its lower end
    bins[static_cast<size_t>(i) + 1] = {std::exp2(static_cast<double>(now) / static_cast<double>(kOctave)),
                                        pages_[place(bin)]};
  }
  return bins;
}

}  // namespace kvt::policy
