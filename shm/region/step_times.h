// SPDX-License-Identifier: Apache-2.0
//
// How long a member's steps take, from begin to end: counted by the member itself in its block, a count for each quarter of
// a power of two. It measures each step of 20 microseconds and more, and of shorter ones one in 128, which counts for those
// that were not measured: a step must not cost more for being looked at.
//
//   bucket 0: less than 2^10 ns.  1 + 4 * (e - 10) + q: from (4 + q) * 2^(e - 2) ns to less than (5 + q) * 2^(e - 2) ns.
//
// Steps that a GPU's stream ends are not measured: no CPU knows when.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "shm/abi/layout.h"
#include "shm/base/fence.h"

namespace kvt {

inline constexpr uint64_t kShortStepNs = 20'000;
inline constexpr uint32_t kShortStepsApart = 128;

namespace step_detail {
inline constexpr uint32_t kFirstExponent = 10;
}

/// Of kvt_abi_member::step_times.
constexpr size_t step_time_bucket(uint64_t ns) {
  if (ns >> step_detail::kFirstExponent == 0) return 0;
  const auto exponent = static_cast<uint32_t>(std::bit_width(ns) - 1);
  const uint64_t bucket = 1 + 4 * (exponent - step_detail::kFirstExponent) + ((ns >> (exponent - 2)) & 3);
  return std::min<uint64_t>(bucket, KVT_STEP_TIMES - 1);
}

/// Nanoseconds that all steps of the bucket have taken at least.
constexpr uint64_t step_time_from(size_t bucket) {
  if (bucket == 0) return 0;
  const auto [octave, quarter] = std::pair{(bucket - 1) / 4, (bucket - 1) % 4};
  return (4 + quarter) << (octave + step_detail::kFirstExponent - 2);
}
/// And at most; of the last bucket, which has no end, what would be its end.
constexpr uint64_t step_time_to(size_t bucket) { return step_time_from(bucket + 1); }

/// `steps` of about `ns` each. The member; any of its threads.
inline void count_step(kvt_abi_member& member, uint64_t ns, uint64_t steps) {
  std::atomic_ref<uint64_t>(member.step_times[step_time_bucket(ns)])
      .fetch_add(steps, std::memory_order_relaxed);
  std::atomic_ref<uint64_t>(member.step_ns).fetch_add(ns * steps, std::memory_order_relaxed);
}

/// Counts of steps, summed up. Values; not thread-safe.
struct StepTimes {
  std::array<uint64_t, KVT_STEP_TIMES> counts{};
  uint64_t ns = 0;  ///< of all together

  [[nodiscard]] uint64_t steps() const;
  void add(const StepTimes& other);
};

/// What a member has counted since `seen`, which is brought up to date. What it writes there is its own affair: growth of a
/// count by more than 2^40 is taken for none, and the time is held to what the counts allow. Daemon.
StepTimes take_step_times(const kvt_abi_member& member, StepTimes& seen);

}  // namespace kvt
