// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtierctl/render.h"

#include <fmt/format.h>
#include <pwd.h>

#include <algorithm>
#include <chrono>
#include <ctime>
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
    throw BadAnswer(fmt::format("kvtierd's answer is cut off or no JSON ({} bytes): {}", answer.size(),
                                answer.substr(0, 120)));
  return parsed;
}

json parse_good(const std::string& answer) {
  json parsed = parse(answer);
  const auto ok = parsed.find("ok");
  if (ok != parsed.end() && ok->is_boolean() && ok->get<bool>()) return parsed;
  const auto error = parsed.find("error");
  throw BadAnswer(error != parsed.end() && error->is_string() ? error->get<std::string>()
                                                              : "kvtierd refused and gave no reason");
}

/// Runs `make`; a field that is not there, or is something else, becomes a BadAnswer.
template <typename Make>
std::string understood(Make&& make) {
  try {
    return make();
  } catch (const json::exception& error) {
    throw BadAnswer(
        fmt::format("kvtierd's answer is not understood, is it of another version? ({})", error.what()));
  }
}

uint64_t number(const json& from, const char* key) { return from.at(key).get<uint64_t>(); }
std::string text(const json& from, const char* key) { return from.at(key).get<std::string>(); }
bool flag(const json& from, const char* key) { return from.at(key).get<bool>(); }
std::string count(const json& from, const char* key) { return fmt::to_string(number(from, key)); }

using ctl::short_count;  // beside the next
std::string short_count(const json& from, const char* key) { return short_count(number(from, key)); }

/// "-" where it is not known.
std::string gbps_of(const json& from, const char* key) {
  return from.at(key).is_null() ? "-" : gbps_text(from.at(key).get<double>());
}

std::string count_of(uint64_t n, const std::string& noun, const std::string& nouns) {
  return fmt::format("{} {}", n, n == 1 ? noun : nouns);
}
std::string count_of(uint64_t n, const std::string& noun) { return count_of(n, noun, noun + "s"); }

/// "  label    item, item, ..." on as many lines as it takes.
std::string labelled(const std::string& label, const std::vector<std::string>& items) {
  constexpr size_t kIndent = 11;
  std::string out;
  std::string line = fmt::format("  {:<{}}", label, kIndent - 2);
  for (size_t i = 0; i < items.size(); ++i) {
    const std::string item = items[i] + (i + 1 < items.size() ? "," : "");
    if (line.size() > kIndent && line.size() + 1 + item.size() > kScreenColumns) {
      out += line + "\n";
      line = std::string(kIndent, ' ');
    }
    line += (line.size() > kIndent ? " " : "") + item;
  }
  return out + line + "\n";
}

/// A tier's name, with what must stand beside it.
std::string tier_name(const std::string& name, bool emulated) { return emulated ? name + kEmulated : name; }
std::string tier_name(const json& tier) { return tier_name(text(tier, "name"), flag(tier, "emulated")); }

std::string node_text(const json& tier) {
  std::string nodes;
  for (const json& node : tier.at("nodes"))
    nodes += fmt::format("{}{}", nodes.empty() ? "" : ",", node.get<uint32_t>());
  return nodes.empty() ? "any" : shortened(nodes, 12);
}
std::string column_text(const json& tier) {
  const int64_t column = tier.at("column").get<int64_t>();
  return column < 0 ? "all" : fmt::to_string(column);
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
  table.name("TIER")
      .column("SIZE")
      .column("USED")
      .column("FREE")
      .column("LIMBO")
      .column("GB/s NOW")
      .column("MOST");
  table.column("PROFILE").column("MEASURED");
  for (const json& tier : tiers) {
    const TierUse use = use_of(arenas, text(tier, "name"));
    table.row({tier_name(tier), bytes_text(number(tier, "bytes")), bytes_text(use.used_bytes),
               bytes_text(use.free_bytes), bytes_text(use.limbo_bytes), gbps_text(use.read_per_second),
               gbps_of(tier, "read_bytes_per_second"), gbps_of(tier, "profile_read_bytes_per_second"),
               gbps_of(tier, "measured_read_bytes_per_second")});
  }
  return table.text();
}

