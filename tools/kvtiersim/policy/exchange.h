// SPDX-License-Identifier: Apache-2.0
//
// The one step that ranking policies have in common: pages that pass by take the places of colder ones in the
// fast tier.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "tools/kvtiersim/model/world.h"

namespace kvt::sim {

/// Keeps its buffers between steps. Deterministic: of equal scores the lower page is the hotter (of a
/// prompt the beginning, which the rest is worth nothing without).
class Exchange {
 public:
  struct Scored {
    double score;
    uint32_t page;
  };

  /// Candidates are the pages outside the fast tier that were read or born in this step. Free frames take the
  /// hottest of them; then the hottest candidate takes the place of the coldest fast page, the next of the
  /// next, while score(candidate) - score(victim) > gate, and until the sum of those differences has reached
  /// `gain_max`. The time is linear in the fast tier's pages.
  template <class Score>
  void run(const StepView& step, World& world, double gate, double gain_max, const Score& score) {
    collect(step, world, score);
    if (candidates_.empty()) return;
    const size_t free = std::min<size_t>(world.room(), candidates_.size());
    if (free != 0) {
      std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(free),
                        candidates_.end(), hotter);
      for (size_t i = 0; i < free; ++i) world.promote(candidates_[i].page);
      candidates_.erase(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(free));
    }
    if (candidates_.empty() || world.room() != 0 || world.capacity() == 0) return;

    // Only victims that the hottest candidate could replace, then only candidates that could replace the
    // coldest of them.
    const double hottest = std::min_element(candidates_.begin(), candidates_.end(), hotter)->score;
    victims_.clear();
    double coldest = hottest;
    for (const uint32_t page : world.members(0)) {
      const double victim = score(page);
      if (hottest - victim > gate) victims_.push_back({victim, page});
      coldest = std::min(coldest, victim);
    }
    std::erase_if(candidates_, [&](const Scored& candidate) { return !(candidate.score - coldest > gate); });
    if (candidates_.empty() || victims_.empty()) return;
    if (std::isfinite(gain_max))
      keep_pairs_in_order(gate, gain_max);
    else
      keep_pairs(gate);
    for (size_t i = 0; i < candidates_.size(); ++i) {
      world.demote(victims_[i].page);
      world.promote(candidates_[i].page);
    }
  }

  /// The candidates of the last collect(), unordered.
  [[nodiscard]] std::vector<Scored>& candidates() { return candidates_; }

  template <class Score>
  void collect(const StepView& step, const World& world, const Score& score) {
    candidates_.clear();
    for (const uint32_t page : step.page)
      if (!world.fast(page)) candidates_.push_back({score(page), page});
    for (const uint32_t page : step.born)
      if (!world.fast(page) && !std::binary_search(step.page.begin(), step.page.end(), page))
        candidates_.push_back({score(page), page});
  }

  static bool hotter(const Scored& a, const Scored& b) {
    return a.score != b.score ? a.score > b.score : a.page < b.page;
  }
  static bool colder(const Scored& a, const Scored& b) {
    return a.score != b.score ? a.score < b.score : a.page > b.page;
  }

 private:
  /// Leaves those that change places, the i-th hottest with the i-th coldest, in order.
  void keep_pairs_in_order(double gate, double gain_max) {
    const size_t count = std::min(candidates_.size(), victims_.size());
    const auto first = [&](std::vector<Scored>& from, bool (*before)(const Scored&, const Scored&)) {
      const auto end = from.begin() + static_cast<std::ptrdiff_t>(count);
      if (end != from.end()) std::nth_element(from.begin(), end, from.end(), before);
      std::sort(from.begin(), end, before);
    };
    first(candidates_, hotter);
    first(victims_, colder);
    double gain = 0;
    size_t pairs = 0;
    for (; pairs < count && gain < gain_max; ++pairs) {
      const double difference = candidates_[pairs].score - victims_[pairs].score;
      if (!(difference > gate)) break;
      gain += difference;
    }
    candidates_.resize(pairs);
    victims_.resize(pairs);
  }

  /// The same pages without sorting: with the gate added to the victims' scores, those that are among the
  /// best victims_.size() of all are to be in the fast tier. In the order in which they were.
  void keep_pairs(double gate) {
    all_.clear();
    for (const Scored& victim : victims_) all_.push_back({victim.score + gate, victim.page, true});
    for (const Scored& candidate : candidates_) all_.push_back({candidate.score, candidate.page, false});
    // Of equal ones a page stays where it is.
    const auto better = [](const Placed& a, const Placed& b) {
      if (a.score != b.score) return a.score > b.score;
      if (a.fast != b.fast) return a.fast;
      return a.page < b.page;
    };
    const auto last = all_.begin() + static_cast<std::ptrdiff_t>(victims_.size()) - 1;
    std::nth_element(all_.begin(), last, all_.end(), better);
    const Placed least = *last;
    std::erase_if(candidates_, [&](const Scored& candidate) {
      return better(least, {candidate.score, candidate.page, false});
    });
    std::erase_if(victims_, [&](const Scored& victim) {
      return !better(least, {victim.score + gate, victim.page, true});
    });
  }

  struct Placed {
    double score;
    uint32_t page;
    bool fast;
  };
  std::vector<Scored> candidates_;
  std::vector<Scored> victims_;
  std::vector<Placed> all_;
};

}  // namespace kvt::sim
