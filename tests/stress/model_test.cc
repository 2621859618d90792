// SPDX-License-Identifier: Apache-2.0
//
// Random operations on the real arena beside a model that knows only what a client may expect: held pages
// stay, with their contents, wherever they are moved; a published key that is held is found; what was let go
// may vanish but never turns into something else. One thread; the seed is printed and can be given as
// KVT_TEST_SEED.
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <set>

#include "tests/support/arena_fixture.h"

namespace kvt {
namespace {

using test::ArenaOptions;
using test::key_of;
using test::TestArena;
using test::TestSession;

class Model : public testing::TestWithParam<uint32_t> {
 protected:
  struct Expected {
    Handle page;
    uint64_t content = 0;
    uint64_t key = 0;  // 0: none
    uint32_t holds = 0;
    bool filling = true;
  };

  void SetUp() override {
    const char* const given = std::getenv("KVT_TEST_SEED");
    seed_ = given != nullptr ? std::strtoull(given, nullptr, 0) : 20260131 + GetParam();
    random_ = seed_ * 2 + 1;
    std::printf("KVT_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed_));
    ArenaOptions options;
    options.columns = GetParam();
    options.fast_frames = 12;
    options.slow_frames = 40;
    options.settings.policy = keeper::PolicyName::kChurn;
    options.settings.move_bytes_per_second = 1ull << 40;
    arena_ = std::make_unique<TestArena>(options);
    for (uint32_t i = 0; i < 2; ++i) sessions_.push_back(arena_->attach(i % GetParam()));
  }

  uint64_t next() {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return random_;
  }
  uint64_t* words(Frame frame) { return reinterpret_cast<uint64_t*>(arena_->frame_data(frame)); }

  /// Every page that a session holds: readable in every column, with its contents, in both of its frames.
  void check_held() {
    for (const auto& list : held_)
      for (const auto& [index, expected] : list) {
        for (uint32_t column = 0; column < GetParam(); ++column) {
          const Placement place = arena_->placement(expected.page, column);
          ASSERT_EQ(place.generation(), expected.page.generation()) << "a held page is gone, index " << index;
          ASSERT_EQ(place.readable(), !expected.filling);
          ASSERT_EQ(*words(place.frame()), expected.content)
              << "page " << index << " in frame " << place.frame();
          const Shadow shadow = arena_->shadow(expected.page, column);
          if (shadow.valid()) ASSERT_EQ(*words(shadow.frame()), expected.content);
        }
        if (expected.key != 0)
          ASSERT_EQ(sessions_[0]->lookup(arena_->table(), key_of(expected.key), false), expected.page);
      }
  }

  void allocate(size_t who) {
    const Handle page = sessions_[who]->allocate(*arena_);
    if (page.none()) return;
    Expected expected{page, next(), 0, 1, true};
    *words(arena_->placement(page).frame()) = expected.content;
    ASSERT_TRUE(held_[who].emplace(page.index(), expected).second) << "a page was given out twice";
    for (size_t other = 0; other < held_.size(); ++other)
      if (other != who)
        ASSERT_FALSE(held_[other].contains(page.index())) << "a held page was given to another session";
  }

  Expected* pick(size_t who) {
    if (held_[who].empty()) return nullptr;
    auto at = held_[who].begin();
    std::advance(at, static_cast<std::ptrdiff_t>(next() % held_[who].size()));
    return &at->second;
  }

  void publish(size_t who) {
    Expected* const expected = pick(who);
    if (expected == nullptr || expected->key != 0 ||
        arena_->table().owner(expected->page.index()) != sessions_[who]->id())
      return;
    const uint64_t number = 1 + next() % 200;
    Handle parent = kNoHandle;
    if (const Expected* const above = pick(who); above != nullptr && above->key != 0) parent = above->page;
    const auto answer = sessions_[who]->ask(*arena_, KVT_OP_PUBLISH, expected->page, key_of(number), parent);
    expected->filling = false;
    if (answer.result == KVT_RESULT_OK) {
      expected->key = number;
      content_of_key_[number] = expected->content;
    } else {
      ASSERT_EQ(answer.result, uint32_t{KVT_RESULT_PRESENT});
      // Nobody need hold it: the same pass may have evicted it.
      const Handle present{answer.page};
      const Placement place = arena_->placement(present);
      if (place.generation() == present.generation())
        ASSERT_EQ(*words(place.frame()), content_of_key_[number]);
    }
  }

  void lookup(size_t who) {
    const uint64_t number = 1 + next() % 200;
    const Handle page = sessions_[who]->lookup(arena_->table(), key_of(number));
    if (page.none()) return;
    Expected& expected = held_[who][page.index()];
    if (expected.holds == 0) expected = Expected{page, content_of_key_[number], number, 0, false};
    ASSERT_EQ(expected.page, page);
    ASSERT_EQ(expected.content, content_of_key_[number]);
    ++expected.holds;
  }

  void release(size_t who) {
    Expected* const expected = pick(who);
    if (expected == nullptr) return;
    sessions_[who]->let_go(*arena_, expected->page);
    if (--expected->holds == 0) held_[who].erase(expected->page.index());
  }

  void move() {
    arena_->period();
    // Copies come back at any later time, so that commits meet pages that have changed meanwhile.
    if (next() % 3 == 0) arena_->commit_done();
  }

  uint64_t seed_ = 0;
  uint64_t random_ = 1;
  std::unique_ptr<TestArena> arena_;
  std::vector<std::unique_ptr<TestSession>> sessions_;
  std::array<std::map<PageIndex, Expected>, 2> held_;
  std::map<uint64_t, uint64_t> content_of_key_;
};

TEST_P(Model, RandomOperations) {
  constexpr int kRounds = 60000;
  for (int round = 0; round < kRounds; ++round) {
    const size_t who = next() % 2;
    switch (next() % 8) {
      case 0:
      case 1: allocate(who); break;
      case 2: publish(who); break;
      case 3: lookup(who); break;
      case 4:
      case 5: release(who); break;
      case 6: move(); break;
      case 7: {  // an open step now and then keeps limbo waiting
        const uint32_t slot = static_cast<uint32_t>(next() % 3);
        if (load_relaxed(sessions_[who]->member().slot[slot].epoch) == 0)
          sessions_[who]->begin_step(arena_->table(), slot);
        else
          sessions_[who]->end_step(slot);
        break;
      }
    }
    if (HasFatalFailure()) FAIL() << "in round " << round;
    if (round % 16 == 0) check_held();
    if (round % 64 == 0) ASSERT_EQ(arena_->inconsistency(), "") << "in round " << round;
    if (HasFatalFailure()) FAIL() << "in round " << round;
  }
  EXPECT_GT(load_relaxed(arena_->table().counters().promoted), 0u);
  EXPECT_GT(load_relaxed(arena_->table().counters().evicted), 0u);
  for (auto& session : sessions_) {
    for (uint32_t slot = 0; slot < 3; ++slot) session->end_step(slot);
    arena_->end(*session);
  }
  arena_->settle();
  const keeper::ArenaReport report = arena_->arena().report();
  EXPECT_EQ(report.frames, report.accounted);
  EXPECT_EQ(report.filling, 0u);
  EXPECT_EQ(report.sealed, report.keyed);
  EXPECT_EQ(report.limbo, 0u);
}

INSTANTIATE_TEST_SUITE_P(Columns, Model, testing::Values(1u, 2u));

}  // namespace
}  // namespace kvt
