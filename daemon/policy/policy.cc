// SPDX-License-Identifier: Apache-2.0
#include "daemon/policy/policy.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <unordered_set>
#include <utility>

namespace kvt::policy {
namespace {

bool hotter(const PageSample& a, const PageSample& b) {
  return a.expected != b.expected ? a.expected > b.expected : a.page < b.page;
}
bool colder(const PageSample& a, const PageSample& b) {
  if (a.expected != b.expected) return a.expected < b.expected;
  // Of two that are equally cold: one that nobody's prefix needs, then one that leaves for nothing.
  if (a.has_children != b.has_children) return !a.has_children;
  if (a.has_shadow != b.has_shadow) return a.has_shadow;
  return a.page < b.page;
}

/// Bandwidth of the tiers [from, to) read at once. Links may lie one behind the other: the inner ones first.
double bandwidth(const Snapshot& s, uint32_t from, uint32_t to) {
  std::array<double, bands::kTiersMax> reads{};
  for (uint32_t tier = from; tier < to; ++tier) reads[tier] = s.tiers[tier].read_bytes_per_second;
  std::vector<bands::Link> links = s.links;
  std::sort(links.begin(), links.end(), [](const auto& a, const auto& b) {
    const auto inner = std::popcount(a.tiers) - std::popcount(b.tiers);
    return inner != 0
               ? inner < 0
               : std::pair(a.tiers, a.read_bytes_per_second) < std::pair(b.tiers, b.read_bytes_per_second);
  });
  for (const bands::Link& link : links) {
    double behind = 0;
    for (uint32_t tier = from; tier < to; ++tier) behind += (link.tiers >> tier & 1) != 0 ? reads[tier] : 0;
    if (behind <= link.read_bytes_per_second) continue;
    for (uint32_t tier = from; tier < to; ++tier)
      if ((link.tiers >> tier & 1) != 0) reads[tier] *= link.read_bytes_per_second / behind;
  }
  return std::accumulate(reads.begin(), reads.end(), 0.0);
}

/// [tier]: least density of a page that belongs there or above it. Where two tiers are worth the same, none
/// does.
std::vector<float> thresholds_of(const Snapshot& s) {
  const auto tiers = static_cast<uint32_t>(s.tiers.size());
  std::vector<float> thresholds(tiers, 0);
  if (tiers == 2 || s.histogram.empty()) return thresholds;
  std::vector<bands::Tier> tier_of;
  for (const TierState& tier : s.tiers)
    tier_of.push_back({static_cast<double>(tier.frames * s.page_bytes), tier.read_bytes_per_second});
  bands::Workspace workspace;
  bands::Solution solution;
  std::vector<double> fixed(tiers, 0);
  for (const GroupState& group : s.groups) fixed[0] += group.fixed_fast_bytes;
  bands::solve({s.histogram, tier_of, s.links, 1, fixed}, workspace, solution);
  if (solution.outcome != bands::Outcome::kSolved) return thresholds;
  // A tier's band begins where that of some tier before it or its own begins lowest.
  for (uint32_t tier = 0; tier + 1 < tiers; ++tier) {
    float least = std::numeric_limits<float>::infinity();
    for (const bands::Threshold& threshold : solution.thresholds)
      if (threshold.tier <= tier) least = std::min(least, static_cast<float>(threshold.from_density));
    thresholds[tier] = least;
  }
  return thresholds;
}

class Planner {
 public:
  Planner(const Snapshot& snapshot, const Settings& settings)
      : s_(snapshot), settings_(settings), tiers_(static_cast<uint32_t>(snapshot.tiers.size())) {
    for (const TierState& tier : s_.tiers) {
      free_now_.push_back(tier.free_frames);
      free_soon_.push_back(tier.free_frames + tier.coming_frames);
    }
  }

  Plan run() {
    plan_.thresholds = thresholds_of(s_);
    for (const GroupState& group : s_.groups) plan_.groups.push_back(balance_of(s_, group, 1, settings_));
    candidates_ = s_.candidates;
    std::sort(candidates_.begin(), candidates_.end(), hotter);
    for (uint32_t tier = 0; tier + 1 < tiers_; ++tier) {
      fill(tier);
      for (const PageSample& page : victims_)
        if (!taken_.contains(page.page)) plan_.cold.push_back(page.page);
    }
    // Each once, however often it was drawn: else those that stay cold would become more in every plan.
    std::sort(plan_.cold.begin(), plan_.cold.end());
    plan_.cold.erase(std::unique(plan_.cold.begin(), plan_.cold.end()), plan_.cold.end());
    if (candidates_.empty()) plan_.held_back = HeldBack::kNoCandidate;
    return std::move(plan_);
  }

