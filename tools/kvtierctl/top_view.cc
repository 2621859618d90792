// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtierctl/top_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tools/kvtierctl/render.h"
#include "tools/kvtierctl/table.h"

namespace kvt::ctl {
namespace {

using nlohmann::json;

constexpr size_t kBarColumns = 34;
constexpr size_t kHeatColumns = 40;

json parse_good(const std::string& answer) {
  check_answer(answer);
  return json::parse(answer);
}

template <typename Make>
auto understood(Make&& make) {
  try {
    return make();
  } catch (const json::exception& error) {
    throw BadAnswer(
        fmt::format("kvtierd's answer is not understood, is it of another version? ({})", error.what()));
  }
}

uint64_t number(const json& from, const char* key) { return from.at(key).get<uint64_t>(); }
double real(const json& from, const char* key) { return from.at(key).get<double>(); }

/// The element of a list with this name; null: there is none.
const json* find_named(const json* list, const std::string& name) {
  if (list == nullptr) return nullptr;
  for (const json& each : *list)
    if (each.at("name") == name) return &each;
  return nullptr;
}

/// A counter's growth a second; counters of another arena of this name begin anew.
double growth(const json& now, const json* before, const json::json_pointer& key,
              std::optional<double> seconds) {
  if (before == nullptr || !seconds) return 0;
  const auto a = before->at(key).get<uint64_t>();
  const auto b = now.at(key).get<uint64_t>();
  return b < a ? 0 : static_cast<double>(b - a) / *seconds;
}

/// Of the steps since the answer before: seconds that the part `share` of them took at most, interpolated in their bucket.
/// None where there are none.
std::optional<double> step_quantile(const json& now, const json* before, double share) {
  struct Bucket {
    double from, to, steps;
  };
  std::vector<Bucket> buckets;
  double all = 0;
  for (const json& bucket : now.at("steps").at("buckets")) {
    double steps = real(bucket, "steps");
    if (before != nullptr)
      for (const json& was : before->at("steps").at("buckets"))
        if (was.at("from_seconds") == bucket.at("from_seconds")) steps -= real(was, "steps");
    if (steps <= 0) continue;
    buckets.push_back({real(bucket, "from_seconds"), real(bucket, "to_seconds"), steps});
    all += steps;
  }
  double below = 0;
  for (const Bucket& bucket : buckets) {
    if (below + bucket.steps >= share * all)
      return bucket.from + (bucket.to - bucket.from) * (share * all - below) / bucket.steps;
    below += bucket.steps;
  }
  return std::nullopt;
}

std::string rate_text(double rate) {
  if (rate == 0) return "0";
  return rate < 10 ? fmt::format("{:.1f}", rate) : short_count(static_cast<uint64_t>(std::llround(rate)));
}

std::string share_text(std::optional<double> share) { return share ? percent_text(*share, 1) : "-"; }

void add_text(std::vector<Line>& lines, const std::string& text, bool has_title) {
  std::istringstream in(text);
  bool title = has_title;
  for (std::string line; std::getline(in, line);) {
    lines.push_back({{line, title ? Look::kTitle : Look::kPlain}});
    title = false;
  }
}

void add_problems(std::vector<Line>& lines, const json& status) {
  for (const json& problem : status.at("problems")) {
    const std::string severity = problem.at("severity");
    if (severity == "note") continue;
    std::istringstream in(
        paragraph(severity == "bad" ? "BAD" : "WARN",
                  problem.at("what").get<std::string>() + " -> " + problem.at("do").get<std::string>()));
    for (std::string line; std::getline(in, line);)
      lines.push_back({{line, severity == "bad" ? Look::kBad : Look::kWarn}});
  }
}

void add_tiers(std::vector<Line>& lines, const Rates& rates) {
  size_t name_width = 4;
  for (const Rates::Tier& tier : rates.tiers)
    name_width = std::max(name_width, std::min<size_t>(18, tier.name.size() + (tier.emulated ? 11 : 0)));
  lines.push_back(
      {{fmt::format("{:<{}}  {:<{}} {:>5} {:>8} {:>5} {:>5}", "TIER", name_width,
                    "# used + reserved ~ limbo . free", kBarColumns + 2, "USED", "GB/s NOW", "MOST", "BUSY"),
        Look::kTitle}});
  for (const Rates::Tier& tier : rates.tiers) {
    Line line{{fmt::format("{:<{}}  ", shortened(tier.name + (tier.emulated ? kEmulated : ""), name_width),
                           name_width)}};
    for (Piece& piece : bar(tier, kBarColumns)) line.push_back(std::move(piece));
    const double busy = tier.most && *tier.most > 0 ? tier.read_per_second / *tier.most : 0;
    line.push_back({fmt::format(
        " {:>5} {:>8} {:>5} {:>5}",
        percent_text(static_cast<double>(tier.used + tier.reserved), static_cast<double>(tier.bytes)),
        gbps_text(tier.read_per_second), tier.most ? gbps_text(*tier.most) : "-",
        tier.most ? fmt::format("{:.0f}%", 100 * busy) : "-")});
    lines.push_back(std::move(line));
  }
}

void add_arena_rates(std::vector<Line>& lines, const Rates& rates) {
  Table table;
  table.name("ARENA")
      .column("PAGES")
      .column("FREE")
      .column("FILLING")
      .column("SEALED")
      .column("LIMBO")
      .column("FAST")
      .column("BEST");
  table.column("UP/s").column("DOWN/s").column("FREE/s").column("EVICT/s");
  for (const Rates::Arena& arena : rates.arenas)
    table.row({arena.name, short_count(arena.pages), short_count(arena.free), short_count(arena.filling),
               short_count(arena.sealed), short_count(arena.limbo), share_text(arena.fast_share),
               share_text(arena.best_share), rate_text(arena.promoted), rate_text(arena.demoted),
               rate_text(arena.demoted_free), rate_text(arena.evicted)});
  add_text(lines, table.text(), true);
}

std::string step_text(std::optional<double> seconds) {
  if (!seconds) return "-";
  if (*seconds < 1e-3) return fmt::format("{:.3g} us", *seconds * 1e6);
  return *seconds < 1 ? fmt::format("{:.3g} ms", *seconds * 1e3) : fmt::format("{:.3g} s", *seconds);
}

void add_steps(std::vector<Line>& lines, const Rates& rates) {
  Table table;
  table.name("ARENA").column("STEPS/s").column("HALF WITHIN").column("99% WITHIN").column("READ GB/s");
  for (const Rates::Arena& arena : rates.arenas)
    table.row({arena.name, rate_text(arena.steps), step_text(arena.step_p50), step_text(arena.step_p99),
               gbps_text(arena.read_per_second)});
  add_text(lines, table.text(), true);
}

void add_sessions(std::vector<Line>& lines, const json& status, SessionOrder order) {
  json sessions = status.at("sessions");
  const char* const key = order == SessionOrder::kHeld      ? "held_pages"
                          : order == SessionOrder::kUnkeyed ? "unkeyed_pages"
                          : order == SessionOrder::kSteps   ? "open_steps"
                          : order == SessionOrder::kOldest  ? "oldest_step_epochs"
                                                            : "";
  const auto value = [&](const json& session) {
    const auto found = session.find(key);
    return found == session.end() || !found->is_number() ? int64_t{-1} : found->get<int64_t>();
  };
  if (order != SessionOrder::kId)
    std::stable_sort(sessions.begin(), sessions.end(),
                     [&](const json& a, const json& b) { return value(a) > value(b); });
  add_text(lines, sessions_text(json{{"ok", true}, {"sessions", sessions}}.dump()), !sessions.empty());
}

/// The newest first: they are what fits.
void add_events(std::vector<Line>& lines, const std::string& answer) {
  if (answer.empty()) return;
  std::istringstream in(events_text(answer, ""));
  std::vector<Line> all;
  for (std::string line; std::getline(in, line);) {
    const bool bad = line.find(" ERROR ") != std::string::npos;
    const bool warn = line.find(" WARN ") != std::string::npos;
    all.push_back({{line, bad ? Look::kBad : warn ? Look::kWarn : Look::kPlain}});
  }
  lines.insert(lines.end(), std::make_move_iterator(all.rbegin()), std::make_move_iterator(all.rend()));
}

void add_heat(std::vector<Line>& lines, const std::string& answer) {
  if (answer.empty()) return;
  const json heat = parse_good(answer);
  uint64_t most = 1;
  for (const json& bucket : heat.at("buckets")) {
    uint64_t all = 0;
    for (const json& count : bucket.at("pages")) all += count.get<uint64_t>();
    most = std::max(most, all);
  }
  const auto mark = [](size_t tier) { return static_cast<char>('A' + tier); };
  std::string names;
  size_t index = 0;
  for (const json& tier : heat.at("tiers"))
    names += fmt::format("{}{} {}", index == 0 ? "" : ", ", mark(index), tier.get<std::string>()), ++index;
  add_text(lines,
           fmt::format("arena {}, column {}: {} pages, {} looked at, {} of these not free\n",
                       heat.at("arena").get<std::string>(), number(heat, "column"), number(heat, "pages"),
                       number(heat, "looked_at"), number(heat, "filled")),
           false);
  add_text(lines, fmt::format("{:>22}  {:>5}  {}\n", "READS A PERIOD", "PAGES", names), true);
  double from = 0;
  for (const json& bucket : heat.at("buckets")) {
    const std::string label = bucket.at("below").is_null()
                                  ? fmt::format("{:g} and more", from)
                                  : fmt::format("{:g} to {:g}", from, bucket.at("below").get<double>());
    if (!bucket.at("below").is_null()) from = bucket.at("below").get<double>();
    uint64_t all = 0;
    std::string drawn;
    size_t tier = 0;
    for (const json& count : bucket.at("pages")) {
      const auto pages = count.get<uint64_t>();
      all += pages;
      const auto columns = static_cast<double>(kHeatColumns * all) / static_cast<double>(most);
      drawn.resize(static_cast<size_t>(std::ceil(columns)), mark(tier++));
    }
    lines.push_back({{fmt::format("{:>22}  {:>5}  {}", label, all, drawn)}});
  }
}

}  // namespace

Rates rates_of(const std::string& status_text, const std::string& before_text) {
  return understood([&] {
    const json status = parse_good(status_text);
    const json before = before_text.empty() ? json() : parse_good(before_text);
    Rates rates;
    if (before.is_object() && before.at("pid") == status.at("pid"))
      if (const double seconds = real(status, "uptime_seconds") - real(before, "uptime_seconds"); seconds > 0)
        rates.seconds = seconds;
    if (rates.seconds)
      rates.cpu_share = (real(status, "cpu_seconds") - real(before, "cpu_seconds")) / *rates.seconds;
    const json* const arenas_before = rates.seconds ? &before.at("arenas") : nullptr;
    for (const json& tier : status.at("tiers")) {
      Rates::Tier of;
      of.name = tier.at("name");
      of.emulated = tier.at("emulated");
      of.bytes = number(tier, "bytes");
      if (!tier.at("read_bytes_per_second").is_null()) of.most = real(tier, "read_bytes_per_second");
      rates.tiers.push_back(std::move(of));
    }
    for (const json& arena : status.at("arenas")) {
      const json* const was = find_named(arenas_before, arena.at("name"));
      const json& states = arena.at("pages_by_state");
      const json& balance = arena.at("balance");
      Rates::Arena of;
      of.name = arena.at("name");
      of.pages = number(arena, "pages");
      of.free = number(states, "free");
      of.filling = number(states, "filling");
      of.sealed = number(states, "sealed");
      of.limbo = number(arena, "limbo_frames");
      of.limbo_seconds = real(arena, "limbo_seconds");
      const auto per_second = [&](const char* key) {
        return growth(arena, was, json::json_pointer(key), rates.seconds);
      };
      of.promoted = per_second("/moves/promoted");
      of.demoted = per_second("/moves/demoted_copy");
      of.demoted_free = per_second("/moves/demoted_free");
      of.evicted = per_second("/evicted");
      of.published = per_second("/published");
      of.steps = per_second("/steps/count");
      if (of.steps > 0) {
        of.step_p50 = step_quantile(arena, was, 0.5);
        of.step_p99 = step_quantile(arena, was, 0.99);
      }
      const uint64_t page_bytes = number(arena, "page_bytes");
      for (const json& part : arena.at("tiers")) {
        const json* const part_was =
            find_named(was == nullptr ? nullptr : &was->at("tiers"), part.at("name"));
        const double read = growth(part, part_was, json::json_pointer("/bytes_read"), rates.seconds);
        of.read_per_second += read;
        for (Rates::Tier& tier : rates.tiers) {
          if (tier.name != part.at("name")) continue;
          tier.used += number(part, "named") * page_bytes;
          tier.limbo += number(part, "limbo") * page_bytes;
          tier.reserved += number(part, "reserved") * page_bytes;
          tier.free += number(part, "free") * page_bytes;
          tier.read_per_second += read;
        }
      }
      // The last plan's; it stays as it was while nobody reads.
      if (const double read = real(balance, "bytes_read"); read > 0 && of.read_per_second > 0) {
        of.fast_share = real(balance, "bytes_fast") / read;
        of.best_share = real(balance, "bytes_fast_best") / read;
      }
      rates.arenas.push_back(std::move(of));
    }
    return rates;
  });
}

Line bar(const Rates::Tier& tier, size_t width) {
  const size_t inside = width > 2 ? width - 2 : 1;
  const auto whole = static_cast<double>(std::max<uint64_t>(tier.bytes, 1));
  size_t drawn = 0;
  uint64_t bytes = 0;
  const auto part = [&](uint64_t more, char mark) {
    bytes += more;
    // What is there at all has a mark, as long as there is room.
    const auto exact = static_cast<size_t>(static_cast<double>(inside) * static_cast<double>(bytes) / whole);
    const size_t end = std::min(inside, std::max(exact, more == 0 ? drawn : drawn + 1));
    std::string text(end > drawn ? end - drawn : 0, mark);
    drawn = std::max(drawn, end);
    return text;
  };
  Line line{{"["}};
  line.push_back({part(tier.used, '#'), Look::kGood});
  line.push_back({part(tier.reserved, '+'), Look::kBold});
  line.push_back({part(tier.limbo, '~'), Look::kWarn});
  line.push_back({std::string(inside - drawn, '.'), Look::kDim});
  line.push_back({"]"});
  return line;
}

Line head_line(const Answered& answered) {
  return understood([&] {
    const json status = parse_good(answered.status);
    const Rates rates = rates_of(answered.status, answered.before);
    const bool healthy = status.at("healthy");
    const bool bad = worst_severity(answered.status) == "bad";
    Line line{{fmt::format("kvtierd {}  ", status.at("version").get<std::string>()), Look::kBold}};
    line.push_back({healthy ? "healthy" : "NOT HEALTHY", healthy ? Look::kGood
                                                         : bad   ? Look::kBad
                                                                 : Look::kWarn});
    line.push_back({fmt::format(
        "  up {}  cpu {}  rss {}  policy {}", duration_text(status.at("uptime_seconds").get<double>()),
        rates.seconds ? fmt::format("{:.1f}%", 100 * rates.cpu_share) : "-",
        bytes_text(number(status, "rss_bytes")), status.at("policy").get<std::string>())});
    return line;
  });
}

std::vector<Line> view_lines(const Answered& answered, View view, SessionOrder order) {
  return understood([&] {
    const json status = parse_good(answered.status);
    const Rates rates = rates_of(answered.status, answered.before);
    std::vector<Line> lines;
    switch (view) {
      case View::kOverview:
        add_problems(lines, status);
        add_tiers(lines, rates);
        lines.emplace_back();
        add_arena_rates(lines, rates);
        lines.emplace_back();
        add_steps(lines, rates);
        lines.emplace_back();
        add_sessions(lines, status, order);
        break;
      case View::kArenas:
        add_arena_rates(lines, rates);
        lines.emplace_back();
        add_text(lines, arenas_text(answered.status), false);
        lines.emplace_back();
        add_steps(lines, rates);
        break;
      case View::kSessions: add_sessions(lines, status, order); break;
      case View::kHeat: add_heat(lines, answered.heat); break;
      case View::kEvents: add_events(lines, answered.events); break;
    }
    return lines;
  });
}

std::string heat_text(const std::string& answer) {
  return understood([&] {
    std::vector<Line> lines;
    add_heat(lines, answer);
    return plain_text(lines);
  });
}

std::vector<Line> help_lines() {
  std::vector<Line> lines;
  add_text(lines,
           "keys\n"
           "  q, Ctrl-C         end\n"
           "  Tab, left, right  the next view; 1 to 5: overview, arenas, sessions, heat, events\n"
           "  up, down, PgUp, PgDn, Home\n"
           "                    scroll\n"
           "  p, space          stop asking the daemon, and go on\n"
           "  + -               ask more often, less often (0.2 s to 10 s)\n"
           "  s                 sort sessions by the next column\n"
           "  h, ?              this, and back\n"
           "\n"
           "USED, the bars      frames with a page, a second place or an offer; targets of\n"
           "                    copies; frames that wait for open steps; the rest is free\n"
           "GB/s NOW, MOST      read since the last look; what placement reckons with\n"
           "FAST, BEST          share of the bytes read that the fast tier has, and should\n"
           "UP DOWN FREE EVICT  pages a second: promoted, demoted by copy, demoted for free\n"
           "                    (a second place was there), evicted\n"
           "STEPS, WITHIN       steps that have ended, and how long half and 99 % of them\n"
           "                    took at most; without those that a GPU's stream ends\n",
           true);
  return lines;
}

std::string plain_text(const std::vector<Line>& lines) {
  std::string out;
  for (const Line& line : lines) {
    std::string text;
    for (const Piece& piece : line) text += piece.text;
    text.erase(text.find_last_not_of(' ') + 1);
    out += text + "\n";
  }
  return out;
}

std::string rates_json(const Answered& answered) {
  return understood([&] {
    const json status = parse_good(answered.status);
    const Rates rates = rates_of(answered.status, answered.before);
    const auto maybe = [](std::optional<double> value) { return value ? json(*value) : json(nullptr); };
    json tiers = json::array();
    for (const Rates::Tier& tier : rates.tiers)
      tiers.push_back({{"name", tier.name},
                       {"emulated", tier.emulated},
                       {"bytes", tier.bytes},
                       {"used_bytes", tier.used},
                       {"reserved_bytes", tier.reserved},
                       {"limbo_bytes", tier.limbo},
                       {"free_bytes", tier.free},
                       {"read_bytes_per_second", tier.read_per_second},
                       {"most_bytes_per_second", maybe(tier.most)}});
    json arenas = json::array();
    for (const Rates::Arena& arena : rates.arenas)
      arenas.push_back({{"name", arena.name},
                        {"read_bytes_per_second", arena.read_per_second},
                        {"fast_share", maybe(arena.fast_share)},
                        {"best_share", maybe(arena.best_share)},
                        {"promoted_per_second", arena.promoted},
                        {"demoted_copy_per_second", arena.demoted},
                        {"demoted_free_per_second", arena.demoted_free},
                        {"evicted_per_second", arena.evicted},
                        {"published_per_second", arena.published},
                        {"steps_per_second", arena.steps},
                        {"step_p50_seconds", maybe(arena.step_p50)},
                        {"step_p99_seconds", maybe(arena.step_p99)}});
    return json{{"ok", true},
                {"schema", "kvtier.top/1"},
                {"healthy", status.at("healthy")},
                {"seconds", maybe(rates.seconds)},
                {"cpu_share", rates.cpu_share},
                {"sessions", status.at("sessions").size()},
                {"tiers", tiers},
                {"arenas", arenas}}
               .dump(2, ' ', false, json::error_handler_t::replace) +
           "\n";
  });
}

}  // namespace kvt::ctl
