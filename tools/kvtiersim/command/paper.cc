// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/command/paper.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdio>
#include <stdexcept>
#include <string_view>

#include "tools/kvtiersim/command/paper_cell.h"
#include "tools/kvtiersim/report/file.h"
#include "tools/kvtiersim/report/html.h"

namespace kvt::sim {

namespace {

constexpr uint32_t kSmallSteps = 200;

std::vector<double> parse_percents(const std::string& text) {
  std::vector<double> values;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end) {
    double value = 0;
    const auto [stop, error] = std::from_chars(at, end, value);
    const bool more = stop != end;
    if (error != std::errc{} || (more && (*stop != ',' || stop + 1 == end)) || !(value > 0 && value < 100))
      throw std::invalid_argument("--new-tokens \"" + text +
                                  "\": percentages between 0 and 100 with commas between are expected");
    values.push_back(value);
    at = more ? stop + 1 : end;
  }
  return values;
}

}  // namespace

int run_paper(const PaperOptions& options) {
  if (!options.schedule_out.empty() && !options.small)
    throw std::invalid_argument("--schedule-out goes with --small");
  if (!options.new_tokens.empty() && options.variation != "actual")
    throw std::invalid_argument("--variation and --new-tokens are two kinds of traces: give one");
  PaperCell base;
  base.layer.page_tokens = options.page_tokens;
  base.layer.token_bytes = options.gqa ? kPaperGqaTokenBytes : kPaperTokenBytes;
  base.advice = options.advice;
  if (options.small) base.layer.steps = kSmallSteps;
  base.layers = options.small ? 1 : options.layers;
  base.one_counter = !options.small;
  base.charge_start = options.charge_start;
  base.threads = options.threads;
  base.policies = options.policies;
  if (base.policies.empty()) {
    const bool beliefs = options.page_tokens == 1;
    base.policies = paper_policy_names(beliefs);
    if (!beliefs) fmt::print("not run: bayes (the law of pages of several tokens is not worked out)\n");
  }

  const bool generated = !options.new_tokens.empty();
  std::vector<double> fresh = generated ? parse_percents(options.new_tokens) : std::vector<double>{0};
  OutputFile json(options.json, "--json");
  OutputFile html(options.html, "--html");
  OutputFile schedule(options.schedule_out, "--schedule-out");

  std::vector<PaperRow> rows;
  for (const double sparsity : options.sparsity) {
    for (const double new_tokens : fresh) {
      for (const uint64_t seed : options.seeds) {
        PaperCell cell = base;
        cell.layer.sparsity = sparsity / 100;
        cell.layer.new_tokens = new_tokens / 100;
        cell.layer.seed = seed;
        cell.layer.noise = paper_noise(generated ? options.noise : options.variation);
        PaperRow row = run_paper_cell(
            cell,
            options.schedule_out.empty()
                ? std::function<void(const std::string&, const std::vector<ScheduleLine>&)>{}
                : [&](const std::string& policy, const std::vector<ScheduleLine>& lines) {
                    for (const ScheduleLine& line : lines)
                      schedule.stream()
                          << fmt::format(
                                 R"({{"sparsity":{},"seed":{},"policy":"{}","step":{},"reads":{},"hbm":{},"promoted_in_read":{},"promoted_copy":{},"read_from_external":{},"seconds":{}}})",
                                 sparsity, seed, policy, line.step, line.reads, line.hbm,
                                 line.promoted_in_read, line.promoted_copy, line.read_from_external,
                                 line.seconds)
                          << '\n';
                  });
        row.variation = generated ? "generated" : options.variation;
        row.noise = generated ? options.noise : options.variation == "actual" ? "drift" : "swaps";
        row.new_tokens = generated ? new_tokens : row.new_tokens_measured;
        fmt::print("{}\n", paper_table(row));
        std::fflush(stdout);
        rows.push_back(std::move(row));
      }
    }
  }
  if (rows.size() > 1) fmt::print("{}", paper_summary(rows));
  if (json.wanted()) {
    json.stream() << paper_json(rows);
    json.finish();
  }
  if (html.wanted()) {
    html.stream() << html_text(rows);
    html.finish();
  }
  if (schedule.wanted()) schedule.finish();
  return 0;
}

}  // namespace kvt::sim
