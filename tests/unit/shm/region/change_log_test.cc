// SPDX-License-Identifier: Apache-2.0
#include "shm/region/change_log.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "tests/support/shared_memory.h"

namespace kvt {
namespace {

class ChangeLogTest : public testing::Test {
 protected:
  ChangeLogTest() : made_(test::small_geometry(2)), log_(made_.table) {}
  test::TestTable made_;
  ChangeLog log_;
};

TEST_F(ChangeLogTest, GivesBackWhatWasAppendedInOrder) {
  for (uint32_t i = 0; i < 1000; ++i) log_.append(i % 2, KVT_MAX_PAGES - 1 - i);
  ASSERT_EQ(log_.tail(), 1000u);
  for (uint32_t i = 0; i < 1000; ++i) {
    ChangeLog::Entry entry{};
    ASSERT_EQ(log_.read(i, entry), ChangeLog::Read::kEntry);
    ASSERT_EQ(entry.page, KVT_MAX_PAGES - 1 - i);
    ASSERT_EQ(entry.column, i % 2);
  }
}

TEST_F(ChangeLogTest, TheOldestEntryGoesWithTheFirstOneTooMany) {
  for (uint64_t i = 0; i < ChangeLog::kCapacity; ++i) log_.append(0, static_cast<PageIndex>(i));
  ChangeLog::Entry entry{};
  EXPECT_EQ(log_.read(0, entry), ChangeLog::Read::kEntry);
  log_.append(0, 77);
  EXPECT_EQ(log_.read(0, entry), ChangeLog::Read::kOverrun);
  ASSERT_EQ(log_.read(1, entry), ChangeLog::Read::kEntry);
  EXPECT_EQ(entry.page, 1u);
  ASSERT_EQ(log_.read(ChangeLog::kCapacity, entry), ChangeLog::Read::kEntry);
  EXPECT_EQ(entry.page, 77u);
}

TEST_F(ChangeLogTest, PositionsBeyond24BitsAreTold) {
  auto& tail = const_cast<uint64_t&>(made_.table.header().log_tail);
  tail = (1ull << 24) - 2;
  for (PageIndex page = 10; page < 15; ++page) log_.append(1, page);
  for (uint64_t i = 0; i < 5; ++i) {
    ChangeLog::Entry entry{};
    ASSERT_EQ(log_.read((1ull << 24) - 2 + i, entry), ChangeLog::Read::kEntry);
    EXPECT_EQ(entry.page, 10 + i);
  }
}

// An entry names the page that was appended at that position, or says overrun: a reader that is overtaken in
// the middle never takes a later entry for an earlier one.
TEST_F(ChangeLogTest, AnOvertakenReaderNotices) {
  const auto page_at = [](uint64_t position) {
    return static_cast<PageIndex>(position * 2654435761u) & (KVT_MAX_PAGES - 1);
  };
  std::atomic<uint64_t> right{0};
  std::thread writer([&] {
    for (uint64_t i = 0; i < 2 * ChangeLog::kCapacity || right < 1000; ++i) log_.append(0, page_at(i));
  });
  uint64_t position = 0;
  while (right < 1000) {
    const uint64_t tail = log_.tail();
    if (tail == position) continue;
    ChangeLog::Entry entry{};
    if (tail - position <= ChangeLog::kCapacity && log_.read(position, entry) == ChangeLog::Read::kEntry) {
      EXPECT_EQ(entry.page, page_at(position));
      ++right;
      ++position;
    } else {
      // Overtaken: go on at the edge, where the writer is about to overwrite.
      position = tail > ChangeLog::kCapacity ? tail - ChangeLog::kCapacity : tail;
    }
  }
  writer.join();
}

}  // namespace
}  // namespace kvt