/// Memory of tiers that no arena has, and that is free for new ones: worth a line where it is more than what was left over.
std::string unassigned_line(const json& tiers) {
  std::vector<std::string> items;
  for (const json& tier : tiers)
    if (const uint64_t bytes = tier.value("unassigned_bytes", uint64_t{0});
        bytes > number(tier, "bytes") / 64)
      items.push_back(fmt::format("{} of {} for new arenas", bytes_text(bytes), text(tier, "name")));
  return items.empty() ? "" : labelled("unassigned", items);
}

std::string pages_table(const json& arenas) {
  Table table;
  table.name("ARENA").column("PAGE").column("PAGES").column("FREE").column("FILLING").column("SEALED").column(
      "KEYED");
  table.column("SHADOWS").column("PINNED").column("LIMBO");
  for (const json& arena : arenas) {
    const json& states = arena.at("pages_by_state");
    table.row({text(arena, "name"), bytes_text(number(arena, "page_bytes")), short_count(arena, "pages"),
               short_count(states, "free"), short_count(states, "filling"), short_count(states, "sealed"),
               short_count(arena, "keyed"), short_count(arena, "shadows"), short_count(arena, "pinned"),
               short_count(arena, "limbo_frames")});
  }
  return table.text();
}

std::string moves_table(const json& arenas) {
  Table table;
  table.name("ARENA")
      .column("PROMOTED")
      .column("DEMOTED")
      .column("FOR FREE")
      .column("ABORTED")
      .column("EVICTED");
  table.column("PUBLISHED").column("FAST").column("BEST");
  for (const json& arena : arenas) {
    const json& moves = arena.at("moves");
    const json& balance = arena.at("balance");
    const double read = balance.at("bytes_read").get<double>();
    table.row({text(arena, "name"), short_count(moves, "promoted"), short_count(moves, "demoted_copy"),
               short_count(moves, "demoted_free"), short_count(moves, "aborted"),
               short_count(arena, "evicted"), short_count(arena, "published"),
               percent_text(balance.at("bytes_fast").get<double>(), read),
               percent_text(balance.at("bytes_fast_best").get<double>(), read)});
  }
  return table.text();
}

/// A cell of a session that may be missing: its arena has let it go already.
std::string optional_count(const json& session, const char* key) {
  const auto found = session.find(key);
  return found == session.end() || !found->is_number() ? "-" : short_count(found->get<uint64_t>());
}

std::string held_text(const json& session) {
  const bool exact = session.value("held_pages_exact", true);
  return (exact ? "" : "~") + optional_count(session, "held_pages");
}

/// "rw" or "r", and what is not as it should be.
std::string state_text(const json& session) {
  const auto access = session.find("access");
  const std::string may = access == session.end() ? "-" : *access == "read" ? "r" : "rw";
  if (number(session, "quarantined") != 0) return may + " dying";
  return flag(session, "connected") ? may : may + " orphan";
}

std::string user_name(uint64_t uid) {
  const passwd* const entry = ::getpwuid(static_cast<uid_t>(uid));
  return entry == nullptr ? fmt::to_string(uid) : entry->pw_name;
}

