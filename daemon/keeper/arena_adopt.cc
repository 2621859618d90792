// SPDX-License-Identifier: Apache-2.0
//
// Arena: taking over what an earlier daemon has left (PROTOCOL A2). The rows are the truth: free lists, limbo, children
// and index are made from them, and what a killed daemon had begun is undone or finished, row by row:
//
//   the row says                                 it was killed in            it becomes
//   FREE, but not in all columns                 free_page()                 FREE in all, of column 0's generation
//   FILLING, its owner has gone                  end_session(), or before    FREE
//   FILLING, in no magazine (`changing`)         refill()                    FREE
//   FILLING in column 0, FREE in another         refill()                    FREE
//   SEALED in column 0, FILLING in another       set_state_all()             SEALED in all
//   unkeyed, with a key (`changing`)             on_publish()                without it: the command comes again
//   EVICTING                                     evict()                     SEALED
//   in use, of the last generation               never                       FREE, and retired
//   a shadow of another generation or frame      place(), free_page()        no shadow
//   an offer                                     any time                    none: its reader's report matches nothing
//   a frame that no word names                   any time                    limbo, with the epoch of now
//
// The epoch goes on from where it was: slots that are open keep what they may read.
#include <algorithm>
#include <chrono>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "daemon/keeper/arena.h"
#include "daemon/restart/points.h"

