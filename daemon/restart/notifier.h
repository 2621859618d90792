// SPDX-License-Identifier: Apache-2.0
//
// What the service manager is told while the daemon runs: that it is ready, reloads or stops, a line for people
// (`systemctl status`), and that the loop goes round. One thread; never blocks. Without a manager it says nothing.
//
// The watchdog is fed by turn_done() alone, so a loop that does not get round is found out.
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "daemon/restart/fd_store.h"

namespace kvt::restart {

class Notifier {
 public:
  using Clock = std::chrono::steady_clock;
  /// The line is told again no sooner than this, and only when it has changed.
  static constexpr std::chrono::seconds kStatusPause{3};

  /// `status`: the line as it is now. The store outlives this.
  Notifier(FdStore& store, std::function<std::string()> status);

  void ready(Clock::time_point now);
  /// Between the two nothing else is told: `systemctl reload` waits for the second.
  void reloading();
  void reloaded(Clock::time_point now);
  void stopping();
  /// How long the loop may sleep, where it would sleep `wanted_ms` (-1: until something rings): to half of the watchdog's
  /// time, and until a line that has changed may be told.
  int sleep_ms(int wanted_ms, Clock::time_point now);
  /// The loop has made a pass.
  void turn_done(Clock::time_point now);

 private:
  void tell_status(const std::string& before, Clock::time_point now);

  FdStore& store_;
  std::function<std::string()> status_;
  std::string told_;
  Clock::time_point next_status_{};
  Clock::duration feed_every_{};  // 0: no watchdog
  Clock::time_point next_feed_{};
};

}  // namespace kvt::restart
