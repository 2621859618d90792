// SPDX-License-Identifier: Apache-2.0
//
// Seeded random numbers: the same seed gives the same weights with every standard library (the distributions
// of <random> differ between them). Not thread-safe.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace kvt::decode {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 0x6465636f6465ull) {}

  uint64_t next() {  // splitmix64
    uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  /// 0 .. n-1. REQUIRES: n > 0.
  uint64_t below(uint64_t n) { return next() % n; }
  /// [0, 1)
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  double normal() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(2 * std::numbers::pi * uniform());
  }

 private:
  uint64_t state_;
};

}  // namespace kvt::decode