 private:
  /// Rules 3 to 6 at the limit behind `tier`.
  void fill(uint32_t tier) {
    find_victims(tier);
    // Room for new pages first: an engine waits for it.
    while (tier == 0 && free_soon_[tier] < s_.tiers[tier].reserve_frames &&
           plan_.moves.size() < settings_.moves_max) {
      const PageSample* const victim = coldest();
      if (victim == nullptr || !demote(*victim, Reason::kReserve, 0, 0)) break;
      ++free_soon_[tier];
    }
    balances_.clear();
    for (const GroupState& group : s_.groups) balances_.push_back(balance_of(s_, group, tier + 1, settings_));
    refused_.clear();
    const PageSample* last = nullptr;
    for (const PageSample& page : candidates_) {
      if (page.tier <= tier || (last != nullptr && last->page == page.page)) continue;
      last = &page;
      if (page.expected < plan_.thresholds[tier]) break;
      if (taken_.contains(page.page)) continue;  // a page is moved once
      switch (promote(page, tier)) {
        case Outcome::kEnd: return;
        case Outcome::kPromoted: break;
        case Outcome::kRefused:
          if (plan_.held_back == HeldBack::kNothing) plan_.held_back = HeldBack::kGate;
          if (page.expected <= coldest()->expected) return;  // the rest is colder still
          refused_.push_back(&page);  // a colder one may have a lower gate: an offer, another group
      }
      // The next victim may be one that somebody who was refused can replace: a plan leaves nothing to the
      // one after it.
      while (const PageSample* const refused = refused_that_pays(tier))
        if (promote(*refused, tier) == Outcome::kEnd) return;
    }
  }

  /// Of those whom the gate has kept from an earlier victim's place; null: none pays for the one that is the
  /// coldest now.
  const PageSample* refused_that_pays(uint32_t tier) {
    const PageSample* const victim = coldest();
    if (victim == nullptr || tier != 0) return nullptr;
    for (const PageSample* const page : refused_)
      if (!taken_.contains(page->page) &&
          pays_in_stay(*page, *victim, promotion_cost(s_, page->tier, tier, page->can_offer)))
        return page;
    return nullptr;
  }

  /// Whether it is in place of `victim` for its reuse that the page is promoted.
  [[nodiscard]] bool pays_in_stay(const PageSample& page, const PageSample& victim, float cost) const {
    return !is_balanced(page.group) && policy::pays_in_stay(s_, page, victim, cost);
  }
  [[nodiscard]] bool is_balanced(uint32_t group) const {
    return group < balances_.size() && balances_[group].balanced;
  }

  enum class Outcome : uint8_t { kPromoted, kRefused, kEnd };
  /// Rules 3 and 4 for one page.
  Outcome promote(const PageSample& page, uint32_t tier) {
    const float cost = promotion_cost(s_, page.tier, tier, page.can_offer);
    const float gate = gate_of(cost, is_balanced(page.group), settings_);
    if (plan_.held_back == HeldBack::kNothing) plan_.gate = gate;
    if (plan_.moves.size() + 2 > settings_.moves_max) return hold(HeldBack::kMovesMax);
    if (in_ + s_.page_bytes > s_.allowance.in_bytes) return hold(HeldBack::kAllowance);
    if (free_now_[tier] == 0) return hold(HeldBack::kNoRoom);
    Move move{
        page.page, tier, Reason::kFreeFrame, page.can_offer ? How::kOffer : How::kCopy, page.expected, 0,
        0,         cost};
    if (free_soon_[tier] > s_.tiers[tier].reserve_frames) {
      --free_soon_[tier];
    } else {
      const PageSample* const found = coldest();
      if (found == nullptr) return hold(HeldBack::kNoRoom);
      const PageSample& victim = *found;
      plan_.coldest = victim.expected;
      if (page.expected - victim.expected > gate) {
        move.reason = Reason::kSwap;
        move.replaced = victim.expected;
        move.gate = gate;
      } else if (pays_in_stay(page, victim, cost)) {
        move.reason = Reason::kReuse;
        move.expected = page.in_stay;
        move.replaced = victim.in_stay;
        move.gate = in_stay_gate(s_, cost);
      } else {
        return Outcome::kRefused;
      }
      if (!demote(victim, Reason::kMakeRoom, page.expected, gate)) return Outcome::kEnd;
    }
    in_ += s_.page_bytes;
    --free_now_[tier];
    plan_.moves.push_back(move);
    taken_.insert(page.page);
    return Outcome::kPromoted;
  }

