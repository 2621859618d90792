// SPDX-License-Identifier: Apache-2.0
//
// The life of a page in one arena: fresh, sealed, keyed, held, evicted, used again; limbo; the ends of
// sessions.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/support/arena_fixture.h"

namespace kvt::keeper {
namespace {

using test::ArenaOptions;
using test::key_of;
using test::TestArena;
using test::TestSession;

class ArenaPages : public testing::TestWithParam<uint32_t> {
 protected:
  ArenaPages() : test(options()) {}
  void TearDown() override { EXPECT_EQ(test.inconsistency(), ""); }
  static ArenaOptions options() {
    ArenaOptions options;
    options.columns = GetParam();
    return options;
  }
  /// Every page of the arena, published under keys 1.., held.
  std::vector<Handle> publish_all(TestSession& session, uint64_t first_key = 1) {
    std::vector<Handle> pages;
    for (uint64_t key = first_key;; ++key) {
      const Handle page = session.publish_new(test, key_of(key));
      if (page.none()) return pages;
      pages.push_back(page);
    }
  }
  void expect_state(Handle page, PageState state, bool keyed) {
    for (uint32_t column = 0; column < GetParam(); ++column) {
      EXPECT_EQ(test.placement(page, column).state(), state) << "column " << column;
      EXPECT_EQ(test.placement(page, column).keyed(), keyed) << "column " << column;
      EXPECT_EQ(test.placement(page, column).generation(), page.generation()) << "column " << column;
    }
  }
  [[nodiscard]] uint64_t limbo() { return test.arena().report().limbo; }
  TestArena test;
};
INSTANTIATE_TEST_SUITE_P(Columns, ArenaPages, testing::Values(1u, 2u));

TEST_P(ArenaPages, FromFreshToUsedAgain) {
  const auto session = test.attach();
  const Handle page = session->allocate(test);
  ASSERT_FALSE(page.none());
  expect_state(page, PageState::kFilling, false);
  EXPECT_EQ(test.table().owner(page.index()), session->id());
  EXPECT_TRUE(test.arena().is_held(page.index())) << "allocation is a hold";
  EXPECT_NE(test.placement(page).frame(), kScratchFrame);

  EXPECT_EQ(session->ask(test, KVT_OP_SEAL, page).result, KVT_RESULT_OK);
  expect_state(page, PageState::kSealed, false);
  EXPECT_EQ(session->ask(test, KVT_OP_SEAL, page).result, KVT_RESULT_OK)
      << "again: it may come twice after a restart";

  EXPECT_EQ(session->ask(test, KVT_OP_PUBLISH, page, key_of(1)).result, KVT_RESULT_OK);
  expect_state(page, PageState::kSealed, true);
  EXPECT_EQ(test.table().key(page.index()), key_of(1));
  EXPECT_EQ(session->lookup(test.table(), key_of(1), false), page);

  // Nobody holds it any more; it stays until its room is wanted.
  session->let_go(test, page);
  expect_state(page, PageState::kSealed, true);
  const auto pages = publish_all(*session, 100);
  EXPECT_TRUE(session->lookup(test.table(), key_of(1), false).none()) << "evicted for the last of the others";
  const auto again =
      std::find_if(pages.begin(), pages.end(), [&](Handle other) { return other.index() == page.index(); });
  ASSERT_NE(again, pages.end());
  EXPECT_EQ(again->generation(), page.generation() + 1);
  EXPECT_FALSE(session->hold(test.table(), page)) << "the old handle is stale";
  EXPECT_EQ(session->ask(test, KVT_OP_SEAL, page).result, KVT_RESULT_STALE);
}

TEST_P(ArenaPages, PublishSealsAFillingPage) {
  const auto session = test.attach();
  const Handle page = session->allocate(test);
  EXPECT_EQ(session->ask(test, KVT_OP_PUBLISH, page, key_of(9), kNoHandle, 77).result, KVT_RESULT_OK);
  expect_state(page, PageState::kSealed, true);
  EXPECT_EQ(test.table().group(page.index()), 77);
  EXPECT_EQ(load_relaxed(test.table().counters().published), 1u);
}

TEST_P(ArenaPages, EveryPageCanBeHad) {
  const auto session = test.attach();
  std::set<Frame> frames;
  std::set<PageIndex> pages;
  for (;;) {
    const Handle page = session->allocate(test);
    if (page.none()) break;
    EXPECT_TRUE(pages.insert(page.index()).second);
    EXPECT_TRUE(frames.insert(test.placement(page).frame()).second);
  }
  EXPECT_EQ(pages.size(), test.table().pages());
  EXPECT_EQ(session->free_count(), 0u);
  EXPECT_EQ(test.arena().report().filling, test.table().pages());
}

TEST_P(ArenaPages, WhereNoneIsPublishedNothingCanBeEvicted) {
  const auto session = test.attach();
  test.period();
  EXPECT_FALSE(test.arena().counts().nothing_evictable) << "nobody has looked for room";
  while (!session->allocate(test).none()) {
  }
  test.period();
  EXPECT_EQ(test.arena().counts().free, 0u);
  EXPECT_TRUE(test.arena().counts().nothing_evictable);
}

TEST_P(ArenaPages, NewPagesLieInTheFastestTierThatEveryColumnReads) {
  const auto session = test.attach();
  const Handle page = session->allocate(test);
  EXPECT_EQ(test.placement(page).tier(), GetParam() == 1 ? 0u : test.slow_tier());
  for (uint32_t column = 1; column < GetParam(); ++column)
    EXPECT_EQ(test.placement(page, column).frame(), test.placement(page).frame());
}

TEST_P(ArenaPages, AFillingPageThatIsFreedComesBack) {
  const auto session = test.attach();
  const Handle page = session->allocate(test);
  EXPECT_EQ(session->ask(test, KVT_OP_FREE, page).result, KVT_RESULT_STATE) << "it is held";
  session->release(page);
  EXPECT_EQ(session->ask(test, KVT_OP_FREE, page).result, KVT_RESULT_OK);
  EXPECT_EQ(test.placement(page).generation(), page.generation() + 1);
  EXPECT_EQ(session->ask(test, KVT_OP_FREE, page).result, KVT_RESULT_STALE);
}

TEST_P(ArenaPages, OneFreeCommandTakesFivePages) {
  const auto session = test.attach();
  Handle pages[KVT_FREE_HANDLES];
  for (Handle& page : pages) {
    page = session->allocate(test);
    session->release(page);
  }
  kvt_abi_submission command{};
  command.op = KVT_OP_FREE;
  command.page = pages[0].value;
  command.key = {pages[1].value, pages[2].value};
  command.parent = pages[3].value;
  command.extra = pages[4].value;
  EXPECT_EQ(session->ask(test, command).result, KVT_RESULT_OK);
  for (const Handle page : pages) EXPECT_EQ(test.placement(page).generation(), page.generation() + 1);
  command.page = 1ull << 62;
  EXPECT_EQ(session->ask(test, command).result, KVT_RESULT_INVALID) << "the first that fails is told";
}

// ---- keys ----

TEST_P(ArenaPages, TheFirstToPublishAKeyWins) {
  const auto first = test.attach();
  const auto second = test.attach();
  const Handle page = first->publish_new(test, key_of(5));
  const Handle late = second->allocate(test);
  const kvt_abi_completion answer = second->ask(test, KVT_OP_PUBLISH, late, key_of(5));
  EXPECT_EQ(answer.result, KVT_RESULT_PRESENT);
  EXPECT_EQ(answer.page, page.value);
  expect_state(late, PageState::kSealed, false);
  EXPECT_TRUE(test.arena().is_held(late.index())) << "its owner still has it";
  EXPECT_EQ(second->lookup(test.table(), key_of(5)), page);
}

TEST_P(ArenaPages, AnIdleSessionKeepsFewPagesReady) {
  const auto session = test.attach();
  const auto other = test.attach();
  const auto waiting = [&] { return session->state().magazine.waiting(); };
  for (int i = 0; i < 2; ++i) EXPECT_FALSE(session->allocate(test).none());
  const uint64_t begun = waiting();
  ASSERT_GT(begun, 4u);
  const uint64_t begun_other = other->state().magazine.waiting();
  const uint64_t free_pages = test.arena().free_pages();
  for (int i = 0; i < 95; ++i) test.period_and_copies();
  EXPECT_EQ(waiting(), begun);
  for (int i = 0; i < 10; ++i) test.period_and_copies();
  EXPECT_EQ(waiting(), 4u) << "after a second";
  EXPECT_EQ(test.inconsistency(), "");
  EXPECT_EQ(test.arena().free_pages(), free_pages + (begun - 4) + (begun_other - 4));
  for (int i = 0; i < 30; ++i)
    EXPECT_FALSE(session->allocate(test).none()) << "as many as it wants, all the same";
}

TEST_P(ArenaPages, AKeyIsSetOnceAGeneration) {
  const auto session = test.attach();
  const Handle page = session->publish_new(test, key_of(5));
  EXPECT_EQ(session->ask(test, KVT_OP_PUBLISH, page, key_of(5)).result, KVT_RESULT_OK)
      << "the same page and key: redone";
  EXPECT_EQ(session->ask(test, KVT_OP_PUBLISH, page, key_of(6)).result, KVT_RESULT_STATE);
  EXPECT_EQ(test.table().key(page.index()), key_of(5));
  EXPECT_EQ(load_relaxed(test.table().counters().published), 1u);
}

// A reader that holds the page compares its key without a lock. Were another key written in the same
// generation, it could see the new low half with the old high half, and serve the page for a third key
// (PROTOCOL A7, h_nover).
TEST_P(ArenaPages, AnUnpublishedPageTakesNoOtherKeyInItsGeneration) {
  const auto session = test.attach();
  const Handle page = session->publish_new(test, key_of(5));
  EXPECT_EQ(session->ask(test, KVT_OP_UNPUBLISH, page).result, KVT_RESULT_OK);
  EXPECT_NE(session->ask(test, KVT_OP_PUBLISH, page, key_of(6)).result, KVT_RESULT_OK);
  EXPECT_TRUE(session->lookup(test.table(), key_of(6)).none());
}

// The same through a cycle of parents: each would have a child for ever, and neither could be evicted.
TEST_P(ArenaPages, ParentsFormNoCycle) {
  const auto session = test.attach();
  const Handle top = session->publish_new(test, key_of(1));
  const Handle child = session->publish_new(test, key_of(2), top);
  session->ask(test, KVT_OP_UNPUBLISH, top);
  session->ask(test, KVT_OP_PUBLISH, top, key_of(1), child);
  session->let_go(test, top);
  session->let_go(test, child);
  publish_all(*session, 100);
  EXPECT_TRUE(session->lookup(test.table(), key_of(1), false).none()) << "it can be evicted";
  EXPECT_TRUE(session->lookup(test.table(), key_of(2), false).none()) << "it can be evicted";
}

TEST_P(ArenaPages, UnpublishTakesTheKeyAway) {
  const auto session = test.attach();
  const auto other = test.attach();
  const Handle page = session->publish_new(test, key_of(5));
  EXPECT_EQ(other->ask(test, KVT_OP_UNPUBLISH, page).result, KVT_RESULT_PERMISSION);
  EXPECT_EQ(session->ask(test, KVT_OP_UNPUBLISH, page).result, KVT_RESULT_OK);
  EXPECT_EQ(session->ask(test, KVT_OP_UNPUBLISH, page).result, KVT_RESULT_OK) << "again";
  expect_state(page, PageState::kSealed, false);
  EXPECT_TRUE(other->lookup(test.table(), key_of(5)).none());
  const Handle next = other->publish_new(test, key_of(5));
  EXPECT_EQ(session->lookup(test.table(), key_of(5), false), next);
  session->let_go(test, page);
  EXPECT_EQ(test.placement(page).generation(), page.generation() + 1) << "unkeyed and let go of";
}

TEST_P(ArenaPages, ThePublishThatIsLostByOrderIsNotFound) {
  ArenaOptions broken = options();
  broken.settings.inject = Inject::kLostPublish;
  TestArena arena(broken);
  const auto session = arena.attach();
  session->publish_new(arena, key_of(5));
  EXPECT_TRUE(session->lookup(arena.table(), key_of(5)).none());
}

// ---- holds and eviction ----

TEST_P(ArenaPages, AHeldPageIsNeverEvicted) {
  const auto writer = test.attach();
  const auto reader = test.attach();
  const Handle page = writer->publish_new(test, key_of(1));
  ASSERT_EQ(reader->lookup(test.table(), key_of(1)), page);
  writer->let_go(test, page);
  for (uint64_t key = 100; key < 100 + 4 * test.table().pages(); ++key) {
    const Handle other = writer->publish_new(test, key_of(key));
    ASSERT_FALSE(other.none());
    writer->let_go(test, other);
  }
  expect_state(page, PageState::kSealed, true);
  EXPECT_GE(load_relaxed(test.table().counters().evicted), 3 * test.table().pages());
  reader->release(page);
  for (uint64_t key = 9000;
       key < 9000 + 8 * test.table().pages() && test.placement(page).generation() == page.generation(); ++key)
    writer->let_go(test, writer->publish_new(test, key_of(key)));
  EXPECT_EQ(test.placement(page).generation(), page.generation() + 1) << "let go of, it leaves";
}

TEST_P(ArenaPages, ALookupWithoutHoldingLeavesNoTrace) {
  const auto session = test.attach();
  const Handle page = session->publish_new(test, key_of(1));
  session->let_go(test, page);
  EXPECT_EQ(session->lookup(test.table(), key_of(1), false), page);
  EXPECT_FALSE(test.arena().is_held(page.index()));
}

TEST_P(ArenaPages, ChainsAreEvictedFromTheLeaf) {
  const auto session = test.attach();
  const auto others = publish_all(*session);  // held: never evicted
  ASSERT_GE(others.size(), 6u);
  // A chain of three in place of three of them.
  for (int i = 0; i < 3; ++i) {
    session->ask(test, KVT_OP_UNPUBLISH, others[static_cast<size_t>(i)]);
    session->let_go(test, others[static_cast<size_t>(i)]);
  }
  const Handle root = session->publish_new(test, key_of(1001));
  const Handle middle = session->publish_new(test, key_of(1002), root);
  const Handle leaf = session->publish_new(test, key_of(1003), middle);
  ASSERT_FALSE(leaf.none());
  EXPECT_EQ(test.table().parent(leaf.index()), middle);
  for (const Handle page : {root, middle, leaf}) session->let_go(test, page);
  // The root was read a lot less than the leaf; the chain decides all the same.
  session->read(leaf, 1000);
  session->read(middle, 1000);
  test.period();
  const auto present = [&](uint64_t key) {
    return !session->lookup(test.table(), key_of(key), false).none();
  };
  ASSERT_TRUE(present(1001) && present(1002) && present(1003));
  std::vector<Handle> taken;
  const auto take_one = [&] { taken.push_back(session->allocate(test)); };
  std::string order;
  for (int i = 0; i < 3; ++i) {
    take_one();
    order +=
        std::string(present(1001) ? "r" : "-") + (present(1002) ? "m" : "-") + (present(1003) ? "l " : "- ");
  }
  // Room is made one page ahead of demand, so a step may take two.
  const std::string expected[] = {"rm- r-- --- ", "rml rm- r-- ", "rm- --- --- ", "r-- --- --- ",
                                  "--- --- --- ", "r-- r-- --- ", "rm- rm- r-- "};
  EXPECT_NE(std::find(std::begin(expected), std::end(expected), order), std::end(expected)) << order;
  EXPECT_EQ(order.find("-l"), std::string::npos) << "a leaf never outlives its parent: " << order;
  EXPECT_EQ(order.find("-m"), std::string::npos) << order;
}

TEST_P(ArenaPages, WhenAllIsHeldThereIsNoPageAndAfterReleasesThereIs) {
  const auto session = test.attach();
  const auto pages = publish_all(*session);
  EXPECT_EQ(pages.size(), test.table().pages());
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(session->allocate(test).none());
  EXPECT_EQ(session->free_count(), 0u) << "full is told";
  for (const Handle page : pages) session->let_go(test, page);
  EXPECT_FALSE(session->allocate(test).none())
      << "nothing is held any more: asking must find room, not wait for periods";
}

TEST_P(ArenaPages, AnUnkeyedSealedPageLeavesWhenItsLastHolderSaysSo) {
  const auto owner = test.attach();
  const auto reader = test.attach();
  const Handle page = owner->allocate(test);
  owner->ask(test, KVT_OP_SEAL, page);
  ASSERT_TRUE(reader->hold(test.table(), page));
  owner->let_go(test, page);
  expect_state(page, PageState::kSealed, false);
  reader->let_go(test, page);
  EXPECT_EQ(test.placement(page).generation(), page.generation() + 1);
}

TEST_P(ArenaPages, ALostFreeIsFoundByTheSweep) {
  const auto session = test.attach();
  const Handle page = session->allocate(test);
  session->ask(test, KVT_OP_SEAL, page);
  session->release(page);  // and no command
  for (int i = 0;
       i < 20 * static_cast<int>(KVT_MAX_SESSIONS) && test.placement(page).generation() == page.generation();
       ++i)
    test.period();
  EXPECT_EQ(test.placement(page).generation(), page.generation() + 1);
}

// ---- steps and limbo ----

TEST_P(ArenaPages, AFrameStaysInLimboWhileAStepThatMaySeeItIsOpen) {
  const auto session = test.attach();
  const auto reader = test.attach();
  const Handle page = session->allocate(test);
  const Frame frame = test.placement(page).frame();
  session->ask(test, KVT_OP_SEAL, page);
  reader->begin_step(test.table(), 3);
  session->let_go(test, page);
  EXPECT_EQ(limbo(), 1u);
  for (int i = 0; i < 10; ++i) test.period();
  EXPECT_EQ(limbo(), 1u);
  EXPECT_TRUE(test.arena().waits());
  for (;;) {  // whatever is taken meanwhile, it is not that frame
    const Handle other = session->allocate(test);
    if (other.none()) break;
    EXPECT_NE(test.placement(other).frame(), frame);
  }
  reader->end_step(3);
  test.pass();
  EXPECT_EQ(limbo(), 0u);
  EXPECT_FALSE(test.arena().waits());
}

TEST_P(ArenaPages, AStepThatBeganLaterDoesNotKeepIt) {
  const auto session = test.attach();
  const auto reader = test.attach();
  reader->begin_step(test.table(), 0);
  const Handle page = session->allocate(test);
  session->release(page);
  session->ask(test, KVT_OP_FREE, page);
  EXPECT_EQ(limbo(), 1u);
  reader->begin_step(test.table(), 1);
  reader->end_step(0);
  test.pass();
  EXPECT_EQ(limbo(), 0u) << "slot 1 has a later epoch";
  reader->end_step(1);
}

TEST_P(ArenaPages, MaliciousEpochFromTheFutureBlocks) {
  const auto session = test.attach();
  session->member().slot[5].epoch = test.table().epoch() + 1'000'000;
  const Handle page = session->allocate(test);
  session->release(page);
  session->ask(test, KVT_OP_FREE, page);
  for (int i = 0; i < 3; ++i) test.period();
  EXPECT_EQ(limbo(), 1u);
  session->member().slot[5].epoch = 0;
  test.pass();
  EXPECT_EQ(limbo(), 0u);
}

TEST_P(ArenaPages, EarlyReuseByOrderFreesUnderAnOpenStep) {
  ArenaOptions broken = options();
  broken.settings.inject = Inject::kEarlyReuse;
  TestArena arena(broken);
  const auto session = arena.attach();
  session->begin_step(arena.table());
  const Handle page = session->allocate(arena);
  session->release(page);
  session->ask(arena, KVT_OP_FREE, page);
  EXPECT_EQ(arena.arena().report().limbo, 0u);
}

TEST_P(ArenaPages, TheLeakThatIsOrderedIsSeenInTheReport) {
  ArenaOptions broken = options();
  broken.settings.inject = Inject::kLeak;
  TestArena arena(broken);
  const auto session = arena.attach();
  EXPECT_EQ(arena.inconsistency(), "");
  const Handle page = session->allocate(arena);
  session->release(page);
  session->ask(arena, KVT_OP_FREE, page);
  const ArenaReport report = arena.arena().report();
  EXPECT_EQ(report.accounted + 1, report.frames);
  EXPECT_NE(arena.inconsistency(), "");
}

// ---- ends ----

TEST_P(ArenaPages, TheEndOfASessionGivesEverythingBack) {
  const auto other = test.attach();
  auto session = test.attach();
  const Handle filling = session->allocate(test);
  const Handle sealed = session->allocate(test);
  session->ask(test, KVT_OP_SEAL, sealed);
  const Handle shared = session->allocate(test);
  session->ask(test, KVT_OP_SEAL, shared);
  ASSERT_TRUE(other->hold(test.table(), shared));
  const Handle keyed = session->publish_new(test, key_of(7));
  session->begin_step(test.table());
  test.end(*session);
  EXPECT_EQ(test.placement(filling).generation(), filling.generation() + 1) << "FILLING: at once";
  EXPECT_EQ(test.placement(sealed).generation(), sealed.generation() + 1)
      << "unkeyed, its holds are gone: at once";
  expect_state(shared, PageState::kSealed, false);
  expect_state(keyed, PageState::kSealed, true);
  EXPECT_EQ(other->lookup(test.table(), key_of(7), false), keyed) << "what was published stays";
  EXPECT_EQ(limbo(), 0u) << "its steps are over";
  EXPECT_EQ(test.arena().session_count(), 1u);
  EXPECT_EQ(test.arena().find_session(2), nullptr);

  other->let_go(test, shared);
  EXPECT_EQ(test.placement(shared).generation(), shared.generation() + 1);
}

TEST_P(ArenaPages, AnUnkeyedPageOfADeadSessionIsSweptWhenOthersLetGoWithoutAWord) {
  const auto other = test.attach();
  const auto session = test.attach();
  const Handle page = session->allocate(test);
  session->ask(test, KVT_OP_SEAL, page);
  ASSERT_TRUE(other->hold(test.table(), page));
  test.end(*session);
  other->release(page);
  for (int i = 0;
       i < 4 * static_cast<int>(KVT_MAX_SESSIONS) && test.placement(page).generation() == page.generation();
       ++i)
    test.period();
  EXPECT_EQ(test.placement(page).generation(), page.generation() + 1);
}

TEST_P(ArenaPages, TheEndOfAMemberEndsItsStepsAndEmptiesItsStock) {
  const auto session = test.attach(0, true, 0, 2);
  const auto second = test.arena().add_member(session->state(), 0);
  ASSERT_TRUE(second.has_value());
  TestSession member(session->state(), *second, test.table().pages());
  const Handle stocked = session->allocate(test);
  session->release(stocked);
  const Handle held = session->allocate(test);
  // Its stock: a page of its own, one that is held, garbage, and more than there can be.
  member.member().stock[0] = stocked.value;
  member.member().stock[1] = held.value;
  member.member().stock[2] = UINT64_MAX;
  member.member().stock[3] = Handle::of(stocked.index(), stocked.generation() + 1).value;
  for (uint64_t i = 4; i < KVT_STOCK_ENTRIES; ++i) member.member().stock[i] = i * 0x123456789abcdefull;
  member.member().stock_count = UINT64_MAX;
  member.begin_step(test.table());
  const Handle left = session->allocate(test);
  session->release(left);
  session->ask(test, KVT_OP_FREE, left);
  EXPECT_EQ(limbo(), 1u);
  test.arena().end_member(session->state(), *second);
  test.pass();
  EXPECT_EQ(limbo(), 0u) << "a dead member's slots do not count";
  EXPECT_EQ(test.placement(stocked).generation(), stocked.generation() + 1);
  expect_state(held, PageState::kFilling, false);
  EXPECT_EQ(session->ask(test, KVT_OP_SEAL, held).result, KVT_RESULT_OK) << "the other member goes on";
  test.arena().end_member(session->state(), *second);  // twice is nothing
}

TEST_P(ArenaPages, ANewMemberBeginsWithAWipedBlock) {
  const auto session = test.attach(0, true, 0, 1);
  session->member().slot[9].epoch = 1;
  session->member().sq_tail.value = 77;
  test.arena().end_member(session->state(), 0);
  const auto again = test.arena().add_member(session->state(), 0);
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(*again, 0u);
  EXPECT_EQ(session->member().slot[9].epoch, 0u);
  TestSession member(session->state(), 0, test.table().pages());
  EXPECT_EQ(member.ask(test, KVT_OP_FLUSH, Handle{0}).result, KVT_RESULT_OK);
}

// ---- guarantees ----

TEST_P(ArenaPages, GuaranteedPagesAreNotTakenByOthers) {
  const uint64_t all = test.table().pages();
  const auto sure = test.attach(0, true, all - 10);
  const auto greedy = test.attach();
  uint64_t got = 0;
  while (!greedy->allocate(test).none()) ++got;
  EXPECT_LE(got, 10u);
  EXPECT_GE(got, 9u);
  EXPECT_EQ(greedy->free_count(), 0u);
  EXPECT_GE(sure->free_count(), all - 10) << "one load says what it can still have";
  for (uint64_t i = 0; i < all - 10; ++i)
    ASSERT_FALSE(sure->allocate(test).none()) << "page " << i << " of its guarantee";
}

TEST_P(ArenaPages, KeyedPagesOfOthersGiveWayToAGuarantee) {
  const auto greedy = test.attach();
  const auto pages = publish_all(*greedy);
  for (const Handle page : pages) greedy->let_go(test, page);
  const auto sure = test.attach(0, true, 20);
  for (int i = 0; i < 20; ++i) ASSERT_FALSE(sure->allocate(test).none()) << i;
}

TEST_P(ArenaPages, MoreThanThereIsCannotBeGuaranteed) {
  const uint64_t all = test.table().pages();
  const auto first = test.attach(0, true, all - 5);
  const auto second = test.arena().add_session(99, 0, 1, true, 6);
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code, Code::kFull);
  EXPECT_NE(second.error().text.find("arena \"test\""), std::string::npos) << second.error().text;
  EXPECT_EQ(test.arena().session_count(), 1u);
  EXPECT_TRUE(test.arena().add_session(99, 0, 1, true, 5).has_value());
}

TEST_P(ArenaPages, PublishingSaysFullWhenItWouldBreakAGuarantee) {
  const uint64_t all = test.table().pages();
  const auto sure = test.attach(0, true, all - 10);
  const auto other = test.attach(0, true, 10);
  std::vector<Handle> mine;
  for (;;) {
    const Handle page = other->allocate(test);
    if (page.none()) break;
    mine.push_back(page);
  }
  while (!sure->allocate(test).none()) continue;
  ASSERT_EQ(mine.size(), 10u);
  // All pages are taken. A keyed page is nobody's charge, and it is held: the guarantee of 10 would be 9
  // pages.
  const kvt_abi_completion answer = other->ask(test, KVT_OP_PUBLISH, mine[0], key_of(1));
  EXPECT_EQ(answer.result, KVT_RESULT_FULL);
  EXPECT_TRUE(other->lookup(test.table(), key_of(1)).none());
  expect_state(mine[0], PageState::kSealed, false);
}

TEST_P(ArenaPages, TheFreeCountFallsByOneWithEachPage) {
  const auto session = test.attach();
  uint64_t left = session->free_count();
  EXPECT_EQ(left, test.table().pages());
  while (left != 0) {
    ASSERT_FALSE(session->allocate(test).none());
    ASSERT_EQ(session->free_count(), --left);
  }
  EXPECT_TRUE(session->allocate(test).none());
}

}  // namespace
}  // namespace kvt::keeper
