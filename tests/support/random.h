// SPDX-License-Identifier: Apache-2.0
//
// Seeded random numbers for tests. The seed is printed, and KVT_SEED sets it.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace kvt::test {

class Random {
 public:
  explicit Random(uint64_t seed = seed_from_environment()) : state_(seed) {
    std::printf("seed %llu (KVT_SEED)\n", static_cast<unsigned long long>(seed));
  }

  uint64_t next() {  // splitmix64
    uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  /// 0 .. bound-1.
  uint64_t below(uint64_t bound) { return next() % bound; }
  uint32_t below32(uint64_t bound) { return static_cast<uint32_t>(below(bound)); }
  bool one_in(uint64_t n) { return below(n) == 0; }

 private:
  static uint64_t seed_from_environment() {
    const char* const text = std::getenv("KVT_SEED");
    return text != nullptr ? std::strtoull(text, nullptr, 0) : 20250813;
  }
  uint64_t state_;
};

}  // namespace kvt::test
