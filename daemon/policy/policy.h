// SPDX-License-Identifier: Apache-2.0
//
// Placement as a pure function: a Snapshot goes in, a Plan comes out. No clock, no I/O, no threads, no system
// header; the same object code runs in the daemon, in the simulator and in the tests. Same input, same
// output.
//
// The rule, for one column (docs/placement.md tells where it comes from, and what each part is worth):
//   1. A page's density is the number of reads that the predictor expects of it in the next period.
//   2. Tiers read at once are balanced where they finish together: of A bytes read, the tiers behind the fast
//      one should serve the share B_slow/(B_fast+B_slow), fixed traffic counted in. While they serve more,
//      the step waits for them.
//   3. A page read from a slow tier replaces one of the fast tier when it is expected to be read more often
//      by the gate: what the promotion costs, in reads from the slow tier (Settings::least_cost at least),
//      over the periods in which it pays (Settings::horizon). Where
//      the slow tiers serve less than three quarters of their balanced share, a promotion gains nothing now,
//      and the gate is three quarters of a read. Free frames need no gate.
//      Or when it is more probable, by that cost, that it is read while it stays in the fast tier: where
//      pages are read once in hundreds of periods, no difference in the next six is worth anything, and yet
//      one in four is read before it leaves.
//   4. What a promotion costs: B_slow/B_fast when a reader fills the frame while it reads the page anyway (an
//      offer), one read more when it is copied out of band. Leaving for a tier that has the bytes already (a
//      shadow) costs nothing.
//   5. The one that leaves is the coldest of a random sample; of two that are equal, one that nobody's prefix
//      needs.
//   6. The fast tier keeps `reserve` frames free for new pages.
//   7. With more than two tiers, pages belong into bands of density, whose limits are those of the exact
//      optimum of one step over the histogram of all pages (bands.h); 3 holds at every limit.
//   8. Copies and offers stay within what their link may carry now, each direction by itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "daemon/policy/bands.h"