/// `all`: every column; else those that fit beside the rest of "status".
std::string sessions_table(const json& sessions, size_t limit, bool all) {
  if (sessions.empty()) return "no sessions\n";
  Table table;
  table.column("ID").name("ARENA").column("PID").name("USER");
  if (all) table.column("PROCS");
  table.column("STATE", kLeft);
  if (all) table.column("GUARANTEE");
  table.column("UNKEYED");
  if (all) table.column("STOCK");
  table.column("HELD").column("STEPS").column("OLDEST");
  size_t shown = 0;
  for (const json& session : sessions) {
    if (shown++ == limit) break;
    std::vector<std::string> cells{count(session, "id"), text(session, "arena"),
                                   fmt::to_string(session.at("pid").get<int64_t>()),
                                   user_name(number(session, "uid"))};
    if (all) cells.push_back(count(session, "members"));
    cells.push_back(state_text(session));
    if (all) cells.push_back(optional_count(session, "guarantee_pages"));
    cells.push_back(optional_count(session, "unkeyed_pages"));
    if (all) cells.push_back(optional_count(session, "magazine_pages"));
    cells.insert(cells.end(), {held_text(session), optional_count(session, "open_steps"),
                               optional_count(session, "oldest_step_epochs")});
    table.row(std::move(cells));
  }
  std::string out = table.text();
  if (sessions.size() > limit)
    out += fmt::format("... and {} more: kvtierctl sessions\n", sessions.size() - limit);
  return out;
}

/// Reads a period, of a page.
std::string reads_text(const json& from, const char* key) {
  return fmt::format("{:.2f}", from.at(key).get<double>());
}

/// A line about tiers that are not what their names say; empty when all are.
std::string emulated_line(const json& answer) {
  std::string names;
  for (const json& tier : answer.at("emulated_tiers"))
    names += (names.empty() ? "" : ", ") + tier.get<std::string>();
  return names.empty() ? "" : paragraph("emulated", names + ": ordinary memory that stands for another kind");
}

std::string balance_words(const json& balance) {
  const double read = balance.at("bytes_read").get<double>();
  if (read <= 0) return "nothing was read in the last period";
  return fmt::format(
      "{} read in the last period, {} from the slow tiers, which finish with the fast one at {}: {}",
      bytes_text(read), percent_text(balance.at("bytes_slow").get<double>(), read),
      percent_text(balance.at("bytes_slow_best").get<double>(), read),
      flag(balance, "balanced") ? "they wait for the fast one, and a promotion gains nothing now"
                                : "a promotion shortens the step");
}

std::string verdict_words(const json& page, const std::string& tier, const std::string& target) {
  const std::string verdict = text(page, "verdict");
  if (verdict == "moves") {
    const std::string how = text(page, "how");
    const std::string way = how == "offer"    ? "its reader copies it while it reads it"
                            : how == "shadow" ? "it is there already, so no byte moves"
                                              : "it is copied";
    return fmt::format("it would go to {} now ({}): {}", target, text(page, "reason"), way);
  }
  if (verdict == "fastest")
    return fmt::format(
        "it stays in {}: there is no faster tier, and it leaves only for a page that is expected more often "
        "or more probably read again, or to keep frames for new pages",
        tier);
  if (verdict == "not_sealed")
    return fmt::format("it stays: it is {}, and only a sealed page moves", text(page, "state"));
  if (verdict == "moving") return "it is being moved";
  if (verdict == "pinned") return "it stays: an operator has pinned it";
  if (verdict == "cooling")
    return fmt::format("it stays for {} ms more: it has moved",
                       number(page, "cooling_periods") * number(page, "period_ms"));
  if (verdict == "not_read")
    return "it stays: it was not read in the last period, and only what is read is promoted";
  if (verdict == "band") return fmt::format("it stays: pages of so many reads belong into {}", tier);
  if (verdict == "gate")
    return fmt::format(
        "it stays: nothing that was looked at in {} is colder than it by the gate, nor less probably read "
        "again",
        target);
  if (verdict == "no_room") return fmt::format("it stays: {} has no free frame to copy it to", target);
  if (verdict == "allowance")
    return "it stays: as much has been moved as may be (policy.move_bytes_per_second)";
  if (verdict == "turn") return "it stays for now: hotter pages go first";
  return verdict;
}