  /// The coldest of the sample, in order, as many as may leave; and behind them, in no order, those to look
  /// at again.
  void find_victims(uint32_t tier) {
    victims_.clear();
    next_victim_ = 0;
    for (const PageSample& page : s_.residents)
      if (page.tier == tier) victims_.push_back(page);
    const uint64_t missing = s_.tiers[tier].reserve_frames > free_soon_[tier]
                                 ? s_.tiers[tier].reserve_frames - free_soon_[tier]
                                 : 0;
    const uint64_t wanted = std::min<uint64_t>(settings_.moves_max, candidates_.size() + missing);
    const auto leave =
        victims_.begin() + static_cast<std::ptrdiff_t>(std::min<uint64_t>(victims_.size(), 2 * wanted));
    const auto again = victims_.begin() + static_cast<std::ptrdiff_t>(std::min<uint64_t>(
                                              victims_.size(), (2 + uint64_t{settings_.sample}) * wanted));
    if (again != victims_.end()) std::nth_element(victims_.begin(), again, victims_.end(), colder);
    if (leave != again) std::nth_element(victims_.begin(), leave, again, colder);
    std::sort(victims_.begin(), leave, colder);
    victims_.erase(again, victims_.end());
  }

  /// The coldest that has not left yet.
  const PageSample* coldest() {
    while (next_victim_ < victims_.size() && taken_.contains(victims_[next_victim_].page)) ++next_victim_;
    return next_victim_ < victims_.size() ? &victims_[next_victim_] : nullptr;
  }

  /// The fastest slower tier with room above its reserve; of one that has the bytes already, that.
  bool demote(const PageSample& victim, Reason reason, float instead, float gate) {
    Move move{victim.page, 0, reason, How::kShadow, victim.expected, instead, gate, 0};
    if (!victim.has_shadow) {
      move.how = How::kCopy;
      if (out_ + s_.page_bytes > s_.allowance.out_bytes) {
        hold(HeldBack::kAllowance);
        return false;
      }
      for (uint32_t to = victim.tier + 1u; to < tiers_ && move.target_tier == 0; ++to)
        if (free_now_[to] > s_.tiers[to].reserve_frames) move.target_tier = to;
      if (move.target_tier == 0) {
        hold(HeldBack::kNoRoom);
        return false;
      }
      --free_now_[move.target_tier];
      --free_soon_[move.target_tier];
      out_ += s_.page_bytes;
      move.cost = 1;
    } else {
      move.target_tier = victim.tier + 1u;
    }
    plan_.moves.push_back(move);
    taken_.insert(victim.page);
    return true;
  }

  Outcome hold(HeldBack why) {
    plan_.held_back = why;
    return Outcome::kEnd;
  }

