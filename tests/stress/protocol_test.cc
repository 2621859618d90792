// SPDX-License-Identifier: Apache-2.0
//
// The protocol under load: a keeper thread that moves random pages as fast as it can and offers others to
// their readers, and client threads that fill, publish, look up, hold, read every word in steps, promote what
// they are offered, and let go. All in one process over one mapping, so that tsan, which keys on addresses,
// sees every race; without tsan the contents are the proof.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <map>
#include <thread>

#include "tests/support/arena_fixture.h"

namespace kvt {
namespace {

using test::ArenaOptions;
using test::TestArena;
using test::TestSession;

#ifdef KVT_TSAN
constexpr uint64_t kOperations = 1500;
#else
constexpr uint64_t kOperations = 20000;
#endif
constexpr uint64_t kKeys = 96;  // more than there are pages: evictions all the time
constexpr uint32_t kClients = 3;

uint64_t word_of(uint64_t key, uint32_t generation, uint64_t offset) {
  return (key * 0x9e3779b97f4a7c15ull) ^ (uint64_t{generation} << 40) ^ (offset * 0xff51afd7ed558ccdull);
}

struct Totals {
  std::atomic<uint64_t> words{0};
  std::atomic<uint64_t> corrupt{0};
  std::atomic<uint64_t> lost{0};
  std::atomic<uint64_t> moved_in_step{0};
  std::atomic<uint64_t> staged{0};
  std::atomic<uint64_t> published{0};
  keeper::ArenaCounts::Offers offers;
};

class Client {
 public:
  Client(TestArena& arena, TestSession& session, uint32_t column, uint64_t seed, Totals& totals,
         const std::atomic<bool>& stop)
      : arena_(arena),
        table_(arena.table()),
        session_(session),
        column_(column),
        random_(seed),
        totals_(totals),
        stop_(stop) {}

  void run() {
    for (uint64_t i = 0; i < kOperations && !stop_; ++i) {
      const uint64_t kind = next() % 4;
      if (kind == 0)
        publish(next() % kKeys);
      else
        read_some();
    }
  }

 private:
  uint64_t next() {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return random_;
  }

  kvt_abi_completion wait(uint64_t tag) {
    for (;;) {
      while (const auto completion = session_.completion())
        if (completion->tag == tag) return *completion;
      std::this_thread::yield();
    }
  }

  Handle allocate() {
    for (int i = 0; i < 50; ++i) {
      const Handle page = session_.pop();
      if (!page.none()) return page;
      const uint64_t tag = session_.submit(KVT_OP_FLUSH, kNoHandle);
      if (tag != 0) wait(tag);
    }
    return kNoHandle;
  }

  void publish(uint64_t number) {
    const Handle page = allocate();
    if (page.none()) return;  // full of what others hold
    auto* const words =
        reinterpret_cast<uint64_t*>(arena_.frame_data(table_.placement(column_, page.index()).frame()));
    for (uint64_t i = 0; i < arena_.options().page_bytes / 8; ++i)
      words[i] = word_of(number, page.generation(), i);
    const uint64_t tag = session_.submit(KVT_OP_PUBLISH, page, test::key_of(number));
    ASSERT_NE(tag, 0u);
    const kvt_abi_completion answer = wait(tag);
    if (answer.result == KVT_RESULT_OK) {
      totals_.published.fetch_add(1, std::memory_order_relaxed);
      // Held and published: it must be found. The index may miss while entries shift back, not for long.
      bool found = false;
      for (int i = 0; i < 100 && !found; ++i)
        found = session_.lookup(table_, test::key_of(number), false) == page;
      if (!found) totals_.lost.fetch_add(1, std::memory_order_relaxed);
    } else {
      ASSERT_EQ(answer.result, uint32_t{KVT_RESULT_PRESENT});
    }
    if (session_.release(page) == HoldDrop::kLast && answer.result == KVT_RESULT_PRESENT)
      session_.submit(free_command(page));
  }

  static kvt_abi_submission free_command(Handle page) {
    kvt_abi_submission command{};
    command.op = KVT_OP_FREE;
    command.page = page.value;
    command.key = {UINT64_MAX, UINT64_MAX};
    command.parent = command.extra = UINT64_MAX;
    return command;
  }

