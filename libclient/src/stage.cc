// SPDX-License-Identifier: Apache-2.0
//
// Promotion by the reader, staged form: a page that is resolved in a slow tier and was offered a faster frame
// is copied there ahead of whoever reads it, and read from there. The rules are PROTOCOL A3's: the offer word
// was loaded inside the step, all writes into the frame are inside the step, and the report follows when the
// work is complete.
#include <algorithm>
#include <array>
#include <cstring>
#include <new>

#include "libclient/src/session.h"

namespace kvt::client {

kvt_frame take_offer(kvt_session& session, StepState& step, Handle page, Placement placement, Offer offer) {
  // An operator has ended the session: its slot may be another's by now, and so may the offer.
  if (load_acquire(session.region.header().ended) != 0) return placement.frame();
  if (offer.frame() == placement.frame()) return placement.frame();  // it has just been taken
  if (session.unreachable_tiers != 0) {
    const auto tier = session.table.tier_of_frame(offer.frame());
    if (!tier || (session.unreachable_tiers & 1u << *tier) != 0) return placement.frame();
  }
  const uint64_t serial = session.table.offer_serial(session.geometry.column, page.index());
  if (serial == 0) return placement.frame();  // it is being withdrawn
  const uint64_t bytes = session.table.page_bytes();
  const bool by_device = session.is_device_frame(offer.frame()) || session.is_device_frame(placement.frame());
  if (by_device && step.stream == nullptr) return placement.frame();  // nobody else waits for the copy
  kvt_session::Taken& taken = session.taken[page.index() % kvt_session::kTakenEntries];
  {
    const std::lock_guard guard(session.stage_lock);
    // Copied before, in this step or in one that has ended: the word still names the frame, so this step
    // keeps it. An offer that was withdrawn and made anew in one epoch has the same serial, and another
    // frame.
    if (taken.page == page.index() && taken.frame == offer.frame() && taken.serial == serial)
      return taken.copied && taken.stream == step.stream ? offer.frame() : placement.frame();
    const bool other_is_copying = taken.page != UINT32_MAX && !taken.copied;
    const bool too_much = step.bytes_staged != 0 && step.bytes_staged + bytes > session.stage_bytes_max;
    if (other_is_copying || too_much) return placement.frame();
    try {
      step.staged.push_back({page, offer.frame(), serial});
    } catch (const std::bad_alloc&) {
      return placement.frame();
    }
    taken = {page.index(), offer.frame(), serial, false, by_device ? step.stream : nullptr};
  }
  if (by_device) {
    // In the order of the step's stream: what it enqueues from now on reads the copy.
    const bool enqueued = stage_with_device(session, step, offer.frame(), placement.frame());
    if (enqueued) {
      step.bytes_staged += bytes;
      session.stat_bytes_staged.fetch_add(bytes, std::memory_order_relaxed);
    } else {
      step.staged.pop_back();
    }
    const std::lock_guard guard(session.stage_lock);
    taken.copied = enqueued;
    if (!enqueued) taken.page = UINT32_MAX;
    return enqueued ? offer.frame() : placement.frame();
  }
  // Through the caches, because it is read next. Other takers of the offer, in another member, write the same
  // bytes.
  std::memcpy(session.frame_address(offer.frame()), session.frame_address(placement.frame()), bytes);
  step.bytes_staged += bytes;
  session.stat_bytes_staged.fetch_add(bytes, std::memory_order_relaxed);
  const std::lock_guard guard(session.stage_lock);
  taken.copied = true;
  return offer.frame();
}

/// Behind the step's end: from here on nothing keeps the frame, and the daemon's record decides whether the
/// report is about what it still holds (PROTOCOL A3). The ring's release store orders the copies before the
/// report. A report that finds the ring full is dropped, and its offer lapses.
void report_staged(kvt_session& session, StepState& step) {
  std::array<kvt_abi_submission, 64> reports;
  uint64_t sent = 0;
  for (size_t at = 0; at < step.staged.size(); at += reports.size()) {
    const size_t count = std::min(reports.size(), step.staged.size() - at);
    for (size_t i = 0; i < count; ++i) {
      const StagedPage& staged = step.staged[at + i];
      reports[i] = {};
      reports[i].op = KVT_OP_OFFER_DONE;
      reports[i].page = staged.page.value;
      reports[i].parent = staged.frame;
      reports[i].extra = staged.serial;
    }
    const size_t pushed = try_submit(session, std::span(reports.data(), count));
    sent += pushed;
    if (pushed < count) break;
  }
  session.stat_offers_taken.fetch_add(sent, std::memory_order_relaxed);
  step.staged.clear();
}

}  // namespace kvt::client
