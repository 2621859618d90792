// SPDX-License-Identifier: Apache-2.0
#include "daemon/policy/explain.h"

#include <algorithm>

namespace kvt::policy {
namespace {

/// The fastest tier that its density belongs into, or the tier that it is in.
uint32_t wanted_tier(const Plan& plan, const PageSample& page) {
  for (uint32_t tier = 0; tier < page.tier; ++tier)
    if (tier >= plan.thresholds.size() || page.expected >= plan.thresholds[tier]) return tier;
  return page.tier;
}

/// What keeps a page of a slower tier from moving, though it is in no plan.
Verdict held_back(const Snapshot& snapshot, const PageFacts& page, const Explanation& why) {
  if (!page.sealed) return Verdict::kNotSealed;
  if (page.moving) return Verdict::kMoving;
  if (page.pinned) return Verdict::kPinned;
  if (page.cooling != 0) return Verdict::kCooling;
  if (why.tier == 0) return Verdict::kFastest;
  if (!page.candidate) return Verdict::kNotRead;
  if (why.target_tier == why.tier) return Verdict::kBand;
  const bool reused = why.in_stay_gate > 0 && why.expected > why.coldest &&
                      why.in_stay - why.coldest_in_stay > why.in_stay_gate;
  if (!why.free_frame && why.expected - why.coldest <= why.gate && !reused) return Verdict::kGate;
  if (snapshot.tiers[why.target_tier].free_frames == 0) return Verdict::kNoRoom;
  if (snapshot.allowance.in_bytes < snapshot.page_bytes) return Verdict::kAllowance;
  return Verdict::kTurn;
}

}  // namespace

const char* verdict_name(Verdict verdict) {
  switch (verdict) {
    case Verdict::kMoves: return "moves";
    case Verdict::kFastest: return "fastest";
    case Verdict::kNotSealed: return "not_sealed";
    case Verdict::kMoving: return "moving";
    case Verdict::kPinned: return "pinned";
    case Verdict::kCooling: return "cooling";
    case Verdict::kNotRead: return "not_read";
    case Verdict::kBand: return "band";
    case Verdict::kGate: return "gate";
    case Verdict::kNoRoom: return "no_room";
    case Verdict::kAllowance: return "allowance";
    case Verdict::kTurn: return "turn";
  }
  return "";
}

Explanation explain(const Snapshot& snapshot, const Plan& plan, const Settings& settings,
                    const PageFacts& page) {
  const PageSample& sample = page.sample;
  Explanation why;
  why.tier = sample.tier;
  why.expected = sample.expected;
  why.in_stay = sample.in_stay;
  uint32_t colder = 0;
  for (const PageSample& other : snapshot.residents) {
    if (other.tier != sample.tier || other.page == sample.page) continue;
    ++why.looked_at;
    colder += other.expected < sample.expected ? 1 : 0;
  }
  if (why.looked_at != 0) why.colder_share = static_cast<float>(colder) / static_cast<float>(why.looked_at);

  why.target_tier = wanted_tier(plan, sample);
  if (sample.group < snapshot.groups.size())
    why.balance = balance_of(snapshot, snapshot.groups[sample.group],
                             std::min(why.target_tier, why.tier == 0 ? 0 : why.tier - 1) + 1, settings);
  if (why.target_tier < why.tier) {
    const TierState& target = snapshot.tiers[why.target_tier];
    why.cost = promotion_cost(snapshot, why.tier, why.target_tier, sample.can_offer);
    why.gate = gate_of(why.cost, why.balance.balanced, settings);
    if (!why.balance.balanced && why.target_tier == 0) why.in_stay_gate = in_stay_gate(snapshot, why.cost);
    why.free_frame = target.free_frames + target.coming_frames > target.reserve_frames;
    if (why.target_tier < plan.thresholds.size()) why.threshold = plan.thresholds[why.target_tier];
    bool any = false;
    for (const PageSample& other : snapshot.residents) {
      if (other.tier != why.target_tier || (any && other.expected >= why.coldest)) continue;
      why.coldest = other.expected;
      why.coldest_in_stay = other.in_stay;
      any = true;
    }
  }
  const auto move = std::find_if(plan.moves.begin(), plan.moves.end(),
                                 [&](const Move& each) { return each.page == sample.page; });
  if (move != plan.moves.end()) {
    why.verdict = Verdict::kMoves;
    why.move = *move;
    why.target_tier = move->target_tier;
  } else {
    why.verdict = held_back(snapshot, page, why);
  }
  return why;
}

}  // namespace kvt::policy
