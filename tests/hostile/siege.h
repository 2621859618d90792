// SPDX-License-Identifier: Apache-2.0
//
// What every attack is measured by: a daemon with a good client, attacked again and again. Afterwards the good client
// has noticed nothing, the daemon is the same process, sleeps, and has no more memory, descriptors or log than after
// the first time.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "tests/hostile/raw_client.h"
#include "tests/hostile/witness.h"
#include "tests/support/child.h"
#include "tests/support/daemon.h"

namespace kvt::test {

/// What a process has and has used, of /proc.
struct Footprint {
  uint64_t descriptors = 0;
  uint64_t rss_bytes = 0;
  uint64_t log_bytes = 0;
  uint64_t cpu_ticks = 0;  ///< user and system, of 10 ms
};
Footprint footprint_of(const Daemon& daemon);

/// The one thing that is measured over time that passes: what a daemon does when there is nothing to do.
void let_a_second_pass();

class Siege : public ::testing::Test {
 protected:
  explicit Siege(World world = hostile_world());
  void SetUp() override;
  /// Nobody has noticed anything, all is as it was, and the daemon sleeps.
  void TearDown() override;

  /// The good client has noticed nothing, up to now.
  void expect_unharmed();
  /// All attackers have gone: waits until the daemon has noticed. The witness pauses.
  void expect_settled();
  /// `attack` three times; what it leaves is the same after each.
  void besiege(const std::function<void()>& attack);
  /// `body` in a process of its own, which must end well.
  void in_process(const Child::Body& body);
  /// Nobody asks for anything, the witness either: the daemon sleeps.
  void expect_idle();
  /// Sessions of attackers.
  [[nodiscard]] double attackers() const;

  Daemon daemon_;
  std::unique_ptr<Witness> witness_;

 private:
  void expect_bounded_log();
  pid_t pid_ = -1;
  Witness::Report last_;
  Footprint before_;
  std::chrono::steady_clock::time_point began_ = Clock::now();
};

}  // namespace kvt::test
