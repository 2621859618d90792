// SPDX-License-Identifier: Apache-2.0
//
// Checksums: what is wrong is found, and read from somewhere else or lost.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/support/arena_fixture.h"
#include "tests/support/random.h"

namespace kvt::keeper {
namespace {

using test::ArenaOptions;
using test::key_of;
using test::TestArena;
using test::TestSession;

ArenaOptions options_of(uint32_t columns, Integrity integrity) {
  ArenaOptions options;
  options.columns = columns;
  options.pages = 40;
  options.middle_frames = 24;
  options.settings.integrity = integrity;
  options.settings.scrub_pages_per_second = 0;
  return options;
}

struct World {
  explicit World(const ArenaOptions& options)
      : test(options), column(options.columns - 1), session(test.attach(column)) {
    for (uint64_t key = 1; key <= 40; ++key) {
      const Handle page = session->allocate(test);
      KVT_CHECK(!page.none());
      test.fill(page);
      KVT_CHECK(session->ask(test, KVT_OP_PUBLISH, page, key_of(key)).result == KVT_RESULT_OK);
      pages.push_back(page);
    }
    settle();
  }
  void settle() {
    test.settle();
    for (int i = 0; i < 1000 && test.arena().is_unsettled(); ++i) {
      test.pass();
      while (test.arena().counts().copies != 0)
        for (const mover::Job& job : test.finish_copies(1)) test.arena().commit(job);
    }
    test.settle();
  }
  MoveRequest move(Handle page, uint32_t tier) {
    const MoveRequest answer = test.arena().move(test.mover(), column, page.index(), tier);
    settle();
    return answer;
  }
  Handle slow_page() {
    for (const Handle page : pages)
      if (test.placement(page, column).tier() == test.slow_tier()) return page;
    KVT_CHECK(false);
    return kNoHandle;
  }
  Frame at(Handle page) { return test.placement(page, column).frame(); }
  void flip(Frame frame) { test.frame_data(frame)[1234] ^= std::byte{8}; }
  ArenaCounts::Checks checks() { return test.arena().counts().checks; }
  std::string notes() {
    std::string all;
    for (const auto& note : test.arena().take_notes()) all += note.text + "\n";
    return all;
  }
  bool is_found(Handle page) {
    const auto key = static_cast<uint64_t>(std::find(pages.begin(), pages.end(), page) - pages.begin()) + 1;
    return session->lookup(test.table(), key_of(key), false) == page;
  }
  void period(int count = 1) {
    for (int i = 0; i < count; ++i) {
      test.period();
      settle();
    }
  }

