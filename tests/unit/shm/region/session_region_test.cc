// SPDX-License-Identifier: Apache-2.0
#include "shm/region/session_region.h"

#include <gtest/gtest.h>

#include <map>
#include <thread>
#include <vector>

#include "tests/support/random.h"
#include "tests/support/shared_memory.h"

namespace kvt {
namespace {

using test::TestRegion;

std::map<PageIndex, uint32_t> collected(TestRegion& made) {
  std::map<PageIndex, uint32_t> reads;
  ReadsCursor all;
  collect_counters(made.region, made.geometry.pages, all, [&](PageIndex page, uint32_t count) {
    EXPECT_FALSE(reads.contains(page)) << "a page is visited once";
    reads[page] = count;
  });
  return reads;
}

// ---- the header ----

TEST(SessionRegion, OpenGivesBackTheGeometry) {
  TestRegion made(1000, 3);
  SessionGeometry seen;
  const auto opened = SessionRegion::open(made.memory.data(), made.memory.bytes(), seen);
  ASSERT_TRUE(opened.has_value()) << opened.error().text;
  EXPECT_EQ(seen.pages, 1000u);
  EXPECT_EQ(seen.members_max, 3u);
  EXPECT_EQ(seen.session_id, 5u);
  EXPECT_EQ(seen.arena_id, 7u);
}

TEST(SessionRegion, OpenRefusesWhatDoesNotFit) {
  TestRegion made(1000, 3);
  SessionGeometry seen;
  const auto opens = [&](uint64_t bytes) {
    return SessionRegion::open(made.memory.data(), bytes, seen).has_value();
  };
  kvt_abi_session_header& header = made.region.header();
  EXPECT_TRUE(opens(made.memory.bytes()));
  EXPECT_FALSE(opens(made.memory.bytes() - 4096));
  EXPECT_FALSE(opens(sizeof(kvt_abi_session_header) - 1));
  const auto with = [&](auto& field, auto value) {
    const auto was = field;
    field = value;
    EXPECT_FALSE(opens(made.memory.bytes()));
    field = was;
  };
  with(header.region.magic, uint64_t{0});
  with(header.region.major, static_cast<uint16_t>(KVT_ABI_MAJOR + 1));
  with(header.pages, uint64_t{0});
  with(header.pages, uint64_t{100'000});
  with(header.pages, uint64_t{KVT_MAX_PAGES} + 1);
  with(header.members_max, 0u);
  with(header.members_max, KVT_MAX_MEMBERS + 1);
  with(header.member_stride, uint64_t{64});
  EXPECT_TRUE(opens(made.memory.bytes()));
}

TEST(SessionRegion, ARegionOfTheMostMembersHasRoomForAll) {
  TestRegion made(64, KVT_MAX_MEMBERS);
  for (uint32_t i = 0; i < KVT_MAX_MEMBERS; ++i) made.region.member(i).slot[KVT_STEP_SLOTS - 1].epoch = i + 1;
  for (uint32_t i = 0; i < KVT_MAX_MEMBERS; ++i) EXPECT_EQ(oldest_open_step(made.region.member(i)), i + 1);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(&made.region.member(1)) % 4096, 0u)
      << "step slots have OS pages of their own";
  EXPECT_EQ(made.region.counters()[0].count, 0) << "no member lies over the counters";
  EXPECT_EQ(made.region.holds()[63], 0);
}

// ---- steps ----

TEST(Steps, TheOldestOfAllOpenOnesCounts) {
  TestRegion made(64);
  kvt_abi_member& member = made.region.member(0);
  EXPECT_EQ(oldest_open_step(member), UINT64_MAX) << "idle slots hold 0 and block nothing";
  for (uint32_t i = 0; i < KVT_STEP_SLOTS; ++i) step_publish(member.slot[i], 1000 - i);
  EXPECT_EQ(oldest_open_step(member), 1000 - (KVT_STEP_SLOTS - 1));
  step_clear(member.slot[KVT_STEP_SLOTS - 1]);
  EXPECT_EQ(oldest_open_step(member), 1000 - (KVT_STEP_SLOTS - 2));
  step_publish(member.slot[3], UINT64_MAX - 1);
  for (uint32_t i = 0; i < KVT_STEP_SLOTS; ++i)
    if (i != 3) step_clear(member.slot[i]);
  EXPECT_EQ(oldest_open_step(member), UINT64_MAX - 1);
}

// ---- holds ----

TEST(Holds, CountUpAndDownAndNeverBelowZero) {
  TestRegion made(10'000);
  EXPECT_FALSE(held(made.region, 9'999));
  EXPECT_EQ(hold_drop(made.region, 9'999), HoldDrop::kNotHeld);
  EXPECT_FALSE(held(made.region, 9'999));
  EXPECT_EQ(hold_add(made.region, 9'999), HoldAdd::kAdded);
  EXPECT_EQ(hold_add(made.region, 9'999), HoldAdd::kAdded);
  EXPECT_TRUE(held(made.region, 9'999));
  EXPECT_EQ(hold_drop(made.region, 9'999), HoldDrop::kStillHeld);
  EXPECT_TRUE(held(made.region, 9'999));
  EXPECT_EQ(hold_drop(made.region, 9'999), HoldDrop::kLast);
  EXPECT_EQ(hold_drop(made.region, 9'999), HoldDrop::kNotHeld);
  for (PageIndex page = 0; page < 10'000; ++page) ASSERT_FALSE(held(made.region, page));
}

TEST(Holds, SaturateBeforeTheyWrap) {
  TestRegion made(64);
  for (uint32_t i = 0; i < KVT_MAX_HOLDS; ++i) ASSERT_EQ(hold_add(made.region, 5), HoldAdd::kAdded);
  EXPECT_EQ(hold_add(made.region, 5), HoldAdd::kSaturated);
  EXPECT_EQ(made.region.holds()[5], KVT_MAX_HOLDS);
  EXPECT_EQ(hold_drop(made.region, 5), HoldDrop::kStillHeld);
  EXPECT_EQ(hold_add(made.region, 5), HoldAdd::kAdded);
}

TEST(Holds, TheSummaryBitOfEveryHeldPageIsSet) {
  constexpr uint64_t kPages = 64 * 64 * 2 + 100;
  TestRegion made(kPages);
  EXPECT_EQ(made.region.summary_words(), 3u);
  for (const PageIndex page : {0u, 63u, 64u, 4095u, 4096u, static_cast<PageIndex>(kPages - 1)}) {
    hold_add(made.region, page);
    const uint64_t bit = page / KVT_SUMMARY_PAGES;
    EXPECT_NE(made.region.held()[bit / 64] & (uint64_t{1} << (bit % 64)), 0u) << page;
  }
  EXPECT_EQ(made.region.held()[0], 1ull | 2ull | (1ull << 63));
}

TEST(Holds, FromSeveralThreadsAddUp) {
  TestRegion made(64);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 5000; ++i) {
        EXPECT_EQ(hold_add(made.region, 7), HoldAdd::kAdded);
        if (i % 2 == 0) {
          EXPECT_NE(hold_drop(made.region, 7), HoldDrop::kNotHeld);
        }
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(made.region.holds()[7], 4 * 2500);
}

// ---- counters ----

TEST(Counters, ATouchIsCollectedOnce) {
  TestRegion made(10'000);
  EXPECT_FALSE(any_touched(made.region));
  touch(made.region, 4711);
  touch(made.region, 4711);
  touch(made.region, 9'999);
  EXPECT_TRUE(any_touched(made.region));
  EXPECT_EQ(collected(made), (std::map<PageIndex, uint32_t>{{4711, 2}, {9'999, 1}}));
  EXPECT_FALSE(any_touched(made.region));
  EXPECT_TRUE(collected(made).empty());
}

TEST(Counters, RandomTouchesBesideANaiveModel) {
  test::Random random;
  for (const uint64_t pages : {1ull, 63ull, 64ull, 65ull, 4096ull, 10'001ull}) {
    TestRegion made(pages);
    std::map<PageIndex, uint32_t> expected;
    for (int i = 0; i < 3000; ++i) {
      const PageIndex first = random.below32(pages);
      if (random.one_in(3)) {
        touch(made.region, first);
        ++expected[first];
      } else {
        const uint32_t count = random.below32(std::min<uint64_t>(pages - first, 9000) + 1);
        touch_range(made.region, first, count);
        for (uint32_t k = 0; k < count; ++k) ++expected[first + k];
      }
      if (!random.one_in(10)) continue;
      for (auto& [page, reads] : expected) reads = std::min(reads, KVT_MAX_READS_PERIOD);
      ASSERT_EQ(collected(made), expected) << pages << " pages, operation " << i;
      expected.clear();
    }
  }
}

TEST(Counters, ARangeOverAllSummaryWords) {
  constexpr uint64_t kPages = 3 * 4096 + 17;
  TestRegion made(kPages);
  touch_range(made.region, 1, kPages - 1);
  touch_range(made.region, 5, 0);
  const auto reads = collected(made);
  EXPECT_EQ(reads.size(), kPages - 1);
  EXPECT_EQ(reads.begin()->first, 1u);
}

TEST(Counters, WrapAt16Bits) {
  TestRegion made(64);
  made.region.counters()[3] = {0xfffe, 0xfffe};
  for (int i = 0; i < 5; ++i) touch(made.region, 3);
  EXPECT_EQ(made.region.counters()[3].count, 3);
  EXPECT_EQ(collected(made), (std::map<PageIndex, uint32_t>{{3, 5}}));
}

TEST(Counters, WhatOnePeriodAddsIsCapped) {
  TestRegion made(64);
  for (uint32_t i = 0; i < KVT_MAX_READS_PERIOD; ++i) touch(made.region, 3);
  EXPECT_EQ(collected(made), (std::map<PageIndex, uint32_t>{{3, KVT_MAX_READS_PERIOD}}));
  made.region.counters()[3].count = static_cast<uint16_t>(made.region.counters()[3].seen + 0xffff);
  made.region.touched()[0] = 1;
  EXPECT_EQ(collected(made), (std::map<PageIndex, uint32_t>{{3, KVT_MAX_READS_PERIOD}}));
}

TEST(Counters, HostileSummaryBitsBeyondTheLastPageAreHarmless) {
  TestRegion made(65);
  made.region.touched()[0] = ~uint64_t{0};
  EXPECT_TRUE(collected(made).empty());
  EXPECT_FALSE(any_touched(made.region));
}

TEST(Counters, TouchesThatRaceWithTheCollectorAreNotMadeUp) {
  TestRegion made(256);
  constexpr uint32_t kTouches = 20'000;
  std::atomic<bool> done{false};
  std::thread client([&] {
    for (uint32_t i = 0; i < kTouches; ++i) touch(made.region, i % 256);
    done = true;
  });
  uint64_t total = 0;
  const auto take = [&] {
    ReadsCursor all;
    collect_counters(made.region, 256, all, [&](PageIndex, uint32_t reads) { total += reads; });
  };
  while (!done) take();
  client.join();
  take();
  for (PageIndex page = 0; page < 256; ++page)
    touch(made.region, page);  // brings home what the summary race left
  take();
  EXPECT_EQ(total, kTouches + 256)
      << "one client thread: no increment is lost, and the last touch of a block is seen";
}

TEST(Counters, ABudgetLeavesTheRestForTheNextLooks) {
  constexpr uint64_t kPages = 64 * 1024;  // 16 words of the summary
  TestRegion made(kPages);
  for (PageIndex page = 0; page < kPages; page += 2) touch(made.region, page, 3);
  const uint64_t of_a_word = 64 * (ReadsCursor::kGroupCost + 32);
  ReadsCursor cursor;
  std::map<PageIndex, uint32_t> reads;
  uint32_t looks = 0;
  while (any_touched(made.region)) {
    ASSERT_LT(++looks, 100u);
    cursor.budget = 1;
    const size_t before = reads.size();
    collect_counters(made.region, kPages, cursor,
                     [&](PageIndex page, uint32_t count) { reads[page] += count; });
    if (looks <= 16) EXPECT_EQ(reads.size() - before, 64u * 32u) << "a word, whatever is left of the budget";
    if (looks == 3) touch(made.region, 0);  // behind the cursor: when its turn comes
  }
  EXPECT_EQ(looks, 17u);
  EXPECT_EQ(reads.size(), kPages / 2);
  for (const auto& [page, count] : reads) EXPECT_EQ(count, page == 0 ? 4u : 3u) << page;

  for (PageIndex page = 0; page < kPages; page += 2) touch(made.region, page);
  cursor.budget = 3 * of_a_word;
  uint64_t visits = 0;
  collect_counters(made.region, kPages, cursor, [&](PageIndex, uint32_t) { ++visits; });
  EXPECT_EQ(visits, 3 * 64u * 32u);
  EXPECT_EQ(cursor.budget, 0u);
  EXPECT_TRUE(any_touched(made.region));
}

TEST(Counters, ASummaryThatLiesCostsAsMuchAsItMakesLookAt) {
  constexpr uint64_t kPages = 64 * 1024;
  TestRegion made(kPages);
  for (uint64_t word = 0; word < made.region.summary_words(); ++word)
    made.region.touched()[word] = ~uint64_t{0};
  ReadsCursor cursor;
  cursor.budget = 2 * 64 * ReadsCursor::kGroupCost;
  collect_counters(made.region, kPages, cursor, [](PageIndex page, uint32_t) { ADD_FAILURE() << page; });
  uint64_t words_left = 0;
  for (uint64_t word = 0; word < made.region.summary_words(); ++word)
    words_left += made.region.touched()[word] != 0;
  EXPECT_EQ(words_left, made.region.summary_words() - 2);
}

// ---- sequences ----

struct Sequences : testing::Test {
  Sequences() : made(1000), member(made.region.member(0)) {}
  void declare(uint32_t sequence, uint32_t first, uint32_t length) {
    member.sequence[sequence].first = first;
    member.sequence[sequence].length = length;
  }
  void touch_sequence(uint32_t sequence, uint32_t times = 1) {
    member.sequence[sequence].count += times;
    member.sequences_touched[sequence / 64] |= uint64_t{1} << (sequence % 64);
  }
  uint64_t collect() {
    reads.clear();
    uint64_t visits = 0;
    ReadsCursor all;
    collect_sequences(member, made.geometry.pages, all, [&](PageIndex page, uint32_t count) {
      reads[page] += count;
      ++visits;
    });
    return visits;
  }
  TestRegion made;
  kvt_abi_member& member;
  std::map<PageIndex, uint32_t> reads;
};

TEST_F(Sequences, ABudgetLeavesTheRestForTheNextLooks) {
  for (uint32_t i = 0; i < 10; ++i) member.sequence_pool[i] = i;
  for (uint32_t sequence = 0; sequence < KVT_SEQUENCES; sequence += 64) {
    declare(sequence, 0, 10);
    touch_sequence(sequence);
  }
  ReadsCursor cursor;
  uint64_t visits = 0;
  uint32_t looks = 0;
  while (any_sequence_touched(member)) {
    ASSERT_LT(++looks, 100u);
    cursor.budget = 22;  // two sequences of 10, and the looks at them
    collect_sequences(member, made.geometry.pages, cursor, [&](PageIndex, uint32_t) { ++visits; });
  }
  EXPECT_EQ(looks, KVT_SEQUENCES / 64 / 2);
  EXPECT_EQ(visits, KVT_SEQUENCES / 64 * 10);
}

TEST_F(Sequences, OneTouchReadsEveryPage) {
  for (uint32_t i = 0; i < 10; ++i) member.sequence_pool[100 + i] = i * 3;
  declare(KVT_SEQUENCES - 1, 100, 10);
  EXPECT_FALSE(any_sequence_touched(member));
  touch_sequence(KVT_SEQUENCES - 1, 2);
  EXPECT_TRUE(any_sequence_touched(member));
  EXPECT_EQ(collect(), 10u);
  EXPECT_EQ(reads[27], 2u);
  EXPECT_FALSE(any_sequence_touched(member));
  EXPECT_EQ(collect(), 0u);
}

TEST_F(Sequences, TheWholePoolInOneSequence) {
  for (uint32_t i = 0; i < KVT_SEQUENCE_POOL; ++i) member.sequence_pool[i] = i % 1000;
  declare(0, 0, KVT_SEQUENCE_POOL);
  touch_sequence(0);
  EXPECT_EQ(collect(), KVT_SEQUENCE_POOL);
}

TEST_F(Sequences, MaliciousBoundsAreIgnored) {
  const std::pair<uint32_t, uint32_t> hostile[] = {
      {KVT_SEQUENCE_POOL, 1}, {KVT_SEQUENCE_POOL - 1, 2}, {UINT32_MAX, 1}, {0, KVT_SEQUENCE_POOL + 1},
      {1, UINT32_MAX},        {UINT32_MAX, UINT32_MAX},   {5, 0}};
  uint32_t sequence = 0;
  for (const auto& [first, length] : hostile) {
    declare(sequence, first, length);
    touch_sequence(sequence++);
  }
  EXPECT_EQ(collect(), 0u);
}

TEST_F(Sequences, MaliciousPagesAreIgnored) {
  member.sequence_pool[0] = 1000;
  member.sequence_pool[1] = UINT32_MAX;
  member.sequence_pool[2] = 999;
  declare(0, 0, 3);
  touch_sequence(0);
  EXPECT_EQ(collect(), 1u);
  EXPECT_EQ(reads, (std::map<PageIndex, uint32_t>{{999, 1}}));
}

TEST_F(Sequences, MaliciousOverlapCannotKeepTheLoop) {
  for (uint32_t sequence = 0; sequence < KVT_SEQUENCES; ++sequence) {
    declare(sequence, 0, KVT_SEQUENCE_POOL);
    touch_sequence(sequence);
  }
  EXPECT_EQ(collect(), KVT_SEQUENCE_POOL) << "at most one pool a call";
}

TEST_F(Sequences, ReadsOfOneSequenceAreCapped) {
  member.sequence_pool[0] = 7;
  declare(0, 0, 1);
  touch_sequence(0, UINT32_MAX);
  collect();
  EXPECT_EQ(reads[7], KVT_MAX_READS_PERIOD);
}

}  // namespace
}  // namespace kvt