std::string arena_details(const json& arena) {
  const json& states = arena.at("pages_by_state");
  const json& moves = arena.at("moves");
  const json& balance = arena.at("balance");
  const double read = balance.at("bytes_read").get<double>();
  const auto item = [](const char* words, const json& from, const char* key) {
    return fmt::format("{} {}", words, number(from, key));
  };
  std::string out = fmt::format("arena {}\n", text(arena, "name"));
  out += labelled("made of", {fmt::format("{} of {}", count_of(number(arena, "pages"), "page"),
                                          bytes_text(number(arena, "page_bytes"))),
                              count_of(number(arena, "block_tokens"), "token"),
                              count_of(number(arena, "planes"), "plane"),
                              count_of(number(arena, "columns"), "column"), "mode " + text(arena, "mode")});
  out += labelled("now", {count_of(number(arena, "sessions"), "session"), item("epoch", arena, "epoch"),
                          count_of(number(arena, "copies_under_way"), "copy", "copies") + " under way"});
  out += labelled("pages", {item("free", states, "free"), item("filling", states, "filling"),
                            item("sealed", states, "sealed"), item("evicting", states, "evicting"),
                            item("retired", states, "retired")});
  out += labelled("of them", {item("keyed", arena, "keyed"), item("pinned", arena, "pinned"),
                              item("shadows", arena, "shadows")});
  out +=
      labelled("moves", {item("promoted", moves, "promoted"), item("demoted by copy", moves, "demoted_copy"),
                         item("for free", moves, "demoted_free"), item("aborted", moves, "aborted"),
                         item("evicted", arena, "evicted"), item("published", arena, "published")});
  const json& offers = arena.at("offers");
  out += labelled("offers", {item("made", offers, "made"), item("taken", offers, "taken"),
                             item("lapsed", offers, "lapsed"), item("withdrawn", offers, "withdrawn"),
                             item("out", offers, "out")});
  const json& checks = arena.at("integrity");
  if (const std::string mode = text(checks, "mode"); mode != "off")
    out += labelled("checksums", {"of " + mode, item("checked", checks, "checked"),
                                  item("mismatches", checks, "mismatches"),
                                  item("repaired", checks, "repaired"), item("lost", checks, "lost")});
  out += labelled("balance",
                  {bytes_text(read) + " read a period",
                   percent_text(balance.at("bytes_fast").get<double>(), read) + " of it from the fast tier",
                   "best " + percent_text(balance.at("bytes_fast_best").get<double>(), read)});
  if (const auto audit = arena.find("audit"); audit != arena.end()) {
    const auto leaked = audit->at("leaked").get<int64_t>();
    out += labelled("audit", {fmt::format("{} of {} frames accounted for", number(*audit, "accounted"),
                                          number(*audit, "frames")),
                              "leaked: " + (leaked == 0 ? "none" : fmt::to_string(leaked))});
  }
  Table table;
  table.name("  TIER")
      .column("FRAMES")
      .column("NAMED")
      .column("FREE")
      .column("LIMBO")
      .column("RESERVED")
      .column("GB/s NOW");
  for (const json& tier : arena.at("tiers"))
    table.row({"  " + tier_name(tier), count(tier, "frames"), count(tier, "named"), count(tier, "free"),
               count(tier, "limbo"), count(tier, "reserved"),
               gbps_text(tier.at("bytes_read_per_second").get<double>())});
  out += table.text();
  for (const json& tier : arena.at("tiers")) {
    // A daemon of before cannot close any.
    const uint64_t closed = number(tier, "frames") - tier.value("usable", number(tier, "frames"));
    if (closed == 0) continue;
    out += labelled("closed",
                    {fmt::format("{} of {}'s {} frames", closed, text(tier, "name"), number(tier, "frames")),
                     fmt::format("{} not empty yet", number(tier, "leaving")),
                     fmt::format("{} of them stay for now", number(tier, "stuck"))});
    if (const json waits = tier.value("waits_for", json::array()); !waits.empty())
      out += labelled("", {fmt::format("its memory waits for sessions {}", waits.dump())});
  }
  return out;
}

}  // namespace

std::string command_request(const std::string& command) { return json{{"command", command}}.dump(); }

std::string pretty_json(const std::string& answer) { return parse(answer).dump(2) + "\n"; }

