// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/report/table.h"

#include <fmt/format.h>

#include <cmath>
#include <iterator>
#include <span>

namespace kvt::sim {

namespace {

using Cells = std::span<const Cell>;

template <class Value>
Spread over(Cells cells, Value value) {
  std::vector<double> values;
  for (const Cell& cell : cells) values.push_back(value(cell));
  return spread_of(values);
}

std::string with_spread(const Spread& spread, bool several, int digits) {
  return several ? fmt::format("{:.{}f} ±{:.{}f}", spread.mean, digits, spread.deviation, digits)
                 : fmt::format("{:.{}f}", spread.mean, digits);
}

void print_size(Cells cells, std::string& text) {
  const auto out = std::back_inserter(text);
  const bool several = cells.size() > 1;
  const bool bound = cells.front().bounds.has_value();
  fmt::format_to(out, "\nHBM {:g} % ({} pages)\n", cells.front().hbm_percent, cells.front().hbm_pages);
  if (bound) {
    const auto share = [&](auto value) {
      return over(cells, [&](const Cell& cell) { return 100 * value(*cell.bounds) / cell.bounds->ub2; }).mean;
    };
    const double feasible = share([](const BoundFigures& b) { return b.feasible_seconds; });
    fmt::format_to(out, "bound      UB2 {:.6g} s, gap {:.2f} %; of it UB0 {:.1f} %, UB1 {:.1f} %; {}\n",
                   over(cells, [](const Cell& cell) { return cell.bounds->ub2; }).mean,
                   over(cells, [](const Cell& cell) { return 100 * cell.bounds->gap; }).mean,
                   share([](const BoundFigures& b) { return b.ub0; }),
                   share([](const BoundFigures& b) { return b.ub1; }),
                   std::isfinite(feasible) ? fmt::format("a clairvoyant schedule takes {:.1f} %", feasible)
                                           : "no clairvoyant schedule was made");
  }
  fmt::format_to(out, "{:<16}{:>20}{:>16}{:>10}{:>14}{:>12}{:>10}\n", "policy", "seconds",
                 bound ? "% of bound" : "", "hits %", "moved GB", "moves", "unpaid %");
  for (size_t i = 0; i < cells.front().policies.size(); ++i) {
    const PolicyResult& policy = cells.front().policies[i];
    const auto mean = [&](auto value) {
      return over(cells, [&](const Cell& cell) { return value(cell.policies[i].outcome); });
    };
    const std::string percent =
        bound ? with_spread(
                    over(cells, [&](const Cell& cell) { return cell.percent_of_bound(cell.policies[i]); }),
                    several, 1)
              : "";
    fmt::format_to(out, "{:<16}{:>20}{:>16}{:>10.1f}{:>14.3f}{:>12.0f}{:>10.1f}\n",
                   policy.name + (policy.oracle ? " *" : ""),
                   with_spread(mean([](const Outcome& o) { return o.seconds; }), several, 6), percent,
                   mean([](const Outcome& o) {
                     return o.asked == 0 ? 0
                                         : 100 * static_cast<double>(o.hits) / static_cast<double>(o.asked);
                   }).mean,
                   mean([](const Outcome& o) { return o.bytes_moved / 1e9; }).mean,
                   mean([](const Outcome& o) { return static_cast<double>(o.counts.moves()); }).mean,
                   100 * mean(not_paid_back).mean);
  }
}

}  // namespace

std::string table_text(const Results& results) {
  std::string text;
  const auto out = std::back_inserter(text);
  const Cell& first = results.cells.front();
  fmt::format_to(out, "trace      {}: {} steps, {} pages of {} bytes\n", results.trace, first.steps,
                 first.pages, results.page_bytes);
  fmt::format_to(out, "modelled   {}\n", results.modelled);
  fmt::format_to(out, "machine    {}: {}\n", results.profile, results.machine);
  fmt::format_to(out, "cost       {}\n",
                 results.cost == "offers"
                     ? "offers: a page that passes by is promoted for one write of the fast tier"
                     : "copies: a promotion is a read of the slow tier out of band, and a write");
  if (results.advice > 0)
    fmt::format_to(out, "advice     {:g} % of the next step's reads are announced\n", 100 * results.advice);
  std::string seeds;
  size_t count = 0;
  for (const Cell& cell : results.cells) {
    if (cell.hbm_percent != first.hbm_percent) break;
    seeds += (seeds.empty() ? "" : ", ") + std::to_string(cell.seed);
    ++count;
  }
  fmt::format_to(out, "seeds      {}{}\n", seeds,
                 count > 1 ? " (means, ± standard deviation; pages of the first)" : "");
  for (size_t i = 0; i < results.cells.size(); i += count)
    print_size(Cells(results.cells).subspan(i, count), text);
  bool oracle = false;
  for (const PolicyResult& policy : first.policies) oracle = oracle || policy.oracle;
  if (oracle) text += "\n* sees the future\n";
  return text;
}

}  // namespace kvt::sim
