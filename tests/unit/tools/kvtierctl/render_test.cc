// SPDX-License-Identifier: Apache-2.0
//
// Tables of answers that no test machine gives: terabytes, a hundred million pages, names as long as they may
// be.
#include "tools/kvtierctl/render.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

namespace kvt::ctl {
namespace {

using nlohmann::json;

/// An answer to "status" of a host with two tiers and two arenas, as large as hosts are.
json large_status(const std::string& arena, const std::string& tier) {
  const auto tier_json = [](const std::string& name, bool emulated, uint64_t bytes) {
    return json{{"name", name},
                {"kind", emulated ? "hbm" : "dram"},
                {"emulated", emulated},
                {"bytes", bytes},
                {"nodes", {0, 1, 2, 3}},
                {"column", -1},
                {"read_bytes_per_second", 3.728e12},
                {"write_bytes_per_second", 2.97e11},
                {"bandwidth_from", "profile gh200"},
                {"os_pages", "huge pages of 2 MiB (hugetlb)"},
                {"profile_read_bytes_per_second", 3.728e12},
                {"measured_read_bytes_per_second", nullptr}};
  };
  const auto part = [](const std::string& name, bool emulated) {
    return json{{"name", name},        {"frames", 268'000'000},
                {"free", 100'123'456}, {"named", 167'000'000},
                {"limbo", 123'456},    {"reserved", 256},
                {"retired", 0},        {"emulated", emulated},
                {"degraded", false},   {"bytes_read_per_second", 3.1e12}};
  };
  const json made{
      {"name", arena},
      {"page_bytes", 65536},
      {"block_tokens", 16},
      {"planes", 80},
      {"columns", 8},
      {"pages", 268'000'000},
      {"mode", "0660"},
      {"epoch", 123'456'789'012},
      {"sessions", 128},
      {"pages_by_state",
       {{"free", 67'123'456},
        {"filling", 123'456},
        {"sealed", 200'123'456},
        {"evicting", 0},
        {"retired", 99'999}}},
      {"keyed", 199'999'999},
      {"shadows", 1'234'567},
      {"pinned", 100'000},
      {"copies_under_way", 256},
      {"copies_failed", 0},
      {"lost_pages", 0},
      {"integrity",
       {{"mode", "all"}, {"checked", 123'456'789}, {"mismatches", 0}, {"repaired", 0}, {"lost", 0}}},
      {"tiers", {part(tier, true), part("dram", false)}},
      {"moves",
       {{"promoted", 123'456'789},
        {"demoted_copy", 99'999'999},
        {"demoted_free", 1'234'567'890},
        {"aborted", 999}}},
      {"offers",
       {{"out", 256},
        {"made", 123'456'789},
        {"taken", 99'999'999},
        {"lapsed", 12'345'678},
        {"withdrawn", 1'234'567},
        {"refused", 123'456}}},
      {"evicted", 12'345'678},
      {"published", 9'876'543'210},
      {"limbo_frames", 123'456},
      {"balance", {{"bytes_read", 1e12}, {"bytes_fast", 9e11}, {"bytes_fast_best", 9.17e11}}},
      {"audit", {{"frames", 536'000'000}, {"accounted", 536'000'000}, {"leaked", 0}}}};
  json other = made;
  other["name"] = "default";
  json sessions = json::array();
  for (uint64_t id = 100'000; id < 100'030; ++id)
    sessions.push_back({{"id", id},
                        {"arena", arena},
                        {"pid", 4'194'303},
                        {"uid", 4'000'000'000},
                        {"members", 16},
                        {"connected", id % 2 == 0},
                        {"quarantined", 0},
                        {"device_memory", false},
                        {"access", "read-write"},
                        {"column", 7},
                        {"guarantee_pages", 1'000'000},
                        {"unkeyed_pages", 123'456},
                        {"held_pages", 12'345'678},
                        {"held_pages_exact", false},
                        {"magazine_pages", 4096},
                        {"open_steps", 1024},
                        {"oldest_step_epochs", 123'456'789}});
  return {{"ok", true},
          {"healthy", true},
          {"problems", json::array()},
          {"version", "0.1.0"},
          {"pid", 4'194'303},
          {"emulated", true},
          {"profile", "h200-pcie5"},
          {"policy", "balance"},
          {"cuda_headers", true},
          {"cuda_driver", "libcuda.so.1, CUDA 13.0"},
          {"socket_dir", "/run/kvtier"},
          {"uptime_seconds", 9e6},
          {"cpu_seconds", 123'456.78},
          {"rss_bytes", uint64_t{1'900} << 30},
          {"attach_refused", 123'456},
          {"connections_dropped", 123'456},
          {"tiers", {tier_json(tier, true, uint64_t{1} << 40), tier_json("dram", false, uint64_t{15} << 40)}},
          {"arenas", {made, other}},
          {"sessions", sessions}};
}

size_t widest(const std::string& text, std::string& line) {
  size_t most = 0;
  std::istringstream lines(text);
  for (std::string each; std::getline(lines, each);)
    if (each.size() > most) {
      most = each.size();
      line = each;
    }
  return most;
}

TEST(Render, StatusBeginsWithWhetherAllIsWell) {
  json status = large_status("a", "hbm");
  EXPECT_TRUE(status_text(status.dump()).starts_with("healthy\nkvtierd"));
  EXPECT_EQ(worst_severity(status.dump()), "");
  const json note{
      {"code", "not_kept"}, {"severity", "note"}, {"what", "nothing keeps"}, {"do", "use --keep"}};
  status["problems"] = {note};
  EXPECT_TRUE(status_text(status.dump()).starts_with("healthy\n  note     nothing keeps -> use --keep\n"))
      << status_text(status.dump());
  EXPECT_EQ(worst_severity(status.dump()), "note");
  status["healthy"] = false;
  const std::string what = "arena a: " + std::string(70, 'x') + " 17 of 20 frames wait";
  status["problems"] = {
      {{"code", "limbo_held"}, {"severity", "bad"}, {"what", what}, {"do", "kill process 3"}},
      {{"code", "attach_refused"}, {"severity", "warn"}, {"what", "no"}, {"do", "look"}},
      note};
  const std::string text = status_text(status.dump());
  EXPECT_TRUE(text.starts_with("NOT HEALTHY: 2 problems\n  BAD      arena a:\n")) << text;
  EXPECT_NE(text.find("\n  WARN     no -> look\n"), std::string::npos) << text;
  EXPECT_EQ(worst_severity(status.dump()), "bad");
}

TEST(Render, LargeHostsFitAScreen) {
  std::string line;
  for (const auto& [arena, tier] : {std::pair<std::string, std::string>{"llama-70b", "hbm"},
                                    {std::string(40, 'a'), std::string(23, 't')}}) {
    const std::string answer = large_status(arena, tier).dump();
    EXPECT_LE(widest(status_text(answer), line), 80u) << line;
    EXPECT_LE(widest(tiers_text(answer), line), 80u) << line;
    EXPECT_LE(widest(arenas_text(answer), line), 80u) << line;
    EXPECT_LE(widest(session_question(answer, 100'001), line), 80u) << line;
    // All columns of a session with every number at its largest: what gives way is the names, not the
    // numbers.
    EXPECT_LE(widest(sessions_text(answer), line), 100u) << line;
  }
}

TEST(Render, ALongNameIsCutAndStaysEmulated) {
  const std::string text = status_text(large_status(std::string(63, 'a'), std::string(23, 't')).dump());
  EXPECT_NE(text.find("tt.. (emulated)"), std::string::npos) << text;
  EXPECT_NE(text.find("aaa.."), std::string::npos) << text;
  EXPECT_EQ(text.find(std::string(63, 'a')), std::string::npos) << text;
}

TEST(Render, AShortNameIsNotCut) {
  const std::string text = status_text(large_status("llama-70b-instruct", "hbm").dump());
  EXPECT_NE(text.find("hbm (emulated)"), std::string::npos) << text;
  EXPECT_NE(text.find("llama-70"), std::string::npos) << text;
}

/// Cut names stay UTF-8.
TEST(Render, NamesAreCutBetweenCharacters) {
  std::string name;
  for (int i = 0; i < 31; ++i) name += "\xc3\xa4";
  for (size_t extra = 0; extra < 4; ++extra) {
    const std::string text = status_text(large_status(name + std::string(extra, 'x'), "hbm").dump());
    EXPECT_NO_THROW(std::ignore = json(text).dump()) << "not UTF-8: " << text;
    name.insert(0, "x");
  }
}

TEST(Render, CountsAreShortInTablesAndWholeInDetails) {
  const std::string answer = large_status("a", "hbm").dump();
  const std::string status = status_text(answer);
  for (const char* const part : {"268M", "67.1M", "123k", "200M", "1.23M", "100k", "9.88G", "90.0%", "91.7%"})
    EXPECT_NE(status.find(part), std::string::npos) << part;
  const std::string arenas = arenas_text(answer);
  for (const char* const part :
       {"268000000 pages of 64 KiB", "free 67123456", "promoted 123456789", "taken 99999999", "leaked: none"})
    EXPECT_NE(arenas.find(part), std::string::npos) << part;
  EXPECT_NE(sessions_text(answer).find("~12.3M"), std::string::npos) << "an estimate says so";
}

json balance_json(bool balanced) {
  return {{"bytes_read", 1.9e13}, {"bytes_slow", 1e12}, {"bytes_slow_best", 1.5e12}, {"balanced", balanced}};
}

json large_plan() {
  const std::string tier(23, 't');
  json moves = json::array();
  for (uint32_t page = 268'000'000; page < 268'000'010; ++page)
    moves.push_back({{"page", page},
                     {"from", tier},
                     {"to", tier + "u"},
                     {"how", "shadow"},
                     {"reason", "makes room"},
                     {"expected", 12345.678},
                     {"other", 12345.6},
                     {"gate", 0.18},
                     {"cost", 78.2}});
  return {{"ok", true},
          {"arena", std::string(20, 'a')},
          {"column", 7},
          {"policy", "off"},
          {"emulated_tiers", {tier}},
          {"period_ms", 1000},
          {"periods_ago", 4'000'000},
          {"candidates", 2048},
          {"looked_at", 4096},
          {"allowance_in_bytes", uint64_t{1} << 40},
          {"allowance_out_bytes", 0},
          {"groups", {balance_json(false), balance_json(true)}},
          {"tiers",
           {{{"name", tier},
             {"free", 268'000'000},
             {"coming", 123'456},
             {"reserve", 4096},
             {"threshold", 123.4}}}},
          {"moves", moves},
          {"held_back", "gate"},
          {"coldest", 0.5},
          {"gate", 0.18},
          {"stay_periods", 1024}};
}

json large_explanation(const char* verdict) {
  const std::string tier(23, 't');
  const bool moves = verdict == std::string("moves");
  return {{"ok", true},
          {"arena", std::string(20, 'a')},
          {"page", 268'000'000},
          {"column", 7},
          {"policy", "balance"},
          {"emulated_tiers", {tier}},
          {"period_ms", 10},
          {"state", "sealed"},
          {"tier", "dram"},
          {"fastest_tier", tier},
          {"shadow_tier", tier},
          {"verdict", verdict},
          {"target_tier", tier},
          {"how", moves ? json("offer") : json()},
          {"reason", moves ? json("swap") : json()},
          {"other", moves ? json(1) : json()},
          {"expected", 12345.6},
          {"heat", {{"reads", 4096}, {"fast", 4096}, {"slow", 4096}, {"mean", 4096}, {"last", 4096}}},
          {"advised", true},
          {"cost", 78.2},
          {"gate", 13.1},
          {"coldest", 4000.1},
          {"in_stay", 0.0009},
          {"coldest_in_stay", 0.0002},
          {"in_stay_gate", 0.0005},
          {"stay_periods", 1024},
          {"threshold", 123.4},
          {"free_frame", false},
          {"colder_share", 0.98},
          {"looked_at", 4096},
          {"cooling_periods", 20},
          {"balance", balance_json(false)}};
}

TEST(Render, APlanSaysWhatWhereAndWhy) {
  std::string line;
  const std::string text = plan_text(large_plan().dump());
  EXPECT_LE(widest(text, line), 80u) << line;
  for (const char* const part : {"off: what follows is not done", "emulated", "268000000", "makes room",
                                 "12345.68", "group 1", "what kept the next one: gate"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
  json none = large_plan();
  none["moves"] = json::array();
  none["candidates"] = 0;
  none["held_back"] = "nothing";
  const std::string nothing = plan_text(none.dump());
  EXPECT_NE(nothing.find("nothing would be moved"), std::string::npos);
  EXPECT_EQ(nothing.find("what kept"), std::string::npos);
}

/// Every verdict of the daemon has its sentence.
TEST(Render, AnExplanationHasASentenceForEachVerdict) {
  std::string line;
  for (const auto& [verdict, words] : {std::pair<const char*, const char*>{"moves", "its reader copies it"},
                                       {"fastest", "no faster tier"},
                                       {"not_sealed", "only a sealed page"},
                                       {"moving", "being moved"},
                                       {"pinned", "an operator"},
                                       {"cooling", "200 ms more"},
                                       {"not_read", "only what is read"},
                                       {"band", "belong into dram"},
                                       {"gate", "colder than it by the gate"},
                                       {"no_room", "no free frame"},
                                       {"allowance", "as much has been moved"},
                                       {"turn", "hotter pages"}}) {
    const std::string text = explain_text(large_explanation(verdict).dump());
    EXPECT_LE(widest(text, line), 80u) << line;
    std::string in_a_line;
    std::istringstream all(text);
    for (std::string word; all >> word;) in_a_line += word + " ";
    EXPECT_NE(in_a_line.find(words), std::string::npos) << verdict << ": " << text;
    for (const char* const part :
         {"12345.60 expected", "98 % of 4096 pages", "78.20 reads to get it into", "emulated"})
      EXPECT_NE(in_a_line.find(part), std::string::npos) << part << " in\n" << text;
  }
}

TEST(Render, AnAnswerOfAnotherVersionIsNotUnderstood) {
  json answer = large_status("a", "hbm");
  answer["arenas"][0].erase("pinned");
  EXPECT_THROW(status_text(answer.dump()), BadAnswer);
  EXPECT_THROW(status_text("{\"ok\":true"), BadAnswer);
  EXPECT_THROW(status_text("{\"ok\":false,\"error\":\"no\"}"), BadAnswer);
  EXPECT_THROW(session_question(answer.dump(), 5), BadAnswer);
}

}  // namespace
}  // namespace kvt::ctl
