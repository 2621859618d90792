// SPDX-License-Identifier: Apache-2.0
//
// Reservations; and what hostile and read-only sessions ask.
#include <gtest/gtest.h>

#include <tuple>
#include <vector>

#include "tests/support/arena_fixture.h"
#include "tests/support/random.h"

namespace kvt::keeper {
namespace {

using test::ArenaOptions;
using test::key_of;
using test::TestArena;
using test::TestSession;

class ArenaCommands : public testing::TestWithParam<uint32_t> {
 protected:
  ArenaCommands() : test(options()) {}
  void TearDown() override { EXPECT_EQ(test.inconsistency(), ""); }
  static ArenaOptions options() {
    ArenaOptions options;
    options.columns = GetParam();
    return options;
  }
  /// All that clients see of the rows.
  std::vector<uint64_t> rows() {
    std::vector<uint64_t> all;
    for (PageIndex page = 0; page < test.table().pages(); ++page) {
      for (uint32_t column = 0; column < GetParam(); ++column) {
        all.push_back(test.table().placement(column, page).word);
        all.push_back(test.table().shadow(column, page).word);
        all.push_back(test.table().offer(column, page).word);
      }
      all.push_back(test.table().key(page).lo);
      all.push_back(test.table().key(page).hi);
      all.push_back(test.table().owner(page));
      all.push_back(test.table().parent(page).value);
      all.push_back(test.table().group(page));
    }
    return all;
  }
  TestArena test;
};
INSTANTIATE_TEST_SUITE_P(Columns, ArenaCommands, testing::Values(1u, 2u));

// ---- reserve ----

TEST_P(ArenaCommands, ReserveIsNewThenPendingThenPresent) {
  const auto first = test.attach();
  const auto second = test.attach();
  const Handle page = first->allocate(test);
  const Handle other = second->allocate(test);
  EXPECT_EQ(first->ask(test, KVT_OP_RESERVE, page, key_of(1)).result, KVT_RESULT_OK);
  EXPECT_EQ(first->ask(test, KVT_OP_RESERVE, page, key_of(1)).result, KVT_RESULT_OK) << "the same again";
  EXPECT_EQ(second->ask(test, KVT_OP_RESERVE, other, key_of(1)).result, KVT_RESULT_PENDING);
  EXPECT_EQ(second->ask(test, KVT_OP_RESERVE, other, key_of(2)).result, KVT_RESULT_OK)
      << "another key is free";
  EXPECT_EQ(first->ask(test, KVT_OP_PUBLISH, page, key_of(1)).result, KVT_RESULT_OK);
  const kvt_abi_completion answer = second->ask(test, KVT_OP_RESERVE, other, key_of(1));
  EXPECT_EQ(answer.result, KVT_RESULT_PRESENT);
  EXPECT_EQ(answer.page, page.value);
}

TEST_P(ArenaCommands, AReservationEndsWithItsSession) {
  const auto first = test.attach();
  const auto second = test.attach();
  first->ask(test, KVT_OP_RESERVE, first->allocate(test), key_of(1));
  const Handle other = second->allocate(test);
  EXPECT_EQ(second->ask(test, KVT_OP_RESERVE, other, key_of(1)).result, KVT_RESULT_PENDING);
  test.end(*first);
  EXPECT_EQ(second->ask(test, KVT_OP_RESERVE, other, key_of(1)).result, KVT_RESULT_OK);
}

TEST_P(ArenaCommands, AReservationEndsWithItsPage) {
  const auto first = test.attach();
  const auto second = test.attach();
  const Handle page = first->allocate(test);
  const Handle other = second->allocate(test);
  first->ask(test, KVT_OP_RESERVE, page, key_of(1));
  first->release(page);
  EXPECT_EQ(first->ask(test, KVT_OP_FREE, page).result, KVT_RESULT_OK);
  EXPECT_EQ(second->ask(test, KVT_OP_RESERVE, other, key_of(1)).result, KVT_RESULT_OK);
}

TEST_P(ArenaCommands, AReservationEndsWhenItsPageIsSealedWithoutTheKeyAndLetGo) {
  const auto first = test.attach();
  const auto second = test.attach();
  const Handle page = first->allocate(test);
  const Handle other = second->allocate(test);
  first->ask(test, KVT_OP_RESERVE, page, key_of(1));
  first->ask(test, KVT_OP_SEAL, page);
  first->let_go(test, page);
  ASSERT_EQ(test.placement(page).generation(), page.generation() + 1);
  EXPECT_EQ(second->ask(test, KVT_OP_RESERVE, other, key_of(1)).result, KVT_RESULT_OK)
      << "else everybody waits for ever";
}

TEST_P(ArenaCommands, AReservationEndsWhenItsPageIsPublishedUnderAnotherKey) {
  const auto first = test.attach();
  const auto second = test.attach();
  const Handle page = first->allocate(test);
  first->ask(test, KVT_OP_RESERVE, page, key_of(1));
  EXPECT_EQ(first->ask(test, KVT_OP_PUBLISH, page, key_of(2)).result, KVT_RESULT_OK);
  EXPECT_EQ(second->ask(test, KVT_OP_RESERVE, second->allocate(test), key_of(1)).result, KVT_RESULT_OK);
}

TEST_P(ArenaCommands, ReserveWantsAnOwnFillingPageAndAKey) {
  const auto session = test.attach();
  const auto other = test.attach();
  const Handle page = session->allocate(test);
  EXPECT_EQ(session->ask(test, KVT_OP_RESERVE, page, Key{}).result, KVT_RESULT_INVALID);
  EXPECT_EQ(other->ask(test, KVT_OP_RESERVE, page, key_of(1)).result, KVT_RESULT_PERMISSION);
  session->ask(test, KVT_OP_SEAL, page);
  EXPECT_EQ(session->ask(test, KVT_OP_RESERVE, page, key_of(1)).result, KVT_RESULT_STATE);
}

// ---- advice and groups ----

TEST_P(ArenaCommands, AdviceChangesWhatIsExpected) {
  const auto session = test.attach();
  const Handle page = session->publish_new(test, key_of(1));
  for (uint32_t column = 0; column < GetParam(); ++column)
    EXPECT_EQ(test.arena().expected_reads(column, page.index()), 0);
  EXPECT_EQ(session->ask(test, KVT_OP_ADVISE, page, {}, kNoHandle, 1).result, KVT_RESULT_OK);
  for (uint32_t column = 0; column < GetParam(); ++column) {
    EXPECT_GE(test.arena().expected_reads(column, page.index()), 0.5f) << "as a page that is read";
    EXPECT_EQ(test.arena().heat(column, page.index()).slow, 0) << "but it has not been read";
  }
  EXPECT_EQ(session->ask(test, KVT_OP_ADVISE, page, {}, kNoHandle, 2).result, KVT_RESULT_OK);
  for (uint32_t column = 0; column < GetParam(); ++column)
    EXPECT_EQ(test.arena().expected_reads(column, page.index()), 0);
  // Reads are forgotten, too.
  for (int i = 0; i < 10; ++i) {
    session->read(page, 20);
    test.period();
  }
  EXPECT_GT(test.arena().expected_reads(0, page.index()), 1);
  EXPECT_GT(test.arena().table().heat(0, page.index()), 0);
  EXPECT_EQ(session->ask(test, KVT_OP_ADVISE, page, {}, kNoHandle, 2).result, KVT_RESULT_OK);
  for (uint32_t column = 0; column < GetParam(); ++column) {
    const policy::PageHeat& heat = test.arena().heat(column, page.index());
    EXPECT_EQ(std::tuple(heat.fast, heat.slow, heat.mean, heat.reads), std::tuple(0.f, 0.f, 0.f, 0));
    EXPECT_LT(test.arena().expected_reads(column, page.index()), 1) << "what any page is expected to be read";
    EXPECT_EQ(test.arena().table().heat(column, page.index()), 0);
  }
  EXPECT_EQ(session->ask(test, KVT_OP_ADVISE, page, {}, kNoHandle, 3).result, KVT_RESULT_INVALID);
  EXPECT_EQ(
      session->ask(test, KVT_OP_ADVISE, Handle::of(page.index(), page.generation() + 1), {}, kNoHandle, 1)
          .result,
      KVT_RESULT_STALE);
}

/// It is believed for a while, and not again each time that a short clock comes round.
TEST_P(ArenaCommands, AdviceLapses) {
  ArenaOptions options;
  options.columns = GetParam();
  options.settings.predictor.advice_periods = 10;
  TestArena arena(options);
  const auto session = arena.attach();
  const Handle page = session->publish_new(arena, key_of(1));
  const Handle renewed = session->publish_new(arena, key_of(2));
  for (const Handle one : {page, renewed}) session->ask(arena, KVT_OP_ADVISE, one, {}, kNoHandle, 1);
  for (int i = 0; i < 600; ++i) {
    for (uint32_t column = 0; column < GetParam(); ++column) {
      EXPECT_EQ(arena.arena().expected_reads(column, page.index()) > 0, i < 10) << "period " << i;
      EXPECT_EQ(arena.arena().expected_reads(column, renewed.index()) > 0, i < 15) << "period " << i;
    }
    if (i == 5) session->ask(arena, KVT_OP_ADVISE, renewed, {}, kNoHandle, 1);
    arena.period();
  }
}

TEST_P(ArenaCommands, AGroupIs16Bits) {
  const auto session = test.attach();
  const Handle page = session->allocate(test);
  EXPECT_EQ(session->ask(test, KVT_OP_GROUP, page, {}, kNoHandle, 65535).result, KVT_RESULT_OK);
  EXPECT_EQ(test.table().group(page.index()), 65535);
  EXPECT_EQ(session->ask(test, KVT_OP_GROUP, page, {}, kNoHandle, 65536).result, KVT_RESULT_INVALID);
  EXPECT_EQ(session->ask(test, KVT_OP_PUBLISH, page, key_of(1), kNoHandle, 65536).result, KVT_RESULT_INVALID);
}

// ---- read-only sessions ----

TEST_P(ArenaCommands, AReadOnlySessionChangesNothing) {
  const auto writer = test.attach();
  const auto reader = test.attach(0, false);
  const Handle keyed = writer->publish_new(test, key_of(1));
  const Handle filling = writer->allocate(test);
  const Handle sealed = writer->allocate(test);
  writer->ask(test, KVT_OP_SEAL, sealed);
  writer->release(sealed);
  const auto before = rows();
  for (const uint32_t op : {KVT_OP_SEAL, KVT_OP_PUBLISH, KVT_OP_FREE, KVT_OP_UNPUBLISH, KVT_OP_RESERVE,
                            KVT_OP_GROUP, KVT_OP_OFFER_DONE})
    for (const Handle page : {keyed, filling, sealed})
      EXPECT_EQ(reader->ask(test, op, page, key_of(9)).result, KVT_RESULT_PERMISSION) << op;
  EXPECT_EQ(rows(), before);
  EXPECT_TRUE(reader->allocate(test).none());
  EXPECT_EQ(reader->free_count(), 0u);
  EXPECT_EQ(rows(), before) << "no page was made for it";
  EXPECT_EQ(reader->lookup(test.table(), key_of(1)), keyed) << "it may read and hold";
  EXPECT_EQ(reader->ask(test, KVT_OP_FLUSH, Handle{0}).result, KVT_RESULT_OK);
}

// ---- hostile sessions: one bad field, all else valid; nothing changes and a good client is served ----

struct Hostile : ArenaCommands {
  Hostile() : good(test.attach()), bad(test.attach()) {
    keyed = good->publish_new(test, key_of(1));
    filling = good->allocate(test);
    own = bad->allocate(test);
    test.pass();
  }
  void expect_refused(const kvt_abi_submission& command, const std::string& what) {
    const auto before = rows();
    const uint32_t result = bad->ask(test, command).result;
    EXPECT_NE(result, uint32_t{KVT_RESULT_OK}) << what;
    EXPECT_EQ(rows(), before) << what;
    EXPECT_EQ(good->ask(test, KVT_OP_FLUSH, Handle{0}).result, KVT_RESULT_OK) << what;
  }
  kvt_abi_submission publish_own() {
    kvt_abi_submission command{};
    command.op = KVT_OP_PUBLISH;
    command.page = own.value;
    command.key = {3, 4};
    command.parent = UINT64_MAX;
    return command;
  }
  std::unique_ptr<TestSession> good, bad;
  Handle keyed, filling, own;
};
INSTANTIATE_TEST_SUITE_P(Columns, Hostile, testing::Values(1u, 2u));

TEST_P(Hostile, MaliciousPageIndexAndGeneration) {
  const uint64_t pages = test.table().pages();
  for (uint32_t op = 1; op <= 9; ++op) {
    if (op == KVT_OP_FLUSH) continue;  // names no page
    for (const uint64_t page : {pages, uint64_t{UINT32_MAX}, (uint64_t{1} << 56) | own.index(),
                                UINT64_MAX - 1, Handle::of(own.index(), own.generation() + 1).value,
                                Handle::of(own.index(), KVT_MAX_GENERATION).value}) {
      kvt_abi_submission command = publish_own();
      command.op = op;
      command.page = page;
      if (op == KVT_OP_FREE) command.key = {UINT64_MAX, UINT64_MAX};
      if (op == KVT_OP_FREE) command.extra = UINT64_MAX;
      expect_refused(command, "op " + std::to_string(op) + " page " + std::to_string(page));
    }
  }
}

TEST_P(Hostile, MaliciousOps) {
  for (const uint32_t op : {0u, uint32_t{KVT_OP_OFFER_DONE}, 10u, 255u, UINT32_MAX}) {
    kvt_abi_submission command = publish_own();
    command.op = op;
    expect_refused(command, "op " + std::to_string(op));
  }
}

TEST_P(Hostile, MaliciousUseOfAnothersPages) {
  for (const uint32_t op :
       {KVT_OP_SEAL, KVT_OP_PUBLISH, KVT_OP_UNPUBLISH, KVT_OP_RESERVE, KVT_OP_GROUP, KVT_OP_FREE})
    for (const Handle page : {keyed, filling}) {
      kvt_abi_submission command = publish_own();
      command.op = op;
      command.page = page.value;
      if (op == KVT_OP_FREE) {
        command.key = {UINT64_MAX, UINT64_MAX};
        command.extra = UINT64_MAX;
      }
      expect_refused(command, "op " + std::to_string(op));
    }
}

TEST_P(Hostile, MaliciousKeyAndGroup) {
  kvt_abi_submission command = publish_own();
  command.key = {0, 0};
  expect_refused(command, "the key that is no key");
  command = publish_own();
  command.flags = 1 << 16;
  expect_refused(command, "a group of 17 bits");
}

TEST_P(Hostile, MaliciousParentsAreIgnored) {
  uint64_t key = 100;
  for (const uint64_t parent : {uint64_t{UINT32_MAX}, test.table().pages(), uint64_t{1} << 60, filling.value,
                                Handle::of(keyed.index(), keyed.generation() + 1).value}) {
    const Handle page = bad->allocate(test);
    EXPECT_EQ(bad->ask(test, KVT_OP_PUBLISH, page, key_of(key++), Handle{parent}).result, KVT_RESULT_OK);
    EXPECT_TRUE(test.table().parent(page.index()).none()) << parent;
  }
  const Handle self = bad->allocate(test);
  EXPECT_EQ(bad->ask(test, KVT_OP_PUBLISH, self, key_of(key), self).result, KVT_RESULT_OK);
  EXPECT_TRUE(test.table().parent(self.index()).none()) << "nobody is its own parent";
}

TEST_P(Hostile, MaliciousRingTailEndsTheService) {
  const auto before = rows();
  bad->member().sq_tail.value += KVT_RING_ENTRIES + 1;
  for (int i = 0; i < 3; ++i) test.pass();
  EXPECT_EQ(rows(), before);
  EXPECT_FALSE(test.arena().has_work()) << "and it does not keep the keeper awake";
  EXPECT_EQ(good->ask(test, KVT_OP_SEAL, filling).result, KVT_RESULT_OK);
  EXPECT_EQ(test.placement(own).state(), PageState::kFilling) << "its claims count until its process ends";
  test.end(*bad);
  EXPECT_EQ(test.placement(own).generation(), own.generation() + 1);
}

TEST_P(Hostile, AClientThatReadsNoCompletionsIsNotServedForEver) {
  for (uint32_t i = 0; i < 3 * KVT_RING_ENTRIES; ++i) {
    bad->submit(KVT_OP_SEAL, own);
    if (i % 256 == 0) test.pass();
  }
  test.pass();
  EXPECT_EQ(good->ask(test, KVT_OP_SEAL, filling).result, KVT_RESULT_OK);
  uint32_t answers = 0;
  while (bad->completion()) ++answers;
  EXPECT_EQ(answers, KVT_RING_ENTRIES);
  test.pass();
  EXPECT_TRUE(bad->completion().has_value()) << "it goes on when it reads";
}

TEST_P(Hostile, MaliciousMagazineHeadOnlyStarvesItself) {
  const auto before = test.arena().free_pages();
  bad->region().header().magazine_head.value = UINT64_MAX / 2;
  for (int i = 0; i < 5; ++i) {
    bad->ask(test, KVT_OP_FLUSH, Handle{0});
    test.pass();
  }
  EXPECT_EQ(test.arena().free_pages(), before);
  EXPECT_FALSE(good->allocate(test).none());
}

// A client may free what it finds in its magazine, hold what it does not have, and say anything of it.
TEST_P(Hostile, MaliciousUseOfItsOwnMagazine) {
  const Handle waiting{
      bad->region().magazine()[bad->region().header().magazine_head.value % KVT_MAGAZINE_ENTRIES]};
  EXPECT_EQ(bad->ask(test, KVT_OP_FREE, waiting).result, KVT_RESULT_OK);
  EXPECT_EQ(test.inconsistency(), "");
  const Handle stale = bad->pop();
  EXPECT_EQ(stale, waiting);
  EXPECT_NE(bad->ask(test, KVT_OP_PUBLISH, stale, key_of(50)).result, KVT_RESULT_OK);
  EXPECT_EQ(test.inconsistency(), "");
}

// However often it says so: a page does not become hotter than one whose counter is always at its cap.
TEST_P(Hostile, MaliciousSequencesDoNotPassTheCapOfReads) {
  kvt_abi_member& member = bad->member();
  for (uint32_t i = 0; i < 1000; ++i) member.sequence_pool[i] = keyed.index();
  for (uint32_t sequence = 0; sequence < 10; ++sequence) {
    member.sequence[sequence].first = 0;
    member.sequence[sequence].length = 1000;
    member.sequence[sequence].count = UINT32_MAX / 2;
  }
  member.sequences_touched[0] = 0x3ff;
  test.period();
  const policy::PageHeat& heat = test.arena().heat(0, keyed.index());
  EXPECT_GT(heat.fast, 0);
  for (const float rate : {heat.fast, heat.slow, heat.mean, static_cast<float>(heat.reads)})
    EXPECT_LE(rate, static_cast<float>(KVT_MAX_READS_PERIOD));
  double read = 0;  // a second, an eighth of it in the mean
  for (const auto& tier : test.arena().counts().tiers) read += tier.bytes_read_per_second;
  EXPECT_GT(read, 0);
  EXPECT_LE(read, 0.125 * 100 * KVT_MAX_READS_PERIOD * static_cast<double>(test.options().page_bytes))
      << "nor does what is read of it";
}

TEST_P(Hostile, MaliciousAdviceDoesNotPassTheCapOfReads) {
  for (uint32_t i = 0; i < 4 * KVT_RING_ENTRIES; ++i) {
    bad->submit(KVT_OP_ADVISE, keyed, {}, kNoHandle, 1);
    if (i % 512 == 511) {
      test.pass();
      while (bad->completion()) continue;
    }
  }
  EXPECT_LE(test.arena().expected_reads(0, keyed.index()), 1) << "as if it were advised once";
}

TEST_P(Hostile, MaliciousCountersOfPagesThatAreNotThere) {
  for (PageIndex page = 0; page < test.table().pages(); ++page) touch(bad->region(), page);
  for (uint64_t word = 0; word < bad->region().summary_words(); ++word)
    bad->region().touched()[word] = UINT64_MAX;
  test.period();
  for (PageIndex page = 0; page < test.table().pages(); ++page)
    if (!test.table().placement(0, page).readable()) {
      EXPECT_EQ(test.arena().heat(0, page).reads, 0) << "only readable pages are read";
    }
}

TEST_P(Hostile, MaliciousGarbageInTheRing) {
  test::Random random;
  std::vector<Handle> kept{keyed};
  for (uint64_t key = 2; key < 8; ++key) kept.push_back(good->publish_new(test, key_of(key)));
  for (int round = 0; round < 400; ++round) {
    for (int i = 0; i < 64; ++i) {
      kvt_abi_submission command{};
      command.op = random.one_in(10) ? static_cast<uint32_t>(random.next()) : random.below32(11);
      command.flags = random.one_in(3) ? static_cast<uint32_t>(random.next()) : random.below32(3);
      const auto some_page = [&]() -> uint64_t {
        if (random.one_in(5)) return random.next();
        const PageIndex index = random.below32(test.table().pages() + 2);
        const uint32_t generation =
            index < test.table().pages() ? test.table().placement(0, index).generation() : 0;
        return Handle::of(index, generation - random.below32(2)).value;
      };
      command.page = some_page();
      command.key = random.one_in(2) ? kvt_abi_key{some_page(), some_page()}
                                     : kvt_abi_key{random.below(4), random.below(4)};
      command.parent = some_page();
      command.extra = some_page();
      bad->submit(command);
    }
    if (random.one_in(4))
      test.period();
    else
      test.pass();
    while (bad->completion()) continue;
    if (random.one_in(3)) bad->pop();
    if (random.one_in(3)) hold_drop(bad->region(), random.below32(test.table().pages()));
    if (round % 20 == 0) {
      ASSERT_EQ(test.inconsistency(), "") << "round " << round;
    }
    for (size_t i = 0; i < kept.size(); ++i)
      ASSERT_EQ(test.placement(kept[i]).generation(), kept[i].generation()) << "held by the good one";
    ASSERT_EQ(test.placement(filling).state(), PageState::kFilling);
    ASSERT_EQ(test.placement(filling).generation(), filling.generation());
  }
  test.end(*bad);
  EXPECT_EQ(test.inconsistency(), "");
  EXPECT_EQ(good->ask(test, KVT_OP_SEAL, filling).result, KVT_RESULT_OK);
}

}  // namespace
}  // namespace kvt::keeper
