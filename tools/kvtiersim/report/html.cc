// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/report/html.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <span>
#include <tuple>

#include "tools/kvtiersim/report/svg.h"

namespace kvt::sim {

namespace {

// Colours that stand out differ in lightness, too, so that they can be told apart without hue.
constexpr const char* kStyle = R"(
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1f24; --soft: #59636e; --rule: #d5dae0; --grid: #eceff2;
  --ours: #0b63c4; --reference: #b4540a; --ceiling: #137a5b; --classic: #8a3fa8; --rest: #9aa4af; --heat: #0b4f9e; --panel: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --ground: #14181d; --ink: #e4e9ee; --soft: #9aa6b2; --rule: #39424c; --grid: #232a31;
  --ours: #5aa9ff; --reference: #f0a35e; --ceiling: #4fc79c; --classic: #cf92e8; --rest: #6b7682; --heat: #7cbcff; --panel: #1b2128; } }
body { margin: 0 auto; max-width: 1080px; padding: 24px 16px 64px; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 40px 0 4px; } p { margin: 4px 0 12px; max-width: 76ch; } .soft { color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 20px; margin: 16px 0; } dt { color: var(--soft); } dd { margin: 0; }
figure { margin: 12px 0; } figcaption { color: var(--soft); font-size: 13px; } svg { width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; margin: 8px 0; }
th, td { padding: 3px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule); } th:first-child, td:first-child { text-align: left; }
thead th { color: var(--soft); font-weight: 600; } summary { cursor: pointer; color: var(--soft); font-size: 13px; } tr.ours { background: var(--panel); font-weight: 600; }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft); } svg .title { fill: var(--ink); font-weight: 600; } svg .value { font-variant-numeric: tabular-nums; fill: var(--ink); }
svg .name { fill: var(--ink); } svg .name.ours { fill: var(--ours); font-weight: 700; } svg .name.reference { fill: var(--reference); } svg .name.ceiling { fill: var(--ceiling); } svg .name.classic { fill: var(--classic); } svg .tick { font-size: 11px; }
.axis { stroke: var(--rule); } .grid { stroke: var(--grid); } .mark { stroke: var(--ink); stroke-dasharray: 2 3; } .lead { stroke: var(--rule); } .spread { stroke: var(--ink); stroke-width: 1.5; }
.bar { fill: var(--rest); } .bar.ours { fill: var(--ours); } .bar.reference { fill: var(--reference); } .bar.ceiling { fill: var(--ceiling); } .bar.classic { fill: var(--classic); }
.bar.part1 { fill-opacity: .6; } .bar.part2 { fill-opacity: .3; }
.line { fill: none; stroke: var(--rest); stroke-width: 1.2; } .line.ours { stroke: var(--ours); stroke-width: 2.6; } .line.reference { stroke: var(--reference); stroke-width: 1.8; }
.line.ceiling { stroke: var(--ceiling); stroke-width: 1.8; } .line.classic { stroke: var(--classic); stroke-width: 1.8; } .line.oracle { stroke-dasharray: 5 4; }
.dot { fill: var(--rest); } .dot.ours { fill: var(--ours); } .dot.reference { fill: var(--reference); } .dot.ceiling { fill: var(--ceiling); } .dot.classic { fill: var(--classic); }
.ground { fill: var(--panel); } .heat { fill: var(--heat); }
)";

