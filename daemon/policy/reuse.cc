// SPDX-License-Identifier: Apache-2.0
#include "daemon/policy/reuse.h"

#include <cmath>

namespace kvt::policy {
namespace {

constexpr double kMemoryOfAges = 32, kLeastMemory = 4096;  // in ages, and in periods
constexpr double kPrior = 0.25;  // pages, not read, that every cell is believed to have seen

}  // namespace

float ReuseTimes::first_of(uint32_t age) {
  if (age < 3) return static_cast<float>(age + 1);
  const uint32_t octave = (age - 3) / 4 + 2;
  return static_cast<float>((1u << octave) + (((age - 3) % 4) << (octave - 2)));
}

/// What happens after long is learned slowly, and remembered as much longer.
void ReuseTimes::forget() {
  static const std::array<double, kAges> kKeep = [] {
    std::array<double, kAges> keep{};
    for (uint32_t age = 0; age < kAges; ++age)
      keep[age] = 1 - 1 / std::max(kLeastMemory, kMemoryOfAges * static_cast<double>(first_of(age)));
    return keep;
  }();
  for (uint32_t cell = 0; cell < kNone; ++cell) {
    pages_[cell] *= kKeep[cell % kAges];
    reads_[cell] *= kKeep[cell % kAges];
  }
}

void ReuseTimes::see(Cell cell, float pages, float read) {
  if (cell >= kNone) return;
  pages_[cell] += pages;
  reads_[cell] += read;
}

/// 1 - exp(-(R(t + stay) - R(t))), R the sum of the rates from the last read on: straight within an age, and
/// a page is taken to be in the middle of its own.
void ReuseTimes::solve(float stay) {
  const bool told = stay > 0;
  for (uint32_t of_class = 0; of_class < kClasses; ++of_class) {
    const double* const pages = &pages_[of_class * kAges];
    const double* const reads = &reads_[of_class * kAges];
    std::array<float, kAges> rate{}, before{};
    for (uint32_t age = 0; age < kAges; ++age) {
      // Samples both: more may seem to be read than are there.
      rate[age] = static_cast<float>(std::min(1.0, reads[age] / (pages[age] + kPrior)));
      if (age + 1 < kAges) before[age + 1] = before[age] + rate[age] * (first_of(age + 1) - first_of(age));
    }
    const auto until = [&](float periods) {
      const uint32_t age = age_of(static_cast<uint32_t>(periods));
      return before[age] + rate[age] * (periods - first_of(age));
    };
    for (uint32_t age = 0; age < kAges; ++age) {
      const float now = age + 1 < kAges ? (first_of(age) + first_of(age + 1)) / 2 : first_of(age);
      next_[of_class * kAges + age] = rate[age];
      in_stay_[of_class * kAges + age] = told ? (1 - std::exp(until(now) - until(now + stay))) / stay : 0;
    }
  }
}

}  // namespace kvt::policy
