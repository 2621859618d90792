// SPDX-License-Identifier: Apache-2.0
//
// Offers: a reader promotes a page that it reads anyway. Each rule of PROTOCOL A3 with the failure that it
// keeps away.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "shm/region/change_log.h"
#include "tests/support/arena_fixture.h"

namespace kvt::keeper {
namespace {

using test::ArenaOptions;
using test::key_of;
using test::TestArena;
using test::TestSession;

/// 40 pages in 16 fast and 64 slow frames, and nothing that moves by itself.
ArenaOptions options_of(uint32_t columns) {
  ArenaOptions options;
  options.columns = columns;
  options.pages = 40;
  return options;
}

class ArenaOffers : public testing::TestWithParam<uint32_t> {
 protected:
  ArenaOffers() : ArenaOffers(options_of(GetParam())) { make_room(); }
  explicit ArenaOffers(const ArenaOptions& options)
      : test(options), column(GetParam() - 1), session(test.attach(column)) {
    session->take_offers();
    for (uint64_t key = 1; pages.size() < options.pages; ++key) {
      const Handle page = session->publish_new(test, key_of(key));
      KVT_CHECK(!page.none());
      pages.push_back(page);
      test.fill(page);
    }
    test.period();  // there is a budget from now on
  }
  void TearDown() override {
    test.settle();
    EXPECT_EQ(test.inconsistency(), "");
  }

  Placement at(Handle page) { return test.placement(page, column); }
  uint32_t fast_tier() const { return column; }  // hbm<column>
  bool is_fast(Handle page) { return at(page).tier() == fast_tier(); }
  Handle slow_page(size_t skip = 0) {
    for (const Handle page : pages)
      if (!is_fast(page) && skip-- == 0) return page;
    KVT_CHECK(false);
    return kNoHandle;
  }
  /// With one column new pages have filled the fast tier but for a frame.
  void make_room(uint64_t frames = 8) {
    for (size_t i = 0; i < pages.size() && fast_frames().free < frames; ++i) {
      if (!is_fast(pages[i])) continue;
      test.arena().move(test.mover(), column, pages[i].index(), test.slow_tier());
      test.settle();
    }
  }
  bool offer_to(TestSession& to, Handle page) {
    return test.arena().offer(column, page.index(), fast_tier(), to.state().geometry.slot);
  }
  /// The copy that the library makes, by whoever has seen the offer.
  void stage(Handle page, const TestSession::SeenOffer& seen) {
    std::memcpy(test.frame_data(seen.offer.frame()), test.frame_data(at(page).frame()),
                test.options().page_bytes);
  }
  uint32_t report(TestSession& from, Handle page, const TestSession::SeenOffer& seen) {
    return from.ask(test, TestSession::report_of(page, seen.offer.frame(), seen.serial)).result;
  }
  /// An offer that was made and that `session` sees.
  TestSession::SeenOffer offered(Handle page) {
    KVT_CHECK(offer_to(*session, page));
    const auto seen = session->offered(test.table(), page);
    KVT_CHECK(seen.has_value());
    return *seen;
  }
  ArenaCounts::Offers counts() { return test.arena().counts().offers; }
  uint64_t promoted() { return load_relaxed(test.table().counters().promoted); }
  FrameTable::Counts fast_frames() { return test.arena().counts().tiers[fast_tier()].counts; }
  void expect_not_moved(Handle page, Placement before) {
    EXPECT_EQ(at(page).word, before.word);
    EXPECT_EQ(promoted(), 0u);
    EXPECT_EQ(counts().taken, 0u);
    EXPECT_TRUE(test.is_intact(page, at(page).frame()));
  }

