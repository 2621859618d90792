// SPDX-License-Identifier: Apache-2.0
//
// Memory that goes bad under the real daemon: it retires frames, and goes on.
#include <gtest/gtest.h>

#include "tests/support/client.h"
#include "tests/support/daemon.h"

namespace kvt::test {
namespace {

constexpr uint64_t kPageBytes = 16384;

class BadMemory : public ::testing::TestWithParam<uint32_t> {};
INSTANTIATE_TEST_SUITE_P(Columns, BadMemory, ::testing::Values(1u, 2u),
                         [](const auto& parameter) { return std::to_string(parameter.param); });

/// Eight of the first copies meet memory that is not there, four as they read and four as they write.
TEST_P(BadMemory, RetiresFramesAndNotTheDaemon) {
  constexpr uint64_t kPages = 300;
  World world;
  world.columns = GetParam();
  world.policy = "churn";
  world.arguments = {"--allow-injection", "--inject", "poison"};
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  for (uint64_t i = 0; i < kPages; ++i) {
    const kvt_page page = publish_page(client, key_of(i), kPageBytes);
    ASSERT_NE(page, KVT_NO_PAGE) << kvt_last_error();
    ASSERT_EQ(kvt_release(client, &page, 1, nullptr), KVT_OK);
  }
  const auto retired = [&] {
    double sum = 0;
    for (uint32_t tier = 0; tier <= GetParam(); ++tier)
      sum += daemon.number("quiesce", "/arenas/0/tiers/" + std::to_string(tier) + "/retired");
    return sum;
  };
  EXPECT_TRUE(eventually([&] { return daemon.number("status", "/arenas/0/copies_failed") >= 8; }));
  EXPECT_EQ(daemon.number("status", "/arenas/0/copies_failed"), 8);
  EXPECT_TRUE(eventually([&] { return retired() == 8; })) << retired();
  EXPECT_EQ(daemon.number("quiesce", "/arenas/0/audit/leaked"), 0);
  EXPECT_TRUE(
      mentions(daemon.log(), {"cannot be read", "cannot be written", "arena \"default\": page ", "(SIGBUS)"}))
      << daemon.log();
  // What can be found is right, and only pages that had no other frame are lost.
  uint64_t found = 0;
  for (uint64_t i = 0; i < kPages; ++i) {
    kvt_page page = KVT_NO_PAGE;
    const kvt_key key = key_of(i);
    if (kvt_lookup(client, &key, 1, KVT_LOOKUP_HOLD, &page) != 1) continue;
    ++found;
    EXPECT_EQ(verify_page(client, page, key, kPageBytes), 0u);
    EXPECT_EQ(kvt_release(client, &page, 1, nullptr), KVT_OK);
  }
  const double lost = daemon.number("status", "/arenas/0/lost_pages");
  EXPECT_EQ(static_cast<double>(found) + lost, kPages);
  EXPECT_LE(lost, 4);
  // Moves go on.
  const double moved = daemon.number("status", "/arenas/0/moves/promoted");
  EXPECT_TRUE(eventually([&] { return daemon.number("status", "/arenas/0/moves/promoted") > moved; }));
}

}  // namespace
}  // namespace kvt::test
