// SPDX-License-Identifier: Apache-2.0
//
// What happens page by page and is too much to be told of each: evictions, and asking for pages in vain. Counters are
// looked at once a second; what has grown from one quiet second to the next is one event. On the loop's thread.
#pragma once

#include <functional>
#include <string>
#include <unordered_map>

#include "daemon/events/kind.h"
#include "daemon/keeper/keeper.h"

namespace kvt::control {

class Bursts {
 public:
  using Clock = keeper::Keeper::Clock;
  using Tell = std::function<void(events::Kind, const std::string&)>;
  /// The keeper outlives it.
  Bursts(const keeper::Keeper& keeper, Tell tell) : keeper_(keeper), tell_(std::move(tell)) {}
  /// After each pass of the loop, and before somebody asks.
  void look(Clock::time_point now);

 private:
  struct Burst {
    uint64_t before = 0;  // the counter, before it began
    uint64_t seen = 0;    // when it was looked at last
    Clock::time_point began{};
    Clock::time_point grown{};  // when it was last seen to have grown
  };
  /// Whether it is over, at `count`. `looked`: when it was looked at before.
  static bool is_over(Burst& burst, uint64_t count, Clock::time_point now, Clock::time_point looked);

  const keeper::Keeper& keeper_;
  Tell tell_;
  Clock::time_point looked_{};
  std::unordered_map<uint32_t, Burst> evictions_;  // by arena's number
  std::unordered_map<uint32_t, Burst> starved_;
};

}  // namespace kvt::control
