// SPDX-License-Identifier: Apache-2.0
//
// Whether all is well, and what to do where it is not: the only place that decides it. What is judged is a snapshot
// (vitals.h takes it); judging is a function of that. Values; thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvt::control {

/// A counter's growth in the last minute, as far as the daemon has been up.
struct Minute {
  uint64_t promoted = 0;          ///< pages
  uint64_t bytes_read_above = 0;  ///< from all tiers but the slowest
  uint64_t offers_made = 0;
  uint64_t offers_lapsed = 0;
  uint64_t starved = 0;  ///< ArenaCounts::starved
};

/// A session, to be named.
struct Who {
  uint64_t session = 0;  ///< 0: nobody
  int pid = 0;
  bool is_stopped = false;
};

struct ArenaVitals {
  struct Tier {
    std::string name;
    bool degraded = false;    ///< its GPU is lost
    bool nodes_lost = false;  ///< none of its NUMA nodes has memory any more
    uint64_t retired = 0;     ///< frames
    uint64_t frames = 0;
    uint64_t closed = 0;  ///< of them, by an operator
  };
  std::string name;
  uint64_t page_bytes = 0;
  uint64_t frames = 0;
  uint64_t free_pages = 0;
  uint64_t limbo = 0;        ///< frames
  double limbo_seconds = 0;  ///< ArenaCounts::LimboHolder
  Who holds_limbo;           ///< whose step it waits for
  std::vector<Who> broken;   ///< sessions with a process whose commands are not taken any more
  std::vector<Tier> tiers;
  uint64_t lost_pages = 0;
  uint64_t mismatches = 0;  ///< of checksums
  uint64_t sessions = 0;
  uint64_t sessions_max = 0;
  Minute minute;
};

struct Vitals {
  std::vector<ArenaVitals> arenas;
  std::vector<std::string> left_out;  ///< tiers that are configured and not there, and why
  std::string policy;                 ///< as configured
  bool memory_reserve_used = false;
  uint64_t refused = 0;            ///< attach requests, since the start
  double refused_seconds_ago = 0;  ///< the last of them
  uint64_t descriptors = 0;        ///< of the process
  uint64_t descriptors_max = 0;
  bool is_kept = false;  ///< something keeps descriptors for the next daemon
  uint64_t kept_descriptors = 0;
  uint64_t kept_descriptors_max = 0;
  uint64_t rows_damaged = 0;  ///< that the daemon before this one has left
  uint64_t regions_lost = 0;
  bool is_numa_balancing = false;  ///< the kernel moves memory between nodes by itself, and there are several
};

enum class Severity : uint8_t {
  kNote,  ///< as somebody has chosen, and worth knowing: all is well
  kWarn,  ///< goes on, but not as well as it could, or not for long
  kBad,   ///< users are hurt, or something is lost
};
const char* severity_name(Severity severity);

struct Problem {
  const char* code;  ///< for programs: docs/kvtierctl.md has all
  Severity severity;
  std::string what;
  std::string action;
};

/// The worst first.
std::vector<Problem> problems_of(const Vitals& vitals);

/// No problem is worse than a note.
bool is_healthy(const std::vector<Problem>& problems);

}  // namespace kvt::control
