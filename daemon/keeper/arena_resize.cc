// SPDX-License-Identifier: Apache-2.0
//
// Arena: how much of its tiers it uses. Frames at the end of a window are closed, and opened again, while everybody
// reads; with all frames of a tier closed it is drained.
//
//   resize() -> close: frames_.limit(), the table says so -> each pass: clear_out(), page by page like any move
//                                                         -> when nothing is there: give_back(), slice by slice
//            -> open: take_memory(), slice by slice; frames_.limit() follows
//
// Device memory is given up and taken in chunks, with the clients that have it mapped: arena_chunks.cc.
// What is closed stays closed when the daemon is followed by another one (arena_header.set_aside).
#include <fmt/format.h>

#include <algorithm>

#include "daemon/keeper/arena.h"

namespace kvt::keeper {
namespace {

/// Frames looked at in a pass, and bytes given back or taken in one: each far less than a millisecond, or a few.
constexpr uint64_t kLooks = 2048;
constexpr uint64_t kSliceBytes = uint64_t{8} << 20;
/// The largest OS page that a window may have: holes begin and end at one.
constexpr uint64_t kHoleBytes = uint64_t{2} << 20;

}  // namespace

uint64_t Arena::room_for_pages() const {
  uint64_t frames = 0;
  for (uint32_t tier = 0; tier < table_.tiers(); ++tier)
    if ((table_.columns() == 1 || table_.tier(tier).column < 0) && !is_degraded(tier))
      frames += frames_.usable(tier);
  return std::min(frames, table_.pages());
}

Result<void> Arena::resize(uint32_t tier, uint64_t frames) {
  const std::string arena = fmt::format("arena \"{}\"", table_.header().name);
  const uint64_t most = frames_.frames(tier);
  if (frames > most)
    return fail(Code::kLimit,
                fmt::format("{} has {} frames of tier {}, as its window was made: it cannot use {}", arena,
                            most, table_.tier(tier).name, frames));
  const uint64_t before = std::exchange(limits_[tier].wanted, frames);
  if (frames >= frames_.usable(tier)) {
    limits_[tier].told = false;
    return {};
  }
  // Closed: is what stays enough for what was promised?
  const uint64_t usable = frames_.usable(tier);
  frames_.limit(tier, frames);
  uint64_t promised = 0;
  for_each_session([&](const SessionState& session) { promised += session.guarantee; });
  if (const uint64_t room = room_for_pages(); room < std::max<uint64_t>(promised, 1)) {
    frames_.limit(tier, usable);
    limits_[tier].wanted = before;
    if (room == 0)
      return fail(Code::kFull, fmt::format("tier {} is the last in which new pages of {} can begin",
                                           table_.tier(tier).name, arena));
    return fail(Code::kFull, fmt::format("{} would have room for {} pages; its sessions are guaranteed {}",
                                         arena, room, promised));
  }
  limits_[tier].told = false;
  limits_[tier].hand = 0;
  table_.set_set_aside(tier, static_cast<uint32_t>(most - frames));
  tiers_changed();
  withdraw_offers_of(tier, UINT64_MAX);
  // What waits in magazines would wait there for as long as its session takes none.
  for (SessionState* const session : active_) take_back_waiting(*session, 0);
  flush_withdrawals();
  return {};
}

void Arena::on_node(const std::string& tier_name, uint32_t node, bool is_gone, bool all_gone) {
  for (uint32_t tier = 0; tier < table_.tiers(); ++tier) {
    if (tier_name != table_.tier(tier).name) continue;
    const uint32_t bit = 1u << tier;
    const bool was_lost = has_lost_nodes(tier);
    nodes_lost_ = all_gone ? nodes_lost_ | bit : nodes_lost_ & ~bit;
    const std::string head =
        fmt::format("arena \"{}\": NUMA node {} of tier {} has ", table_.header().name, node, tier_name);
    if (!is_gone) {
      note(events::Kind::kResize,
           head + (was_lost ? fmt::format("memory again; to use the tier: kvtierctl resize {} {} all",
                                          table_.header().name, tier_name)
                            : "memory again"));
      continue;
    }
    std::string then = "the kernel has moved what was there";
    if (all_gone) {
      const auto closed = resize(tier, 0);
      then = closed ? "the tier is closed, and its pages leave it" : "but " + closed.error().text;
    }
    note(events::Kind::kTierDegraded, head + "no memory any more; " + then);
  }
}

/// After a change of what may be used.
void Arena::tiers_changed() {
  for (uint32_t column = 0; column < table_.columns(); ++column) {
    const std::vector<uint32_t> tiers = column_tiers(column);
    if (!tiers.empty()) columns_[column].fast_tier = tiers.front();
  }
  nothing_evictable_ = false;
}

void Arena::adopt_limits() {
  for (uint32_t tier = 0; tier < table_.tiers(); ++tier) {
    limits_[tier].wanted = limits_[tier].filled = frames_.frames(tier);
    uint64_t aside = std::min<uint64_t>(table_.set_aside(tier), frames_.frames(tier));
    if (has_chunks(tier))  // behind the others there is nothing
      aside = std::max(aside, frames_.frames(tier) - frames_in_chunks(tier, memory_.device_fds[tier].size()));
    if (aside == 0) continue;
    limits_[tier].wanted = frames_.frames(tier) - aside;
    frames_.limit(tier, limits_[tier].wanted);
    limits_[tier].told = false;
  }
  tiers_changed();
}

ArenaCounts::Resize Arena::resize_state(uint32_t tier) const {
  ArenaCounts::Resize state;
  state.wanted = limits_[tier].wanted;
  state.usable = frames_.usable(tier);
  state.leaving = frames_.frames(tier) - state.usable - frames_.counts(tier).aside;
  state.stuck = state.leaving == 0 ? 0 : limits_[tier].stuck;
  state.given_back_bytes = has_chunks(tier)
                               ? table_.tier(tier).window_bytes - device_bytes(tier)
                               : (frames_.frames(tier) - limits_[tier].filled) * table_.page_bytes();
  state.waits_for = sessions_behind(tier);
  state.done = state.usable == state.wanted && state.leaving == 0 &&
               (limits_[tier].told || state.usable == frames_.frames(tier) || stays_pinned(tier));
  return state;
}

bool Arena::is_resizing() const {
  for (uint32_t tier = 0; tier < table_.tiers(); ++tier)
    if (frames_.usable(tier) != limits_[tier].wanted ||
        (limits_[tier].wanted != frames_.frames(tier) && !limits_[tier].told))
      return true;
  return false;
}

bool Arena::resize_some(mover::Mover& mover) {
  bool worked = false;
  for (uint32_t tier = 0; tier < table_.tiers(); ++tier) {
    TierLimit& limit = limits_[tier];
    const uint64_t frames = frames_.frames(tier);
    const uint64_t usable = frames_.usable(tier);
    if (usable < limit.wanted) {
      worked |= open_some(tier);
    } else if (frames_.counts(tier).aside < frames - usable) {
      worked |= clear_out(mover, tier);
    } else if (!limit.told && usable < frames && !stays_pinned(tier)) {
      if (table_.is_device(tier)) {
        if (give_up_chunks(tier)) continue;  // others have to do something first
      } else if (give_back(tier)) {
        worked = true;
        continue;
      }
      limit.told = true;
      note(events::Kind::kResize,
           fmt::format("arena \"{}\": uses {} of {} frames of tier {}; {} MiB of memory were given back",
                       table_.header().name, usable, frames, table_.tier(tier).name,
                       resize_state(tier).given_back_bytes >> 20));
    }
  }
  return worked;
}

/// Pages leave the closed frames of the tier.
bool Arena::clear_out(mover::Mover& mover, uint32_t tier) {
  if (limbo_is_held()) return false;
  TierLimit& limit = limits_[tier];
  const uint64_t usable = frames_.usable(tier);
  const uint64_t closed = frames_.frames(tier) - usable;
  bool worked = false;
  uint64_t no_room = 0;
  for (uint64_t look = 0; look < std::min(kLooks, closed); ++look) {
    if (limit.hand >= closed) {
      limit.hand = 0;
      limit.stuck = std::exchange(limit.stuck_in_round, 0);
    }
    const auto frame = static_cast<Frame>(frames_.first_frame(tier) + usable + limit.hand++);
    const PageIndex page = frames_.page_of(frame);
    if (page == FrameTable::kNoPage) continue;
    switch (move_out(mover, page)) {
      case Leaves::kYes: worked = true; break;
      case Leaves::kLater: break;
      case Leaves::kNoRoom: ++no_room; break;
      case Leaves::kStays: ++limit.stuck_in_round; break;
    }
    if (no_room >= 64 || jobs_ >= settings_.jobs_max) break;
  }
  if (no_room != 0) {
    limit.stuck_in_round += no_room;
    uint64_t coming = 0;  // left by pages that were evicted for this before
    for (uint32_t other = 0; other < table_.tiers(); ++other)
      if (frames_.usable(other) != 0) coming += frames_.counts(other).limbo;
    if (coming < no_room) worked |= evict_some(no_room - coming) != 0;
  }
  flush_withdrawals();
  return worked;
}

/// Every place of the page that is in a closed frame.
Arena::Leaves Arena::move_out(mover::Mover& mover, PageIndex page) {
  if (busy_.contains(page) || is_damaged(page) || (!checking_.empty() && checking_.contains(page)))
    return Leaves::kLater;
  Leaves leaves = Leaves::kYes;
  for (uint32_t column = 0; column < table_.columns(); ++column) {
    if (const Shadow shadow = table_.shadow(column, page);
        shadow.valid() && !frames_.is_usable(shadow.frame()))
      drop_shadow(column, page);
    const Placement now = table_.placement(column, page);
    if (now.state() == kvt::PageState::kFree || frames_.is_usable(now.frame())) continue;
    if (now.state() != kvt::PageState::kSealed || pages_[page].pinned) {
      leaves = Leaves::kStays;
      continue;
    }
    withdraw_offer(page);
    if (demote_free(column, page)) continue;
    const uint32_t target_tier = tier_for(column, now.tier());
    if (target_tier == kNowhere) return Leaves::kNoRoom;
    if (jobs_ >= settings_.jobs_max ||
        budget(target_tier < now.tier()) < static_cast<double>(table_.page_bytes()))
      return Leaves::kLater;
    start_copy(mover, column, page, target_tier, frames_.take(target_tier));
    return Leaves::kYes;  // the other columns when this one has moved
  }
  return leaves;
}

/// Where a page of a closed frame may go: elsewhere in its tier, or to a slower one, or to a faster one. What is kept
/// free for new pages stays free. A GPU's memory takes only what was there: not every reader has it.
uint32_t Arena::tier_for(uint32_t column, uint32_t from) const {
  const auto takes = [&](uint32_t tier) {
    const int32_t reader = table_.tier(tier).column;
    return (reader < 0 || reader == static_cast<int32_t>(column)) && !is_degraded(tier) &&
           (tier == from || !table_.is_device(tier)) &&
           frames_.counts(tier).free > (reserve_of(frames_.usable(tier)) + 3) / 4;
  };
  for (uint32_t tier = from; tier < table_.tiers(); ++tier)
    if (takes(tier)) return tier;
  for (uint32_t tier = from; tier-- > 0;)
    if (takes(tier)) return tier;
  return kNowhere;
}

/// Where the tier's frame number `at` begins in its window.
uint64_t Arena::window_offset(uint32_t tier, uint64_t at) const {
  const auto first = static_cast<Frame>(frames_.first_frame(tier));
  return static_cast<uint64_t>(frame_address(first) - memory_.windows[tier].data()) +
         at * table_.page_bytes();
}

/// Host memory that is registered with a GPU stays what it is until the process has gone that did it: a hole would leave
/// the GPU with other memory than the CPUs have.
bool Arena::stays_pinned(uint32_t tier) const {
  if (table_.is_device(tier)) return false;
  bool pinned = memory_is_kept_;
  for (const int gpu : memory_.tier_gpu) pinned = pinned || gpu >= 0;  // the daemon's own copies
  for (const SessionState* const session : active_) pinned = pinned || session->has_gpu;
  return pinned;
}

/// The memory of closed frames, from the end of the window. false: it is done. REQUIRES: host memory.
bool Arena::give_back(uint32_t tier) {
  TierLimit& limit = limits_[tier];
  const uint64_t usable = frames_.usable(tier);
  if (limit.filled <= usable) return false;
  const uint64_t page_bytes = table_.page_bytes();
  const uint64_t slice = std::max<uint64_t>(1, kSliceBytes / page_bytes);
  const uint64_t from = limit.filled - std::min(limit.filled - usable, slice);
  // Whole OS pages only: one that a frame in use has a part of goes later, or never.
  const uint64_t begin = (window_offset(tier, from) + kHoleBytes - 1) / kHoleBytes * kHoleBytes;
  // What the slice before this one left of an OS page is this one's.
  const uint64_t end = limit.filled == frames_.frames(tier)
                           ? table_.tier(tier).window_bytes
                           : (window_offset(tier, limit.filled) + kHoleBytes - 1) / kHoleBytes * kHoleBytes;
  if (begin < end) {
    if (auto done = punch_hole(memory_.window_fds[tier], begin, end - begin); !done) {
      note(events::Kind::kResize,
           fmt::format("arena \"{}\", tier {}: its memory cannot be given back: {}", table_.header().name,
                       table_.tier(tier).name, done.error().text));
      return false;
    }
  }
  limit.filled = from;
  return true;
}

/// Memory for more frames, and then the frames. false: there is none; what is usable stays.
bool Arena::open_some(uint32_t tier) {
  TierLimit& limit = limits_[tier];
  const uint64_t usable = frames_.usable(tier);
  uint64_t to = std::min(limit.wanted, limit.filled);
  if (table_.is_device(tier)) {
    to = take_chunks(tier);
    if (to <= usable) return false;
  } else if (to <= usable) {
    const uint64_t page_bytes = table_.page_bytes();
    const uint64_t slice = std::max<uint64_t>(1, kSliceBytes / page_bytes);
    to = usable + std::min(limit.wanted - usable, slice);
    const uint64_t begin = window_offset(tier, usable) / kHoleBytes * kHoleBytes;
    const uint64_t end = std::min((window_offset(tier, to) + kHoleBytes - 1) / kHoleBytes * kHoleBytes,
                                  table_.tier(tier).window_bytes);
    // Asked before it is taken: beyond a limit of its cgroup a process is killed rather than told.
    Result<void> taken = settings_.has_memory ? settings_.has_memory(end - begin) : Result<void>{};
    if (taken && settings_.prefault) taken = allocate_range(memory_.window_fds[tier], begin, end - begin);
    if (!taken) {
      limit.wanted = usable;
      limit.told = true;
      note(events::Kind::kResize,
           fmt::format("arena \"{}\", tier {}: stays at {} of {} frames: {}", table_.header().name,
                       table_.tier(tier).name, usable, frames_.frames(tier), taken.error().text));
      return false;
    }
    limit.filled = std::max(limit.filled, to);
  }
  frames_.limit(tier, to);
  table_.set_set_aside(tier, static_cast<uint32_t>(frames_.frames(tier) - to));
  if (to == limit.wanted)
    note(events::Kind::kResize,
         fmt::format("arena \"{}\": uses {} of {} frames of tier {}; their memory was taken again",
                     table_.header().name, to, frames_.frames(tier), table_.tier(tier).name));
  tiers_changed();
  return true;
}

}  // namespace kvt::keeper
