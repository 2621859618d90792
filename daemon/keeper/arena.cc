// SPDX-License-Identifier: Apache-2.0
//
// Arena: sessions, the pass, withdrawal and limbo, ownership lists, counting.
#include "daemon/keeper/arena.h"

#include <algorithm>
#include <cstring>

#include "daemon/restart/points.h"

namespace kvt::keeper {

using restart::Point;
using restart::reach;

Result<std::unique_ptr<Arena>> Arena::create(uint32_t number, ArenaMemory memory,
                                             const ArenaSettings& settings) {
  KVT_TRY_ASSIGN(const ArenaWriter table,
                 ArenaWriter::open(memory.table_mapping.data(), memory.table_mapping.bytes()));
  return make(number, std::move(memory), table, settings);
}

std::unique_ptr<Arena> Arena::make(uint32_t number, ArenaMemory memory, const ArenaWriter& table,
                                   const ArenaSettings& settings) {
  std::unique_ptr<Arena> arena(new Arena(number, std::move(memory), settings));
  arena->table_ = table;
  arena->prefix_index_ = PrefixIndex(table);
  arena->log_ = ChangeLog(table);
  arena->frames_ = FrameTable(table);
  arena->pages_ = LazyArray<PageState>(table.pages());
  for (uint32_t tier = 0; tier < table.tiers(); ++tier)
    arena->limits_[tier].wanted = arena->limits_[tier].filled = arena->frames_.frames(tier);
  arena->sums_ = PageSums(arena->memory_.sums.data());
  if (!arena->sums_.on()) arena->settings_.integrity = Integrity::kOff;
  arena->columns_.resize(table.columns());
  for (uint32_t i = 0; i < table.columns(); ++i) {
    ColumnState& column = arena->columns_[i];
    column.fast_tier = arena->column_tiers(i).front();
    arena->heat_.emplace_back(table.pages());
    column.predictor = policy::Predictor(settings.predictor);
    column.bytes_read.resize(1);
    column.bytes_smoothed.resize(table.tiers());
    if (arena->column_tiers(i).size() > 2)
      column.densities.assign(table.tiers(), policy::DensityHistogram(1 - 1.0 / policy::kSlowMemory));
  }
  const policy::TokenBucket bucket(arena->budget_limits());
  arena->budget_ = {bucket, bucket};
  arena->set_policy(settings);
  arena->free_pages_ = table.pages();
  arena->pages_in(kvt::PageState::kFree) = table.pages();
  return arena;
}

/// A burst of a tenth of a second, or a few pages.
policy::TokenBucket::Limits Arena::budget_limits() const {
  const auto rate = static_cast<double>(settings_.move_bytes_per_second);
  return {rate, std::max(rate * 0.1, 8 * static_cast<double>(table_.page_bytes())), settings_.idle_credit};
}

void Arena::set_policy(const ArenaSettings& settings) {
  settings_.policy = settings.policy;
  settings_.promote = settings.promote;
  settings_.move_bytes_per_second = settings.move_bytes_per_second;
  settings_.idle_credit = settings.idle_credit;
  settings_.cooldown_ms = settings.cooldown_ms;
  budget_.in.set_limits(budget_limits());
  budget_.out.set_limits(budget_limits());
  measure_ = settings_.promote == Promote::kOffers ? policy::Measure::kNext : policy::Measure::kLasting;
}

Arena::Arena(uint32_t number, ArenaMemory memory, const ArenaSettings& settings)
    : number_(number), memory_(std::move(memory)), settings_(settings) {}

uint64_t reserve_of(uint64_t frames) { return std::clamp<uint64_t>(frames / 32, 1, 4096); }

uint32_t Arena::tiers_of_gpu(std::span<const uint8_t, KVT_DEVICE_UUID_BYTES> uuid) const {
  uint32_t tiers = 0;
  for (uint32_t tier = 0; tier < table_.tiers(); ++tier)
    if (table_.is_device(tier) && !is_degraded(tier) &&
        std::equal(uuid.begin(), uuid.end(), std::begin(table_.device(tier).uuid)))
      tiers |= 1u << tier;
  return tiers;
}

// ---- sessions ----

Result<SessionState*> Arena::add_session(uint64_t session_id, uint32_t column, uint32_t members_max,
                                         bool read_write, uint64_t guarantee, uint32_t device_tiers) {
  const auto free_slot = std::find(sessions_.begin(), sessions_.end(), nullptr);
  const std::string arena = "arena \"" + std::string(table_.header().name) + "\"";
  if (free_slot == sessions_.end())
    return fail(Code::kLimit, arena + " has " + std::to_string(KVT_MAX_SESSIONS) + " sessions");
  uint64_t promised = guarantee;
  for_each_session([&](const SessionState& session) { promised += session.guarantee; });
  if (promised > room_for_pages())
    return fail(Code::kFull, arena + " has " + std::to_string(room_for_pages()) + " pages; " +
                                 std::to_string(promised - guarantee) + " are guaranteed to others, " +
                                 std::to_string(guarantee) + " more cannot be");
  auto session = std::make_unique<SessionState>();
  session->geometry.session_id = session_id;
  session->geometry.arena_id = table_.header().arena_id;
  session->geometry.pages = table_.pages();
  session->geometry.slot = static_cast<uint32_t>(free_slot - sessions_.begin());
  session->geometry.members_max = members_max;
  session->geometry.column = column;
  session->geometry.access = read_write ? 2 : 1;
  session->read_write = read_write;
  session->guarantee = guarantee;
  session->device_tiers = device_tiers;
  const uint64_t bytes = session_region_bytes(session->geometry);
  KVT_TRY_ASSIGN(session->region_fd, make_memfd("kvt-session-" + std::to_string(session_id), bytes));
  auto mapping = Mapping::map(session->region_fd, bytes, Access::kReadWrite);
  if (!mapping) return fail(Code::kFull, "session region: " + mapping.error().text);
  session->mapping = std::move(*mapping);
  advise_huge(session->mapping.data(), bytes);
  // All of it now: a hole would be allocated, or refused with SIGBUS, when the keeper looks at it (PROTOCOL
  // C6).
  if (auto filled = allocate_file(session->region_fd, bytes); !filled)
    return fail(Code::kFull, "session region: " + filled.error().text);
  session->region = SessionRegion::create(session->mapping.data(), session->geometry);
  session->magazine = MagazineWriter(session->region);
  session->magazine_target = kMagazineStart;
  *free_slot = std::move(session);
  session_slots_[session_id] = (*free_slot)->geometry.slot;
  SessionState& made = **free_slot;
  active_.push_back(&made);
  publish_allowances();
  return &made;
}

Result<uint32_t> Arena::add_member(SessionState& session, int pid) {
  for (uint32_t i = 0; i < session.geometry.members_max; ++i) {
    Member& member = session.members[i];
    if (member.joined) continue;
    // It may be another's that has gone, or scribbled over; of a new region it is zero, and touching it would take long.
    if (!session.is_fresh) std::memset(&session.region.member(i), 0, sizeof(kvt_abi_member));
    session.is_fresh = false;
    member = Member{};
    member.joined = true;
    member.pid = pid;
    member.rings = MemberRings(session.region.member(i));
    return i;
  }
  return fail(Code::kLimit, "the session was attached for " + std::to_string(session.geometry.members_max) +
                                " members and all are there");
}

void Arena::end_member(SessionState& session, uint32_t index) {
  Member& member = session.members[index];
  if (!member.joined) return;
  steps_.add(take_step_times(session.region.member(index), member.steps_seen));
  member.joined = false;
  take_stock_back(session, index);
  flush_withdrawals();
}

/// What a member had freed for itself: hints, checked like any command of the session.
void Arena::take_stock_back(SessionState& session, uint32_t index) {
  const kvt_abi_member& shared = session.region.member(index);
  const uint64_t count = Untrusted<uint64_t>(load_relaxed(shared.stock_count)).capped(KVT_STOCK_ENTRIES);
  for (uint64_t i = 0; i < count; ++i) {
    const Handle page{load_relaxed(shared.stock[i])};
    if (page.index() < table_.pages() && page.generation() <= KVT_MAX_GENERATION) on_free(session, page);
  }
}

void Arena::begin_end(SessionState& session) {
  session.ending = true;
  for (Member& member : session.members) member.orphan = member.broken = true;
  withdraw_offers_to(session.geometry.slot);  // no report of it is served any more
  session.guarantee = 0;
  session.magazine_target = 0;
  publish_allowances();
}

void Arena::tell_ended(SessionState& session) { store_release(session.region.header().ended, uint64_t{1}); }

bool Arena::has_told_ended(const SessionState& session) {
  return load_acquire(session.region.header().ended) != 0;
}

void Arena::end_session(SessionState& session) {
  const uint32_t slot = session.geometry.slot;
  take_steps(session);
  // Not looked at any more: its holds are gone
  std::unique_ptr<SessionState> ending = std::move(sessions_[slot]);
  session_slots_.erase(ending->geometry.session_id);
  std::erase(active_, ending.get());
  tell_ended(*ending);
  store_relaxed(ending->region.header().offers,
                uint64_t{0});  // they are withdrawn below, and whose slot this will be gets others
  full_fence();                // ended | the stores that free its pages, and the bytes that others then write
  withdraw_offers_to(slot);    // before another session can have the slot (PROTOCOL A3)
  for (size_t at = 0; at < ending->owned.size(); ++at) {
    if (at == ending->owned.size() / 2) reach(Point::kEndFreed);
    const PageIndex page = ending->owned[at];
    const Placement now = table_.placement(0, page);
    if (now.state() == kvt::PageState::kFilling) {
      free_page(page);
      continue;
    }
    pages_[page].link = static_cast<uint32_t>(unowned_.size());
    unowned_.push_back(page);
    table_.set_owner(page, 0);
    evict(page);  // unless somebody else reads it: then the sweep frees it when they are done
  }
  flush_withdrawals();
  drain_limbo();
  publish_allowances();
}

SessionState* Arena::find_session(uint64_t session_id) {
  const auto found = session_slots_.find(session_id);
  return found == session_slots_.end() ? nullptr : sessions_[found->second].get();
}

uint32_t Arena::session_count() const { return static_cast<uint32_t>(session_slots_.size()); }

// ---- withdrawal and limbo ----

/// One word that named the frame has been stored over (PROTOCOL A5). REQUIRES: flush_withdrawals() before the frame is
/// looked at.
void Arena::withdraw(Frame frame) {
  if (frames_.unname(frame)) leaving_.push_back(frame);
}

void Arena::flush_withdrawals() {
  if (leaving_.empty() && !logged_) return;
  logged_ = false;
  const uint64_t epoch = table_.advance_epoch();
  if (!leaving_.empty()) reach(Point::kLimboEpoch);
  const uint32_t since_ms = leaving_.empty() ? 0 : now_ms();
  for (const Frame frame : leaving_) {
    if (settings_.inject == Inject::kEarlyReuse) {
      frames_.release(frame);
      continue;
    }
    limbo_.push_back({epoch, frame, since_ms});
  }
  leaving_.clear();
  store_relaxed(table_.counters().limbo_frames, uint64_t{limbo_.size()});
}

uint64_t Arena::oldest_step() const {
  const uint64_t now = table_.epoch();
  uint64_t oldest = UINT64_MAX;
  for_each_session([&](const SessionState& session) {
    for (uint32_t i = 0; i < session.geometry.members_max; ++i) {
      if (!session.members[i].joined) continue;
      const uint64_t open = oldest_open_step(session.region.member(i));
      // An epoch from the future is nonsense: it blocks everything, in this arena only (PROTOCOL B6).
      oldest = std::min(oldest, open == UINT64_MAX || open <= now ? open : 0);
    }
  });
  return oldest;
}

void Arena::drain_limbo() {
  if (limbo_.empty()) return;
  const uint64_t oldest = oldest_step();
  while (!limbo_.empty() && limbo_.front().epoch < oldest) {
    if (settings_.inject == Inject::kLeak) frames_.leak_next();
    settings_.inject = settings_.inject == Inject::kLeak ? Inject::kNone : settings_.inject;
    frames_.release(limbo_.front().frame);
    limbo_.pop_front();
    reach(Point::kLimboFreed);
  }
  store_relaxed(table_.counters().limbo_frames, uint64_t{limbo_.size()});
}

/// Who is in the step that the oldest frame in limbo waits for, once it has waited for a tenth of a second.
void Arena::watch_limbo() {
  const bool was_held = limbo_holder_.stops_moves;
  limbo_holder_ = {};
  if (limbo_seconds() < 0.1) return;
  const uint64_t waits_for = limbo_.front().epoch;
  uint64_t oldest = UINT64_MAX;
  const uint64_t now = table_.epoch();
  for_each_session([&](const SessionState& session) {
    for (uint32_t i = 0; i < session.geometry.members_max; ++i) {
      if (!session.members[i].joined) continue;
      uint64_t open = oldest_open_step(session.region.member(i));
      if (open != UINT64_MAX && open > now) open = 0;  // as in oldest_step()
      if (open > waits_for || open >= oldest) continue;
      oldest = open;
      limbo_holder_.session_id = session.geometry.session_id;
      limbo_holder_.pid = session.members[i].pid;
    }
  });
  limbo_holder_.stops_moves =
      limbo_seconds() >= kLimboPatience &&
      limbo_.size() >= std::max<uint64_t>(kLimboLeast, table_.header().frames / kLimboPart);
  if (limbo_holder_.stops_moves && !was_held)
    note(events::Kind::kLimboHeld,
         "arena \"" + std::string(table_.header().name) + "\": " + std::to_string(limbo_.size()) +
             " frames wait for a step of process " + std::to_string(limbo_holder_.pid) + " (session " +
             std::to_string(limbo_holder_.session_id) + ") that has been open for " +
             std::to_string(static_cast<int>(limbo_seconds())) +
             " s: nothing is moved in this arena until it ends (kvtierctl evict-session)");
}

void Arena::watch_reclaim(std::chrono::steady_clock::time_point died) {
  // What is withdrawn until now gets this epoch at most (flush_withdrawals).
  reclaims_waiting_.push_back({table_.epoch(), died});
}

/// After the pass's withdrawals: those whose frames have left limbo are over.
void Arena::settle_reclaims() {
  while (!reclaims_waiting_.empty() &&
         (limbo_.empty() || limbo_.front().epoch > reclaims_waiting_.front().epoch)) {
    const auto took = std::chrono::steady_clock::now() - reclaims_waiting_.front().died;
    reclaims_.add(std::chrono::duration<double>(took).count());
    reclaims_waiting_.pop_front();
  }
}

// ---- pages ----

/// The same state in every column's word, each with its own place.
void Arena::set_state_all(PageIndex page, kvt::PageState state, bool keyed) {
  const kvt::PageState before = table_.placement(0, page).state();
  --pages_in(before);
  ++pages_in(state);
  for (uint32_t column = 0; column < table_.columns(); ++column)
    table_.set_placement(column, page, table_.placement(column, page).with_state(state).with_keyed(keyed));
  if (recorder_ && before == kvt::PageState::kFilling) recorder_->sealed(page);
}

void Arena::set_shadow(uint32_t column, PageIndex page, Shadow shadow) {
  shadows_ -= table_.shadow(column, page).valid() ? 1 : 0;
  shadows_ += shadow.valid() ? 1 : 0;
  table_.set_shadow(column, page, shadow);
  if (recorder_) recorder_->shadow_changed(page);
}

PageIndex Arena::take_page() {
  PageIndex page = UINT32_MAX;
  if (free_head_ != UINT32_MAX) {
    page = free_head_;
    free_head_ = pages_[page].link;
  } else if (never_used_pages_ < table_.pages()) {
    page = static_cast<PageIndex>(never_used_pages_++);
  } else {
    return UINT32_MAX;
  }
  --free_pages_;
  return page;
}

/// Any state -> FREE with the next generation, in one store a column (PROTOCOL B2, C4); every frame that a
/// word of the row named leaves. The caller has taken it out of lists and index.
void Arena::free_page(PageIndex page) {
  withdraw_offer(page);
  const uint32_t generation = table_.placement(0, page).generation() + 1;
  KVT_CHECK(generation <= KVT_MAX_GENERATION);
  --pages_in(table_.placement(0, page).state());
  ++pages_in(kvt::PageState::kFree);
  for (uint32_t column = 0; column < table_.columns(); ++column) {
    const Placement placement = table_.placement(column, page);
    const Shadow shadow = table_.shadow(column, page);
    table_.set_placement(column, page, Placement::of(kvt::PageState::kFree, false, 0, 0, generation));
    if (shadow.valid()) set_shadow(column, page, Shadow{});
    withdraw(placement.frame());
    if (shadow.valid()) withdraw(shadow.frame());
    log_.append(column, page);
    change_density(column, page, placement.tier(), kNowhere);
    heat_[column][page] = policy::PageHeat{};
    if (table_.heat(column, page) != 0) table_.set_heat(column, page, 0);
  }
  reach(Point::kFreeStored);
  logged_ = true;
  forget_reservation(page);
  if (!damaged_.empty()) damaged_.erase(page);
  if (!table_.key(page).none()) table_.set_key(page, Key{});
  pages_[page].children = 0;
  unpin(page);
  if (generation >= KVT_MAX_GENERATION) {  // retired: the index is not given out again (PROTOCOL C4)
    ++retired_pages_;
    return;
  }
  pages_[page].link = free_head_;
  free_head_ = page;
  ++free_pages_;
}

std::vector<PageIndex>& Arena::owned_list(uint64_t owner) {
  SessionState* const session = find_session(owner);
  return session != nullptr ? session->owned : unowned_;
}

void Arena::own(std::vector<PageIndex>& list, PageIndex page) {
  pages_[page].link = static_cast<uint32_t>(list.size());
  list.push_back(page);
}

void Arena::disown(std::vector<PageIndex>& list, PageIndex page) {
  const uint32_t at = pages_[page].link;
  KVT_CHECK(at < list.size() && list[at] == page);
  list[at] = list.back();
  pages_[list[at]].link = at;
  list.pop_back();
}

void Arena::unlink_parent(PageIndex page) {
  const Handle parent = table_.parent(page);
  if (parent.none()) return;
  table_.set_parent(page, kNoHandle);
  PageState& state = pages_[parent.index()];
  if (table_.placement(0, parent.index()).generation() == parent.generation() && state.children != 0)
    --state.children;
}

// ---- the pass ----

bool Arena::pass(mover::Mover& mover, bool period, double seconds) {
  ++passes_;
  spent_ = 0;
  more_ = false;
  if (recorder_) record_places();  // commits: with the time at which they happened
  bool worked = false;
  leave_degraded();
  worked |= mend(mover);
  worked |= start_checks(mover);
  if (is_resizing()) worked |= resize_some(mover);
  // Each pass begins with another session: one that asks for all that a pass may do leaves the next to others.
  for (size_t turn = 0; turn < active_.size(); ++turn) {
    SessionState& session = *active_[(passes_ + turn) % active_.size()];
    for (uint32_t i = 0; i < session.geometry.members_max; ++i)
      if (session.members[i].joined) worked |= serve(session, i);
  }
  if (period) {
    ++period_;
    watch_limbo();
    if (recorder_) recorder_->begin_period(period_);
    worked |= lapse_offers();
    lapse_advice();
    const bool read_now = collect();
    worked |= read_now;
    add_budget(seconds);
    if (scrubs()) scrub(seconds);
    for (uint32_t column = 0; column < table_.columns(); ++column) {
      worked |= decide_and_issue(mover, column, read_now);
      columns_[column].forget_candidates(period_);
    }
    advised_.clear();
    sweep_unkeyed(64);
    for (SessionState* const session : active_) trim_magazine(*session);
  }
  worked |= keep_room();
  flush_withdrawals();
  drain_limbo();
  if (!reclaims_waiting_.empty()) settle_reclaims();
  worked |= refill_magazines();
  for (SessionState* const session : active_)
    for (uint32_t i = 0; i < session->geometry.members_max; ++i)
      if (session->members[i].joined) session->members[i].rings.wake_if_posted();
  if (recorder_) record_places();
  ArenaWriter::count(table_.counters().passes);
  return worked;
}

bool Arena::has_work() const {
  bool work = false;
  for_each_session([&](const SessionState& session) {
    work = work || any_touched(session.region);
    for (uint32_t i = 0; i < session.geometry.members_max && !work; ++i) {
      if (!session.members[i].joined || session.members[i].orphan) continue;
      uint64_t waiting = 0;
      work = session.members[i].rings.look(waiting) == MemberRings::Look::kReady ||
             any_sequence_touched(session.region.member(i));
    }
  });
  return work;
}

bool Arena::is_held(PageIndex page) const {
  bool any = false;
  for_each_session([&](const SessionState& session) { any = any || held(session.region, page); });
  return any;
}

ArenaCounts Arena::counts() const {
  ArenaCounts counts;
  counts.free = free_pages_;
  counts.retired = retired_pages_;
  counts.filling = pages_in(kvt::PageState::kFilling);
  counts.sealed = pages_in(kvt::PageState::kSealed);
  counts.evicting = pages_in(kvt::PageState::kEvicting);
  counts.keyed = keyed_pages_;
  counts.shadows = shadows_;
  counts.pinned = pinned_pages_;
  counts.copies = jobs_;
  counts.copies_failed = copies_failed_;
  counts.lost_pages = lost_pages_;
  counts.limbo_holder = limbo_holder_;
  counts.starved = starved_;
  counts.checks = checks_;
  counts.offers = offer_counts_;
  counts.offers.out = offers_.size();
  counts.moved = moved_;
  counts.nothing_evictable = nothing_evictable_;
  counts.periods_cut_short = periods_cut_short_;
  counts.begun = begun_;
  counts.held_back = held_back_;
  counts.modelled = modelled_;
  counts.payback = payback_.totals();
  counts.reclaims = reclaims_;
  counts.steps = steps_;
  counts.limbo_oldest_seconds = limbo_seconds();
  for (uint32_t tier = 0; tier < table_.tiers(); ++tier) {
    ArenaCounts::TierFrames frames;
    frames.frames = frames_.frames(tier);
    frames.counts = frames_.counts(tier);
    frames.resize = resize_state(tier);
    frames.bytes_read = bytes_read_[tier];
    for (const ColumnState& column : columns_)
      frames.bytes_read_per_second += column.bytes_smoothed[tier] * 1000.0 / settings_.period_ms;
    counts.frames += frames.frames;
    counts.limbo += frames.counts.limbo;
    counts.tiers.push_back(frames);
  }
  counts.last_plan = last_plan_;
  return counts;
}

ArenaReport Arena::report() const {
  ArenaReport report;
  static_cast<ArenaCounts&>(report) = counts();  // what no row says: tiers, limbo, copies, the plan
  report.free = report.retired = report.filling = report.sealed = report.evicting = report.keyed =
      report.shadows = report.pinned = 0;
  std::vector<uint8_t> named(table_.header().frames, 0);
  for (uint64_t page = 0; page < table_.pages(); ++page) {
    const auto index = static_cast<PageIndex>(page);
    const Placement first = table_.placement(0, index);
    if (page < never_used_pages_ && pages_[index].pinned) ++report.pinned;
    switch (first.state()) {
      case kvt::PageState::kFree:
        if (first.generation() >= KVT_MAX_GENERATION)
          ++report.retired;
        else
          ++report.free;
        continue;
      case kvt::PageState::kFilling: ++report.filling; break;
      case kvt::PageState::kSealed: ++report.sealed; break;
      case kvt::PageState::kEvicting: ++report.evicting; break;
    }
    if (first.keyed()) ++report.keyed;
    for (uint32_t column = 0; column < table_.columns(); ++column) {
      named[table_.placement(column, index).frame()] = 1;
      const Shadow shadow = table_.shadow(column, index);
      if (shadow.valid()) {
        named[shadow.frame()] = 1;
        ++report.shadows;
      }
      if (const Offer offer = table_.offer(column, index); offer.valid()) named[offer.frame()] = 1;
    }
  }
  for (uint32_t tier = 0; tier < table_.tiers(); ++tier)
    report.accounted += frames_.walk_free(tier) + frames_.counts(tier).reserved +
                        frames_.counts(tier).retired + frames_.counts(tier).aside;
  for (const uint8_t frame : named) report.accounted += frame;
  report.accounted += report.limbo;
  return report;
}

}  // namespace kvt::keeper
