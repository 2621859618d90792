// SPDX-License-Identifier: Apache-2.0
#include "daemon/server/attach_turns.h"

#include <gtest/gtest.h>

namespace kvt::server {
namespace {

using std::chrono::milliseconds;

class AttachTurnsTest : public testing::Test {
 protected:
  AttachTurns turns_;
  AttachTurns::Clock::time_point now_{std::chrono::hours(1)};
};

TEST_F(AttachTurnsTest, ABurstIsServedAtOnce) {
  for (int i = 0; i < 15; ++i) {
    ASSERT_TRUE(turns_.may_begin(now_)) << i;
    turns_.spend(1, milliseconds(7), now_);
  }
  EXPECT_FALSE(turns_.may_begin(now_)) << "5 ms are owed";
  turns_.wait(1, 1);
  EXPECT_FALSE(turns_.next(now_));
  EXPECT_NEAR(std::chrono::duration<double>(*turns_.until_next(now_)).count(), 0.005 / AttachTurns::kShare,
              1e-6);
  EXPECT_EQ(turns_.next(now_ + milliseconds(21)), 1u);
  EXPECT_EQ(turns_.next(now_ + milliseconds(21)), std::nullopt);
  EXPECT_EQ(turns_.until_next(now_), std::nullopt);
}

TEST_F(AttachTurnsTest, AllTogetherGetTheirShareOfTheTime) {
  const auto begin = now_;
  double spent = 0;
  uint64_t serial = 0;
  while (now_ < begin + std::chrono::seconds(100)) {
    turns_.wait(7, ++serial);
    if (turns_.next(now_)) {
      turns_.spend(7, milliseconds(8), now_);
      spent += 0.008;
    }
    turns_.forget(serial);
    now_ += milliseconds(1);
  }
  EXPECT_NEAR(spent, 100 * AttachTurns::kShare, 0.2);
}

TEST_F(AttachTurnsTest, WhoHasHadLeastIsNext) {
  turns_.spend(1, milliseconds(200), now_);
  turns_.spend(2, milliseconds(50), now_);
  turns_.wait(1, 10);
  turns_.wait(2, 11);
  turns_.wait(3, 13);
  turns_.wait(3, 12);
  EXPECT_FALSE(turns_.may_begin(now_ + std::chrono::hours(1))) << "others wait";
  now_ += std::chrono::seconds(1);
  EXPECT_EQ(turns_.next(now_), 12u) << "of one user the first";
  turns_.spend(3, milliseconds(30), now_);
  EXPECT_EQ(turns_.next(now_), 11u) << "it had more, a second ago";
  EXPECT_EQ(turns_.next(now_), 13u);
  EXPECT_EQ(turns_.next(now_), 10u);
  EXPECT_EQ(turns_.waiting(), 0u);
}

TEST_F(AttachTurnsTest, WhoHasGoneIsForgotten) {
  turns_.spend(1, milliseconds(200), now_);
  turns_.wait(1, 1);
  turns_.wait(1, 2);
  turns_.forget(1);
  turns_.forget(99);
  EXPECT_EQ(turns_.next(now_ + std::chrono::seconds(1)), 2u);
  EXPECT_EQ(turns_.waiting(), 0u);
}

}  // namespace
}  // namespace kvt::server
