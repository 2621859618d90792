// SPDX-License-Identifier: Apache-2.0
#include "daemon/server/attach_turns.h"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace kvt::server {
namespace {

double seconds_of(AttachTurns::Clock::duration time) { return std::chrono::duration<double>(time).count(); }

/// Users beyond these are looked through for those that need not be known any more.
constexpr size_t kUsersKept = 1024;
constexpr double kNextToNothing = 1e-4;

}  // namespace

double AttachTurns::Had::by(Clock::time_point now) const {
  return seconds * std::exp2(-seconds_of(now - at));
}

double AttachTurns::credit(Clock::time_point now) const {
  return std::min(credit_ + share_ * seconds_of(now - credit_at_), seconds_of(kBurst));
}

void AttachTurns::spend(uint32_t uid, Clock::duration time, Clock::time_point now) {
  credit_ = credit(now) - seconds_of(time);
  credit_at_ = now;
  Had& had = had_[uid];
  had = {had.by(now) + seconds_of(time), now};
  if (had_.size() > kUsersKept)
    std::erase_if(had_, [now](const auto& entry) { return entry.second.by(now) < kNextToNothing; });
}

void AttachTurns::forget(uint64_t serial) {
  std::erase_if(waiting_, [serial](const Request& request) { return request.serial == serial; });
}

std::optional<uint64_t> AttachTurns::next(Clock::time_point now) {
  if (waiting_.empty() || credit(now) < 0) return std::nullopt;
  const auto rank = [&](const Request& request) {
    const auto had = had_.find(request.uid);
    return std::tuple(had == had_.end() ? 0.0 : had->second.by(now), request.serial);
  };
  const auto first = std::min_element(waiting_.begin(), waiting_.end(),
                                      [&](const Request& a, const Request& b) { return rank(a) < rank(b); });
  const uint64_t serial = first->serial;
  waiting_.erase(first);
  return serial;
}

std::optional<AttachTurns::Clock::duration> AttachTurns::until_next(Clock::time_point now) const {
  if (waiting_.empty()) return std::nullopt;
  const double owed = std::max(0.0, -credit(now));
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(owed / share_));
}

}  // namespace kvt::server
