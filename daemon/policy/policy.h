// SPDX-License-Identifier: Apache-2.0
//
// Placement as a pure function: a Snapshot goes in, a Plan comes out. No clock, no I/O, no threads, no system
// header; the same object code runs in the daemon, in the simulator and in the tests. Same input, same output.
//
// Rules of this version, for one column:
//   1. A page's density is its heat: decayed reads a period.
//   2. Two tiers read at once take tau(H) = max(H/B1, (A-H)/B2) for A bytes, H of them from the fast tier, which is
//      least at H* = A*B1/(B1+B2): the balance point. More tiers behind the fast one count as their sum.
//      The share of a step is known only with an error sigma, and a byte too many costs B1/B2 times as much on the slow
//      side as on the fast one: the target is H* + z sigma A, z the quantile B1/(B1+B2) of the error (the newsvendor
//      problem), about ln(B1/B2) / 1.702 for a normal one.
//   3. Below the target (by more than the dead band) the hottest slow pages are promoted, into free frames first, then in
//      place of sampled colder ones. Above it, hot pages that have a shadow are read from the slow tier again.
//   4. The fast tier keeps `reserve` frames free for new pages: the coldest of the sample leave.
//   5. Copies stay within the budget; demoting a page that has a shadow costs nothing.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <vector>

namespace kvt::policy {

/// Heat of a page in one column: exponentially decayed reads a period, brought up to date when it is touched, by the
/// number of periods since (POLICY: nothing is swept that was not touched).
struct Heat {
  float rate = 0;
  uint32_t period = 0;
};
/// Weight of the newest period. 1/8: half of the weight lies in the last 5 periods.
inline constexpr float kHeatGain = 0.125f;
inline constexpr uint32_t kDecaySteps = 200;  ///< (7/8)^200 = 2.5e-12: nothing is left
inline constexpr std::array<float, kDecaySteps> kDecay = [] {
  std::array<float, kDecaySteps> table{};
  double value = 1;
  for (float& entry : table) {
    entry = static_cast<float>(value);
    value *= 1 - static_cast<double>(kHeatGain);
  }
  return table;
}();

// Inline: once for each page read, each period.

/// The rate at `period` if nothing was read since.
inline float heat_now(Heat heat, uint32_t period) {
  const uint32_t gone = period - heat.period;
  return gone < kDecaySteps ? heat.rate * kDecay[gone] : 0;
}
/// `heat` at `period`, after `reads` more reads in it.
inline Heat heat_after(Heat heat, uint32_t period, float reads) {
  return Heat{heat_now(heat, period) + kHeatGain * reads, period};
}
/// Equal for rates between the same powers of two. REQUIRES: rate >= 0.
inline uint32_t octave(float rate) { return std::bit_cast<uint32_t>(rate) >> 23; }
/// Heat as a byte for publishing: 0 = cold, each 8 steps double it.
inline uint8_t heat_byte(float rate) {
  if (!(rate > 0)) return 0;
  // Exponent and the three highest bits of the mantissa: 8 steps an octave, 1.0 at 128.
  const auto steps = static_cast<int32_t>(std::bit_cast<uint32_t>(rate) >> 20) - (127 << 3) + 128;
  return static_cast<uint8_t>(std::clamp(steps, 1, 255));
}

struct PageSample {
  uint32_t page = 0;
  uint32_t tier = 0;
  float heat = 0;
  bool has_shadow = false;  ///< can be demoted without a copy
};

struct TierState {
  double read_bytes_per_second = 0;
  uint64_t free_frames = 0;     ///< now
  uint64_t coming_frames = 0;   ///< in limbo: free when the steps that are open have ended
  uint64_t reserve_frames = 0;  ///< to be kept free or coming; of a slow tier: what a demotion must leave
  double bytes_read = 0;        ///< smoothed, a period
};

struct Settings {
  double dead_band = 0.02;  ///< share of all bytes read
  float swap_gain = 1.25f;  ///< a page replaces another only if it is this much hotter: swaps cost two copies
  uint64_t moves_max = 256; ///< of one plan
};

/// What one column's placement looks like. tiers[0] is the fast tier; the rest are slower, fastest first.
/// Samples are without pages that cool down, are being moved, or are not sealed.
struct Snapshot {
  uint64_t page_bytes = 0;
  uint64_t budget_bytes = 0;  ///< that copies may move now
  std::vector<TierState> tiers;
  double share_error = 0;  ///< standard deviation of the share read from the fast tier about the share expected
  std::vector<PageSample> slow_touched;  ///< read this period, not in tiers[0]; any order; of a page twice the hotter counts
  std::vector<PageSample> fast_sample;   ///< random pages of tiers[0]
};

enum class Reason : uint8_t { kBalancePromote, kBalanceDemote, kMakeRoom, kReserve, kChurn };

struct Move {
  uint32_t page = 0;
  uint32_t target_tier = 0;  ///< index into Snapshot::tiers
  Reason reason = Reason::kBalancePromote;
};

struct Plan {
  std::vector<Move> moves;  ///< in order: a demotion that makes room comes before its promotion
  // Why, for people:
  double bytes_read = 0;       ///< A
  double bytes_fast = 0;       ///< H
  double bytes_fast_best = 0;  ///< H*
  double bytes_fast_target = 0;
};

Plan balance(const Snapshot& snapshot, const Settings& settings);

/// Random moves as fast as the budget allows; for tests. `seed` changes with each call.
Plan churn(const Snapshot& snapshot, uint64_t seed, uint64_t moves_max);

}  // namespace kvt::policy
