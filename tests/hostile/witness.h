// SPDX-License-Identifier: Apache-2.0
//
// A good client beside the attackers: a process with two sessions, one in the arena that is attacked and one in an
// arena of its own. It holds pages in both, reads and verifies every word of them in steps, and goes on publishing in
// its own arena. What it notices of an attack is what the attack has done to others.
#pragma once

#include <cstdint>
#include <string>

#include "tests/support/child.h"
#include "tests/support/daemon.h"

namespace kvt::test {

inline constexpr const char* kAttacked = "default";
inline constexpr const char* kOwn = "own";
inline constexpr uint64_t kHostilePageBytes = 16384;

/// A daemon with both arenas.
World hostile_world();

class Witness {
 public:
  struct Report {
    uint64_t steps = 0;
    uint64_t words = 0;       ///< that were right
    uint64_t published = 0;   ///< in its own arena
    uint64_t wrong = 0;       ///< words that were not what was written
    uint64_t lost = 0;        ///< pages that it holds and could not read
    uint64_t refused = 0;     ///< calls in its own arena that failed
    uint64_t reconnects = 0;  ///< of both sessions
    uint64_t connected = 0;   ///< sessions
    uint64_t slowest_us = 0;  ///< the longest publishing since the last report
  };

  explicit Witness(const Daemon& daemon);
  /// Both sessions are there, and the pages written.
  [[nodiscard]] bool ready() const { return ready_; }
  /// Of one more whole round, begun after the call, and all before it.
  [[nodiscard]] Report look();
  /// It does nothing until it may go on; look() lets it.
  void pause();
  void go_on();
  /// "" or what went wrong in it.
  [[nodiscard]] std::string finish();

 private:
  static std::string live(const Daemon& daemon, Lines& lines);
  Child child_;
  bool ready_ = false;
  bool paused_ = false;
};

}  // namespace kvt::test
