// SPDX-License-Identifier: Apache-2.0
//
// Arena: checksums. A page's sum is taken when a worker reads it first; from then on whoever reads it there is told when
// it reads something else. A frame that is wrong is left like one whose memory is bad (arena_damage.cc), but it is not
// retired: a client that may write the window can have written it.
//
//   start_copy() ........................ the mover compares source and target -> commit() -> judge()
//   on_seal(), on_offer_done(), scrub() . want_check() -> start_checks() -> commit() -> checked()
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "daemon/keeper/arena.h"

namespace kvt::keeper {
namespace {

constexpr uint64_t kChecksMax = 64;            // under way at once, beside the copies
constexpr size_t kChecksWaitingMax = 1 << 16;  // what comes then is checked when it is copied, or scrubbed
constexpr uint64_t kScrubLooks = 64;           // rows a page that is wanted

}  // namespace

void Arena::learn_gpus(const mover::Mover& mover) {
  for (size_t tier = 0; tier < memory_.tier_gpu.size(); ++tier)
    if (mover.can_sum(memory_.tier_gpu[tier])) summed_by_gpu_ |= 1u << tier;
}

void Arena::want_check(PageIndex page, Frame frame) {
  if (to_check_.size() < kChecksWaitingMax && can_check(frame))
    to_check_.push_back({Handle::of(page, table_.placement(0, page).generation()), frame});
}

/// Behind its seal: from now on nobody writes it.
void Arena::check_sealed(PageIndex page) {
  if (settings_.integrity == Integrity::kAll) want_check(page, table_.placement(0, page).frame());
}

/// REQUIRES: the frame is NAMED, for this page, and no copy of it is under way.
bool Arena::start_check(mover::Mover& mover, PageIndex page, Frame frame) {
  mover::Job job;
  job.arena = number_;
  job.page = Handle::of(page, table_.placement(0, page).generation());
  job.source_frame = frame;
  job.source = frame_address(frame);
  job.bytes = table_.page_bytes();
  if (!memory_.tier_gpu.empty()) job.gpu = memory_.tier_gpu[frames_.tier_of(frame)];
  job.sums = true;
  frames_.pin(frame);
  checking_.insert(page);
  ++jobs_;
  mover.submit(job);
  return true;
}

bool Arena::start_checks(mover::Mover& mover) {
  bool any = false;
  for (size_t left = to_check_.size(); left != 0 && checking_.size() < kChecksMax; --left) {
    const Check check = to_check_.front();
    to_check_.pop_front();
    const PageIndex page = check.page.index();
    if (table_.placement(0, page).generation() != check.page.generation() ||
        frames_.page_of(check.frame) != page || is_damaged(page) || !can_check(check.frame))
      continue;
    if (busy_.contains(page) || checking_.contains(page)) {
      to_check_.push_back(check);
      continue;
    }
    any |= start_check(mover, page, check.frame);
  }
  return any;
}

/// The frames of some sealed pages, one after the other for ever.
void Arena::scrub(double seconds) {
  scrub_credit_ = std::min(scrub_credit_ + seconds * settings_.scrub_pages_per_second,
                           static_cast<double>(settings_.scrub_pages_per_second));
  for (uint64_t looks = 0; scrub_credit_ >= 1 && looks < kScrubLooks && to_check_.size() < kChecksMax;
       ++looks) {
    if (scrub_hand_ >= never_used_pages_) scrub_hand_ = 0;
    const auto page = static_cast<PageIndex>(scrub_hand_++);
    if (table_.placement(0, page).state() != kvt::PageState::kSealed || is_damaged(page)) continue;
    std::array<Frame, 2 * size_t{KVT_MAX_COLUMNS}> frames;
    size_t count = 0;
    const auto add = [&](Frame frame) {
      if (std::find(frames.begin(), frames.begin() + static_cast<ptrdiff_t>(count), frame) ==
          frames.begin() + static_cast<ptrdiff_t>(count))
        frames[count++] = frame;
    };
    for (uint32_t column = 0; column < table_.columns(); ++column) {
      if (const Shadow shadow = table_.shadow(column, page); shadow.valid()) add(shadow.frame());
      add(table_.placement(column, page).frame());
    }
    if (budget(true) < static_cast<double>(count * table_.page_bytes())) {
      --scrub_hand_;
      return;
    }
    for (size_t i = 0; i < count; ++i) {
      if (!can_check(frames[i])) continue;
      want_check(page, frames[i]);
      pay(true, table_.page_bytes());
      scrub_credit_ -= 1;
    }
  }
}

/// A frame has been read for its checksum.
void Arena::checked(const mover::Job& job) {
  const PageIndex page = job.page.index();
  const Frame frame = job.source_frame;
  checking_.erase(page);
  --jobs_;
  if (job.failed && job.bad == mover::BadSide::kNone) {
    // Of its GPU, which says nothing of the frame's memory.
    ++copies_failed_;
    frames_.unpin(frame);
    if (is_damaged(page)) to_mend_.push_back(page);
    return;
  }
  ++checks_.pages;
  const bool there = table_.placement(0, page).generation() == job.page.generation();
  if (job.failed) {
    const bool news = frames_.retire(frame);
    ++copies_failed_;
    if (there && news)
      damage(job.page, frame, frame_text(frame) + " cannot be read, its memory is bad (SIGBUS)");
    frames_.unpin(frame);
    return;
  }
  const bool named = frames_.page_of(frame) == page;
  frames_.unpin(frame);
  if (!there) return;
  if (is_damaged(page)) to_mend_.push_back(page);
  if (!named) return;
  const uint64_t known = sums_.find(job.page);
  if (known == 0) {
    sums_.set(job.page, job.sum);
  } else if (known != job.sum) {
    ++checks_.mismatches;
    damage(job.page, frame, frame_text(frame) + " has not the page's checksum", true);
    return;
  }
  if (is_damaged(page)) damaged_.at(page).good = frame;
}

/// What the checksums of a copy say. false: it is not to be used, and the job is over.
bool Arena::judge(const mover::Job& job) {
  const PageIndex page = job.page.index();
  checks_.mismatches += job.mismatches;
  if (job.finding == mover::Finding::kRight) {
    const bool there = table_.placement(0, page).generation() == job.page.generation();
    if (there && sums_.find(job.page) == 0) sums_.set(job.page, job.sum);
    if (job.mismatches != 0) {
      checks_.repaired += job.mismatches;
      note(events::Kind::kChecksum,
           fmt::format("{}: {} had not its checksum when it was copied there; it was copied again",
                       page_text(page), frame_text(job.target_frame)));
    }
    return true;
  }
  ArenaWriter::count(table_.counters().aborted);
  frames_.unpin(job.source_frame);
  frames_.unpin(job.target_frame);
  if (job.finding == mover::Finding::kTargetWrong) {
    frames_.retire(job.target_frame);
    checks_.repaired += job.mismatches;  // nobody reads it, the page is where it was
    note(events::Kind::kChecksum,
         fmt::format("arena \"{}\": {} does not keep what is copied there: it is not used any more",
                     table_.header().name, frame_text(job.target_frame)));
    if (is_damaged(page)) to_mend_.push_back(page);
    return false;
  }
  frames_.cancel(job.target_frame);
  ++checks_.mismatches;
  if (table_.placement(0, page).generation() == job.page.generation())
    damage(job.page, job.source_frame, frame_text(job.source_frame) + " has not the page's checksum", true);
  return false;
}

}  // namespace kvt::keeper
