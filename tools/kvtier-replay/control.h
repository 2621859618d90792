// SPDX-License-Identifier: Apache-2.0
//
// What the daemon says of itself on its control socket: one line of JSON asked, one answered. Values; the
// function is thread-safe and blocks until the answer or the timeout.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvt::replay {

struct TierStatus {
  std::string name;
  bool emulated = false;
  uint64_t bytes = 0;
  double read_bytes_per_second = 0;
  std::string bandwidth_from;  ///< "profile gh200", "measured", ...
};

struct Moves {
  uint64_t promoted = 0;
  uint64_t promoted_by_readers = 0;  ///< of these
  uint64_t demoted_copy = 0;
  uint64_t demoted_free = 0;
  uint64_t aborted = 0;
};

struct ArenaTierStatus {
  std::string name;
  uint64_t frames = 0;
};

struct ArenaStatus {
  std::string name;
  uint64_t pages = 0;
  uint64_t page_bytes = 0;
  uint64_t filling = 0;
  uint64_t sealed = 0;
  uint64_t keyed = 0;
  uint64_t evicted = 0;
  uint64_t mismatches = 0;  ///< by checksum, since the daemon started; and of them
  uint64_t repaired = 0;
  uint64_t frames_leaked = 0;  ///< in the answer to "quiesce" alone
  std::vector<ArenaTierStatus> tiers;
  Moves moves;
};

struct DaemonStatus {
  bool emulated = false;
  std::string profile;
  std::string policy;
  int64_t pid = 0;
  double cpu_seconds = 0;
  double uptime_seconds = 0;
  uint64_t rss_bytes = 0;
  uint64_t sessions = 0;
  std::vector<TierStatus> tiers;
  std::vector<ArenaStatus> arenas;

  /// Whether no tier's bandwidth is known otherwise.
  [[nodiscard]] bool by_profile() const;
  /// Throws std::runtime_error when there is none of that name.
  [[nodiscard]] const ArenaStatus& arena(const std::string& name) const;
};

/// `command` is "status", or "quiesce": the same answer after pending work is done and limbo is drained.
/// Throws std::runtime_error when the daemon does not answer, or answers something else.
DaemonStatus ask_daemon(const std::string& socket_dir, const std::string& command, int timeout_ms);

}  // namespace kvt::replay