void check_answer(const std::string& answer) { parse_good(answer); }

namespace {

/// What there is to say of GPUs: the driver where a tier asked for one.
std::string cuda_lines(const json& status) {
  std::string out;
  if (const std::string driver = text(status, "cuda_driver"); !driver.empty())
    out += paragraph("GPU driver", driver);
  if (!flag(status, "cuda_headers")) out += "built without the CUDA tier\n";
  return out;
}

/// The verdict, and a paragraph for each reason.
std::string health_text(const json& status) {
  const json& problems = status.at("problems");
  const auto worse = std::count_if(problems.begin(), problems.end(),
                                   [](const json& problem) { return text(problem, "severity") != "note"; });
  std::string out = flag(status, "healthy")
                        ? "healthy\n"
                        : fmt::format("NOT HEALTHY: {}\n", count_of(static_cast<uint64_t>(worse), "problem"));
  for (const json& problem : problems) {
    const std::string severity = text(problem, "severity");
    out += paragraph(severity == "note"  ? severity
                     : severity == "bad" ? "BAD"
                                         : "WARN",
                     text(problem, "what") + " -> " + text(problem, "do"));
  }
  return out;
}

}  // namespace

std::string status_text(const std::string& answer) {
  const json status = parse_good(answer);
  return understood([&] {
    // CPU time counts from the start of the process, which prefaults its memory before it counts as up.
    std::string out = health_text(status);
    out += fmt::format("kvtierd {}   pid {}, up {}, cpu {:.2f} s, rss {}\n", text(status, "version"),
                       number(status, "pid"), duration_text(status.at("uptime_seconds").get<double>()),
                       status.at("cpu_seconds").get<double>(), bytes_text(number(status, "rss_bytes")));
    out += fmt::format(
        "policy {}, profile {}{}\nsockets in {}\n", text(status, "policy"), text(status, "profile"),
        flag(status, "emulated") ? ", HBM is emulated in ordinary memory" : "", text(status, "socket_dir"));
    out += cuda_lines(status);
    const uint64_t refused = number(status, "attach_refused");
    const uint64_t dropped = number(status, "connections_dropped");
    if (refused + dropped != 0)
      out += fmt::format("{} refused, {} dropped\n", count_of(refused, "attach"),
                         count_of(dropped, "connection"));
    const json& arenas = status.at("arenas");
    out += "\n" + tiers_use_table(status.at("tiers"), arenas) + unassigned_line(status.at("tiers"));
    out += "\n" + pages_table(arenas);
    out += "\n" + moves_table(arenas);
    out += "\n" + sessions_table(status.at("sessions"), kStatusSessions, false);
    return out;
  });
}

std::string worst_severity(const std::string& answer) {
  const json status = parse_good(answer);
  return understood([&] {
    const json& problems = status.at("problems");  // the worst first
    return problems.empty() ? std::string() : text(problems.at(0), "severity");
  });
}

