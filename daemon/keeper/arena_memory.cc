// SPDX-License-Identifier: Apache-2.0
//
// Arena: where new pages come from. Magazines are refilled ahead of demand; eviction and dropped shadows make
// room.
#include <algorithm>

#include "daemon/keeper/arena.h"
#include "daemon/restart/points.h"

namespace kvt::keeper {

using restart::Point;
using restart::reach;

uint64_t Arena::unmet_guarantees(const SessionState* except) const {
  uint64_t unmet = 0;
  for_each_session([&](const SessionState& session) {
    if (&session != except && session.guarantee > session.owned.size())
      unmet += session.guarantee - session.owned.size();
  });
  return unmet;
}

/// The fastest tier that every column can read and that has room; a quarter of the reserve is left for
/// promotions that are under way. With several columns a new page lies where all of them read it.
Frame Arena::take_frame_for_new_page(const SessionState& session, uint32_t& tier_out) {
  const uint32_t tiers = table_.tiers();
  const auto usable = [&](uint32_t tier) {
    return (table_.columns() == 1 || table_.tier(tier).column < 0) && reaches(session.device_tiers, tier) &&
           !is_degraded(tier);
  };
  for (uint32_t tier = 0; tier < tiers; ++tier) {
    if (!usable(tier)) continue;
    const uint64_t floor = tier + 1 < tiers ? (reserve_of(frames_.usable(tier)) + 3) / 4 : 0;
    if (frames_.counts(tier).free <= floor) continue;
    tier_out = tier;
    return frames_.take(tier);
  }
  // The last resort: the floors too.
  for (uint32_t tier = 0; tier < tiers; ++tier) {
    if (!usable(tier)) continue;
    tier_out = tier;
    if (const Frame frame = frames_.take(tier); frame != kNoFrame) return frame;
  }
  return kNoFrame;
}

bool Arena::refill(SessionState& session) {
  if (!session.read_write) return false;
  const uint64_t sessions = std::max<uint64_t>(1, session_count());
  const uint64_t fair = std::max<uint64_t>(1, table_.pages() / (4 * sessions));
  const uint64_t target = std::min<uint64_t>({session.magazine_target, fair, KVT_MAGAZINE_ENTRIES});
  uint64_t waiting = session.magazine.waiting();
  if (load_relaxed(session.region.header().low_water) != target / 2)
    store_relaxed(session.region.header().low_water, target / 2);
  if (waiting * 2 > target) return false;
  bool any = false;
  const uint64_t unmet = unmet_guarantees(&session);
  while (waiting < target && free_pages_ > unmet) {
    uint32_t tier = 0;
    const Frame frame = take_frame_for_new_page(session, tier);
    if (frame == kNoFrame) break;
    const PageIndex page = take_page();
    KVT_CHECK(page != UINT32_MAX);
    if (free_head_ != UINT32_MAX) table_.prefetch_row(free_head_);
    frames_.prefetch_free(tier);
    const uint32_t generation = table_.placement(0, page).generation();
    table_.set_changing(Handle::of(page, generation));    // until the session can know of it
    table_.set_owner(page, session.geometry.session_id);  // before FILLING (PROTOCOL B4)
    table_.set_parent(page, kNoHandle);
    table_.set_group(page, 0);
    for (uint32_t column = 0; column < table_.columns(); ++column) {
      frames_.name(frame, page);
      table_.set_placement(column, page,
                           Placement::of(kvt::PageState::kFilling, false, tier, frame, generation));
      heat_[column][page] = policy::heat_at_birth(period_);
      change_density(column, page, kNowhere, tier);
      count_arrival(column, tier);
    }
    --pages_in(kvt::PageState::kFree);
    ++pages_in(kvt::PageState::kFilling);
    pages_[page].moved = 0;
    own(session.owned, page);
    reach(Point::kFillNamed);
    session.magazine.push(Handle::of(page, generation));
    reach(Point::kFillPushed);
    ++waiting;
    any = true;
  }
  if (any) table_.set_changing(kNoHandle);
  return any;
}

/// Waiting pages lie in the fast tier, mostly, and cannot move: a session that takes none for a second keeps
/// few.
void Arena::trim_magazine(SessionState& session) {
  constexpr uint64_t kIdleMs = 1000;
  constexpr uint64_t kIdleTarget = 4;
  const uint64_t taken = session.magazine.tail() - session.magazine.waiting();
  if (taken != session.magazine_taken) {
    session.magazine_taken = taken;
    session.idle_periods = 0;
    return;
  }
  if (session.idle_periods < kIdleMs / settings_.period_ms) {
    ++session.idle_periods;
    return;
  }
  session.magazine_target = std::min(session.magazine_target, kIdleTarget);
  take_back_waiting(session, kIdleTarget);
}

/// Of the pages in its magazine, all but `keep`.
void Arena::take_back_waiting(SessionState& session, uint64_t keep) {
  const uint64_t waiting = session.magazine.waiting();
  for (uint64_t i = keep; i < waiting; ++i) {
    const Handle page = session.magazine.take_back();
    Placement placement;
    if (page.none() || page.index() >= table_.pages() ||
        check_owned(session, page, placement) != KVT_RESULT_OK ||
        placement.state() != kvt::PageState::kFilling)
      break;
    // Killed before it is freed, nobody would know of it. Not before it is out: a member may still have taken it.
    table_.set_changing(page);
    disown(session.owned, page.index());
    free_page(page.index());
    session.magazine_taken = session.magazine.tail() - session.magazine.waiting();
  }
  table_.set_changing(kNoHandle);
}

bool Arena::refill_magazines() {
  bool any = false;
  for (SessionState* const session : active_) {
    const bool was_empty = session->magazine.waiting() == 0;
    if (!refill(*session)) continue;
    any = true;
    if (was_empty)
      for (uint32_t i = 0; i < session->geometry.members_max; ++i)
        if (session->members[i].joined) session->members[i].rings.wake();
  }
  publish_allowances();
  return any;
}

/// What a session could still take beyond its magazine. 0 means full: nothing is free, nothing can be
/// evicted.
void Arena::publish_allowances() {
  // Where frames are closed there may be more free pages than frames to begin them in.
  uint64_t frames = UINT64_MAX;
  if (room_for_pages() < table_.pages()) {
    frames = keyed_pages_ != 0 && !nothing_evictable_ ? 1 : 0;
    for (uint32_t tier = 0; tier < table_.tiers(); ++tier)
      frames += frames_.counts(tier).free + frames_.counts(tier).limbo;
    frames += shadows_;
  }
  for (SessionState* const session : active_) {
    const uint64_t unmet = unmet_guarantees(session);
    uint64_t more = free_pages_ > unmet ? free_pages_ - unmet : 0;
    if (more == 0 && !nothing_evictable_ && keyed_pages_ != 0 && free_pages_ >= unmet) more = 1;
    more = std::min(more, frames);
    const uint64_t allowance = session->read_write ? session->magazine.tail() + more : 0;
    uint64_t& word = session->region.header().allowance.value;
    if (load_relaxed(word) != allowance) store_release(word, allowance);
  }
}

bool Arena::can_evict(PageIndex page) const {
  const Placement placement = table_.placement(0, page);
  return placement.state() == kvt::PageState::kSealed && placement.keyed() && pages_[page].children == 0 &&
         !pages_[page].pinned && !busy_.contains(page);
}

/// SEALED -> EVICTING -> FREE, unless somebody holds it (PROTOCOL A7, B2). false: it stays.
bool Arena::evict(PageIndex page) {
  const Placement placement = table_.placement(0, page);
  if (placement.state() != kvt::PageState::kSealed || busy_.contains(page) || is_held(page)) return false;
  set_state_all(page, kvt::PageState::kEvicting, placement.keyed());
  reach(Point::kEvictEvicting);
  full_fence();  // EVICTING | hold counts; pairs with the fence between a hold's add and its look at the row
  if (is_held(page)) {
    set_state_all(page, kvt::PageState::kSealed, placement.keyed());
    return false;
  }
  if (placement.keyed()) {
    prefix_index_.erase(table_.key(page), page, [&](PageIndex other) { return table_.key(other); });
    reach(Point::kEvictUnindexed);
    unlink_parent(page);
    --keyed_pages_;
  } else {
    disown(owned_list(table_.owner(page)), page);
  }
  free_page(page);
  return true;
}

/// Evicts keyed pages that nobody holds, leaves of prefix chains first, the coldest of a few neighbours each
/// time.
uint64_t Arena::evict_some(uint64_t wanted) {
  // Rows a call: a third of a millisecond. Each is looked at in the holds of every session.
  const uint64_t looks_max = 65536 / (1 + active_.size() / 8);
  constexpr uint32_t kChoice = 8;
  if (keyed_pages_ == 0) {
    nothing_evictable_ = true;
    return 0;
  }
  uint64_t evicted = 0;
  uint64_t looks = 0;
  while (evicted < wanted && looks < looks_max && evict_misses_ < 2 * table_.pages()) {
    PageIndex coldest = UINT32_MAX;
    float coldest_heat = 0;
    uint32_t found = 0;
    // Eight candidates from a random place while they are easy to find, else from where the hand is.
    uint64_t at = evict_misses_ < table_.pages() / 2 ? random() % never_used_pages_ : evict_hand_;
    for (uint64_t i = 0; i < 64 && found < kChoice; ++i, ++looks, ++evict_misses_) {
      if (at >= never_used_pages_) at = 0;
      const auto page = static_cast<PageIndex>(at++);
      if (!can_evict(page) || is_held(page)) continue;
      ++found;
      float heat = 0;
      for (uint32_t column = 0; column < table_.columns(); ++column)
        heat = std::max(heat, expected_reads(column, page));
      if (coldest == UINT32_MAX || heat < coldest_heat) {
        coldest = page;
        coldest_heat = heat;
      }
    }
    evict_hand_ = at;
    if (coldest != UINT32_MAX && evict(coldest)) {
      ++evicted;
      ArenaWriter::count(table_.counters().evicted);
      evict_misses_ = 0;
    }
  }
  spent_ += looks * (1 + active_.size() / 8);
  nothing_evictable_ = evicted == 0 && evict_misses_ >= 2 * table_.pages();
  if (nothing_evictable_) evict_misses_ = table_.pages();  // holds may be gone the next time: look on
  return evicted;
}

/// A page's column is read from the frame that another column has of it in a tier that all read. A frame
/// less.
bool Arena::merge_copies(uint32_t column, PageIndex page) {
  const Placement now = table_.placement(column, page);
  if (now.state() != kvt::PageState::kSealed || busy_.contains(page) || pages_[page].pinned ||
      is_damaged(page) || table_.tier(now.tier()).column >= 0)
    return false;
  Frame target = kNoFrame;
  for (uint32_t other = 0; other < table_.columns() && target == kNoFrame; ++other) {
    if (other == column) continue;
    const Placement place = table_.placement(other, page);
    const Shadow second = table_.shadow(other, page);
    if (table_.tier(place.tier()).column < 0 && place.frame() != now.frame())
      target = place.frame();
    else if (second.valid() && table_.tier(second.tier()).column < 0 && second.frame() != now.frame())
      target = second.frame();
  }
  if (target == kNoFrame) return false;
  drop_shadow(column, page);
  frames_.name(target, page);
  table_.set_placement(column, page, now.with_place(frames_.tier_of(target), target));
  change_density(column, page, now.tier(), frames_.tier_of(target));
  log_.append(column, page);
  logged_ = true;
  withdraw(now.frame());
  return true;
}

/// Takes frames of `tier` from pages that have another: shadows, and copies that another column has as well.
uint64_t Arena::drop_spare_frames(uint32_t tier, uint64_t wanted) {
  uint64_t dropped = 0;
  const uint64_t frames = frames_.frames(tier);
  for (uint64_t looks = 0; looks < 64 * wanted + 64 && dropped < wanted; ++looks) {
    const auto frame = static_cast<Frame>(frames_.first_frame(tier) + random() % frames);
    const PageIndex page = frames_.page_of(frame);
    if (page == FrameTable::kNoPage || busy_.contains(page) || is_damaged(page)) continue;
    if (const auto offered = offers_.find(page); offered != offers_.end() && offered->second.frame == frame) {
      withdraw_offer(page);
      ++dropped;
      continue;
    }
    bool only_shadows = true;
    for (uint32_t column = 0; column < table_.columns(); ++column)
      if (table_.placement(column, page).frame() == frame && !merge_copies(column, page))
        only_shadows = false;
    if (!only_shadows) continue;
    for (uint32_t column = 0; column < table_.columns(); ++column)
      if (const Shadow shadow = table_.shadow(column, page); shadow.valid() && shadow.frame() == frame)
        drop_shadow(column, page);
    ++dropped;
  }
  return dropped;
}

/// Free pages for guarantees and a little ahead of demand; free frames in the slow tiers, where shadows give
/// way.
bool Arena::keep_room() {
  bool worked = false;
  const uint64_t ahead = std::clamp<uint64_t>(table_.pages() / 64, 1, 1024);
  const uint64_t wanted = unmet_guarantees(nullptr) + ahead;
  // Where everything is held, looking for what can be evicted is not repeated every pass.
  const bool rest = nothing_evictable_ && static_cast<int32_t>(evict_retry_period_ - period_) > 0;
  if (nothing_evictable_ && !rest) evict_retry_period_ = period_ + 16;
  if (free_pages_ < wanted && !rest) worked |= evict_some(std::min<uint64_t>(wanted - free_pages_, 256)) != 0;
  uint32_t usable_tiers = 0;
  for (uint32_t tier = 0; tier < table_.tiers(); ++tier) usable_tiers += frames_.usable(tier) != 0 ? 1 : 0;
  for (uint32_t tier = 0; tier < table_.tiers(); ++tier) {
    if (frames_.usable(tier) == 0) continue;
    const uint64_t reserve = reserve_of(frames_.usable(tier));
    const uint64_t coming = frames_.counts(tier).free + frames_.counts(tier).limbo;
    // What take_frame_for_new_page() leaves for promotions is used up: new pages come before offers.
    if (const uint64_t floor = (reserve + 3) / 4; coming < floor)
      worked |= withdraw_offers_of(tier, floor - coming) != 0;
    if (coming >= reserve || (tier == 0 && usable_tiers != 1)) continue;
    const uint64_t wanted_frames = std::min<uint64_t>(reserve - coming, 256);
    const uint64_t dropped = drop_spare_frames(tier, wanted_frames);
    worked |= dropped != 0;
    // Pages may be free that have no frame to begin in.
    if (dropped < wanted_frames && table_.tier(tier).column < 0 && keyed_pages_ != 0 && !rest)
      worked |= evict_some(wanted_frames - dropped) != 0;
  }
  return worked;
}

/// Unkeyed sealed pages that nobody holds, whose free hint was lost: a few looks a period (PROTOCOL B4).
void Arena::sweep_unkeyed(uint64_t looks) {
  const uint64_t slot = sweep_hand_++ % (KVT_MAX_SESSIONS + 1);
  std::vector<PageIndex>& list =
      slot == KVT_MAX_SESSIONS || !sessions_[slot] ? unowned_ : sessions_[slot]->owned;
  for (uint64_t i = 0; i < looks && !list.empty(); ++i) {
    const PageIndex page = list[random() % list.size()];
    const Placement placement = table_.placement(0, page);
    if (placement.state() == kvt::PageState::kSealed && !placement.keyed()) evict(page);
  }
}

}  // namespace kvt::keeper
