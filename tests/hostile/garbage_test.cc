// SPDX-License-Identifier: Apache-2.0
//
// A process that writes random words into its own region with two threads while the daemon reads it and commands flow,
// and then dies. Random, from a printed seed.
#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <string>
#include <thread>
#include <vector>

#include "tests/hostile/siege.h"
#include "tests/support/random.h"

namespace kvt::test {
namespace {

/// Which words are spoilt.
enum class Where { kEverywhere, kAllButRingIndices, kEntriesAlone, kIndicesAlone };

struct Scribbled {
  const char* name;
  Where where;
  uint64_t writes;  ///< of each thread
};

class Garbage : public Siege, public ::testing::WithParamInterface<Scribbled> {
 protected:
  static World world() {
    World world = hostile_world();
    world.policy = "balance";  // counters become moves
    return world;
  }
  Garbage() : Siege(world()) {}
};

/// Something that may mean something: small, all ones, a handle, an epoch, a bit.
uint64_t word(Random& random, const RawSession& session) {
  switch (random.below(7)) {
    case 0: return random.below(8);
    case 1: return UINT64_MAX - random.below(3);
    case 2: return session.handle(random.below32(session.table().pages())).value;
    case 3: return session.table().epoch() + random.below(64) - 32;
    case 4: return uint64_t{1} << random.below(64);
    case 5: return random.below(2 * KVT_RING_ENTRIES);
    default: return random.next();
  }
}

kvt_abi_submission some_command(Random& random, const RawSession& session) {
  kvt_abi_submission command{};
  command.op = random.below32(11);
  command.flags = random.one_in(4) ? static_cast<uint32_t>(random.next()) : random.below32(3);
  command.tag = random.one_in(3) ? 0 : random.next();
  command.page = session.handle(random.below32(session.table().pages())).value;
  command.key = {word(random, session), random.below(100)};
  command.parent = word(random, session);
  command.extra = word(random, session);
  return command;
}

std::string scribble(const Daemon& daemon, const Scribbled& how, uint64_t seed) {
  kvt_wire_attach request = attach_message(kAttacked);
  RawClient client(daemon);
  RawSession session = RawSession::attach(client, request);
  if (!session.valid()) return "no session";
  Random random(seed);
  const auto first_of = [&](const void* at) {
    return static_cast<uint64_t>(static_cast<const uint64_t*>(at) - session.words());
  };
  kvt_abi_member& member = session.member();
  const uint64_t indices = first_of(&member.sq_tail);
  const uint64_t indices_end = first_of(&member.wake);
  uint64_t from = 0;
  uint64_t to = session.word_count();
  if (how.where == Where::kEntriesAlone) {
    from = first_of(member.sq);
    to = first_of(member.cq);
  } else if (how.where == Where::kIndicesAlone) {
    from = indices;
    to = indices_end;
  }
  std::atomic<int> running{2};
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < 2; ++i)
    threads.emplace_back([&, i] {
      Random own(seed + 1 + i);
      for (uint64_t done = 0; done < how.writes; ++done) {
        const uint64_t at = from + own.below(to - from);
        if (how.where == Where::kAllButRingIndices && at >= indices && at < indices_end) continue;
        store_relaxed(session.words()[at], word(own, session));
        if (done % 4096 == 0) session.ring();
      }
      --running;
    });
  while (running != 0) {
    for (int i = 0; i < 64; ++i) session.push(some_command(random, session));
    session.ring();
    store_release(member.cq_head.value, load_acquire(member.cq_tail.value));
  }
  for (std::thread& thread : threads) thread.join();
  return {};
}

TEST_P(Garbage, NobodyElseNotices) {
  Random random;
  besiege([&] {
    const uint64_t seed = random.next();
    in_process([&](Lines&) { return scribble(daemon_, GetParam(), seed); });
  });
  EXPECT_GT(daemon_.number("status", "/arenas/0/published"), 0);
}
INSTANTIATE_TEST_SUITE_P(Words, Garbage,
                         ::testing::Values(Scribbled{"Everywhere", Where::kEverywhere, 2'000'000},
                                           Scribbled{"AllButRingIndices", Where::kAllButRingIndices,
                                                     2'000'000},
                                           Scribbled{"EntriesAlone", Where::kEntriesAlone, 2'000'000},
                                           Scribbled{"IndicesAlone", Where::kIndicesAlone, 200'000}),
                         [](const auto& parameter) { return parameter.param.name; });

/// Four at once, for longer, that die while they write.
TEST_F(Garbage, ManyThatAreKilled) {
  Random random;
  besiege([&] {
    std::vector<std::unique_ptr<Child>> children;
    for (int i = 0; i < 4; ++i) {
      const uint64_t seed = random.next();
      const Scribbled how{"", i % 2 == 0 ? Where::kEverywhere : Where::kAllButRingIndices, UINT64_MAX};
      children.push_back(
          std::make_unique<Child>([&, seed, how](Lines&) { return scribble(daemon_, how, seed); }));
    }
    EXPECT_TRUE(eventually([&] { return attackers() == 4; }));
    const Witness::Report before = witness_->look();
    EXPECT_TRUE(eventually([&] { return witness_->look().steps > before.steps + 100; }));
    for (const auto& child : children) child->kill();
  });
}

}  // namespace
}  // namespace kvt::test