  TestArena test;
  uint32_t column;
  std::unique_ptr<TestSession> session;
  std::vector<Handle> pages;  ///< all published and held
};
INSTANTIATE_TEST_SUITE_P(Columns, ArenaOffers, testing::Values(1u, 2u));

TEST_P(ArenaOffers, TheReaderPromotesThePage) {
  const Handle page = slow_page();
  const Placement before = at(page);
  const ChangeLog log(test.table());
  const uint64_t tail = log.tail();
  const uint64_t epoch = test.table().epoch();
  session->begin_step(test.table());
  const auto seen = offered(page);
  EXPECT_EQ(seen.serial, epoch);
  EXPECT_EQ(test.table().tier_of_frame(seen.offer.frame()), fast_tier());
  EXPECT_EQ(load_relaxed(session->region().header().offers), 1u) << "the hint that makes readers look";
  EXPECT_EQ(test.inconsistency(), "") << "an offered frame is accounted for";
  EXPECT_EQ(at(page).word, before.word) << "an offer moves nothing";
  EXPECT_TRUE(test.arena().waits()) << "or it would never lapse while everybody sleeps";
  stage(page, seen);
  session->end_step();
  EXPECT_EQ(report(*session, page, seen), uint32_t{KVT_RESULT_OK});

  EXPECT_EQ(at(page).frame(), seen.offer.frame());
  EXPECT_EQ(at(page).tier(), fast_tier());
  EXPECT_EQ(at(page).state(), PageState::kSealed);
  EXPECT_EQ(at(page).generation(), page.generation());
  EXPECT_TRUE(test.is_intact(page, at(page).frame()));
  const Shadow shadow = test.shadow(page, column);
  ASSERT_TRUE(shadow.valid());
  EXPECT_EQ(shadow.frame(), before.frame());
  EXPECT_TRUE(test.is_intact(page, shadow.frame()));
  EXPECT_FALSE(session->offered(test.table(), page));
  EXPECT_EQ(load_relaxed(session->region().header().offers), 0u);
  EXPECT_GT(test.table().epoch(), epoch);
  bool logged = false;
  for (uint64_t position = tail; position < log.tail(); ++position) {
    ChangeLog::Entry entry{};
    ASSERT_EQ(log.read(position, entry), ChangeLog::Read::kEntry);
    logged = logged || (entry.page == page.index() && entry.column == column);
  }
  EXPECT_TRUE(logged);
  EXPECT_EQ(promoted(), 1u);
  EXPECT_EQ(counts().made, 1u);
  EXPECT_EQ(counts().taken, 1u);
  EXPECT_EQ(test.commit_done(), 0u) << "no worker has copied anything";
  EXPECT_FALSE(test.arena().waits());
}

TEST_P(ArenaOffers, IsMadeOnlyWhereItCanBeTaken) {
  const Handle page = slow_page();
  const uint32_t slot = session->state().geometry.slot;
  Arena& arena = test.arena();
  EXPECT_FALSE(arena.offer(column, page.index(), fast_tier(), KVT_MAX_SESSIONS));
  EXPECT_FALSE(arena.offer(column, page.index(), fast_tier(), slot + 1)) << "there is no such session";
  const auto reader = test.attach(column, false);
  reader->take_offers();
  EXPECT_FALSE(offer_to(*reader, page)) << "it may not write";
  const auto silent = test.attach(column);
  EXPECT_FALSE(offer_to(*silent, page)) << "it does not take offers";
  if (GetParam() == 2) {
    const auto other = test.attach(0);
    other->take_offers();
    EXPECT_FALSE(offer_to(*other, page)) << "it reads through another column";
    EXPECT_FALSE(arena.offer(column, page.index(), 0, slot)) << "the tier is another column's";
  }
  EXPECT_FALSE(arena.offer(column, page.index(), test.slow_tier(), slot)) << "it is there";
  session->release(pages.back());  // so that there is room
  const Handle filling = session->allocate(test);
  ASSERT_FALSE(filling.none());
  EXPECT_FALSE(offer_to(*session, filling)) << "it is not sealed";
  session->state().members[0].orphan = true;
  EXPECT_FALSE(offer_to(*session, page)) << "nobody's reports would be served";
  session->state().members[0].orphan = false;

  ASSERT_TRUE(offer_to(*session, page));
  EXPECT_FALSE(offer_to(*session, page)) << "one at a time (C9)";
  const Handle pinned = slow_page(1);
  ASSERT_EQ(arena.pin(pinned.index()), PinRequest::kPinned);
  EXPECT_FALSE(offer_to(*session, pinned));
  const Handle copied = slow_page(2);
  ASSERT_EQ(arena.move(test.mover(), column, copied.index(), fast_tier()), MoveRequest::kQueued);
  EXPECT_FALSE(offer_to(*session, copied)) << "a worker copies it";
  EXPECT_EQ(arena.pin(copied.index()), PinRequest::kBusy);
  EXPECT_EQ(counts().made, 1u);
  test.settle();
  EXPECT_FALSE(offer_to(*session, copied)) << "it is in the fast tier";
  session->release(filling);
  session->ask(test, KVT_OP_FREE, filling);
}

/// A budget of two pages a second, and a burst of 8.
class SmallBudget : public ArenaOffers {
 protected:
  SmallBudget() : ArenaOffers(small()) { make_room(12); }
  static ArenaOptions small() {
    ArenaOptions options = options_of(GetParam());
    options.settings.move_bytes_per_second = 2 * options.page_bytes;
    options.settings.idle_credit = 0;
    return options;
  }
};
INSTANTIATE_TEST_SUITE_P(Columns, SmallBudget, testing::Values(1u, 2u));

TEST_P(SmallBudget, CountsAnOfferUntilItIsWithdrawn) {
  for (size_t i = 0; i < 8; ++i) EXPECT_TRUE(offer_to(*session, slow_page(i)));
  EXPECT_FALSE(offer_to(*session, slow_page(8))) << "nothing has been earned yet";
  test.arena().pass(test.mover(), true, 0.5);
  EXPECT_TRUE(offer_to(*session, slow_page(8)));
  EXPECT_EQ(counts().made, 9u);
  EXPECT_FALSE(offer_to(*session, slow_page(9)));
  EXPECT_TRUE(test.arena().withdraw_offer(slow_page(0).index()));
  EXPECT_TRUE(offer_to(*session, slow_page(9))) << "nothing was copied";
  EXPECT_FALSE(test.arena().withdraw_offer(slow_page(0).index())) << "it is not there any more";
}

class TwoOffers : public ArenaOffers {
 protected:
  TwoOffers() : ArenaOffers(two()) { make_room(); }
  static ArenaOptions two() {
    ArenaOptions options = options_of(GetParam());
    options.settings.offers_max = 2;
    return options;
  }
};
INSTANTIATE_TEST_SUITE_P(Columns, TwoOffers, testing::Values(1u, 2u));

TEST_P(TwoOffers, AreOutAtMost) {
  EXPECT_TRUE(offer_to(*session, slow_page(0)));
  EXPECT_TRUE(offer_to(*session, slow_page(1)));
  EXPECT_FALSE(offer_to(*session, slow_page(2)));
  EXPECT_TRUE(test.arena().withdraw_offer(slow_page(0).index()));
  EXPECT_TRUE(offer_to(*session, slow_page(2)));
}

/// [offerdirect]: a withdrawn frame that is used again at once is written by the reader that loaded the
/// offer.
TEST_P(ArenaOffers, AWithdrawnFrameWaitsForTheStepThatMayWriteIt) {
  const Handle page = slow_page();
  session->begin_step(test.table());
  const auto seen = offered(page);
  const uint64_t free = fast_frames().free;
  ASSERT_TRUE(test.arena().withdraw_offer(page.index()));
  EXPECT_FALSE(session->offered(test.table(), page)) << "steps that begin now see none";
  test.pass();
  EXPECT_EQ(fast_frames().limbo, 1u);
  EXPECT_EQ(fast_frames().free, free);
  stage(page, seen);  // it has loaded the word before
  session->end_step();
  test.pass();
  EXPECT_EQ(fast_frames().limbo, 0u);
  EXPECT_EQ(fast_frames().free, free + 1);
  EXPECT_EQ(counts().withdrawn, 1u);
}

/// [noserial]: offer 1 of a page and a frame is withdrawn, another page lives in the frame and leaves, offer
/// 2 is of the same page and frame; the report of offer 1 comes only now.
TEST_P(ArenaOffers, ALateReportDoesNotMatchALaterOffer) {
  const Handle page = slow_page();
  const Handle other = slow_page(1);
  const Placement before = at(page);
  session->begin_step(test.table());
  const auto first = offered(page);
  stage(page, first);
  session->end_step();
  ASSERT_TRUE(test.arena().withdraw_offer(page.index()));
  test.settle();
  // The frame that was freed last is taken first.
  const auto meanwhile = offered(other);
  ASSERT_EQ(meanwhile.offer.frame(), first.offer.frame());
  stage(other, meanwhile);
  ASSERT_EQ(report(*session, other, meanwhile), uint32_t{KVT_RESULT_OK});
  ASSERT_EQ(test.arena().move(test.mover(), column, other.index(), test.slow_tier()), MoveRequest::kMoved);
  test.settle();
  const auto second = offered(page);
  ASSERT_EQ(second.offer.frame(), first.offer.frame());
  ASSERT_NE(second.serial, first.serial);

  EXPECT_EQ(report(*session, page, first), uint32_t{KVT_RESULT_STALE});
  EXPECT_EQ(at(page).word, before.word) << "the frame has the other page's bytes";
  EXPECT_EQ(counts().refused, 1u);
  stage(page, second);
  EXPECT_EQ(report(*session, page, second), uint32_t{KVT_RESULT_OK});
  EXPECT_TRUE(test.is_intact(page, at(page).frame()));
}

TEST_P(ArenaOffers, OnlyTheSessionThatHasTheOfferReportsIt) {
  const auto other = test.attach(column);
  other->take_offers();
  const Handle page = slow_page();
  const Placement before = at(page);
  const auto seen = offered(page);
  EXPECT_FALSE(other->offered(test.table(), page));
  EXPECT_EQ(report(*other, page, seen), uint32_t{KVT_RESULT_STALE});
  expect_not_moved(page, before);
  EXPECT_EQ(counts().out, 1u) << "and the offer is still there for its own";
}

TEST_P(ArenaOffers, AReadOnlySessionReportsNothing) {
  const auto reader = test.attach(column, false);
  reader->take_offers();
  const Handle page = slow_page();
  const Placement before = at(page);
  const auto seen = offered(page);
  EXPECT_EQ(report(*reader, page, seen), uint32_t{KVT_RESULT_PERMISSION});
  expect_not_moved(page, before);
}

TEST_P(ArenaOffers, EveryFieldOfAReportCounts) {
  const Handle page = slow_page();
  const Handle other = slow_page(1);
  const Placement before = at(page);
  const auto seen = offered(page);
  const auto refused = [&](Handle of, Frame frame, uint64_t serial) {
    const uint32_t result = session->ask(test, TestSession::report_of(of, frame, serial)).result;
    expect_not_moved(page, before);
    return result;
  };
  const Frame frame = seen.offer.frame();
  EXPECT_EQ(refused(page, frame + 1, seen.serial), uint32_t{KVT_RESULT_STALE});
  EXPECT_EQ(refused(page, frame, seen.serial + 1), uint32_t{KVT_RESULT_STALE});
  EXPECT_EQ(refused(page, frame, 0), uint32_t{KVT_RESULT_STALE});
  EXPECT_EQ(refused(Handle::of(page.index(), page.generation() + 1), frame, seen.serial),
            uint32_t{KVT_RESULT_STALE});
  EXPECT_EQ(refused(other, frame, seen.serial), uint32_t{KVT_RESULT_STALE});
  EXPECT_EQ(refused(Handle::of(static_cast<PageIndex>(test.table().pages()), 0), frame, seen.serial),
            uint32_t{KVT_RESULT_INVALID});
  kvt_abi_submission wide = TestSession::report_of(page, frame, seen.serial);
  wide.parent |= uint64_t{1} << 32;
  EXPECT_EQ(session->ask(test, wide).result, uint32_t{KVT_RESULT_STALE}) << "the whole word is the frame";
  expect_not_moved(page, before);
  EXPECT_EQ(report(*session, page, seen), uint32_t{KVT_RESULT_OK});
}

TEST_P(ArenaOffers, ASecondReportIsRefused) {
  const Handle page = slow_page();
  const auto seen = offered(page);
  stage(page, seen);
  ASSERT_EQ(report(*session, page, seen), uint32_t{KVT_RESULT_OK});
  const Placement moved = at(page);
  EXPECT_EQ(report(*session, page, seen), uint32_t{KVT_RESULT_STALE});
  EXPECT_EQ(at(page).word, moved.word);
  EXPECT_EQ(promoted(), 1u);
}

TEST_P(ArenaOffers, EvictionTakesTheOfferAndTheReportFindsAnotherPage) {
  const Handle page = slow_page();
  session->begin_step(test.table());
  const auto seen = offered(page);
  stage(page, seen);
  session->release(page);
  ASSERT_EQ(session->ask(test, KVT_OP_UNPUBLISH, page).result, uint32_t{KVT_RESULT_OK});
  ASSERT_NE(at(page).generation(), page.generation()) << "an offer keeps no page";
  EXPECT_FALSE(test.table().offer(column, page.index()).valid());
  EXPECT_EQ(fast_frames().limbo, 1u) << "the step may still write into it";
  session->end_step();
  test.settle();
  // The index comes back with another content.
  Handle again = kNoHandle;
  for (uint64_t key = 1000; again.none() || again.index() != page.index(); ++key) {
    again = session->publish_new(test, key_of(key));
    ASSERT_FALSE(again.none());
  }
  ASSERT_NE(again.generation(), page.generation());
  const Placement now = at(again);
  EXPECT_EQ(report(*session, page, seen), uint32_t{KVT_RESULT_STALE});
  EXPECT_EQ(report(*session, again, seen), uint32_t{KVT_RESULT_STALE});
  EXPECT_EQ(at(again).word, now.word);
}

TEST_P(ArenaOffers, LapsesAfterItsTime) {
  const Handle page = slow_page();
  const Placement before = at(page);
  const auto seen = offered(page);
  for (int i = 0; i < 7; ++i) test.period();  // of 10 ms; an offer is good for 80
  EXPECT_TRUE(session->offered(test.table(), page));
  test.period();
  EXPECT_FALSE(session->offered(test.table(), page));
  EXPECT_EQ(counts().lapsed, 1u);
  EXPECT_EQ(counts().withdrawn, 0u);
  stage(page, seen);
  EXPECT_EQ(report(*session, page, seen), uint32_t{KVT_RESULT_STALE});
  expect_not_moved(page, before);
}

TEST_P(ArenaOffers, ASessionThatEndsLeavesNoneToWhoGetsItsSlot) {
  const auto ending = test.attach(column);
  ending->take_offers();
  const uint32_t slot = ending->state().geometry.slot;
  const Handle page = slow_page();
  const Placement before = at(page);
  ASSERT_TRUE(offer_to(*ending, page));
  const auto seen = ending->offered(test.table(), page);
  ASSERT_TRUE(seen);
  ASSERT_EQ(load_relaxed(ending->region().header().offers), 1u);
  // Its process may live, and read on.
  const auto mapped =
      Mapping::map(ending->state().region_fd, ending->state().mapping.bytes(), Access::kReadWrite);
  ASSERT_TRUE(mapped);
  test.end(*ending);
  EXPECT_EQ(load_relaxed(reinterpret_cast<const kvt_abi_session_header*>(mapped->data())->offers), 0u)
      << "it looks for none any more";
  EXPECT_FALSE(test.table().offer(column, page.index()).valid());
  EXPECT_EQ(counts().withdrawn, 1u);
  const auto next = test.attach(column);
  next->take_offers();
  ASSERT_EQ(next->state().geometry.slot, slot);
  EXPECT_EQ(report(*next, page, *seen), uint32_t{KVT_RESULT_STALE});
  expect_not_moved(page, before);
}

/// A1: what is offered to an orphan is not served any more, and not lost.
TEST_P(ArenaOffers, AnOrphansReportWaitsAndItsOfferLapses) {
  const Handle page = slow_page();
  const Placement before = at(page);
  const auto seen = offered(page);
  session->state().members[0].orphan = true;
  ASSERT_NE(session->submit(TestSession::report_of(page, seen.offer.frame(), seen.serial)), 0u);
  for (int i = 0; i < 8; ++i) test.period();
  expect_not_moved(page, before);
  EXPECT_EQ(counts().lapsed, 1u);
  session->state().members[0].orphan = false;  // it resumes: its report is late
  test.pass();
  expect_not_moved(page, before);
  EXPECT_EQ(counts().refused, 1u);
}

TEST_P(ArenaOffers, ASessionThatBeginsToEndHasNone) {
  const Handle page = slow_page();
  const Placement before = at(page);
  const auto seen = offered(page);
  session->submit(TestSession::report_of(page, seen.offer.frame(), seen.serial));
  test.arena().begin_end(session->state());
  EXPECT_EQ(counts().out, 0u);
  test.pass();
  expect_not_moved(page, before);
}

TEST_P(ArenaOffers, ADeadMembersReportIsDroppedAndAnotherMemberTakesTheOffer) {
  const auto owner = test.attach(column, true, 0, 2);
  owner->take_offers();
  const uint32_t second = test.arena().add_member(owner->state(), 0).value();
  TestSession member(owner->state(), second, test.table().pages());
  const Handle page = slow_page();
  ASSERT_TRUE(offer_to(*owner, page));
  const auto seen = member.offered(test.table(), page);
  ASSERT_TRUE(seen);
  // It dies with half of the page copied, and a report that nobody has read.
  std::memcpy(test.frame_data(seen->offer.frame()), test.frame_data(at(page).frame()),
              test.options().page_bytes / 2);
  member.submit(TestSession::report_of(page, seen->offer.frame(), seen->serial));
  test.arena().end_member(owner->state(), second);
  test.pass();
  EXPECT_EQ(promoted(), 0u);
  ASSERT_TRUE(owner->offered(test.table(), page)) << "the session lives, and so does the offer";
  stage(page, *seen);
  EXPECT_EQ(report(*owner, page, *seen), uint32_t{KVT_RESULT_OK});
  EXPECT_TRUE(test.is_intact(page, at(page).frame()));
}

TEST_P(ArenaOffers, OperatorsComeFirst) {
  const Handle pinned = slow_page();
  const Handle moved = slow_page(1);
  const auto first = offered(pinned);
  const auto second = offered(moved);
  EXPECT_EQ(test.arena().pin(pinned.index()), PinRequest::kPinned);
  EXPECT_EQ(report(*session, pinned, first), uint32_t{KVT_RESULT_STALE});
  EXPECT_FALSE(is_fast(pinned));
  EXPECT_EQ(test.arena().move(test.mover(), column, moved.index(), fast_tier()), MoveRequest::kQueued);
  test.settle();
  EXPECT_TRUE(is_fast(moved));
  EXPECT_NE(at(moved).frame(), second.offer.frame()) << "that one waits for its reader";
  EXPECT_EQ(report(*session, moved, second), uint32_t{KVT_RESULT_STALE});
  EXPECT_EQ(counts().withdrawn, 2u);
  test.arena().unpin(pinned.index());
}

class TwoColumns : public ArenaOffers {};
INSTANTIATE_TEST_SUITE_P(Columns, TwoColumns, testing::Values(2u));

/// Both columns read one slow frame; that one becomes the shadow of both (A4: of what the row names when the
/// report comes).
TEST_P(TwoColumns, OneOfferAPageAndOneShadowForBoth) {
  const Handle page = slow_page();
  const Frame slow = at(page).frame();
  const auto first = offered(page);
  ASSERT_EQ(test.arena().move(test.mover(), 0, page.index(), 0), MoveRequest::kQueued);
  EXPECT_EQ(counts().withdrawn, 1u) << "one at a time, whichever the column";
  test.settle();
  const auto second = offered(page);
  EXPECT_EQ(report(*session, page, first), uint32_t{KVT_RESULT_STALE});
  stage(page, second);
  EXPECT_EQ(report(*session, page, second), uint32_t{KVT_RESULT_OK});
  EXPECT_EQ(test.shadow(page, 0).frame(), slow);
  EXPECT_EQ(test.shadow(page, 1).frame(), slow);
  EXPECT_NE(test.placement(page, 0).frame(), test.placement(page, 1).frame());
}

/// New pages come before offers: in a fast tier whose last free frame was offered, it is taken back.
class FullFastTierOffers : public ArenaOffers {
 protected:
  FullFastTierOffers() : ArenaOffers(full()) {}
  static ArenaOptions full() {
    ArenaOptions options = options_of(1);
    options.fast_frames = 64;
    options.slow_frames = 96;
    options.pages = 100;
    return options;
  }
};
INSTANTIATE_TEST_SUITE_P(Columns, FullFastTierOffers, testing::Values(1u));

TEST_P(FullFastTierOffers, AFrameThatIsNeededIsTakenBack) {
  ASSERT_EQ(fast_frames().free, 1u);
  const Handle page = slow_page();
  ASSERT_TRUE(offer_to(*session, page));
  EXPECT_FALSE(offer_to(*session, slow_page(1))) << "there is no frame";
  test.pass();
  EXPECT_FALSE(session->offered(test.table(), page));
  EXPECT_EQ(counts().withdrawn, 1u);
  test.settle();
  EXPECT_EQ(fast_frames().free, 1u);
}

// ---- who is offered what ----

class OffersByPolicy : public ArenaOffers {
 protected:
  OffersByPolicy() : ArenaOffers(balanced()) { make_room(); }
  static ArenaOptions balanced(Promote promote = Promote::kOffers) {
    ArenaOptions options = options_of(GetParam());
    options.settings.policy = PolicyName::kBalance;
    options.settings.promote = promote;
    return options;
  }
  /// Periods in which the page is read until the policy has decided to promote it: by an offer (true) or a
  /// copy.
  bool becomes_offered(Handle page) {
    for (int i = 0; i < 100; ++i) {
      session->read(page, 50);
      test.period();
      if (test.arena().is_offered(page.index())) return true;
      if (test.arena().is_moving(page.index())) return false;
    }
    ADD_FAILURE() << "it is not promoted at all";
    return false;
  }
};
INSTANTIATE_TEST_SUITE_P(Columns, OffersByPolicy, testing::Values(1u, 2u));

TEST_P(OffersByPolicy, APageThatItsReaderHoldsIsOffered) {
  const Handle page = slow_page();
  ASSERT_TRUE(becomes_offered(page));
  EXPECT_EQ(test.arena().counts().copies, 0u);
  const auto seen = session->offered(test.table(), page);
  ASSERT_TRUE(seen);
  session->begin_step(test.table());
  stage(page, *seen);
  session->end_step();
  EXPECT_EQ(report(*session, page, *seen), uint32_t{KVT_RESULT_OK});
  EXPECT_TRUE(is_fast(page));
}

TEST_P(OffersByPolicy, WhatNobodyTookIsCopied) {
  const Handle page = slow_page();
  ASSERT_TRUE(becomes_offered(page));
  for (int i = 0; i < 8; ++i) test.period();
  ASSERT_EQ(counts().lapsed, 1u);
  EXPECT_FALSE(becomes_offered(page));
  EXPECT_EQ(counts().made, 1u);
  test.settle();
  EXPECT_TRUE(is_fast(page));
}

TEST_P(OffersByPolicy, WhatNobodyHoldsIsCopied) {
  const Handle page = slow_page();
  session->release(page);
  EXPECT_FALSE(becomes_offered(page));
  test.settle();
}

TEST_P(OffersByPolicy, WhatWasAdvisedIsCopied) {
  const Handle page = slow_page();
  for (int i = 0; i < 100 && !test.arena().is_moving(page.index()) && !test.arena().is_offered(page.index());
       ++i) {
    session->read(page, 50);
    session->ask(test, KVT_OP_ADVISE, page, {}, kNoHandle, 1);
    test.period();
  }
  EXPECT_TRUE(test.arena().is_moving(page.index()));
  EXPECT_EQ(counts().made, 0u);
}

TEST_P(OffersByPolicy, TheHolderThatReadsGetsItFirst) {
  const auto reader = test.attach(column);
  reader->take_offers();
  const Handle page = slow_page();
  ASSERT_TRUE(reader->hold(test.table(), page));  // the first session holds it as well, and never reads it
  for (int i = 0; i < 100 && !test.arena().is_offered(page.index()); ++i) {
    reader->read(page, 50);
    test.period();
  }
  EXPECT_TRUE(reader->offered(test.table(), page));
}

/// Block tables that are kept with the change log see no offers: such a session costs each page no more than
/// it must.
TEST_P(OffersByPolicy, WhoTakesNoneGetsOneAtATime) {
  std::vector<Handle> slow;
  for (const Handle page : pages)
    if (!is_fast(page)) slow.push_back(page);
  for (size_t i = 0; i < 16; ++i) {
    ASSERT_TRUE(offer_to(*session, slow[i % slow.size()])) << i;
    for (int periods = 0; periods < 8; ++periods) test.period();
  }
  ASSERT_EQ(counts().lapsed, 16u);
  const Handle probed = slow[17];
  ASSERT_TRUE(becomes_offered(probed));
  EXPECT_FALSE(becomes_offered(slow[18])) << "while one is out";
  const auto seen = session->offered(test.table(), probed);
  if (seen) {
    stage(probed, *seen);
    EXPECT_EQ(report(*session, probed, *seen), uint32_t{KVT_RESULT_OK});
    EXPECT_EQ(session->state().offers_lapsed, 0u) << "it takes them after all";
  }
  test.settle();
}

class CopiesByPolicy : public OffersByPolicy {};
INSTANTIATE_TEST_SUITE_P(Columns, CopiesByPolicy, testing::Values(1u, 2u));

TEST_P(CopiesByPolicy, NothingIsOfferedWhereCopiesAreOrdered) {
  TestArena arena(balanced(Promote::kCopies));
  const auto reader = arena.attach(column);
  reader->take_offers();
  std::vector<Handle> all;
  for (uint64_t key = 1; all.size() < 40; ++key) all.push_back(reader->publish_new(arena, key_of(key)));
  const Handle page = *std::find_if(all.begin(), all.end(), [&](Handle one) {
    return arena.placement(one, column).tier() == arena.slow_tier();
  });
  for (int i = 0; i < 100 && arena.placement(page, column).tier() != column; ++i) {
    reader->read(page, 50);
    arena.period_and_copies();
  }
  EXPECT_EQ(arena.placement(page, column).tier(), column);
  EXPECT_EQ(arena.arena().counts().offers.made, 0u);
}

}  // namespace
}  // namespace kvt::keeper
