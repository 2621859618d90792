// SPDX-License-Identifier: Apache-2.0
//
// What the metrics are made from: numbers that the keeper and the server count while they work, copied at one moment.
// Taken on the loop's thread, where nobody is served meanwhile: it looks at tiers, arenas, sessions, the step slots of
// their members and a sample of their holds, at no row of a page. Read by another thread afterwards.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "daemon/keeper/durations.h"
#include "daemon/keeper/keeper.h"
#include "daemon/server/server.h"

namespace kvt::metrics {

/// What the loop counts of itself.
struct LoopCounts {
  keeper::Durations turns;           ///< from waking up to going to sleep: nobody is served sooner
  uint64_t lines_left_out = 0;       ///< of the log
  uint64_t memory_reserve_used = 0;  ///< times that the system gave no memory
  bool is_memory_short = false;      ///< and has given none since
};

struct TierSample {
  std::string name;
  std::string kind;
  bool emulated = false;
  uint64_t bytes = 0;
  double read_bytes_per_second = 0;  ///< that it can deliver; 0: not known
  double write_bytes_per_second = 0;
};

struct ArenaSample {
  std::string name;
  std::vector<std::string> tier_names;
  std::vector<bool> tier_emulated;
  std::vector<bool> tier_degraded;
  uint64_t page_bytes = 0;
  uint64_t pages = 0;
  uint64_t epoch = 0;
  kvt_abi_arena_counters counters{};
  keeper::ArenaCounts counts;  ///< of its last plan the balance of groups alone
  double budget_bytes_per_second = 0;
  std::vector<uint64_t>
      reserve_frames;  ///< by tier: kept free for new pages, or for pages that leave a faster one
  uint64_t sessions = 0;
  uint64_t members = 0;
  uint64_t orphans = 0;  ///< sessions whose sockets are gone and whose processes live
  uint64_t quarantined = 0;
  uint64_t broken_members = 0;
  uint64_t guarantee_pages = 0;
  uint64_t unkeyed_pages = 0;
  uint64_t magazine_pages = 0;
  uint64_t held_pages = 0;  ///< by session, summed up; an estimate where there are many
  uint64_t open_steps = 0;
  uint64_t oldest_step_epochs = 0;  ///< 0: none is open
};

struct Snapshot {
  std::chrono::steady_clock::time_point taken;
  double took_seconds = 0;  ///< of the loop's time, to copy all of this
  double uptime_seconds = 0;
  std::string policy;
  std::string profile;
  uint32_t period_ms = 0;
  std::vector<TierSample> tiers;
  std::vector<ArenaSample> arenas;
  server::Server::Refusals attach_refused{};
  uint64_t connections_dropped = 0;
  uint64_t connections = 0;
  bool descriptors_kept = false;
  uint64_t descriptors_stored = 0;
  uint64_t descriptors_max = 0;
  keeper::Adoption adoption;
  LoopCounts loop;
};

/// On the loop's thread. `started`: when the daemon began to serve.
Snapshot take_snapshot(const keeper::Keeper& keeper, const server::Server& server, const LoopCounts& loop,
                       std::chrono::steady_clock::time_point started);

}  // namespace kvt::metrics
