// SPDX-License-Identifier: Apache-2.0
//
// The storm: clients that work, and what happens to them and to the daemon meanwhile. One thread; the clients are processes.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tools/kvtier-soak/daemon.h"

namespace kvt::soak {

struct StormOptions {
  DaemonOptions daemon;
  double minutes = 1;
  uint32_t clients = 3;
  bool kill_daemon = false;
  bool kill_clients = false;
  bool hostile = false;
  uint64_t seed = 1;
  uint32_t reclaims = 200;  ///< clients killed to measure how soon what they had is free
};

struct Samples {
  std::vector<double> values;
  [[nodiscard]] double quantile(double q) const;
};

struct Outcome {
  uint64_t kills_daemon = 0;
  uint64_t kills_clients = 0;
  uint64_t stops_clients = 0;
  std::vector<std::string> pause_points;
  std::map<std::string, uint64_t> kills_at;         ///< of the daemon, at a point
  std::map<std::string, uint64_t> client_kills_at;  ///< of a client, while the daemon was stopped at a point
  uint64_t ledger_pages = 0;                        ///< the most that clients held at a time
  uint64_t pages_checked_after_restart = 0;
  uint64_t words_verified = 0;
  uint64_t words_verified_moved = 0;
  uint64_t steps = 0;
  uint64_t published = 0;
  uint64_t calls_away = 0;
  uint64_t corrupt = 0;
  uint64_t lost = 0;
  uint64_t leaked = 0;
  Samples reclaim_ms;                       ///< from the pidfd to the last of 1,000 pages free
  Samples exit_ms;                          ///< from SIGKILL to the pidfd
  Samples adopt_ms;                         ///< as the daemons say
  Samples outage_ms;                        ///< from SIGKILL to a daemon that answers
  double good_client_throughput_ratio = 0;  ///< 0: not measured
  double seconds = 0;
  bool failed = false;  ///< the storm itself could not go on
};

/// Throws std::runtime_error when it cannot begin.
Outcome run_storm(const StormOptions& options);

/// The report for machines, and a line for people.
std::string report_json(const StormOptions& options, const Outcome& outcome);
std::string report_text(const StormOptions& options, const Outcome& outcome);

}  // namespace kvt::soak
