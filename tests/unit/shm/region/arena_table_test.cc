// SPDX-License-Identifier: Apache-2.0
#include "shm/region/arena_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "shm/region/change_log.h"
#include "tests/support/random.h"
#include "tests/support/shared_memory.h"

namespace kvt {
namespace {

using test::small_geometry;
using test::TestTable;

class Columns : public testing::TestWithParam<uint32_t> {};
INSTANTIATE_TEST_SUITE_P(ArenaTable, Columns, testing::Values(1u, 2u, KVT_MAX_COLUMNS));

TEST_P(Columns, ANewTableIsEmpty) {
  TestTable made(small_geometry(GetParam()));
  const ArenaTable& table = made.table;
  EXPECT_EQ(table.epoch(), 1u);
  EXPECT_EQ(ChangeLog(table).tail(), 0u);
  EXPECT_EQ(table.columns(), GetParam());
  EXPECT_EQ(table.tiers(), std::min(GetParam() + 1, KVT_MAX_TIERS));
  EXPECT_FALSE(table.keeper_asleep());
  for (uint32_t column = 0; column < table.columns(); ++column)
    for (PageIndex page = 0; page < table.pages(); ++page) {
      ASSERT_EQ(table.placement(column, page).word, 0u);
      ASSERT_FALSE(table.shadow(column, page).valid());
      ASSERT_FALSE(table.offer(column, page).valid());
    }
}

TEST(ArenaTable, SaysWhichWindowsAreDeviceMemory) {
  ArenaGeometry geometry = small_geometry();
  geometry.tiers[0].device.emplace();
  for (uint8_t i = 0; i < KVT_DEVICE_UUID_BYTES; ++i) (*geometry.tiers[0].device)[i] = i;
  geometry.tiers[0].chunk_bytes = kWindowAlignment;
  TestTable made(geometry);
  const ArenaTable& table = made.table;
  EXPECT_EQ(table.header().region.incompat, KVT_INCOMPAT_DEVICE_WINDOWS);
  EXPECT_TRUE(table.is_device(0));
  EXPECT_FALSE(table.is_device(1));
  EXPECT_EQ(table.tier(0).window_bytes % kWindowAlignment, 0u);
  EXPECT_EQ(table.window_descriptors(0), table.tier(0).window_bytes / kWindowAlignment);
  EXPECT_EQ(table.window_descriptors(1), 1u);
  EXPECT_TRUE(
      std::equal(geometry.tiers[0].device->begin(), geometry.tiers[0].device->end(), table.device(0).uuid));
  // What the table itself says is looked at before anybody divides by it.
  auto& header = *reinterpret_cast<kvt_abi_arena_header*>(made.memory.data());
  header.device[0].chunk_bytes = 0;
  EXPECT_FALSE(ArenaTable::open(made.memory.data(), made.memory.bytes()).has_value());
  header.device[0].chunk_bytes = 1;
  EXPECT_FALSE(ArenaTable::open(made.memory.data(), made.memory.bytes()).has_value());
  header.device[0].chunk_bytes = kWindowAlignment;
  EXPECT_TRUE(ArenaTable::open(made.memory.data(), made.memory.bytes()).has_value());
}

TEST(ArenaTable, WithoutDeviceWindowsItNeedsNothingNew) {
  TestTable made(small_geometry());
  EXPECT_EQ(made.table.header().region.incompat, 0u);
}

TEST_P(Columns, EveryFieldOfEveryRowIsItsOwn) {
  TestTable made(small_geometry(GetParam(), 37));  // not a multiple of anything
  ArenaWriter& table = made.table;
  const auto stamp = [](uint32_t what, uint32_t column, PageIndex page) {
    return (uint64_t{what} << 48) | (uint64_t{column} << 32) | page;
  };
  for (uint32_t column = 0; column < table.columns(); ++column)
    for (PageIndex page = 0; page < table.pages(); ++page) {
      table.set_placement(column, page, Placement{stamp(1, column, page)});
      table.set_shadow(column, page, Shadow{stamp(2, column, page)});
      table.set_offer(column, page, Offer{stamp(3, column, page)}, stamp(4, column, page));
      table.set_heat(column, page, static_cast<uint8_t>(column * 64 + page));
    }
  for (PageIndex page = 0; page < table.pages(); ++page) {
    table.set_key(page, Key{stamp(5, 0, page), stamp(6, 0, page)});
    table.set_owner(page, stamp(7, 0, page));
    table.set_parent(page, Handle{stamp(8, 0, page)});
    table.set_group(page, static_cast<uint16_t>(page + 9000));
  }
  EXPECT_TRUE(ArenaTable::open(made.memory.data(), made.memory.bytes()).has_value())
      << "no row lies over the header";
  for (uint32_t column = 0; column < table.columns(); ++column)
    for (PageIndex page = 0; page < table.pages(); ++page) {
      ASSERT_EQ(table.placement(column, page).word, stamp(1, column, page));
      ASSERT_EQ(table.placement_words(column)[page], stamp(1, column, page));
      ASSERT_EQ(table.shadow(column, page).word, stamp(2, column, page));
      ASSERT_EQ(table.offer(column, page).word, stamp(3, column, page));
      ASSERT_EQ(table.offer_serial(column, page), stamp(4, column, page));
      ASSERT_EQ(table.heat(column, page), static_cast<uint8_t>(column * 64 + page));
    }
  for (PageIndex page = 0; page < table.pages(); ++page) {
    ASSERT_EQ(table.key(page), (Key{stamp(5, 0, page), stamp(6, 0, page)}));
    ASSERT_EQ(table.owner(page), stamp(7, 0, page));
    ASSERT_EQ(table.parent(page).value, stamp(8, 0, page));
    ASSERT_EQ(table.group(page), page + 9000);
  }
}

TEST_P(Columns, TheHeaderSaysWhatWasAsked) {
  ArenaGeometry geometry = small_geometry(GetParam());
  geometry.fingerprint.fill(0xab);
  TestTable made(geometry);
  const kvt_abi_arena_header& header = made.table.header();
  EXPECT_EQ(header.page_bytes, 65536u);
  EXPECT_EQ(header.pages, 100u);
  EXPECT_EQ(header.block_tokens, 16u);
  EXPECT_EQ(header.arena_id, 7u);
  EXPECT_EQ(header.fingerprint[0], 0xab);
  EXPECT_EQ(header.fingerprint[31], 0xab);
  EXPECT_STREQ(header.name, "unit");
  EXPECT_STREQ(made.table.tier(0).name, "hbm0");
  EXPECT_EQ(made.table.tier(0).flags, KVT_TIER_EMULATED);
  EXPECT_EQ(made.table.tier(0).column, 0);
  const kvt_abi_tier& last = made.table.tier(made.table.tiers() - 1);
  EXPECT_STREQ(last.name, "dram");
  EXPECT_EQ(last.flags, 0u);
  EXPECT_EQ(last.column, -1);
  EXPECT_EQ(last.read_bytes_per_second, 300u);
  EXPECT_EQ(last.write_bytes_per_second, 200u);
  std::array<uint8_t, KVT_FINGERPRINT_BYTES> other{};
  other[5] = 1;
  made.table.set_fingerprint(other);
  EXPECT_EQ(made.table.header().fingerprint[5], 1);
  EXPECT_EQ(made.table.header().fingerprint[0], 0);
}

TEST(ArenaTable, TheEpochAdvancesByOneAndGivesTheOneBefore) {
  TestTable made(small_geometry());
  EXPECT_EQ(made.table.advance_epoch(), 1u);
  EXPECT_EQ(made.table.advance_epoch(), 2u);
  EXPECT_EQ(made.table.epoch(), 3u);
}

// ---- windows ----

class Windows : public testing::TestWithParam<std::tuple<uint64_t, uint32_t>> {
 protected:
  [[nodiscard]] static uint64_t page_bytes() { return std::get<0>(GetParam()); }
  [[nodiscard]] static uint32_t columns() { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(ArenaTable, Windows,
                         testing::Combine(testing::Values(16384u, 65536u, 655360u, 1572864u, 2561024u,
                                                          4497408u),
                                          testing::Values(1u, 2u)));

TEST_P(Windows, LieApartAtHugePagesAndAtMultiplesOfTheStride) {
  ArenaGeometry geometry = small_geometry(columns());
  geometry.page_bytes = page_bytes();
  TestTable made(geometry);
  const ArenaTable& table = made.table;
  uint64_t end = 0;
  for (uint32_t i = 0; i < table.tiers(); ++i) {
    const kvt_abi_tier& tier = table.tier(i);
    const uint64_t offset = table.window_offset(i);
    EXPECT_EQ(offset % kWindowAlignment, 0u);
    EXPECT_EQ(offset % page_bytes(), 0u);
    EXPECT_GE(offset, end) << "windows do not overlap";
    EXPECT_EQ(tier.window_bytes % 4096, 0u);
    // Every usable frame, at frame x stride, lies whole in its window.
    EXPECT_GE(tier.first_frame * page_bytes(), offset);
    EXPECT_LE((tier.first_frame + tier.frames) * page_bytes(), offset + tier.window_bytes);
    EXPECT_EQ(tier.frames, geometry.tiers[i].frames);
    end = offset + tier.window_bytes;
  }
  EXPECT_EQ(table.range_bytes(), end);
  EXPECT_EQ(table.header().frames,
            table.tier(table.tiers() - 1).first_frame + table.tier(table.tiers() - 1).frames);
}

TEST_P(Windows, TheScratchFrameIsMappedButNobodysFrame) {
  ArenaGeometry geometry = small_geometry(columns());
  geometry.page_bytes = page_bytes();
  TestTable made(geometry);
  EXPECT_FALSE(made.table.tier_of_frame(kScratchFrame).has_value());
  EXPECT_EQ(made.table.tier(0).first_frame, 1u);
  EXPECT_EQ(made.table.window_offset(0), 0u);
  EXPECT_GE(made.table.tier(0).window_bytes, (made.table.tier(0).frames + 1) * page_bytes())
      << "a kernel may read frame 0";
}

TEST_P(Windows, TierOfFrameKnowsEveryFrameAndEveryGap) {
  ArenaGeometry geometry = small_geometry(columns());
  geometry.page_bytes = page_bytes();
  TestTable made(geometry);
  std::vector<int> expected(made.table.header().frames + 2, -1);
  for (uint32_t i = 0; i < made.table.tiers(); ++i)
    for (uint64_t frame = 0; frame < made.table.tier(i).frames; ++frame) {
      int& at = expected[made.table.tier(i).first_frame + frame];
      ASSERT_EQ(at, -1) << "a frame of two tiers";
      at = static_cast<int>(i);
    }
  for (Frame frame = 0; frame < expected.size(); ++frame) {
    const auto tier = made.table.tier_of_frame(frame);
    ASSERT_EQ(tier ? static_cast<int>(*tier) : -1, expected[frame]) << "frame " << frame;
  }
}

// ---- open() ----

class Open : public testing::Test {
 protected:
  Open() : made_(small_geometry(2)) {}
  kvt_abi_arena_header& header() { return *reinterpret_cast<kvt_abi_arena_header*>(made_.memory.data()); }
  void expect_refused(const std::string& word) {
    const auto opened = ArenaTable::open(made_.memory.data(), made_.memory.bytes());
    ASSERT_FALSE(opened.has_value()) << "expected a refusal that says " << word;
    EXPECT_EQ(opened.error().code, Code::kMismatch);
    EXPECT_NE(opened.error().text.find(word), std::string::npos) << opened.error().text;
  }
  TestTable made_;
};

TEST_F(Open, TakesAGoodTable) {
  const auto opened = ArenaTable::open(made_.memory.data(), made_.memory.bytes());
  ASSERT_TRUE(opened.has_value()) << opened.error().text;
  EXPECT_EQ(opened->pages(), 100u);
}
TEST_F(Open, RefusesAnotherMagic) {
  header().region.magic ^= 1;
  expect_refused("magic");
}
TEST_F(Open, RefusesAnotherMajorWithBothNumbers) {
  header().region.major = KVT_ABI_MAJOR + 41;
  expect_refused(std::to_string(KVT_ABI_MAJOR + 41));
  expect_refused("knows " + std::to_string(KVT_ABI_MAJOR));
}
TEST_F(Open, TakesALaterMinor) {
  header().region.minor = KVT_ABI_MINOR + 1;
  EXPECT_TRUE(ArenaTable::open(made_.memory.data(), made_.memory.bytes()).has_value());
}
TEST_F(Open, RefusesAnUnknownIncompatBit) {
  header().region.incompat = 1ull << 40;
  expect_refused("feature bits");
}
TEST_F(Open, IgnoresAnUnknownCompatBit) {
  header().region.compat = 1ull << 40;
  EXPECT_TRUE(ArenaTable::open(made_.memory.data(), made_.memory.bytes()).has_value());
}
TEST_F(Open, RefusesAShortFile) {
  EXPECT_FALSE(ArenaTable::open(made_.memory.data(), sizeof(kvt_abi_arena_header) - 1).has_value());
  EXPECT_FALSE(ArenaTable::open(made_.memory.data(), made_.memory.bytes() - 4096).has_value());
}
TEST_F(Open, RefusesEveryOtherOffset) {
  using Field = uint64_t kvt_abi_arena_header::*;
  const Field fields[] = {&kvt_abi_arena_header::placement_offset,
                          &kvt_abi_arena_header::shadow_offset,
                          &kvt_abi_arena_header::offer_offset,
                          &kvt_abi_arena_header::serial_offset,
                          &kvt_abi_arena_header::key_offset,
                          &kvt_abi_arena_header::owner_offset,
                          &kvt_abi_arena_header::parent_offset,
                          &kvt_abi_arena_header::group_offset,
                          &kvt_abi_arena_header::heat_offset,
                          &kvt_abi_arena_header::index_offset,
                          &kvt_abi_arena_header::index_slots,
                          &kvt_abi_arena_header::log_offset,
                          &kvt_abi_arena_header::log_entries,
                          &kvt_abi_arena_header::column_stride,
                          &kvt_abi_arena_header::pages};
  for (const Field field : fields) {
    for (const uint64_t wrong : {uint64_t{0}, header().*field + 4096, UINT64_MAX}) {
      const uint64_t was = header().*field;
      header().*field = wrong;
      EXPECT_FALSE(ArenaTable::open(made_.memory.data(), made_.memory.bytes()).has_value());
      header().*field = was;
    }
  }
  header().region.region_bytes += 4096;
  expect_refused("offsets");
}
TEST_F(Open, RefusesNumbersBeyondTheLimits) {
  header().columns = KVT_MAX_COLUMNS + 1;
  expect_refused("limit");
  header().columns = 2;
  header().tiers = KVT_MAX_TIERS + 1;
  expect_refused("limit");
  header().tiers = 0;
  expect_refused("limit");
}

TEST(ArenaTable, CreateRefusesWhatCheckGeometryRefuses) {
  ArenaGeometry geometry = small_geometry();
  test::SharedMemory memory(arena_table_bytes(geometry));
  geometry.page_bytes = 1000;
  EXPECT_FALSE(ArenaWriter::create(memory.data(), memory.bytes(), geometry).has_value());
}

TEST(ArenaTable, TheTableOfOneColumnKeepsWithinItsBudgetAPage) {
  ArenaGeometry geometry = small_geometry(1, 3 << 18);  // the fullest index: 3/4
  geometry.block_tokens = 1;
  EXPECT_LE(arena_table_bytes(geometry), 112 * geometry.pages)
      << "issue 2: RSS plus arena table <= 112 bytes a page";
}

}  // namespace
}  // namespace kvt
