// SPDX-License-Identifier: Apache-2.0
//
// How long something took, each time, counted in steps from ten microseconds to a minute. Adding is a few compares.
// Values; not thread-safe.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace kvt::keeper {

struct Durations {
  /// Seconds: a count is of what took no longer, and longer than the one before.
  static constexpr std::array<double, 15> kBounds{1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2,
                                                  0.1,  0.3,  1,    3,    10,   30,   60};
  std::array<uint64_t, kBounds.size() + 1> counts{};  ///< the last: of what took longer than all
  double seconds = 0;                                 ///< of all together

  void add(double took) {
    ++counts[static_cast<size_t>(std::lower_bound(kBounds.begin(), kBounds.end(), took) - kBounds.begin())];
    seconds += took;
  }
};

}  // namespace kvt::keeper