  const Snapshot& s_;
  const Settings& settings_;
  uint32_t tiers_;
  Plan plan_;
  std::vector<PageSample> candidates_, victims_;
  std::unordered_set<uint32_t> taken_;
  std::vector<Balance> balances_;  // by group, at the limit that is looked at
  // Candidates that are hotter than the coldest, but not by their gates
  std::vector<const PageSample*> refused_;
  std::vector<uint64_t> free_now_, free_soon_;
  size_t next_victim_ = 0;
  uint64_t in_ = 0, out_ = 0;
};

}  // namespace

const char* reason_name(Reason reason) {
  switch (reason) {
    case Reason::kFreeFrame: return "free frame";
    case Reason::kSwap: return "swap";
    case Reason::kReuse: return "reuse";
    case Reason::kMakeRoom: return "makes room";
    case Reason::kReserve: return "reserve";
    case Reason::kChurn: return "churn";
  }
  return "";
}

const char* held_back_name(HeldBack held) {
  switch (held) {
    case HeldBack::kNothing: return "nothing";
    case HeldBack::kNoCandidate: return "no page was read from a slow tier";
    case HeldBack::kGate: return "gate";
    case HeldBack::kAllowance: return "allowance";
    case HeldBack::kMovesMax: return "moves a plan";
    case HeldBack::kNoRoom: return "no room";
  }
  return "";
}

Balance balance_of(const Snapshot& s, const GroupState& group, uint32_t limit, const Settings& settings) {
  Balance balance;
  const auto tiers = static_cast<uint32_t>(s.tiers.size());
  for (uint32_t tier = 0; tier < tiers && tier < group.bytes_read.size(); ++tier) {
    balance.bytes_read += group.bytes_read[tier];
    if (tier >= limit) balance.bytes_slow += group.bytes_read[tier];
  }
  const double fast = bandwidth(s, 0, limit);
  const double slow = bandwidth(s, limit, tiers);
  // With fixed traffic w beside the A bytes, H* = (B1 A - B2 w) / (B1 + B2) of them come from the fast side;
  // the rest is slow.
  const double best = slow * (balance.bytes_read + group.fixed_fast_bytes) / (fast + slow);
  balance.bytes_slow_best = std::clamp(best, 0.0, balance.bytes_read);
  balance.balanced =
      balance.bytes_slow < static_cast<double>(settings.balanced_share) * balance.bytes_slow_best;
  return balance;
}

float promotion_cost(const Snapshot& s, uint32_t from, uint32_t to, bool offer) {
  const double write = s.tiers[from].read_bytes_per_second / s.tiers[to].write_bytes_per_second;
  return static_cast<float>(offer ? write : 1 + write);
}

float gate_of(float cost, bool balanced, const Settings& settings) {
  const float gate = std::max(cost, settings.least_cost) / settings.horizon;
  return balanced ? std::max(gate, settings.balanced_gate) : gate;
}

bool pays_in_stay(const Snapshot& s, const PageSample& page, const PageSample& victim, float cost) {
  return victim.tier == 0 && s.stay_periods > 0 && page.expected > victim.expected &&
         page.in_stay - victim.in_stay > in_stay_gate(s, cost);
}

float in_stay_gate(const Snapshot& s, float cost) {
  return s.stay_periods > 0 ? cost / static_cast<float>(s.stay_periods) : 0;
}

Plan plan(const Snapshot& snapshot, const Settings& settings) {
  if (snapshot.tiers.size() < 2) return {};
  return Planner(snapshot, settings).run();
}

Plan churn(const Snapshot& s, uint64_t seed, uint64_t moves_max) {
  Plan plan;
  if (s.tiers.size() < 2) return plan;
  const auto next = [&seed] {
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return seed >> 33;
  };
  uint64_t budget = std::min(s.allowance.in_bytes, s.allowance.out_bytes);
  uint64_t free_fast = s.tiers[0].free_frames;
  std::vector<uint64_t> taken(s.tiers.size(), 0);
  const auto slower = [&] {
    for (uint32_t i = 1; i < s.tiers.size(); ++i)
      if (s.tiers[i].free_frames > s.tiers[i].reserve_frames + taken[i]) return i;
    return 0u;
  };
  for (size_t i = 0; plan.moves.size() < moves_max && budget >= s.page_bytes &&
                     (i < s.residents.size() || i < s.candidates.size());
       ++i) {
    if (i < s.residents.size() && s.residents[i].tier == 0) {
      const PageSample& page = s.residents[i];
      const uint32_t target = page.has_shadow && next() % 2 == 0 ? 1 : slower();
      if (target != 0) {
        ++taken[target];
        plan.moves.push_back({page.page, target, Reason::kChurn, page.has_shadow ? How::kShadow : How::kCopy,
                              page.expected, 0, 0, 1});
        if (!page.has_shadow) budget -= s.page_bytes;
      }
    }
    if (i < s.candidates.size() && budget >= s.page_bytes && free_fast > 1) {
      --free_fast;
      plan.moves.push_back({s.candidates[i].page, 0, Reason::kChurn,
                            s.candidates[i].can_offer && next() % 2 == 0 ? How::kOffer : How::kCopy,
                            s.candidates[i].expected, 0, 0, 1});
      budget -= s.page_bytes;
    }
  }
  return plan;
}

}  // namespace kvt::policy