namespace kvt::policy {

/// A page and what is expected of it.
struct PageSample {
  uint32_t page = 0;
  float expected = 0;  ///< reads in the next period
  float in_stay = 0;   ///< probability of being read while it stays in tiers[0], over Snapshot::stay_periods
  uint8_t tier = 0;    ///< index into Snapshot::tiers
  uint8_t group = 0;   ///< index into Snapshot::groups
  bool has_shadow = false;    ///< can leave for a slower tier without a copy
  bool has_children = false;  ///< other pages are useful only with it
  bool can_offer = false;     ///< a session that read it in this period may fill a frame for it
};

struct TierState {
  double read_bytes_per_second = 0;
  double write_bytes_per_second = 0;
  uint64_t frames = 0;
  uint64_t free_frames = 0;     ///< now
  uint64_t coming_frames = 0;   ///< in limbo: free when the steps that are open have ended
  uint64_t reserve_frames = 0;  ///< to be kept free or coming; of a slow tier: what a demotion must leave
};

/// What may be moved now, in bytes: towards the consumer, and away from it.
struct Allowance {
  uint64_t in_bytes = UINT64_MAX;
  uint64_t out_bytes = UINT64_MAX;
};

/// Pages read by the same kernel launch: balanced by itself.
struct GroupState {
  std::vector<double> bytes_read;  ///< [tier] in this period, by the place of the page
  double fixed_fast_bytes = 0;     ///< read from the fast tier whatever the placement is (weights)
};

struct Settings {
  float horizon = 6;  ///< periods in which a promotion is expected to pay
  /// Reads: smaller differences over the horizon are what expectations are wrong by
  float least_cost = 1.0f / 12;
  /// Of the balanced share of the slow tiers, under which nothing is gained now
  float balanced_share = 0.75f;
  float balanced_gate = 0.75f;  ///< reads a period
  uint32_t sample = 8;          ///< pages of the fast tier that are looked at for each that wants in
  uint64_t moves_max = 256;     ///< of one plan
};

/// What one column's placement looks like. tiers[0] is the fast tier; the rest are slower, fastest first.
/// Samples are without pages that cool down, are being moved, are pinned, or are not sealed.
struct Snapshot {
  uint64_t page_bytes = 0;
  std::vector<TierState> tiers;
  std::vector<bands::Link> links;
  std::vector<GroupState> groups;
  Allowance allowance;
  /// That a page stays in tiers[0] in the mean; 0: not known, and rule 3 without its second half
  double stay_periods = 0;
  /// Read in this period, not in tiers[0]; any order; a page twice counts once
  std::vector<PageSample> candidates;
  /// Random pages of all tiers but the last, any order; a page twice counts once
  std::vector<PageSample> residents;
  std::vector<bands::Bin> histogram;  ///< all pages by density; needed with three tiers and more
};

enum class Reason : uint8_t {
  kFreeFrame,  ///< promoted into a frame that was free
  kSwap,       ///< promoted in place of a colder page
  kReuse,      ///< the same, of one that is less probably read again while it stays
  kMakeRoom,   ///< the colder page
  kReserve,    ///< left so that new pages find room
  kChurn,
};
inline constexpr size_t kReasons = 6;
/// "free frame", ...: for people.
const char* reason_name(Reason reason);

enum class How : uint8_t {
  kOffer,  ///< a reader fills the frame; else as kCopy
  kCopy,
  kShadow,  ///< the bytes are there already
};

struct Move {
  uint32_t page = 0;
  uint32_t target_tier = 0;  ///< index into Snapshot::tiers
  Reason reason = Reason::kFreeFrame;
  How how = How::kCopy;
  float expected = 0;  ///< reads a period, of the page; where `reason` is kReuse, PageSample::in_stay
  float replaced = 0;  ///< the same of the page that leaves for it, or that it leaves for
  float gate = 0;      ///< that `expected - replaced` had to pass
  float cost = 0;      ///< in reads of a page from the tier that it is in
};

/// How a group stands.
struct Balance {
  double bytes_read = 0;       ///< A
  double bytes_slow = 0;       ///< read from tiers behind the fast one
  double bytes_slow_best = 0;  ///< with which all tiers finish together
  bool balanced = false;       ///< promotions gain nothing now
};

/// What kept the hottest page that stays where it is from moving.
enum class HeldBack : uint8_t { kNothing, kNoCandidate, kGate, kAllowance, kMovesMax, kNoRoom };
inline constexpr size_t kHeldBacks = 6;
const char* held_back_name(HeldBack held);

struct Plan {
  std::vector<Move> moves;  ///< in order: a demotion that makes room comes before its promotion
  /// Residents that were colder than most and stay: to be in the next sample again
  std::vector<uint32_t> cold;
  // Why, for people:
  std::vector<Balance> groups;
  HeldBack held_back = HeldBack::kNothing;
  float coldest = 0;              ///< expected reads of the last page that made room, or would have
  float gate = 0;                 ///< of the hottest page that did not move, else of the last that did
  std::vector<float> thresholds;  ///< [tier]: least density of a page that belongs there or above; last: 0
};

Plan plan(const Snapshot& snapshot, const Settings& settings);

/// Random moves as fast as the allowance lets them; for tests. `seed` changes with each call.
Plan churn(const Snapshot& snapshot, uint64_t seed, uint64_t moves_max);

/// How the tiers from `limit` on, >= 1, stand to those before them in a group.
Balance balance_of(const Snapshot& snapshot, const GroupState& group, uint32_t limit,
                   const Settings& settings);
/// Cost of promoting a page from `from` to `to`, in reads of it from `from`.
float promotion_cost(const Snapshot& snapshot, uint32_t from, uint32_t to, bool offer);
/// By how much a page has to be expected more often than the one that it replaces: rule 3. `cost` as
/// promotion_cost() has it.
float gate_of(float cost, bool balanced, const Settings& settings);
/// Whether `page`, if it is hotter than `victim`, in tiers[0], is read while it stays by so much more
/// probability that it pays for `cost`.
bool pays_in_stay(const Snapshot& snapshot, const PageSample& page, const PageSample& victim, float cost);
/// By how much. 0: how long pages stay is not known, and nothing pays so.
float in_stay_gate(const Snapshot& snapshot, float cost);

}  // namespace kvt::policy
