// SPDX-License-Identifier: Apache-2.0
#include "daemon/control/bursts.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace kvt::control {
namespace {

constexpr std::chrono::milliseconds kEach{1000};
/// A burst that goes on is told of meanwhile.
constexpr std::chrono::seconds kLongest{60};

double seconds_of(keeper::Keeper::Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

bool Bursts::is_over(Burst& burst, uint64_t count, Clock::time_point now, Clock::time_point looked) {
  if (count != burst.seen) {
    // A loop that slept has counted nothing then: it was before.
    burst.grown = std::min(now, looked + kEach);
    if (burst.before == burst.seen) burst.began = burst.grown - kEach;
    burst.seen = count;
  }
  const bool is_on = burst.seen != burst.before;
  return is_on && (now - burst.grown >= kEach || now - burst.began >= kLongest);
}

void Bursts::look(Clock::time_point now) {
  if (now - looked_ < kEach) return;
  const Clock::time_point looked = std::exchange(looked_, now);
  const auto is_gone = [&](const auto& entry) {
    return std::none_of(keeper_.arenas().begin(), keeper_.arenas().end(),
                        [&](const auto& arena) { return arena->number() == entry.first; });
  };
  std::erase_if(evictions_, is_gone);
  std::erase_if(starved_, is_gone);
  for (const auto& arena : keeper_.arenas()) {
    const std::string& name = keeper_.arena_config(*arena).name;
    const uint64_t evicted = arena->table().header().counters.evicted;
    if (Burst& burst = evictions_[arena->number()]; is_over(burst, evicted, now, looked)) {
      tell_(events::Kind::kEvictions,
            fmt::format("arena \"{}\": {} evicted in {:.0f} s", name,
                        evicted - burst.before == 1 ? "1 page was"
                                                    : fmt::format("{} pages were", evicted - burst.before),
                        std::max(1.0, seconds_of(burst.grown - burst.began))));
      burst.before = evicted;
    }
    const uint64_t starved = arena->starved();
    if (Burst& burst = starved_[arena->number()]; is_over(burst, starved, now, looked)) {
      tell_(events::Kind::kStarved,
            fmt::format("arena \"{}\": {} times in {:.0f} s a session asked for a page and there was none",
                        name, starved - burst.before, std::max(1.0, seconds_of(burst.grown - burst.began))));
      burst.before = starved;
    }
  }
}

}  // namespace kvt::control
