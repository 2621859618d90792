// SPDX-License-Identifier: Apache-2.0
//
// kvtiersim: what placement is worth. Simulates policies, that of kvtierd among them (the very same objects),
// on the paper's model, on generated families and on recorded traces, beside bounds that no schedule can
// beat.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "tools/kvtiersim/command/paper.h"
#include "tools/kvtiersim/command/run.h"

namespace {

void add_paper(CLI::App& app, kvt::sim::PaperOptions& options) {
  app.add_option("--sparsity", options.sparsity, "Percent of the tokens that a step does not read")
      ->delimiter(',')
      ->check(CLI::Range(1.0, 99.0));
  app.add_option("--variation", options.variation, "The calibrated trace: low, actual, high")
      ->check(CLI::IsMember({"low", "actual", "high"}));
  app.add_option(
      "--new-tokens", options.new_tokens,
      "Generated trace instead: percent of the read set that is new in each step; several with commas");
  app.add_option("--noise", options.noise, "Of the generated trace: drift or memoryless")
      ->check(CLI::IsMember({"drift", "memoryless"}));
  app.add_option("--seed", options.seeds, "Seeds, each a row")->delimiter(',');
  app.add_option("--layers", options.layers, "Layers that are simulated; times are scaled to 32")
      ->check(CLI::Range(1, 32));
  app.add_option("--page-tokens", options.page_tokens, "Tokens of a page")
      ->check(CLI::IsMember({1, 4, 16, 64}));
  app.add_flag("--gqa", options.gqa, "KV of 8 heads (LLaMA 3.1) instead of 32");
  app.add_flag("--charge-start", options.charge_start, "HBM starts empty for all, what fills it is charged");
  app.add_option("--advice", options.advice, "Share of the next step's reads that clients announce")
      ->check(CLI::Range(0.0, 1.0));
  app.add_flag("--small", options.small, "One layer, 200 steps: seconds");
  app.add_option("--policy", options.policies, "Policies; default all")->delimiter(',');
  app.add_option("--schedule-out", options.schedule_out,
                 "Writes a JSON line a step and policy (one layer, 200 steps)");
  app.add_option("--json", options.json, "Writes the rows here");
  app.add_option("--html", options.html, "Writes a report here: one file, offline");
  app.add_option("--threads", options.threads, "0: as many as there are cores");
}

void add_run(CLI::App& app, kvt::sim::RunOptions& options) {
  auto* const source = app.add_option_group("source", "What is read");
  source
      ->add_option("--trace", options.trace,
                   "Request trace (Mooncake, Azure, agent), page reads, or what kvtierctl record wrote")
      ->check(CLI::ExistingFile);
  source->add_option(
      "--generate", options.generate,
      "dense, shared, sparse-slow, sparse-fast, zipf-shift, zipf, adversarial-lru, adversarial-self, burst");
  source->require_option(1);
  app.add_option("--as", options.as, "A request trace: each request a step, or decoding of it, modelled")
      ->check(CLI::IsMember({"requests", "decode"}));
  app.add_option("--concurrency", options.concurrency, "Requests that are decoded at a time")
      ->check(CLI::Range(1, 100000));
  app.add_option("--steps", options.steps, "At most so many steps of a request trace; 0: all");
  app.add_option("--start", options.start, "Fast tier at first: random pages (default for families) or empty")
      ->check(CLI::IsMember({"random", "empty"}));
  app.add_option("--profile", options.profile,
                 "Machine: a name, a file, or recorded; default recorded for a recording, else families");
  app.add_option("--hbm", options.hbm_percent,
                 "Size of the fast tier in percent of all pages; default as recorded, else 25")
      ->delimiter(',')
      ->check(CLI::Range(0.01, 100.0));
  app.add_option("--policy", options.policies, "Policies; default all that the trace allows")->delimiter(',');
  app.add_option("--cost", options.cost,
                 "offers: a page that is read anyway is promoted for one write; copies: out of band")
      ->check(CLI::IsMember({"offers", "copies"}));
  app.add_flag("--bound", options.bound, "Certified bounds beside the results (slower)");
  app.add_option("--seed", options.seeds, "Seeds; with several the mean is printed")->delimiter(',');
  app.add_option("--advice", options.advice, "Share of the next step's reads that clients announce")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--json", options.json, "Writes the results here");
  app.add_option("--html", options.html, "Writes a report here: one file, offline");
  app.add_option("--threads", options.threads, "0: as many as there are cores");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Simulates placement of KV pages: policies, bounds, what-if", "kvtiersim");
  app.require_subcommand(1);
  kvt::sim::PaperOptions paper;
  kvt::sim::RunOptions run;
  CLI::App* const paper_command = app.add_subcommand(
      "paper", "The model of arXiv 2508.13231 with its policies, the classic ones and ours");
  CLI::App* const run_command =
      app.add_subcommand("run", "A trace or a generated family under any policy and machine");
  add_paper(*paper_command, paper);
  add_run(*run_command, run);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  try {
    return paper_command->parsed() ? kvt::sim::run_paper(paper) : kvt::sim::run_run(run);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kvtiersim: %s\n", error.what());
    return 2;
  }
}
