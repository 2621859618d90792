// SPDX-License-Identifier: Apache-2.0
//
// What a page's reads have been, in 20 bytes, and what they say of its next ones. Nothing is swept: a page
// that is not read is not touched, and whoever looks at it later brings its averages up to date by the number
// of periods since.
//
// A period is the unit of time: the daemon's, or a simulated step. Inline: once for each page read, each
// period.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

namespace kvt::policy {

inline constexpr uint32_t kFastMemory = 4, kSlowMemory = 32, kMemory = 2048;  ///< periods
inline constexpr uint32_t kReadsMost = 4095;  ///< a period, of one page: more count as so many

/// Reads a period of one page in one column: three exponentially weighted means of different memory. While
/// less is known of a page than a mean remembers, that mean is the plain one of what is known.
struct PageHeat {
  float fast = 0;            ///< newest period weighs 1/kFastMemory
  float slow = 0;            ///< 1/kSlowMemory
  float mean = 0;            ///< 1/kMemory
  uint32_t period = 0;       ///< of the last read, or of the birth
  uint32_t reads : 12 = 0;   ///< in that period
  uint32_t age : 12 = 0;     ///< periods known then, at most kMemory; 0: there is no such page
  uint32_t advised : 8 = 0;  ///< see advise()

  [[nodiscard]] bool known() const { return age != 0; }
};
static_assert(sizeof(PageHeat) == 20 && kReadsMost < 1u << 12 && kMemory < 1u << 12);

/// What a prediction is made from. All in reads a period.
struct Features {
  float reads = 0;  ///< in this period
  float fast = 0, slow = 0, mean = 0;
  float last = 0;   ///< in the last period in which there were any
  float often = 0;  ///< all that are known, over kMemory: how often it was read, however young it is
};

namespace heat_detail {

inline constexpr uint32_t kSteps = 8192;

/// [g] = (1 - 1/memory)^g
template <uint32_t memory>
inline constexpr std::array<float, kSteps> kDecay = [] {
  std::array<float, kSteps> table{};
  double value = 1;
  for (float& entry : table) {
    entry = static_cast<float>(value);
    value *= 1 - 1.0 / memory;
  }
  return table;
}();

inline constexpr std::array<float, kMemory + 1> kInverse = [] {
  std::array<float, kMemory + 1> table{};
  for (uint32_t i = 1; i <= kMemory; ++i) table[i] = 1.0f / static_cast<float>(i);
  return table;
}();

/// What is left of a mean over `age` periods after `gone` more without reads.
template <uint32_t memory>
inline float fade(uint32_t age, uint32_t gone) {
  if (age >= memory) [[likely]]
    return gone < kSteps ? kDecay<memory>[gone] : 0;
  if (age + gone <= memory) return static_cast<float>(age) * kInverse[age + gone];
  const uint32_t beyond = age + gone - memory;
  return static_cast<float>(age) * kInverse[memory] * (beyond < kSteps ? kDecay<memory>[beyond] : 0);
}

}  // namespace heat_detail

/// The averages at `period`, if nothing was read since. `shift`: the period in which what all pages are read
/// for changed last (Predictor::shifted): what was known of a page before says nothing any more.
inline Features features_at(const PageHeat& heat, uint32_t period, uint32_t shift) {
  using namespace heat_detail;
  Features now;
  const uint32_t gone = period - heat.period;
  now.last = static_cast<float>(heat.reads);
  if (gone == 0)
    return {now.last,  heat.fast, heat.slow,
            heat.mean, now.last,  heat.mean * static_cast<float>(heat.age) / kMemory};
  if (heat.age == 0 || static_cast<int32_t>(heat.period - shift) < 0) return now;
  const uint32_t age = heat.age;
  now.fast = heat.fast * fade<kFastMemory>(age, gone);
  now.slow = heat.slow * fade<kSlowMemory>(age, gone);
  now.mean = heat.mean * fade<kMemory>(age, gone);
  now.often = now.mean * static_cast<float>(std::min<uint32_t>(kMemory, age + gone)) / kMemory;
  return now;
}

/// A page comes to be in `period`: from now on it counts that it is not read.
inline PageHeat heat_at_birth(uint32_t period) {
  PageHeat heat;
  heat.period = period;
  heat.age = 1;
  return heat;
}

/// `reads` more reads of the page in `period`. Several calls in one period add up. REQUIRES: heat.known().
inline void add_reads(PageHeat& heat, uint32_t period, uint32_t shift, uint32_t reads) {
  using namespace heat_detail;
  const auto count = static_cast<float>(reads);
  if (const uint32_t gone = period - heat.period; gone != 0) {
    const bool before_shift = static_cast<int32_t>(heat.period - shift) < 0;
    const Features now = features_at(heat, period, shift);
    heat.fast = now.fast;
    heat.slow = now.slow;
    heat.mean = now.mean;
    heat.age =
        std::min<uint64_t>(kMemory, before_shift ? uint64_t{period - shift} + 1 : uint64_t{heat.age} + gone) &
        0xfff;
    heat.reads = 0;
  }
  heat.period = period;
  heat.fast += count * kInverse[std::min<uint32_t>(heat.age, kFastMemory)];
  heat.slow += count * kInverse[std::min<uint32_t>(heat.age, kSlowMemory)];
  heat.mean += count * kInverse[heat.age];
  heat.reads = std::min(kReadsMost, heat.reads + reads) & kReadsMost;
}

/// Clients have said that the page will be read soon.
inline void advise(PageHeat& heat, uint32_t period) { heat.advised = (0x80 | (period & 0x7f)) & 0xff; }
/// Said in one of the last `periods`, < 128.
inline bool is_advised(const PageHeat& heat, uint32_t period, uint32_t periods) {
  return heat.advised != 0 && ((period - heat.advised) & 0x7f) < periods;
}

/// A rate as a byte for publishing: 0 = cold, each 8 steps double it, 128 is one read a period.
inline uint8_t heat_byte(float rate) {
  if (!(rate > 0)) return 0;
  // Exponent and the three highest bits of the mantissa.
  const auto steps = static_cast<int32_t>(std::bit_cast<uint32_t>(rate) >> 20) - (127 << 3) + 128;
  return static_cast<uint8_t>(std::clamp(steps, 1, 255));
}
/// The rate that a byte stands for: within an eighth below what it was made from.
inline float heat_rate(uint8_t byte) {
  if (byte == 0) return 0;
  return std::bit_cast<float>(static_cast<uint32_t>(byte - 128 + (127 << 3)) << 20);
}
/// What a restarted daemon takes for the past of a page that was read at this rate.
inline PageHeat heat_of_rate(float rate, uint32_t period) {
  PageHeat heat;
  heat.fast = heat.slow = heat.mean = rate;
  heat.period = period;
  heat.age = kSlowMemory;
  return heat;
}
/// Equal for rates between the same powers of two. REQUIRES: rate >= 0.
inline uint32_t octave(float rate) { return std::bit_cast<uint32_t>(rate) >> 23; }

}  // namespace kvt::policy
