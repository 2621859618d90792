// SPDX-License-Identifier: Apache-2.0
//
// What the keeper makes of a configuration; its event loop.
#include "daemon/keeper/keeper.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "daemon/keeper/event_loop.h"
#include "daemon/tier/budget.h"
#include "tests/support/arena_fixture.h"
#include "tests/support/one_node.h"

namespace kvt::keeper {
namespace {

Config small_config() {
  Config config = Config::defaults();
  config.prefault = false;
  config.tiers[0].bytes = 4 << 20;
  config.tiers[1].bytes = 16 << 20;
  return config;
}

Result<std::unique_ptr<Keeper>> make_keeper(const Config& config) {
  KVT_TRY_ASSIGN(const Machine machine, plan_machine(config, test::one_node(), nullptr));
  KVT_TRY_ASSIGN(restart::Kept kept, restart::new_kept());
  return Keeper::create(
      machine, Inject::kNone, [](const std::string&) {}, std::move(kept));
}

std::string refusal(const Config& config) {
  const auto planned = check_plan(config);
  return planned ? "" : planned.error().text;
}

TEST(CheckPlan, TakesTheDefaults) { EXPECT_EQ(refusal(Config::defaults()), ""); }

TEST(CheckPlan, RefusesWhatCannotBe) {
  Config config = small_config();
  config.arenas[0].bytes = {{"hbm", 5 << 20}};
  EXPECT_NE(refusal(config).find("the arenas want 5242880 bytes of tier \"hbm\""), std::string::npos)
      << refusal(config);

  config = small_config();
  config.arenas[0].page_bytes = 8 << 20;
  EXPECT_NE(refusal(config).find("not one page"), std::string::npos) << refusal(config);

  config = small_config();
  config.arenas[0].pages = 1'000'000;
  EXPECT_NE(refusal(config).find("have room for"), std::string::npos) << refusal(config);

  config = small_config();
  config.arenas[0].columns = 2;
  config.tiers[1].column = 1;
  EXPECT_NE(refusal(config).find("needs a tier that serves all"), std::string::npos) << refusal(config);

  config = small_config();
  config.tiers[1].bytes = 1ull << 45;
  config.arenas[0].page_bytes = 16384;
  config.arenas[0].block_tokens = 64;
  config.arenas[0].pages = 1000;
  EXPECT_NE(refusal(config).find("int32"), std::string::npos) << refusal(config);
}

TEST(Keeper, SharesATierAmongArenasThatNameNoPart) {
  Config config = small_config();
  config.arenas.resize(3, config.arenas[0]);
  config.arenas[1].name = "second";
  config.arenas[2].name = "third";
  config.arenas[2].bytes = {{"dram", 4 << 20}};
  auto keeper = make_keeper(config);
  ASSERT_TRUE(keeper.has_value()) << keeper.error().text;
  EXPECT_TRUE((*keeper)->emulated());
  for (const char* name : {"default", "second"}) {
    Arena* const arena = (*keeper)->find_arena(name);
    ASSERT_NE(arena, nullptr);
    EXPECT_EQ(arena->table().tier(0).frames, (4u << 20) / 3 / 65536 - 1) << "a third, less the scratch frame";
    EXPECT_EQ(arena->table().tier(1).frames, (6u << 20) / 65536);
  }
  EXPECT_EQ((*keeper)->find_arena("third")->table().tier(1).frames, (4u << 20) / 65536);
  EXPECT_EQ((*keeper)->find_arena("fourth"), nullptr);
  // "The windows of a tier never add up to more than the tier."
  for (uint32_t tier = 0; tier < 2; ++tier) {
    uint64_t bytes = 0;
    for (const auto& arena : (*keeper)->arenas()) bytes += arena->table().tier(tier).window_bytes;
    EXPECT_LE(bytes, config.tiers[tier].bytes);
  }
}

// ---- what each arena may move ----

/// Arenas with a session each, which has a page in the slow tier.
class KeeperShares : public testing::Test {
 protected:
  struct Part {
    uint32_t weight;
    double least_percent;
  };
  void start(const std::vector<Part>& parts) {
    Config config = small_config();
    config.tiers[0].bytes = 1 << 20;  // fewer frames than a magazine has pages
    config.arenas.resize(parts.size(), config.arenas[0]);
    for (size_t i = 0; i < parts.size(); ++i) {
      config.arenas[i].name = "arena" + std::to_string(i);
      config.arenas[i].weight = parts[i].weight;
      config.arenas[i].least_percent = parts[i].least_percent;
    }
    period = std::chrono::milliseconds(config.period_ms);
    auto made = make_keeper(config);
    ASSERT_TRUE(made.has_value()) << made.error().text;
    keeper = std::move(*made);
    now = Keeper::Clock::now();
    keeper->pass(now);
    for (const auto& arena : keeper->arenas()) {
      const auto state = arena->add_session(1, 0, 1, true, 0);
      ASSERT_TRUE(state.has_value());
      ASSERT_TRUE(arena->add_member(**state, 0).has_value());
      sessions.emplace_back(**state, 0, arena->table().pages());
      pass();
      Handle page = kNoHandle;
      do page = sessions.back().pop();
      while (!page.none() && arena->table().placement(0, page.index()).tier() == 0);
      ASSERT_FALSE(page.none());
      ASSERT_NE(sessions.back().submit(KVT_OP_SEAL, page), 0u);
      pages.push_back(page);
    }
    pass();
  }
  void pass() { keeper->pass(now); }
  /// A period at whose beginning these arenas have something to move; the shares that all were given.
  std::vector<double> shares_of(const std::vector<size_t>& wanting) {
    for (const size_t i : wanting) sessions[i].submit(KVT_OP_ADVISE, pages[i], {}, kNoHandle, 1);
    pass();
    now += period;
    pass();
    std::vector<double> shares;
    for (const auto& arena : keeper->arenas()) shares.push_back(arena->budget_share());
    return shares;
  }
  static void expect_near(const std::vector<double>& shares, const std::vector<double>& expected) {
    ASSERT_EQ(shares.size(), expected.size());
    for (size_t i = 0; i < shares.size(); ++i) EXPECT_NEAR(shares[i], expected[i], 1e-6) << "arena " << i;
  }

