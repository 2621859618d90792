// SPDX-License-Identifier: Apache-2.0
//
// What a session writes into its own region, one thing wrong at a time: header, magazine, steps, rings, commands,
// counters, holds, sequences, stock. Only its own session notices.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "tests/hostile/siege.h"
#include "tests/support/client.h"

namespace kvt::test {
namespace {

std::set<uint64_t> boundaries(uint64_t valid, size_t bytes) {
  const uint64_t max = bytes == 8 ? UINT64_MAX : (uint64_t{1} << (bytes * 8)) - 1;
  return {0, 1, max, max / 2 + 1, max / 2, (valid + 1) & max, (valid - 1) & max, valid};
}

class Region : public Siege {
 protected:
  void SetUp() override {
    Siege::SetUp();
    begin(2);
  }
  void TearDown() override {
    end();
    Siege::TearDown();
  }

  void begin(uint32_t members_max, uint32_t access = KVT_WIRE_READ_WRITE) {
    kvt_wire_attach request = attach_message(kAttacked);
    request.members_max = members_max;
    request.access = access;
    client_ = RawClient(daemon_);
    session_ = RawSession::attach(client_, request);
    ASSERT_TRUE(session_.valid());
  }
  void end() {
    if (session_.valid()) EXPECT_EQ(client_.detach().type, KVT_WIRE_DETACHED);
    session_ = RawSession();
    client_.close();
  }

  void expect_served(const std::string& after) {
    EXPECT_EQ(session_.result_of(submission(KVT_OP_FLUSH)), uint32_t{KVT_RESULT_OK}) << after;
  }
  [[nodiscard]] double of_session(const char* field) const {
    return daemon_.number("sessions", std::string("/sessions/2/") + field);
  }
  /// A sealed page of somebody else: one that the witness holds.
  [[nodiscard]] Handle foreign() const {
    for (PageIndex page = 0; page < session_.table().pages(); ++page)
      if (session_.table().placement(0, page).keyed() &&
          session_.table().owner(page) != session_.grant().session_id)
        return session_.handle(page);
    return kNoHandle;
  }

