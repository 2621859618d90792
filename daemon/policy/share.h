// SPDX-License-Identifier: Apache-2.0
//
// What may be moved: a budget for each direction of a link, and its division among arenas. Pure: time is an
// argument. Not thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace kvt::policy {

/// Bytes that may move in one direction. Refilled as time passes, never above the capacity.
///
/// Invariants: available() <= capacity; who pays only what is available takes, over any time, at most the
/// capacity and what was added.
class TokenBucket {
 public:
  struct Limits {
    double bytes_per_second = 0;  ///< >= 0
    double capacity_bytes = 0;    ///< > 0: what may move at once after a pause
    /// >= 0: how much more, as a share of the rate, on a link that readers leave idle
    double idle_credit = 0;
  };
  /// Full. Limits that are not as said count as 0, a capacity of 0 as "nothing moves".
  explicit TokenBucket(const Limits& limits);
  /// What is available stays, as far as it fits.
  void set_limits(const Limits& limits);

  /// `seconds` have passed, in which readers used `utilisation` (0..1) of the bandwidth behind the link:
  /// rate * (1 + idle_credit * (1 - utilisation)) a second. What is not a number or negative counts as no
  /// time, and a link whose utilisation is not known as one in full use.
  void add(double seconds, double utilisation);
  /// Takes them, whatever there is: what is done cannot wait.
  void pay(double bytes) { bytes_ -= bytes; }
  /// What was paid for and not done.
  void give_back(double bytes);
  [[nodiscard]] bool is_full() const { return bytes_ >= limits_.capacity_bytes; }
  [[nodiscard]] double available() const { return bytes_; }  ///< negative: a debt

 private:
  Limits limits_;
  double bytes_ = 0;
};

/// Both directions of a full-duplex link. A promotion and the demotion that makes room for it are two
/// transfers at once, so each pays its own direction and neither waits for the other.
struct LinkBudget {
  TokenBucket in;   ///< towards the consumer: promotions
  TokenBucket out;  ///< away from it: demotions by copy
};

/// What one arena asks of a budget.
struct Claim {
  uint32_t weight = 1;   ///< of what is left above the minimums; 0: only what nobody else wants
  uint64_t minimum = 0;  ///< due before anybody gets more, as far as it is wanted
  uint64_t wanted = 0;
};

/// Divides `budget` by weighted water filling: part[i] = clamp(level * weight[i], min(minimum[i], wanted[i]),
/// wanted[i]) with the level that uses the budget up, rounded to whole units. The parts add up to min(budget,
/// sum of wanted) exactly. Minimums that together exceed the budget are met in proportion. Units left by
/// rounding go to the largest remainders, then to lower indices. REQUIRES: budget and the sums of
/// minimums and of what is wanted are below 2^50, 1 PiB: then doubles know each unit.
std::vector<uint64_t> divide(uint64_t budget, std::span<const Claim> claims);

}  // namespace kvt::policy