class Document {
 public:
  Document(const std::string& title, const std::string& under) {
    text_ = fmt::format(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" "
        "content=\"width=device-width\">\n<title>{0}</title>\n<style>{1}</style>\n</head>\n<body>\n"
        "<h1>{0}</h1>\n<p class=\"soft\">{2}</p>\n",
        escaped(title), kStyle, escaped(under));
  }
  void facts(const std::vector<std::pair<std::string, std::string>>& rows) {
    text_ += "<dl>\n";
    for (const auto& [name, value] : rows)
      text_ += fmt::format("<dt>{}</dt><dd>{}</dd>\n", escaped(name), escaped(value));
    text_ += "</dl>\n";
  }
  void section(const std::string& title, const std::string& under = {}) {
    text_ += fmt::format("<h2>{}</h2>\n", escaped(title));
    if (!under.empty()) text_ += fmt::format("<p>{}</p>\n", escaped(under));
  }
  void figure(const std::string& svg, const std::string& caption) {
    text_ += fmt::format("<figure>\n{}<figcaption>{}</figcaption>\n</figure>\n", svg, escaped(caption));
  }
  /// `folded`: shown by a click; the figures of a chart that is there already.
  void table(const std::vector<std::string>& head, const std::vector<std::vector<std::string>>& rows,
             bool folded) {
    if (folded) text_ += "<details><summary>These figures as a table</summary>\n";
    text_ += "<div class=\"scroll\"><table>\n<thead><tr>";
    for (const std::string& each : head) text_ += "<th scope=\"col\">" + escaped(each) + "</th>";
    text_ += "</tr></thead>\n<tbody>\n";
    for (const auto& row : rows) {
      text_ += row.front() == "kvtier" ? "<tr class=\"ours\">" : "<tr>";
      for (size_t i = 0; i < row.size(); ++i)
        text_ += (i == 0 ? "<th scope=\"row\">" : "<td>") + escaped(row[i]) + (i == 0 ? "</th>" : "</td>");
      text_ += "</tr>\n";
    }
    text_ += "</tbody>\n</table></div>\n";
    if (folded) text_ += "</details>\n";
  }
  [[nodiscard]] std::string finish() { return std::move(text_) + "</body>\n</html>\n"; }

 private:
  std::string text_;
};

std::string number(double value) { return std::isfinite(value) ? fmt::format("{:.6g}", value) : "-"; }
std::string with_spread(const Spread& spread, bool several, int digits) {
  return several ? fmt::format("{:.{}f} ±{:.{}f}", spread.mean, digits, spread.deviation, digits)
                 : fmt::format("{:.{}f}", spread.mean, digits);
}

using CellSpan = std::span<const Cell>;

/// Cells of one size of the fast tier, which differ in their seeds.
std::vector<CellSpan> by_size(const Results& results) {
  std::vector<CellSpan> sizes;
  for (size_t begin = 0; begin < results.cells.size();) {
    size_t end = begin;
    while (end < results.cells.size() && results.cells[end].hbm_percent == results.cells[begin].hbm_percent)
      ++end;
    sizes.push_back(CellSpan(results.cells).subspan(begin, end - begin));
    begin = end;
  }
  return sizes;
}

template <class Value>
Spread over(CellSpan cells, Value value) {
  std::vector<double> values;
  for (const Cell& cell : cells) values.push_back(value(cell));
  return spread_of(values);
}

double hit_percent(const Outcome& outcome) {
  return outcome.asked == 0 ? 0
                            : 100 * static_cast<double>(outcome.hits) / static_cast<double>(outcome.asked);
}

/// Percent of the bound; without one, of the fastest policy of that seed.
double percent(const Cell& cell, size_t policy) {
  if (cell.bounds) return cell.percent_of_bound(cell.policies[policy]);
  double best = cell.policies.front().outcome.seconds;
  for (const PolicyResult& each : cell.policies) best = std::min(best, each.outcome.seconds);
  const double seconds = cell.policies[policy].outcome.seconds;
  return seconds > 0 ? 100 * best / seconds : 100;
}