  RawClient client_{Fd()};
  RawSession session_;
};

// ---- header ----

TEST_F(Region, HeaderWords) {
  // Everything but what members and the daemon say to each other in it: the daemon has its own record.
  for (uint64_t offset = 0; offset < offsetof(kvt_abi_session_header, allowance); offset += 8) {
    const uint64_t valid = session_.words()[offset / 8];
    for (const uint64_t value : boundaries(valid, 8)) {
      session_.words()[offset / 8] = value;
      expect_served("header word at " + std::to_string(offset) + " = " + std::to_string(value));
    }
    session_.words()[offset / 8] = valid;
  }
  // More members than there is memory for.
  session_.region().header().members_max = KVT_MAX_MEMBERS;
  auto join = wire_message<kvt_wire_join>(KVT_WIRE_JOIN);
  std::memcpy(join.token, session_.grant().token, sizeof join.token);
  std::vector<RawClient> members;
  for (int i = 0; i < 2; ++i) {
    members.emplace_back(daemon_);
    ASSERT_TRUE(members.back().greet());
  }
  EXPECT_EQ(members[0].ask_with_pidfd(join).type, KVT_WIRE_GRANT);
  EXPECT_EQ(members[1].ask_with_pidfd(join).status, static_cast<uint32_t>(KVT_WIRE_E_LIMIT));
  EXPECT_EQ(members[0].detach().type, KVT_WIRE_DETACHED);
}

TEST_F(Region, AReaderThatCallsItselfAWriter) {
  end();
  begin(1, KVT_WIRE_READ);
  session_.region().header().access = KVT_WIRE_READ_WRITE;
  session_.region().header().takes_offers = 1;
  const Handle page = foreign();
  ASSERT_FALSE(page.none());
  for (const uint32_t op : {KVT_OP_SEAL, KVT_OP_PUBLISH, KVT_OP_FREE, KVT_OP_UNPUBLISH, KVT_OP_RESERVE,
                            KVT_OP_GROUP, KVT_OP_OFFER_DONE})
    EXPECT_EQ(session_.result_of(submission(op, page)), uint32_t{KVT_RESULT_PERMISSION}) << op;
  expect_served("all that");
  EXPECT_EQ(load_acquire(session_.region().header().magazine_tail.value), 0u) << "it gets no pages";
}

TEST_F(Region, Magazine) {
  kvt_abi_session_header& header = session_.region().header();
  ASSERT_FALSE(session_.take_page().none());
  const double pages = static_cast<double>(session_.table().pages());
  for (uint64_t* const word : {&header.magazine_head.value, &header.magazine_tail.value,
                               &header.allowance.value, &header.low_water}) {
    const uint64_t valid = load_acquire(*word);
    for (const uint64_t value : boundaries(valid, 8)) {
      store_release(*word, value);
      expect_served("a magazine word of " + std::to_string(value));
      EXPECT_LE(of_session("magazine_pages"), KVT_MAGAZINE_ENTRIES);
      EXPECT_LE(of_session("unkeyed_pages"), pages);
    }
    store_release(*word, valid);
  }
  // As if all had been taken, again and again: what there is, and no more.
  for (int i = 0; i < 400; ++i) {
    store_release(header.magazine_head.value, load_acquire(header.magazine_tail.value));
    expect_served("a magazine that is always empty");
  }
  EXPECT_LE(of_session("unkeyed_pages"), pages - 24) << "what the witness holds stays the witness's";
  expect_unharmed();
}

TEST_F(Region, MagazineEntriesAreTakenBackWithCare) {
  ASSERT_FALSE(session_.take_page().none());
  kvt_abi_session_header& header = session_.region().header();
  const uint64_t head = load_acquire(header.magazine_head.value);
  const uint64_t tail = load_acquire(header.magazine_tail.value);
  ASSERT_GT(tail - head, 6u);
  const double had = of_session("unkeyed_pages");
  // After a second of idleness the daemon takes back what lies here: one that is its own, then another's page.
  uint64_t* const magazine = session_.region().magazine();
  const uint64_t first = magazine[head % KVT_MAGAZINE_ENTRIES];
  magazine[(head + 1) % KVT_MAGAZINE_ENTRIES] = foreign().value;
  magazine[(head + 2) % KVT_MAGAZINE_ENTRIES] = UINT64_MAX - 1;
  EXPECT_TRUE(eventually([&] { return of_session("unkeyed_pages") == had - 1; }))
      << of_session("unkeyed_pages");
  EXPECT_NE(session_.table().placement(0, Handle{first}.index()).generation(), Handle{first}.generation())
      << "it is free, or another by now";
  expect_unharmed();
  expect_served("that");
}

// ---- steps ----

TEST_F(Region, StepSlots) {
  for (uint32_t slot = 0; slot < KVT_STEP_SLOTS; slot += 21)
    for (const uint64_t value : boundaries(session_.table().epoch(), 8)) {
      store_release(session_.member().slot[slot].epoch, value);
      expect_served("slot " + std::to_string(slot) + " = " + std::to_string(value));
      EXPECT_EQ(of_session("open_steps"), value == 0 ? 0 : 1);
      store_release(session_.member().slot[slot].epoch, uint64_t{0});
    }
  for (kvt_abi_step_slot& slot : session_.member().slot) store_release(slot.epoch, UINT64_MAX);
  expect_served("all slots");
  EXPECT_EQ(of_session("open_steps"), KVT_STEP_SLOTS);
}

/// An epoch that has not come yet stops reclamation of frames in the own arena alone.
TEST_F(Region, EpochsInTheFuture) {
  store_release(session_.member().slot[63].epoch, session_.table().epoch() + 1'000'000);
  const Handle page = session_.publish(Key{1, 2});
  ASSERT_FALSE(page.none());
  ASSERT_EQ(hold_drop(session_.region(), page.index()), HoldDrop::kLast);
  EXPECT_EQ(session_.result_of(submission(KVT_OP_UNPUBLISH, page)), uint32_t{KVT_RESULT_OK});
  expect_served("a page that leaves");
  EXPECT_GE(daemon_.number("status", "/arenas/0/limbo_frames"), 1);
  // The other arena's frames come and go: many times as many as it has are published.
  const double evicted = daemon_.number("status", "/arenas/1/evicted");
  EXPECT_TRUE(eventually([&] { return daemon_.number("status", "/arenas/1/evicted") > evicted + 50; }))
      << daemon_.number("status", "/arenas/1/evicted");
  EXPECT_GE(daemon_.number("status", "/arenas/0/limbo_frames"), 1) << "and here none comes back";
  EXPECT_GT(of_session("open_steps"), 0) << "which is who keeps them";
  EXPECT_GE(daemon_.number("quiesce", "/arenas/0/limbo_frames"), 1) << "it does not wait for ever";
  expect_unharmed();
  store_release(session_.member().slot[63].epoch, uint64_t{0});
  expect_served("the end of the step");
  EXPECT_TRUE(eventually([&] { return daemon_.number("status", "/arenas/0/limbo_frames") == 0; }));
}

// ---- rings ----

TEST_F(Region, SubmissionIndices) {
  // Of each a session of its own: who says nonsense is not listened to any more, however right it is afterwards.
  for (const uint64_t by : {uint64_t{KVT_RING_ENTRIES} + 1, UINT64_MAX, uint64_t{1} << 63,
                            UINT64_MAX - KVT_RING_ENTRIES, uint64_t{1} << 32}) {
    end();
    begin(2);
    expect_served("nothing yet");
    const uint64_t tail = load_acquire(session_.member().sq_tail.value);
    store_release(session_.member().sq_tail.value, tail + by);
    session_.ring();
    // The daemon has looked at it when another member of the same session was served.
    auto join = wire_message<kvt_wire_join>(KVT_WIRE_JOIN);
    std::memcpy(join.token, session_.grant().token, sizeof join.token);
    RawClient second(daemon_);
    ASSERT_TRUE(second.greet());
    RawSession member = RawSession::of(second.ask_with_pidfd(join));
    ASSERT_TRUE(member.valid());
    EXPECT_EQ(member.result_of(submission(KVT_OP_FLUSH)), uint32_t{KVT_RESULT_OK});
    EXPECT_EQ(of_session("broken_members"), 1) << by;
    store_release(session_.member().sq_tail.value, tail);
    session_.push(submission(KVT_OP_FLUSH));
    EXPECT_EQ(member.result_of(submission(KVT_OP_FLUSH)), uint32_t{KVT_RESULT_OK});
    EXPECT_EQ(load_acquire(session_.member().sq_head.value), tail) << by << ": it is served again";
    EXPECT_EQ(second.detach().type, KVT_WIRE_DETACHED);
  }
}

TEST_F(Region, AWholeRingOfNothing) {
  expect_served("nothing yet");
  const uint64_t head = load_acquire(session_.member().sq_head.value);
  std::memset(session_.member().sq, 0, sizeof session_.member().sq);
  store_release(session_.member().sq_tail.value, head + KVT_RING_ENTRIES);
  session_.ring();
  EXPECT_TRUE(
      eventually([&] { return load_acquire(session_.member().sq_head.value) == head + KVT_RING_ENTRIES; }));
}

TEST_F(Region, WordsOfTheDaemonInTheRings) {
  kvt_abi_member& member = session_.member();
  uint64_t tag = 7'000'000;
  for (uint64_t* const word : {&member.sq_head.value, &member.cq_tail.value}) {
    for (const uint64_t value : boundaries(load_acquire(*word), 8)) {
      store_release(*word, value);
      kvt_abi_submission command = submission(KVT_OP_FLUSH);
      command.tag = ++tag;
      session_.push(command);
      session_.ring();
      // Its completion is where the daemon knows that it belongs, wherever the word said.
      EXPECT_TRUE(eventually([&] {
        for (const kvt_abi_completion& each : member.cq)
          if (load_acquire(each.tag) == command.tag) return true;
        return false;
      })) << value;
      for (kvt_abi_completion& each : member.cq) store_release(each.tag, uint64_t{0});
      store_release(member.cq_head.value, load_acquire(member.cq_tail.value));
    }
  }
  for (const uint32_t value : {0u, 1u, UINT32_MAX, 1u << 31}) {
    store_release(member.wake, value);
    store_release(member.waiters, value);
    kvt_abi_submission command = submission(KVT_OP_FLUSH);
    session_.push(command);
    session_.ring();
    EXPECT_TRUE(eventually([&] { return load_acquire(member.wake) != value || value == 0; }));
  }
}

/// Who takes no completions gets none, and is served again when it does. Nothing grows meanwhile.
TEST_F(Region, CompletionsThatNobodyTakes) {
  kvt_abi_member& member = session_.member();
  kvt_abi_submission command = submission(KVT_OP_FLUSH);
  for (command.tag = 1; command.tag <= 2 * KVT_RING_ENTRIES; ++command.tag) {
    ASSERT_TRUE(
        eventually([&] { return command.tag - 1 - load_acquire(member.sq_head.value) < KVT_RING_ENTRIES; }));
    session_.push(command);
    if (command.tag % 256 == 0) session_.ring();
  }
  EXPECT_TRUE(eventually([&] { return load_acquire(member.sq_head.value) == KVT_RING_ENTRIES; }));
  EXPECT_EQ(load_acquire(member.cq_tail.value), uint64_t{KVT_RING_ENTRIES}) << "one ring of them";
  expect_unharmed();
  // Heads that cannot be.
  for (const uint64_t head : {uint64_t{KVT_RING_ENTRIES} + 1, UINT64_MAX, uint64_t{1} << 63}) {
    store_release(member.cq_head.value, head);
    session_.ring();
    EXPECT_EQ(daemon_.text("status", "/ok"), "true");
    EXPECT_EQ(load_acquire(member.cq_tail.value), uint64_t{KVT_RING_ENTRIES}) << head;
  }
  store_release(member.cq_head.value, uint64_t{KVT_RING_ENTRIES});
  session_.ring();
  EXPECT_TRUE(eventually([&] { return load_acquire(member.cq_tail.value) == 2 * KVT_RING_ENTRIES; }));
}

// ---- commands ----

/// Every field of every command, with what the rules say of it.
TEST_F(Region, Commands) {
  const uint64_t pages = session_.table().pages();
  uint64_t next_key = 100;
  const auto fresh = [&] {
    const Handle page = session_.take_page();
    EXPECT_FALSE(page.none());
    return page;
  };
  const auto result = [&](kvt_abi_submission command) { return session_.result_of(command); };
  const Handle other = foreign();
  ASSERT_FALSE(other.none());

  // No such operation.
  const Handle some = fresh();
  for (const uint32_t op : {0u, 10u, 11u, 255u, 1u << 31, INT32_MAX + 0u, UINT32_MAX})
    EXPECT_EQ(result(submission(op, some)), uint32_t{KVT_RESULT_INVALID}) << op;

  // The page.
  const auto expected = [&](uint64_t value, bool needs_owner) -> uint32_t {
    const Handle page{value};
    if (page.index() >= pages || page.generation() > KVT_MAX_GENERATION) return KVT_RESULT_INVALID;
    const Placement now = session_.table().placement(0, page.index());
    if (now.generation() != page.generation() || now.state() == PageState::kFree) return KVT_RESULT_STALE;
    if (needs_owner && session_.table().owner(page.index()) != session_.grant().session_id)
      return KVT_RESULT_PERMISSION;
    return UINT32_MAX;  // this very page's
  };
  for (const uint32_t op : {KVT_OP_SEAL, KVT_OP_PUBLISH, KVT_OP_UNPUBLISH, KVT_OP_RESERVE, KVT_OP_GROUP}) {
    std::set<uint64_t> values = boundaries(some.value, 8);
    for (const uint64_t more : {pages, pages - 1, pages + 1, other.value, some.value + (uint64_t{1} << 32),
                                uint64_t{UINT32_MAX}, (uint64_t{KVT_MAX_GENERATION} << 32) | some.index(),
                                (uint64_t{KVT_MAX_GENERATION + 1} << 32) | some.index()})
      values.insert(more);
    for (const uint64_t value : values) {
      const uint32_t wanted = expected(value, true);
      if (wanted == UINT32_MAX) continue;
      kvt_abi_submission command = submission(op, Handle{value});
      command.key = {next_key++, 1};
      EXPECT_EQ(result(command), wanted) << "op " << op << ", page " << value;
    }
  }
  // FREE has five of them, and the first that is wrong is the answer.
  for (const size_t at : {offsetof(kvt_abi_submission, page), offsetof(kvt_abi_submission, key),
                          offsetof(kvt_abi_submission, key) + 8, offsetof(kvt_abi_submission, parent),
                          offsetof(kvt_abi_submission, extra)})
    for (const auto& [value, wanted] : std::vector<std::pair<uint64_t, uint32_t>>{
             {UINT64_MAX, KVT_RESULT_OK},
             {UINT64_MAX - 1, KVT_RESULT_INVALID},
             {pages, KVT_RESULT_INVALID},
             {some.value + (uint64_t{1} << 32), KVT_RESULT_STALE},
             {other.value, KVT_RESULT_STATE},    // somebody holds it, and it has a key
             {some.value, KVT_RESULT_STATE}}) {  // FILLING, and held here
      kvt_abi_submission command = submission(KVT_OP_FREE);
      command.page = UINT64_MAX;
      std::memcpy(reinterpret_cast<char*>(&command) + at, &value, sizeof value);
      EXPECT_EQ(result(command), wanted) << "FREE, handle at " << at << " = " << value;
    }

  // Flags, keys, parents, what nobody looks at.
  for (const uint64_t flags : boundaries(UINT16_MAX, 4)) {
    kvt_abi_submission command = submission(KVT_OP_GROUP, some);
    command.flags = static_cast<uint32_t>(flags);
    EXPECT_EQ(result(command), flags <= UINT16_MAX ? KVT_RESULT_OK : KVT_RESULT_INVALID) << flags;
    command = submission(KVT_OP_ADVISE, other);
    command.flags = static_cast<uint32_t>(flags);
    EXPECT_EQ(result(command), flags == 1 || flags == 2 ? KVT_RESULT_OK : KVT_RESULT_INVALID) << flags;
    command = submission(KVT_OP_PUBLISH, fresh());
    command.key = {next_key++, 1};
    command.flags = static_cast<uint32_t>(flags);
    EXPECT_EQ(result(command), flags <= UINT16_MAX ? KVT_RESULT_OK : KVT_RESULT_INVALID) << flags;
  }
  for (const uint32_t op : {KVT_OP_PUBLISH, KVT_OP_RESERVE})
    EXPECT_EQ(result(submission(op, some)), uint32_t{KVT_RESULT_INVALID}) << "without a key, op " << op;
  for (const uint64_t parent : boundaries(other.value, 8)) {
    kvt_abi_submission command = submission(KVT_OP_PUBLISH, fresh());
    command.key = {next_key++, 1};
    command.parent = parent;
    command.extra = command.pad = parent;
    EXPECT_EQ(result(command), uint32_t{KVT_RESULT_OK});
    const Handle kept = session_.table().parent(Handle{command.page}.index());
    const Handle named{parent};
    const bool is_page = named.index() < pages &&
                         named.generation() == session_.handle(named.index()).generation() &&
                         session_.table().placement(0, named.index()).keyed();
    EXPECT_EQ(kept, is_page ? named : kNoHandle) << parent;
  }
  // Another's key: its page, and nothing of it changes.
  kvt_abi_submission twice = submission(KVT_OP_PUBLISH, fresh());
  twice.key = {session_.table().key(other.index()).lo, session_.table().key(other.index()).hi};
  const auto present = session_.command(twice);
  ASSERT_TRUE(present.has_value());
  EXPECT_EQ(present->result, uint32_t{KVT_RESULT_PRESENT});
  EXPECT_EQ(present->page, other.value);
  // Reports of offers that nobody made.
  for (const uint64_t value : boundaries(0, 8)) {
    kvt_abi_submission command = submission(KVT_OP_OFFER_DONE, other);
    command.parent = command.extra = value;
    EXPECT_EQ(result(command), uint32_t{KVT_RESULT_STALE}) << value;
  }
  EXPECT_GE(daemon_.number("status", "/arenas/0/offers/refused"), 5);
}

// ---- counters, holds, sequences, stock ----

TEST_F(Region, CountersAndBits) {
  const SessionRegion& region = session_.region();
  const uint64_t pages = session_.table().pages();
  const auto touch_all = [&] {
    for (uint64_t i = 0; i < region.summary_words(); ++i) store_release(region.touched()[i], UINT64_MAX);
  };
  for (const uint16_t value : {uint16_t{0}, uint16_t{1}, uint16_t{UINT16_MAX}, uint16_t{1 << 15}}) {
    for (uint64_t page = 0; page < pages; ++page) store_relaxed(region.counters()[page].count, value);
    touch_all();
    expect_served("counts");
    for (uint64_t page = 0; page < pages; ++page) store_relaxed(region.counters()[page].seen, value);
    touch_all();
    expect_served("what was seen of them");
    // Taken, bits beyond the pages too: the daemon does not come back for them for ever.
    EXPECT_TRUE(eventually([&] {
      bool any = false;
      for (uint64_t i = 0; i < region.summary_words(); ++i)
        any = any || load_acquire(region.touched()[i]) != 0;
      return !any;
    }));
  }
  // Counts that jump: what is expected of the page stays a number. How large it gets has no limit (docs/limits.md).
  const Handle own = session_.publish(Key{5, 6});
  ASSERT_FALSE(own.none());
  const std::string page = R"({"command":"page","page":)" + std::to_string(own.index()) + "}";
  for (int i = 0; i < 50; ++i) {
    store_relaxed(region.counters()[own.index()].count, static_cast<uint16_t>(i * 40'000));
    touch_all();
    expect_served("many reads");
    EXPECT_GE(daemon_.number(page, "/columns/0/reads_per_period"), 0) << "a number, whatever was counted";
  }
}

TEST_F(Region, Holds) {
  const SessionRegion& region = session_.region();
  const uint64_t pages = session_.table().pages();
  for (const uint16_t value : {uint16_t{1}, uint16_t{KVT_MAX_HOLDS}, uint16_t{UINT16_MAX}, uint16_t{0}}) {
    for (uint64_t page = 0; page < pages; ++page) store_relaxed(region.holds()[page], value);
    for (const uint64_t bits : {UINT64_MAX, uint64_t{0}}) {
      for (uint64_t i = 0; i < region.summary_words(); ++i) store_release(region.held()[i], bits);
      expect_served("holds");
      EXPECT_LE(of_session("held_pages"), static_cast<double>(pages));
    }
  }
  expect_unharmed();
}

TEST_F(Region, Sequences) {
  kvt_abi_member& member = session_.member();
  const auto touch_all = [&] {
    for (uint64_t& word : member.sequences_touched) store_release(word, UINT64_MAX);
    expect_served("sequences");
    EXPECT_TRUE(eventually([&] {
      bool any = false;
      for (const uint64_t& word : member.sequences_touched) any = any || load_acquire(word) != 0;
      return !any;
    }));
  };
  for (const uint64_t value : boundaries(KVT_SEQUENCE_POOL, 4)) {
    const auto word = static_cast<uint32_t>(value);
    for (uint32_t field = 0; field < 4; ++field) {
      for (kvt_abi_sequence& sequence : member.sequence) {
        sequence = {1, 0, 0, 1};
        std::memcpy(reinterpret_cast<char*>(&sequence) + size_t{field} * 4, &word, 4);
      }
      for (uint32_t& page : member.sequence_pool) page = word;
      touch_all();
    }
  }
  // All sequences name the whole pool: a period's work is the pool once.
  for (kvt_abi_sequence& sequence : member.sequence) sequence = {UINT32_MAX, 0, 0, KVT_SEQUENCE_POOL};
  for (uint32_t i = 0; i < KVT_SEQUENCE_POOL; ++i)
    member.sequence_pool[i] = i % static_cast<uint32_t>(session_.table().pages());
  touch_all();
  expect_unharmed();
}

/// What a dead member says that it had: hints, looked at like commands.
TEST_F(Region, TheStockOfADeadMember) {
  auto join = wire_message<kvt_wire_join>(KVT_WIRE_JOIN);
  std::memcpy(join.token, session_.grant().token, sizeof join.token);
  const Handle other = foreign();
  const Handle own = session_.take_page();
  ASSERT_FALSE(own.none());
  ASSERT_EQ(hold_drop(session_.region(), own.index()), HoldDrop::kLast);
  for (const uint64_t count : boundaries(KVT_STOCK_ENTRIES, 8)) {
    Child member([&](Lines&) -> std::string {
      const RawClient client(daemon_);
      if (!client.greet()) return "no welcome";
      const RawSession joined = RawSession::of(client.ask_with_pidfd(join));
      if (!joined.valid()) return "not joined";
      for (uint64_t i = 0; i < KVT_STOCK_ENTRIES; ++i) {
        const uint64_t values[] = {other.value, own.value, UINT64_MAX, session_.table().pages(),
                                   i * 0x9e3779b97f4a7c15ull};
        joined.member().stock[i] = values[i % 5];
      }
      store_release(joined.member().stock_count, count);
      return {};
    });
    EXPECT_EQ(member.finish(), "");
    EXPECT_TRUE(eventually([&] { return of_session("members") == 1; }));
    expect_served("a stock of " + std::to_string(count));
  }
  EXPECT_NE(session_.table().placement(0, own.index()).generation(), own.generation())
      << "it was its own to free";
  expect_unharmed();
}

// ---- the memory itself ----

TEST_F(Region, HolesAndSizes) {
  const int region = session_.fds()[1].get();
  EXPECT_NE(::ftruncate(region, 0), 0) << "its size is sealed";
  EXPECT_NE(::ftruncate(region, 1 << 30), 0);
  EXPECT_NE(::fcntl(region, F_ADD_SEALS, F_SEAL_WRITE), 0);
  expect_served("that");
  // Holes read as zeroes: indices that go back, after which it is not listened to.
  const auto bytes = static_cast<off_t>(session_.grant().session_bytes);
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(::fallocate(region, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, bytes), 0);
    session_.ring();
    EXPECT_EQ(daemon_.text("sessions", "/ok"), "true");
  }
  expect_unharmed();
}

}  // namespace
}  // namespace kvt::test