  void read_some() {
    struct Found {
      uint64_t number;
      Handle page;
    };
    std::vector<Found> held;
    for (int i = 0; i < 6; ++i) {
      const uint64_t number = next() % kKeys;
      const Handle page = session_.lookup(table_, test::key_of(number));
      if (!page.none()) held.push_back({number, page});
    }
    session_.begin_step(table_);
    std::vector<std::pair<Placement, Shadow>> places;
    std::vector<std::optional<TestSession::SeenOffer>> offers;
    for (const Found& found : held) {
      places.emplace_back(table_.placement(column_, found.page.index()),
                          table_.shadow(column_, found.page.index()));
      offers.push_back(session_.offered(table_, found.page));
    }
    std::vector<kvt_abi_submission> reports;
    std::this_thread::yield();  // now and then the keeper runs between resolving and reading
    for (size_t i = 0; i < held.size(); ++i) {
      const Found& found = held[i];
      const auto [place, shadow] = places[i];
      if (place.generation() != found.page.generation() || !place.readable()) {
        totals_.lost.fetch_add(1, std::memory_order_relaxed);
        continue;
      }
      check(found.number, found.page, place.frame());
      if (shadow.valid() && shadow.generation() == place.generation())
        check(found.number, found.page, shadow.frame());
      if (offers[i] && stage(found.page, place.frame(), *offers[i])) {
        check(found.number, found.page, offers[i]->offer.frame());
        reports.push_back(TestSession::report_of(found.page, offers[i]->offer.frame(), offers[i]->serial));
      }
      session_.read(found.page);
      if (table_.placement(column_, found.page.index()).frame() != place.frame())
        totals_.moved_in_step.fetch_add(1, std::memory_order_relaxed);
    }
    session_.end_step();
    for (const kvt_abi_submission& report : reports) {
      session_.submit(report);
      if (next() % 8 == 0) session_.submit(report);  // a second one must do nothing
    }
    for (const Found& found : held) session_.release(found.page);
  }

  /// Copies the page into its offered frame, once for each offer: as the library does, and so that tsan sees
  /// no store of the same bytes beside those who read them already.
  bool stage(Handle page, Frame from, const TestSession::SeenOffer& seen) {
    if (seen.serial == 0 || std::exchange(staged_[page.index()], {seen.serial, seen.offer.frame()}) ==
                                std::pair{seen.serial, seen.offer.frame()})
      return false;
    std::memcpy(arena_.frame_data(seen.offer.frame()), arena_.frame_data(from), arena_.options().page_bytes);
    totals_.staged.fetch_add(1, std::memory_order_relaxed);
    return true;
  }

  void check(uint64_t number, Handle page, Frame frame) {
    const auto* const words = reinterpret_cast<const uint64_t*>(arena_.frame_data(frame));
    const uint64_t count = arena_.options().page_bytes / 8;
    uint64_t wrong = 0;
    for (uint64_t i = 0; i < count; ++i) wrong += words[i] != word_of(number, page.generation(), i) ? 1 : 0;
    totals_.words.fetch_add(count, std::memory_order_relaxed);
    if (wrong != 0) totals_.corrupt.fetch_add(1, std::memory_order_relaxed);
  }