void add_size(Document& document, CellSpan cells) {
  const Cell& first = cells.front();
  const bool several = cells.size() > 1;
  const bool bound = first.bounds.has_value();
  const char* const of = bound ? "Percent of UB2" : "Percent of the fastest";
  document.section(fmt::format("Fast tier of {:g} % of the pages", first.hbm_percent),
                   bound ? fmt::format("No schedule takes less than UB2 = {:.6g} s{}; better prices could "
                                       "raise that by {:.2f} % at most.",
                                       over(cells, [](const Cell& c) { return c.bounds->ub2; }).mean,
                                       several ? " (means over seeds)" : "",
                                       over(cells, [](const Cell& c) { return 100 * c.bounds->gap; }).mean)
                         : "");
  std::vector<size_t> order(first.policies.size());
  std::vector<Spread> percents;
  for (size_t i = 0; i < order.size(); ++i) {
    order[i] = i;
    percents.push_back(over(cells, [&](const Cell& cell) { return percent(cell, i); }));
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return percents[a].mean > percents[b].mean; });

  std::vector<BarRow> rows;
  BarColumn time{.title = of, .limit = 100, .bars = {}, .marks = {}},
      moved{.title = "Bytes moved, GB", .limit = 0, .bars = {}, .marks = {}};
  BarColumn hits{.title = "Hits, %", .limit = 100, .bars = {}, .marks = {}},
      unpaid{.title = "Not paid back, %", .limit = 100, .bars = {}, .marks = {}};
  std::vector<std::vector<std::string>> table;
  for (const size_t i : order) {
    const PolicyResult& policy = first.policies[i];
    const auto mean = [&](auto value) {
      return over(cells,
                  [&](const Cell& cell) { return static_cast<double>(value(cell.policies[i].outcome)); });
    };
    rows.push_back({policy.name, tone_of(policy.name), policy.oracle});
    time.bars.push_back({{percents[i].mean},
                         percents[i].mean - percents[i].deviation,
                         percents[i].mean + percents[i].deviation,
                         with_spread(percents[i], several, 1)});
    const Spread bytes = mean([](const Outcome& o) { return o.bytes_moved / 1e9; });
    const double moves = std::max(1.0, mean([](const Outcome& o) { return o.counts.moves(); }).mean);
    const auto part = [&](auto count) {
      return bytes.mean * mean([&](const Outcome& o) { return o.counts.*count; }).mean / moves;
    };
    moved.bars.push_back({{part(&MoveCounts::promoted_in_read), part(&MoveCounts::promoted_copy),
                           part(&MoveCounts::demoted_copy)},
                          0,
                          0,
                          fmt::format("{:.4g}", bytes.mean)});
    const Spread hit = mean(hit_percent);
    hits.bars.push_back(
        {{hit.mean}, hit.mean - hit.deviation, hit.mean + hit.deviation, fmt::format("{:.1f}", hit.mean)});
    const Spread lost = mean([](const Outcome& o) { return 100 * not_paid_back(o); });
    unpaid.bars.push_back({{lost.mean}, 0, 0, fmt::format("{:.1f}", lost.mean)});
    table.push_back({policy.name, with_spread(mean([](const Outcome& o) { return o.seconds; }), several, 6),
                     with_spread(percents[i], several, 2), with_spread(hit, several, 2),
                     with_spread(bytes, several, 3),
                     with_spread(mean([](const Outcome& o) { return o.counts.moves(); }), several, 0),
                     with_spread(lost, several, 2)});
  }
  if (bound) {
    const double feasible = over(cells, [](const Cell& cell) {
                              return 100 * cell.bounds->ub2 / cell.bounds->feasible_seconds;
                            }).mean;
    if (feasible > 0)
      time.marks.emplace_back(feasible, fmt::format("a clairvoyant schedule {:.1f}", feasible));
  }
  document.figure(
      bar_chart(
          fmt::format(
              "{} by policy, bytes moved, hits and promotions that did not pay back, fast tier of {:g} %", of,
              first.hbm_percent),
          rows, {time, moved, hits, unpaid}),
      fmt::format(
          "{}Hits: reads of pages that the fast tier held. Not paid back: of the promotions. Bytes moved, "
          "from dark to light: promoted while the page was read, promoted by copy, demoted by copy.",
          several ? "Means over seeds; thin lines: standard deviation. " : ""));
  document.table({"policy", "seconds", of, "hits %", "moved GB", "moves", "not paid back %"}, table, true);
}