namespace kvt::keeper {
namespace {

using restart::Point;
using restart::reach;

}  // namespace

/// A region for a session whose own cannot be had: everything is held and a step is open for ever, so that nothing of the
/// arena is used again before its processes have gone (PROTOCOL A2.2).
Result<void> Arena::stand_in_for_region(SessionState& session) {
  const uint64_t bytes = session_region_bytes(session.geometry);
  KVT_TRY_ASSIGN(session.region_fd,
                 make_memfd("kvt-session-lost-" + std::to_string(session.geometry.session_id), bytes));
  KVT_TRY_ASSIGN(session.mapping, Mapping::map(session.region_fd, bytes, Access::kReadWrite));
  KVT_TRY(allocate_file(session.region_fd, bytes));
  session.region = SessionRegion::create(session.mapping.data(), session.geometry);
  for (uint64_t page = 0; page < session.geometry.pages; ++page)
    store_relaxed(session.region.holds()[page], uint16_t{1});
  for (uint64_t word = 0; word < session.region.summary_words(); ++word)
    store_relaxed(session.region.held()[word], UINT64_MAX);
  step_publish(session.region.member(0).slot[0], 1);
  return {};
}

Result<void> Arena::adopt_session(SessionRecord& record, Adoption& adoption) {
  auto session = std::make_unique<SessionState>();
  session->geometry = record.geometry;
  session->geometry.arena_id = table_.header().arena_id;
  session->geometry.pages = table_.pages();
  session->read_write = record.read_write;
  session->geometry.access = record.read_write ? 2 : 1;
  session->guarantee = record.ending ? 0 : record.guarantee;
  session->device_tiers = record.device_tiers;
  session->uid = record.uid;
  const uint32_t slot = record.geometry.slot;
  if (slot >= KVT_MAX_SESSIONS || sessions_[slot] != nullptr || record.geometry.session_id == 0 ||
      session_slots_.contains(record.geometry.session_id) || record.geometry.members_max == 0 ||
      record.geometry.members_max > KVT_MAX_MEMBERS || record.geometry.column >= table_.columns())
    return fail(Code::kMismatch, "the record of session " + std::to_string(record.geometry.session_id) +
                                     " does not fit its arena");
  const uint64_t bytes = session_region_bytes(session->geometry);
  bool whole = false;
  if (record.region_fd.valid()) {
    const auto has = file_bytes(record.region_fd);
    if (has && *has >= bytes) {
      if (auto mapped = Mapping::map(record.region_fd, bytes, Access::kReadWrite)) {
        session->mapping = std::move(*mapped);
        session->region_fd = std::move(record.region_fd);
        session->region = SessionRegion::view(session->mapping.data(), session->geometry);
        advise_huge(session->mapping.data(), bytes);
        whole = true;
      }
    }
  }
  if (!whole) {
    KVT_TRY(stand_in_for_region(*session));
    ++adoption.regions_lost;
    record.ending = true;
  }
  session->ending = record.ending;
  // What lies in it is its client's: hints, checked wherever they are used.
  session->magazine = MagazineWriter(session->region);
  session->is_fresh = false;
  session->magazine.resume();
  session->magazine_target = record.ending ? 0 : kMagazineStart;
  store_relaxed(session->region.header().offers, uint64_t{0});
  for (uint32_t i = 0; i < session->geometry.members_max; ++i) {
    if (record.pids[i] == 0) continue;
    Member& member = session->members[i];
    member.joined = true;
    member.orphan = true;  // until it resumes
    member.broken = record.ending;
    member.pid = record.pids[i];
    member.rings = MemberRings(session->region.member(i));
    member.rings.resume();
    take_step_times(session->region.member(i), member.steps_seen);  // counted by the daemon before
  }
  session_slots_[session->geometry.session_id] = slot;
  active_.push_back(session.get());
  sessions_[slot] = std::move(session);
  ++adoption.sessions;
  return {};
}

/// The row of a page that is to be FREE: in every column of this generation, and nothing else in it.
void Arena::adopt_free(PageIndex page, uint32_t generation) {
  const Placement word = Placement::of(kvt::PageState::kFree, false, 0, 0, generation);
  for (uint32_t column = 0; column < table_.columns(); ++column) {
    if (table_.placement(column, page).word != word.word) table_.set_placement(column, page, word);
    if (table_.shadow(column, page).word != 0) table_.set_shadow(column, page, Shadow{});
    if (table_.offer(column, page).word != 0) table_.set_offer(column, page, Offer{}, 0);
    if (table_.heat(column, page) != 0) table_.set_heat(column, page, 0);
  }
  if (!table_.key(page).none()) table_.set_key(page, Key{});
  ++pages_in(kvt::PageState::kFree);
  if (generation >= KVT_MAX_GENERATION)
    ++retired_pages_;
  else
    ++free_pages_;
}

/// Whether every frame that the row names can be this page's, in this column.
bool Arena::can_adopt_place(uint32_t column, PageIndex page, uint32_t tier, Frame frame) const {
  if (tier >= table_.tiers()) return false;
  const kvt_abi_tier& window = table_.tier(tier);
  if (frame < window.first_frame || frame - window.first_frame >= window.frames) return false;
  const int32_t reader = window.column;
  return (reader < 0 || reader == static_cast<int32_t>(column)) && frames_.can_adopt(frame, page);
}

void Arena::adopt_row(PageIndex page, Handle changing, Adoption& adoption) {
  const Placement first = table_.placement(0, page);
  const uint32_t generation = first.generation();
  if (first.state() == kvt::PageState::kFree) return adopt_free(page, generation);
  const auto free_it = [&] { adopt_free(page, std::min(generation + 1, KVT_MAX_GENERATION)); };
  const auto damaged = [&] {
    ++adoption.damaged;
    free_it();
  };

  if (generation >= KVT_MAX_GENERATION)
    return damaged();  // such a page is retired, and never in use (PROTOCOL C4)
  kvt::PageState state = first.state();
  bool keyed = first.keyed();
  if (state == kvt::PageState::kEvicting) {
    state = kvt::PageState::kSealed;
    ++adoption.evictions_undone;
  }
  const uint64_t owner = table_.owner(page);
  SessionState* const session = keyed ? nullptr : find_session(owner);
  const bool half_done = changing == Handle::of(page, generation);
  for (uint32_t column = 0; column < table_.columns(); ++column) {
    const Placement word = table_.placement(column, page);
    if (word.state() == kvt::PageState::kFree && state == kvt::PageState::kFilling) return free_it();
    if (word.generation() != generation || word.state() == kvt::PageState::kFree ||
        !can_adopt_place(column, page, word.tier(), word.frame()))
      return damaged();
  }
  if (state == kvt::PageState::kFilling) {
    if (keyed) return damaged();
    if (session == nullptr || (half_done && !is_known_to(*session, changing))) {
      ++adoption.filling_freed;
      return free_it();
    }
  } else if (keyed && table_.key(page).none()) {
    return damaged();
  }
  if (half_done && !keyed && !table_.key(page).none()) {
    table_.set_key(page, Key{});  // nobody has seen it; its publish comes again
    table_.set_parent(page, kNoHandle);
  }

  for (uint32_t column = 0; column < table_.columns(); ++column) {
    const Placement word = table_.placement(column, page);
    const Placement wanted = word.with_state(state).with_keyed(keyed);
    frames_.adopt(word.frame(), page);
    if (wanted.word != word.word) table_.set_placement(column, page, wanted);
    if (table_.offer(column, page).word != 0) {
      table_.set_offer(column, page, Offer{}, 0);
      ++adoption.offers_cleared;
    }
    if (const Shadow shadow = table_.shadow(column, page); shadow.word != 0) {
      const bool good = shadow.valid() && state == kvt::PageState::kSealed &&
                        shadow.generation() == generation && shadow.frame() != word.frame() &&
                        shadow.tier() > word.tier() &&
                        can_adopt_place(column, page, shadow.tier(), shadow.frame());
      if (good) {
        frames_.adopt(shadow.frame(), page);
        ++shadows_;
      } else {
        table_.set_shadow(column, page, Shadow{});
        ++adoption.shadows_dropped;
      }
    }
    if (const uint8_t heat = table_.heat(column, page); heat != 0)
      heat_[column][page] = policy::heat_of_rate(policy::heat_rate(heat), period_);
    else
      heat_[column][page] = policy::heat_at_birth(period_);
    change_density(column, page, kNowhere, word.tier());
  }
  ++pages_in(state);
  groups_tagged_ = groups_tagged_ || table_.group(page) != 0;
  if (keyed) {
    ++keyed_pages_;
    return;
  }
  if (session == nullptr && owner != 0) table_.set_owner(page, 0);
  own(session != nullptr ? session->owned : unowned_, page);
}

bool Arena::take_back_grant(SessionState& session, uint32_t member) {
  std::atomic_ref<uint32_t> claim(session.region.member(member).claim);
  uint32_t now = KVT_CLAIM_GRANTED;
  return claim.compare_exchange_strong(now, KVT_CLAIM_WITHDRAWN, std::memory_order_acq_rel) ||
         now == KVT_CLAIM_WITHDRAWN || now == KVT_CLAIM_LEFT;
}

/// Whether a session that lives may know of a FILLING page that refill() or take_back_waiting() was changing. One that
/// refill() has pushed was pushed last: members take it from one place to the next meanwhile, and between its release and
/// the stock it is nowhere. One that was taken back is nobody's. The rest is for what an older daemon has left: it waits
/// in the magazine, is held, or lies in a member's stock.
bool Arena::is_known_to(const SessionState& session, Handle page) const {
  if (session.magazine.newest() == page || session.magazine.has(page) || held(session.region, page.index()))
    return true;
  for (uint32_t i = 0; i < session.geometry.members_max; ++i) {
    const kvt_abi_member& member = session.region.member(i);
    const uint64_t count = Untrusted<uint64_t>(load_acquire(member.stock_count)).capped(KVT_STOCK_ENTRIES);
    for (uint64_t at = 0; at < count; ++at)
      if (load_relaxed(member.stock[at]) == page.value) return true;
  }
  return held(session.region, page.index());
}

/// Whether the index has each page with a key once, where a reader finds it, and nothing else. Threads share the pages: what
/// takes long is waiting for the index's slots, which lie at random.
bool Arena::index_agrees() const {
  constexpr uint64_t kPagesOfThread = 1 << 11;
  const uint64_t pages = table_.pages();
  const auto generation_of = [this](PageIndex page) {
    const Placement placement = table_.placement(0, page);
    return placement.keyed() ? placement.generation() : PrefixIndex::kNotKeyed;
  };
  const auto key_of = [this](PageIndex page) { return table_.key(page); };
  const uint64_t parts = std::clamp<uint64_t>(std::min<uint64_t>(std::thread::hardware_concurrency(), 4), 1,
                                              1 + pages / kPagesOfThread);
  std::vector<std::optional<uint64_t>> found(parts);
  std::vector<std::thread> threads;
  for (uint64_t part = 0; part < parts; ++part) {
    const auto look = [&, part] {
      found[part] =
          prefix_index_.find_each(pages * part / parts, pages * (part + 1) / parts, generation_of, key_of);
    };
    if (part + 1 == parts) {
      look();
      break;
    }
    try {
      threads.emplace_back(look);
    } catch (const std::system_error&) {
      look();
    }
  }
  for (std::thread& thread : threads) thread.join();
  uint64_t all = 0;
  for (const auto& part : found) {
    if (!part) return false;
    all += *part;
  }
  // Each of them has an entry of its own; are these all?
  return all == keyed_pages_ && prefix_index_.entries() == keyed_pages_;
}

/// Children of each keyed page, and the index.
void Arena::adopt_keys(Adoption& adoption) {
  const uint64_t pages = table_.pages();
  for (uint64_t i = 0; i < pages; ++i) {
    const auto page = static_cast<PageIndex>(i);
    if (!table_.placement(0, page).keyed()) continue;
    const Handle parent = table_.parent(page);
    if (parent.none()) continue;
    const bool there = parent.index() < pages && parent.index() != page &&
                       table_.placement(0, parent.index()).generation() == parent.generation() &&
                       table_.placement(0, parent.index()).keyed();
    if (there)
      ++pages_[parent.index()].children;
    else
      table_.set_parent(page, kNoHandle);
  }
  reach(Point::kAdoptIndex);
  if (index_agrees()) return;
  adoption.index_rebuilt = true;
  prefix_index_.clear();
  for (uint64_t i = 0; i < pages; ++i) {
    const auto page = static_cast<PageIndex>(i);
    const Placement placement = table_.placement(0, page);
    if (!placement.keyed()) continue;
    // One that finds no slot is readable for who holds it, and is found by nobody, as at its publish.
    if (prefix_index_.insert(table_.key(page), page, placement.generation()) !=
        PrefixIndex::Insert::kInserted)
      ++adoption.unindexed;
  }
}

Result<std::unique_ptr<Arena>> Arena::adopt(uint32_t number, ArenaMemory memory,
                                            const ArenaSettings& settings,
                                            std::vector<SessionRecord>& sessions, Adoption& adoption) {
  const auto begin = std::chrono::steady_clock::now();
  KVT_TRY_ASSIGN(const ArenaWriter table,
                 ArenaWriter::adopt(memory.table_mapping.data(), memory.table_mapping.bytes()));
  std::unique_ptr<Arena> arena = make(number, std::move(memory), table, settings);
  const Handle changing = table.changing();
  reach(Point::kAdoptMapped);
  for (SessionRecord& record : sessions) {
    if (auto adopted = arena->adopt_session(record, adoption); !adopted) {
      // Without a stand-in its steps would not count (PROTOCOL A2.2): rather no daemon than that; the manager tries again.
      if (adopted.error().code != Code::kMismatch) return tl::unexpected<Error>(adopted.error());
      adoption.notes.push_back(adopted.error().text);
      record.geometry.session_id = 0;
    }
  }
  arena->free_pages_ = 0;
  arena->pages_in(kvt::PageState::kFree) = 0;
  arena->never_used_pages_ = table.pages();
  for (uint64_t i = 0; i < table.pages(); ++i) {
    if (i == table.pages() / 2) reach(Point::kAdoptRows);
    arena->adopt_row(static_cast<PageIndex>(i), changing, adoption);
  }
  // The lowest first.
  for (uint64_t i = table.pages(); i-- != 0;) {
    const auto page = static_cast<PageIndex>(i);
    const Placement placement = table.placement(0, page);
    if (placement.state() != kvt::PageState::kFree || placement.generation() >= KVT_MAX_GENERATION) continue;
    arena->pages_[page].link = arena->free_head_;
    arena->free_head_ = page;
  }
  arena->adopt_keys(adoption);
  arena->table_.set_adopted();
  arena->log_.overrun_all();
  // (5) full fence; R := epoch++; what no word names goes to limbo with R.
  const uint64_t epoch = arena->table_.advance_epoch();
  reach(Point::kAdoptEpoch);
  const uint32_t since_ms = now_ms();
  arena->frames_.strand_the_rest([&](Frame frame) { arena->limbo_.push_back({epoch, frame, since_ms}); });
  arena->adopt_limits();
  store_relaxed(arena->table_.counters().limbo_frames, uint64_t{arena->limbo_.size()});
  // Of a member that had ended, and whose stock was not yet taken back.
  for (SessionState* const session : arena->active_)
    for (uint32_t i = 0; i < session->geometry.members_max; ++i)
      if (!session->members[i].joined) arena->take_stock_back(*session, i);
  arena->flush_withdrawals();
  arena->drain_limbo();
  arena->publish_allowances();
  adoption.pages += table.pages();
  adoption.keyed += arena->keyed_pages_;
  adoption.filling += arena->pages_in(kvt::PageState::kFilling);
  adoption.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return arena;
}

}  // namespace kvt::keeper
