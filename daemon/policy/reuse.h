// SPDX-License-Identifier: Apache-2.0
//
// After how long pages are read again. Averages cannot say "not yet": the blocks of a conversation are not
// read while its user reads the answer, and then all at once. What can is the rate at which pages are read,
// by the periods since their last read and by how often they have been read: a life table, estimated as one
// is (reads over pages at risk), learned from a sample of both.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "daemon/policy/heat.h"

namespace kvt::policy {

/// Copyable; not thread-safe.
class ReuseTimes {
 public:
  /// Of reads known: 1, 2, 3-5, 6-11, ..., powers of two around which they lie
  static constexpr uint32_t kClasses = 12;
  /// Of periods since the last read: 1, 2, 3, then quarters of powers of two; last: 131,072 and more
  static constexpr uint32_t kAges = 64;
  /// How often a page has been read, and how long ago.
  using Cell = uint16_t;
  /// Of a page that was never read since the last shift: nothing is known of those.
  static constexpr Cell kNone = kClasses * kAges;

  /// Cell of the page in `period`, before it is read then. `shift`: see features_at(). REQUIRES:
  /// heat.known().
  [[nodiscard]] static Cell cell_of(const PageHeat& heat, uint32_t period, uint32_t shift) {
    if (heat.mean == 0 || static_cast<int32_t>(heat.period - shift) < 0) return kNone;
    return static_cast<Cell>(class_of(heat.mean * static_cast<float>(heat.age)) * kAges +
                             age_of(period - heat.period));
  }

  /// A period has passed: what was seen weighs a little less.
  void forget();
  /// `pages` of this cell might have been read in the period, and `read` of them were.
  void see(Cell cell, float pages, float read);
  /// Works out next(), and in_stay() for pages that stay in the fast tier for `stay` periods in the mean; 0:
  /// nobody knows, and then it is 0.
  void solve(float stay);

  /// Probability that a page of this cell is read in the period. 0 to 1.
  [[nodiscard]] float next(Cell cell) const { return next_[cell]; }
  /// Probability that it is read while it stays, over the periods of the stay: reads a period of which only
  /// one counts.
  [[nodiscard]] float in_stay(Cell cell) const { return in_stay_[cell]; }

 private:
  static uint32_t class_of(float reads) {
    const auto exponent = static_cast<int32_t>(std::bit_cast<uint32_t>(reads * 1.41421356f) >> 23) - 127;
    return static_cast<uint32_t>(std::clamp<int32_t>(exponent, 0, kClasses - 1));
  }
  static uint32_t age_of(uint32_t gone) {
    if (gone < 4) return gone == 0 ? 0 : gone - 1;
    const auto octave = static_cast<uint32_t>(31 - std::countl_zero(gone));
    return std::min(kAges - 1, 3 + (octave - 2) * 4 + (gone >> (octave - 2) & 3));
  }
  static float first_of(uint32_t age);  ///< fewest periods of it

  std::array<double, kNone> pages_{}, reads_{};
  std::array<float, kNone + 1> next_{}, in_stay_{};  ///< the last: kNone
};

}  // namespace kvt::policy
