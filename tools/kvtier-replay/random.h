// SPDX-License-Identifier: Apache-2.0
//
// A small seeded generator of random numbers: the same seed gives the same replay on every machine and
// standard library (the distributions of <random> differ between them). Not thread-safe.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace kvt::replay {

/// Bijective; every bit of the answer depends on every bit of x (finaliser of splitmix64).
constexpr uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(mix64(seed ^ 0x6b76746965720000ULL)) {}

  uint64_t next() { return mix64(state_ += 0x9e3779b97f4a7c15ULL); }
  /// 0 .. n-1. REQUIRES: n > 0. The bias is below n / 2^64.
  uint64_t below(uint64_t n) { return next() % n; }
  /// [0, 1)
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  bool chance(double probability) { return uniform() < probability; }
  double normal() {
    return std::sqrt(-2 * std::log(1 - uniform())) * std::cos(2 * std::numbers::pi * uniform());
  }

 private:
  uint64_t state_;
};

}  // namespace kvt::replay
