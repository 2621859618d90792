// SPDX-License-Identifier: Apache-2.0
#include "shm/base/untrusted.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdint>
#include <type_traits>

#include "shm/base/fence.h"
#include "shm/base/result.h"

namespace kvt {
namespace {

static_assert(!std::is_convertible_v<Untrusted<uint64_t>, uint64_t>,
              "no such byte becomes an index by accident");

TEST(Untrusted, BelowHasItsBoundOutside) {
  EXPECT_EQ(Untrusted<uint32_t>(9).below(10), 9u);
  EXPECT_FALSE(Untrusted<uint32_t>(10).below(10).has_value());
  EXPECT_FALSE(Untrusted<uint32_t>(0).below(0).has_value());
  EXPECT_FALSE(Untrusted<uint64_t>(UINT64_MAX).below(UINT64_MAX).has_value());
}

TEST(Untrusted, BetweenHasBothBoundsInside) {
  EXPECT_EQ(Untrusted<int>(3).between(3, 5), 3);
  EXPECT_EQ(Untrusted<int>(5).between(3, 5), 5);
  EXPECT_FALSE(Untrusted<int>(2).between(3, 5).has_value());
  EXPECT_FALSE(Untrusted<int>(6).between(3, 5).has_value());
}

TEST(Untrusted, CappedCutsOff) {
  EXPECT_EQ(Untrusted<uint64_t>(UINT64_MAX).capped(511), 511u);
  EXPECT_EQ(Untrusted<uint64_t>(5).capped(511), 5u);
  EXPECT_EQ(Untrusted<uint64_t>(5).harmless(), 5u);
}

Result<int> half(int value) {
  if (value % 2 != 0) return fail(Code::kInvalid, "odd");
  return value / 2;
}
Result<int> quarter(int value) {
  KVT_TRY_ASSIGN(const int once, half(value));
  KVT_TRY(half(once));
  return once / 2;
}

TEST(Result, TryPassesTheFirstErrorOn) {
  EXPECT_EQ(*quarter(8), 2);
  EXPECT_EQ(quarter(7).error().text, "odd");
  EXPECT_EQ(quarter(6).error().code, Code::kInvalid);
}

TEST(Result, ASystemErrorKeepsErrnoAndSaysIt) {
  const tl::unexpected<Error> failed = fail_errno("open /x", ENOENT);
  EXPECT_EQ(failed.value().code, Code::kSystem);
  EXPECT_EQ(failed.value().system_errno, ENOENT);
  EXPECT_EQ(failed.value().text, "open /x: No such file or directory");
}

TEST(ResultDeathTest, ACheckThatFailsEndsTheProgram) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(KVT_CHECK(1 + 1 == 3), "check failed: 1 \\+ 1 == 3");
}

}  // namespace
}  // namespace kvt
