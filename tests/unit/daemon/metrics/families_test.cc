// SPDX-License-Identifier: Apache-2.0
//
// A snapshot made by hand, and the text that Prometheus gets of it.
#include "daemon/metrics/families.h"

#include <gtest/gtest.h>

#include <set>

namespace kvt::metrics {
namespace {

ArenaSample arena_of(const std::string& name) {
  ArenaSample arena;
  arena.name = name;
  arena.tier_names = {"hbm", "dram"};
  arena.tier_emulated = {true, false};
  arena.tier_degraded = {false, true};
  arena.reserve_frames = {2, 4};
  arena.page_bytes = 65536;
  arena.counts.tiers.resize(2);
  return arena;
}

std::string text_of(const Snapshot& snapshot) { return exposition(families(snapshot, {}, {})); }

testing::AssertionResult has(const std::string& text, const std::string& line) {
  if (("\n" + text).find("\n" + line + "\n") != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "no line " << line << " in\n" << text;
}

TEST(Families, SayEachArenaAndTier) {
  Snapshot snapshot;
  snapshot.arenas = {arena_of("a"), arena_of("b")};
  snapshot.arenas[0].counts.tiers[0].counts.free = 7;
  snapshot.arenas[1].counts.tiers[1].counts.limbo = 9;
  snapshot.arenas[1].counts.tiers[1].bytes_read = 3e15;
  const std::string text = text_of(snapshot);
  EXPECT_TRUE(has(text, R"(kvtier_frames{arena="a",tier="hbm",emulated="true",state="free"} 7)"));
  EXPECT_TRUE(has(text, R"(kvtier_frames{arena="b",tier="dram",emulated="false",state="limbo"} 9)"));
  EXPECT_TRUE(has(text, R"(kvtier_tier_degraded{arena="b",tier="dram",emulated="false"} 1)"));
  EXPECT_TRUE(
      has(text, R"(kvtier_read_bytes_total{arena="b",tier="dram",emulated="false"} 3000000000000000)"));
  EXPECT_TRUE(has(text, "# TYPE kvtier_read_bytes_total counter"));
}

TEST(Families, CountMovesByHowAndTheirBytes) {
  Snapshot snapshot;
  snapshot.arenas = {arena_of("a")};
  snapshot.arenas[0].counts.moved = {1, 2, 3, 4};
  snapshot.arenas[0].counts.starved = 8;
  snapshot.arenas[0].counts.begun[static_cast<size_t>(policy::Reason::kMakeRoom)] = 5;
  snapshot.arenas[0].counts.held_back[static_cast<size_t>(policy::HeldBack::kAllowance)] = 6;
  const std::string text = text_of(snapshot);
  EXPECT_TRUE(has(text, R"(kvtier_starved_total{arena="a"} 8)"));
  EXPECT_TRUE(has(text, R"(kvtier_moves_total{arena="a",how="promoted_by_copy"} 1)"));
  EXPECT_TRUE(has(text, R"(kvtier_moves_total{arena="a",how="promoted_by_reader"} 2)"));
  EXPECT_TRUE(has(text, R"(kvtier_moves_total{arena="a",how="demoted_by_copy"} 3)"));
  EXPECT_TRUE(has(text, R"(kvtier_moves_total{arena="a",how="demoted_free"} 4)"));
  EXPECT_TRUE(has(text, R"(kvtier_moved_bytes_total{arena="a",how="demoted_by_copy"} 196608)"));
  EXPECT_TRUE(has(text, R"(kvtier_moves_begun_total{arena="a",reason="make_room"} 5)"));
  EXPECT_TRUE(has(text, R"(kvtier_plans_total{arena="a",held_back="allowance"} 6)"));
}

TEST(Families, SumTheBalanceOfGroups) {
  Snapshot snapshot;
  snapshot.arenas = {arena_of("a")};
  snapshot.arenas[0].counts.last_plan.groups = {{100, 40, 10, false}, {10, 5, 1, true}};
  const std::string text = text_of(snapshot);
  EXPECT_TRUE(has(text, R"(kvtier_plan_read_bytes{arena="a"} 110)"));
  EXPECT_TRUE(has(text, R"(kvtier_plan_fast_read_bytes{arena="a"} 65)"));
  EXPECT_TRUE(has(text, R"(kvtier_plan_fast_read_best_bytes{arena="a"} 99)"));
}

TEST(Families, HaveHistogramsThatAddUp) {
  Snapshot snapshot;
  for (const double seconds : {1e-6, 1e-5, 2e-5, 0.5, 100.0}) snapshot.loop.turns.add(seconds);
  const std::string text = text_of(snapshot);
  EXPECT_TRUE(has(text, R"(kvtier_loop_turn_seconds_bucket{le="1e-05"} 2)"));  // a bound is of its bucket
  EXPECT_TRUE(has(text, R"(kvtier_loop_turn_seconds_bucket{le="1"} 4)"));
  EXPECT_TRUE(has(text, R"(kvtier_loop_turn_seconds_bucket{le="60"} 4)"));
  EXPECT_TRUE(has(text, R"(kvtier_loop_turn_seconds_bucket{le="+Inf"} 5)"));
  EXPECT_TRUE(has(text, "kvtier_loop_turn_seconds_count 5"));
}

TEST(Families, EscapeNames) {
  Snapshot snapshot;
  snapshot.arenas = {arena_of("a\"b\\c\nd")};
  EXPECT_TRUE(has(text_of(snapshot), R"(kvtier_page_bytes{arena="a\"b\\c\nd"} 65536)"));
}

TEST(Families, AreThereOnceEachWithHelp) {
  Snapshot snapshot;
  snapshot.tiers.emplace_back();
  snapshot.arenas = {arena_of("a")};
  std::set<std::string> names;
  for (const prometheus::MetricFamily& family : families(snapshot, {}, {})) {
    EXPECT_TRUE(names.insert(family.name).second) << family.name;
    EXPECT_FALSE(family.help.empty()) << family.name;
    EXPECT_FALSE(family.metric.empty()) << family.name;
  }
}

TEST(Families, SayWhyAttachesWereRefused) {
  Snapshot snapshot;
  snapshot.attach_refused[KVT_WIRE_E_LIMIT] = 3;
  EXPECT_TRUE(has(text_of(snapshot), R"(kvtier_attach_refused_total{reason="limit"} 3)"));
  EXPECT_TRUE(has(text_of(snapshot), R"(kvtier_attach_refused_total{reason="ended"} 0)"));
}

TEST(Process, IsThisOne) {
  const ProcessSample sample = sample_process();
  EXPECT_GT(sample.resident_bytes, 1u << 20);
  EXPECT_GT(sample.virtual_bytes, sample.resident_bytes);
  EXPECT_GE(sample.open_descriptors, 3u);
  EXPECT_GE(sample.descriptors_max, sample.open_descriptors);
  EXPECT_GE(sample.threads, 1u);
  EXPECT_GT(sample.start_time_seconds, 1.5e9);  // 2017
}

}  // namespace
}  // namespace kvt::metrics
