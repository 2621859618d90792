// SPDX-License-Identifier: Apache-2.0
#include "daemon/restart/state.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstring>

#include "daemon/restart/points.h"

namespace kvt::restart {
namespace {

Fd duplicate(const Fd& fd) { return Fd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 3)); }

ArenaSlot& add_arena(RestartState& state, uint64_t id, const char* name) {
  ArenaSlot& slot = *state.new_arena();
  slot.arena_id = id;
  slot.tiers = 2;
  std::strncpy(slot.name, name, sizeof slot.name - 1);
  state.commit(slot);
  return slot;
}

TEST(RestartState, TheNextFindsWhatCounts) {
  RestartState state = std::move(*RestartState::create());
  add_arena(state, 7, "default");
  SessionSlot& session = state.new_session(7, 3);
  session.members_max = 2;
  session.token[0] = 42;
  session.member[1].pid = 1234;
  RestartState::commit(session.member[1]);
  RestartState::commit(session, 99);
  state.new_session(7, 4).members_max = 1;  // and its daemon is killed
  state.new_arena()->arena_id = 8;

  RestartState next = std::move(*RestartState::adopt(duplicate(state.fd())));
  ASSERT_EQ(next.arenas().size(), 1u);
  EXPECT_STREQ(next.find_arena("default")->name, "default");
  EXPECT_EQ(next.find_arena("other"), nullptr);
  ASSERT_EQ(next.sessions(7).size(), 1u);
  EXPECT_EQ(next.sessions(7)[0]->valid, 99u);
  EXPECT_EQ(next.sessions(7)[0]->token[0], 42);
  EXPECT_EQ(next.sessions(7)[0]->member[1].pid, 1234);
  RestartState::clear(*next.sessions(7)[0]);
  EXPECT_TRUE(state.sessions(7).empty());
}

/// As many as are allowed in an hour, counted from daemon to daemon.
TEST(RestartState, ContextsAreMadeAnewSoOftenAndNoMore) {
  RestartState state = std::move(*RestartState::create());
  for (uint64_t i = 0; i < RestartState::kRenewalsMax; ++i) {
    EXPECT_TRUE(state.note_renewal(100 + i)) << i;
    state = std::move(*RestartState::adopt(duplicate(state.fd())));
  }
  EXPECT_FALSE(state.note_renewal(200));
  EXPECT_FALSE(state.note_renewal(99 + RestartState::kRenewalsSeconds));
  EXPECT_TRUE(state.note_renewal(100 + RestartState::kRenewalsSeconds));
  EXPECT_FALSE(state.note_renewal(100 + RestartState::kRenewalsSeconds)) << "the second is not so old";
}

TEST(RestartState, AnArenaThatIsClearedIsNoMore) {
  RestartState state = std::move(*RestartState::create());
  add_arena(state, 7, "default");
  RestartState::clear(add_arena(state, 8, "chat"));
  add_arena(state, 9, "last");
  RestartState next = std::move(*RestartState::adopt(duplicate(state.fd())));
  EXPECT_EQ(next.find_arena("chat"), nullptr);
  EXPECT_EQ(next.arenas().size(), 2u);
  // Its slot is another's, with nothing of it.
  ArenaSlot& reused = add_arena(next, 10, "chat");
  EXPECT_EQ(next.find_arena("chat")->arena_id, 10u);
  EXPECT_EQ(reused.weight, 0u);
  EXPECT_EQ(next.arenas().size(), 3u);
}

TEST(RestartState, SessionNumbersAreNeverUsedAgain) {
  RestartState state = std::move(*RestartState::create());
  EXPECT_EQ(state.next_session_id(), 1u);
  EXPECT_EQ(state.next_session_id(), 2u);
  RestartState next = std::move(*RestartState::adopt(duplicate(state.fd())));
  EXPECT_EQ(next.next_session_id(), 3u);
}

TEST(RestartState, SlotsThatMakeNoSenseDoNotCount) {
  RestartState state = std::move(*RestartState::create());
  add_arena(state, 7, "default");
  SessionSlot& session = state.new_session(7, 3);
  RestartState::commit(session, 99);  // no members
  EXPECT_TRUE(state.sessions(7).empty());
  session.members_max = KVT_MAX_MEMBERS + 1;
  EXPECT_TRUE(state.sessions(7).empty());
  session.members_max = 1;
  session.slot = 5;
  EXPECT_TRUE(state.sessions(7).empty());
}

TEST(RestartState, AnotherMajorVersionIsRefusedWithBoth) {
  RestartState state = std::move(*RestartState::create());
  const Mapping mapping = std::move(*Mapping::map(state.fd(), 4096, Access::kReadWrite));
  uint16_t major = kStateMajor + 1;
  std::memcpy(mapping.data() + sizeof(uint64_t), &major, sizeof major);
  const auto adopted = RestartState::adopt(duplicate(state.fd()));
  ASSERT_FALSE(adopted.has_value());
  EXPECT_EQ(adopted.error().code, Code::kMismatch);
  EXPECT_NE(adopted.error().text.find(std::to_string(kStateMajor + 1) + "."), std::string::npos);
  EXPECT_NE(adopted.error().text.find(std::to_string(kStateMajor) + "."), std::string::npos);
}

TEST(RestartState, WhatIsNoStateIsRefused) {
  EXPECT_EQ(RestartState::adopt(std::move(*make_memfd("kvt-test", 64))).error().code, Code::kInvalid);
  EXPECT_EQ(RestartState::adopt(std::move(*make_memfd("kvt-test", 1 << 20))).error().code, Code::kInvalid);
}

TEST(Points, AreArmedOnlyWhereTheyMayBe) {
  EXPECT_EQ(arm("move.placed", PointAction::kKill, 1).error().code, Code::kPermission);
  reach(Point::kMovePlaced);  // and nothing happens
  EXPECT_GT(point_names().size(), 30u);
}

TEST(Points, KillWhereTheyAreReached) {
  EXPECT_EXIT(
      {
        allow_arming();
        if (!arm("move.placed", PointAction::kKill, 2)) ::_exit(1);
        reach(Point::kMoveLogged);
        reach(Point::kMovePlaced);
        std::fprintf(stderr, "once");
        reach(Point::kMovePlaced);
        ::_exit(0);
      },
      testing::KilledBySignal(SIGKILL), "once");
  EXPECT_EXIT(
      {
        allow_arming();
        ::_exit(arm("no.such", PointAction::kKill, 1).error().code == Code::kNotFound ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace kvt::restart
