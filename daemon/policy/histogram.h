// SPDX-License-Identifier: Apache-2.0
//
// How many pages there are of each density, kept up to date by touched pages alone.
//
// A page's value decays by the same factor in each period until the page is touched. So instead of the value
// its *stamp* is binned, the logarithm of the value in units that grow as values decay:
//
//   stamp = log2(value at period p) + p * log2(1 / decay)
//
// It stays the same while the page is untouched, and so does its bin; what moves is the origin that bins are
// seen from. Bins are half octaves of the stamp, numbered without end; 63 of them are in sight, in a ring,
// and those that fall below it are the cold bin. Whether a stamp is cold follows from the origin, so it can
// be taken out again exactly.
//
//   bin   ... | cold ...                  |base|    |    |    | ... 63 in sight ... |base+62|
//   value now   below about 2^-15           2^-15 ............................................. 2^16
//
// Not thread-safe. Integer arithmetic: the same everywhere.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace kvt::policy {

/// log2 of a value, in 2^-kStampFraction, plus the periods as said above.
using Stamp = int64_t;
inline constexpr uint32_t kStampFraction = 24;
inline constexpr Stamp kOctave = Stamp{1} << kStampFraction;
inline constexpr Stamp kNeverRead =
    std::numeric_limits<Stamp>::min();  ///< of value 0: always in the cold bin

/// Values outside count as these (above) or as cold (below).
inline constexpr int32_t kLeastOctave = -15;
inline constexpr int32_t kGreatestOctave = kLeastOctave + 31;

namespace detail {
/// log2(1 + (i + 1/2) / 128) in 2^-kStampFraction, by squaring: each square shows one more binary digit.
inline constexpr std::array<uint32_t, 128> kLog2 = [] {
  std::array<uint32_t, 128> table{};
  for (uint32_t i = 0; i < table.size(); ++i) {
    double x = 1 + (i + 0.5) / 128;
    for (uint32_t digit = 0; digit < kStampFraction; ++digit) {
      x *= x;
      table[i] = table[i] * 2 + (x >= 2);
      if (x >= 2) x /= 2;
    }
  }
  return table;
}();
}  // namespace detail

/// log2 of `value` in 2^-kStampFraction, to 0.006 octaves. REQUIRES: value > 0 and normal.
inline Stamp log2_fixed(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return (static_cast<Stamp>(bits >> 23) - 127) * kOctave + detail::kLog2[bits >> 16 & 127];
}

class DensityHistogram {
 public:
  static constexpr uint32_t kBins = 64;  ///< the cold one and 63 half octaves
  static constexpr double kRatio = 1.4142135623730951;

  struct Bin {
    double least = 0;  ///< density at the lower end; kRatio times that is the upper one. 0: cold
    uint64_t pages = 0;
  };

  /// `decay`: what is left of a value after a period. REQUIRES: 0 < decay < 1, the same for all stamps.
  explicit DensityHistogram(double decay);

  /// Of a page that has `value` at `period`, until it is touched again. Not a number or negative: as 0.
  [[nodiscard]] Stamp stamp(float value, uint32_t period) const {
    if (!(value >= kLeast)) return kNeverRead;  // cold now, and colder later
    return std::min(log2_fixed(value), Stamp{kGreatestOctave} * kOctave) + Stamp{period} * shift_;
  }

  /// Time goes on; earlier periods change nothing. O(1) for each bin that gets out of sight, at most 63.
  void advance(uint32_t period);

  void add(Stamp stamp) {
    const int64_t bin = bin_of(stamp);
    if (bin >= base_ + kInSight) [[unlikely]]
      raise(bin - kInSight + 1);  // a stamp of a period that is still to come
    ++pages_[place(bin)];
  }
  /// REQUIRES: it was added.
  void remove(Stamp stamp) { --pages_[place(bin_of(stamp))]; }

  [[nodiscard]] uint64_t pages() const;
  /// Ascending densities as of the latest period: cold, then those in sight, empty ones too.
  [[nodiscard]] std::array<Bin, kBins> bins() const;

 private:
  static constexpr int64_t kInSight = kBins - 1;
  static constexpr size_t kCold = kBins;
  static constexpr float kLeast = 0x1p-15f;
  static_assert(kLeastOctave == -15);

  /// Half octaves, rounded down.
  static int64_t bin_of(Stamp stamp) { return stamp >> (kStampFraction - 1); }
  /// In `pages_`: without a branch, which nobody could predict.
  [[nodiscard]] size_t place(int64_t bin) const {
    return bin < base_ ? kCold : static_cast<uint64_t>(bin) % kBins;
  }
  void raise(int64_t base);

  Stamp shift_;  ///< log2(1 / decay)
  uint32_t period_ = 0;
  int64_t base_;  ///< the lowest bin in sight
  std::array<uint64_t, kBins + 1>
      pages_{};  ///< by bin modulo kBins, those out of sight being 0; then the cold ones
};

}  // namespace kvt::policy
