// SPDX-License-Identifier: Apache-2.0
//
// Arena: what operators ask for over control.sock. Each answers at once; nothing here waits.
#include <algorithm>
#include <bit>

#include "daemon/keeper/arena.h"

namespace kvt::keeper {

HeldPages Arena::held_pages(const SessionState& session, uint64_t groups_max) {
  const SessionRegion& region = session.region;
  const uint64_t words = region.summary_words();
  uint64_t named = 0;
  for (uint64_t word = 0; word < words; ++word)
    named += static_cast<uint64_t>(std::popcount(load_relaxed(region.held()[word])));
  if (named == 0) return {};

  // A client may set and clear bits meanwhile: what was counted above only says how far apart the looks are.
  const uint64_t step = (named + groups_max - 1) / groups_max;
  uint64_t at = 0;
  uint64_t looked = 0;
  uint64_t held_in_them = 0;
  for (uint64_t word = 0; word < words && looked < groups_max; ++word) {
    for (uint64_t bits = load_relaxed(region.held()[word]); bits != 0 && looked < groups_max;
         bits &= bits - 1) {
      if (at++ % step != 0) continue;
      ++looked;
      const uint64_t first = (word * 64 + static_cast<uint64_t>(std::countr_zero(bits))) * KVT_SUMMARY_PAGES;
      const uint64_t end = std::min<uint64_t>(first + KVT_SUMMARY_PAGES, session.geometry.pages);
      for (uint64_t page = first; page < end; ++page)
        held_in_them += held(region, static_cast<PageIndex>(page)) ? 1 : 0;
    }
  }
  if (step == 1 || looked == 0) return {held_in_them, true};
  return {held_in_them * named / looked, false};
}

PinRequest Arena::pin(PageIndex page) {
  if (pages_[page].pinned) return PinRequest::kPinned;
  if (table_.placement(0, page).state() != kvt::PageState::kSealed) return PinRequest::kNotSealed;
  // Its commit would move the page. With the copy done it lies where it stays.
  if (busy_.contains(page)) return PinRequest::kBusy;
  if (pinned_pages_ >= pins_max(table_.pages())) return PinRequest::kTooMany;
  withdraw_offer(page);
  pages_[page].pinned = true;
  ++pinned_pages_;
  return PinRequest::kPinned;
}

bool Arena::unpin(PageIndex page) {
  if (!pages_[page].pinned) return false;
  pages_[page].pinned = false;
  --pinned_pages_;
  nothing_evictable_ = false;
  return true;
}

MoveRequest Arena::move(mover::Mover& mover, uint32_t column, PageIndex page, uint32_t tier) {
  const int32_t reader = table_.tier(tier).column;
  if (reader >= 0 && reader != static_cast<int32_t>(column)) return MoveRequest::kNotOfColumn;
  const Placement now = table_.placement(column, page);
  if (now.state() != kvt::PageState::kSealed) return MoveRequest::kNotSealed;
  if (now.tier() == tier) return MoveRequest::kThere;
  if (pages_[page].pinned) return MoveRequest::kPinned;
  if (busy_.contains(page) || checking_.contains(page)) return MoveRequest::kBusy;
  if (is_damaged(page)) return MoveRequest::kDamaged;
  withdraw_offer(page);
  if (demote_free(column, page, tier)) {
    flush_withdrawals();
    return MoveRequest::kMoved;
  }
  if (jobs_ >= settings_.jobs_max) return MoveRequest::kManyCopies;
  if (is_degraded(tier) || is_degraded(now.tier())) return MoveRequest::kNoFrame;
  Frame target = frames_.take(tier);
  if (target == kNoFrame) {
    drop_spare_frames(tier, 1);
    flush_withdrawals();
    drain_limbo();
    target = frames_.take(tier);
  }
  if (target == kNoFrame) return MoveRequest::kNoFrame;
  start_copy(mover, column, page, tier, target);
  return MoveRequest::kQueued;
}

DryRun Arena::dry_run(uint32_t column) {
  const ColumnState& state = columns_[column];
  DryRun run;
  run.tiers = column_tiers(column);
  run.snapshot = snapshot(column, state.last_candidates);
  run.plan = policy::plan(run.snapshot, settings_.plan);
  run.periods_ago = state.last_candidates.empty() ? 0 : period_ - state.last_candidates_period;
  return run;
}

PageReason Arena::explain(uint32_t column, PageIndex page) {
  const DryRun run = dry_run(column);
  const Placement now = table_.placement(column, page);
  const auto position =
      static_cast<uint32_t>(std::find(run.tiers.begin(), run.tiers.end(), now.tier()) - run.tiers.begin());
  policy::PageFacts facts;
  facts.sample = sample_of(column, page, position);
  facts.sealed = now.state() == kvt::PageState::kSealed;
  facts.pinned = pages_[page].pinned;
  facts.moving = busy_.contains(page) || offers_.contains(page);
  facts.cooling = settings_.policy == PolicyName::kChurn ? 0 : cooling(page);
  facts.candidate =
      std::any_of(columns_[column].last_candidates.begin(), columns_[column].last_candidates.end(),
                  [&](const auto& each) { return each.page == page; });
  const policy::PageHeat& heat = heat_[column][page];
  PageReason reason;
  reason.why = policy::explain(run.snapshot, run.plan, settings_.plan, facts);
  reason.heat = policy::features_at(heat, period_, columns_[column].predictor.shift());
  reason.advised = policy::is_advised(heat, period_, settings_.predictor.advice_periods);
  reason.stay_periods = run.snapshot.stay_periods;
  reason.cooling = facts.cooling;
  reason.tiers = run.tiers;
  return reason;
}

void Arena::record_places() {
  if (recorder_->abandoned())
    recorder_.reset();
  else
    recorder_->follow();
}

}  // namespace kvt::keeper
