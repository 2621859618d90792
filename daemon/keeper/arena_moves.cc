// SPDX-License-Identifier: Apache-2.0
//
// Arena: counters become heat, heat becomes a plan, a plan becomes copies, and copies become placements.
#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "daemon/keeper/arena.h"

namespace kvt::keeper {
namespace {

constexpr size_t kCandidatesMax = 2048;
constexpr size_t kCandidatesKeep = 512;
constexpr uint64_t kSampleFrames = 512;

constexpr size_t kReadsBatch = 1024;

}  // namespace

/// Tiers that a column reads from, fastest first. The first is its fast tier.
std::vector<uint32_t> Arena::column_tiers(uint32_t column) const {
  std::vector<uint32_t> tiers;
  for (uint32_t tier = 0; tier < table_.tiers(); ++tier)
    if (table_.tier(tier).column < 0 || table_.tier(tier).column == static_cast<int32_t>(column)) tiers.push_back(tier);
  return tiers;
}

bool Arena::movable(uint32_t column, PageIndex page, Placement placement) const {
  (void)column;
  if (placement.state() != kvt::PageState::kSealed || busy_.contains(page) || pages_[page].pinned || offers_.contains(page)) return false;
  if (settings_.policy == PolicyName::kChurn || pages_[page].moved == 0) return true;
  const auto since = static_cast<uint16_t>(period_ - pages_[page].moved);
  return since >= settings_.cooldown_ms / settings_.period_ms;
}

/// Reads become heat. Millions of pages a period: what the loop needs lies in registers, and each page's lines, which
/// lie at random, are fetched a few pages before.
void Arena::note_reads(uint32_t column, std::span<const Reads> batch) {
  constexpr size_t kAhead = 16;
  ColumnState& state = columns_[column];
  policy::Heat* const heats = heat_[column].data();
  const uint32_t period = period_;
  std::array<uint64_t, KVT_MAX_TIERS> reads_of_tier{};
  const auto prefetch = [&](PageIndex page) {
    table_.prefetch_placement(column, page);
    __builtin_prefetch(&heats[page], 1);
  };
  for (size_t i = 0; i < std::min(batch.size(), kAhead); ++i) prefetch(batch[i].page);
  for (size_t i = 0; i < batch.size(); ++i) {
    if (i + kAhead < batch.size()) prefetch(batch[i + kAhead].page);
    const auto [page, reads] = batch[i];
    const Placement placement = table_.placement(column, page);
    if (!placement.readable()) continue;
    const policy::Heat before = heats[page];
    policy::Heat heat = policy::heat_after(before, period, static_cast<float>(reads));
    // However often a sequence names the page: not hotter than the most that its counter could say, for ever.
    heat.rate = std::min(heat.rate, static_cast<float>(KVT_MAX_READS_PERIOD));
    heats[page] = heat;
    publish_heat(column, page, before.rate, heat.rate);
    const uint32_t tier = placement.tier();
    reads_of_tier[tier] += reads;
    if (tier != state.fast_tier && heat.rate > state.threshold) add_candidate(state, page, tier, heat.rate);
  }
  for (uint32_t tier = 0; tier < table_.tiers(); ++tier)
    state.bytes_read[tier] += static_cast<double>(reads_of_tier[tier]) * static_cast<double>(table_.page_bytes());
}

/// A slow page for the next plan.
void Arena::add_candidate(ColumnState& state, PageIndex page, uint32_t tier, float rate) {
  state.slow_touched.push_back({page, tier, rate, false});
  if (state.slow_touched.size() < kCandidatesMax) return;
  // More than any plan moves: keep the hottest, and let only hotter ones in from now on.
  std::nth_element(state.slow_touched.begin(), state.slow_touched.begin() + kCandidatesKeep, state.slow_touched.end(),
                   [](const auto& a, const auto& b) { return a.heat > b.heat; });
  state.slow_touched.resize(kCandidatesKeep);
  state.threshold = state.slow_touched.front().heat;
  for (const auto& sample : state.slow_touched) state.threshold = std::min(state.threshold, sample.heat);
}

void Arena::ColumnState::forget_candidates() {
  if (slow_touched.size() < kCandidatesKeep) threshold /= 2;
  slow_touched.clear();
}

bool Arena::collect() {
  bool any = false;
  for (ColumnState& column : columns_) {
    any = any || !column.slow_touched.empty();  // advised since the last period
    std::fill(column.bytes_read.begin(), column.bytes_read.end(), 0.0);
  }
  for (SessionState* const session : active_) {
    const uint32_t column = session->geometry.column;
    std::array<Reads, kReadsBatch> batch;
    size_t count = 0;
    const auto flush = [&] {
      any = any || count != 0;
      note_reads(column, {batch.data(), count});
      count = 0;
    };
    const auto visit = [&](PageIndex page, uint32_t reads) {
      batch[count] = {page, reads};
      if (++count == kReadsBatch) flush();
    };
    collect_counters(session->region, table_.pages(), visit);
    for (uint32_t i = 0; i < session->geometry.members_max; ++i)
      if (session->members[i].joined) collect_sequences(session->region.member(i), table_.pages(), visit);
    flush();
  }
  for (ColumnState& column : columns_) {
    const double read = std::accumulate(column.bytes_read.begin(), column.bytes_read.end(), 0.0);
    const double smoothed = std::accumulate(column.bytes_smoothed.begin(), column.bytes_smoothed.end(), 0.0);
    if (read > 0 && smoothed > 0) {
      const double error = column.bytes_read[column.fast_tier] / read - column.bytes_smoothed[column.fast_tier] / smoothed;
      column.share_variance += static_cast<double>(policy::kHeatGain) * (error * error - column.share_variance);
    }
    for (size_t tier = 0; tier < column.bytes_read.size(); ++tier)
      column.bytes_smoothed[tier] += static_cast<double>(policy::kHeatGain) * (column.bytes_read[tier] - column.bytes_smoothed[tier]);
  }
  return any;
}

/// What may be copied: a rate, and a burst of a tenth of a second.
void Arena::add_budget(double seconds) {
  const auto rate = static_cast<double>(settings_.move_bytes_per_second);
  const double burst = std::max(rate * 0.1, 8 * static_cast<double>(table_.page_bytes()));
  budget_bytes_ = std::min(burst, budget_bytes_ + rate * seconds);
}

bool Arena::decide_and_issue(mover::Mover& mover, uint32_t column, bool read_now) {
  if (settings_.policy == PolicyName::kOff) return false;
  const std::vector<uint32_t> tiers = column_tiers(column);
  if (tiers.size() < 2) return false;
  ColumnState& state = columns_[column];

  policy::Snapshot snapshot;
  snapshot.page_bytes = table_.page_bytes();
  snapshot.share_error = std::sqrt(state.share_variance);
  // Copies under way are limited too: what a worker has not begun is not decided again.
  const uint64_t slots = settings_.jobs_max > jobs_ ? settings_.jobs_max - jobs_ : 0;
  snapshot.budget_bytes = std::min(static_cast<uint64_t>(budget_bytes_), slots * table_.page_bytes());
  for (const uint32_t tier : tiers) {
    policy::TierState tier_state;
    tier_state.read_bytes_per_second = static_cast<double>(table_.tier(tier).read_bytes_per_second);
    tier_state.free_frames = frames_.counts(tier).free;
    tier_state.coming_frames = frames_.counts(tier).limbo;
    // The fast tier keeps its reserve for new pages; demotions may use most of a slow tier's.
    tier_state.reserve_frames = snapshot.tiers.empty() ? reserve_of(frames_.frames(tier)) : reserve_of(frames_.frames(tier)) / 4;
    tier_state.bytes_read = state.bytes_smoothed[tier];
    snapshot.tiers.push_back(tier_state);
  }
  const bool churn = settings_.policy == PolicyName::kChurn;
  const bool needs_room = snapshot.tiers[0].free_frames + snapshot.tiers[0].coming_frames < snapshot.tiers[0].reserve_frames;
  // Where nothing was read this period, nothing has changed since the last plan.
  if (!read_now && !needs_room && !churn) return false;

  const auto sample_of = [&](PageIndex page, uint32_t tier) {
    const Shadow shadow = table_.shadow(column, page);
    return policy::PageSample{page, tier, policy::heat_now(heat_[column][page], period_), shadow.valid()};
  };
  const auto add_frame = [&](Frame frame, uint32_t tier, std::vector<policy::PageSample>& out) {
    const PageIndex page = frames_.page_of(frame);
    if (page == FrameTable::kNoPage) return;
    const Placement placement = table_.placement(column, page);
    if (placement.frame() == frame && movable(column, page, placement)) out.push_back(sample_of(page, tier));
  };
  const uint64_t fast_frames = frames_.frames(tiers[0]);
  const auto first_fast = frames_.first_frame(tiers[0]);
  for (uint64_t i = 0; i < std::min(kSampleFrames, fast_frames); ++i)
    add_frame(static_cast<Frame>(first_fast + (fast_frames <= kSampleFrames ? i : random() % fast_frames)), 0, snapshot.fast_sample);
  if (churn) {
    const uint32_t slow = tiers[1 + random() % (tiers.size() - 1)];
    for (uint64_t i = 0; i < kSampleFrames; ++i)
      add_frame(static_cast<Frame>(frames_.first_frame(slow) + random() % frames_.frames(slow)), 1, snapshot.slow_touched);
  } else {
    for (const policy::PageSample& sample : state.slow_touched)
      if (const Placement place = table_.placement(column, sample.page); place.tier() == sample.tier && movable(column, sample.page, place))
        snapshot.slow_touched.push_back(sample);
  }
  const policy::Plan plan = churn ? policy::churn(snapshot, random(), slots) : policy::balance(snapshot, settings_.balance);
  if (column == 0) {
    last_plan_ = plan;
    last_plan_.moves.clear();
  }
  bool any = false;
  for (const policy::Move& move : plan.moves) {
    const Placement placement = table_.placement(column, move.page);
    if (!movable(column, move.page, placement)) continue;
    if (move.target_tier != 0 && (!churn || random() % 2 == 0) && demote_free(column, move.page)) {
      any = true;
      continue;
    }
    any |= promote(mover, column, move.page, tiers[move.target_tier]);
  }
  flush_withdrawals();
  drain_limbo();
  return any || read_now;
}

/// The page will be read from `to`. Smoothed bytes are the sum of heats, filtered alike; saying it now and not when
/// the filter has seen it keeps the next plans from moving too much.
void Arena::expect_reads(uint32_t column, PageIndex page, uint32_t from, uint32_t to) {
  std::vector<double>& bytes = columns_[column].bytes_smoothed;
  const double shifted =
      std::min(bytes[from], static_cast<double>(policy::heat_now(heat_[column][page], period_)) * static_cast<double>(table_.page_bytes()));
  bytes[from] -= shifted;
  bytes[to] += shifted;
}

/// Steps 3 to 5 of a move: reserve, pin, copy.
bool Arena::issue(mover::Mover& mover, uint32_t column, PageIndex page, uint32_t tier) {
  const Placement placement = table_.placement(column, page);
  if (placement.tier() == tier || jobs_ >= settings_.jobs_max || budget_bytes_ < static_cast<double>(table_.page_bytes())) return false;
  const Frame target = frames_.take(tier);
  if (target == kNoFrame) return false;
  start_copy(mover, column, page, tier, target);
  return true;
}

void Arena::start_copy(mover::Mover& mover, uint32_t column, PageIndex page, uint32_t tier, Frame target) {
  const Placement placement = table_.placement(column, page);
  mover::Job job;
  job.arena = index_;
  job.column = column;
  job.page = Handle::of(page, placement.generation());
  job.source_frame = placement.frame();
  job.target_frame = target;
  job.target_tier = tier;
  job.source = frame_address(job.source_frame);
  job.target = frame_address(target);
  job.bytes = table_.page_bytes();
  job.flip = settings_.inject == Inject::kFlip;
  frames_.pin(job.source_frame);
  frames_.pin(job.target_frame);
  busy_.insert(page);
  ++jobs_;
  budget_bytes_ -= static_cast<double>(job.bytes);
  expect_reads(column, page, placement.tier(), tier);
  mover.submit(job);
}

/// Steps 6 to 8. The row decides, as it is now: not what the job recorded (PROTOCOL A4).
void Arena::commit(const mover::Job& job) {
  const PageIndex page = job.page.index();
  busy_.erase(page);
  --jobs_;
  frames_.unpin(job.source_frame);
  frames_.unpin(job.target_frame);
  const Placement now = table_.placement(job.column, page);
  if (now.state() != kvt::PageState::kSealed || now.generation() != job.page.generation()) {
    frames_.cancel(job.target_frame);  // never named: nobody has seen it
    ArenaWriter::count(table_.counters().aborted);
    return;
  }
  frames_.name(job.target_frame, page);
  place(job.column, page, job.target_tier, job.target_frame);
  if (!now.keyed()) evict(page);  // it may have been let go meanwhile, when it could not be
}

/// Steps 7 and 8, of a worker's copy and of a reader's: the row names `frame`, which has the page's bytes and is NAMED
/// for it already. What the row named until now becomes the shadow, or leaves (PROTOCOL A4).
void Arena::place(uint32_t column, PageIndex page, uint32_t tier, Frame frame) {
  const Placement now = table_.placement(column, page);
  const Shadow old_shadow = table_.shadow(column, page);
  const bool promotion = tier < now.tier();
  table_.set_placement(column, page, now.with_place(tier, frame));
  if (promotion) {
    // The slower copy stays as the shadow; an older shadow leaves.
    set_shadow(column, page, Shadow::of(now.tier(), now.frame(), now.generation()));
    if (old_shadow.valid()) withdraw(old_shadow.frame());
  } else {
    if (old_shadow.valid()) {
      set_shadow(column, page, Shadow{});
      withdraw(old_shadow.frame());
    }
    withdraw(now.frame());
  }
  log_.append(column, page);
  logged_ = true;
  pages_[page].moved = static_cast<uint16_t>(period_ | 1);  // 0 means never
  ArenaWriter::count(promotion ? table_.counters().promoted : table_.counters().demoted_copy);
}

/// The page is read from its shadow again; the fast frame leaves. No copy. A frame that another column has of the
/// same page in a shared tier is as good.
bool Arena::demote_free(uint32_t column, PageIndex page, uint32_t only_tier) {
  const Placement now = table_.placement(column, page);
  const Shadow shadow = table_.shadow(column, page);
  Frame target = kNoFrame;
  if (shadow.valid() && shadow.generation() == now.generation()) {
    target = shadow.frame();
  } else {
    for (uint32_t other = 0; other < table_.columns() && target == kNoFrame; ++other) {
      const Placement place = table_.placement(other, page);
      const Shadow second = table_.shadow(other, page);
      if (other == column) continue;
      if (table_.tier(place.tier()).column < 0) target = place.frame();
      else if (second.valid() && table_.tier(second.tier()).column < 0) target = second.frame();
    }
    if (target == kNoFrame || target == now.frame()) return false;
    frames_.name(target, page);
  }
  const uint32_t tier = frames_.tier_of(target);
  if (tier <= now.tier() || (only_tier != kAnyTier && tier != only_tier)) {
    if (!shadow.valid() && frames_.unname(target)) KVT_CHECK(false);  // another column names it
    return false;
  }
  expect_reads(column, page, now.tier(), tier);
  table_.set_placement(column, page, now.with_place(tier, target));
  if (shadow.valid()) set_shadow(column, page, Shadow{});  // its naming is the placement's now
  log_.append(column, page);
  logged_ = true;
  withdraw(now.frame());
  pages_[page].moved = static_cast<uint16_t>(period_ | 1);
  ArenaWriter::count(table_.counters().demoted_free);
  return true;
}

void Arena::drop_shadow(uint32_t column, PageIndex page) {
  const Shadow shadow = table_.shadow(column, page);
  if (!shadow.valid()) return;
  set_shadow(column, page, Shadow{});
  withdraw(shadow.frame());
}

}  // namespace kvt::keeper
