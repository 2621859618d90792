// SPDX-License-Identifier: Apache-2.0
//
// The limits of an arena's geometry: what is just allowed, and what is just refused. Limits of rings, holds,
// counters, sequences, index and log are reached in tests/unit/shm/region; of sessions, members, generations
// and stock in tests/unit/daemon/keeper/arena_limits_test.cc; of a message in
// tests/unit/shm/base/socket_test.cc; of configurations in tests/unit/daemon/config; of connections in
// tests/integration.
#include "shm/abi/limits.h"

#include <gtest/gtest.h>

#include "shm/region/arena_table.h"
#include "tests/support/shared_memory.h"

namespace kvt {
namespace {

ArenaGeometry good() { return test::small_geometry(); }

void expect_refused(const ArenaGeometry& geometry, Code code, const std::string& word) {
  const auto checked = check_geometry(geometry);
  ASSERT_FALSE(checked.has_value()) << "expected a refusal that says " << word;
  EXPECT_EQ(checked.error().code, code) << checked.error().text;
  EXPECT_NE(checked.error().text.find(word), std::string::npos) << checked.error().text;
  EXPECT_NE(checked.error().text.find("arena \""), std::string::npos) << checked.error().text;
}

TEST(Limits, ThePlainGeometryIsGood) {
  const auto checked = check_geometry(good());
  EXPECT_TRUE(checked.has_value()) << checked.error().text;
}

TEST(Limits, Tiers) {
  ArenaGeometry geometry = good();
  geometry.tiers.clear();
  expect_refused(geometry, Code::kLimit, "tiers");
  for (uint32_t i = 0; i < KVT_MAX_TIERS; ++i)
    geometry.tiers.push_back({"t" + std::to_string(i), 100, 1, 1, -1, false});
  EXPECT_TRUE(check_geometry(geometry).has_value());
  geometry.tiers.push_back({"one too many", 100, 1, 1, -1, false});
  expect_refused(geometry, Code::kLimit, "9 tiers");
}

TEST(Limits, ChunksOfADeviceWindow) {
  ArenaGeometry geometry = good();
  geometry.tiers[0].frames = 1000;
  geometry.tiers[0].device.emplace();
  expect_refused(geometry, Code::kInvalid, "chunks of 0 bytes");
  const uint64_t bytes =
      (1001 * geometry.page_bytes + kWindowAlignment - 1) / kWindowAlignment * kWindowAlignment;
  geometry.tiers[0].chunk_bytes = (bytes + KVT_WINDOW_CHUNKS - 1) / KVT_WINDOW_CHUNKS;
  EXPECT_TRUE(check_geometry(geometry).has_value()) << check_geometry(geometry).error().text;
  --geometry.tiers[0].chunk_bytes;
  expect_refused(geometry, Code::kLimit, "more than 16");
}

TEST(Limits, Columns) {
  ArenaGeometry geometry = good();
  geometry.columns = 0;
  expect_refused(geometry, Code::kLimit, "columns");
  geometry.columns = KVT_MAX_COLUMNS;
  EXPECT_TRUE(check_geometry(geometry).has_value());
  geometry.columns = KVT_MAX_COLUMNS + 1;
  expect_refused(geometry, Code::kLimit, "columns");
}

TEST(Limits, ATierServesAColumnThatIsThere) {
  ArenaGeometry geometry = good();
  geometry.tiers[0].column = 1;
  expect_refused(geometry, Code::kInvalid, "column 1 of 1");
  geometry.columns = 2;
  EXPECT_TRUE(check_geometry(geometry).has_value());
}

TEST(Limits, Pages) {
  ArenaGeometry geometry = good();
  geometry.block_tokens = 1;
  geometry.tiers.back().frames = KVT_MAX_PAGES + 1;
  geometry.pages = 0;
  expect_refused(geometry, Code::kLimit, "pages");
  geometry.pages = KVT_MAX_PAGES;
  EXPECT_TRUE(check_geometry(geometry).has_value());
  geometry.pages = KVT_MAX_PAGES + 1;
  expect_refused(geometry, Code::kLimit, "pages");
}

TEST(Limits, PagesNeedFrames) {
  ArenaGeometry geometry = good();
  geometry.pages = geometry.tiers[0].frames + geometry.tiers[1].frames;
  EXPECT_TRUE(check_geometry(geometry).has_value());
  ++geometry.pages;
  expect_refused(geometry, Code::kInvalid, "frames");
  geometry = good();
  geometry.tiers[0].frames = 0;
  expect_refused(geometry, Code::kInvalid, "no room for one page");
}

TEST(Limits, PageBytes) {
  ArenaGeometry geometry = good();
  for (const uint64_t bytes : {uint64_t{KVT_MIN_PAGE_BYTES}, uint64_t{KVT_MAX_PAGE_BYTES},
                               uint64_t{KVT_MIN_PAGE_BYTES + KVT_PAGE_BYTES_STEP}}) {
    geometry.page_bytes = bytes;
    EXPECT_TRUE(check_geometry(geometry).has_value()) << bytes;
  }
  for (const uint64_t bytes : {uint64_t{0}, uint64_t{KVT_MIN_PAGE_BYTES - KVT_PAGE_BYTES_STEP},
                               uint64_t{KVT_MAX_PAGE_BYTES + KVT_PAGE_BYTES_STEP},
                               uint64_t{KVT_MIN_PAGE_BYTES + 1}, uint64_t{65536 + 256}}) {
    geometry.page_bytes = bytes;
    expect_refused(geometry, Code::kInvalid, "page_bytes");
  }
}

TEST(Limits, PlanesDivideAPage) {
  ArenaGeometry geometry = good();
  geometry.planes = 0;
  expect_refused(geometry, Code::kInvalid, "planes");
  geometry.planes = 3;
  expect_refused(geometry, Code::kInvalid, "planes");
  geometry.planes = 32;
  EXPECT_TRUE(check_geometry(geometry).has_value());
  geometry.block_tokens = 0;
  expect_refused(geometry, Code::kInvalid, "block_tokens");
}

TEST(Limits, BlockIdTimesTokensFitsInt32) {
  ArenaGeometry geometry = good();
  geometry.tiers.resize(1);
  geometry.tiers[0].column = -1;
  geometry.pages = 10;
  geometry.block_tokens = 16;
  geometry.tiers[0].frames = (1ull << 31) / 16 - 2;  // with the scratch frame: the last id that fits
  EXPECT_TRUE(check_geometry(geometry).has_value());
  ++geometry.tiers[0].frames;
  expect_refused(geometry, Code::kLimit, "int32");
  geometry.block_tokens = 1;
  geometry.tiers[0].frames = KVT_MAX_FRAMES - 1;
  EXPECT_TRUE(check_geometry(geometry).has_value());
  ++geometry.tiers[0].frames;
  expect_refused(geometry, Code::kLimit, "int32");
}

TEST(Limits, AbsurdNumbersOfFramesDoNotWrapAround) {
  ArenaGeometry geometry = good();
  geometry.pages = 5;
  geometry.block_tokens = 4;
  geometry.tiers.back().frames = 1ull << 62;  // times 4 tokens: 2^64
  EXPECT_FALSE(check_geometry(geometry).has_value());
  geometry.tiers[0].frames = 1ull << 63;
  geometry.tiers[1].frames = 1ull << 63;
  geometry.tiers.push_back({"third", 10, 1, 1, -1, false});  // the sum is 10 again
  EXPECT_FALSE(check_geometry(geometry).has_value());
  geometry = good();
  geometry.block_tokens = UINT32_MAX;
  EXPECT_FALSE(check_geometry(geometry).has_value());
}

TEST(Limits, Names) {
  ArenaGeometry geometry = good();
  geometry.name = std::string(KVT_ARENA_NAME_BYTES - 1, 'a');
  EXPECT_TRUE(check_geometry(geometry).has_value());
  test::TestTable longest(geometry);
  EXPECT_STREQ(longest.table.header().name, geometry.name.c_str()) << "the final 0 is there";
  geometry.name += "a";
  expect_refused(geometry, Code::kInvalid, "name");
  geometry.name.clear();
  expect_refused(geometry, Code::kInvalid, "name");

  geometry = good();
  geometry.tiers[0].name = std::string(KVT_TIER_NAME_BYTES - 1, 't');
  EXPECT_TRUE(check_geometry(geometry).has_value());
  test::TestTable tier(geometry);
  EXPECT_STREQ(tier.table.tier(0).name, geometry.tiers[0].name.c_str());
  geometry.tiers[0].name += "t";
  expect_refused(geometry, Code::kInvalid, "tier name");
  geometry.tiers[0].name.clear();
  expect_refused(geometry, Code::kInvalid, "tier name");
}

}  // namespace
}  // namespace kvt