std::string tiers_text(const std::string& answer) {
  const json tiers = parse_good(answer);
  return understood([&] {
    Table table;
    table.name("TIER")
        .column("KIND", kLeft)
        .column("SIZE")
        .column("READ")
        .column("WRITE")
        .column("PROFILE")
        .column("MEASURED");
    table.column("NODE", kLeft).column("COL");
    std::string notes;
    for (const json& tier : tiers.at("tiers")) {
      table.row({text(tier, "name"), tier_name(text(tier, "kind"), flag(tier, "emulated")),
                 bytes_text(number(tier, "bytes")), gbps_of(tier, "read_bytes_per_second"),
                 gbps_of(tier, "write_bytes_per_second"), gbps_of(tier, "profile_read_bytes_per_second"),
                 gbps_of(tier, "measured_read_bytes_per_second"), node_text(tier), column_text(tier)});
      notes += paragraph(text(tier, "name"),
                         "READ by " + text(tier, "bandwidth_from") + "; " + text(tier, "os_pages"));
    }
    return table.text() + unassigned_line(tiers.at("tiers")) +
           "GB/s. READ: what placement reckons with. PROFILE, MEASURED: reading, as\npublished, and by "
           "kvtierctl calibrate\n" +
           notes;
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
  return understood([&] { return sessions_table(sessions.at("sessions"), SIZE_MAX, true); });
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
      return fmt::format("frame {} of {}", frame.get<uint64_t>(), tier_name(name, emulated.contains(name)));
    };
    const json& parent = page.at("parent");
    const uint64_t owner = number(page, "owner_session");
    const json& columns = page.at("columns");
    const json& first = columns.at(0);  // state and generation are the same in all columns
    std::vector<std::string> is{fmt::format("generation {}", number(first, "generation")),
                                text(first, "state")};
    if (flag(first, "keyed")) is.emplace_back("keyed");
    is.emplace_back(flag(page, "held") ? "held" : "not held");
    if (flag(page, "pinned")) is.emplace_back("pinned");
    if (flag(page, "moving")) is.emplace_back("a copy is under way");
    std::string out = fmt::format("page {} of arena {}\n", number(page, "page"), text(page, "arena"));
    out += labelled("is", is);
    const std::string key = text(page, "key");
    out += labelled("key", {key.find_first_not_of('0') == std::string::npos ? "none" : key});
    out += labelled("parent", {parent.is_number() ? fmt::format("page {}", parent.get<uint64_t>()) : "none"});
    out += labelled("group", {count(page, "group")});
    out += labelled("owner", {owner == 0 ? "no session" : fmt::format("session {}", owner)});
    Table table;
    table.column("  COLUMN", kLeft).name("PLACE").name("SHADOW").column("READS A PERIOD");
    size_t index = 0;
    for (const json& column : columns)
      table.row({fmt::format("  {}", index++),
                 place(column.value("tier", json()), column.value("frame", json())),
                 place(column.at("shadow_tier"), column.at("shadow_frame")),
                 fmt::format("{:.2f}", column.at("reads_per_period").get<double>())});
    return out + table.text();
  });
}

std::string plan_text(const std::string& answer) {
  const json plan = parse_good(answer);
  return understood([&] {
    std::string out = fmt::format("arena {}, column {}\n", text(plan, "arena"), number(plan, "column"));
    const uint64_t candidates = number(plan, "candidates");
    const auto ago = static_cast<double>(number(plan, "periods_ago") * number(plan, "period_ms"));
    if (text(plan, "policy") != "balance")
      out += paragraph("policy", text(plan, "policy") + ": what follows is not done");
    out += emulated_line(plan);
    out += paragraph(
        "of",
        fmt::format("pages of slow tiers that were read{} and can move: {}; drawn from the other tiers: {}",
                    candidates == 0 ? ""
                                    : fmt::format(" {} ago", ago < 1000 ? fmt::format("{:.0f} ms", ago)
                                                                        : duration_text(ago / 1000)),
                    candidates, number(plan, "looked_at")));
    size_t index = 0;
    for (const json& group : plan.at("groups"))
      out += paragraph(plan.at("groups").size() == 1 ? "balance" : fmt::format("group {}", index++),
                       balance_words(group));
    for (const json& tier : plan.at("tiers")) {
      const double threshold = tier.at("threshold").get<double>();
      out += paragraph(
          text(tier, "name"),
          fmt::format(
              "{} free, {} coming, {} kept for new pages{}", number(tier, "free"), number(tier, "coming"),
              number(tier, "reserve"),
              threshold > 0 ? fmt::format("; for pages of {:.2f} reads a period and more", threshold) : ""));
    }
    out += paragraph("may move", fmt::format("{} up, {} down", bytes_text(number(plan, "allowance_in_bytes")),
                                             bytes_text(number(plan, "allowance_out_bytes"))));
    if (plan.at("moves").empty())
      out += "\nnothing would be moved\n";
    else {
      Table table;
      table.column("PAGE")
          .name("FROM")
          .name("TO")
          .column("HOW", kLeft)
          .column("WHY", kLeft)
          .column("READS")
          .column("OTHER")
          .column("GATE")
          .column("COST");
      for (const json& move : plan.at("moves"))
        table.row({count(move, "page"), text(move, "from"), text(move, "to"), text(move, "how"),
                   text(move, "reason"), reads_text(move, "expected"), reads_text(move, "other"),
                   reads_text(move, "gate"), reads_text(move, "cost")});
      out +=
          "\n" + table.text() +
          "READS: expected in the next period; for reuse, a period while it stays. OTHER:\nof the page that "
          "it replaces, or that replaces it. GATE: by which they have to\ndiffer. COST: in reads of a page\n";
    }
    const std::string held = text(plan, "held_back");
    if (held != "nothing") out += fmt::format("what kept the next one: {}\n", held);
    return out;
  });
}

