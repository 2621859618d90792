// SPDX-License-Identifier: Apache-2.0
//
// What is a problem, how bad it is, and whom it names: each from a snapshot that is well but for one thing.
#include "daemon/control/health.h"

#include <gtest/gtest.h>

#include <functional>

namespace kvt::control {
namespace {

Vitals well() {
  ArenaVitals arena;
  arena.name = "default";
  arena.page_bytes = 65536;
  arena.frames = 1000;
  arena.free_pages = 10;
  arena.tiers = {{"hbm", false, 0}, {"dram", false, 0}};
  arena.sessions = 1;
  arena.sessions_max = 128;
  arena.minute = {1000, uint64_t{1} << 40, 1000, 10, 0};
  Vitals vitals;
  vitals.arenas = {arena};
  vitals.policy = "balance";
  vitals.descriptors = 100;
  vitals.descriptors_max = 1024;
  vitals.is_kept = true;
  vitals.kept_descriptors = 10;
  vitals.kept_descriptors_max = 8192;
  return vitals;
}

TEST(Health, NothingIsWrongWhereAllIsWell) {
  EXPECT_TRUE(problems_of(well()).empty());
  EXPECT_TRUE(is_healthy(problems_of(well())));
}

struct Case {
  const char* code;
  Severity severity;
  const char* words;  ///< of what is said, or of what is to be done
  std::function<void(Vitals&)> change;
};

void hold_limbo(Vitals& vitals, uint64_t frames, bool stopped) {
  vitals.arenas[0].limbo = frames;
  vitals.arenas[0].limbo_seconds = 12.4;
  vitals.arenas[0].holds_limbo = {7, 1234, stopped};
}

const Case kCases[] = {
    {"memory_reserve", Severity::kBad, "begins nothing new", [](Vitals& v) { v.memory_reserve_used = true; }},
    {"tier_degraded", Severity::kBad, "GPU of tier hbm",
     [](Vitals& v) { v.arenas[0].tiers[0].degraded = true; }},
    {"tier_degraded", Severity::kBad, "no NUMA node of tier dram has memory",
     [](Vitals& v) {
       v.arenas[0].tiers[1].nodes_lost = true;
       v.arenas[0].tiers[1].closed = v.arenas[0].tiers[1].frames;
     }},
    {"frames_retired", Severity::kWarn, "3 frames of tier dram",
     [](Vitals& v) { v.arenas[0].tiers[1].retired = 3; }},
    {"pages_lost", Severity::kBad, "1 page was lost", [](Vitals& v) { v.arenas[0].lost_pages = 1; }},
    {"checksum_mismatch", Severity::kWarn, "2 frames or copies",
     [](Vitals& v) { v.arenas[0].mismatches = 2; }},
    {"limbo_held", Severity::kWarn, "200 of 1000 frames wait in limbo, the first for 12 s",
     [](Vitals& v) { hold_limbo(v, 200, false); }},
    {"limbo_held", Severity::kBad, "session 7 (process 1234, stopped)",
     [](Vitals& v) { hold_limbo(v, 250, true); }},
    {"limbo_held", Severity::kBad,
     "continue or kill process 1234; if that cannot be done: kvtierctl evict-session 7",
     [](Vitals& v) { hold_limbo(v, 250, true); }},
    {"limbo_held", Severity::kWarn, "kvtierctl sessions",
     [](Vitals& v) {
       hold_limbo(v, 1, false);
       v.arenas[0].holds_limbo = {};
     }},
    {"arena_full", Severity::kBad, "5 times a session",
     [](Vitals& v) {
       v.arenas[0].free_pages = 0;
       v.arenas[0].minute.starved = 5;
     }},
    {"commands_broken", Severity::kWarn, "session 3 (process 33)",
     [](Vitals& v) {
       v.arenas[0].broken = {{3, 33, false}};
     }},
    {"sessions_at_limit", Severity::kWarn, "128 sessions", [](Vitals& v) { v.arenas[0].sessions = 128; }},
    {"moves_do_not_pay", Severity::kWarn, "1000 pages were moved up",
     [](Vitals& v) { v.arenas[0].minute.bytes_read_above = 1000 * 65536 * 2 - 2; }},
    {"offers_lapse", Severity::kWarn, "751 were not taken",
     [](Vitals& v) { v.arenas[0].minute.offers_lapsed = 751; }},
    {"rows_damaged", Severity::kBad, "1 row was damaged", [](Vitals& v) { v.rows_damaged = 1; }},
    {"regions_lost", Severity::kWarn, "2 sessions", [](Vitals& v) { v.regions_lost = 2; }},
    {"not_kept", Severity::kNote, "--keep", [](Vitals& v) { v.is_kept = false; }},
    {"store_nearly_full", Severity::kWarn, "7400 of 8192", [](Vitals& v) { v.kept_descriptors = 7400; }},
    {"tier_left_out", Severity::kWarn, "no such GPU", [](Vitals& v) { v.left_out = {"no such GPU"}; }},
    {"attach_refused", Severity::kWarn, "4 s ago, 9 since the start",
     [](Vitals& v) {
       v.refused = 9;
       v.refused_seconds_ago = 4.2;
     }},
    {"descriptors_nearly_used", Severity::kWarn, "920 of 1024", [](Vitals& v) { v.descriptors = 920; }},
    {"numa_balancing", Severity::kWarn, "sysctl kernel.numa_balancing=0",
     [](Vitals& v) { v.is_numa_balancing = true; }},
    {"policy_is_off", Severity::kNote, "churn", [](Vitals& v) { v.policy = "churn"; }},
};

TEST(Health, OneThingIsOneProblem) {
  for (const Case& one : kCases) {
    Vitals vitals = well();
    one.change(vitals);
    const std::vector<Problem> problems = problems_of(vitals);
    ASSERT_EQ(problems.size(), 1u) << one.code;
    EXPECT_STREQ(problems[0].code, one.code);
    EXPECT_EQ(problems[0].severity, one.severity) << one.code;
    const std::string said = problems[0].what + " " + problems[0].action;
    EXPECT_NE(said.find(one.words), std::string::npos) << one.code << ": " << said;
    EXPECT_EQ(is_healthy(problems), one.severity == Severity::kNote) << one.code;
  }
}

/// What was long ago, is short, or is too little to tell.
TEST(Health, SmallThingsAreNoProblems) {
  const std::function<void(Vitals&)> changes[] = {
      [](Vitals& v) {
        v.refused = 9;
        v.refused_seconds_ago = 61;
      },
      [](Vitals& v) {
        hold_limbo(v, 900, true);
        v.arenas[0].limbo_seconds = 4;
      },
      [](Vitals& v) { v.arenas[0].minute.starved = 5; },
      [](Vitals& v) { v.arenas[0].free_pages = 0; },
      [](Vitals& v) {
        v.arenas[0].minute = {255, 0, 255, 255, 0};
      },
      [](Vitals& v) { v.descriptors_max = 0; },
  };
  for (const auto& change : changes) {
    Vitals vitals = well();
    change(vitals);
    const std::vector<Problem> problems = problems_of(vitals);
    EXPECT_TRUE(problems.empty()) << problems[0].what;
  }
}

TEST(Health, TheWorstComesFirst) {
  Vitals vitals = well();
  vitals.is_kept = false;
  vitals.refused = 1;
  vitals.arenas[0].lost_pages = 1;
  const std::vector<Problem> problems = problems_of(vitals);
  ASSERT_EQ(problems.size(), 3u);
  EXPECT_STREQ(problems[0].code, "pages_lost");
  EXPECT_STREQ(problems[1].code, "attach_refused");
  EXPECT_STREQ(problems[2].code, "not_kept");
  EXPECT_FALSE(is_healthy(problems));
}

}  // namespace
}  // namespace kvt::control
