// SPDX-License-Identifier: Apache-2.0
//
// Arena: promotion by readers. A page that is read from a slow tier anyway is copied by its reader, so that
// the slow memory is read once. The daemon offers a frame; a step of the reader fills it and reports; the
// report moves the page.
//
//   offer()  ------ word of the row stored -----> reader, inside a step: copies, reads the copy
//      |                                             | step's end: KVT_OP_OFFER_DONE page, frame, serial
//      +--- withdraw_offer(): word cleared, limbo    +---> on_offer_done(): the record agrees? place()
//
// The offer word names its frame like any other word of the row: the frame is NAMED, and leaves through limbo
// (PROTOCOL A5), because a step that is open may have loaded the word and be writing. What a report says is
// compared with the keeper's own record; the serial tells an offer from an earlier one of the same page and
// frame (A3).
#include <algorithm>

#include "daemon/keeper/arena.h"
#include "daemon/restart/points.h"

namespace kvt::keeper {
namespace {

using restart::Point;
using restart::reach;

constexpr uint32_t kOfferPeriodsMin = 4;
/// For so long a page whose offer lapsed is copied when it is to move: its reader does not come, or not in
/// time. A second and more at 10 ms a period.
constexpr uint32_t kPassOverPeriods = 128;
/// A session that let so many offers lapse and took none since does not resolve what it reads (block tables
/// that it keeps with the change log, most likely): it gets one at a time, and its pages are copied.
constexpr uint32_t kLapsesMax = 16;
constexpr size_t kPassedOverMax = 4096;
constexpr size_t kAdvisedMax = 4096;
constexpr uint32_t kNobody = KVT_MAX_SESSIONS;

bool has_live_member(const SessionState& session) {
  return std::any_of(session.members.begin(), session.members.end(),
                     [](const Member& member) { return member.joined && !member.orphan && !member.broken; });
}

}  // namespace

bool Arena::offer(uint32_t column, PageIndex page, uint32_t tier, uint32_t session_slot) {
  SessionState* const session = session_slot < KVT_MAX_SESSIONS ? sessions_[session_slot].get() : nullptr;
  if (session == nullptr || !session->read_write || session->geometry.column != column ||
      !has_live_member(*session))
    return false;
  if (load_relaxed(session->region.header().takes_offers) == 0) return false;
  const int32_t reader = table_.tier(tier).column;
  const Placement now = table_.placement(column, page);
  if (now.state() != kvt::PageState::kSealed || tier >= now.tier() ||
      (reader >= 0 && reader != static_cast<int32_t>(column)))
    return false;
  if (!reaches(session->device_tiers, tier) || !reaches(session->device_tiers, now.tier()) ||
      is_degraded(tier) || is_degraded(now.tier()))
    return false;
  if (busy_.contains(page) || offers_.contains(page) || pages_[page].pinned || is_damaged(page)) return false;
  if (offers_.size() >= settings_.offers_max ||
      budget_.in.available() < static_cast<double>(table_.page_bytes()))
    return false;
  const Frame frame = frames_.take(tier);
  if (frame == kNoFrame) return false;

  OfferRecord record;
  record.session_id = session->geometry.session_id;
  record.serial = table_.epoch();
  record.session_slot = session_slot;
  record.column = column;
  record.generation = now.generation();
  record.frame = frame;
  record.tier = tier;
  record.from_tier = now.tier();
  record.lapses = period_ + std::max(settings_.offer_ms / settings_.period_ms, kOfferPeriodsMin);
  offers_.emplace(page, record);
  frames_.name(frame, page);
  table_.set_offer(column, page, Offer::of(session_slot, frame, record.generation), record.serial);
  reach(Point::kOfferMade);
  store_relaxed(session->region.header().offers, ++session->offers_out);
  pay(true, table_.page_bytes());
  if (recorder_) recorder_->offered(column, page);
  ++offer_counts_.made;
  return true;
}

/// The offer is over, and its word clear: record and hint go. What becomes of the frame is the caller's.
void Arena::forget_offer(PageIndex page) {
  const OfferRecord& record = offers_.at(page);
  table_.set_offer(record.column, page, Offer{}, 0);
  if (SessionState* const session = find_session(record.session_id); session != nullptr)
    store_relaxed(session->region.header().offers, --session->offers_out);
  offers_.erase(page);
}

bool Arena::withdraw_offer(PageIndex page) {
  const auto found = offers_.find(page);
  if (found == offers_.end()) return false;
  const OfferRecord record = found->second;
  forget_offer(page);
  reach(Point::kOfferWithdrawn);
  withdraw(record.frame);
  if (recorder_) recorder_->offer_withdrawn(record.column, page);
  // Nothing was copied, as far as the keeper knows, and the page is read from where it was.
  budget_.in.give_back(static_cast<double>(table_.page_bytes()));
  ++offer_counts_.withdrawn;
  return true;
}

/// Each period. Withdraws what nobody took in time.
bool Arena::lapse_offers() {
  std::vector<PageIndex> over;
  for (const auto& [page, record] : offers_)
    if (static_cast<int32_t>(period_ - record.lapses) >= 0) over.push_back(page);
  if (passed_over_.size() + over.size() > kPassedOverMax) passed_over_.clear();
  for (const PageIndex page : over) {
    if (SessionState* const session = find_session(offers_.at(page).session_id); session != nullptr)
      ++session->offers_lapsed;
    withdraw_offer(page);
    --offer_counts_.withdrawn;
    ++offer_counts_.lapsed;
    passed_over_[page] = period_;
  }
  return !over.empty();
}

/// All that name a session, before it ends or when its reports are not served any more.
void Arena::withdraw_offers_to(uint32_t session_slot) {
  std::vector<PageIndex> over;
  for (const auto& [page, record] : offers_)
    if (record.session_slot == session_slot) over.push_back(page);
  for (const PageIndex page : over) withdraw_offer(page);
}

/// Up to `wanted` frames of a tier that were offered and are needed. Returns how many are in limbo now.
uint64_t Arena::withdraw_offers_of(uint32_t tier, uint64_t wanted) {
  std::vector<PageIndex> over;
  for (const auto& [page, record] : offers_) {
    if (over.size() >= wanted) break;
    if (record.tier == tier) over.push_back(page);
  }
  for (const PageIndex page : over) withdraw_offer(page);
  return over.size();
}

/// A reader says that it has filled the frame. It moves the page exactly as a worker's completed copy does,
/// if it is about the offer that is out: this session's, this frame, this serial, the page still SEALED in
/// that generation (PROTOCOL A3). The session may write the window: execute() has looked.
uint32_t Arena::on_offer_done(SessionState& session, const kvt_abi_submission& command) {
  const Handle page{command.page};
  const auto found = offers_.find(page.index());
  const auto refused = [&] {
    ++offer_counts_.refused;
    return uint32_t{KVT_RESULT_STALE};
  };
  if (found == offers_.end()) return refused();
  const OfferRecord record = found->second;
  if (record.session_id != session.geometry.session_id || record.generation != page.generation() ||
      command.parent != record.frame || command.extra != record.serial)
    return refused();
  const Placement now = table_.placement(record.column, page.index());
  if (now.state() != kvt::PageState::kSealed || now.generation() != record.generation ||
      is_degraded(record.tier))
    return refused();
  place(record.column, page.index(), record.tier,
        record.frame);  // the frame's name is the placement's from here on
  reach(Point::kOfferTaken);
  if (recorder_) recorder_->promoted_by_reader(record.column, page.index());
  if (settings_.integrity == Integrity::kAll) {
    // What it was copied from goes first: by now it is the shadow.
    if (sums_.find(page) == 0) want_check(page.index(), now.frame());
    want_check(page.index(), record.frame);
  }
  forget_offer(page.index());
  passed_over_.erase(page.index());
  session.offers_lapsed = 0;
  ++offer_counts_.taken;
  return KVT_RESULT_OK;
}

/// Who is likely to read the page in its next step: a session of the column that holds it, as engines hold
/// what they have scheduled, first of all one that has counted reads of it. Several take turns. kNobody where
/// a copy is better: nobody holds it, its last offer lapsed, or it was advised and is wanted before it is
/// read.
uint32_t Arena::reader_of(uint32_t column, PageIndex page) {
  if (advised_.contains(page)) return kNobody;
  if (const auto lapsed = passed_over_.find(page); lapsed != passed_over_.end()) {
    if (period_ - lapsed->second < kPassOverPeriods) return kNobody;
    passed_over_.erase(lapsed);
  }
  uint32_t best = kNobody;
  bool best_reads = false;
  const size_t sessions = active_.size();
  for (size_t i = 0; i < sessions; ++i) {
    const SessionState& session = *active_[(i + offer_turn_) % sessions];
    if (!session.read_write || session.geometry.column != column || !held(session.region, page)) continue;
    if (session.offers_lapsed >= kLapsesMax && session.offers_out != 0) continue;
    const bool reads = load_relaxed(session.region.counters()[page].count) != 0;
    if (best != kNobody && (best_reads || !reads)) continue;
    best = session.geometry.slot;
    best_reads = reads;
  }
  ++offer_turn_;
  return best;
}

/// Steps 3 to 5 of a promotion: offered to a reader if there is one, else given to a worker. What another GPU has its copy
/// engines bring before a reader would have read it in host memory.
bool Arena::promote(mover::Mover& mover, uint32_t column, PageIndex page, uint32_t tier) {
  if (source_for(column, page, tier) != table_.placement(column, page).frame() &&
      issue(mover, column, page, tier))
    return true;
  if (settings_.promote == Promote::kOffers && tier < table_.placement(column, page).tier())
    if (const uint32_t reader = reader_of(column, page);
        reader != kNobody && offer(column, page, tier, reader))
      return true;
  return issue(mover, column, page, tier);
}

void Arena::note_advised(PageIndex page) {
  if (advised_.size() < kAdvisedMax) advised_.insert(page);
}

}  // namespace kvt::keeper
