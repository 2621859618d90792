// SPDX-License-Identifier: Apache-2.0
//
// Arena: frames that have gone bad. A frame whose memory is not there any more (SIGBUS in a copy) is retired: it is
// never free again. A page that lost one frame is read from another one; a page that lost all is lost.
//
//   commit() of a failed copy -> copy_failed() -> damage() --- next pass: mend() -> mend_page()
//                                                                |        |          |
//                                          move_to(): a frame that is there   a copy of it   lose_page()
#include <fmt/format.h>

#include <algorithm>

#include "daemon/keeper/arena.h"

namespace kvt::keeper {
namespace {

/// Lines between two calls of take_notes(): thousands of frames may go bad at once.
constexpr size_t kNotesMax = 16;

}  // namespace

void Arena::note(events::Kind kind, std::string text) {
  if (notes_.size() < kNotesMax)
    notes_.push_back({kind, std::move(text)});
  else
    ++notes_left_out_;
}

std::vector<Arena::Note> Arena::take_notes() {
  if (notes_left_out_ != 0)
    notes_.push_back(
        {notes_.back().kind, fmt::format("arena \"{}\": {} more lines like these were left out",
                                         table_.header().name, std::exchange(notes_left_out_, 0))});
  return std::exchange(notes_, {});
}

std::string Arena::frame_text(Frame frame) const {
  return fmt::format("frame {} of tier {}", frame, table_.tier(frames_.tier_of(frame)).name);
}

std::string Arena::page_text(PageIndex page) const {
  const Key key = table_.key(page);
  return fmt::format("arena \"{}\": page {} (generation {}, {})", table_.header().name, page,
                     table_.placement(0, page).generation(),
                     key.none() ? "no key" : fmt::format("key {:016x}{:016x}", key.hi, key.lo));
}

/// Nothing was copied: the page stays where it is.
void Arena::copy_failed(const mover::Job& job) {
  const PageIndex page = job.page.index();
  ArenaWriter::count(table_.counters().aborted);
  ++copies_failed_;
  const bool bad_source = job.bad == mover::BadSide::kSource;
  const bool bad_target = job.bad == mover::BadSide::kTarget;
  // Before it is unpinned, which may free it.
  const bool news = bad_source && frames_.retire(job.source_frame);
  frames_.unpin(job.source_frame);
  frames_.unpin(job.target_frame);
  if (bad_target) {
    frames_.retire(job.target_frame);
    note(
        events::Kind::kBadMemory,
        fmt::format("arena \"{}\": {} cannot be written, its memory is bad (SIGBUS): it is not used any more",
                    table_.header().name, frame_text(job.target_frame)));
  } else {
    frames_.cancel(job.target_frame);
  }
  if (job.peer && !job.lost_device) leave_peer(job);
  if (is_damaged(page)) to_mend_.push_back(page);
  if (!news) return;
  const std::string what = frame_text(job.source_frame) + " cannot be read, its memory is bad (SIGBUS)";
  if (table_.placement(0, page).generation() == job.page.generation())
    damage(job.page, job.source_frame, what);
  else
    note(events::Kind::kBadMemory,
         fmt::format("arena \"{}\": {}: it is not used any more", table_.header().name, what));
}

/// The driver takes no copies from there: the next ones are made from host memory.
void Arena::leave_peer(const mover::Job& job) {
  const uint32_t from = frames_.tier_of(job.source_frame);
  if (std::erase(memory_.tier_peers[from], job.gpu) == 0) return;
  note(
      events::Kind::kTierDegraded,
      fmt::format(
          "arena \"{}\": pages of tier {} are not copied to tier {} any more (CUDA error {}): they come from "
          "host memory",
          table_.header().name, table_.tier(from).name, table_.tier(job.target_tier).name, job.driver_error));
}

/// The frame does not have the page's bytes. What becomes of that is mend()'s. REQUIRES: the page is SEALED.
void Arena::damage(Handle page, Frame frame, const std::string& what, bool by_sum) {
  Damage& damage = damaged_[page.index()];
  damage.by_sum = damage.by_sum || by_sum;
  if (std::find(damage.frames.begin(), damage.frames.end(), frame) != damage.frames.end()) return;
  damage.frames.push_back(frame);
  if (damage.good == frame) damage.good = kNoFrame;
  damage.what += (damage.what.empty() ? "" : "; ") + what;
  to_mend_.push_back(page.index());
}

bool Arena::mend(mover::Mover& mover) {
  if (to_mend_.empty()) return false;
  bool worked = false;
  for (const PageIndex page : std::exchange(to_mend_, {})) {
    const auto found = damaged_.find(page);
    if (found == damaged_.end() || found->second.lost) continue;
    if (busy_.contains(page) || checking_.contains(page) || !mend_page(mover, page))
      to_mend_.push_back(page);
    else
      worked = true;
  }
  flush_withdrawals();
  return worked;
}

/// One step of it. false: not now.
bool Arena::mend_page(mover::Mover& mover, PageIndex page) {
  Damage& damage = damaged_.at(page);
  const events::Kind kind = damage.by_sum ? events::Kind::kChecksum : events::Kind::kBadMemory;
  const auto is_wrong = [&](Frame frame) {
    return std::find(damage.frames.begin(), damage.frames.end(), frame) != damage.frames.end();
  };
  const auto mended = [&](const std::string& how) {
    note(kind, page_text(page) + ": " + damage.what + "; " + how);
    if (damage.by_sum) ++checks_.repaired;
    damaged_.erase(page);
    return true;
  };
  withdraw_offer(page);
  bool is_read = false;  // from a bad frame
  Frame good = damage.good != kNoFrame && frames_.page_of(damage.good) == page ? damage.good : kNoFrame;
  for (uint32_t column = 0; column < table_.columns(); ++column) {
    if (const Shadow shadow = table_.shadow(column, page); shadow.valid() && is_wrong(shadow.frame()))
      drop_shadow(column, page);
    const Frame frame = table_.placement(column, page).frame();
    is_read = is_read || is_wrong(frame);
    if (const Shadow shadow = table_.shadow(column, page); shadow.valid() && good == kNoFrame)
      good = shadow.frame();
    if (good == kNoFrame && !is_wrong(frame) && !is_degraded(frames_.tier_of(frame))) good = frame;
  }
  if (!is_read) return mended("the page is read from " + frame_text(table_.placement(0, page).frame()));
  if (good == kNoFrame) {
    ++lost_pages_;
    if (damage.by_sum) ++checks_.lost;
    note(kind, page_text(page) + ": " + damage.what + "; no other frame has it, the page is lost");
    damage.lost = true;
    lose_page(page);
    return true;
  }
  // Not before it has been looked at: what has spoiled one frame may have spoiled the other.
  if (damage.good != good && can_check(good) &&
      sums_.find(Handle::of(page, table_.placement(0, page).generation())) != 0)
    return start_check(mover, page, good);
  damage.good = good;
  const uint32_t tier = frames_.tier_of(good);
  const int32_t reader = table_.tier(tier).column;
  for (uint32_t column = 0; column < table_.columns(); ++column) {
    const Placement now = table_.placement(column, page);
    if (!is_wrong(now.frame())) continue;
    if (reader < 0 || reader == static_cast<int32_t>(column)) {
      move_to(column, page, good);
      continue;
    }
    // Another consumer's memory has it: back from there. From a GPU to one that does not reach it, by way of host memory.
    const auto takes = [&](uint32_t to) {
      const int32_t of = table_.tier(to).column;
      return (of < 0 || of == static_cast<int32_t>(column)) && can_copy(tier, to);
    };
    uint32_t target_tier = now.tier();
    while (!takes(target_tier))
      target_tier = (target_tier + 1) % table_.tiers();  // some tier is all columns'
    Frame target = frames_.take(target_tier);
    if (target == kNoFrame) {
      drop_spare_frames(target_tier, 1);
      return false;
    }
    start_copy(mover, column, page, target_tier, target, good);
    return true;
  }
  return mended("it is read from " + frame_text(good) + " now");
}

/// The column reads the page from a frame of it that is named already.
void Arena::move_to(uint32_t column, PageIndex page, Frame frame) {
  const Placement now = table_.placement(column, page);
  const Shadow shadow = table_.shadow(column, page);
  const uint32_t tier = frames_.tier_of(frame);
  frames_.name(frame, page);
  table_.set_placement(column, page, now.with_place(tier, frame));
  change_density(column, page, now.tier(), tier);
  count_arrival(column, tier);
  if (shadow.valid() && shadow.tier() <= tier) drop_shadow(column, page);  // the frame itself, mostly
  log_.append(column, page);
  logged_ = true;
  withdraw(now.frame());
  pages_[page].moved = static_cast<uint16_t>(period_ | 1);
}

/// No frame has the page any more. true: it is free. Else somebody holds it: who looks for its key finds nothing, and the
/// holder's copy of it is lost.
bool Arena::lose_page(PageIndex page) {
  if (evict(page)) return true;
  const Placement now = table_.placement(0, page);
  if (!now.keyed()) return false;
  prefix_index_.erase(table_.key(page), page, [&](PageIndex other) { return table_.key(other); });
  set_state_all(page, now.state(), false);
  --keyed_pages_;
  unlink_parent(page);
  own(owned_list(table_.owner(page)), page);
  return false;
}

}  // namespace kvt::keeper
