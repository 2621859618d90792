// SPDX-License-Identifier: Apache-2.0
//
// What top makes of two answers: rates, bars, lines. No terminal; tests/ctl has one.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "tools/kvtierctl/render.h"
#include "tools/kvtierctl/top_view.h"

namespace kvt::ctl {
namespace {

using nlohmann::json;

json part(const char* name, uint64_t named, uint64_t reserved, uint64_t limbo, uint64_t free, uint64_t read) {
  return {{"name", name},
          {"frames", named + reserved + limbo + free},
          {"free", free},
          {"named", named},
          {"limbo", limbo},
          {"reserved", reserved},
          {"retired", 0},
          {"emulated", name == std::string("hbm")},
          {"degraded", false},
          {"bytes_read", read},
          {"bytes_read_per_second", 0}};
}

json status_at(double uptime, uint64_t promoted, uint64_t read) {
  const json arena{
      {"name", "default"},
      {"page_bytes", 1000},
      {"block_tokens", 16},
      {"planes", 1},
      {"columns", 1},
      {"pages", 200},
      {"mode", "0600"},
      {"epoch", 9},
      {"sessions", 2},
      {"pages_by_state", {{"free", 100}, {"filling", 10}, {"sealed", 90}, {"evicting", 0}, {"retired", 0}}},
      {"keyed", 80},
      {"shadows", 0},
      {"pinned", 0},
      {"copies_under_way", 0},
      {"integrity", {{"mode", "off"}}},
      {"tiers", {part("hbm", 50, 10, 20, 20, read), part("dram", 60, 0, 0, 40, read / 4)}},
      {"moves", {{"promoted", promoted}, {"demoted_copy", 0}, {"demoted_free", 7}, {"aborted", 0}}},
      {"offers", {{"out", 0}, {"made", 0}, {"taken", 0}, {"lapsed", 0}, {"withdrawn", 0}}},
      {"evicted", 5},
      {"published", 80},
      {"limbo_frames", 20},
      {"limbo_seconds", 0.5},
      {"steps",
       {{"count", promoted},
        {"seconds", 0.02 * static_cast<double>(promoted)},
        {"buckets",
         {{{"from_seconds", 0.016}, {"to_seconds", 0.02}, {"steps", promoted / 2}},
          {{"from_seconds", 0.02}, {"to_seconds", 0.024}, {"steps", promoted - promoted / 2}}}}}},
      {"balance", {{"bytes_read", 100}, {"bytes_fast", 80}, {"bytes_fast_best", 90}}}};
  json sessions = json::array();
  for (const uint64_t id : {1, 2, 3})
    sessions.push_back({{"id", id},
                        {"arena", "default"},
                        {"pid", 1000 + id},
                        {"uid", 0},
                        {"members", 1},
                        {"connected", true},
                        {"quarantined", 0},
                        {"access", "read-write"},
                        {"guarantee_pages", 0},
                        {"unkeyed_pages", 10 * id},
                        {"held_pages", 30 - id},
                        {"held_pages_exact", true},
                        {"magazine_pages", 0},
                        {"open_steps", id == 2 ? 5 : 0},
                        {"oldest_step_epochs", id == 2 ? json(7) : json(nullptr)}});
  const auto tier = [](const char* name, double most) {
    return json{{"name", name},
                {"emulated", name == std::string("hbm")},
                {"bytes", 100'000},
                {"read_bytes_per_second", most}};
  };
  return {{"ok", true},
          {"healthy", true},
          {"problems", json::array()},
          {"version", "0.1.0"},
          {"pid", 42},
          {"policy", "balance"},
          {"uptime_seconds", uptime},
          {"cpu_seconds", uptime / 10},
          {"rss_bytes", 1 << 20},
          {"tiers", {tier("hbm", 4e9), tier("dram", 1e9)}},
          {"arenas", {arena}},
          {"sessions", sessions}};
}

std::string text_of(const Answered& answered, View view, SessionOrder order = SessionOrder::kId) {
  return plain_text(view_lines(answered, view, order));
}

TEST(Top, RatesAreGrowthBySeconds) {
  const Rates rates =
      rates_of(status_at(12, 300, 5'000'000'000).dump(), status_at(10, 100, 1'000'000'000).dump());
  ASSERT_TRUE(rates.seconds);
  EXPECT_DOUBLE_EQ(*rates.seconds, 2);
  EXPECT_NEAR(rates.cpu_share, 0.1, 1e-9);
  ASSERT_EQ(rates.arenas.size(), 1u);
  EXPECT_DOUBLE_EQ(rates.arenas[0].promoted, 100);
  EXPECT_DOUBLE_EQ(rates.arenas[0].demoted_free, 0);
  EXPECT_DOUBLE_EQ(rates.arenas[0].fast_share.value_or(0), 0.8);
  EXPECT_DOUBLE_EQ(rates.tiers[0].read_per_second, 2e9);
  EXPECT_DOUBLE_EQ(rates.tiers[1].read_per_second, 0.5e9);
  EXPECT_EQ(rates.tiers[0].used, 50'000u);
  EXPECT_EQ(rates.tiers[0].limbo, 20'000u);
  EXPECT_DOUBLE_EQ(rates.arenas[0].steps, 100);
  EXPECT_NEAR(rates.arenas[0].step_p50.value_or(0), 0.02, 1e-9);
  EXPECT_NEAR(rates.arenas[0].step_p99.value_or(0), 0.02392, 1e-5);
}

TEST(Top, NoRatesWithoutTwoAnswersOfOneDaemon) {
  const json now = status_at(12, 300, 5'000'000'000);
  json other = status_at(10, 100, 1'000'000'000);
  other["pid"] = 41;
  for (const std::string& before : {std::string(), other.dump(), status_at(12, 0, 0).dump()}) {
    const Rates rates = rates_of(now.dump(), before);
    EXPECT_FALSE(rates.seconds);
    EXPECT_EQ(rates.arenas[0].promoted, 0);
    EXPECT_FALSE(rates.arenas[0].step_p50);
    EXPECT_EQ(rates.tiers[0].read_per_second, 0);
    EXPECT_FALSE(rates.arenas[0].fast_share) << "nothing was read, so the last plan says nothing of now";
  }
  // Counters of an arena that was made anew
  EXPECT_EQ(rates_of(status_at(12, 3, 4).dump(), status_at(10, 300, 400).dump()).arenas[0].promoted, 0);
}

TEST(Top, ABarHasItsWidthAndAMarkOfEachPart) {
  const auto drawn = [](const Rates::Tier& tier, size_t width) { return plain_text({bar(tier, width)}); };
  Rates::Tier tier;
  tier.bytes = 100;
  tier.used = 50;
  tier.reserved = 10;
  tier.limbo = 20;
  EXPECT_EQ(drawn(tier, 12), "[#####+~~..]\n");
  tier.used = 1;
  tier.reserved = 1;
  tier.limbo = 1;
  EXPECT_EQ(drawn(tier, 12), "[#+~.......]\n");
  tier.used = 100;
  tier.reserved = 0;
  tier.limbo = 0;
  EXPECT_EQ(drawn(tier, 12), "[##########]\n");
  tier.limbo = 40;  // more than all, as counters read one after the other may be
  EXPECT_EQ(drawn(tier, 12), "[##########]\n");
  EXPECT_EQ(drawn(Rates::Tier(), 12), "[..........]\n");
  for (size_t width = 0; width < 40; ++width)
    EXPECT_EQ(drawn(tier, width).size(), std::max<size_t>(width, 3) + 1);
}

TEST(Top, ViewsFitAScreen) {
  Answered answered{
      status_at(12, 300, 5'000'000'000).dump(), status_at(10, 100, 1'000'000'000).dump(), {}, {}};
  answered.heat = json{{"ok", true},
                       {"arena", "default"},
                       {"column", 0},
                       {"pages", 200},
                       {"looked_at", 200},
                       {"filled", 100},
                       {"tiers", {"hbm", "dram"}},
                       {"buckets",
                        {{{"below", 0.25}, {"pages", {0, 60}}},
                         {{"below", 4}, {"pages", {30, 0}}},
                         {{"below", nullptr}, {"pages", {10, 0}}}}}}
                      .dump();
  for (const View view : {View::kOverview, View::kArenas, View::kSessions, View::kHeat}) {
    std::istringstream lines(text_of(answered, view));
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 80u) << line;
  }
  const std::string overview = text_of(answered, View::kOverview);
  for (const char* const words : {"hbm (emulated)", "2.0", "50%", "80.0%", "90.0%", "100", "1002"})
    EXPECT_NE(overview.find(words), std::string::npos) << words << " in\n" << overview;
  const std::string heat = text_of(answered, View::kHeat);
  EXPECT_NE(heat.find("0 to 0.25     60  " + std::string(40, 'B') + "\n"), std::string::npos) << heat;
  EXPECT_NE(heat.find("4 and more     10  AAAAAAA\n"), std::string::npos) << heat;
  const std::string head = plain_text({head_line(answered)});
  EXPECT_NE(head.find("kvtierd 0.1.0  healthy  up 12.0 s  cpu 10.0%"), std::string::npos) << head;
}

TEST(Top, ProblemsComeFirstAndNotesDoNot) {
  json status = status_at(12, 0, 0);
  status["healthy"] = false;
  status["problems"] = {
      {{"code", "arena_full"}, {"severity", "bad"}, {"what", "it is full"}, {"do", "more"}},
      {{"code", "not_kept"}, {"severity", "note"}, {"what", "nothing keeps"}, {"do", "keep"}}};
  const Answered answered{status.dump(), {}, {}, {}};
  const std::string overview = text_of(answered, View::kOverview);
  EXPECT_TRUE(overview.starts_with("  BAD      it is full -> more\nTIER")) << overview;
  EXPECT_NE(plain_text({head_line(answered)}).find("NOT HEALTHY"), std::string::npos);
}

TEST(Top, SessionsAreSorted) {
  const Answered answered{status_at(12, 0, 0).dump(), {}, {}, {}};
  const auto first = [&](SessionOrder order) {
    std::istringstream in(text_of(answered, View::kSessions, order));
    std::string line;
    std::getline(in, line);
    std::getline(in, line);
    return line.substr(line.find_first_not_of(' '), 1);
  };
  EXPECT_EQ(first(SessionOrder::kId), "1");
  EXPECT_EQ(first(SessionOrder::kHeld), "1");
  EXPECT_EQ(first(SessionOrder::kUnkeyed), "3");
  EXPECT_EQ(first(SessionOrder::kSteps), "2");
  EXPECT_EQ(first(SessionOrder::kOldest), "2");
}

TEST(Top, AsJson) {
  const Answered answered{
      status_at(12, 300, 5'000'000'000).dump(), status_at(10, 100, 1'000'000'000).dump(), {}, {}};
  const json rates = json::parse(rates_json(answered));
  EXPECT_EQ(rates.at("seconds"), 2.0);
  EXPECT_EQ(rates.at("tiers").at(0).at("read_bytes_per_second"), 2e9);
  EXPECT_EQ(rates.at("arenas").at(0).at("promoted_per_second"), 100);
  EXPECT_THROW(rates_json({"{\"ok\":true}", "", "", ""}), BadAnswer);
  EXPECT_THROW(view_lines({"{\"ok\":false,\"error\":\"no\"}", "", "", ""}, View::kHeat, SessionOrder::kId),
               BadAnswer);
}

}  // namespace
}  // namespace kvt::ctl
