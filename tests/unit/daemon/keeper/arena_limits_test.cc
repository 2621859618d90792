// SPDX-License-Identifier: Apache-2.0
//
// Limits that an arena keeps: sessions, members, generations.
#include <gtest/gtest.h>

#include "tests/support/arena_fixture.h"

namespace kvt::keeper {
namespace {

using test::ArenaOptions;
using test::key_of;
using test::TestArena;
using test::TestSession;

TEST(ArenaLimits, Sessions) {
  TestArena test;
  for (uint64_t id = 1; id <= KVT_MAX_SESSIONS; ++id) {
    const auto session = test.arena().add_session(id, 0, 1, true, 0);
    ASSERT_TRUE(session.has_value()) << session.error().text;
    EXPECT_EQ((*session)->geometry.slot, id - 1);
  }
  const auto more = test.arena().add_session(1000, 0, 1, true, 0);
  ASSERT_FALSE(more.has_value());
  EXPECT_EQ(more.error().code, Code::kLimit);
  EXPECT_EQ(test.arena().session_count(), KVT_MAX_SESSIONS);
  test.pass();
  EXPECT_EQ(test.inconsistency(), "");
  test.arena().end_session(*test.arena().find_session(77));
  const auto again = test.arena().add_session(1000, 0, 1, true, 0);
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ((*again)->geometry.slot, 76u) << "the slot that became free";
}

TEST(ArenaLimits, Members) {
  TestArena test;
  const auto session = test.arena().add_session(1, 0, KVT_MAX_MEMBERS, true, 0);
  ASSERT_TRUE(session.has_value());
  for (uint32_t i = 0; i < KVT_MAX_MEMBERS; ++i) EXPECT_EQ(*test.arena().add_member(**session, 0), i);
  const auto more = test.arena().add_member(**session, 0);
  ASSERT_FALSE(more.has_value());
  EXPECT_EQ(more.error().code, Code::kLimit);
  test.arena().end_member(**session, 5);
  EXPECT_EQ(*test.arena().add_member(**session, 0), 5u);
}

TEST(ArenaLimits, KeysThatCollide) {
  ArenaOptions options;
  options.slow_frames = KVT_INDEX_PROBES + 200;
  TestArena test(options);
  const uint64_t slots = test.table().header().index_slots;
  const auto session = test.attach();
  uint64_t lo = 0;
  const auto colliding = [&] {
    while ((PrefixIndex::hash({++lo, 5}) & (slots - 1)) != 9) continue;
    return Key{lo, 5};
  };
  for (uint32_t i = 0; i < KVT_INDEX_PROBES; ++i) {
    const Key key = colliding();
    const Handle page = session->publish_new(test, key);
    ASSERT_EQ(session->lookup(test.table(), key, false), page) << i;
  }
  const Handle page = session->allocate(test);
  const Key one_more = colliding();
  EXPECT_EQ(session->ask(test, KVT_OP_PUBLISH, page, one_more).result, KVT_RESULT_FULL);
  EXPECT_TRUE(session->lookup(test.table(), one_more, false).none());
  EXPECT_EQ(session->ask(test, KVT_OP_PUBLISH, page, key_of(1)).result, KVT_RESULT_OK)
      << "it can have another";
  EXPECT_EQ(test.inconsistency(), "");
}

class Generations : public testing::TestWithParam<uint32_t> {};
INSTANTIATE_TEST_SUITE_P(Columns, Generations, testing::Values(1u, 2u));

TEST_P(Generations, TheLastOneRetiresTheIndex) {
  ArenaOptions options;
  options.columns = GetParam();
  options.fast_frames = 2;
  options.slow_frames = 6;
  TestArena test(options);
  // Page 0 has lived nearly all its lives.
  for (uint32_t column = 0; column < GetParam(); ++column)
    test.table().set_placement(column, 0,
                               Placement::of(PageState::kFree, false, 0, 0, KVT_MAX_GENERATION - 1));
  const auto session = test.attach();
  std::vector<Handle> pages;
  Handle old = kNoHandle;
  for (;;) {
    const Handle page = session->allocate(test);
    if (page.none()) break;
    pages.push_back(page);
    if (page.index() == 0) old = page;
  }
  EXPECT_EQ(pages.size(), test.table().pages());
  ASSERT_EQ(old.generation(), KVT_MAX_GENERATION - 1);
  EXPECT_EQ(session->ask(test, KVT_OP_PUBLISH, old, key_of(1)).result, KVT_RESULT_OK);
  EXPECT_EQ(session->lookup(test.table(), key_of(1), false), old) << "its last life is a whole one";
  session->ask(test, KVT_OP_UNPUBLISH, old);
  for (const Handle page : pages) {
    session->ask(test, KVT_OP_SEAL, page);
    session->let_go(test, page);
  }
  EXPECT_EQ(test.placement(old).state(), PageState::kFree);
  EXPECT_EQ(test.placement(old).generation(), KVT_MAX_GENERATION);
  EXPECT_EQ(test.arena().report().retired, 1u);
  uint64_t again = 0;
  for (;; ++again) {
    const Handle page = session->allocate(test);
    if (page.none()) break;
    EXPECT_NE(page.index(), 0u);
  }
  EXPECT_EQ(again, test.table().pages() - 1);
  EXPECT_EQ(session->free_count(), 0u);
  EXPECT_EQ(test.inconsistency(), "");
}

/// Commands of a pass have a limit for the arena; what is left is served next, and another session first.
TEST(ArenaLimits, CommandsOfAPass) {
  constexpr uint64_t kCommands = 16384;
  TestArena arena;
  std::vector<std::unique_ptr<TestSession>> sessions;
  for (uint64_t i = 0; i < kCommands / KVT_RING_ENTRIES + 2; ++i) sessions.push_back(arena.attach());
  for (const auto& session : sessions) {
    for (uint32_t i = 0; i < KVT_RING_ENTRIES; ++i)
      store_relaxed(session->member().sq[i].op, uint32_t{KVT_OP_FLUSH});
    store_release(session->member().sq_tail.value, uint64_t{KVT_RING_ENTRIES});
  }
  const auto served = [&] {
    uint64_t all = 0;
    for (const auto& session : sessions) all += load_acquire(session->member().sq_head.value);
    return all;
  };
  arena.pass();
  EXPECT_GT(served(), kCommands / 2) << "looking for room in vain costs something, too";
  EXPECT_LE(served(), kCommands);
  EXPECT_TRUE(arena.arena().has_more());
  const uint64_t before = served();
  for (const auto& session : sessions)
    if (load_acquire(session->member().sq_head.value) == KVT_RING_ENTRIES)
      store_release(session->member().sq_tail.value, uint64_t{2 * KVT_RING_ENTRIES});
  arena.pass();
  EXPECT_LE(served() - before, kCommands);
  for (int i = 0; i < 8 && arena.arena().has_more(); ++i) arena.pass();
  EXPECT_FALSE(arena.arena().has_more());
  for (const auto& session : sessions)
    EXPECT_EQ(load_acquire(session->member().sq_head.value), load_acquire(session->member().sq_tail.value));
}

/// Reads that are looked at in a period have a limit for the arena; what is left counts later, and nothing is lost.
TEST(ArenaLimits, ReadsOfAPeriod) {
  constexpr uint64_t kPages = 1 << 16;
  constexpr uint64_t kLooks = 1 << 18;
  constexpr uint64_t kSessions = 12;
  ArenaOptions options;
  options.slow_frames = kPages + 4096;
  TestArena arena(options);
  ASSERT_GE(arena.table().pages(), kPages);
  const uint64_t of_all = kPages + kPages / KVT_SUMMARY_PAGES * ReadsCursor::kGroupCost;
  std::vector<std::unique_ptr<TestSession>> sessions;
  for (uint64_t i = 0; i < kSessions; ++i) sessions.push_back(arena.attach());
  const Handle page = sessions[0]->publish_new(arena, key_of(1));
  ASSERT_FALSE(page.none());
  for (const auto& session : sessions) touch_range(session->region(), 0, kPages);
  const auto touched = [&] {
    uint64_t all = 0;
    for (const auto& session : sessions) all += any_touched(session->region()) ? 1 : 0;
    return all;
  };
  uint64_t periods = 0;
  while (touched() != 0) {
    ASSERT_LT(++periods, 20u);
    arena.period();
  }
  EXPECT_GE(periods, kSessions * of_all / (kLooks + 64 * KVT_SUMMARY_PAGES * kSessions));
  const uint64_t cut_short = arena.arena().counts().periods_cut_short;
  EXPECT_GE(cut_short, periods - 1);
  uint64_t bytes = 0;
  for (const auto& tier : arena.arena().counts().tiers) bytes += tier.bytes_read;
  EXPECT_EQ(bytes, kSessions * arena.table().page_bytes()) << "of the one page that is there";
  arena.period();
  EXPECT_EQ(arena.arena().counts().periods_cut_short, cut_short);
}

/// A session that always has more to do does not keep the others of its arena from their turn.
TEST(ArenaLimits, OneAfterTheOtherIsFirst) {
  constexpr uint64_t kGreedy = 20;
  TestArena arena;
  std::vector<std::unique_ptr<TestSession>> greedy;
  for (uint64_t i = 0; i < kGreedy; ++i) greedy.push_back(arena.attach());
  const auto last = arena.attach();
  const uint64_t tag = last->submit(KVT_OP_FLUSH, kNoHandle);
  std::optional<kvt_abi_completion> done;
  for (uint64_t pass = 0; pass < kGreedy + 1 && !done; ++pass) {
    for (const auto& session : greedy)
      store_release(session->member().sq_tail.value,
                    load_acquire(session->member().sq_head.value) + KVT_RING_ENTRIES);
    arena.pass();
    done = last->completion();
  }
  ASSERT_TRUE(done.has_value());
  EXPECT_EQ(done->tag, tag);
}

}  // namespace
}  // namespace kvt::keeper
