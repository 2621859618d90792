// SPDX-License-Identifier: Apache-2.0
//
// kvtier-soak: kills daemons and clients while others work, and counts what is wrong, lost or leaked.
// Exit codes: 0; 1 something is; 2 wrong use; 3 something is missing.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <fstream>

#include "tools/kvtier-soak/board.h"
#include "tools/kvtier-soak/storm.h"

int main(int argc, char** argv) {
  kvt::soak::StormOptions options;
  std::string json;
  CLI::App app{
      "Kills kvtierd and its clients at named points and at random, lets hostile clients in, and verifies "
      "every word that "
      "the others read.",
      "kvtier-soak"};
  app.add_option("--minutes", options.minutes,
                 "how long the storm lasts, after each point has been visited once")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--kvtierd", options.daemon.program, "the daemon")->required()->check(CLI::ExistingFile);
  app.add_flag("--kill-daemon", options.kill_daemon, "kill the daemon: at each point, and at random");
  app.add_flag("--kill-clients", options.kill_clients,
               "kill and stop clients: with the daemon at each point, at random, and 200 to measure how soon "
               "what they had "
               "is free");
  app.add_flag("--hostile", options.hostile, "let hostile clients in");
  app.add_option("--inject", options.daemon.inject,
                 "a fault that the daemon is to make, which has to be found")
      ->check(CLI::IsMember({"flip", "early-reuse", "lost-publish", "leak"}));
  app.add_option("--clients", options.clients, "clients of the storm")
      ->check(CLI::Range(1U, kvt::soak::kWorkersMax - 1))
      ->capture_default_str();
  app.add_option("--reclaims", options.reclaims, "clients killed to measure how soon what they had is free")
      ->capture_default_str();
  app.add_option("--seed", options.seed, "of everything random")->capture_default_str();
  app.add_option("--page-bytes", options.daemon.page_bytes, "of all arenas")->capture_default_str();
  app.add_option("--huge-pages", options.daemon.huge_pages, "of all tiers: auto, hugetlb, thp, off")
      ->capture_default_str();
  app.add_option("--json", json, "write the report there, too");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  try {
    const kvt::soak::Outcome outcome = kvt::soak::run_storm(options);
    if (!json.empty()) {
      std::ofstream file(json);
      file << report_json(options, outcome);
      if (!file.flush()) {
        fmt::print(stderr, "kvtier-soak: {} cannot be written\n", json);
        return 3;
      }
    }
    fmt::print("{}", report_text(options, outcome));
    return outcome.corrupt + outcome.lost + outcome.leaked == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "kvtier-soak: {}\n", error.what());
    return 3;
  }
}