void add_sizes_line(Document& document, const std::vector<CellSpan>& sizes) {
  const bool bound = sizes.front().front().bounds.has_value();
  const std::string what = bound ? "percent of UB2" : "percent of the fastest policy";
  document.section("Over sizes of the fast tier");
  std::vector<Line> lines;
  std::vector<std::vector<std::string>> table;
  for (size_t i = 0; i < sizes.front().front().policies.size(); ++i) {
    const PolicyResult& policy = sizes.front().front().policies[i];
    Line line{policy.name, tone_of(policy.name), policy.oracle, {}};
    std::vector<std::string> row{policy.name};
    for (const CellSpan& cells : sizes) {
      const double mean = over(cells, [&](const Cell& cell) { return percent(cell, i); }).mean;
      line.points.emplace_back(cells.front().hbm_percent, mean);
      row.push_back(fmt::format("{:.2f}", mean));
    }
    std::sort(line.points.begin(), line.points.end());
    lines.push_back(std::move(line));
    table.push_back(std::move(row));
  }
  document.figure(
      line_chart("Time as " + what + " over the size of the fast tier, by policy", lines,
                 {"size of the fast tier, percent of the pages", 0, 0, " %"}, {what, 0, 100, " %"}),
      "Higher is faster; 100 % cannot be passed.");
  std::vector<std::string> head{"policy"};
  for (const CellSpan& cells : sizes) head.push_back(fmt::format("{:g} %", cells.front().hbm_percent));
  document.table(head, table, true);
}

void add_heat(Document& document, const HeatMap& heat, uint64_t seed) {
  document.section("Heat over time",
                   fmt::format("Reads of a page in a step; {} pages in {} groups of neighbours, seed {}.",
                               heat.pages, heat.groups, seed));
  std::vector<double> sorted = heat.reads;
  std::sort(sorted.begin(), sorted.end());
  const double saturates = sorted[static_cast<size_t>(0.99 * static_cast<double>(sorted.size() - 1))];
  const double full = saturates > 0 ? saturates : sorted.back();
  document.figure(
      cell_chart("Reads by group of pages over the steps", {.rows = heat.groups,
                                                            .columns = heat.bins.count,
                                                            .values = heat.reads,
                                                            .saturates = full,
                                                            .x_title = "step",
                                                            .x_low = "0",
                                                            .x_high = std::to_string(heat.bins.steps),
                                                            .y_title = "page",
                                                            .y_low = "0",
                                                            .y_high = std::to_string(heat.pages)}),
      fmt::format("Blank: none; full colour: {:.3g} reads of a page a step or more (the 99th of 100 parts).",
                  full));
  // The same, coarser, for those who cannot see it.
  const uint32_t rows = std::min(heat.groups, 12u), columns = std::min(heat.bins.count, 10u);
  std::vector<std::string> head{"pages from"};
  for (uint32_t column = 0; column < columns; ++column)
    head.push_back(fmt::format("step {}", heat.bins.first(column * heat.bins.count / columns)));
  std::vector<std::vector<std::string>> table;
  for (uint32_t row = 0; row < rows; ++row) {
    const uint32_t low = row * heat.groups / rows, high = (row + 1) * heat.groups / rows;
    std::vector<std::string> line{std::to_string(heat.first_page(low))};
    for (uint32_t column = 0; column < columns; ++column) {
      const uint32_t begin = column * heat.bins.count / columns,
                     end = (column + 1) * heat.bins.count / columns;
      double sum = 0, weight = 0;
      for (uint32_t group = low; group < high; ++group) {
        for (uint32_t bin = begin; bin < end; ++bin) {
          const double part = double{1} * (heat.first_page(group + 1) - heat.first_page(group)) *
                              (heat.bins.first(bin + 1) - heat.bins.first(bin));
          sum += part * heat.reads[size_t{group} * heat.bins.count + bin];
          weight += part;
        }
      }
      line.push_back(fmt::format("{:.3g}", sum / weight));
    }
    table.push_back(std::move(line));
  }
  document.table(head, table, true);
}