std::string explain_text(const std::string& answer) {
  const json page = parse_good(answer);
  return understood([&] {
    const json& heat = page.at("heat");
    const std::string tier = text(page, "tier");
    const std::string target = page.at("target_tier").is_string() ? text(page, "target_tier") : "";
    const std::string shadow =
        page.at("shadow_tier").is_string() ? ", and has a second frame in " + text(page, "shadow_tier") : "";
    std::string out = fmt::format("page {} of arena {}, column {}\n", number(page, "page"),
                                  text(page, "arena"), number(page, "column"));
    out += paragraph("is", fmt::format("{}, in tier {}{}", text(page, "state"), tier, shadow));
    out += emulated_line(page);
    out += paragraph(
        "reads", fmt::format("{} expected in the next period{}; {} in this one, {} when it was read last; "
                             "{}, {} and {} a period over the last 4, 32 and 2048",
                             reads_text(page, "expected"),
                             flag(page, "advised") ? " (clients have said that they want it)" : "",
                             reads_text(heat, "reads"), reads_text(heat, "last"), reads_text(heat, "fast"),
                             reads_text(heat, "slow"), reads_text(heat, "mean")));
    if (const uint64_t looked_at = number(page, "looked_at"); looked_at != 0)
      out += paragraph("beside", fmt::format("{:.0f} % of {} drawn from {} are expected less often",
                                             100 * page.at("colder_share").get<double>(),
                                             count_of(looked_at, "page"), tier));
    out += paragraph("balance", balance_words(page.at("balance")));
    if (page.at("cost").get<double>() > 0) {
      std::string price = fmt::format("{} reads to get it into {}; ", reads_text(page, "cost"), target);
      if (flag(page, "free_frame"))
        price += "there is a free frame, so nothing has to leave";
      else
        price += fmt::format(
            "the page that leaves for it has to be expected {} less often, and the coldest of those drawn is "
            "expected {}",
            reads_text(page, "gate"), reads_text(page, "coldest"));
      if (const double gate = page.at("in_stay_gate").get<double>(); gate > 0 && !flag(page, "free_frame")) {
        // Over the stay, as probabilities: what a period's part of them is says nothing to anybody.
        const double stay = page.at("stay_periods").get<double>();
        const auto percent = [&](const char* key) {
          return fmt::format("{:.0f} %", 100 * stay * page.at(key).get<double>());
        };
        price += fmt::format(
            "; or else to be read by {} less probably in the {:.0f} periods that pages stay: {} against the "
            "{} of this one",
            percent("in_stay_gate"), stay, percent("coldest_in_stay"), percent("in_stay"));
      }
      if (page.at("threshold").get<double>() > 0)
        price += fmt::format("; {} is for pages of {} reads and more", target, reads_text(page, "threshold"));
      out += paragraph("price", price);
    }
    return out + paragraph("so", verdict_words(page, tier, target));
  });
}

