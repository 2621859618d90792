// SPDX-License-Identifier: Apache-2.0
//
// Random numbers that are the same everywhere: the standard library's distributions are not.
#pragma once

#include <cmath>
#include <cstdint>

namespace kvt::sim {

/// xoshiro256** by Blackman and Vigna, seeded by splitmix64.
class Random {
 public:
  explicit Random(uint64_t seed) {
    for (uint64_t& word : state_) {
      seed += 0x9e3779b97f4a7c15ull;
      uint64_t mixed = (seed ^ (seed >> 30)) * 0xbf58476d1ce4e5b9ull;
      mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebull;
      word = mixed ^ (mixed >> 31);
    }
  }
  uint64_t next() {
    const auto rotate = [](uint64_t x, int by) { return (x << by) | (x >> (64 - by)); };
    const uint64_t result = rotate(state_[1] * 5, 7) * 9;
    const uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = rotate(state_[3], 45);
    return result;
  }
  /// [0, 1)
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  /// 0 .. n-1. REQUIRES: 0 < n < 2^32.
  uint64_t below(uint64_t n) { return ((next() >> 32) * n) >> 32; }
  /// Standard normal: Marsaglia's polar method.
  double normal() {
    if (has_spare_) {
      has_spare_ = false;
      return spare_;
    }
    double x, y, r;
    do {
      x = 2 * uniform() - 1;
      y = 2 * uniform() - 1;
      r = x * x + y * y;
    } while (r >= 1 || r == 0);
    const double scale = std::sqrt(-2 * std::log(r) / r);
    spare_ = y * scale;
    has_spare_ = true;
    return x * scale;
  }
  /// Poisson, by multiplication: for means up to some tens.
  uint32_t poisson(double mean) {
    const double limit = std::exp(-mean);
    uint32_t count = 0;
    for (double product = uniform(); product > limit; product *= uniform()) ++count;
    return count;
  }

 private:
  uint64_t state_[4];
  double spare_ = 0;
  bool has_spare_ = false;
};

}  // namespace kvt::sim