  TestArena test;
  uint32_t column;
  std::unique_ptr<TestSession> session;
  std::vector<Handle> pages;  ///< published and held
};

class ArenaChecks : public testing::TestWithParam<uint32_t> {};
INSTANTIATE_TEST_SUITE_P(Columns, ArenaChecks, testing::Values(1u, 2u));

TEST_P(ArenaChecks, AWrongCopyIsMadeAgain) {
  ArenaOptions options = options_of(GetParam(), Integrity::kMoves);
  options.settings.inject = Inject::kFlip;
  World world(options);
  const Handle page = world.slow_page();
  ASSERT_EQ(world.move(page, world.column), MoveRequest::kQueued);
  EXPECT_EQ(world.test.placement(page, world.column).tier(), world.column);
  EXPECT_TRUE(world.test.is_intact(page, world.at(page)));
  EXPECT_EQ(world.checks().mismatches, 1u);
  EXPECT_EQ(world.checks().repaired, 1u);
  EXPECT_EQ(world.checks().lost, 0u);
  EXPECT_NE(world.notes().find("it was copied again"), std::string::npos);
  EXPECT_EQ(world.test.inconsistency(), "");
}

TEST_P(ArenaChecks, WithoutThemTheWrongCopyIsRead) {
  ArenaOptions options = options_of(GetParam(), Integrity::kOff);
  options.settings.inject = Inject::kFlip;
  World world(options);
  const Handle page = world.slow_page();
  ASSERT_EQ(world.move(page, world.column), MoveRequest::kQueued);
  EXPECT_FALSE(world.test.is_intact(page, world.at(page)));
  EXPECT_EQ(world.checks().mismatches, 0u);
}

/// The first copy takes the sum; the second one sees that its source has changed since. The shadow has not.
TEST_P(ArenaChecks, AFrameThatHasChangedIsLeftForTheShadow) {
  World world(options_of(GetParam(), Integrity::kMoves));
  const Handle page = world.slow_page();
  ASSERT_EQ(world.move(page, world.column), MoveRequest::kQueued);
  const Frame fast = world.at(page);
  const Frame slow = world.test.shadow(page, world.column).frame();
  world.flip(fast);
  const uint64_t checked = world.checks().pages;
  ASSERT_EQ(world.move(page, world.test.slow_tier() - 1), MoveRequest::kQueued);
  EXPECT_EQ(world.at(page), slow);
  EXPECT_TRUE(world.test.is_intact(page, slow));
  EXPECT_EQ(world.checks().pages, checked + 1) << "the shadow, before it is trusted";
  EXPECT_EQ(world.checks().mismatches, 1u);
  EXPECT_EQ(world.checks().repaired, 1u);
  EXPECT_TRUE(world.is_found(page));
  EXPECT_NE(world.notes().find("has not the page's checksum; it is read from frame " + std::to_string(slow)),
            std::string::npos);
  EXPECT_EQ(world.test.arena().counts().tiers[world.column].counts.retired, 0u)
      << "who may write the window can have written it";
  EXPECT_EQ(world.test.inconsistency(), "");
}

TEST_P(ArenaChecks, AShadowThatIsWrongTooIsNotTrusted) {
  World world(options_of(GetParam(), Integrity::kMoves));
  const Handle page = world.slow_page();
  ASSERT_EQ(world.move(page, world.column), MoveRequest::kQueued);
  world.flip(world.at(page));
  world.flip(world.test.shadow(page, world.column).frame());
  ASSERT_EQ(world.move(page, world.test.slow_tier() - 1), MoveRequest::kQueued);
  EXPECT_EQ(world.checks().mismatches, 2u);
  EXPECT_EQ(world.checks().repaired, 0u);
  EXPECT_EQ(world.checks().lost, 1u);
  EXPECT_EQ(world.test.arena().counts().lost_pages, 1u);
  EXPECT_FALSE(world.is_found(page));
  EXPECT_NE(world.notes().find("the page is lost"), std::string::npos);
  EXPECT_EQ(world.test.inconsistency(), "");
  world.session->let_go(world.test, page);
  world.settle();
  EXPECT_NE(world.test.placement(page).generation(), page.generation()) << "it has been freed";
}

/// A sum is of one generation: the index's next page has another.
TEST_P(ArenaChecks, AnIndexThatIsUsedAgainHasNoSum) {
  World world(options_of(GetParam(), Integrity::kMoves));
  const Handle page = world.slow_page();
  ASSERT_EQ(world.move(page, world.column), MoveRequest::kQueued);
  ASSERT_EQ(world.session->ask(world.test, KVT_OP_UNPUBLISH, page).result, KVT_RESULT_OK);
  world.session->let_go(world.test, page);
  world.settle();
  Handle again = kNoHandle;
  for (int i = 0; i < 20 && (again.none() || again.index() != page.index()); ++i)
    again = world.session->publish_new(world.test, key_of(100 + static_cast<uint64_t>(i)));
  ASSERT_EQ(again.index(), page.index());
  const uint32_t from = world.test.placement(again, world.column).tier();
  const uint32_t to = from == world.column ? world.test.slow_tier() : world.column;
  ASSERT_EQ(world.move(again, to), MoveRequest::kQueued);
  EXPECT_EQ(world.checks().mismatches, 0u);
  EXPECT_EQ(world.test.placement(again, world.column).tier(), to);
}

TEST_P(ArenaChecks, AllTakesTheSumBehindTheSeal) {
  World world(options_of(GetParam(), Integrity::kAll));
  EXPECT_EQ(world.checks().pages, world.pages.size());
  const Handle page = world.slow_page();
  world.flip(world.at(page));
  ASSERT_EQ(world.move(page, world.column), MoveRequest::kQueued);
  EXPECT_EQ(world.checks().mismatches, 1u) << "the first copy knows already";
  EXPECT_EQ(world.checks().lost, 1u);
  EXPECT_FALSE(world.is_found(page));
  // With "moves" the first copy takes what it finds.
  World moves(options_of(GetParam(), Integrity::kMoves));
  EXPECT_EQ(moves.checks().pages, 0u);
  const Handle other = moves.slow_page();
  moves.flip(moves.at(other));
  ASSERT_EQ(moves.move(other, moves.column), MoveRequest::kQueued);
  EXPECT_EQ(moves.checks().mismatches, 0u);
}

TEST_P(ArenaChecks, AllLooksAtWhatAReaderHasPromoted) {
  World world(options_of(GetParam(), Integrity::kAll));
  TestArena& test = world.test;
  world.session->take_offers();
  for (const bool right : {true, false}) {
    const Handle page = world.slow_page();
    const Frame slow = world.at(page);
    ASSERT_TRUE(
        test.arena().offer(world.column, page.index(), world.column, world.session->state().geometry.slot));
    const auto seen = world.session->offered(test.table(), page);
    ASSERT_TRUE(seen.has_value());
    std::copy_n(test.frame_data(slow), test.options().page_bytes, test.frame_data(seen->offer.frame()));
    if (!right) world.flip(seen->offer.frame());
    ASSERT_EQ(
        world.session->ask(test, TestSession::report_of(page, seen->offer.frame(), seen->serial)).result,
        KVT_RESULT_OK);
    world.settle();
    EXPECT_EQ(world.at(page), right ? seen->offer.frame() : slow);
    EXPECT_TRUE(test.is_intact(page, world.at(page)));
    if (right) ASSERT_EQ(world.move(page, test.slow_tier()), MoveRequest::kMoved) << "room for the next one";
  }
  EXPECT_EQ(world.checks().mismatches, 1u);
  EXPECT_EQ(world.checks().repaired, 1u);
  EXPECT_EQ(test.inconsistency(), "");
}

TEST_P(ArenaChecks, TheScrubFindsAShadowAndAPlacement) {
  ArenaOptions options = options_of(GetParam(), Integrity::kAll);
  options.settings.scrub_pages_per_second = 1000;
  World world(options);
  const Handle shadowed = world.slow_page();
  ASSERT_EQ(world.move(shadowed, world.column), MoveRequest::kQueued);
  const Frame fast = world.at(shadowed);
  world.flip(world.test.shadow(shadowed, world.column).frame());
  const auto found = [&](uint64_t mismatches) {
    for (int i = 0; i < 200 && world.checks().repaired < mismatches; ++i) world.period();
    return world.checks().mismatches == mismatches && world.checks().repaired == mismatches;
  };
  ASSERT_TRUE(found(1)) << world.checks().mismatches;
  EXPECT_EQ(world.at(shadowed), fast);
  EXPECT_FALSE(world.test.shadow(shadowed, world.column).valid());
  ASSERT_EQ(world.move(shadowed, world.test.slow_tier()),
            GetParam() == 1 ? MoveRequest::kQueued : MoveRequest::kMoved)
      << "room for the next one";
  const Handle other = world.slow_page();
  ASSERT_EQ(world.move(other, world.column), MoveRequest::kQueued);
  const Frame slow = world.test.shadow(other, world.column).frame();
  world.flip(world.at(other));
  ASSERT_TRUE(found(2));
  EXPECT_EQ(world.at(other), slow);
  EXPECT_EQ(world.checks().lost, 0u);
  EXPECT_EQ(world.test.inconsistency(), "");
}

TEST_P(ArenaChecks, TheScrubKeepsToItsRateAndToTheBudget) {
  ArenaOptions options = options_of(GetParam(), Integrity::kAll);
  options.settings.scrub_pages_per_second = 200;
  World world(options);
  uint64_t before = world.checks().pages;
  world.period(100);  // a second
  EXPECT_GT(world.checks().pages - before, 150u);
  EXPECT_LE(world.checks().pages - before, 200u + 2 * GetParam());
  // What may be moved is less: as much of that.
  options.settings.move_bytes_per_second = 50 * options.page_bytes;
  options.settings.idle_credit = 0;
  World poor(options);
  poor.period(100);
  before = poor.checks().pages;
  poor.period(100);
  EXPECT_LE(poor.checks().pages - before, 60u);
  EXPECT_GT(poor.checks().pages - before, 20u);
}

/// Bits change and memory goes away while pages come, go, move and are held. Whatever that does to contents, nothing that the
/// keeper counts and names goes wrong.
TEST_P(ArenaChecks, RandomDamageLeavesEverythingAccountedFor) {
  test::Random random;
  ArenaOptions options = options_of(GetParam(), Integrity::kAll);
  options.pages = 60;
  options.copy_workers = 2;
  options.settings.policy = PolicyName::kChurn;
  options.settings.scrub_pages_per_second = 2000;
  TestArena test(options);
  const uint32_t column = GetParam() - 1;
  const auto session = test.attach(column);
  session->take_offers();
  std::vector<Handle> held;
  bool in_step = false;
  std::set<Frame> spoiled;  // this test had better not touch them either
  const auto frame_of_any = [&]() -> Frame {
    if (held.empty()) return kNoFrame;
    const Handle page = held[random.below(held.size())];
    const Placement now = test.placement(page, column);
    if (now.generation() != page.generation() || now.state() != PageState::kSealed) return kNoFrame;
    const Shadow shadow = test.shadow(page, column);
    const Frame frame = shadow.valid() && random.one_in(2) ? shadow.frame() : now.frame();
    return spoiled.contains(frame) ? kNoFrame : frame;
  };
  // No worker looks at what this thread spoils: tsan would say so.
  const auto finish = [&] {
    for (const mover::Job& job : test.finish_copies(test.arena().counts().copies)) test.arena().commit(job);
  };
  for (int i = 0; i < 20'000; ++i) {
    switch (random.below(10)) {
      case 0:
      case 1:
        if (const Handle page = session->allocate(test); !page.none()) {
          (void)session->ask(test, KVT_OP_PUBLISH, page, key_of(1 + random.below(300)));
          held.push_back(page);
        }
        break;
      case 2:
        if (held.size() < 20) break;
        std::swap(held[random.below(held.size())], held.back());
        session->let_go(test, held.back());
        held.pop_back();
        break;
      case 3:
        if (!random.one_in(8)) break;
        finish();
        if (const Frame frame = frame_of_any(); frame != kNoFrame)
          test.frame_data(frame)[random.below(options.page_bytes)] ^= std::byte{1};
        break;
      case 4:
        if (spoiled.size() == 12 || !random.one_in(50)) break;
        finish();
        if (const Frame frame = frame_of_any(); frame != kNoFrame) {
          spoiled.insert(frame);
          test::spoil(test.frame_data(frame), options.page_bytes);
        }
        break;
      case 5: test.period(); break;
      case 6:
        if (in_step)
          session->end_step();
        else
          session->begin_step(test.table());
        in_step = !in_step;
        break;
      case 7:
        if (!held.empty())
          (void)test.arena().move(test.mover(), column, held[random.below(held.size())].index(),
                                  random.one_in(2) ? column : test.slow_tier());
        break;
      case 8:
        if (!held.empty()) session->read(held[random.below(held.size())], 5);
        break;
      default: test.commit_done();
    }
    if (i % 200 == 0) ASSERT_EQ(test.inconsistency(), "") << "operation " << i;
  }
  if (in_step) session->end_step();
  for (const Handle page : held) session->let_go(test, page);
  test.end(*session);
  for (int i = 0; i < 200; ++i) test.period_and_copies();
  ASSERT_EQ(test.inconsistency(), "");
  const ArenaCounts counts = test.arena().counts();
  EXPECT_GT(counts.checks.mismatches, 20u);
  EXPECT_GT(counts.checks.repaired, 0u);
  EXPECT_GT(counts.checks.lost, 0u);
  EXPECT_EQ(counts.filling, 0u);
  EXPECT_EQ(counts.sealed, counts.keyed) << "a lost page that nobody holds is left";
  uint64_t retired = 0;
  for (const auto& tier : counts.tiers) retired += tier.counts.retired;
  EXPECT_GT(retired, 0u);
  EXPECT_LE(retired, spoiled.size());
}

}  // namespace
}  // namespace kvt::keeper
