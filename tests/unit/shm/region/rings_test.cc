// SPDX-License-Identifier: Apache-2.0
#include "shm/region/rings.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>
#include <vector>

#include "tests/support/shared_memory.h"

namespace kvt {
namespace {

using test::TestRegion;
using Look = MemberRings::Look;

kvt_abi_submission command(uint64_t number) {
  kvt_abi_submission entry{};
  entry.op = KVT_OP_SEAL;
  entry.flags = static_cast<uint32_t>(number * 3);
  entry.tag = number;
  entry.page = ~number;
  entry.key = {number + 1, number + 2};
  entry.parent = number + 3;
  entry.extra = number + 4;
  return entry;
}

struct Rings : testing::Test {
  Rings() : made(64), member(made.region.member(0)), writer(member), reader(member), daemon(member) {}
  uint64_t waiting() {
    uint64_t count = 0;
    return daemon.look(count) == Look::kReady ? count : 0;
  }
  TestRegion made;
  kvt_abi_member& member;
  SubmissionWriter writer;
  CompletionReader reader;
  MemberRings daemon;
};

TEST_F(Rings, AnEmptyRingIsEmpty) {
  uint64_t count = 99;
  EXPECT_EQ(daemon.look(count), Look::kEmpty);
  EXPECT_EQ(count, 0u);
  EXPECT_FALSE(reader.ready());
  EXPECT_FALSE(reader.try_pop().has_value());
  EXPECT_EQ(writer.room(), KVT_RING_ENTRIES);
}

TEST_F(Rings, EveryFieldArrives) {
  ASSERT_TRUE(writer.try_push(command(1234567)));
  ASSERT_EQ(waiting(), 1u);
  const kvt_abi_submission got = daemon.peek();
  const kvt_abi_submission sent = command(1234567);
  EXPECT_EQ(std::memcmp(&got, &sent, sizeof got), 0);
  daemon.advance();
  EXPECT_EQ(waiting(), 0u);

  kvt_abi_completion answer{};
  answer.tag = 5;
  answer.result = KVT_RESULT_PRESENT;
  answer.op = KVT_OP_PUBLISH;
  answer.page = UINT64_MAX - 1;
  daemon.complete(answer);
  const auto came = reader.try_pop();
  ASSERT_TRUE(came.has_value());
  EXPECT_EQ(std::memcmp(&*came, &answer, sizeof answer), 0);
  EXPECT_FALSE(reader.try_pop().has_value());
}

TEST_F(Rings, AFullRingTakesNoMoreUntilTheDaemonHasServedOne) {
  for (uint64_t i = 0; i < KVT_RING_ENTRIES; ++i) ASSERT_TRUE(writer.try_push(command(i)));
  EXPECT_FALSE(writer.try_push(command(999)));
  EXPECT_EQ(writer.room(), 0u);
  EXPECT_EQ(waiting(), KVT_RING_ENTRIES);
  EXPECT_EQ(daemon.peek().tag, 0u);
  daemon.advance();
  EXPECT_EQ(writer.room(), 1u);
  EXPECT_TRUE(writer.try_push(command(KVT_RING_ENTRIES)));
  EXPECT_FALSE(writer.try_push(command(999)));
}

TEST_F(Rings, OrderIsKeptOverManyTurns) {
  uint64_t pushed = 0;
  uint64_t served = 0;
  uint64_t answered = 0;
  for (int round = 0; round < 50; ++round) {
    for (int i = 0; i < 300 && writer.try_push(command(pushed)); ++i) ++pushed;
    for (uint64_t left = waiting(); left != 0 && daemon.completion_room(); --left) {
      ASSERT_EQ(daemon.peek().tag, served);
      kvt_abi_completion answer{};
      answer.tag = served++;
      daemon.advance();
      daemon.complete(answer);
    }
    while (const auto answer = reader.try_pop()) ASSERT_EQ(answer->tag, answered++);
  }
  EXPECT_EQ(pushed, 50u * 300);
  EXPECT_EQ(answered, pushed);
}

TEST_F(Rings, ARestartedDaemonGoesOnWhereTheOldOnePublished) {
  for (uint64_t i = 0; i < 10; ++i) writer.try_push(command(i));
  for (int i = 0; i < 3; ++i) {
    daemon.complete({});
    daemon.advance();
  }
  MemberRings next(member);
  next.resume();
  uint64_t count = 0;
  ASSERT_EQ(next.look(count), Look::kReady);
  EXPECT_EQ(count, 7u);
  EXPECT_EQ(next.peek().tag, 3u);
}

TEST_F(Rings, MaliciousTailIsBroken) {
  writer.try_push(command(1));
  daemon.advance();
  for (const uint64_t tail : {uint64_t{0}, uint64_t{KVT_RING_ENTRIES} + 2, UINT64_MAX, uint64_t{1} << 63}) {
    member.sq_tail.value = tail;
    uint64_t count = 0;
    EXPECT_EQ(daemon.look(count), Look::kBroken) << tail;
  }
  member.sq_tail.value = 1 + KVT_RING_ENTRIES;
  uint64_t count = 0;
  EXPECT_EQ(daemon.look(count), Look::kReady) << "exactly full is possible";
}

TEST_F(Rings, MaliciousPublishedHeadDoesNotMoveTheDaemon) {
  for (uint64_t i = 0; i < 4; ++i) writer.try_push(command(i));
  member.sq_head.value = 3;
  EXPECT_EQ(daemon.peek().tag, 0u) << "the daemon's own head is private";
  EXPECT_EQ(waiting(), 4u);
}

TEST_F(Rings, CompletionsStopWhenTheClientDoesNotReadThem) {
  for (uint64_t i = 0; i < KVT_RING_ENTRIES; ++i) {
    ASSERT_TRUE(daemon.completion_room());
    daemon.complete({});
  }
  EXPECT_FALSE(daemon.completion_room());
  ASSERT_TRUE(reader.try_pop().has_value());
  EXPECT_TRUE(daemon.completion_room());
}

TEST_F(Rings, MaliciousCompletionHeadGivesNoRoom) {
  daemon.complete({});
  for (const uint64_t head : {uint64_t{2}, uint64_t{1} << 40, UINT64_MAX - 2 * KVT_RING_ENTRIES}) {
    member.cq_head.value = head;  // ahead of the tail, or far behind it
    EXPECT_FALSE(daemon.completion_room()) << head;
  }
}

TEST_F(Rings, AWaiterIsWoken) {
  std::atomic<bool> posted{false};
  std::thread client([&] {
    while (!reader.ready()) {
      const uint32_t seen = load_wake(member);
      announce_waiter(member, 1);
      if (!reader.ready()) wait_for_wake(member, seen, 30'000);
      announce_waiter(member, -1);
    }
    EXPECT_TRUE(posted);
  });
  while (load_relaxed(member.waiters) == 0) std::this_thread::yield();
  posted = true;
  daemon.complete({});
  daemon.wake_if_posted();
  client.join();
  EXPECT_EQ(member.waiters, 0u);
  EXPECT_EQ(member.wake, 1u);
  daemon.wake_if_posted();
  EXPECT_EQ(member.wake, 1u) << "nothing was posted since";
  daemon.complete({});
  daemon.wake_if_posted();
  EXPECT_EQ(member.wake, 1u) << "nobody waits";
  writer.try_push(command(1));
  daemon.advance();
  announce_waiter(member, 1);
  daemon.wake_if_posted();
  EXPECT_EQ(member.wake, 2u) << "one who waits for room in the ring is woken too";
}

TEST_F(Rings, AProducerAndAConsumerInTwoThreads) {
  constexpr uint64_t kCommands = 20'000;
  std::thread client([&] {
    uint64_t answered = 0;
    for (uint64_t sent = 0; answered < kCommands;) {
      if (sent < kCommands && writer.try_push(command(sent))) ++sent;
      while (const auto answer = reader.try_pop()) {
        ASSERT_EQ(answer->tag, answered);
        ASSERT_EQ(answer->page, ~answered);
        ++answered;
      }
      if (sent - answered > 100) std::this_thread::yield();
    }
  });
  uint64_t served = 0;
  while (served < kCommands) {
    uint64_t count = 0;
    const Look look = daemon.look(count);
    ASSERT_NE(look, Look::kBroken);
    if (look == Look::kEmpty) std::this_thread::yield();
    for (; count != 0 && daemon.completion_room(); --count) {
      const kvt_abi_submission got = daemon.peek();
      ASSERT_EQ(got.tag, served);
      ASSERT_EQ(got.key.hi, served + 2);
      daemon.advance();
      kvt_abi_completion answer{};
      answer.tag = got.tag;
      answer.page = got.page;
      daemon.complete(answer);
      ++served;
    }
  }
  client.join();
}

// ---- magazine ----

struct Magazine : testing::Test {
  Magazine() : made(KVT_MAGAZINE_ENTRIES * 2), writer(made.region) {}
  Handle pop() {
    uint64_t left = 0;
    return magazine_pop(made.region, left);
  }
  TestRegion made;
  MagazineWriter writer;
};

TEST_F(Magazine, PopsInOrderAndHolds) {
  EXPECT_TRUE(pop().none());
  for (PageIndex page = 0; page < 10; ++page) writer.push(Handle::of(page, page + 100));
  EXPECT_EQ(writer.waiting(), 10u);
  for (PageIndex page = 0; page < 10; ++page) {
    EXPECT_FALSE(held(made.region, page));
    EXPECT_EQ(pop(), Handle::of(page, page + 100));
    EXPECT_TRUE(held(made.region, page)) << "allocation is a hold (PROTOCOL B5)";
  }
  EXPECT_TRUE(pop().none());
  EXPECT_EQ(writer.waiting(), 0u);
}

TEST_F(Magazine, SaysWhatItLeaves) {
  uint64_t left = 99;
  EXPECT_TRUE(magazine_pop(made.region, left).none());
  EXPECT_EQ(left, 0u);
  for (PageIndex page = 0; page < 3; ++page) writer.push(Handle::of(page, 1));
  for (const uint64_t expected : {2u, 1u, 0u}) {
    EXPECT_FALSE(magazine_pop(made.region, left).none());
    EXPECT_EQ(left, expected);
  }
}

TEST_F(Magazine, WhatIsNoPageIsNotTaken) {
  writer.push(Handle::of(1u << 31, 7));
  EXPECT_TRUE(pop().none());
  EXPECT_EQ(writer.waiting(), 1u);
  EXPECT_FALSE(writer.take_back().none()) << "the daemon looks at it, and finds that it is none";
  writer.push(Handle::of(2, 1));
  EXPECT_EQ(pop(), Handle::of(2, 1));
}

TEST_F(Magazine, FillsUpToItsCapacityAndWrapsAround) {
  uint64_t next = 0;
  uint64_t popped = 0;
  for (int round = 0; round < 3; ++round) {
    while (writer.waiting() < KVT_MAGAZINE_ENTRIES) {
      writer.push(Handle::of(static_cast<PageIndex>(next % made.geometry.pages), 1));
      ++next;
    }
    for (int i = 0; i < 3000; ++i, ++popped) {
      const Handle page = pop();
      ASSERT_EQ(page.index(), popped % made.geometry.pages);
      hold_drop(made.region, page.index());
    }
  }
}

TEST_F(Magazine, MaliciousHeadCountsAsFull) {
  writer.push(Handle::of(1, 1));
  for (const uint64_t head : {uint64_t{2}, UINT64_MAX - 2 * KVT_MAGAZINE_ENTRIES, uint64_t{1} << 63}) {
    made.region.header().magazine_head.value = head;
    EXPECT_EQ(writer.waiting(), KVT_MAGAZINE_ENTRIES) << head;
  }
}

TEST_F(Magazine, TheDaemonTakesBackTheOldest) {
  EXPECT_TRUE(writer.take_back().none());
  for (PageIndex page = 0; page < 3; ++page) writer.push(Handle::of(page, 1));
  EXPECT_EQ(writer.take_back(), Handle::of(0, 1));
  EXPECT_EQ(pop(), Handle::of(1, 1));
  EXPECT_EQ(writer.take_back(), Handle::of(2, 1));
  EXPECT_TRUE(writer.take_back().none());
  EXPECT_FALSE(held(made.region, 0));
}

TEST_F(Magazine, MaliciousHeadGivesNothingBack) {
  writer.push(Handle::of(1, 1));
  for (const uint64_t head : {uint64_t{2}, UINT64_MAX - 2 * KVT_MAGAZINE_ENTRIES, uint64_t{1} << 63}) {
    made.region.header().magazine_head.value = head;
    EXPECT_TRUE(writer.take_back().none()) << head;
  }
}

TEST_F(Magazine, APageThatCannotBeHeldIsNotTaken) {
  writer.push(Handle::of(3, 1));
  made.region.holds()[3] = KVT_MAX_HOLDS;
  EXPECT_TRUE(pop().none());
  EXPECT_EQ(made.region.header().magazine_head.value, 0u);
  made.region.holds()[3] = 0;
  EXPECT_EQ(pop(), Handle::of(3, 1));
}

TEST_F(Magazine, ThreadsGetEachPageOnce) {
  constexpr uint32_t kPages = 6000;
  std::vector<std::vector<Handle>> got(3);
  std::vector<Handle> back;  // what the daemon took back
  std::atomic<uint32_t> total{0};
  std::vector<std::thread> threads;
  for (auto& mine : got)
    threads.emplace_back([&] {
      while (total < kPages) {
        const Handle page = pop();
        if (page.none()) {
          std::this_thread::yield();
          continue;
        }
        mine.push_back(page);
        ++total;
      }
    });
  for (PageIndex page = 0; page < kPages; ++page) {
    while (writer.waiting() >= 16) std::this_thread::yield();
    writer.push(Handle::of(page, 1));
    if (page % 8 != 7) continue;
    if (const Handle taken = writer.take_back(); !taken.none()) {
      back.push_back(taken);
      ++total;
    }
  }
  for (auto& thread : threads) thread.join();
  std::set<uint64_t> all;
  for (const auto& mine : got)
    for (const Handle page : mine)
      EXPECT_TRUE(all.insert(page.value).second) << "page " << page.index() << " twice";
  for (const Handle page : back)
    EXPECT_TRUE(all.insert(page.value).second) << "page " << page.index() << " twice";
  EXPECT_GT(back.size(), 0u);
  EXPECT_EQ(all.size(), kPages);
  for (const Handle page : back) ASSERT_EQ(made.region.holds()[page.index()], 0) << "page " << page.index();
  for (const auto& mine : got)
    for (const Handle page : mine) ASSERT_EQ(made.region.holds()[page.index()], 1) << "page " << page.index();
}

}  // namespace
}  // namespace kvt
