// SPDX-License-Identifier: Apache-2.0
#include "daemon/control/vitals.h"

#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include "daemon/keeper/memory_reserve.h"

namespace kvt::control {
namespace {

/// The state letter of /proc/PID/stat; ' ' where it cannot be read.
char process_state(int pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(file, line);
  const size_t name_end = line.rfind(") ");  // a name may have anything in it
  return name_end == std::string::npos || name_end + 2 >= line.size() ? ' ' : line[name_end + 2];
}

Who who_is(const std::vector<server::Server::SessionInfo>& sessions, uint64_t id) {
  Who who{id, 0, false};
  for (const auto& info : sessions)
    if (info.id == id) who.pid = info.pid;
  if (who.pid != 0) {
    const char state = process_state(who.pid);
    who.is_stopped = state == 'T' || state == 't';
  }
  return who;
}

/// Commands of what is left of it are not taken, and that is as it should be.
bool is_ending(const std::vector<server::Server::SessionInfo>& sessions, uint64_t id) {
  return std::any_of(sessions.begin(), sessions.end(),
                     [id](const auto& info) { return info.id == id && info.ending; });
}

/// Several nodes, and the kernel moves memory between them.
bool balances_nodes() {
  std::ifstream setting("/proc/sys/kernel/numa_balancing");
  int value = 0;
  if (!(setting >> value) || value == 0) return false;
  std::ifstream online("/sys/devices/system/node/online");
  std::string nodes;
  online >> nodes;
  return nodes.find_first_of(",-") != std::string::npos;
}

uint64_t open_descriptors() {
  std::error_code error;
  uint64_t count = 0;
  for (std::filesystem::directory_iterator at("/proc/self/fd", error), end; !error && at != end;
       at.increment(error))
    ++count;
  return count;
}

/// Growth from one count to another.
Minute since(const Minute& now, const Minute& before) {
  return {now.promoted - before.promoted, now.bytes_read_above - before.bytes_read_above,
          now.offers_made - before.offers_made, now.offers_lapsed - before.offers_lapsed,
          now.starved - before.starved};
}

/// Descriptors of arenas, sessions and connections, as the server and the keeper have them.
uint64_t descriptors_of(const keeper::Keeper& keeper, const server::Server& server) {
  uint64_t count = server.connections();
  for (const auto& arena : keeper.arenas()) {
    const keeper::ArenaMemory& memory = arena->memory();
    count += 2 + (memory.sums_fd.valid() ? 1 : 0);  // the table, twice
    for (const Fd& fd : memory.window_fds) count += fd.valid() ? 2 : 0;
    for (const auto& fds : memory.device_fds) count += fds.size();
  }
  for (const auto& info : server.sessions()) count += 2 + uint64_t{info.members};  // region, doorbell, pidfds
  return count;
}

}  // namespace

VitalSigns::VitalSigns(const keeper::Keeper& keeper, const server::Server& server)
    : keeper_(keeper), server_(server) {
  const uint64_t all = open_descriptors();
  descriptors_of_others_ = all - std::min(all, descriptors_of(keeper, server));
}

uint64_t VitalSigns::descriptors() const { return descriptors_of_others_ + descriptors_of(keeper_, server_); }

VitalSigns::Sample VitalSigns::sample(Clock::time_point now) const {
  Sample sample{now, {}};
  for (const auto& arena : keeper_.arenas()) {
    const keeper::ArenaCounts counts = arena->counts();
    Minute total;
    total.promoted = arena->table().header().counters.promoted;
    for (size_t tier = 0; tier + 1 < counts.tiers.size(); ++tier)
      total.bytes_read_above += counts.tiers[tier].bytes_read;
    total.offers_made = counts.offers.made;
    total.offers_lapsed = counts.offers.lapsed;
    total.starved = counts.starved;
    sample.arenas[arena->number()] = total;
  }
  return sample;
}

void VitalSigns::look(Clock::time_point now) {
  if (taken_ != 0 && now - samples_[(taken_ - 1) % samples_.size()].at < kBetween) return;
  samples_[taken_++ % samples_.size()] = sample(now);
}

Vitals VitalSigns::vitals(Clock::time_point now) const {
  Vitals vitals;
  for (const auto& [tier, why] : keeper_.machine().left_out) vitals.left_out.push_back(why);
  vitals.policy = keeper_.config().policy.name;
  vitals.memory_reserve_used = keeper::MemoryReserve::is_used();
  const Sample current = sample(now);
  const Sample* before = &current;  // the oldest of the last minute; a loop that has slept has taken none
  for (const Sample& each : samples_)
    if (!each.arenas.empty() && now - each.at <= std::chrono::seconds(60) && each.at < before->at)
      before = &each;
  vitals.refused = server_.refused();
  vitals.refused_seconds_ago = std::chrono::duration<double>(now - server_.refused_at()).count();
  const auto sessions = server_.sessions();
  for (const auto& arena : keeper_.arenas()) {
    const keeper::ArenaCounts counts = arena->counts();
    const kvt_abi_arena_header& header = arena->table().header();
    ArenaVitals of;
    of.name = keeper_.arena_config(*arena).name;
    of.page_bytes = header.page_bytes;
    of.frames = counts.frames;
    of.free_pages = counts.free;
    of.limbo = counts.limbo;
    of.limbo_seconds = counts.limbo_oldest_seconds;
    if (const uint64_t id = counts.limbo_holder.session_id; id != 0) of.holds_limbo = who_is(sessions, id);
    arena->for_each_session([&](const keeper::SessionState& state) {
      const bool broken = std::any_of(state.members.begin(), state.members.end(),
                                      [](const auto& member) { return member.joined && member.broken; });
      if (!broken || is_ending(sessions, state.geometry.session_id)) return;
      of.broken.push_back(who_is(sessions, state.geometry.session_id));
    });
    for (uint32_t tier = 0; tier < counts.tiers.size(); ++tier)
      of.tiers.push_back({header.tier[tier].name, arena->is_degraded(tier), arena->has_lost_nodes(tier),
                          counts.tiers[tier].counts.retired, counts.tiers[tier].frames,
                          counts.tiers[tier].frames - counts.tiers[tier].resize.usable});
    of.lost_pages = counts.lost_pages;
    of.mismatches = counts.checks.mismatches;
    of.sessions = arena->session_count();
    of.sessions_max = KVT_MAX_SESSIONS;
    const uint32_t number = arena->number();
    // One that was not there then has been made since, and has counted from nothing.
    const auto then = before->arenas.find(number);
    of.minute = since(current.arenas.at(number), then != before->arenas.end() ? then->second : Minute{});
    vitals.arenas.push_back(std::move(of));
  }
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur != RLIM_INFINITY)
    vitals.descriptors_max = files.rlim_cur;
  vitals.descriptors = descriptors();
  const restart::FdStore& store = keeper_.kept().store;
  vitals.is_kept = store.is_kept();
  vitals.kept_descriptors = store.stored();
  vitals.kept_descriptors_max = store.max();
  vitals.rows_damaged = keeper_.adoption().damaged;
  vitals.regions_lost = keeper_.adoption().regions_lost;
  vitals.is_numa_balancing = balances_nodes();
  return vitals;
}

}  // namespace kvt::control
