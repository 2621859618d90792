// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtierctl/render.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "tools/kvtierctl/table.h"

namespace kvt::ctl {
namespace {

using nlohmann::json;

/// Sessions that "status" shows: all of it stays on one screen.
constexpr size_t kStatusSessions = 12;

json parse(const std::string& answer) {
  json parsed = json::parse(answer, nullptr, false);
  if (!parsed.is_object())
    throw BadAnswer(fmt::format("kvtierd's answer is cut off or no JSON ({} bytes): {}", answer.size(), answer.substr(0, 120)));
  return parsed;
}

json parse_good(const std::string& answer) {
  json parsed = parse(answer);
  const auto ok = parsed.find("ok");
  if (ok != parsed.end() && ok->is_boolean() && ok->get<bool>()) return parsed;
  const auto error = parsed.find("error");
  throw BadAnswer(error != parsed.end() && error->is_string() ? error->get<std::string>() : "kvtierd refused and gave no reason");
}

/// Runs `make`; a field that is not there, or is something else, becomes a BadAnswer.
template <typename Make>
std::string understood(Make&& make) {
  try {
    return make();
  } catch (const json::exception& error) {
    throw BadAnswer(fmt::format("kvtierd's answer is not understood, is it of another version? ({})", error.what()));
  }
}

uint64_t number(const json& from, const char* key) { return from.at(key).get<uint64_t>(); }
std::string text(const json& from, const char* key) { return from.at(key).get<std::string>(); }
bool flag(const json& from, const char* key) { return from.at(key).get<bool>(); }
std::string count(const json& from, const char* key) { return fmt::to_string(number(from, key)); }

/// 10^9 bytes a second, as bandwidths are given.
std::string gbps_text(double bytes_per_second) {
  const double value = bytes_per_second / 1e9;
  return value >= 100 ? fmt::format("{:.0f}", value) : fmt::format("{:.1f}", value);
}

std::string duration_text(double seconds) {
  const auto whole = static_cast<uint64_t>(seconds);
  if (whole < 60) return fmt::format("{:.1f} s", seconds);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  if (whole < 86400) return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
  return fmt::format("{} d {:02} h", whole / 86400, whole / 3600 % 24);
}

std::string percent_text(double part, double whole) { return whole > 0 ? fmt::format("{:.1f} %", 100 * part / whole) : "-"; }

std::string count_of(uint64_t n, const char* noun) { return fmt::format("{} {}{}", n, noun, n == 1 ? "" : "s"); }

/// A tier's name, with what must stand beside it.
std::string tier_name(const std::string& name, bool emulated) { return emulated ? name + " (emulated)" : name; }
std::string tier_name(const json& tier) { return tier_name(text(tier, "name"), flag(tier, "emulated")); }


std::string tier_source(const json& tier) {
  std::string nodes;
  for (const json& node : tier.at("nodes")) nodes += fmt::format("{}{}", nodes.empty() ? "" : ",", node.get<uint32_t>());
  const int64_t column = tier.at("column").get<int64_t>();
  return fmt::format("{}, {}", nodes.empty() ? "any node" : "node " + nodes,
                     column < 0 ? "all columns" : fmt::format("column {}", column));
}

/// What all arenas together have in a tier.
struct TierUse {
  uint64_t used_bytes = 0;  ///< named or reserved
  uint64_t limbo_bytes = 0;
  uint64_t free_bytes = 0;
  double read_per_second = 0;
};

TierUse use_of(const json& arenas, const std::string& tier) {
  TierUse use;
  for (const json& arena : arenas) {
    const uint64_t page_bytes = number(arena, "page_bytes");
    for (const json& part : arena.at("tiers")) {
      if (text(part, "name") != tier) continue;
      use.used_bytes += (number(part, "named") + number(part, "reserved")) * page_bytes;
      use.limbo_bytes += number(part, "limbo") * page_bytes;
      use.free_bytes += number(part, "free") * page_bytes;
      use.read_per_second += part.at("bytes_read_per_second").get<double>();
    }
  }
  return use;
}

std::string tiers_use_table(const json& tiers, const json& arenas) {
  Table table;
  table.column("TIER", kLeft).column("SIZE").column("USED").column("FREE").column("LIMBO").column("READ NOW").column("CAN READ").column("WHERE", kLeft);
  for (const json& tier : tiers) {
    const TierUse use = use_of(arenas, text(tier, "name"));
    table.row({tier_name(tier), bytes_text(number(tier, "bytes")), bytes_text(use.used_bytes), bytes_text(use.free_bytes),
               bytes_text(use.limbo_bytes), gbps_text(use.read_per_second) + " GB/s",
               gbps_text(tier.at("read_bytes_per_second").get<double>()) + " GB/s", tier_source(tier)});
  }
  return table.text();
}

std::string pages_table(const json& arenas) {
  Table table;
  table.column("ARENA", kLeft).column("PAGE").column("PAGES").column("FREE").column("FILLING").column("SEALED").column("EVICTING");
  table.column("KEYED").column("SHADOWS").column("LIMBO").column("SESSIONS");
  for (const json& arena : arenas) {
    const json& states = arena.at("pages_by_state");
    table.row({text(arena, "name"), bytes_text(number(arena, "page_bytes")), count(arena, "pages"), count(states, "free"),
               count(states, "filling"), count(states, "sealed"), count(states, "evicting"), count(arena, "keyed"),
               count(arena, "shadows"), count(arena, "limbo_frames"), count(arena, "sessions")});
  }
  return table.text();
}

std::string leaked_text(const json& arena) {
  const auto leaked = arena.at("audit").at("leaked").get<int64_t>();
  return leaked == 0 ? "none" : fmt::to_string(leaked);
}

std::string moves_table(const json& arenas) {
  Table table;
  table.column("ARENA", kLeft).column("PROMOTED").column("DEMOTED BY COPY").column("FOR FREE").column("ABORTED").column("EVICTED");
  table.column("PUBLISHED").column("READ FAST").column("BEST").column("LEAKED");
  for (const json& arena : arenas) {
    const json& moves = arena.at("moves");
    const json& balance = arena.at("balance");
    const double read = balance.at("bytes_read").get<double>();
    table.row({text(arena, "name"), count(moves, "promoted"), count(moves, "demoted_copy"), count(moves, "demoted_free"),
               count(moves, "aborted"), count(arena, "evicted"), count(arena, "published"),
               percent_text(balance.at("bytes_fast").get<double>(), read), percent_text(balance.at("bytes_fast_best").get<double>(), read),
               leaked_text(arena)});
  }
  return table.text();
}

/// A cell of a session that may be missing: its arena has let it go already.
std::string optional_count(const json& session, const char* key) {
  const auto found = session.find(key);
  return found == session.end() || !found->is_number() ? "-" : fmt::to_string(found->get<uint64_t>());
}

std::string sessions_table(const json& sessions, size_t limit) {
  if (sessions.empty()) return "no sessions\n";
  Table table;
  table.column("SESSION").column("ARENA", kLeft).column("PID").column("USER").column("MEMBERS").column("ACCESS", kLeft).column("GUARANTEE");
  table.column("UNKEYED").column("STOCK").column("HELD").column("STEPS").column("OLDEST").column("STATE", kLeft);
  size_t shown = 0;
  for (const json& session : sessions) {
    if (shown++ == limit) break;
    const auto access = session.find("access");
    table.row({count(session, "id"), text(session, "arena"), fmt::to_string(session.at("pid").get<int64_t>()), count(session, "uid"),
               count(session, "members"), access == session.end() ? "-" : access->get<std::string>(),
               optional_count(session, "guarantee_pages"), optional_count(session, "unkeyed_pages"),
               optional_count(session, "magazine_pages"), optional_count(session, "held_pages"), optional_count(session, "open_steps"),
               optional_count(session, "oldest_step_epochs"), flag(session, "connected") ? "attached" : "orphan"});
  }
  std::string out = table.text();
  if (sessions.size() > limit) out += fmt::format("... and {} more: kvtierctl sessions\n", sessions.size() - limit);
  return out;
}

std::string arena_details(const json& arena) {
  const json& states = arena.at("pages_by_state");
  const json& moves = arena.at("moves");
  const json& balance = arena.at("balance");
  const double read = balance.at("bytes_read").get<double>();
  std::string out = fmt::format("arena {}   {} pages of {}, {} each, {}, {}; mode {}, {}, epoch {}\n", text(arena, "name"), number(arena, "pages"),
                                bytes_text(number(arena, "page_bytes")), count_of(number(arena, "block_tokens"), "token"),
                                count_of(number(arena, "planes"), "plane"), count_of(number(arena, "columns"), "column"), text(arena, "mode"),
                                count_of(number(arena, "sessions"), "session"), number(arena, "epoch"));
  out += fmt::format("  pages    free {}, filling {}, sealed {}, evicting {}, retired {}; keyed {}, with a shadow {}\n", count(states, "free"),
                     count(states, "filling"), count(states, "sealed"), count(states, "evicting"), count(states, "retired"),
                     count(arena, "keyed"), count(arena, "shadows"));
  out += fmt::format("  moves    promoted {}, demoted by copy {}, for free {}, aborted {}; evicted {}, published {}\n", count(moves, "promoted"),
                     count(moves, "demoted_copy"), count(moves, "demoted_free"), count(moves, "aborted"), count(arena, "evicted"),
                     count(arena, "published"));
  out += fmt::format("  balance  {} read a period, {} of it from the fast tier; best {}\n", bytes_text(read),
                     percent_text(balance.at("bytes_fast").get<double>(), read), percent_text(balance.at("bytes_fast_best").get<double>(), read));
  const json& audit = arena.at("audit");
  out += fmt::format("  audit    {} of {} frames accounted for, leaked: {}\n", count(audit, "accounted"), count(audit, "frames"), leaked_text(arena));
  Table table;
  table.column("  TIER", kLeft).column("FRAMES").column("NAMED").column("FREE").column("LIMBO").column("RESERVED").column("READ NOW");
  for (const json& tier : arena.at("tiers"))
    table.row({"  " + tier_name(tier), count(tier, "frames"), count(tier, "named"), count(tier, "free"), count(tier, "limbo"),
               count(tier, "reserved"), gbps_text(tier.at("bytes_read_per_second").get<double>()) + " GB/s"});
  return out + table.text();
}

}  // namespace

std::string command_request(const std::string& command) { return json{{"command", command}}.dump(); }

std::string page_request(uint64_t page, const std::string& arena) {
  json request{{"command", "page"}, {"page", page}};
  if (!arena.empty()) request["arena"] = arena;
  return request.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string pretty_json(const std::string& answer) { return parse(answer).dump(2) + "\n"; }

void check_answer(const std::string& answer) { parse_good(answer); }

std::string status_text(const std::string& answer) {
  const json status = parse_good(answer);
  return understood([&] {
    // CPU time counts from the start of the process, which prefaults its memory before it counts as up.
    std::string out = fmt::format("kvtierd {}   pid {}, up {}, cpu {:.2f} s, rss {}\n", text(status, "version"), number(status, "pid"),
                                  duration_text(status.at("uptime_seconds").get<double>()), status.at("cpu_seconds").get<double>(),
                                  bytes_text(number(status, "rss_bytes")));
    out += fmt::format("policy {}, profile {}{}, sockets in {}\n", text(status, "policy"), text(status, "profile"),
                       flag(status, "emulated") ? ", HBM is emulated in ordinary memory" : "", text(status, "socket_dir"));
    const uint64_t refused = number(status, "attach_refused");
    const uint64_t dropped = number(status, "connections_dropped");
    if (refused + dropped != 0) out += fmt::format("{} refused, {} dropped\n", count_of(refused, "attach"), count_of(dropped, "connection"));
    const json& arenas = status.at("arenas");
    out += "\n" + tiers_use_table(status.at("tiers"), arenas);
    out += "\n" + pages_table(arenas);
    out += "\n" + moves_table(arenas);
    out += "\n" + sessions_table(status.at("sessions"), kStatusSessions);
    return out;
  });
}

std::string tiers_text(const std::string& answer) {
  const json tiers = parse_good(answer);
  return understood([&] {
    Table table;
    table.column("TIER", kLeft).column("KIND", kLeft).column("SIZE").column("READ").column("WRITE").column("BANDWIDTH FROM", kLeft).column("WHERE", kLeft);
    for (const json& tier : tiers.at("tiers"))
      table.row({tier_name(tier), text(tier, "kind"), bytes_text(number(tier, "bytes")),
                 gbps_text(tier.at("read_bytes_per_second").get<double>()) + " GB/s",
                 gbps_text(tier.at("write_bytes_per_second").get<double>()) + " GB/s", text(tier, "bandwidth_from"), tier_source(tier)});
    return table.text();
  });
}

std::string arenas_text(const std::string& answer) {
  const json arenas = parse_good(answer);
  return understood([&] {
    std::string out;
    for (const json& arena : arenas.at("arenas")) out += (out.empty() ? "" : "\n") + arena_details(arena);
    return out.empty() ? "no arenas\n" : out;
  });
}

std::string sessions_text(const std::string& answer) {
  const json sessions = parse_good(answer);
  return understood([&] { return sessions_table(sessions.at("sessions"), SIZE_MAX); });
}

std::string page_text(const std::string& answer, const std::string& tiers_answer) {
  const json page = parse_good(answer);
  const json tiers = parse_good(tiers_answer);
  return understood([&] {
    std::set<std::string> emulated;
    for (const json& tier : tiers.at("tiers"))
      if (flag(tier, "emulated")) emulated.insert(text(tier, "name"));
    const auto place = [&](const json& tier, const json& frame) -> std::string {
      if (!tier.is_string() || !frame.is_number()) return "-";
      const auto name = tier.get<std::string>();
      return fmt::format("{} frame {}", tier_name(name, emulated.contains(name)), frame.get<uint64_t>());
    };
    const json& parent = page.at("parent");
    const uint64_t owner = number(page, "owner_session");
    std::string out = fmt::format("page {} of arena {}   {}\n", number(page, "page"), text(page, "arena"), flag(page, "held") ? "held" : "not held");
    const std::string key = text(page, "key");
    out += fmt::format("  key      {}\n", key.find_first_not_of('0') == std::string::npos ? "none" : key);
    out += fmt::format("  parent   {}\n", parent.is_number() ? fmt::format("page {}", parent.get<uint64_t>()) : "none");
    out += fmt::format("  group    {}\n", number(page, "group"));
    out += fmt::format("  owner    {}\n", owner == 0 ? "no session" : fmt::format("session {}", owner));
    Table table;
    table.column("  COLUMN", kLeft).column("STATE", kLeft).column("GENERATION").column("PLACE", kLeft).column("SHADOW", kLeft).column("READS A PERIOD");
    size_t index = 0;
    for (const json& column : page.at("columns"))
      table.row({fmt::format("  {}", index++), text(column, "state") + (flag(column, "keyed") ? ", keyed" : ""), count(column, "generation"),
                 place(column.value("tier", json()), column.value("frame", json())), place(column.at("shadow_tier"), column.at("shadow_frame")),
                 fmt::format("{:.2f}", column.at("reads_per_period").get<double>())});
    return out + table.text();
  });
}

}  // namespace kvt::ctl
