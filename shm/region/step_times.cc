// SPDX-License-Identifier: Apache-2.0
#include "shm/region/step_times.h"

#include <numeric>

namespace kvt {
namespace {

/// Of one bucket between two looks. At 10 ns a step, a thousand cores need three hours for as many.
constexpr uint64_t kStepsMax = uint64_t{1} << 40;

}  // namespace

uint64_t StepTimes::steps() const { return std::accumulate(counts.begin(), counts.end(), uint64_t{0}); }

void StepTimes::add(const StepTimes& other) {
  for (size_t i = 0; i < counts.size(); ++i) counts[i] += other.counts[i];
  ns += other.ns;
}

StepTimes take_step_times(const kvt_abi_member& member, StepTimes& seen) {
  StepTimes grown;
  uint64_t ns_least = 0;
  uint64_t ns_most = 0;
  for (size_t i = 0; i < seen.counts.size(); ++i) {
    const uint64_t now = load_relaxed(member.step_times[i]);
    const uint64_t more = now - seen.counts[i];
    seen.counts[i] = now;
    if (more == 0 || more > kStepsMax) continue;
    grown.counts[i] = more;
    // No sum of all buckets overflows.
    constexpr uint64_t kMost = UINT64_MAX / (2 * KVT_STEP_TIMES);
    ns_least += more < kMost / (step_time_from(i) + 1) ? more * step_time_from(i) : kMost;
    ns_most += more < kMost / step_time_to(i) ? more * step_time_to(i) : kMost;
  }
  const uint64_t ns = load_relaxed(member.step_ns);
  grown.ns = std::clamp(ns - seen.ns, ns_least, ns_most);
  seen.ns = ns;
  return grown;
}

}  // namespace kvt