  TestArena& arena_;
  const ArenaTable& table_;
  TestSession& session_;
  uint32_t column_;
  uint64_t random_;
  std::map<PageIndex, std::pair<uint64_t, Frame>> staged_;
  Totals& totals_;
  const std::atomic<bool>& stop_;
};

class Protocol : public testing::TestWithParam<uint32_t> {};

/// Runs the storm; returns what was seen.
void storm(uint32_t columns, keeper::Inject inject, Totals& totals, uint64_t& moves, uint64_t& evicted) {
  ArenaOptions options;
  options.columns = columns;
  options.fast_frames = 24;
  options.slow_frames = 64;
  options.settings.policy = keeper::PolicyName::kChurn;
  options.settings.inject = inject;
  options.settings.move_bytes_per_second = 1ull << 40;
  options.settings.offer_ms = 10'000;  // a thousand passes: clients read when the machine lets them
  TestArena arena(options);
  std::vector<std::unique_ptr<TestSession>> sessions;
  for (uint32_t i = 0; i < kClients; ++i) {
    sessions.push_back(arena.attach(i % columns));
    sessions.back()->take_offers();
  }
  uint64_t random = 88172645463325252ull;
  std::atomic<bool> stop{false};
  std::atomic<uint32_t> running{kClients};
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < kClients; ++i)
    threads.emplace_back([&, i] {
      Client(arena, *sessions[i], i % columns, 0x1234567 + 77 * i, totals, stop).run();
      running.fetch_sub(1);
    });
  while (running.load() != 0) {
    arena.commit_done();
    arena.period();
    for (int i = 0; i < 4; ++i) {
      random = random * 6364136223846793005ull + 1442695040888963407ull;
      const uint32_t client = static_cast<uint32_t>(random >> 33) % kClients;
      const auto page = static_cast<PageIndex>((random >> 40) % arena.table().pages());
      arena.arena().offer(client % columns, page, client % columns, sessions[client]->state().geometry.slot);
    }
    if (inject != keeper::Inject::kNone && totals.corrupt.load() + totals.lost.load() != 0) stop = true;
  }
  for (std::thread& thread : threads) thread.join();
  moves = load_relaxed(arena.table().counters().promoted) +
          load_relaxed(arena.table().counters().demoted_copy) +
          load_relaxed(arena.table().counters().demoted_free);
  evicted = load_relaxed(arena.table().counters().evicted);
  totals.offers = arena.arena().counts().offers;
  for (auto& session : sessions) arena.end(*session);
  arena.settle();
  if (inject == keeper::Inject::kNone) {
    EXPECT_EQ(arena.inconsistency(), "");
    const keeper::ArenaReport report = arena.arena().report();
    EXPECT_EQ(report.frames, report.accounted);
    EXPECT_EQ(report.filling, 0u);
    EXPECT_EQ(report.sealed, report.keyed);
  }
}

TEST_P(Protocol, EveryWordIsRightWhilePagesMove) {
  Totals totals;
  uint64_t moves = 0;
  uint64_t evicted = 0;
  storm(GetParam(), keeper::Inject::kNone, totals, moves, evicted);
  RecordProperty("words", std::to_string(totals.words.load()));
  EXPECT_EQ(totals.corrupt.load(), 0u);
  EXPECT_EQ(totals.lost.load(), 0u);
  EXPECT_GT(totals.words.load(), 0u);
  EXPECT_GT(totals.published.load(), 0u);
  RecordProperty("offers", std::to_string(totals.offers.taken) + " taken, " +
                               std::to_string(totals.offers.refused) + " reports refused");
  EXPECT_GT(totals.staged.load(), 0u);
  EXPECT_GT(totals.offers.taken, 0u);
  EXPECT_GT(totals.offers.refused, 0u);
  EXPECT_GT(moves, 0u);
  EXPECT_GT(evicted, 0u);
}

#ifndef KVT_TSAN
// The same storm finds what it is there for: frames that are reused without their grace period.
TEST_P(Protocol, ReuseWithoutGraceIsFound) {
  Totals totals;
  uint64_t moves = 0;
  uint64_t evicted = 0;
  for (int attempt = 0; attempt < 10 && totals.corrupt.load() == 0; ++attempt)
    storm(GetParam(), keeper::Inject::kEarlyReuse, totals, moves, evicted);
  EXPECT_GT(totals.corrupt.load(), 0u);
}

TEST_P(Protocol, LostPublishIsFound) {
  Totals totals;
  uint64_t moves = 0;
  uint64_t evicted = 0;
  storm(GetParam(), keeper::Inject::kLostPublish, totals, moves, evicted);
  EXPECT_GT(totals.lost.load(), 0u);
}
#endif

INSTANTIATE_TEST_SUITE_P(Columns, Protocol, testing::Values(1u, 2u));

}  // namespace
}  // namespace kvt
