// SPDX-License-Identifier: Apache-2.0
//
// Why a page is where it is: what the rule of policy.h makes of it, number by number, and what holds it back.
// Pure, as the rule is.
#pragma once

#include <cstdint>

#include "daemon/policy/policy.h"

namespace kvt::policy {

/// What no snapshot says of a page.
struct PageFacts {
  PageSample sample;  ///< as it would be among candidates or residents
  bool sealed = true;
  bool pinned = false;     ///< by an operator
  bool moving = false;     ///< a copy is under way, or a reader has an offer of it
  uint32_t cooling = 0;    ///< periods for which it stays, because it has moved
  bool candidate = false;  ///< it was read, or advised, in the period that the snapshot is of
};

/// What becomes of the page, and if it stays, the first thing that keeps it.
enum class Verdict : uint8_t {
  kMoves,    ///< it is in the plan
  kFastest,  ///< it is in the fastest tier, and nothing that is hotter wants its frame
  kNotSealed,
  kMoving,
  kPinned,
  kCooling,
  kNotRead,  ///< in the last period: only what is read is promoted
  kBand,     ///< its density belongs into the tier that it is in
  kGate,  ///< the coldest page that it could replace is not colder by the gate, nor less probably read again by its own
  kNoRoom,     ///< the faster tier has no free frame to copy to
  kAllowance,  ///< as much is being moved as the links may carry
  kTurn,       ///< hotter ones go first
};
/// "moves", "fastest", ...: for programs.
const char* verdict_name(Verdict verdict);

struct Explanation {
  Verdict verdict = Verdict::kFastest;
  uint32_t tier = 0;          ///< where it is; indices into Snapshot::tiers
  uint32_t target_tier = 0;   ///< where it goes, or would like to go; its own: nowhere
  Move move;                  ///< REQUIRES: kMoves
  float expected = 0;         ///< reads in the next period
  float cost = 0;             ///< of promoting it there, in reads from where it is; 0: it is not promoted
  float gate = 0;             ///< by which it has to be expected more often than the page that it replaces
  float coldest = 0;          ///< expected reads of the coldest page that was looked at there
  float in_stay = 0;          ///< PageSample::in_stay of the page,
  float coldest_in_stay = 0;  ///< of that coldest one,
  float in_stay_gate = 0;     ///< and by which the first has to be more; 0: it does not help
  float threshold = 0;        ///< least density of a page that belongs there; 0 with two tiers
  bool free_frame = false;    ///< there is one above the reserve: nothing has to be replaced
  /// Of the pages of its own tier that were looked at: those expected less often; 0 to 1
  float colder_share = 0;
  uint32_t looked_at = 0;  ///< so many
  Balance balance;         ///< of its group
};

/// `plan` is the plan of `snapshot` with these settings. REQUIRES: two tiers or more.
Explanation explain(const Snapshot& snapshot, const Plan& plan, const Settings& settings,
                    const PageFacts& page);

}  // namespace kvt::policy