std::string events_text(const std::string& answer, const std::string& kind) {
  const json answered = parse_good(answer);
  return understood([&] {
    const auto now = std::chrono::system_clock::now();
    std::string out;
    if (const uint64_t left_out = number(answered, "left_out"); left_out != 0 && kind.empty())
      out += fmt::format("... {} are not kept any more\n", count_of(left_out, "earlier event"));
    for (const json& event : answered.at("events")) {
      if (!kind.empty() && text(event, "kind") != kind) continue;
      const auto ago = std::chrono::duration<double>(event.at("seconds_ago").get<double>());
      const std::time_t at = std::chrono::system_clock::to_time_t(
          now - std::chrono::duration_cast<std::chrono::system_clock::duration>(ago));
      std::tm local{};
      ::localtime_r(&at, &local);
      const std::string severity = text(event, "severity");
      out += fmt::format("{:04}-{:02}-{:02} {:02}:{:02}:{:02} {}{} {}\n", local.tm_year + 1900,
                         local.tm_mon + 1, local.tm_mday, local.tm_hour, local.tm_min, local.tm_sec,
                         severity == "info"   ? ""
                         : severity == "warn" ? "WARN "
                                              : "ERROR ",
                         text(event, "kind"), text(event, "text"));
    }
    return out;
  });
}

namespace {

/// JSON to TOML; a string of JSON is one of TOML.
std::string toml_text(const json& value) {
  if (value.is_object()) {
    std::string fields;
    for (const auto& [key, inner] : value.items())
      fields += (fields.empty() ? "" : ", ") + json(key).dump() + " = " + toml_text(inner);
    return "{ " + fields + " }";
  }
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

std::string config_text(const std::string& answer) {
  const json answered = parse_good(answer);
  return understood([&] {
    std::string out;
    std::string begun;
    for (const json& value : answered.at("values")) {
      const json& name = value.at("name");
      const std::string section = text(value, "section");
      const std::string of = section + " " + (name.is_string() ? name.get<std::string>() : "");
      if (of != begun) {
        out += begun.empty() ? "" : "\n";
        out += name.is_string() ? "[[" + section + "]]\n" : "[" + section + "]\n";
        begun = of;
      }
      out += fmt::format("{:<42} # {}\n", text(value, "key") + " = " + toml_text(value.at("value")),
                         text(value, "source"));
    }
    return out;
  });
}

std::string session_question(const std::string& sessions_answer, uint64_t id) {
  const json sessions = parse_good(sessions_answer);
  return understood([&] {
    for (const json& session : sessions.at("sessions")) {
      if (number(session, "id") != id) continue;
      const uint64_t members = number(session, "members");
      const auto told = [&](const char* key) {
        return session.contains(key) ? count(session, key) : std::string("unknown");
      };
      std::string out = fmt::format("session {} of arena {}\n", id, text(session, "arena"));
      out += labelled("process", {fmt::format("{} of user {}", session.at("pid").get<int64_t>(),
                                              user_name(number(session, "uid"))),
                                  members > 1 ? fmt::format("and {} more", members - 1) : "no other"});
      out += labelled(
          "state", {number(session, "quarantined") != 0 ? "quarantined: it has died, its GPU's work may go on"
                    : flag(session, "connected")        ? "attached"
                                                        : "orphan: its socket is gone, its process lives"});
      out +=
          labelled("reads", {"open steps " + told("open_steps"),
                             (session.value("held_pages_exact", true) ? "pages held " : "pages held about ") +
                                 told("held_pages")});
      out += labelled("loses", {"unpublished pages " + told("unkeyed_pages"), "all holds and steps"});
      out +=
          "What it has published stays. A process of it that lives and still reads sees\nother bytes from "
          "then on; what it still writes spoils other pages.\n";
      return out;
    }
    throw BadAnswer(fmt::format("there is no session {}", id));
  });
}

std::string names_text(const std::string& answer, const std::string& list) {
  const json parsed = parse_good(answer);
  return understood([&] {
    std::string out;
    for (const json& each : parsed.at(list))
      out += (list == "sessions" ? count(each, "id") : text(each, "name")) + "\n";
    return out;
  });
}

}  // namespace kvt::ctl
