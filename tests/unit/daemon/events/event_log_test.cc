// SPDX-License-Identifier: Apache-2.0
#include "daemon/events/event_log.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace kvt::events {
namespace {

const EventLog::Clock::time_point kNow{};

TEST(EventLog, ComesInOrderFromWhereOneAsks) {
  EventLog log;
  EXPECT_EQ(log.last(), 0u);
  EXPECT_TRUE(log.since(0, 10).empty());
  log.add(Kind::kReady, "ready", kNow);
  log.add(Kind::kAttach, "a", kNow);
  log.add(Kind::kRefusal, "b", kNow + std::chrono::seconds(1));
  EXPECT_EQ(log.last(), 3u);
  const auto all = log.since(0, 10);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0]->text(), "ready");
  EXPECT_EQ(all[2]->text(), "b");
  EXPECT_EQ(all[2]->kind, Kind::kRefusal);
  EXPECT_EQ(all[2]->at, kNow + std::chrono::seconds(1));
  ASSERT_EQ(log.since(2, 10).size(), 1u);
  EXPECT_EQ(log.since(2, 10)[0]->text(), "b");
  ASSERT_EQ(log.since(0, 2).size(), 2u);
  EXPECT_EQ(log.since(0, 2)[0]->text(), "a") << "the newest";
  EXPECT_TRUE(log.since(3, 10).empty());
}

/// A client that floods its kind pushes out nothing else.
TEST(EventLog, AFloodOfOneKindLeavesTheOthers) {
  EventLog log;
  log.add(Kind::kTierDegraded, "a GPU is lost", kNow);
  for (int i = 0; i < 100'000; ++i) log.add(Kind::kRefusal, std::to_string(i), kNow);
  EXPECT_EQ(log.count(Kind::kRefusal), 100'000u);
  const auto all = log.since(0, SIZE_MAX);
  ASSERT_EQ(all.size(), 1 + EventLog::kEach);
  EXPECT_EQ(all[0]->text(), "a GPU is lost");
  EXPECT_EQ(all[1]->text(), std::to_string(100'000 - EventLog::kEach));
  EXPECT_EQ(all.back()->serial, log.last());
}

TEST(EventLog, ALongTextIsCut) {
  EventLog log;
  const size_t room = Event().words.size();
  log.add(Kind::kDrop, std::string(room, 'x'), kNow);
  log.add(Kind::kDrop, std::string(room + 1, 'x'), kNow);
  EXPECT_EQ(log.since(0, 9)[0]->text(), std::string(room, 'x'));
  EXPECT_EQ(log.since(0, 9)[1]->text(), std::string(room - 2, 'x') + "..");
}

TEST(Kinds, HaveNamesOfTheirOwn) {
  std::set<std::string> names;
  for (const KindRow& row : kKinds) names.insert(row.name);
  EXPECT_EQ(names.size(), kKinds.size());
  EXPECT_STREQ(row_of(Kind::kPolicy).name, "policy");
}

}  // namespace
}  // namespace kvt::events
