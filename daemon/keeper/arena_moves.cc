// SPDX-License-Identifier: Apache-2.0
//
// Arena: counters become heat, heat becomes a plan, a plan becomes copies, and copies become placements.
#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "daemon/keeper/arena.h"
#include "daemon/restart/points.h"

namespace kvt::keeper {
namespace {

using restart::Point;
using restart::reach;

constexpr size_t kCandidatesMax = 2048;
constexpr size_t kCandidatesKeep = 512;
constexpr uint64_t kSampleMin = 256, kSampleMax = 4096;  // frames of a tier that a plan looks at
constexpr uint32_t kLearnPages = 256;                    // a period
constexpr size_t kGroupsMax = 16;
constexpr double kSmoothing = 0.125;

constexpr size_t kReadsBatch = 1024;
/// Pages that all sessions may have read in a period for the loop to look at: a dozen milliseconds, in which no command of
/// any arena is served. The rest is looked at in the next one.
constexpr uint64_t kReadsMax = 1 << 18;

}  // namespace

/// Tiers that a column reads from, fastest first. The first is its fast tier.
std::vector<uint32_t> Arena::column_tiers(uint32_t column) const {
  std::vector<uint32_t> tiers;
  for (uint32_t tier = 0; tier < table_.tiers(); ++tier)
    if ((table_.tier(tier).column < 0 || table_.tier(tier).column == static_cast<int32_t>(column)) &&
        frames_.usable(tier) != 0)
      tiers.push_back(tier);
  return tiers;
}

bool Arena::movable(uint32_t column, PageIndex page, Placement placement) const {
  (void)column;
  if (placement.state() != kvt::PageState::kSealed || busy_.contains(page) || pages_[page].pinned ||
      offers_.contains(page) || is_damaged(page) || (!checking_.empty() && checking_.contains(page)))
    return false;
  return settings_.policy == PolicyName::kChurn || cooling(page) == 0;
}

/// Periods for which the page stays where it is, because it has moved.
uint32_t Arena::cooling(PageIndex page) const {
  if (pages_[page].moved == 0) return 0;
  const uint32_t since = static_cast<uint16_t>(period_ - pages_[page].moved);
  const uint32_t stays = settings_.cooldown_ms / settings_.period_ms;
  return since < stays ? stays - since : 0;
}

/// Position of the page's KV-cache group among those that the arena uses.
uint32_t Arena::group_index(PageIndex page) {
  const uint16_t group = table_.group(page);
  const auto found = std::find(groups_.begin(), groups_.end(), group);
  if (found != groups_.end()) return static_cast<uint32_t>(found - groups_.begin());
  if (groups_.size() == kGroupsMax) return 0;  // balanced with the first
  groups_.push_back(group);
  for (ColumnState& column : columns_) column.bytes_read.emplace_back();
  return static_cast<uint32_t>(groups_.size() - 1);
}

/// Reads become heat. Millions of pages a period: what the loop needs lies in registers, and each page's
/// lines, which lie at random, are fetched a few pages before.
void Arena::note_reads(uint32_t column, std::span<const Reads> batch) {
  constexpr size_t kAhead = 16;
  ColumnState& state = columns_[column];
  policy::PageHeat* const heats = heat_[column].data();
  const uint32_t period = period_;
  const bool grouped = groups_in_use_;
  const bool has_densities = !state.densities.empty();
  std::array<uint64_t, KVT_MAX_TIERS> reads_of_tier{};
  const auto prefetch = [&](PageIndex page) __attribute__((always_inline)) {
    table_.prefetch_placement(column, page);
    __builtin_prefetch(&heats[page].fast, 1);
    __builtin_prefetch(reinterpret_cast<const char*>(&heats[page] + 1) - 1,
                       1);  // 20 bytes: one in four lies in two lines
  };
  for (size_t i = 0; i < std::min(batch.size(), kAhead); ++i) prefetch(batch[i].page);
  for (size_t i = 0; i < batch.size(); ++i) {
    if (i + kAhead < batch.size()) prefetch(batch[i + kAhead].page);
    const auto [page, reads] = batch[i];
    const Placement placement = table_.placement(column, page);
    if (!placement.readable()) continue;
    policy::PageHeat& heat = heats[page];
    if (!heat.known()) [[unlikely]]
      continue;  // no page since its row was read
    const float before = heat.slow;
    const uint32_t tier = placement.tier();
    if (has_densities) count_density(column, tier, heat, -1);
    // However often a sequence names the page: no more than one counter could say, for ever.
    const uint32_t room = policy::kReadsMost - (heat.period == period ? heat.reads : 0);
    const uint32_t counted = std::min(reads, room);
    if (heat.period != period) state.predictor.see_read(page, heat, period);
    policy::add_reads(heat, period, state.predictor.shift(), counted);
    publish_heat(column, page, before, heat.slow);
    if (has_densities) count_density(column, tier, heat, +1);
    if (grouped)
      state.bytes_read[group_index(page)][tier] +=
          static_cast<double>(counted) * static_cast<double>(table_.page_bytes());
    else
      reads_of_tier[tier] += counted;
    if (tier == state.fast_tier) continue;
    const float expected = state.predictor.expect(heat, period, measure_);
    if (expected > state.threshold) add_candidate(state, page, tier, expected);
  }
  for (uint32_t tier = 0; tier < table_.tiers(); ++tier)
    state.bytes_read[0][tier] +=
        static_cast<double>(reads_of_tier[tier]) * static_cast<double>(table_.page_bytes());
}

/// A slow page for the next plan.
void Arena::add_candidate(ColumnState& state, PageIndex page, uint32_t tier, float expected) {
  policy::PageSample sample;
  sample.page = page;
  sample.expected = expected;
  sample.tier = static_cast<uint8_t>(tier);
  state.candidates.push_back(sample);
  if (state.candidates.size() < kCandidatesMax) return;
  // A page comes once for each session and sequence that read it: the last time is the one with all its
  // reads.
  std::sort(state.candidates.begin(), state.candidates.end(), [](const auto& a, const auto& b) {
    return a.page != b.page ? a.page < b.page : a.expected > b.expected;
  });
  state.candidates.erase(std::unique(state.candidates.begin(), state.candidates.end(),
                                     [](const auto& a, const auto& b) { return a.page == b.page; }),
                         state.candidates.end());
  if (state.candidates.size() <= kCandidatesMax / 2) return;
  // More than any plan moves: keep the hottest, and let only hotter ones in from now on.
  std::nth_element(state.candidates.begin(), state.candidates.begin() + kCandidatesKeep,
                   state.candidates.end(),
                   [](const auto& a, const auto& b) { return a.expected > b.expected; });
  state.candidates.resize(kCandidatesKeep);
  state.threshold = state.candidates.front().expected;
  for (const auto& one : state.candidates) state.threshold = std::min(state.threshold, one.expected);
}

void Arena::ColumnState::forget_candidates(uint32_t period) {
  if (candidates.size() < kCandidatesKeep) threshold = threshold > 1e-3f ? threshold / 2 : 0;
  if (!candidates.empty()) {
    std::swap(candidates, last_candidates);
    last_candidates_period = period;
  }
  candidates.clear();
}

/// The page is, or is no longer, in the tier with this heat.
void Arena::count_density(uint32_t column, uint32_t tier, const policy::PageHeat& heat, int by) {
  policy::DensityHistogram& densities = columns_[column].densities[tier];
  const policy::Stamp stamp = densities.stamp(heat.slow, heat.period);
  if (by > 0)
    densities.add(stamp);
  else
    densities.remove(stamp);
}

/// The page's place in the column has changed; kNowhere: it was, or is no longer, there.
void Arena::change_density(uint32_t column, PageIndex page, uint32_t from, uint32_t to) {
  if (columns_[column].densities.empty() || from == to) return;
  if (from != kNowhere) count_density(column, from, heat_[column][page], -1);
  if (to != kNowhere) count_density(column, to, heat_[column][page], +1);
}

/// Some random pages, read or not, show the predictor how good it was.
void Arena::learn(uint32_t column) {
  ColumnState& state = columns_[column];
  state.drawn.clear();
  for (uint32_t i = 0; i < kLearnPages && never_used_pages_ != 0; ++i)
    state.drawn.push_back(static_cast<PageIndex>(random() % never_used_pages_));
  state.predictor.see_arrivals(state.arrived, frames_.usable(state.fast_tier));
  state.arrived = 0;
  state.predictor.learn({heat_[column].data(), table_.pages()}, state.drawn, never_used_pages_, period_);
}

/// What a session has read, as far as the budget goes. Neither counters nor sequences can keep the other waiting.
template <typename Visit>
void Arena::collect_session(SessionState& session, uint64_t& budget, Visit&& visit) {
  const auto look = [&](ReadsCursor& cursor, auto&& collect) {
    cursor.budget = budget;
    collect(cursor);
    budget = cursor.budget;
  };
  const auto counters = [&] {
    look(session.reads,
         [&](ReadsCursor& cursor) { collect_counters(session.region, table_.pages(), cursor, visit); });
  };
  const uint32_t members = session.geometry.members_max;
  if (period_ % 2 == 0) counters();
  for (uint32_t turn = 0; turn < members; ++turn) {
    const uint32_t i = (period_ + turn) % members;
    if (!session.members[i].joined) continue;
    look(session.members[i].sequences, [&](ReadsCursor& cursor) {
      collect_sequences(session.region.member(i), table_.pages(), cursor, visit);
    });
  }
  if (period_ % 2 != 0) counters();
}

/// What the session's members have counted of their steps: a kilobyte each.
void Arena::take_steps(SessionState& session) {
  for (uint32_t i = 0; i < session.geometry.members_max; ++i) {
    Member& member = session.members[i];
    if (member.joined) steps_.add(take_step_times(session.region.member(i), member.steps_seen));
  }
}

bool Arena::collect() {
  bool any = false;
  if (!active_.empty()) take_steps(*active_[period_ % active_.size()]);
  groups_in_use_ = groups_in_use_ || groups_tagged_;
  for (ColumnState& column : columns_) {
    any = any || !column.candidates.empty();  // advised since the last period
    for (auto& of_group : column.bytes_read) of_group.fill(0);
  }
  std::array<bool, KVT_MAX_COLUMNS> read{};
  uint64_t budget = kReadsMax;
  bool cut_short = false;
  for (size_t turn = 0; turn < active_.size(); ++turn) {
    SessionState* const session = active_[(period_ + turn) % active_.size()];
    // An even part of what is left: who reads little leaves more to those after it, and another one is first each time.
    const uint64_t part = budget / (active_.size() - turn);
    uint64_t left = part;
    const uint32_t column = session->geometry.column;
    std::array<Reads, kReadsBatch> batch;
    size_t count = 0;
    const auto flush = [&] {
      read[column] = read[column] || count != 0;
      note_reads(column, {batch.data(), count});
      if (recorder_) recorder_->reads(column, {batch.data(), count});
      count = 0;
    };
    const auto visit = [&](PageIndex page, uint32_t reads) {
      batch[count] = {page, reads};
      if (++count == kReadsBatch) flush();
    };
    collect_session(*session, left, visit);
    flush();
    budget -= part - left;
    cut_short = cut_short || left == 0;
  }
  if (cut_short) ++periods_cut_short_;
  for (uint32_t i = 0; i < columns_.size(); ++i) {
    ColumnState& column = columns_[i];
    any = any || read[i];
    double all = 0;
    double fast = 0;
    for (const auto& of_group : column.bytes_read) {
      fast += of_group[column.fast_tier];
      all += std::accumulate(of_group.begin(), of_group.end(), 0.0);
    }
    if (read[i]) {
      if (all > 0)
        column.predictor.see_share(static_cast<float>(fast / all),
                                   period_ + 1);  // else all that was read has gone since
      learn(i);
    }
    if (read[i]) count_reads(column);
    for (policy::DensityHistogram& densities : column.densities) densities.advance(period_);
    for (size_t tier = 0; tier < column.bytes_smoothed.size(); ++tier) {
      double bytes = 0;
      for (const auto& of_group : column.bytes_read) bytes += of_group[tier];
      column.bytes_smoothed[tier] += kSmoothing * (bytes - column.bytes_smoothed[tier]);
      bytes_read_[tier] += static_cast<uint64_t>(bytes);
    }
  }
  if (any) count_payback();
  return any;
}

/// For counts(): the period's bytes, and how long they take to read, by where their pages are.
void Arena::count_reads(const ColumnState& column) {
  const std::vector<uint32_t> tiers = column_tiers(static_cast<uint32_t>(&column - columns_.data()));
  double all_rates = 0;
  for (const uint32_t tier : tiers) all_rates += static_cast<double>(table_.tier(tier).read_bytes_per_second);
  for (const auto& of_group : column.bytes_read) {
    double slowest = 0;
    double all = 0;
    for (const uint32_t tier : tiers) {
      const double rate = static_cast<double>(table_.tier(tier).read_bytes_per_second);
      all += of_group[tier];
      if (rate > 0) slowest = std::max(slowest, of_group[tier] / rate);
    }
    modelled_.seconds += slowest;
    if (all_rates > 0) modelled_.best_seconds += all / all_rates;
  }
}

void Arena::count_payback() {
  payback_.count(table_.page_bytes(), [this](uint32_t column, Handle page, uint32_t tier) -> int64_t {
    const Placement now = table_.placement(column, page.index());
    if (now.generation() != page.generation() || !now.readable() || now.tier() != tier) return -1;
    const policy::PageHeat& heat = heat_[column][page.index()];
    return heat.period == period_ ? heat.reads : 0;
  });
}

/// What may be copied, in each direction: a rate, more where readers leave the slow tiers idle, and a burst
/// of a tenth of a second.
void Arena::add_budget(double seconds) {
  double read = 0;
  double could = 0;
  for (const ColumnState& column : columns_) {
    for (const auto& of_group : column.bytes_read)
      for (uint32_t tier = 0; tier < table_.tiers(); ++tier)
        if (tier != column.fast_tier) read += of_group[tier];
  }
  for (uint32_t tier = 0; tier < table_.tiers(); ++tier)
    if (std::none_of(columns_.begin(), columns_.end(),
                     [tier](const ColumnState& column) { return column.fast_tier == tier; }))
      could += static_cast<double>(table_.tier(tier).read_bytes_per_second) * seconds;
  const double utilisation = could > 0 ? std::min(1.0, read / could) : 1;
  budget_.in.add(seconds * budget_share_, utilisation);
  budget_.out.add(seconds * budget_share_, utilisation);
}

uint64_t Arena::wanted_budget() const {
  bool wants = !budget_.in.is_full() || !budget_.out.is_full();
  for (const ColumnState& column : columns_) wants = wants || !column.candidates.empty();
  return wants ? settings_.move_bytes_per_second : 0;
}

void Arena::pay(bool up, uint64_t bytes) { (up ? budget_.in : budget_.out).pay(static_cast<double>(bytes)); }

/// `position`: of its tier among the column's.
policy::PageSample Arena::sample_of(uint32_t column, PageIndex page, uint32_t position) {
  policy::PageSample sample;
  sample.page = page;
  sample.expected = expected_reads(column, page);
  sample.in_stay = columns_[column].predictor.expect_in_stay(heat_[column][page], period_);
  sample.tier = static_cast<uint8_t>(position);
  sample.has_shadow = table_.shadow(column, page).valid();
  sample.has_children = pages_[page].children != 0;
  sample.can_offer = settings_.promote == Promote::kOffers && !advised_.contains(page);
  if (!sample.can_offer)
    sample.expected = columns_[column].predictor.expect_over(heat_[column][page], period_, measure_,
                                                             settings_.plan.horizon);
  if (groups_in_use_) sample.group = static_cast<uint8_t>(group_index(page));
  return sample;
}

/// The column as the policy sees it: candidates of this period, and random pages of the other tiers.
policy::Snapshot Arena::snapshot(uint32_t column, std::span<const policy::PageSample> candidates) {
  const std::vector<uint32_t> tiers = column_tiers(column);
  const ColumnState& state = columns_[column];
  const bool churn = settings_.policy == PolicyName::kChurn;
  policy::Snapshot snapshot;
  snapshot.page_bytes = table_.page_bytes();
  snapshot.stay_periods = static_cast<double>(state.predictor.stay());
  // Copies under way are limited too: what a worker has not begun is not decided again.
  const uint64_t slots = settings_.jobs_max > jobs_ ? settings_.jobs_max - jobs_ : 0;
  const auto allowed = [&](bool up) {
    return std::min(static_cast<uint64_t>(std::max(0.0, budget(up))), slots * table_.page_bytes());
  };
  snapshot.allowance.in_bytes = allowed(true);
  snapshot.allowance.out_bytes = allowed(false);
  for (const uint32_t tier : tiers) {
    policy::TierState tier_state;
    tier_state.read_bytes_per_second = static_cast<double>(table_.tier(tier).read_bytes_per_second);
    tier_state.write_bytes_per_second = static_cast<double>(table_.tier(tier).write_bytes_per_second);
    tier_state.frames = frames_.usable(tier);
    tier_state.free_frames = frames_.counts(tier).free;
    tier_state.coming_frames = frames_.counts(tier).limbo;
    // The fast tier keeps its reserve for new pages; demotions may use most of a slow tier's.
    tier_state.reserve_frames =
        snapshot.tiers.empty() ? reserve_of(frames_.usable(tier)) : reserve_of(frames_.usable(tier)) / 4;
    snapshot.tiers.push_back(tier_state);
  }
  const ptrdiff_t launches =
      std::count_if(state.bytes_read.begin(), state.bytes_read.end(), [](const auto& of_group) {
        return std::any_of(of_group.begin(), of_group.end(), [](double bytes) { return bytes > 0; });
      });
  for (const auto& of_group : state.bytes_read) {
    policy::GroupState group;
    for (const uint32_t tier : tiers) group.bytes_read.push_back(of_group[tier]);
    // Launches of the groups follow each other: each has its part of the time.
    group.fixed_fast_bytes = settings_.fixed_read_bytes_per_second * settings_.period_ms / 1000 /
                             static_cast<double>(std::max<ptrdiff_t>(1, launches));
    snapshot.groups.push_back(std::move(group));
  }

  std::array<uint8_t, KVT_MAX_TIERS> position{};  // of a tier in the snapshot
  for (size_t i = 0; i < tiers.size(); ++i) position[tiers[i]] = static_cast<uint8_t>(i);
  const auto add_frame = [&](Frame frame, uint32_t tier, std::vector<policy::PageSample>& out) {
    const PageIndex page = frames_.page_of(frame);
    if (page == FrameTable::kNoPage) return;
    const Placement placement = table_.placement(column, page);
    if (placement.frame() == frame && movable(column, page, placement))
      out.push_back(sample_of(column, page, position[tier]));
  };
  if (churn) {
    const uint32_t slow = tiers[1 + random() % (tiers.size() - 1)];
    for (uint64_t i = 0; i < kSampleMin; ++i)
      add_frame(static_cast<Frame>(frames_.first_frame(slow) + random() % frames_.frames(slow)), slow,
                snapshot.candidates);
  } else {
    for (const policy::PageSample& candidate : candidates) {
      const Placement place = table_.placement(column, candidate.page);
      if (place.tier() != candidate.tier || frames_.usable(candidate.tier) == 0 ||
          !movable(column, candidate.page, place))
        continue;
      snapshot.candidates.push_back(sample_of(column, candidate.page, position[candidate.tier]));
    }
  }
  if (!state.densities.empty()) {
    for (const uint32_t tier : tiers)
      for (const policy::DensityHistogram::Bin& bin : state.densities[tier].bins())
        if (bin.pages != 0)
          snapshot.histogram.push_back({bin.least * std::sqrt(policy::DensityHistogram::kRatio),
                                        static_cast<double>(bin.pages * table_.page_bytes()), 0});
  }
  const uint64_t looks =
      std::clamp<uint64_t>(snapshot.candidates.size() * settings_.plan.sample, kSampleMin, kSampleMax);
  for (size_t i = 0; i + 1 < tiers.size(); ++i) {
    const uint64_t frames = frames_.frames(tiers[i]);
    const uint64_t first = frames_.first_frame(tiers[i]);
    for (uint64_t look = 0; look < std::min(looks, frames); ++look)
      add_frame(static_cast<Frame>(first + (frames <= looks ? look : random() % frames)), tiers[i],
                snapshot.residents);
    if (frames <= looks) continue;
    for (const PageIndex page : state.cold)
      if (const Placement place = table_.placement(column, page);
          place.tier() == tiers[i] && movable(column, page, place))
        snapshot.residents.push_back(sample_of(column, page, position[tiers[i]]));
  }
  return snapshot;
}

bool Arena::decide_and_issue(mover::Mover& mover, uint32_t column, bool read_now) {
  if (settings_.policy == PolicyName::kOff || limbo_is_held()) return false;
  const std::vector<uint32_t> tiers = column_tiers(column);
  if (tiers.size() < 2) return false;
  const FrameTable::Counts& fast = frames_.counts(tiers[0]);
  const bool churn = settings_.policy == PolicyName::kChurn;
  const bool needs_room = fast.free + fast.limbo < reserve_of(frames_.usable(tiers[0]));
  // Where nothing was read this period, nothing has changed since the last plan.
  if (!read_now && !needs_room && !churn) return false;

  const policy::Snapshot now = snapshot(column, columns_[column].candidates);
  policy::Plan plan =
      churn ? policy::churn(now, random(), settings_.jobs_max > jobs_ ? settings_.jobs_max - jobs_ : 0)
            : policy::plan(now, settings_.plan);
  bool any = false;
  for (const policy::Move& move : plan.moves) {
    const Placement placement = table_.placement(column, move.page);
    if (!movable(column, move.page, placement)) continue;
    const bool begun =
        (move.target_tier != 0 && (!churn || random() % 2 == 0) && demote_free(column, move.page)) ||
        promote(mover, column, move.page, tiers[move.target_tier]);
    if (begun) ++begun_[static_cast<size_t>(move.reason)];
    any |= begun;
  }
  ++held_back_[static_cast<size_t>(plan.held_back)];
  columns_[column].cold = std::move(plan.cold);
  if (column == 0) last_plan_ = std::move(plan);
  flush_withdrawals();
  drain_limbo();
  return any || read_now;
}

/// Steps 3 to 5 of a move: reserve, pin, copy.
bool Arena::issue(mover::Mover& mover, uint32_t column, PageIndex page, uint32_t tier) {
  const Placement placement = table_.placement(column, page);
  if (placement.tier() == tier || jobs_ >= settings_.jobs_max) return false;
  if (is_degraded(tier) || is_degraded(placement.tier())) return false;
  if (budget(tier < placement.tier()) < static_cast<double>(table_.page_bytes())) return false;
  const Frame target = frames_.take(tier);
  if (target == kNoFrame) return false;
  start_copy(mover, column, page, tier, target);
  return true;
}

/// Whether one GPU, or a CPU, reaches frames of both tiers.
bool Arena::can_copy(uint32_t from, uint32_t to) const {
  if (memory_.tier_gpu.empty()) return true;
  const int owner = memory_.tier_gpu[from];
  const int gpu = memory_.tier_gpu[to];
  if (owner < 0 || gpu < 0 || owner == gpu) return true;
  const std::vector<int>& peers = memory_.tier_peers[from];
  return std::find(peers.begin(), peers.end(), gpu) != peers.end();
}

/// What a copy into the tier reads. A page that lies in host memory for this column may lie in a GPU's for another one: the
/// way from there is faster, and no byte goes over the link of host memory (decision 0027).
Frame Arena::source_for(uint32_t column, PageIndex page, uint32_t tier) const {
  const Placement now = table_.placement(column, page);
  if (memory_.tier_gpu.empty() || memory_.tier_gpu[tier] < 0 || memory_.tier_gpu[now.tier()] >= 0)
    return now.frame();
  for (uint32_t other = 0; other < table_.columns(); ++other) {
    const Placement there = table_.placement(other, page);
    if (memory_.tier_gpu[there.tier()] >= 0 && can_copy(there.tier(), tier) && !is_distrusted(there.tier()) &&
        !frames_.is_bad(there.frame()))
      return there.frame();
  }
  return now.frame();
}

/// `source`: where the page is read from, if not where that is best. REQUIRES: can_copy() from there.
void Arena::start_copy(mover::Mover& mover, uint32_t column, PageIndex page, uint32_t tier, Frame target,
                       Frame source) {
  const Placement placement = table_.placement(column, page);
  mover::Job job;
  job.arena = number_;
  job.column = column;
  job.page = Handle::of(page, placement.generation());
  job.source_frame = source == kNoFrame ? source_for(column, page, tier) : source;
  job.target_frame = target;
  job.target_tier = tier;
  job.source = frame_address(job.source_frame);
  job.target = frame_address(target);
  job.bytes = table_.page_bytes();
  if (!memory_.tier_gpu.empty()) {
    const uint32_t source_tier = frames_.tier_of(job.source_frame);
    job.gpu = memory_.tier_gpu[tier];
    const int source_gpu = memory_.tier_gpu[source_tier];
    job.within = job.gpu >= 0 && source_gpu >= 0;
    job.out = job.within ? !table_.is_hbm(tier) : job.gpu < 0;  // with host memory of the driver's both
    if (job.gpu < 0) job.gpu = source_gpu;
    job.peer = source_gpu >= 0 && source_gpu != job.gpu;
  }
  job.sums = sums_.on() &&
             (job.gpu < 0 || can_sum(job.out && !job.within ? frames_.tier_of(job.source_frame) : tier));
  if (job.sums) job.expected = sums_.find(job.page);
  job.flip = settings_.inject == Inject::kFlip ? 1 : 0;
  // Every fourth copy of the first 32, for there is an end to memory
  if (settings_.inject == Inject::kPoison && ++poisonings_ <= 32 && poisonings_ % 4 == 0)
    job.poison = poisonings_ % 8 == 0 ? mover::BadSide::kSource : mover::BadSide::kTarget;
  reach(Point::kMoveReserved);
  frames_.pin(job.source_frame);
  frames_.pin(job.target_frame);
  busy_.insert(page);
  ++jobs_;
  pay(tier < placement.tier(), job.bytes);
  mover.submit(job);
}

void Arena::distrust(int gpu) {
  for (size_t tier = 0; tier < memory_.tier_gpu.size(); ++tier)
    if (memory_.tier_gpu[tier] == gpu) distrusted_ |= 1u << tier;
}

void Arena::lose_gpu(int gpu, int driver_error) {
  distrust(gpu);
  driver_error_ = driver_error;
  for (size_t tier = 0; tier < memory_.tier_gpu.size(); ++tier)
    if (memory_.tier_gpu[tier] == gpu) degraded_ |= 1u << tier;
}

/// A GPU does nothing any more. Pages that have a second place are read there from now on; what lay in its memory alone
/// is lost: its key is gone, and it is freed when nobody holds it. What cannot go yet (it is held, filled, copied) is
/// looked at again.
void Arena::leave_degraded() {
  if (degraded_ == 0) return;
  const bool news = degraded_ != left_;
  if (!news && (!left_behind_ || period_ - left_period_ < kLeavePeriods)) return;
  left_ = degraded_;
  left_period_ = period_;
  left_behind_ = false;
  for (uint32_t tier = 0; tier < table_.tiers(); ++tier)
    if (is_degraded(tier)) withdraw_offers_of(tier, UINT64_MAX);
  uint64_t served = 0;
  uint64_t lost = 0;
  for (PageIndex page = 0; page < table_.pages(); ++page) {
    bool counted = false;
    for (uint32_t column = 0; column < table_.columns(); ++column) {
      const Placement now = table_.placement(column, page);
      if (now.state() == kvt::PageState::kFree) continue;
      if (busy_.contains(page)) {  // its copy will come back as failed
        left_behind_ = true;
        continue;
      }
      if (const Shadow shadow = table_.shadow(column, page); shadow.valid() && is_degraded(shadow.tier()))
        drop_shadow(column, page);
      if (!is_degraded(now.tier())) continue;
      withdraw_offer(page);
      if (now.state() == kvt::PageState::kSealed && demote_free(column, page)) {
        ++served;
        continue;
      }
      if (now.state() != kvt::PageState::kSealed) {  // its writer has lost the GPU too
        left_behind_ = true;
        continue;
      }
      if (!counted && (news || now.keyed())) ++lost;
      counted = true;
      if (lose_page(page)) break;  // all its columns
      left_behind_ = true;
    }
  }
  lost_pages_ += lost;
  flush_withdrawals();
  if (!news && served == 0 && lost == 0) return;
  std::string names;
  for (uint32_t tier = 0; tier < table_.tiers(); ++tier)
    if (is_degraded(tier)) names += (names.empty() ? "" : ", ") + std::string(table_.tier(tier).name);
  note(events::Kind::kTierDegraded, "arena \"" + std::string(table_.header().name) + "\": the GPU of tier " +
                                        names + " does nothing any more (CUDA error " +
                                        std::to_string(driver_error_) + "): the tier is not used; " +
                                        std::to_string(served) + " pages are read from their second place, " +
                                        std::to_string(lost) + " are lost");
}

/// Steps 6 to 8. The row decides, as it is now: not what the job recorded (PROTOCOL A4).
void Arena::commit(const mover::Job& job) {
  if (job.target_frame == kNoFrame) return checked(job);
  reach(Point::kMoveCompleted);
  const PageIndex page = job.page.index();
  busy_.erase(page);
  --jobs_;
  if (job.failed) return copy_failed(job);
  // What was read of a GPU that is known to be lost by now may be anything: not every link says so. Nor is its sum one.
  const bool lost_source = job.peer && is_distrusted(frames_.tier_of(job.source_frame));
  if (job.sums && !lost_source && !judge(job)) return;
  frames_.unpin(job.source_frame);
  frames_.unpin(job.target_frame);
  const Placement now = table_.placement(job.column, page);
  if (is_damaged(page)) {
    to_mend_.push_back(page);
    // It may have been the page's once, and wrong.
    std::erase(damaged_.at(page).frames, job.target_frame);
  }
  if (now.state() != kvt::PageState::kSealed || now.generation() != job.page.generation() ||
      is_degraded(job.target_tier) || lost_source) {
    frames_.cancel(job.target_frame);  // never named: nobody has seen it
    ArenaWriter::count(table_.counters().aborted);
    return;
  }
  frames_.name(job.target_frame, page);
  place(job.column, page, job.target_tier, job.target_frame, job.peer);
  if (!now.keyed()) evict(page);  // it may have been let go meanwhile, when it could not be
}

/// Some of the moves into the fast tier and out of it are watched, for who asks whether they pay.
void Arena::watch_move(uint32_t column, PageIndex page, Placement from, uint32_t tier, bool costs_no_read) {
  const uint32_t fast = columns_[column].fast_tier;
  if (from.tier() == tier || (tier != fast && from.tier() != fast)) return;
  double cost = 0;
  if (tier == fast) {
    const double write = static_cast<double>(table_.tier(fast).write_bytes_per_second);
    if (write > 0) cost = static_cast<double>(table_.tier(from.tier()).read_bytes_per_second) / write;
    if (!costs_no_read) cost += 1;
  }
  payback_.moved(tier == fast, column, Handle::of(page, from.generation()), tier, cost, table_.page_bytes());
}

/// Steps 7 and 8, of a worker's copy and of a reader's: the row names `frame`, which has the page's bytes and
/// is NAMED for it already. What the row named until now becomes the shadow, or leaves (PROTOCOL A4).
void Arena::place(uint32_t column, PageIndex page, uint32_t tier, Frame frame, bool from_peer) {
  const Placement now = table_.placement(column, page);
  const Shadow old_shadow = table_.shadow(column, page);
  const bool promotion = tier < now.tier();
  const bool by_reader = offers_.contains(page);
  watch_move(column, page, now, tier, by_reader || from_peer);
  ++(!promotion ? moved_.down_by_copy : by_reader ? moved_.up_by_reader : moved_.up_by_copy);
  if (promotion && from_peer) ++moved_.up_from_peer;
  table_.set_placement(column, page, now.with_place(tier, frame));
  reach(Point::kMovePlaced);
  change_density(column, page, now.tier(), tier);
  count_arrival(column, tier);
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
  reach(Point::kMoveShadowed);
  log_.append(column, page);
  reach(Point::kMoveLogged);
  logged_ = true;
  pages_[page].moved = static_cast<uint16_t>(period_ | 1);  // 0 means never
  ArenaWriter::count(promotion ? table_.counters().promoted : table_.counters().demoted_copy);
}

/// The page is read from its shadow again; the fast frame leaves. No copy. A frame that another column has of
/// the same page in a shared tier is as good.
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
      if (table_.tier(place.tier()).column < 0 && !frames_.is_bad(place.frame()))
        target = place.frame();
      else if (second.valid() && table_.tier(second.tier()).column < 0)
        target = second.frame();
    }
    if (target == kNoFrame || target == now.frame()) return false;
    frames_.name(target, page);
  }
  const uint32_t tier = frames_.tier_of(target);
  if (tier <= now.tier() || (only_tier != kAnyTier && tier != only_tier)) {
    if (!shadow.valid() && frames_.unname(target)) KVT_CHECK(false);  // another column names it
    return false;
  }
  watch_move(column, page, now, tier, false);
  table_.set_placement(column, page, now.with_place(tier, target));
  reach(Point::kMoveDemoted);
  change_density(column, page, now.tier(), tier);
  if (shadow.valid()) set_shadow(column, page, Shadow{});  // its naming is the placement's now
  log_.append(column, page);
  logged_ = true;
  withdraw(now.frame());
  pages_[page].moved = static_cast<uint16_t>(period_ | 1);
  ArenaWriter::count(table_.counters().demoted_free);
  ++moved_.down_free;
  if (settings_.integrity == Integrity::kAll) want_check(page, target);
  return true;
}

void Arena::drop_shadow(uint32_t column, PageIndex page) {
  const Shadow shadow = table_.shadow(column, page);
  if (!shadow.valid()) return;
  set_shadow(column, page, Shadow{});
  withdraw(shadow.frame());
}

}  // namespace kvt::keeper
