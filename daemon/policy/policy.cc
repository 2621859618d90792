// SPDX-License-Identifier: Apache-2.0
#include "daemon/policy/policy.h"

#include <algorithm>
#include <cmath>

namespace kvt::policy {

namespace {

bool hotter(const PageSample& a, const PageSample& b) { return a.heat != b.heat ? a.heat > b.heat : a.page < b.page; }
bool colder(const PageSample& a, const PageSample& b) {
  // Of two equally cold pages, the one that leaves for nothing goes first.
  if (a.heat != b.heat) return a.heat < b.heat;
  if (a.has_shadow != b.has_shadow) return a.has_shadow;
  return a.page < b.page;
}

/// The tier that a page leaving the fast one goes to: the fastest slow one with room above its reserve.
uint32_t demotion_target(const std::vector<TierState>& tiers, const std::vector<uint64_t>& taken) {
  for (uint32_t i = 1; i < tiers.size(); ++i)
    if (tiers[i].free_frames > tiers[i].reserve_frames + taken[i]) return i;
  return 0;
}

}  // namespace

Plan balance(const Snapshot& s, const Settings& settings) {
  Plan plan;
  if (s.tiers.size() < 2) return plan;
  const TierState& fast = s.tiers[0];
  double slow_bandwidth = 0;
  for (size_t i = 0; i < s.tiers.size(); ++i) {
    plan.bytes_read += s.tiers[i].bytes_read;
    if (i != 0) slow_bandwidth += s.tiers[i].read_bytes_per_second;
  }
  plan.bytes_fast = fast.bytes_read;
  plan.bytes_fast_best = plan.bytes_read * fast.read_bytes_per_second / (fast.read_bytes_per_second + slow_bandwidth);

  const double z = slow_bandwidth > 0 ? std::max(0.0, std::log(fast.read_bytes_per_second / slow_bandwidth) / 1.702) : 0;
  plan.bytes_fast_target = std::min(plan.bytes_read, plan.bytes_fast_best + z * s.share_error * plan.bytes_read);

  uint64_t budget = s.budget_bytes;
  uint64_t free_now = fast.free_frames;
  uint64_t free_soon = fast.free_frames + fast.coming_frames;  // demotions of this plan included
  std::vector<uint64_t> taken(s.tiers.size(), 0);
  std::vector<PageSample> victims = s.fast_sample;
  std::sort(victims.begin(), victims.end(), colder);
  victims.erase(std::unique(victims.begin(), victims.end(), [](const PageSample& a, const PageSample& b) { return a.page == b.page; }),
                victims.end());
  size_t next_victim = 0;
  const auto page_bytes = static_cast<double>(s.page_bytes);

  /// Moves the next victim out, if the budget has it. Its shadow's frame costs nothing.
  const auto demote = [&](const PageSample& victim, Reason reason) {
    const uint64_t cost = victim.has_shadow ? 0 : s.page_bytes;
    const uint32_t target = victim.has_shadow ? 1 : demotion_target(s.tiers, taken);
    if (cost > budget || target == 0) return false;
    if (!victim.has_shadow) ++taken[target];
    budget -= cost;
    plan.moves.push_back(Move{victim.page, target, reason});
    return true;
  };

  // 4. Room for new pages first: an engine waits for it.
  while (free_soon < fast.reserve_frames && next_victim < victims.size() && plan.moves.size() < settings.moves_max) {
    const PageSample& victim = victims[next_victim];
    if (!demote(victim, Reason::kReserve)) break;
    ++next_victim;
    ++free_soon;
  }

  const double band = settings.dead_band * plan.bytes_read;
  if (plan.bytes_fast < plan.bytes_fast_target - band) {
    double missing = plan.bytes_fast_target - plan.bytes_fast;
    std::vector<PageSample> candidates = s.slow_touched;
    const auto wanted = std::min<size_t>(candidates.size(), settings.moves_max);
    std::partial_sort(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(wanted), candidates.end(), hotter);
    for (size_t i = 0; i < wanted && plan.moves.size() < settings.moves_max; ++i) {
      const PageSample& page = candidates[i];
      const double gain = static_cast<double>(page.heat) * page_bytes;
      // A page that would pass the balance point stays; a colder one may still fit.
      if (missing <= 0 || budget < s.page_bytes || free_now == 0) break;
      if (gain > missing + band) continue;
      const auto same = [&](const PageSample& other) { return other.page == page.page; };
      if (std::any_of(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(i), same)) continue;
      double loss = 0;
      if (free_soon > fast.reserve_frames) {
        --free_soon;
      } else {
        if (next_victim >= victims.size()) break;
        const PageSample& victim = victims[next_victim];
        if (page.heat <= victim.heat * settings.swap_gain + 1e-6f) break;  // the rest is colder still
        if (!victim.has_shadow && budget < 2 * s.page_bytes) break;
        if (!demote(victim, Reason::kMakeRoom)) break;
        loss = static_cast<double>(victim.heat) * page_bytes;
        ++next_victim;
      }
      plan.moves.push_back(Move{page.page, 0, Reason::kBalancePromote});
      budget -= s.page_bytes;
      --free_now;
      missing -= gain - loss;
    }
  } else if (plan.bytes_fast > plan.bytes_fast_target + band) {
    // The slow tiers idle: hot pages with a shadow are read from there again, which costs nothing.
    double surplus = plan.bytes_fast - plan.bytes_fast_target;
    for (size_t i = victims.size(); i > next_victim && plan.moves.size() < settings.moves_max; --i) {
      const PageSample& page = victims[i - 1];
      const double gain = static_cast<double>(page.heat) * page_bytes;
      if (!page.has_shadow || gain <= 0 || gain > surplus) continue;
      plan.moves.push_back(Move{page.page, 1, Reason::kBalanceDemote});
      surplus -= gain;
      if (surplus <= 0) break;
    }
  }
  return plan;
}

Plan churn(const Snapshot& s, uint64_t seed, uint64_t moves_max) {
  Plan plan;
  if (s.tiers.size() < 2) return plan;
  const auto next = [&seed] {
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return seed >> 33;
  };
  uint64_t budget = s.budget_bytes;
  uint64_t free_fast = s.tiers[0].free_frames;
  std::vector<uint64_t> taken(s.tiers.size(), 0);
  for (size_t i = 0; plan.moves.size() < moves_max && budget >= s.page_bytes && (i < s.fast_sample.size() || i < s.slow_touched.size()); ++i) {
    if (i < s.fast_sample.size()) {
      const PageSample& page = s.fast_sample[i];
      const uint32_t target = page.has_shadow && next() % 2 == 0 ? 1 : demotion_target(s.tiers, taken);
      if (target != 0) {
        ++taken[target];
        plan.moves.push_back(Move{page.page, target, Reason::kChurn});
        if (!page.has_shadow) budget -= s.page_bytes;
      }
    }
    if (i < s.slow_touched.size() && budget >= s.page_bytes && free_fast > 1) {
      --free_fast;
      plan.moves.push_back(Move{s.slow_touched[i].page, 0, Reason::kChurn});
      budget -= s.page_bytes;
    }
  }
  return plan;
}

}  // namespace kvt::policy