  std::unique_ptr<Keeper> keeper;
  std::vector<test::TestSession> sessions;
  std::vector<Handle> pages;
  Keeper::Clock::time_point now;
  std::chrono::milliseconds period{};
};

TEST_F(KeeperShares, AreByWeightOfThoseThatWantToMove) {
  start({{3, 0}, {1, 0}, {4, 0}});
  expect_near(shares_of({}), {0, 0, 0});
  expect_near(shares_of({0, 1, 2}), {3.0 / 8, 1.0 / 8, 4.0 / 8});
}

TEST_F(KeeperShares, WhatNobodyElseWantsIsForWhoDoes) {
  start({{3, 0}, {1, 0}});
  expect_near(shares_of({1}), {0, 1});
}

TEST_F(KeeperShares, TheLeastIsDueFirst) {
  start({{999, 0}, {1, 30}});
  expect_near(shares_of({0, 1}), {0.7, 0.3});
}

TEST_F(KeeperShares, LeastSharesOfMoreThanThereIsAreMetInProportion) {
  start({{1, 100}, {1, 50}});
  expect_near(shares_of({0, 1}), {2.0 / 3, 1.0 / 3});
}

TEST_F(KeeperShares, OneArenaHasAll) {
  start({{1, 0}});
  expect_near(shares_of({}), {1});
}

TEST(Keeper, GoesToSleepAndSaysSo) {
  auto keeper = make_keeper(small_config());
  ASSERT_TRUE(keeper.has_value()) << keeper.error().text;
  const ArenaTable& table = (*keeper)->arenas()[0]->table();
  auto now = Keeper::Clock::now();
  int sleep_ms = 0;
  for (int i = 0; i < 100 && sleep_ms >= 0; ++i) {
    now += std::chrono::milliseconds(20);
    (*keeper)->pass(now);
    sleep_ms = (*keeper)->sleep_ms(now);
  }
  EXPECT_EQ(sleep_ms, -1) << "nothing to do: no timeout";
  EXPECT_TRUE(table.keeper_asleep());
  (*keeper)->awake();
  EXPECT_FALSE(table.keeper_asleep());
  EXPECT_GE((*keeper)->sleep_ms(now), 0) << "awake for a while first";
}

TEST(Keeper, DoesNotSleepOnWorkThatCameBeforeItSaidSo) {
  auto keeper = make_keeper(small_config());
  ASSERT_TRUE(keeper.has_value());
  Arena& arena = *(*keeper)->arenas()[0];
  const auto session = arena.add_session(1, 0, 1, true, 0);
  ASSERT_TRUE(session.has_value());
  ASSERT_TRUE(arena.add_member(**session, 0).has_value());
  auto now = Keeper::Clock::now();
  for (int i = 0; i < 100; ++i) {
    now += std::chrono::milliseconds(20);
    (*keeper)->pass(now);
  }
  touch((*session)->region, 0);
  EXPECT_EQ((*keeper)->sleep_ms(now), 0);
}

/// Free when the machine was planned, and refused when they are wanted.
TEST(Keeper, GoesOnWithUsualPagesWhereHugeOnesAreRefused) {
  if (tier::free_huge_bytes(std::nullopt) != 0)
    GTEST_SKIP() << "huge pages are free here: nobody refuses them";
  auto machine = plan_machine(small_config(), test::one_node(), nullptr);
  ASSERT_TRUE(machine.has_value()) << machine.error().text;
  machine->tiers[0].pages = OsPages::kHuge2M;
  const auto keeper = Keeper::create(
      *machine, Inject::kNone, [](const std::string&) {}, std::move(*restart::new_kept()));
  ASSERT_TRUE(keeper.has_value()) << keeper.error().text;
  EXPECT_EQ((*keeper)->arenas().size(), 1u);
  machine->config.tiers[0].huge_pages = "hugetlb";
  const auto insists = Keeper::create(
      *machine, Inject::kNone, [](const std::string&) {}, std::move(*restart::new_kept()));
  ASSERT_FALSE(insists.has_value());
  EXPECT_EQ(insists.error().code, Code::kFull);
}

TEST(Keeper, NamesAMissingNode) {
  Config config = small_config();
  config.tiers[1].nodes = {777};
  const auto keeper = make_keeper(config);
  ASSERT_FALSE(keeper.has_value());
  EXPECT_EQ(keeper.error().code, Code::kNotFound);
  EXPECT_NE(keeper.error().text.find("NUMA node 777"), std::string::npos) << keeper.error().text;
}

TEST(Keeper, RefusesMoreThanTheMachineHasBeforeItTouchesAnything) {
  Config config = small_config();
  config.prefault = true;
  config.tiers[1].bytes = 1ull << 45;
  config.arenas[0].pages = 100;
  config.arenas[0].block_tokens = 1;
  const auto keeper = make_keeper(config);
  ASSERT_FALSE(keeper.has_value());
  EXPECT_EQ(keeper.error().code, Code::kFull);
  EXPECT_NE(keeper.error().text.find("prefault = false"), std::string::npos) << keeper.error().text;
}

// ---- the event loop ----

struct Loop : testing::Test {
  void SetUp() override {
    auto made = EventLoop::create();
    ASSERT_TRUE(made.has_value());
    loop.emplace(std::move(*made));
  }
  static Fd event() { return Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }
  static void ring(const Fd& fd) {
    const uint64_t one = 1;
    ASSERT_EQ(::write(fd.get(), &one, sizeof one), 8);
  }
  std::optional<EventLoop> loop;
};

TEST_F(Loop, AnEdgeIsCalledOnceForEachRing) {
  const Fd fd = event();
  int calls = 0;
  ASSERT_TRUE(loop->add(fd.get(), EventLoop::Trigger::kEdge, [&] { ++calls; }).has_value());
  loop->wait(0);
  EXPECT_EQ(calls, 0);
  ring(fd);
  loop->wait(0);
  loop->wait(0);
  EXPECT_EQ(calls, 1) << "never read, and yet called once";
  ring(fd);
  loop->wait(0);
  EXPECT_EQ(calls, 2);
}

TEST_F(Loop, ALevelIsCalledUntilItIsRead) {
  const Fd fd = event();
  int calls = 0;
  ASSERT_TRUE(loop->add(fd.get(), EventLoop::Trigger::kLevel, [&] { ++calls; }).has_value());
  ring(fd);
  loop->wait(0);
  loop->wait(0);
  EXPECT_EQ(calls, 2);
  uint64_t count = 0;
  ASSERT_EQ(::read(fd.get(), &count, sizeof count), 8);
  loop->wait(0);
  EXPECT_EQ(calls, 2);
}

TEST_F(Loop, ACallbackMayRemoveItselfAndOthers) {
  const Fd first = event();
  const Fd second = event();
  int calls = 0;
  const auto both = [&] {
    ++calls;
    loop->remove(first.get());
    loop->remove(second.get());
  };
  ASSERT_TRUE(loop->add(first.get(), EventLoop::Trigger::kLevel, both).has_value());
  ASSERT_TRUE(loop->add(second.get(), EventLoop::Trigger::kLevel, both).has_value());
  ring(first);
  ring(second);
  loop->wait(0);
  EXPECT_EQ(calls, 1) << "the one that was removed is not called any more";
  loop->wait(0);
  EXPECT_EQ(calls, 1);
}

TEST_F(Loop, ADescriptorThatCannotBeWatchedIsAnError) {
  EXPECT_FALSE(loop->add(-1, EventLoop::Trigger::kLevel, [] {}).has_value());
}

}  // namespace
}  // namespace kvt::keeper
