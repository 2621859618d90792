// SPDX-License-Identifier: Apache-2.0
//
// Floating-point numbers of 16 bits, on a CPU: IEEE halves and bfloats, rounded to nearest, ties to even. Not for NaNs.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace kvt::test {

inline uint16_t to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000;
  const float size = std::fabs(value);
  if (size < 6.103515625e-5f)  // below the smallest normal number: steps of 2^-24
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::lrint(size * 16777216.0f)));
  const uint32_t rounded = (bits & 0x7fffffff) + 0xfff + (bits >> 13 & 1);
  return static_cast<uint16_t>(sign | std::min<uint32_t>((rounded - (112u << 23)) >> 13, 0x7c00));
}
inline float from_half(uint16_t half) {
  const int exponent = half >> 10 & 31;
  const int fraction = half & 1023;
  const float size = exponent == 31  ? (fraction != 0 ? NAN : INFINITY)
                     : exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                     : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  return (half & 0x8000) != 0 ? -size : size;
}
inline uint16_t to_bfloat(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float from_bfloat(uint16_t value) { return std::bit_cast<float>(uint32_t{value} << 16); }

}  // namespace kvt::test
