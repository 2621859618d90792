// SPDX-License-Identifier: Apache-2.0
//
// What a killed daemon can have left in a row, and what the next one makes of it (PROTOCOL A2).
#include <gtest/gtest.h>

#include <cstring>

#include "tests/support/arena_fixture.h"

namespace kvt::keeper {
namespace {

using test::ArenaOptions;
using test::key_of;
using test::TestArena;
using test::TestSession;

class ArenaAdopt : public testing::Test {
 protected:
  explicit ArenaAdopt(uint32_t columns = 1) : test_(options(columns)), session_(test_.attach()) {}
  static ArenaOptions options(uint32_t columns) {
    ArenaOptions options;
    options.columns = columns;
    return options;
  }
  Adoption restart() {
    const Adoption adoption = test_.restart({session_.get()});
    test_.settle();
    EXPECT_EQ(test_.inconsistency(), "");
    return adoption;
  }
  Handle published(uint64_t number) { return session_->publish_new(test_, key_of(number)); }
  Placement placement(Handle page, uint32_t column = 0) { return test_.placement(page, column); }

  TestArena test_;
  std::unique_ptr<TestSession> session_;
};

TEST_F(ArenaAdopt, PublishedHeldAndFillingPagesAreAsTheyWere) {
  const Handle page = published(1);
  const Handle filling = session_->allocate(test_);
  const Placement before = placement(page);
  const Placement filling_before = placement(filling);
  const uint64_t epoch = test_.table().epoch();
  const Adoption adoption = restart();
  EXPECT_EQ(placement(page).word, before.word);
  EXPECT_EQ(placement(filling).word, filling_before.word);
  EXPECT_FALSE(adoption.index_rebuilt);
  EXPECT_EQ(session_->lookup(test_.table(), key_of(1), false), page);
  EXPECT_GT(test_.table().epoch(), epoch) << "the epoch goes on";
  EXPECT_EQ(session_->ask(test_, KVT_OP_PUBLISH, filling, key_of(2)).result, uint32_t{KVT_RESULT_OK});
}

TEST_F(ArenaAdopt, WhatASessionLeavesBehindIsFree) {
  const Handle filling = session_->allocate(test_);
  const Handle keyed = published(1);
  const Handle sealed = session_->allocate(test_);
  ASSERT_EQ(session_->ask(test_, KVT_OP_SEAL, sealed).result, uint32_t{KVT_RESULT_OK});
  test_.restart({});
  test_.settle();
  for (int i = 0; i < 1000 && placement(sealed).state() != PageState::kFree; ++i) test_.period();
  EXPECT_EQ(placement(filling).state(), PageState::kFree);
  EXPECT_EQ(placement(sealed).state(), PageState::kFree) << "the sweep finds it";
  EXPECT_EQ(placement(keyed).state(), PageState::kSealed);
  EXPECT_EQ(test_.inconsistency(), "");
}

TEST_F(ArenaAdopt, AnEvictionThatWasNotDecidedIsUndone) {
  const Handle page = published(1);
  const Placement before = placement(page);
  test_.table().set_placement(0, page.index(), before.with_state(PageState::kEvicting));
  EXPECT_EQ(restart().evictions_undone, 1u);
  EXPECT_EQ(placement(page).word, before.word);
  EXPECT_EQ(session_->lookup(test_.table(), key_of(1), false), page);
}

TEST_F(ArenaAdopt, APageThatIsOutOfTheIndexAndNotYetFreeIsFoundAgain) {
  const Handle page = published(1);
  PrefixIndex index(test_.table());
  ASSERT_TRUE(
      index.erase(key_of(1), page.index(), [&](PageIndex other) { return test_.table().key(other); }));
  test_.table().set_placement(0, page.index(), placement(page).with_state(PageState::kEvicting));
  EXPECT_TRUE(restart().index_rebuilt);
  EXPECT_EQ(session_->lookup(test_.table(), key_of(1), false), page);
}

TEST_F(ArenaAdopt, APublishThatWasCutOffComesAgain) {
  const Handle page = session_->allocate(test_);
  ASSERT_EQ(session_->ask(test_, KVT_OP_SEAL, page).result, uint32_t{KVT_RESULT_OK});
  // As on_publish() has it before the flag: index, parent and half a key.
  PrefixIndex index(test_.table());
  ASSERT_EQ(index.insert(key_of(1), page.index(), page.generation()), PrefixIndex::Insert::kInserted);
  test_.table().set_changing(page);
  test_.table().set_key(page.index(), Key{key_of(1).lo, 0});
  restart();
  EXPECT_TRUE(test_.table().key(page.index()).none());
  EXPECT_TRUE(session_->lookup(test_.table(), key_of(1), false).none());
  EXPECT_EQ(session_->ask(test_, KVT_OP_PUBLISH, page, key_of(1)).result, uint32_t{KVT_RESULT_OK});
  EXPECT_EQ(session_->lookup(test_.table(), key_of(1), false), page);
}

TEST_F(ArenaAdopt, AnUnpublishedPageTakesNoOtherKeyAfterwards) {
  const Handle page = published(1);
  ASSERT_EQ(session_->ask(test_, KVT_OP_UNPUBLISH, page).result, uint32_t{KVT_RESULT_OK});
  restart();
  EXPECT_EQ(session_->ask(test_, KVT_OP_PUBLISH, page, key_of(2)).result, uint32_t{KVT_RESULT_STATE});
}

TEST_F(ArenaAdopt, AFreshPageThatNobodyWasToldOfIsFree) {
  const Handle page = session_->allocate(test_);  // held: the session knows it
  // Another one, as refill() has it before the push.
  const PageIndex fresh = page.index() + 30;
  const Placement empty = test_.table().placement(0, fresh);
  ASSERT_EQ(empty.state(), PageState::kFree);
  const auto frame = static_cast<Frame>(test_.table().tier(1).first_frame + 40);
  test_.table().set_owner(fresh, session_->id());
  test_.table().set_placement(0, fresh,
                              Placement::of(PageState::kFilling, false, 1, frame, empty.generation()));
  test_.table().set_changing(Handle::of(fresh, empty.generation()));
  EXPECT_EQ(restart().filling_freed, 1u);
  EXPECT_EQ(test_.table().placement(0, fresh).state(), PageState::kFree);
  EXPECT_EQ(test_.table().placement(0, fresh).generation(), empty.generation() + 1);
  EXPECT_EQ(placement(page).state(), PageState::kFilling);
}

TEST_F(ArenaAdopt, APageThatIsHandedOutAndKnownStays) {
  const Handle waiting = session_->state().magazine.newest();
  ASSERT_FALSE(waiting.none());
  test_.table().set_changing(waiting);
  restart();
  EXPECT_EQ(placement(waiting).state(), PageState::kFilling);
  const Handle held = session_->allocate(test_);
  test_.table().set_changing(held);
  restart();
  EXPECT_EQ(placement(held).state(), PageState::kFilling);
  // In its member's stock: neither waiting nor held.
  session_->release(held);
  store_relaxed(session_->member().stock[0], held.value);
  store_relaxed(session_->member().stock_count, uint64_t{1});
  test_.table().set_changing(held);
  restart();
  EXPECT_EQ(placement(held).state(), PageState::kFilling);
}

TEST_F(ArenaAdopt, APageThatAMemberIsReleasingStays) {
  // Out of the magazine, not held any more, and not yet in a stock.
  const Handle page = session_->state().magazine.newest();
  ASSERT_FALSE(page.none());
  kvt_abi_session_header& header = session_->state().region.header();
  store_relaxed(header.magazine_head.value, load_relaxed(header.magazine_tail.value));
  test_.table().set_changing(page);
  restart();
  EXPECT_EQ(placement(page).state(), PageState::kFilling);
}

TEST_F(ArenaAdopt, ShadowsThatDoNotFitAreDropped) {
  const Handle page = published(1);
  const auto slow = static_cast<Frame>(test_.table().tier(1).first_frame + 50);
  const Placement now = placement(page);
  ASSERT_EQ(now.tier(), 0u);
  for (const Shadow shadow :
       {Shadow::of(1, slow, now.generation() + 1), Shadow::of(0, now.frame(), now.generation()),
        Shadow::of(1, 1u << 20, now.generation())}) {
    test_.table().set_shadow(0, page.index(), shadow);
    EXPECT_EQ(restart().shadows_dropped, 1u);
    EXPECT_FALSE(test_.shadow(page).valid());
  }
  test_.table().set_shadow(0, page.index(), Shadow::of(1, slow, now.generation()));
  EXPECT_EQ(restart().shadows_dropped, 0u);
  EXPECT_EQ(test_.shadow(page).frame(), slow);
}

TEST_F(ArenaAdopt, OffersAreWithdrawnAndTheirReportsMatchNothing) {
  const Handle page = published(1);
  ASSERT_EQ(test_.arena().move(test_.mover(), 0, page.index(), 1), MoveRequest::kQueued);
  test_.settle();
  session_->take_offers();
  ASSERT_TRUE(test_.arena().offer(0, page.index(), 0, session_->state().geometry.slot));
  const auto seen = session_->offered(test_.table(), page);
  ASSERT_TRUE(seen);
  session_->begin_step(test_.table());
  EXPECT_EQ(test_.restart({session_.get()}).offers_cleared, 1u);
  EXPECT_FALSE(session_->offered(test_.table(), page));
  // The reader may be writing: the frame is not used again before its step has ended.
  test_.pass();
  EXPECT_NE(test_.arena().counts().limbo, 0u);
  EXPECT_EQ(session_->ask(test_, TestSession::report_of(page, seen->offer.frame(), seen->serial)).result,
            uint32_t{KVT_RESULT_STALE});
  session_->end_step();
  test_.settle();
  EXPECT_EQ(test_.arena().counts().limbo, 0u);
}

TEST_F(ArenaAdopt, FramesThatNoWordNamesWaitForStepsThatWereOpen) {
  session_->begin_step(test_.table());
  test_.restart({session_.get()});
  test_.pass();
  const uint64_t limbo = test_.arena().counts().limbo;
  EXPECT_GT(limbo, 0u);
  session_->end_step();
  test_.settle();
  EXPECT_EQ(test_.arena().counts().limbo, 0u);
  EXPECT_EQ(test_.inconsistency(), "");
}

TEST_F(ArenaAdopt, WhoKeepsABlockTableResolvesAnew) {
  const uint64_t cursor = ChangeLog(test_.table()).tail();
  restart();
  EXPECT_GT(ChangeLog(test_.table()).tail() - cursor, ChangeLog::kCapacity);
}

TEST_F(ArenaAdopt, CommandsThatWereWaitingAreServed) {
  const Handle page = session_->allocate(test_);
  session_->submit(KVT_OP_PUBLISH, page, key_of(1));
  test_.restart({session_.get()});
  test_.pass();
  const auto answer = session_->completion();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->result, uint32_t{KVT_RESULT_OK});
  EXPECT_EQ(session_->lookup(test_.table(), key_of(1), false), page);
}

TEST_F(ArenaAdopt, ChildrenAreCountedAgain) {
  const Handle parent = published(1);
  const Handle child = session_->publish_new(test_, key_of(2), parent);
  session_->let_go(test_, parent);
  session_->let_go(test_, child);
  restart();
  // More pages than there are: the leaf goes first, then its parent.
  for (uint64_t i = 0; i < 200; ++i) {
    const Handle page = session_->publish_new(test_, key_of(100 + i));
    if (page.none()) break;
    session_->let_go(test_, page);
    EXPECT_FALSE(session_->lookup(test_.table(), key_of(1), false).none() &&
                 !session_->lookup(test_.table(), key_of(2), false).none())
        << "a parent was evicted before its child";
  }
}

TEST_F(ArenaAdopt, ARegionThatIsLostFreezesTheArenaUntilItsSessionEnds) {
  const Handle page = published(1);
  session_->let_go(test_, page);
  auto other = test_.attach();
  // Its descriptor is another file's.
  session_->state().region_fd = std::move(*make_memfd("kvt-another", 4096));
  const uint64_t id = session_->id();
  const Adoption adoption = test_.restart({session_.get(), other.get()});
  EXPECT_EQ(adoption.regions_lost, 1u);
  EXPECT_TRUE(test_.arena().find_session(id)->ending) << "its processes are told when they come back";
  test_.settle();
  EXPECT_GT(test_.arena().counts().limbo, 0u);
  EXPECT_TRUE(test_.arena().is_held(page.index())) << "what it held is not known: everything is";
  test_.arena().end_session(*test_.arena().find_session(id));
  test_.settle();
  EXPECT_EQ(test_.arena().counts().limbo, 0u);
  EXPECT_FALSE(test_.arena().is_held(page.index()));
  EXPECT_EQ(test_.inconsistency(), "");
}

TEST_F(ArenaAdopt, RowsThatNoDaemonLeavesAreFreedAndCounted) {
  const Handle one = published(1);
  const Handle two = published(2);
  const Handle three = published(3);
  // Two pages in one frame; a frame of no tier; a key flag without a key.
  test_.table().set_placement(0, two.index(),
                              placement(two).with_place(placement(one).tier(), placement(one).frame()));
  test_.table().set_placement(0, three.index(), placement(three).with_place(5, 3));
  const Adoption adoption = restart();
  EXPECT_EQ(adoption.damaged, 2u);
  EXPECT_TRUE(adoption.index_rebuilt);
  EXPECT_EQ(placement(one).state(), PageState::kSealed);
  EXPECT_EQ(placement(two).state(), PageState::kFree);
  EXPECT_EQ(placement(three).state(), PageState::kFree);
}

/// Its next generation would be the first one again, whose handles are out there.
TEST_F(ArenaAdopt, APageInUseOfTheLastGenerationIsRetired) {
  const Handle page = published(1);
  const Placement now = placement(page);
  test_.table().set_placement(
      0, page.index(), Placement::of(now.state(), now.keyed(), now.tier(), now.frame(), KVT_MAX_GENERATION));
  EXPECT_EQ(restart().damaged, 1u);
  EXPECT_EQ(test_.inconsistency(), "");
  EXPECT_EQ(test_.arena().counts().retired, 1u);
  test_.arena().end_session(*test_.arena().find_session(session_->id()));
  test_.settle();
  EXPECT_EQ(test_.inconsistency(), "");
  EXPECT_EQ(test_.arena().counts().retired, 1u);
}

TEST_F(ArenaAdopt, AnotherMajorVersionIsRefusedAndNothingIsTouched) {
  published(1);
  auto& header = const_cast<kvt_abi_arena_header&>(test_.table().header());
  header.region.major = KVT_ABI_MAJOR + 1;
  std::vector<std::byte> before(test_.arena().memory().table_mapping.bytes());
  std::memcpy(before.data(), test_.table().data(), before.size());
  const Fd table(::dup(test_.arena().memory().table_fd.get()));
  const auto adopted = test_.try_restart({session_.get()});
  ASSERT_FALSE(adopted.has_value());
  EXPECT_NE(adopted.error().text.find(std::to_string(KVT_ABI_MAJOR + 1)), std::string::npos)
      << adopted.error().text;
  EXPECT_NE(adopted.error().text.find(std::to_string(KVT_ABI_MAJOR)), std::string::npos);
  const auto mapping = Mapping::map(table, before.size(), Access::kReadOnly);
  ASSERT_TRUE(mapping.has_value());
  EXPECT_EQ(std::memcmp(mapping->data(), before.data(), before.size()), 0);
}

TEST_F(ArenaAdopt, TheNextMinorVersionAdopts) {
  const Handle page = published(1);
  auto& header = const_cast<kvt_abi_arena_header&>(test_.table().header());
  // As a daemon before this version left it: a shorter header, and nothing behind it.
  header.region.minor = KVT_ABI_MINOR - 1;
  header.region.header_bytes = offsetof(kvt_abi_arena_header, changing);
  header.changing = 0;
  EXPECT_EQ(restart().damaged, 0u);
  EXPECT_EQ(session_->lookup(test_.table(), key_of(1), false), page);
  EXPECT_EQ(test_.table().header().region.minor, KVT_ABI_MINOR);
  // And one that comes after this one, with fields that this one does not know.
  const_cast<kvt_abi_arena_header&>(test_.table().header()).region.minor = KVT_ABI_MINOR + 1;
  EXPECT_EQ(restart().damaged, 0u);
  EXPECT_EQ(session_->lookup(test_.table(), key_of(1), false), page);
}

class ArenaAdoptColumns : public ArenaAdopt {
 protected:
  ArenaAdoptColumns() : ArenaAdopt(2) {}
  uint32_t slow() { return test_.slow_tier(); }
};

TEST_F(ArenaAdoptColumns, ASealThatOneColumnHasIsFinished) {
  const Handle page = session_->allocate(test_);
  test_.table().set_placement(0, page.index(), placement(page).with_state(PageState::kSealed));
  restart();
  EXPECT_EQ(placement(page, 0).state(), PageState::kSealed);
  EXPECT_EQ(placement(page, 1).state(), PageState::kSealed);
}

TEST_F(ArenaAdoptColumns, AFreeThatOneColumnHasIsFinished) {
  const Handle page = published(1);
  test_.table().set_placement(0, page.index(),
                              Placement::of(PageState::kFree, false, 0, 0, page.generation() + 1));
  restart();
  EXPECT_EQ(placement(page, 1).state(), PageState::kFree);
  EXPECT_EQ(placement(page, 1).generation(), page.generation() + 1);
}

TEST_F(ArenaAdoptColumns, AFillThatOneColumnHasIsUndone) {
  const PageIndex fresh = 40;
  const Placement empty = test_.table().placement(0, fresh);
  ASSERT_EQ(empty.state(), PageState::kFree);
  const auto frame = static_cast<Frame>(test_.table().tier(slow()).first_frame + 60);
  test_.table().set_owner(fresh, session_->id());
  test_.table().set_placement(0, fresh,
                              Placement::of(PageState::kFilling, false, slow(), frame, empty.generation()));
  restart();
  EXPECT_EQ(test_.table().placement(0, fresh).state(), PageState::kFree);
  EXPECT_EQ(test_.table().placement(1, fresh).generation(), empty.generation() + 1);
}

TEST_F(ArenaAdoptColumns, AnEvictionThatOneColumnHasIsUndone) {
  const Handle page = published(1);
  test_.table().set_placement(0, page.index(), placement(page).with_state(PageState::kEvicting));
  restart();
  EXPECT_EQ(placement(page, 0).state(), PageState::kSealed);
  EXPECT_EQ(placement(page, 1).state(), PageState::kSealed);
  EXPECT_EQ(session_->lookup(test_.table(), key_of(1), false), page);
}

}  // namespace
}  // namespace kvt::keeper