void add_courses(Document& document, const History& history) {
  const auto chart = [&](const std::string& title, const std::string& unit, double high, auto value_of) {
    std::vector<Line> lines;
    std::vector<std::string> head{"policy"};
    std::vector<std::vector<std::string>> table;
    const Bins& bins = history.courses.front().bins;
    const uint32_t columns = std::min(bins.count, 10u);
    for (uint32_t column = 0; column < columns; ++column)
      head.push_back(fmt::format("step {}", bins.first(column * bins.count / columns)));
    for (const Course& course : history.courses) {
      Line line{course.policy, tone_of(course.policy), course.oracle, {}};
      for (uint32_t bin = 0; bin < bins.count; ++bin)
        line.points.emplace_back(bins.first(bin), value_of(course, bin));
      std::vector<std::string> row{course.policy};
      for (uint32_t column = 0; column < columns; ++column) {
        const uint32_t begin = column * bins.count / columns, end = (column + 1) * bins.count / columns;
        double sum = 0;
        for (uint32_t bin = begin; bin < end; ++bin) sum += value_of(course, bin);
        row.push_back(fmt::format("{:.4g}", sum / (end - begin)));
      }
      lines.push_back(std::move(line));
      table.push_back(std::move(row));
    }
    document.figure(
        line_chart(
            fmt::format("{} over the steps, by policy, fast tier of {:g} %", title, history.hbm_percent),
            lines, {"step", 0, 0, ""}, {title, 0, high, unit}),
        fmt::format("{} Dashed: sees the future. Seed {}.", title + " over the steps.", history.seed));
    document.table(head, table, true);
  };
  document.section(fmt::format("Over the steps, fast tier of {:g} %", history.hbm_percent));
  chart("Reads of pages in the fast tier", " %", 100,
        [](const Course& course, uint32_t bin) { return 100 * course.fast_share[bin]; });
  chart("GB moved a step", "", 0, [](const Course& course, uint32_t bin) {
    return course.bytes_moved[bin] / 1e9 / (course.bins.first(bin + 1) - course.bins.first(bin));
  });
}

void add_all_figures(Document& document, const Results& results) {
  document.section("All figures", "What --json writes.");
  const bool bound = results.cells.front().bounds.has_value();
  if (bound) {
    std::vector<std::vector<std::string>> rows;
    for (const Cell& cell : results.cells) {
      const BoundFigures& b = *cell.bounds;
      rows.push_back({number(cell.hbm_percent), std::to_string(cell.hbm_pages), std::to_string(cell.seed),
                      std::to_string(cell.pages), std::to_string(cell.steps), number(b.ub0), number(b.ub1),
                      number(b.ub2), number(b.gap), number(b.feasible_seconds)});
    }
    document.table({"fast tier %", "its pages", "seed", "pages", "steps", "UB0 s", "UB1 s", "UB2 s", "gap",
                    "clairvoyant schedule s"},
                   rows, false);
  }
  std::vector<std::vector<std::string>> rows;
  for (const Cell& cell : results.cells) {
    for (const PolicyResult& policy : cell.policies) {
      const Outcome& o = policy.outcome;
      rows.push_back({policy.name, policy.oracle ? "yes" : "no", number(cell.hbm_percent),
                      std::to_string(cell.hbm_pages), std::to_string(cell.seed), number(o.seconds),
                      bound ? number(cell.percent_of_bound(policy)) : "-", number(o.bytes_moved),
                      std::to_string(o.counts.moves()), std::to_string(o.counts.promoted_in_read),
                      std::to_string(o.counts.promoted_copy), std::to_string(o.counts.demoted_copy),
                      std::to_string(o.counts.demoted_free), std::to_string(o.counts.not_paid_back),
                      std::to_string(o.hits), std::to_string(o.asked)});
    }
  }
  document.table({"policy", "oracle", "fast tier %", "its pages", "seed", "seconds", "% of UB2",
                  "bytes moved", "moves", "promoted in read", "promoted by copy", "demoted by copy",
                  "demoted for free", "not paid back", "hits", "asked"},
                 rows, false);
}

}  // namespace

