// SPDX-License-Identifier: Apache-2.0
//
// When the next session may be made, and whose it is. Making a session's memory, and taking a session apart, is done in
// the loop, which serves nobody meanwhile: all of that together gets a quarter of the time, and a burst of a tenth of a
// second. Where more is asked for, requests wait; the next is of the user that has had least lately, and of that user the
// first. So one who attaches and detaches for ever slows itself down. Pure; one thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

namespace kvt::server {

class AttachTurns {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr double kShare = 0.25;  // of the loop's time
  static constexpr std::chrono::milliseconds kBurst{100};

  /// `share` of the time; for tests that have none to wait, above 1.
  explicit AttachTurns(double share = kShare) : share_(share) {}

  /// Whether a request may be served at once: nobody waits, and there is time.
  [[nodiscard]] bool may_begin(Clock::time_point now) const { return waiting_.empty() && credit(now) >= 0; }
  /// The loop has spent so much on a session of the user's.
  void spend(uint32_t uid, Clock::duration time, Clock::time_point now);
  /// A request waits. `serial`: smaller ones came first.
  void wait(uint32_t uid, uint64_t serial) { waiting_.push_back({uid, serial}); }
  void forget(uint64_t serial);
  /// Takes the request that is next out, if there is one and there is time for it.
  std::optional<uint64_t> next(Clock::time_point now);
  /// Until next() has an answer; nullopt: nobody waits.
  [[nodiscard]] std::optional<Clock::duration> until_next(Clock::time_point now) const;
  [[nodiscard]] size_t waiting() const { return waiting_.size(); }

 private:
  struct Request {
    uint32_t uid;
    uint64_t serial;
  };
  /// Seconds, halved each second.
  struct Had {
    double seconds = 0;
    Clock::time_point at{};
    [[nodiscard]] double by(Clock::time_point now) const;
  };
  /// Seconds that may be spent; below zero: owed.
  [[nodiscard]] double credit(Clock::time_point now) const;

  double share_;
  double credit_ = std::chrono::duration<double>(kBurst).count();
  Clock::time_point credit_at_{};
  std::unordered_map<uint32_t, Had> had_;  ///< by user; those that have had next to nothing are left out
  std::vector<Request> waiting_;
};

}  // namespace kvt::server
