// SPDX-License-Identifier: Apache-2.0
//
// The Lagrangian relaxation of placement. A step takes as long as its slowest resource, and the fast tier has
// room for so many pages; with a price on each second of each resource and on each page of room, what is left
// falls apart into one shortest path for each page through the steps, between {slow} and {fast and slow}.
// Whatever the prices are, the sum of those paths is a lower bound on the time of every schedule of World and
// simulate(), clairvoyant ones too:
//
//   step n   = max(fast, slow, written) + kappa * the second of fast and max(slow, written)
//           >= fast_weight * fast + slow_weight * slow + written_weight * written,  for weights of sum 1 +
//           kappa
//   fast     = (fixed + reads of pages in the fast tier + pages promoted) / B1
//   slow     = (reads of pages that are slow + pages copied out of band) / B2
//   written  = bytes written for new tokens / B2'
//
// A page in the fast tier may be read from either, in any mixture: its reads cost the cheaper of both. Moves
// decided after the reads of step n are charged to step n, and serve from step n + 1 on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tools/kvtiersim/bound/single_steps.h"
#include "tools/kvtiersim/model/machine.h"
#include "tools/kvtiersim/model/trace.h"

namespace kvt::sim {

/// A price for each step: [0, K) weight of the fast tier's time, kappa .. 1; [K, 2K) that of new tokens'
/// writes, which with the fast tier's leaves at least 0 of 1 + kappa for the slow tier's; [2K, 3K) seconds
/// for a page of room, >= 0.
using Prices = std::vector<double>;

/// What a set of paths, or a mixture of sets, asks of each step. In pages.
struct Loads {
  std::vector<double> fast_reads;  ///< of pages that are in the fast tier
  std::vector<double> promoted;    ///< written to the fast tier
  std::vector<double> copied;      ///< of those, read from the slow tier out of band
  std::vector<double> resident;    ///< in the fast tier while the step is read

  explicit Loads(size_t steps = 0) : fast_reads(steps), promoted(steps), copied(steps), resident(steps) {}
  void scale(double by);
  void add(const Loads& other, double weight);
};

/// REQUIRES: a finished trace; it and the machine outlive this. Not thread-safe.
class Relaxation {
 public:
  /// `start` has one entry a page, or one for all. Throws std::invalid_argument as single_steps() does.
  Relaxation(const Trace& trace, const Machine& machine, Cost cost, const std::vector<StartState>& start);

  [[nodiscard]] uint32_t steps() const { return steps_; }
  /// Pages with the same births, reads and start are one group.
  [[nodiscard]] size_t groups() const { return first_.size() - 1; }
  [[nodiscard]] const std::vector<uint32_t>& group_of() const {
    return group_of_;
  }  ///< of each page; UINT32_MAX: never read
  [[nodiscard]] uint32_t pages_of(size_t group) const { return pages_of_[group]; }
  struct Events {
    std::span<const uint32_t> step;
    std::span<const uint16_t> reads;
  };
  /// Steps in which the group is read, with its reads; and born, maybe with none.
  [[nodiscard]] Events events_of(size_t group) const {
    const auto begin = static_cast<size_t>(first_[group]);
    const size_t count = static_cast<size_t>(first_[group + 1]) - begin;
    return {std::span(event_step_).subspan(begin, count), std::span(event_reads_).subspan(begin, count)};
  }
  [[nodiscard]] bool free_start() const { return free_start_; }

  /// Seconds that no schedule beats. `loads` becomes what the shortest paths ask for.
  double bound(const Prices& prices, Loads& loads);
  /// The direction in which the bound rises, given the loads of the prices' paths.
  [[nodiscard]] Prices slope(const Prices& prices, const Loads& loads) const;
  /// Makes prices allowed, by moving them little.
  void project(Prices& prices) const;
  /// Seconds of these loads, rounded to no schedule; room is not looked at.
  [[nodiscard]] double seconds(const Loads& loads) const;
  [[nodiscard]] double room() const { return room_; }
  /// Makes loads fit: of each page, a share that changes from step to step stays, and the rest is slow.
  /// Loads, made of placements of fractions of pages, that come out are again those of such a placement; the
  /// cheapest of a few.
  [[nodiscard]] Loads fitted(const Loads& loads) const;
  /// Adds `weight` to share[group * steps + n] wherever the paths of these prices have the group in the fast
  /// tier.
  void add_paths(const Prices& prices, double weight, std::vector<float>& share);
  /// Each step on its own, with free moves between them.
  [[nodiscard]] const SingleSteps& single() const { return single_; }

 private:
  /// What step n costs a page, in seconds.
  struct StepCost {
    double slow;  // a read from the slow tier
    double fast;  // a read of a page that is in both
    double pass;  // to be promoted in a step in which it is read or born
    double copy;  // to be promoted in any other
    double rent;  // room up to and with this step
  };
  template <typename Visitor>
  double walk(const Prices& prices, Visitor&& visit);
  void make_costs(const Prices& prices);
  [[nodiscard]] uint32_t cheapest_copy(uint32_t begin, uint32_t end) const;  // step in [begin, end)
  [[nodiscard]] double slow_weight(const Prices& prices, uint32_t n) const {
    return 1 + machine_.kappa - prices[n] - prices[steps_ + n];
  }

  const Trace& trace_;
  const Machine& machine_;
  Cost cost_;
  SingleSteps single_;
  uint32_t steps_;
  bool free_start_;
  double fast_page_;  // seconds that the fast tier takes for a page
  double slow_page_;
  double room_;
  std::vector<double> asked_;  // reads of each step

  // Groups, each with its events: steps in which it is read, or born.
  enum class Begin : uint8_t { kSlow, kFast, kBorn };
  std::vector<uint64_t> first_;
  std::vector<uint32_t> event_step_;
  std::vector<uint16_t> event_reads_;
  std::vector<uint32_t> pages_of_;
  std::vector<Begin> begin_;
  std::vector<uint32_t> group_of_;

  // Of the prices at hand.
  std::vector<StepCost> cost_of_;
  // [level][n]: step of the cheapest copy, less rent, in [n, n + 2^level)
  std::vector<std::vector<uint32_t>> cheapest_;
  std::vector<double> copy_less_rent_;
  std::vector<uint8_t> came_from_;
};

}  // namespace kvt::sim