std::string html_text(const Results& results, const std::vector<History>& histories) {
  const Cell& first = results.cells.front();
  Document document(
      "kvtiersim run: " + results.trace,
      "Simulated placement of KV pages. Results are seconds of a model; none was measured on hardware.");
  std::string seeds;
  const std::vector<CellSpan> sizes = by_size(results);
  for (const Cell& cell : sizes.front()) seeds += (seeds.empty() ? "" : ", ") + std::to_string(cell.seed);
  document.facts(
      {{"trace", fmt::format("{}: {} steps, {} pages of {} bytes", results.trace, first.steps, first.pages,
                             results.page_bytes)},
       {"modelled", results.modelled},
       {"machine", results.profile + ": " + results.machine},
       {"cost", results.cost == "offers"
                    ? "offers: a page that passes by is promoted for one write of the fast tier"
                    : "copies: a promotion is a read of the slow tier out of band, and a write"},
       {"advice", fmt::format("{:g} % of the next step's reads are announced", 100 * results.advice)},
       {"seeds", seeds + (sizes.front().size() > 1 ? " (steps and pages are those of the first)" : "")},
       {"marks", "* sees the future, so it is no policy that could run"}});
  if (sizes.size() > 1) add_sizes_line(document, sizes);
  for (const CellSpan& cells : sizes) add_size(document, cells);
  for (const History& history : histories)
    if (!history.heat.reads.empty()) add_heat(document, history.heat, history.seed);
  for (const History& history : histories)
    if (!history.courses.empty() && history.courses.front().bins.count != 0) add_courses(document, history);
  add_all_figures(document, results);
  return document.finish();
}

