// SPDX-License-Identifier: Apache-2.0
//
// Arenas that come and go while the keeper goes round, and the thread that makes their memory.
#include <gtest/gtest.h>
#include <poll.h>

#include <optional>

#include "daemon/keeper/background.h"
#include "daemon/keeper/keeper.h"
#include "tests/support/arena_fixture.h"
#include "tests/support/one_node.h"

namespace kvt::keeper {
namespace {

using test::TestSession;

constexpr uint64_t kMiB = 1 << 20;
const std::map<std::string, std::string> kNoSources;

ArenaConfig arena_named(const std::string& name) {
  ArenaConfig arena;
  arena.name = name;
  arena.page_bytes = 16 << 10;
  return arena;
}

/// hbm of 4 MiB and dram of 16, of which the arena "default" has 1 and 8.
class KeeperArenas : public testing::Test {
 protected:
  KeeperArenas() {
    Config config = Config::defaults();
    config.prefault = false;
    config.tiers[0].bytes = 4 * kMiB;
    config.tiers[1].bytes = 16 * kMiB;
    config.arenas = {arena_named("default")};
    config.arenas[0].bytes = {{"hbm", kMiB}, {"dram", 8 * kMiB}};
    auto machine = plan_machine(config, test::one_node(), nullptr);
    KVT_CHECK(machine.has_value());
    auto made = Keeper::create(
        *machine, Inject::kNone, [this](const std::string& line) { lines.push_back(line); },
        std::move(*restart::new_kept()));
    KVT_CHECK(made.has_value());
    keeper = std::move(*made);
  }
  uint64_t free_of(size_t tier) const { return keeper->free_bytes(keeper->config().tiers[tier]); }
  /// Goes round until `done`.
  void pass_until(const std::function<bool()>& done) {
    for (int turns = 0; !done(); ++turns) {
      ASSERT_LT(turns, 60'000);
      pollfd wait[] = {{keeper->background_fd().get(), POLLIN, 0},
                       {keeper->completion_fd().get(), POLLIN, 0}};
      ::poll(wait, 2, 1);
      keeper->pass(Keeper::Clock::now());
    }
  }
  /// The arena, or null and `refused` says why.
  Arena* create(const ArenaConfig& arena) {
    std::optional<Result<Arena*>> over;
    auto begun =
        keeper->create_arena(arena, kNoSources, [&](Result<Arena*> made) { over = std::move(made); });
    if (!begun) {
      refused = begun.error();
      return nullptr;
    }
    pass_until([&] { return over.has_value(); });
    if (*over) return **over;
    refused = over->error();
    return nullptr;
  }
  void remove(Arena& arena) {
    bool gone = false;
    keeper->delete_arena(arena, [&] { gone = true; });
    pass_until([&] { return gone; });
  }

  std::vector<std::string> lines;
  std::unique_ptr<Keeper> keeper;
  Error refused{Code::kAgain, 0, ""};
};

TEST_F(KeeperArenas, GetWhatNoOtherHas) {
  EXPECT_EQ(free_of(0), 3 * kMiB);
  EXPECT_EQ(free_of(1), 8 * kMiB);
  ArenaConfig wanted = arena_named("second");
  wanted.bytes = {{"dram", 2 * kMiB}};
  wanted.weight = 5;
  Arena* const second = create(wanted);
  ASSERT_NE(second, nullptr) << refused.text;
  EXPECT_EQ(second->table().tier(0).window_bytes, 3 * kMiB) << "it names no part of hbm: all that is free";
  EXPECT_EQ(second->table().tier(1).window_bytes, 2 * kMiB);
  EXPECT_EQ(free_of(0), 0u);
  EXPECT_EQ(free_of(1), 6 * kMiB);
  EXPECT_EQ(keeper->find_arena("second"), second);
  EXPECT_EQ(keeper->arena_config(*second).weight, 5u);
  using Bytes = std::vector<std::pair<std::string, uint64_t>>;
  EXPECT_EQ(keeper->arena_config(*second).bytes, (Bytes{{"hbm", 3 * kMiB}, {"dram", 2 * kMiB}}))
      << "written down, it is the same arena again";
  ASSERT_EQ(keeper->take_notes().size(), 1u);
  EXPECT_FALSE(lines.empty());

  remove(*second);
  EXPECT_EQ(keeper->find_arena("second"), nullptr);
  EXPECT_EQ(keeper->config().arenas.size(), 1u);
  EXPECT_EQ(free_of(0), 3 * kMiB);
  EXPECT_EQ(free_of(1), 8 * kMiB);
  EXPECT_EQ(keeper->take_notes().at(0).kind, events::Kind::kArenaDeleted);
}

TEST_F(KeeperArenas, MayLeaveATierOut) {
  ArenaConfig wanted = arena_named("host");
  wanted.bytes = {{"hbm", 0}};
  Arena* const host = create(wanted);
  ASSERT_NE(host, nullptr) << refused.text;
  ASSERT_EQ(host->table().tiers(), 1u);
  EXPECT_STREQ(host->table().tier(0).name, "dram");
  EXPECT_EQ(free_of(0), 3 * kMiB);
}

TEST_F(KeeperArenas, RefusedInWords) {
  ArenaConfig wanted = arena_named("default");
  EXPECT_EQ(create(wanted), nullptr);
  EXPECT_EQ(refused.code, Code::kInvalid);
  EXPECT_EQ(refused.text, "there is an arena \"default\"");

  wanted.name = "large";
  wanted.bytes = {{"dram", 9 * kMiB}};
  EXPECT_EQ(create(wanted), nullptr);
  EXPECT_EQ(refused.code, Code::kFull);
  EXPECT_EQ(
      refused.text,
      "tier \"dram\" has no room: arena \"large\" wants 9437184 bytes, and 8388608 of 16777216 are free");

  wanted.bytes = {{"dram", 10 << 10}};  // less than a page
  EXPECT_EQ(create(wanted), nullptr);
  EXPECT_EQ(refused.code, Code::kInvalid);
  EXPECT_NE(refused.text.find("not one page"), std::string::npos) << refused.text;

  wanted.bytes = {};
  wanted.pages = 1'000'000;
  EXPECT_EQ(create(wanted), nullptr);
  EXPECT_NE(refused.text.find("have room for"), std::string::npos) << refused.text;

  wanted.pages = 0;
  wanted.owner = std::string(64, 'x');
  EXPECT_EQ(create(wanted), nullptr);
  EXPECT_NE(refused.text.find("owner and group"), std::string::npos) << refused.text;

  // What was refused has taken nothing; what takes all leaves nothing.
  wanted.owner = "";
  ASSERT_NE(create(wanted), nullptr) << refused.text;
  EXPECT_EQ(create(arena_named("late")), nullptr);
  EXPECT_EQ(refused.code, Code::kFull);
  EXPECT_NE(refused.text.find(
                "no tier has room: arena \"late\" wants at least 32768 bytes, and these are free: 0 of"),
            std::string::npos)
      << refused.text;
}

TEST_F(KeeperArenas, AShareIsTakenBeforeTheMemoryIsMade) {
  ArenaConfig first = arena_named("first");
  first.bytes = {{"hbm", kMiB}, {"dram", 6 * kMiB}};
  ArenaConfig second = first;
  second.name = "second";
  int made = 0;
  const auto count = [&](const Result<Arena*>& arena) { made += arena ? 1 : 0; };
  ASSERT_TRUE(keeper->create_arena(first, kNoSources, count));
  EXPECT_TRUE(keeper->is_coming_or_going("first"));
  EXPECT_EQ(keeper->find_arena("first"), nullptr) << "nobody can attach it yet";
  EXPECT_EQ(create(first), nullptr);
  EXPECT_EQ(refused.code, Code::kAgain);
  EXPECT_EQ(create(second), nullptr);
  EXPECT_EQ(refused.code, Code::kFull);
  EXPECT_NE(refused.text.find("2097152 of 16777216 are free"), std::string::npos) << refused.text;
  pass_until([&] { return made == 1; });
}

/// 62 more, one after the other and all at once.
TEST_F(KeeperArenas, AsManyAsThereCanBe) {
  int made = 0;
  for (uint32_t i = 1; i < KVT_MAX_ARENAS; ++i) {
    ArenaConfig each = arena_named("arena " + std::to_string(i));
    each.bytes = {{"hbm", 40 << 10}, {"dram", 40 << 10}};
    ASSERT_TRUE(
        keeper->create_arena(each, kNoSources, [&](const Result<Arena*>& arena) { made += arena ? 1 : 0; }));
  }
  EXPECT_EQ(create(arena_named("one more")), nullptr);
  EXPECT_EQ(refused.code, Code::kLimit);
  pass_until([&] { return made == KVT_MAX_ARENAS - 1; });
  EXPECT_EQ(keeper->arenas().size(), KVT_MAX_ARENAS);
  for (uint32_t i = 1; i < KVT_MAX_ARENAS; i += 2) remove(*keeper->find_arena("arena " + std::to_string(i)));
  EXPECT_EQ(keeper->arenas().size(), KVT_MAX_ARENAS / 2);
  for (size_t i = 1; i < keeper->arenas().size(); ++i)
    EXPECT_EQ(keeper->arena_config(*keeper->arenas()[i]).name, "arena " + std::to_string(2 * i));
}

/// Copies end in the arena that began them: others go and come meanwhile.
TEST_F(KeeperArenas, MemoryStaysUntilItsCopiesHaveEnded) {
  ArenaConfig wanted = arena_named("second");
  wanted.bytes = {{"hbm", kMiB}, {"dram", 2 * kMiB}};
  for (int round = 0; round < 20; ++round) {
    Arena* const arena = create(wanted);
    ASSERT_NE(arena, nullptr) << refused.text;
    const uint32_t number = arena->number();
    auto state = arena->add_session(100 + static_cast<uint64_t>(round), 0, 1, true, 0);
    ASSERT_TRUE(state.has_value()) << state.error().text;
    const uint32_t member = *arena->add_member(**state, 1);
    TestSession session(**state, member, arena->table().pages());
    std::vector<Handle> pages;
    for (uint64_t i = 0; i < 8; ++i) {
      keeper->pass(Keeper::Clock::now());
      const Handle page = session.pop();
      ASSERT_NE(page, kNoHandle);
      ASSERT_NE(session.submit(KVT_OP_PUBLISH, page, test::key_of(1 + i)), 0u);
      pages.push_back(page);
    }
    keeper->pass(Keeper::Clock::now());
    uint64_t queued = 0;
    for (const Handle page : pages) {
      const uint32_t to = 1 - arena->table().placement(0, page.index()).tier();
      queued += keeper->move(*arena, 0, page.index(), to) == MoveRequest::kQueued ? 1 : 0;
    }
    EXPECT_GT(queued, 0u);
    arena->end_session(**state);
    bool gone = false;
    keeper->delete_arena(*arena, [&] { gone = true; });
    EXPECT_EQ(keeper->find_arena("second"), nullptr);
    EXPECT_TRUE(keeper->is_coming_or_going("second"));
    EXPECT_EQ(free_of(0), 2 * kMiB) << "its share is not free before its memory is";
    pass_until([&] { return gone; });
    EXPECT_EQ(free_of(0), 3 * kMiB);
    Arena* const next = create(wanted);
    ASSERT_NE(next, nullptr);
    EXPECT_NE(next->number(), number) << "a late copy cannot be taken for one of it";
    remove(*next);
  }
}

TEST_F(KeeperArenas, TheOneThatIsLeftHasTheWholeBudget) {
  Arena* const second = create(arena_named("second"));
  ASSERT_NE(second, nullptr) << refused.text;
  Arena* const first = keeper->find_arena("default");
  first->set_budget_share(0.25);
  remove(*second);
  EXPECT_EQ(first->budget_share(), 1);
  remove(*first);
  EXPECT_TRUE(keeper->arenas().empty());
  keeper->pass(Keeper::Clock::now());
  EXPECT_NE(create(arena_named("default")), nullptr) << refused.text;
}

TEST_F(KeeperArenas, AKeeperMayEndMeanwhile) {
  ASSERT_TRUE(keeper->create_arena(arena_named("second"), kNoSources, [](const Result<Arena*>&) { FAIL(); }));
  keeper.reset();
}

// ---- the thread ----

TEST(Background, DoesOneTaskAfterTheOther) {
  const auto background = std::move(*Background::create());
  std::vector<int> done;
  for (int i = 0; i < 100; ++i)
    ASSERT_TRUE(
        background->submit([&done, i]() -> Background::Then { return [&done, i] { done.push_back(i); }; }));
  while (done.size() < 100) {
    pollfd wait{background->fd().get(), POLLIN, 0};
    ASSERT_GT(::poll(&wait, 1, 60'000), 0);
    background->finish();
  }
  for (int i = 0; i < 100; ++i) EXPECT_EQ(done[static_cast<size_t>(i)], i);
  EXPECT_FALSE(background->finish());
}

TEST(Background, AsksWhatIsUnderWayToHurry) {
  std::atomic<bool> begun{false};
  auto background = std::move(*Background::create());
  const std::atomic<bool>& stop = background->should_stop();
  ASSERT_TRUE(background->submit([&]() -> Background::Then {
    begun = true;
    begun.notify_all();
    while (!stop) std::this_thread::yield();
    return [] { FAIL() << "nobody is there for it any more"; };
  }));
  begun.wait(false);
  ASSERT_TRUE(background->submit([]() -> Background::Then {
    ADD_FAILURE() << "it has been dropped";
    return {};
  }));
  background.reset();
}

}  // namespace
}  // namespace kvt::keeper
