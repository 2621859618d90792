// SPDX-License-Identifier: Apache-2.0
//
// Arena: what clients ask through their rings. A command has been copied once; only the copy is looked at.
// Each is idempotent by generation: after a restart it may come again (PROTOCOL B4).
#include <algorithm>
#include <utility>

#include "daemon/keeper/arena.h"
#include "daemon/restart/points.h"

namespace kvt::keeper {
namespace {

using restart::Point;
using restart::reach;

// What commands may cost one pass, in rows looked at: a few milliseconds, in which no other arena is served.
constexpr uint64_t kSpendMax = 65536;
constexpr uint64_t kCommandCost = 4;    // of a plain one: 16,384 of them a pass
constexpr size_t kBelievedMax = 65536;  // pages whose advice is believed, a period
constexpr size_t kAdvisedKeep = 4096;   // of them, for which memory is kept

}  // namespace

/// At most one ring's worth a pass, so that a client that refills cannot keep the loop (PROTOCOL C8); and less where
/// commands are dear, or the members many.
bool Arena::serve(SessionState& session, uint32_t index) {
  Member& member = session.members[index];
  if (member.orphan) return false;
  uint64_t waiting = 0;
  switch (member.rings.look(waiting)) {
    case MemberRings::Look::kEmpty: return false;
    case MemberRings::Look::kBroken:
      member.orphan = member.broken = true;  // its process's end frees what it has
      return false;
    case MemberRings::Look::kReady: break;
  }
  bool worked = false;
  while (waiting-- != 0 && member.rings.completion_room()) {
    if (spent_ >= kSpendMax) {
      more_ = true;
      break;
    }
    spent_ += kCommandCost;
    const kvt_abi_submission command = member.rings.peek();
    if (waiting != 0) prefetch_for(member.rings.peek_second());
    uint64_t page_out = UINT64_MAX;
    const uint32_t result = execute(session, command, page_out);
    reach(Point::kCommandDone);
    worked = true;
    // Effect, answer, head: whoever is killed in between leaves a command that is done again and answered twice, never
    // one that is done and not answered (PROTOCOL B4).
    if (command.tag != 0) {
      kvt_abi_completion completion{};
      completion.tag = command.tag;
      completion.op = command.op;
      completion.result = result;
      completion.page = page_out;
      member.rings.complete(completion);
      reach(Point::kCommandAnswered);
    }
    member.rings.advance();
  }
  return worked;
}

/// Brings near what a command will touch: rows lie at random, and commands come in batches.
[[gnu::always_inline]] inline void Arena::prefetch_for(const kvt_abi_submission& command) const {
  if (command.op == KVT_OP_FREE) {
    for (const uint64_t value : {command.page, command.key.lo, command.key.hi, command.parent, command.extra})
      if (value != UINT64_MAX) table_.prefetch_row(Handle{value}.index());
  } else if (command.op == KVT_OP_PUBLISH) {
    table_.prefetch_row(Handle{command.page}.index());
    prefix_index_.prefetch(PrefixIndex::hash(Key{command.key.lo, command.key.hi}));
  }
}

uint32_t Arena::execute(SessionState& session, const kvt_abi_submission& command, uint64_t& page_out) {
  const Handle page{command.page};
  if (command.op == KVT_OP_FLUSH) {
    // Once a pass: looking for room is dear, and what has not changed need not be asked twice.
    if (session.read_write && std::exchange(session.flushed_in, passes_) != passes_) {
      if (session.magazine.waiting() == 0)
        evict_retry_period_ = period_;  // somebody is waiting: holds may be gone by now
      keep_room();
      flush_withdrawals();
      drain_limbo();
      if (session.magazine.waiting() == 0) {
        // It asked and found nothing: keep twice as much ready.
        session.magazine_target = std::min<uint64_t>(session.magazine_target * 2, KVT_MAGAZINE_ENTRIES);
        refill(session);
        if (session.magazine.waiting() == 0) ++starved_;
      }
      publish_allowances();
    }
    return KVT_RESULT_OK;
  }
  const auto names_page = [&](Handle handle) {
    return handle.index() < table_.pages() && handle.generation() <= KVT_MAX_GENERATION;
  };
  if (command.op == KVT_OP_FREE) {
    if (!session.read_write) return KVT_RESULT_PERMISSION;
    uint32_t result = KVT_RESULT_OK;
    for (const uint64_t value :
         {command.page, command.key.lo, command.key.hi, command.parent, command.extra}) {
      if (value == UINT64_MAX) continue;
      const uint32_t one =
          names_page(Handle{value}) ? on_free(session, Handle{value}) : uint32_t{KVT_RESULT_INVALID};
      if (result == KVT_RESULT_OK) result = one;
    }
    return result;
  }
  if (!names_page(page)) return KVT_RESULT_INVALID;
  if (command.op == KVT_OP_ADVISE) return on_advise(page, command.flags);
  if (!session.read_write) return KVT_RESULT_PERMISSION;
  switch (command.op) {
    case KVT_OP_SEAL: return on_seal(session, page);
    case KVT_OP_PUBLISH: return on_publish(session, command, page_out);
    case KVT_OP_UNPUBLISH: return on_unpublish(session, page);
    case KVT_OP_RESERVE: return on_reserve(session, page, Key{command.key.lo, command.key.hi}, page_out);
    case KVT_OP_GROUP: return on_group(session, page, command.flags);
    case KVT_OP_OFFER_DONE: return on_offer_done(session, command);
    default: return KVT_RESULT_INVALID;
  }
}

uint32_t Arena::check_owned(const SessionState& session, Handle page, Placement& placement) const {
  placement = table_.placement(0, page.index());
  if (placement.generation() != page.generation() || placement.state() == kvt::PageState::kFree)
    return KVT_RESULT_STALE;
  if (table_.owner(page.index()) != session.geometry.session_id) return KVT_RESULT_PERMISSION;
  return KVT_RESULT_OK;
}

/// The session says that what it wrote has been completed: the library seals no earlier (PROTOCOL A6).
uint32_t Arena::on_seal(SessionState& session, Handle page) {
  Placement placement;
  if (const uint32_t refused = check_owned(session, page, placement); refused != KVT_RESULT_OK)
    return refused;
  if (placement.state() == kvt::PageState::kFilling) {
    set_state_all(page.index(), kvt::PageState::kSealed, false);
    reach(Point::kSealSealed);
    check_sealed(page.index());
    forget_reservation(page.index());
  }
  return KVT_RESULT_OK;
}

/// The page that has this key, by the rows; the index is only where to look.
Handle Arena::find_key(Key key) const {
  Handle found = kNoHandle;
  prefix_index_.find(PrefixIndex::hash(key), [&](PageIndex page, uint32_t generation) {
    const Placement placement = table_.placement(0, page);
    if (placement.generation() != generation || !placement.keyed() || !placement.readable() ||
        !(table_.key(page) == key))
      return false;
    found = Handle::of(page, generation);
    return true;
  });
  return found;
}

uint32_t Arena::on_publish(SessionState& session, const kvt_abi_submission& command, uint64_t& page_out) {
  const Handle page{command.page};
  const PageIndex index = page.index();
  const Key key{command.key.lo, command.key.hi};
  Placement placement;
  if (const uint32_t refused = check_owned(session, page, placement); refused != KVT_RESULT_OK)
    return refused;
  if (key.none() || command.flags > UINT16_MAX) return KVT_RESULT_INVALID;
  // A key is written once a generation, so that who holds the page compares it without a lock (PROTOCOL A7,
  // C1). It stays in the row of an unpublished page, which takes none again; and so parents always come
  // before children.
  if (placement.keyed()) return table_.key(index) == key ? KVT_RESULT_OK : KVT_RESULT_STATE;
  if (!table_.key(index).none()) return KVT_RESULT_STATE;
  if (placement.state() == kvt::PageState::kFilling) {
    set_state_all(index, kvt::PageState::kSealed, false);
    check_sealed(index);
  }
  forget_reservation(index);
  if (const Handle present = find_key(key); !present.none()) {
    page_out = present.value;
    return KVT_RESULT_PRESENT;
  }
  // A keyed page is no longer charged to its session. What others are guaranteed must still be there.
  const uint64_t own_unmet =
      session.guarantee > session.owned.size() - 1 ? session.guarantee - (session.owned.size() - 1) : 0;
  const uint64_t unmet = unmet_guarantees(&session) + own_unmet;
  if (free_pages_ < unmet && evict_some(unmet - free_pages_) < unmet - free_pages_ && free_pages_ < unmet)
    return KVT_RESULT_FULL;

  table_.set_changing(page);  // killed from here on, the next daemon takes back what the row has of it
  // The hint may come first: who finds it sees a page without the key flag (PROTOCOL A7). Only keys made to
  // collide find no slot.
  if (settings_.inject != Inject::kLostPublish &&
      prefix_index_.insert(key, index, page.generation()) != PrefixIndex::Insert::kInserted) {
    table_.set_changing(kNoHandle);
    return KVT_RESULT_FULL;
  }
  reach(Point::kPublishIndexed);
  disown(session.owned, index);
  table_.set_group(index, static_cast<uint16_t>(command.flags));
  groups_tagged_ = groups_tagged_ || command.flags != 0;
  const Handle parent{command.parent};
  if (!parent.none() && parent.index() < table_.pages() && parent.index() != index) {
    const Placement above = table_.placement(0, parent.index());
    if (above.generation() == parent.generation() && above.readable() && above.keyed()) {
      table_.set_parent(index, parent);
      PageState& state = pages_[parent.index()];
      ++state.children;
    }
  }
  reach(Point::kPublishParent);
  table_.set_key(index, key);  // before the flag (PROTOCOL A7)
  reach(Point::kPublishKey);
  set_state_all(index, kvt::PageState::kSealed, true);
  reach(Point::kPublishKeyed);
  table_.set_changing(kNoHandle);
  ++keyed_pages_;
  nothing_evictable_ = false;
  ArenaWriter::count(table_.counters().published);
  return KVT_RESULT_OK;
}

uint32_t Arena::on_free(SessionState& session, Handle page) {
  const Placement placement = table_.placement(0, page.index());
  if (placement.generation() != page.generation()) return KVT_RESULT_STALE;
  if (placement.state() == kvt::PageState::kFilling) {
    if (table_.owner(page.index()) != session.geometry.session_id) return KVT_RESULT_PERMISSION;
    if (held(session.region, page.index())) return KVT_RESULT_STATE;
    disown(session.owned, page.index());
    free_page(page.index());
    return KVT_RESULT_OK;
  }
  // "I let go of this unkeyed page": whoever says so, the holds decide.
  if (placement.state() != kvt::PageState::kSealed || placement.keyed()) return KVT_RESULT_STATE;
  return evict(page.index()) ? KVT_RESULT_OK : KVT_RESULT_STATE;
}

uint32_t Arena::on_unpublish(SessionState& session, Handle page) {
  Placement placement;
  if (const uint32_t refused = check_owned(session, page, placement); refused != KVT_RESULT_OK)
    return refused;
  if (!placement.keyed()) return KVT_RESULT_OK;
  const PageIndex index = page.index();
  prefix_index_.erase(table_.key(index), index, [&](PageIndex other) { return table_.key(other); });
  reach(Point::kUnpublishUnindexed);
  set_state_all(index, placement.state(), false);
  --keyed_pages_;
  unlink_parent(index);
  own(session.owned, index);
  evict(index);  // unless somebody holds it: without a key it is of no use to others
  return KVT_RESULT_OK;
}

/// Who stores this key? The reservation lives while the page is FILLING in the same generation.
uint32_t Arena::on_reserve(SessionState& session, Handle page, Key key, uint64_t& page_out) {
  Placement placement;
  if (const uint32_t refused = check_owned(session, page, placement); refused != KVT_RESULT_OK)
    return refused;
  if (placement.state() != kvt::PageState::kFilling) return KVT_RESULT_STATE;
  if (key.none()) return KVT_RESULT_INVALID;
  if (const Handle present = find_key(key); !present.none()) {
    page_out = present.value;
    return KVT_RESULT_PRESENT;
  }
  if (const auto found = reservations_.find(key); found != reservations_.end()) {
    if (found->second == page) return KVT_RESULT_OK;
    return KVT_RESULT_PENDING;
  }
  forget_reservation(page.index());
  reservations_[key] = page;
  reserved_key_[page.index()] = key;
  return KVT_RESULT_OK;
}

void Arena::forget_reservation(PageIndex page) {
  if (reserved_key_.empty()) return;
  const auto found = reserved_key_.find(page);
  if (found == reserved_key_.end()) return;
  reservations_.erase(found->second);
  reserved_key_.erase(found);
}

uint32_t Arena::on_advise(Handle page, uint32_t advice) {
  const Placement placement = table_.placement(0, page.index());
  if (placement.generation() != page.generation() || !placement.readable()) return KVT_RESULT_STALE;
  if (advice != 1 && advice != 2) return KVT_RESULT_INVALID;
  for (uint32_t column = 0; column < table_.columns(); ++column) {
    policy::PageHeat& heat = heat_[column][page.index()];
    const float before = heat.slow;
    const bool again = policy::is_advised(heat, period_, 1);  // in this period: it is a candidate already
    if (advice == 1) {
      std::vector<PageIndex>& believed = believed_[period_ % believed_.size()];
      if (column == 0 && !policy::is_advised(heat, period_, 1)) {
        if (believed.size() == kBelievedMax) return KVT_RESULT_OK;
        believed.push_back(page.index());
      }
      policy::advise(heat, period_);
      note_advised(page.index());
    } else {  // as if it had not been read for long
      const uint32_t of_tier = table_.placement(column, page.index()).tier();
      change_density(column, page.index(), of_tier, kNowhere);
      heat.fast = heat.slow = heat.mean = 0;
      heat.reads = 0;
      heat.advised = 0;
      change_density(column, page.index(), kNowhere, of_tier);
    }
    publish_heat(column, page.index(), before, heat.slow);
    ColumnState& state = columns_[column];
    const uint32_t tier = table_.placement(column, page.index()).tier();
    const float expected = expected_reads(column, page.index());
    if (advice == 1 && !again && tier != state.fast_tier && expected > state.threshold)
      add_candidate(state, page.index(), tier, expected);
  }
  return KVT_RESULT_OK;
}

/// Each period. A page's heat has room for the low bits of the period in which it was advised: what is not
/// believed any more has to be forgotten before they come round.
void Arena::lapse_advice() {
  std::vector<PageIndex>& over = believed_[(period_ - settings_.predictor.advice_periods) % believed_.size()];
  for (const PageIndex page : over)
    if (policy::is_advised(heat_[0][page], period_ - settings_.predictor.advice_periods,
                           1))  // and not again since
      for (auto& heats : heat_) heats[page].advised = 0;
  if (over.capacity() > kAdvisedKeep)
    std::vector<PageIndex>().swap(over);
  else
    over.clear();
}

uint32_t Arena::on_group(SessionState& session, Handle page, uint32_t group) {
  Placement placement;
  if (const uint32_t refused = check_owned(session, page, placement); refused != KVT_RESULT_OK)
    return refused;
  if (group > UINT16_MAX) return KVT_RESULT_INVALID;
  table_.set_group(page.index(), static_cast<uint16_t>(group));
  groups_tagged_ = groups_tagged_ || group != 0;
  return KVT_RESULT_OK;
}

}  // namespace kvt::keeper
