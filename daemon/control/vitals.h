// SPDX-License-Identifier: Apache-2.0
//
// Takes the snapshot that health.h judges: from counters that are there, whatever the number of pages, and three small
// files of /proc. Runs on the loop's thread; never blocks.
#pragma once

#include <array>
#include <unordered_map>

#include "daemon/control/health.h"
#include "daemon/keeper/keeper.h"
#include "daemon/server/server.h"

namespace kvt::control {

class VitalSigns {
 public:
  using Clock = keeper::Keeper::Clock;
  /// Both outlive it.
  VitalSigns(const keeper::Keeper& keeper, const server::Server& server);
  /// After each pass of the loop: a few times a minute it writes counters down, so that their growth is known.
  void look(Clock::time_point now);
  [[nodiscard]] Vitals vitals(Clock::time_point now) const;

 private:
  /// Counters as they were.
  struct Sample {
    Clock::time_point at;
    std::unordered_map<uint32_t, Minute> arenas;  // by number
  };
  [[nodiscard]] Sample sample(Clock::time_point now) const;
  [[nodiscard]] uint64_t descriptors() const;

  static constexpr std::chrono::seconds kBetween{5};
  const keeper::Keeper& keeper_;
  const server::Server& server_;
  std::array<Sample, 13> samples_;  // a minute
  uint64_t taken_ = 0;
  uint64_t descriptors_of_others_ = 0;  // not of arenas, sessions or connections: counted once
};

}  // namespace kvt::control
