// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/report/paper_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>

namespace kvt::sim {

namespace {

// Decode seconds that the paper's authors published; < 0: none. Those of `low` and `high` are from their
// percent of best.
struct Published {
  double sparsity;
  const char* variation;
  double fixed, flush, page, annealed;
};
constexpr std::array<Published, 8> kPublished{
    {{40, "actual", 189.70, 147.86, 95.91, 40.31},
     {50, "actual", 166.80, 117.07, 69.84, 34.25},
     {60, "actual", 140.01, 85.95, 47.73, 25.70},
     {80, "actual", 76.15, 31.04, 19.62, 17.35},
     {85, "actual", 58.19, 21.43, 16.20, 15.48},
     {90, "actual", 39.51, 15.72, 13.77, 13.64},
     {60, "low", 24.595 / .149, 24.595 / .276, 24.595 / .978, 24.595 / .986},
     {60, "high", 24.595 / .201, 24.595 / .245, 24.595 / .378, 24.595 / .469}}};

double published(const PaperRow& row, const std::string& policy) {
  if (row.steps != 10'240 || row.page_tokens != 1 || row.token_bytes != 16'384) return -1;
  for (const Published& entry : kPublished) {
    if (std::abs(entry.sparsity - row.sparsity) > 1e-9 || row.variation != entry.variation) continue;
    if (policy == "static") return entry.fixed;
    if (policy == "reactive_flush") return entry.flush;
    if (policy == "page_oracle" || policy == "page_oracle_plain") return entry.page;
    if (policy == "sa") return entry.annealed;
  }
  return -1;
}

}  // namespace

std::string paper_table(const PaperRow& row) {
  std::string text;
  auto out = std::back_inserter(text);
  fmt::format_to(out, "sparsity {:g} %, {}{}, seed {}: {:.1f} % of a step's tokens are new\n", row.sparsity,
                 row.variation, row.variation == "generated" ? " (" + row.noise + ")" : "", row.seed,
                 row.new_tokens_measured);
  fmt::format_to(out,
                 "  {} of 32 layers simulated, times scaled by {:g}; {} steps; the fast tier has room for "
                 "{:.1f} % of the tokens\n",
                 row.layers, 32.0 / row.layers, row.steps, std::min(100.0, row.room));
  if (row.page_tokens > 1)
    fmt::format_to(out,
                   "  pages of {} tokens are read whole: {:.2f} times the bytes that attention asks for\n",
                   row.page_tokens, row.read_amplification);
  if (!row.annealed.empty()) fmt::format_to(out, "  sa: {}\n", row.annealed);
  fmt::format_to(out, "  {:<18} {:>9} {:>8} {:>8} {:>8} {:>8} {:>10}\n", "", "seconds", "% best", "% UB1",
                 "KV hits", "+weights", "published");
  const auto line = [&](const std::string& name, double seconds) {
    fmt::format_to(out, "  {:<18} {:>9.3f} {:>8.1f} {:>8.1f}", name, seconds,
                   100 * row.best_seconds / seconds, 100 * row.ub1_seconds / seconds);
  };
  line("best", row.best_seconds);
  text += "\n";
  line("UB1", row.ub1_seconds);
  text += "\n";
  for (const auto& [name, result] : row.policies) {
    line(name, result.seconds);
    fmt::format_to(out, " {:>8.1f} {:>8.1f}", 100 * result.hit_rate, 100 * result.hit_rate_with_weights);
    if (const double seconds = published(row, name); seconds > 0) fmt::format_to(out, " {:>10.2f}", seconds);
    text += "\n";
  }
  return text;
}

std::string paper_summary(const std::vector<PaperRow>& rows) {
  std::string text = "percent of best\n";
  auto out = std::back_inserter(text);
  fmt::format_to(out, "  {:<34} {:>6}", "", "UB1");
  std::vector<std::string> names;
  for (const PaperRow& row : rows)
    for (const auto& [name, result] : row.policies)
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  for (const std::string& name : names)
    fmt::format_to(out, " {:>{}}", name, std::max<size_t>(6, name.size()));
  text += "\n";
  for (const PaperRow& row : rows) {
    const std::string cell = fmt::format("{:g} %, {:.0f} % new, {}, seed {}", row.sparsity, row.new_tokens,
                                         row.variation == "generated" ? row.noise : row.variation, row.seed);
    fmt::format_to(out, "  {:<34} {:>6.1f}", cell, 100 * row.best_seconds / row.ub1_seconds);
    for (const std::string& name : names) {
      const auto at = std::find_if(row.policies.begin(), row.policies.end(),
                                   [&](const auto& entry) { return entry.first == name; });
      const size_t width = std::max<size_t>(6, name.size());
      if (at == row.policies.end())
        fmt::format_to(out, " {:>{}}", "-", width);
      else
        fmt::format_to(out, " {:>{}.1f}", 100 * row.best_seconds / at->second.seconds, width);
    }
    text += "\n";
  }
  return text;
}

}  // namespace kvt::sim
