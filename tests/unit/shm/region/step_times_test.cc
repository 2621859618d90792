// SPDX-License-Identifier: Apache-2.0
#include "shm/region/step_times.h"

#include <gtest/gtest.h>

#include <memory>

namespace {

using namespace kvt;

TEST(StepTimes, BucketsFollowEachOther) {
  EXPECT_EQ(step_time_bucket(0), 0u);
  EXPECT_EQ(step_time_bucket(1023), 0u);
  EXPECT_EQ(step_time_bucket(1024), 1u);
  for (size_t i = 0; i < KVT_STEP_TIMES; ++i) {
    EXPECT_EQ(step_time_bucket(step_time_from(i)), i);
    EXPECT_LT(step_time_from(i), step_time_to(i));
    if (i + 1 < KVT_STEP_TIMES) EXPECT_EQ(step_time_bucket(step_time_to(i) - 1), i);
  }
  EXPECT_EQ(step_time_bucket(UINT64_MAX), KVT_STEP_TIMES - 1);
}

TEST(StepTimes, WhatIsCountedIsTakenOnce) {
  const auto member = std::make_unique<kvt_abi_member>();
  for (uint64_t ns = 1'000'000; ns <= 100'000'000; ns += 1'000'000) count_step(*member, ns, 1);
  StepTimes seen;
  const StepTimes steps = take_step_times(*member, seen);
  EXPECT_EQ(steps.steps(), 100u);
  EXPECT_EQ(steps.ns, 5'050'000'000u);
  EXPECT_EQ(take_step_times(*member, seen).steps(), 0u);
}

TEST(StepTimes, StepsThatWereNotMeasuredCountAsTheNext) {
  const auto member = std::make_unique<kvt_abi_member>();
  count_step(*member, 500, 32);
  StepTimes seen;
  const StepTimes steps = take_step_times(*member, seen);
  EXPECT_EQ(steps.counts[0], 32u);
  EXPECT_EQ(steps.ns, 16'000u);
}

TEST(StepTimes, WhatAMemberWritesMakesNoNonsense) {
  const auto member = std::make_unique<kvt_abi_member>();
  StepTimes seen;
  member->step_times[40] = 7;
  member->step_times[41] = UINT64_MAX;  // a jump: none
  member->step_ns = 1;                  // less than seven such steps take
  const StepTimes steps = take_step_times(*member, seen);
  EXPECT_EQ(steps.steps(), 7u);
  EXPECT_EQ(steps.ns, 7 * step_time_from(40));
  member->step_times[40] = 3;  // backwards
  member->step_ns = UINT64_MAX;
  EXPECT_EQ(take_step_times(*member, seen).steps(), 0u);
  for (auto& count : member->step_times) count += uint64_t{1} << 40;
  const StepTimes most = take_step_times(*member, seen);
  EXPECT_EQ(most.steps(), uint64_t{KVT_STEP_TIMES} << 40);
  EXPECT_GT(most.ns, 0u);
}

}  // namespace