std::string html_text(const std::vector<PaperRow>& rows) {
  Document document("kvtiersim paper",
                    "The model of arXiv 2508.13231: decode seconds of all 32 layers, simulated; none was "
                    "measured on hardware.");
  const PaperRow& first = rows.front();
  document.facts(
      {{"layers", fmt::format("{} simulated, times are scaled to 32", first.layers)},
       {"steps", std::to_string(first.steps)},
       {"pages",
        fmt::format(
            "of {} tokens, {} bytes a token and layer; {:.1f} % of the tokens fit into HBM, in the mean",
            first.page_tokens, first.token_bytes, first.room)},
       {"best", "every byte that attention needs, from both tiers at full speed"},
       {"UB1", "the same with no more in HBM than fits, moved for nothing"}});
  // A chart for each kind of trace; rows of one kind by sparsity, seeds together.
  std::map<std::tuple<std::string, std::string, double>, std::vector<const PaperRow*>> kinds;
  for (const PaperRow& row : rows)
    kinds[{row.variation, row.noise, row.variation == "generated" ? row.new_tokens : 0}].push_back(&row);
  for (const auto& [kind, of_kind] : kinds) {
    const auto& [variation, noise, fresh] = kind;
    document.section(variation == "generated"
                         ? fmt::format("Generated, {:g} % new tokens a step, {}", fresh, noise)
                         : fmt::format("Calibrated trace: {} variation", variation));
    std::map<double, std::vector<const PaperRow*>> by_sparsity;
    for (const PaperRow* const row : of_kind) by_sparsity[row->sparsity].push_back(row);
    const auto mean = [](const std::vector<const PaperRow*>& same, auto value) {
      double sum = 0;
      for (const PaperRow* const row : same) sum += value(*row) / static_cast<double>(same.size());
      return sum;
    };
    std::vector<std::string> head{"policy"};
    std::vector<std::string> ub1{"UB1"}, best{"best"};
    Line limit{"UB1", Tone::kRest, true, {}};
    for (const auto& [sparsity, same] : by_sparsity) {
      head.push_back(fmt::format("{:g} %: seconds", sparsity));
      head.push_back("% of best");
      const double best_seconds = mean(same, [](const PaperRow& row) { return row.best_seconds; });
      const double ub1_seconds = mean(same, [](const PaperRow& row) { return row.ub1_seconds; });
      best.insert(best.end(), {fmt::format("{:.3f}", best_seconds), "100.0"});
      ub1.insert(ub1.end(), {fmt::format("{:.3f}", ub1_seconds),
                             fmt::format("{:.1f}", 100 * best_seconds / ub1_seconds)});
      limit.points.emplace_back(sparsity, 100 * best_seconds / ub1_seconds);
    }
    std::vector<Line> lines{limit};
    std::vector<std::vector<std::string>> table{best, ub1};
    for (size_t i = 0; i < of_kind.front()->policies.size(); ++i) {
      const std::string& name = of_kind.front()->policies[i].first;
      Line line{name, tone_of(name), name == "page_oracle" || name == "sa", {}};
      std::vector<std::string> row_text{name};
      for (const auto& [sparsity, same] : by_sparsity) {
        const double seconds =
            mean(same, [&](const PaperRow& row) { return row.policies[i].second.seconds; });
        const double share = mean(same, [&](const PaperRow& row) {
          return 100 * row.best_seconds / row.policies[i].second.seconds;
        });
        line.points.emplace_back(sparsity, share);
        row_text.insert(row_text.end(), {fmt::format("{:.3f}", seconds), fmt::format("{:.1f}", share)});
      }
      lines.push_back(std::move(line));
      table.push_back(std::move(row_text));
    }
    if (by_sparsity.size() > 1) {
      document.figure(line_chart("Decode time as percent of best over sparsity, by policy", lines,
                                 {"sparsity: percent of the tokens that a step does not read", 0, 0, " %"},
                                 {"percent of best", 0, 100, " %"}),
                      "Higher is faster. UB1 is what the capacity allows. * sees the future.");
    } else {
      std::vector<BarRow> names;
      BarColumn share{
          .title = "Percent of best",
          .limit = 100,
          .bars = {},
          .marks = {{limit.points.front().second, fmt::format("UB1 {:.1f}", limit.points.front().second)}}};
      BarColumn hit{.title = "KV reads from HBM, %", .limit = 100, .bars = {}, .marks = {}};
      for (size_t i = 1; i < lines.size(); ++i) {
        names.push_back({lines[i].name, lines[i].tone, lines[i].oracle});
        share.bars.push_back(
            {{lines[i].points.front().second}, 0, 0, fmt::format("{:.1f}", lines[i].points.front().second)});
        const double rate =
            100 * mean(of_kind, [&](const PaperRow& row) { return row.policies[i - 1].second.hit_rate; });
        hit.bars.push_back({{rate}, 0, 0, fmt::format("{:.1f}", rate)});
      }
      document.figure(
          bar_chart("Decode time as percent of best, and KV reads from HBM, by policy", names, {share, hit}),
          "* sees the future.");
    }
    document.table(head, table, false);
  }

  document.section("All figures", "What --json writes.");
  std::vector<std::vector<std::string>> cells, table;
  for (const PaperRow& row : rows) {
    cells.push_back({row.variation, row.noise, number(row.sparsity), number(row.new_tokens),
                     number(row.new_tokens_measured), std::to_string(row.seed), number(row.best_seconds),
                     number(row.ub1_seconds), row.annealed.empty() ? "-" : row.annealed,
                     std::to_string(row.layers), std::to_string(row.steps), std::to_string(row.page_tokens),
                     std::to_string(row.token_bytes), number(row.read_amplification)});
    for (const auto& [name, result] : row.policies)
      table.push_back({name, row.variation, row.noise, number(row.sparsity), number(row.new_tokens),
                       std::to_string(row.seed), number(result.seconds), number(result.hit_rate),
                       number(result.hit_rate_with_weights), number(result.bytes_moved)});
  }
  document.table(
      {"variation", "noise", "sparsity", "new tokens %", "measured", "seed", "best s", "UB1 s", "annealed",
       "layers", "steps", "tokens a page", "bytes a token", "bytes read per byte asked"},
      cells, false);
  document.table({"policy", "variation", "noise", "sparsity", "new tokens %", "seed", "seconds",
                  "KV from HBM", "with weights", "bytes moved"},
                 table, false);
  return document.finish();
}

}  // namespace kvt::sim
