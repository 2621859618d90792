// SPDX-License-Identifier: Apache-2.0
//
// Arena: device memory that is given up and taken again while clients have it mapped. A chunk is the memory behind one
// descriptor; those at a window's end go when an operator has closed the frames in them (arena_resize.cc).
//
//   give_up_chunks(): the table says that they are given up -> members unmap them when they come by, and say so
//                     -> chunk_work() for the keeper: descriptors leave the store; a thread unmaps -> on_chunks()
//   take_chunks():    chunk_work(): a thread makes them, descriptors go to the store -> on_chunks(): the table says that
//                     they are there -> members map them, and say so -> their frames are opened
//
// The table's word changes only when all members have done what it said before: one that agrees by chance, since the table's
// went to and fro, would be taken for an answer. A frame is opened when every member that could be given its page has it
// mapped: a kernel that reads an address behind which nothing is ends its process's context. The other way nothing depends
// on what members say: memory that one of them keeps mapped is still its own, and free for nobody.
#include <fmt/format.h>

#include <algorithm>

#include "daemon/keeper/arena.h"

namespace kvt::keeper {

/// Of the window: where the tier's first frame begins. In front of it lies the frame that is nobody's.
uint64_t Arena::first_frame_offset(uint32_t tier) const {
  return frames_.first_frame(tier) * table_.page_bytes() - table_.window_offset(tier);
}

/// That the first `frames` frames lie in. The first chunk stays: the frame that is nobody's may be in it.
uint64_t Arena::chunks_for(uint32_t tier, uint64_t frames) const {
  const uint64_t end = first_frame_offset(tier) + frames * table_.page_bytes();
  const uint64_t chunk = table_.device(tier).chunk_bytes;
  return std::clamp<uint64_t>((end + chunk - 1) / chunk, 1, table_.window_descriptors(tier));
}

uint64_t Arena::frames_in_chunks(uint32_t tier, uint64_t chunks) const {
  if (chunks == table_.window_descriptors(tier)) return frames_.frames(tier);
  const uint64_t bytes = chunks * table_.device(tier).chunk_bytes - first_frame_offset(tier);
  return std::min(bytes / table_.page_bytes(), frames_.frames(tier));
}

uint64_t Arena::device_bytes(uint32_t tier) const {
  if (!table_.is_device(tier)) return table_.tier(tier).window_bytes;
  const uint64_t there = table_.window_descriptors(tier) - table_.chunks_given_up(tier);
  // What is being made is taken already.
  const uint64_t chunks =
      std::max({there, uint64_t{memory_.device_fds[tier].size()}, limits_[tier].chunks_coming});
  return std::min(chunks * table_.device(tier).chunk_bytes, table_.tier(tier).window_bytes);
}

bool Arena::has_chunks(uint32_t tier) const {
  return table_.is_device(tier) && !is_degraded(tier) && memory_.devices[tier] != nullptr;
}

/// Members that have mapped more of the tier than is there, or less than is wanted, by their session's number.
std::vector<uint64_t> Arena::members_behind(uint32_t tier) const {
  std::vector<uint64_t> behind;
  if (!has_chunks(tier)) return behind;
  const uint32_t given_up = table_.chunks_given_up(tier);
  for (const SessionState* const session : active_) {
    for (uint32_t i = 0; i < session->geometry.members_max; ++i) {
      const Member& member = session->members[i];
      if (!member.joined || (member.device_tiers & 1u << tier) == 0) continue;
      if (load_acquire(session->region.member(i).chunks_unmapped[tier]) == given_up) continue;
      behind.push_back(session->geometry.session_id);
      break;
    }
  }
  return behind;
}

/// A member of a library that maps whole windows: as long as it lives nothing is given up.
bool Arena::is_old(const Member& member, uint32_t tier) {
  return member.joined && (member.device_tiers & 1u << tier) != 0 && !member.follows_chunks;
}

std::vector<uint64_t> Arena::sessions_behind(uint32_t tier) const {
  std::vector<uint64_t> behind = members_behind(tier);
  if (!has_chunks(tier) || frames_.usable(tier) == frames_.frames(tier)) return behind;
  for (const SessionState* const session : active_)
    if (std::any_of(session->members.begin(), session->members.end(),
                    [&](const Member& member) { return is_old(member, tier); }) &&
        std::find(behind.begin(), behind.end(), session->geometry.session_id) == behind.end())
      behind.push_back(session->geometry.session_id);
  return behind;
}

/// One step of it. true: it has made one, or waits for something. REQUIRES: the closed frames are empty.
bool Arena::give_up_chunks(uint32_t tier) {
  TierLimit& limit = limits_[tier];
  if (!has_chunks(tier)) return false;
  if (limit.chunks_under_way || !sessions_behind(tier).empty()) return true;
  const uint64_t keep = chunks_for(tier, frames_.usable(tier));
  const uint64_t given_up = table_.window_descriptors(tier) - keep;
  if (given_up > table_.chunks_given_up(tier))
    table_.set_chunks_given_up(tier, static_cast<uint32_t>(given_up));
  const uint64_t there = table_.window_descriptors(tier) - table_.chunks_given_up(tier);
  if (memory_.device_fds[tier].size() == there) return false;  // nothing, or nothing any more
  if (!members_behind(tier).empty()) return true;              // what was raised just now
  limit.chunks_under_way = true;
  chunk_work_.push_back({tier, static_cast<size_t>(there), memory_.device_fds[tier].size()});
  memory_.device_fds[tier].resize(there);  // nobody is given the others any more
  return true;
}

/// One step of it. REQUIRES: more frames are wanted than are usable. How many can be used now.
uint64_t Arena::take_chunks(uint32_t tier) {
  TierLimit& limit = limits_[tier];
  const uint64_t usable = frames_.usable(tier);
  if (!has_chunks(tier)) return limit.wanted;
  if (limit.chunks_under_way || !members_behind(tier).empty()) return usable;
  const uint64_t all = table_.window_descriptors(tier);
  const uint64_t needed = chunks_for(tier, limit.wanted);
  const uint64_t there = memory_.device_fds[tier].size();
  if (needed > there) {
    limit.chunks_under_way = true;
    limit.chunks_coming = needed;
    chunk_work_.push_back({tier, static_cast<size_t>(needed), static_cast<size_t>(there)});
    return usable;
  }
  // Also of those that were to go and have not gone yet.
  if (all - needed < table_.chunks_given_up(tier))
    table_.set_chunks_given_up(tier, static_cast<uint32_t>(all - needed));
  return members_behind(tier).empty() ? limit.wanted : usable;
}

std::vector<Arena::ChunkWork> Arena::take_chunk_work() { return std::exchange(chunk_work_, {}); }

void Arena::on_chunks(uint32_t tier, const Result<void>& done) {
  TierLimit& limit = limits_[tier];
  limit.chunks_under_way = false;
  limit.chunks_coming = 0;
  memory_.device_fds[tier] = memory_.devices[tier]->fds();
  if (done || limit.wanted <= frames_.usable(tier)) return;  // it is not wanted any more
  limit.wanted = frames_.usable(tier);
  limit.told = true;
  note(events::Kind::kResize,
       fmt::format("arena \"{}\", tier {}: stays at {} of {} frames: {}", table_.header().name,
                   table_.tier(tier).name, frames_.usable(tier), frames_.frames(tier), done.error().text));
}

}  // namespace kvt::keeper
