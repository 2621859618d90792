// SPDX-License-Identifier: Apache-2.0
#include "daemon/metrics/snapshot.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

namespace kvt::metrics {
namespace {

using keeper::Arena;

/// Groups of 64 pages whose holds are counted, in all sessions together, and of each session at least.
constexpr uint64_t kHeldGroups = 1024;
constexpr uint64_t kHeldGroupsMin = 4;

TierSample tier_sample(const TierConfig& tier, const keeper::TierOnMachine& plan) {
  TierSample sample;
  sample.name = tier.name;
  sample.kind = kind_name(plan.kind);
  sample.emulated = plan.emulated;
  sample.bytes = tier.bytes;
  if (plan.read_gbs.known()) sample.read_bytes_per_second = plan.read_gbs.value * 1e9;
  if (plan.write_gbs.known()) sample.write_bytes_per_second = plan.write_gbs.value * 1e9;
  return sample;
}

void add_session(const keeper::SessionState& session, uint64_t epoch, uint64_t held_groups,
                 ArenaSample& sample) {
  ++sample.sessions;
  sample.guarantee_pages += session.guarantee;
  sample.unkeyed_pages += session.owned.size();
  sample.magazine_pages += session.magazine.waiting();
  sample.held_pages += Arena::held_pages(session, held_groups).pages;
  for (uint32_t i = 0; i < session.geometry.members_max; ++i) {
    const keeper::Member& member = session.members[i];
    if (!member.joined) continue;
    ++sample.members;
    sample.broken_members += member.broken ? 1 : 0;
    for (const kvt_abi_step_slot& slot : session.region.member(i).slot) {
      const uint64_t open = load_acquire(slot.epoch);
      if (open == 0) continue;
      ++sample.open_steps;
      // One from the future is nonsense, and blocks everything.
      sample.oldest_step_epochs = std::max(sample.oldest_step_epochs, open <= epoch ? epoch - open : epoch);
    }
  }
}

ArenaSample arena_sample(const keeper::Keeper& keeper, const Arena& arena, uint64_t held_groups) {
  ArenaSample sample;
  const kvt_abi_arena_header& header = arena.table().header();
  sample.name = keeper.arena_config(arena).name;
  sample.page_bytes = header.page_bytes;
  sample.pages = header.pages;
  sample.epoch = arena.table().epoch();
  sample.counters = header.counters;
  sample.counts = arena.counts();
  sample.counts.last_plan.moves = {};
  sample.counts.last_plan.cold = {};
  sample.budget_bytes_per_second =
      static_cast<double>(keeper.config().policy.move_bytes_per_second) * arena.budget_share();
  for (uint32_t tier = 0; tier < arena.table().tiers(); ++tier) {
    sample.tier_names.emplace_back(header.tier[tier].name);
    sample.tier_emulated.push_back((header.tier[tier].flags & KVT_TIER_EMULATED) != 0);
    sample.tier_degraded.push_back(arena.is_degraded(tier) || arena.has_lost_nodes(tier));
    sample.reserve_frames.push_back(keeper::reserve_of(sample.counts.tiers[tier].resize.usable));
  }
  arena.for_each_session(
      [&](const keeper::SessionState& session) { add_session(session, sample.epoch, held_groups, sample); });
  return sample;
}

}  // namespace

Snapshot take_snapshot(const keeper::Keeper& keeper, const server::Server& server, const LoopCounts& loop,
                       std::chrono::steady_clock::time_point started) {
  Snapshot snapshot;
  snapshot.taken = std::chrono::steady_clock::now();
  snapshot.uptime_seconds = std::chrono::duration<double>(snapshot.taken - started).count();
  const Config& config = keeper.config();
  snapshot.policy = config.policy.name;
  snapshot.profile = config.policy.profile;
  snapshot.period_ms = config.period_ms;
  for (size_t i = 0; i < keeper.machine().tiers.size(); ++i)
    snapshot.tiers.push_back(tier_sample(config.tiers[i], keeper.machine().tiers[i]));

  uint64_t sessions = 0;
  for (const auto& arena : keeper.arenas()) sessions += arena->session_count();
  const uint64_t held_groups = std::max<uint64_t>(kHeldGroupsMin, sessions == 0 ? 0 : kHeldGroups / sessions);
  for (const auto& arena : keeper.arenas())
    snapshot.arenas.push_back(arena_sample(keeper, *arena, held_groups));
  for (const server::Server::SessionInfo& session : server.sessions()) {
    const auto found = std::find_if(snapshot.arenas.begin(), snapshot.arenas.end(),
                                    [&](const ArenaSample& arena) { return arena.name == session.arena; });
    if (found == snapshot.arenas.end()) continue;
    found->orphans += session.connected ? 0 : 1;
    found->quarantined += session.quarantined;
  }
  snapshot.attach_refused = server.refusals();
  snapshot.connections_dropped = server.dropped();
  snapshot.connections = server.connections();
  const restart::FdStore& store = keeper.kept().store;
  snapshot.descriptors_kept = store.is_kept();
  snapshot.descriptors_stored = store.stored();
  snapshot.descriptors_max = store.max();
  snapshot.adoption = keeper.adoption();
  snapshot.adoption.notes.clear();
  snapshot.loop = loop;
  snapshot.took_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - snapshot.taken).count();
  return snapshot;
}

}  // namespace kvt::metrics
