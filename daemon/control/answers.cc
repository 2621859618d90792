// SPDX-License-Identifier: Apache-2.0
#include "daemon/control/answers.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "daemon/config/config.h"
#include "daemon/control/heat.h"
#include "daemon/restart/kept.h"
#include "daemon/restart/points.h"

namespace kvt::control {
namespace {

using keeper::Arena;
using keeper::ArenaCounts;
using keeper::ArenaReport;
using nlohmann::json;

/// Groups of 64 pages whose holds are counted for one answer, in all sessions together (a quarter of a
/// million pages, about a quarter of a millisecond), and for each session at least.
constexpr uint64_t kHeldGroups = 4096;
constexpr uint64_t kHeldGroupsMin = 16;

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

uint64_t rss_bytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t size = 0;
  uint64_t resident = 0;
  statm >> size >> resident;
  return resident * os_page_bytes();
}

const char* state_name(PageState state) {
  switch (state) {
    case PageState::kFree: return "free";
    case PageState::kFilling: return "filling";
    case PageState::kSealed: return "sealed";
    case PageState::kEvicting: return "evicting";
  }
  return "?";
}

/// Counts of steps by how long they took; of those that are not 0.
json steps_json(const StepTimes& steps) {
  json buckets = json::array();
  for (size_t i = 0; i < steps.counts.size(); ++i)
    if (steps.counts[i] != 0)
      buckets.push_back({{"from_seconds", static_cast<double>(step_time_from(i)) * 1e-9},
                         {"to_seconds", static_cast<double>(step_time_to(i)) * 1e-9},
                         {"steps", steps.counts[i]}});
  return {{"count", steps.steps()},
          {"seconds", static_cast<double>(steps.ns) * 1e-9},
          {"buckets", std::move(buckets)}};
}

json gbps_json(const Figure& figure) { return figure.known() ? json(figure.value * 1e9) : json(nullptr); }

json tiers_json(const keeper::Keeper& keeper) {
  json tiers = json::array();
  for (size_t i = 0; i < keeper.machine().tiers.size(); ++i) {
    const TierConfig& tier = keeper.config().tiers[i];
    const keeper::TierOnMachine& plan = keeper.machine().tiers[i];
    json gpu;  // null: host memory
    if (plan.gpu) {
      gpu = {{"ordinal", plan.gpu->ordinal},
             {"name", plan.gpu->name},
             {"uuid", plan.gpu->uuid_text},
             {"pci_address", plan.gpu->pci_address},
             {"in_bytes_per_second", plan.gpu_figures.in_gbs * 1e9},
             {"out_bytes_per_second", plan.gpu_figures.out_gbs * 1e9},
             {"both_bytes_per_second", plan.gpu_figures.both_gbs * 1e9},
             {"copy_bytes_per_second", plan.gpu_figures.copy_gbs * 1e9}};
      if (plan.gpu_figures.read_gbs > 0)
        gpu["kernel_read_bytes_per_second"] = plan.gpu_figures.read_gbs * 1e9;
      gpu["peers"] = keeper::peers_of(keeper.machine(), i);
    }
    tiers.push_back({{"name", tier.name},
                     {"gpu", std::move(gpu)},
                     {"kind", kind_name(plan.kind)},
                     {"emulated", plan.emulated},
                     {"bytes", tier.bytes},
                     {"unassigned_bytes", keeper.free_bytes(tier)},
                     {"nodes", tier.nodes},
                     {"os_pages", plan.pages_note},
                     {"column", tier.column},
                     {"read_bytes_per_second", gbps_json(plan.read_gbs)},
                     {"write_bytes_per_second", gbps_json(plan.write_gbs)},
                     {"bandwidth_from", plan.figures_from},
                     {"profile_read_bytes_per_second", plan.profile.read_gbps * 1e9},
                     {"measured_read_bytes_per_second", gbps_json(plan.measured.read_gbs)}});
  }
  return tiers;
}

/// With `audit`, every row is walked for what the counts add up to.
json arena_json(const keeper::Keeper& keeper, const Arena& arena, bool audit) {
  const ArenaCounts counts = arena.counts();
  const kvt_abi_arena_header& header = arena.table().header();
  const kvt_abi_arena_counters& counters = header.counters;
  json tiers = json::array();
  for (uint32_t i = 0; i < counts.tiers.size(); ++i) {
    const auto& tier = counts.tiers[i];
    tiers.push_back({{"name", header.tier[i].name},
                     {"frames", tier.frames},
                     {"free", tier.counts.free},
                     {"named", tier.counts.named},
                     {"limbo", tier.counts.limbo},
                     {"reserved", tier.counts.reserved},
                     {"retired", tier.counts.retired},
                     {"usable", tier.resize.usable},
                     {"wanted", tier.resize.wanted},
                     {"leaving", tier.resize.leaving},
                     {"stuck", tier.resize.stuck},
                     {"given_back_bytes", tier.resize.given_back_bytes},
                     {"waits_for", tier.resize.waits_for},
                     {"emulated", (header.tier[i].flags & KVT_TIER_EMULATED) != 0},
                     {"degraded", arena.is_degraded(i) || arena.has_lost_nodes(i)},
                     {"bytes_read", tier.bytes_read},
                     {"bytes_read_per_second", tier.bytes_read_per_second}});
  }
  const ArenaConfig& config = keeper.arena_config(arena);
  policy::Balance balance;  // of all groups
  for (const policy::Balance& group : counts.last_plan.groups) {
    balance.bytes_read += group.bytes_read;
    balance.bytes_slow += group.bytes_slow;
    balance.bytes_slow_best += group.bytes_slow_best;
  }
  json limbo_held;  // null: by nobody
  if (const auto& holder = counts.limbo_holder; holder.session_id != 0)
    limbo_held = {{"session", holder.session_id}, {"pid", holder.pid}, {"stops_moves", holder.stops_moves}};
  json answer{{"name", config.name},
              {"page_bytes", header.page_bytes},
              {"block_tokens", header.block_tokens},
              {"planes", header.planes},
              {"columns", header.columns},
              {"pages", header.pages},
              {"mode", fmt::format("{:04o}", config.mode)},
              {"epoch", arena.table().epoch()},
              {"sessions", arena.session_count()},
              {"pages_by_state",
               {{"free", counts.free},
                {"filling", counts.filling},
                {"sealed", counts.sealed},
                {"evicting", counts.evicting},
                {"retired", counts.retired}}},
              {"keyed", counts.keyed},
              {"shadows", counts.shadows},
              {"pinned", counts.pinned},
              {"copies_under_way", counts.copies},
              {"copies_failed", counts.copies_failed},
              {"lost_pages", counts.lost_pages},
              {"integrity",
               {{"mode", config.integrity},
                {"checked", counts.checks.pages},
                {"mismatches", counts.checks.mismatches},
                {"repaired", counts.checks.repaired},
                {"lost", counts.checks.lost}}},
              {"tiers", tiers},
              {"moves",
               {{"promoted", counters.promoted},
                {"promoted_from_peers", counts.moved.up_from_peer},
                {"demoted_copy", counters.demoted_copy},
                {"demoted_free", counters.demoted_free},
                {"aborted", counters.aborted}}},
              {"offers",
               {{"out", counts.offers.out},
                {"made", counts.offers.made},
                {"taken", counts.offers.taken},
                {"lapsed", counts.offers.lapsed},
                {"withdrawn", counts.offers.withdrawn},
                {"refused", counts.offers.refused}}},
              {"evicted", counters.evicted},
              {"published", counters.published},
              {"starved", counts.starved},
              {"periods_cut_short", counts.periods_cut_short},
              {"limbo_frames", counts.limbo},
              {"limbo_seconds", counts.limbo_oldest_seconds},
              {"limbo_held", std::move(limbo_held)},
              {"steps", steps_json(counts.steps)},
              {"balance",
               {{"bytes_read", balance.bytes_read},
                {"bytes_fast", balance.bytes_read - balance.bytes_slow},
                {"bytes_fast_best", balance.bytes_read - balance.bytes_slow_best}}}};
  if (audit) {
    const ArenaReport report = arena.report();
    answer["audit"] = {
        {"frames", report.frames},
        {"accounted", report.accounted},
        {"leaked", static_cast<int64_t>(report.frames) - static_cast<int64_t>(report.accounted)}};
  }
  return answer;
}

json sessions_json(const keeper::Keeper& keeper, const server::Server& server) {
  json sessions = json::array();
  const auto all = server.sessions();
  const uint64_t groups_each = std::max<uint64_t>(kHeldGroupsMin, all.empty() ? 0 : kHeldGroups / all.size());
  for (const auto& info : all) {
    json session{{"id", info.id},
                 {"arena", info.arena},
                 {"pid", info.pid},
                 {"uid", info.uid},
                 {"members", info.members},
                 {"connected", info.connected},
                 {"quarantined", info.quarantined},
                 {"device_memory", info.device_tiers != 0}};
    for (const auto& arena : keeper.arenas()) {
      const keeper::SessionState* const state = arena->find_session(info.id);
      if (state == nullptr) continue;
      uint32_t open = 0;
      uint32_t broken = 0;
      uint64_t oldest = UINT64_MAX;
      for (uint32_t i = 0; i < state->geometry.members_max; ++i) {
        if (!state->members[i].joined) continue;
        broken += state->members[i].broken ? 1 : 0;
        for (const kvt_abi_step_slot& slot : state->region.member(i).slot) {
          const uint64_t epoch = load_acquire(slot.epoch);
          if (epoch == 0) continue;
          ++open;
          oldest = std::min(oldest, epoch);
        }
      }
      const keeper::HeldPages held_pages = Arena::held_pages(*state, groups_each);
      session["access"] = state->read_write ? "read-write" : "read";
      session["column"] = state->geometry.column;
      session["guarantee_pages"] = state->guarantee;
      session["unkeyed_pages"] = state->owned.size();
      session["held_pages"] = held_pages.pages;
      session["held_pages_exact"] = held_pages.exact;
      session["magazine_pages"] = state->magazine.waiting();
      session["broken_members"] = broken;
      session["open_steps"] = open;
      session["oldest_step_epochs"] = open == 0 ? json(nullptr) : json(arena->table().epoch() - oldest);
    }
    sessions.push_back(std::move(session));
  }
  return sessions;
}

json page_json(const keeper::Keeper& keeper, const Arena& arena, PageIndex page) {
  const ArenaTable& table = arena.table();
  json columns = json::array();
  for (uint32_t column = 0; column < table.columns(); ++column) {
    const Placement placement = table.placement(column, page);
    const Shadow shadow = table.shadow(column, page);
    json entry{{"state", state_name(placement.state())},
               {"keyed", placement.keyed()},
               {"generation", placement.generation()}};
    if (placement.state() != PageState::kFree) {
      entry["tier"] = table.tier(placement.tier()).name;
      entry["frame"] = placement.frame();
    }
    entry["shadow_frame"] = shadow.valid() ? json(shadow.frame()) : json(nullptr);
    entry["shadow_tier"] = shadow.valid() ? json(table.tier(shadow.tier()).name) : json(nullptr);
    entry["reads_per_period"] = arena.expected_reads(column, page);
    columns.push_back(std::move(entry));
  }
  const Key key = table.key(page);
  const Handle parent = table.parent(page);
  return {{"arena", keeper.arena_config(arena).name},
          {"page", page},
          {"columns", columns},
          {"key", fmt::format("{:016x}{:016x}", key.hi, key.lo)},
          {"owner_session", table.owner(page)},
          {"parent", parent.none() || table.placement(0, page).state() == PageState::kFree
                         ? json(nullptr)
                         : json(parent.index())},
          {"group", table.group(page)},
          {"held", arena.is_held(page)},
          {"pinned", arena.is_pinned(page)},
          {"moving", arena.is_moving(page)}};
}

json arenas_json(const keeper::Keeper& keeper, bool audit) {
  json arenas = json::array();
  for (const auto& arena : keeper.arenas()) arenas.push_back(arena_json(keeper, *arena, audit));
  return arenas;
}

/// What is kept for the next daemon, and what this one has taken over.
json restart_json(const keeper::Keeper& keeper) {
  const keeper::Adoption& adoption = keeper.adoption();
  const restart::FdStore& store = keeper.kept().store;
  return {{"kept", store.is_kept()},
          {"descriptors", store.stored()},
          {"descriptors_max", store.max()},
          {"arenas", adoption.arenas},
          {"sessions", adoption.sessions},
          {"pages", adoption.pages},
          {"keyed", adoption.keyed},
          {"adopt_ms", adoption.seconds * 1e3},
          {"filling_freed", adoption.filling_freed},
          {"evictions_undone", adoption.evictions_undone},
          {"offers_withdrawn", adoption.offers_cleared},
          {"damaged_rows", adoption.damaged},
          {"regions_lost", adoption.regions_lost},
          {"index_rebuilt", adoption.index_rebuilt}};
}

json problems_json(const std::vector<Problem>& problems) {
  json list = json::array();
  for (const Problem& problem : problems)
    list.push_back({{"code", problem.code},
                    {"severity", severity_name(problem.severity)},
                    {"what", problem.what},
                    {"do", problem.action}});
  return list;
}

json status_json(const keeper::Keeper& keeper, const server::Server& server, const VitalSigns& signs,
                 double uptime_seconds, bool audit) {
  const std::vector<Problem> problems = problems_of(signs.vitals(keeper::Keeper::Clock::now()));
  return {{"healthy", is_healthy(problems)},
          {"problems", problems_json(problems)},
          {"version", KVT_VERSION},
          {"pid", ::getpid()},
          {"emulated", keeper.emulated()},
          {"profile", keeper.config().policy.profile},
          {"policy", keeper.config().policy.name},
          {"cuda_headers", KVT_HAVE_CUDA_HEADERS != 0},
          {"cuda_driver", keeper.machine().cuda_text},
          {"socket_dir", keeper.config().socket_dir},
          {"uptime_seconds", uptime_seconds},
          {"cpu_seconds", cpu_seconds()},
          {"rss_bytes", rss_bytes()},
          {"restart", restart_json(keeper)},
          {"connections", server.connections()},
          {"session_bytes", server.session_bytes()},
          {"attach_waiting", server.attach_waiting()},
          {"attach_refused", server.refused()},
          {"connections_dropped", server.dropped()},
          {"tiers", tiers_json(keeper)},
          {"arenas", arenas_json(keeper, audit)},
          {"sessions", sessions_json(keeper, server)}};
}

/// A refusal. `reason`, when it is there, is for programs.
json failed(const std::string& text, const char* reason = nullptr) {
  json answer{{"ok", false}, {"error", text}};
  if (reason != nullptr) answer["reason"] = reason;
  return answer;
}

// ---- what a request names ----

Result<Arena*> arena_of(keeper::Keeper& keeper, const json& request) {
  if (keeper.arenas().empty()) return fail(Code::kNotFound, "there is no arena");
  const auto name = request.find("arena");
  if (name == request.end()) return keeper.arenas().front().get();
  if (!name->is_string()) return fail(Code::kInvalid, "arena is the name of an arena");
  Arena* const found = keeper.find_arena(name->get<std::string>());
  if (found == nullptr) return fail(Code::kNotFound, "no arena \"" + name->get<std::string>() + "\"");
  return found;
}

/// An unsigned number below `end`.
Result<uint64_t> number_of(const json& request, const char* key, uint64_t end) {
  const auto number = request.find(key);
  if (number == request.end() || !number->is_number_unsigned() || number->get<uint64_t>() >= end)
    return fail(Code::kInvalid, fmt::format("{} is a number from 0 to {}", key, end - 1));
  return number->get<uint64_t>();
}

/// A page that a request names. With "generation", of that one only.
struct NamedPage {
  Arena* arena = nullptr;
  PageIndex page = 0;
};
Result<NamedPage> page_of(keeper::Keeper& keeper, const json& request) {
  NamedPage named;
  KVT_TRY_ASSIGN(named.arena, arena_of(keeper, request));
  KVT_TRY_ASSIGN(const uint64_t page, number_of(request, "page", named.arena->table().pages()));
  named.page = static_cast<PageIndex>(page);
  if (!request.contains("generation")) return named;
  KVT_TRY_ASSIGN(const uint64_t generation,
                 number_of(request, "generation", uint64_t{KVT_MAX_GENERATION} + 1));
  const uint32_t now = named.arena->table().placement(0, named.page).generation();
  if (now != generation)
    return fail(Code::kNotFound, fmt::format("page {} of generation {} is gone; there is generation {} now",
                                             page, generation, now));
  return named;
}

Result<uint32_t> tier_of(const Arena& arena, const json& request) {
  const auto name = request.find("tier");
  std::string tiers;
  for (uint32_t i = 0; i < arena.table().tiers(); ++i) {
    if (name != request.end() && *name == arena.table().tier(i).name) return i;
    tiers += (i == 0 ? "" : ", ") + std::string(arena.table().tier(i).name);
  }
  if (name == request.end() || !name->is_string())
    return fail(Code::kInvalid, "tier is the name of a tier: " + tiers);
  return fail(Code::kNotFound, "no tier \"" + name->get<std::string>() + "\" in this arena; it has " + tiers);
}

Result<uint32_t> column_of(const Arena& arena, const json& request) {
  if (!request.contains("column")) return 0;
  KVT_TRY_ASSIGN(const uint64_t column, number_of(request, "column", arena.table().columns()));
  return static_cast<uint32_t>(column);
}

// ---- requests that change something: the keeper and the server do it ----

Result<json> move_page(keeper::Keeper& keeper, const json& request) {
  KVT_TRY_ASSIGN(const NamedPage named, page_of(keeper, request));
  Arena& arena = *named.arena;
  KVT_TRY_ASSIGN(const uint32_t tier, tier_of(arena, request));
  KVT_TRY_ASSIGN(const uint32_t column, column_of(arena, request));
  const ArenaTable& table = arena.table();
  const char* const tier_name = table.tier(tier).name;
  const auto done = [&](const char* result) -> json {
    return {{"ok", true},
            {"result", result},
            {"arena", keeper.arena_config(arena).name},
            {"page", named.page},
            {"generation", table.placement(0, named.page).generation()},
            {"column", column},
            {"tier", tier_name}};
  };
  const auto page = fmt::format("page {}", named.page);
  switch (keeper.move(arena, column, named.page, tier)) {
    case keeper::MoveRequest::kThere: return done("there");
    case keeper::MoveRequest::kMoved: return done("moved");
    case keeper::MoveRequest::kQueued: return done("queued");
    case keeper::MoveRequest::kNotSealed:
      return failed(fmt::format("{} is {}; only a sealed page can be moved", page,
                                state_name(table.placement(0, named.page).state())),
                    "not_sealed");
    case keeper::MoveRequest::kPinned: return failed(page + " is pinned; unpin it first", "pinned");
    case keeper::MoveRequest::kBusy: return failed("a copy of " + page + " is under way", "busy");
    case keeper::MoveRequest::kManyCopies:
      return failed("as many copies are under way as there may be", "copies");
    case keeper::MoveRequest::kNoFrame: {
      const ArenaCounts counts = arena.counts();
      return failed(
          fmt::format("tier {} has no free frame ({} of {} wait in limbo); move another page out of it first",
                      tier_name, counts.tiers[tier].counts.limbo, counts.tiers[tier].frames),
          "no_frame");
    }
    case keeper::MoveRequest::kDamaged:
      return failed(
          fmt::format("a frame of {} has gone bad; it is read from another one soon, or lost", page),
          "damaged");
    case keeper::MoveRequest::kNotOfColumn:
      return failed(fmt::format("tier {} is read by column {} alone, not by column {}", tier_name,
                                table.tier(tier).column, column),
                    "column");
  }
  return failed("not a result of a move");
}

/// With "tier": refused unless the page is there, so that whoever moved it first does not pin it elsewhere.
Result<json> pin_page(keeper::Keeper& keeper, const json& request) {
  KVT_TRY_ASSIGN(const NamedPage named, page_of(keeper, request));
  Arena& arena = *named.arena;
  const ArenaTable& table = arena.table();
  if (request.contains("tier")) {
    KVT_TRY_ASSIGN(const uint32_t tier, tier_of(arena, request));
    KVT_TRY_ASSIGN(const uint32_t column, column_of(arena, request));
    const Placement place = table.placement(column, named.page);
    if (place.state() != PageState::kFree && place.tier() != tier)
      return failed(fmt::format("page {} is in tier {}, not in {}", named.page, table.tier(place.tier()).name,
                                table.tier(tier).name),
                    "elsewhere");
  }
  switch (arena.pin(named.page)) {
    case keeper::PinRequest::kPinned:
      return json{{"ok", true},
                  {"result", "pinned"},
                  {"arena", keeper.arena_config(arena).name},
                  {"page", named.page},
                  {"generation", table.placement(0, named.page).generation()},
                  {"pinned_pages", arena.counts().pinned}};
    case keeper::PinRequest::kNotSealed:
      return failed(fmt::format("page {} is {}; only a sealed page can be pinned", named.page,
                                state_name(table.placement(0, named.page).state())),
                    "not_sealed");
    case keeper::PinRequest::kBusy:
      return failed(fmt::format("a copy of page {} is under way", named.page), "busy");
    case keeper::PinRequest::kTooMany:
      return failed(
          fmt::format(
              "{} pages of arena \"{}\" are pinned, half of its {}: no more can be; unpin others first",
              arena.counts().pinned, keeper.arena_config(arena).name, table.pages()),
          "too_many");
  }
  return failed("not a result of a pin");
}

Result<json> unpin_page(keeper::Keeper& keeper, const json& request) {
  KVT_TRY_ASSIGN(const NamedPage named, page_of(keeper, request));
  const bool was_pinned = named.arena->unpin(named.page);
  return json{{"ok", true},
              {"result", was_pinned ? "unpinned" : "not_pinned"},
              {"arena", keeper.arena_config(*named.arena).name},
              {"page", named.page},
              {"pinned_pages", named.arena->counts().pinned}};
}

Result<json> evict_session(server::Server& server, const json& request) {
  const auto id = request.find("session");
  if (id == request.end() || !id->is_number_unsigned())
    return fail(Code::kInvalid, "session is the number of a session");
  KVT_TRY(server.evict_session(id->get<uint64_t>()));
  return json{{"ok", true}, {"result", "evicted"}, {"session", *id}};
}

// ---- arenas that come and go ----

/// So many requests for these may wait at once: others are served meanwhile.
constexpr uint32_t kWaitingMax = KVT_MAX_CONTROL_CONNECTIONS / 2;

Result<std::string> arena_name(const json& request) {
  const auto name = request.find("arena");
  if (name == request.end() || !name->is_string())
    return fail(Code::kInvalid, "arena is the name of an arena");
  return name->get<std::string>();
}

/// Keys and values of a section, and its name, as "set" gives them.
Result<std::map<std::string, std::string>> values_of(const json& request, const std::string& name,
                                                     const char* section) {
  std::map<std::string, std::string> values;
  if (const auto set = request.find("set"); set != request.end()) {
    if (!set->is_object()) return fail(Code::kInvalid, "\"set\" is an object of keys and values");
    for (const auto& [key, value] : set->items()) {
      if (key == "name" || !(value.is_number() || value.is_string()))
        return fail(Code::kInvalid,
                    fmt::format("\"{}\": expected a key of [[{}]] with a number or a text", key, section));
      values[key] = value.is_string() ? value.get<std::string>() : value.dump();
    }
  }
  values["name"] = name;
  return values;
}

/// What is to be made, and the keys that were given.
Result<std::pair<ArenaConfig, std::map<std::string, std::string>>> wanted_arena(const Config& config,
                                                                                const json& request) {
  KVT_TRY_ASSIGN(const std::string name, arena_name(request));
  KVT_TRY_ASSIGN(const auto values, values_of(request, name, "arena"));
  std::map<std::string, std::string> sources;
  for (const auto& [key, value] : values) sources[key.substr(0, key.find('.'))] = Config::kArenaCreate;
  KVT_TRY_ASSIGN(ArenaConfig arena, arena_of(config, values));
  return std::pair(std::move(arena), std::move(sources));
}

Result<std::string> tier_name(const json& request) {
  if (!request.contains("tier") || !request["tier"].is_string() || request["tier"] == "")
    return fail(Code::kInvalid, "tier is the name of a tier");
  return request["tier"].get<std::string>();
}

/// The same of a tier.
Result<std::pair<TierConfig, std::map<std::string, std::string>>> wanted_tier(const json& request) {
  KVT_TRY_ASSIGN(const std::string name, tier_name(request));
  KVT_TRY_ASSIGN(const auto values, values_of(request, name, "tier"));
  std::map<std::string, std::string> sources;
  for (const auto& [key, value] : values)
    sources[fmt::format("tier.{}.{}", name, key == "node" ? "nodes" : key)] = Config::kTierAdd;
  KVT_TRY_ASSIGN(TierConfig tier, kvt::tier_of(values));
  return std::pair(std::move(tier), std::move(sources));
}

/// One of those that "tiers" lists.
json tier_json(const keeper::Keeper& keeper, const std::string& name) {
  for (json& tier : tiers_json(keeper))
    if (tier.at("name") == name) return std::move(tier);
  return {};
}

Result<json> remove_tier(keeper::Keeper& keeper, const json& request) {
  KVT_TRY_ASSIGN(const std::string name, tier_name(request));
  const bool configured = keeper.config().names("tier", name);
  KVT_TRY(keeper.remove_tier(name));
  return json{{"result", "removed"}, {"tier", name}, {"configured", configured}};
}

json windows_json(const Arena& arena) {
  json tiers = json::array();
  for (uint32_t tier = 0; tier < arena.table().tiers(); ++tier) {
    const kvt_abi_tier& window = arena.table().tier(tier);
    tiers.push_back({{"name", window.name},
                     {"frames", window.frames},
                     {"bytes", window.window_bytes},
                     {"emulated", (window.flags & KVT_TIER_EMULATED) != 0}});
  }
  return tiers;
}

json created_json(const keeper::Keeper& keeper, const Arena& arena, double seconds) {
  return {{"ok", true},
          {"result", "created"},
          {"arena", keeper.arena_config(arena).name},
          {"page_bytes", arena.table().page_bytes()},
          {"pages", arena.table().pages()},
          {"tiers", windows_json(arena)},
          {"seconds", seconds}};
}

/// As it is before it is deleted.
json deleted_json(const keeper::Keeper& keeper, const Arena& arena) {
  const ArenaCounts counts = arena.counts();
  const std::string& name = keeper.arena_config(arena).name;
  return {{"ok", true},
          {"result", "deleted"},
          {"arena", name},
          {"keyed", counts.keyed},
          {"tiers", windows_json(arena)},
          {"configured", keeper.config().names("arena", name)}};
}

/// A refusal while processes are attached; null: there are none.
json attached(const server::Server& server, const std::string& arena) {
  std::string who;
  uint64_t count = 0;
  for (const auto& info : server.sessions()) {
    if (info.arena != arena) continue;
    ++count;
    who += fmt::format("{}{} (process {})", who.empty() ? "" : ", ", info.id, info.pid);
  }
  if (count == 0) return nullptr;
  return failed(
      fmt::format(
          "arena \"{}\" has {} session{}: {}; they have to end first, or be evicted with it (--force)", arena,
          count, count == 1 ? "" : "s", who),
      "sessions");
}

// ---- how much of a tier is used ----

json resize_json(const keeper::Keeper& keeper, const Arena& arena, uint32_t tier) {
  const ArenaCounts::Resize state = arena.resize_state(tier);
  return {{"arena", keeper.arena_config(arena).name},
          {"tier", arena.table().tier(tier).name},
          {"frames", arena.table().tier(tier).frames},
          {"page_bytes", arena.table().page_bytes()},
          {"wanted", state.wanted},
          {"usable", state.usable},
          {"leaving", state.leaving},
          {"stuck", state.stuck},
          {"given_back_bytes", state.given_back_bytes},
          {"waits_for", state.waits_for},
          {"done", state.done}};
}

/// `bytes`, rounded down to frames; "all": of the window.
Result<json> resize_tier(keeper::Keeper& keeper, const json& request) {
  KVT_TRY_ASSIGN(Arena* const arena, arena_of(keeper, request));
  KVT_TRY_ASSIGN(const uint32_t tier, tier_of(*arena, request));
  uint64_t frames = arena->table().tier(tier).frames;
  const auto bytes = request.find("bytes");
  if (bytes == request.end() || *bytes != "all") {
    KVT_TRY_ASSIGN(const uint64_t wanted, number_of(request, "bytes", uint64_t{1} << 62));
    frames = wanted / arena->table().page_bytes();
  }
  KVT_TRY(arena->resize(tier, frames));
  return json{{"ok", true}, {"tiers", json::array({resize_json(keeper, *arena, tier)})}};
}

/// The tier in all arenas that have it: nothing of it is used any more, or all again with "undo".
Result<json> drain_tier(keeper::Keeper& keeper, const json& request) {
  KVT_TRY_ASSIGN(const std::string name, tier_name(request));
  const bool undo = request.value("undo", json(false)) == json(true);
  json tiers = json::array();
  struct Before {
    Arena* arena;
    uint32_t tier;
    uint64_t frames;
  };
  std::vector<Before> changed;
  for (const auto& arena : keeper.arenas()) {
    for (uint32_t tier = 0; tier < arena->table().tiers(); ++tier) {
      if (name != arena->table().tier(tier).name || arena->table().tier(tier).frames == 0) continue;
      const uint64_t before = arena->resize_state(tier).wanted;
      if (auto done = arena->resize(tier, undo ? arena->table().tier(tier).frames : 0); !done) {
        // All of them, or none.
        for (const Before& other : changed) (void)other.arena->resize(other.tier, other.frames);
        return fail(done.error().code, done.error().text);
      }
      changed.push_back({arena.get(), tier, before});
      tiers.push_back(resize_json(keeper, *arena, tier));
    }
  }
  if (tiers.empty()) return fail(Code::kNotFound, fmt::format("no arena has a tier \"{}\"", name));
  return json{{"ok", true}, {"tiers", tiers}};
}

/// What a request has changed, for the log; "" when it has changed nothing.
std::string change_text(const std::string& command, const json& answer) {
  if (!answer.at("ok").get<bool>()) return {};
  const auto page = [&] {
    return fmt::format("page {} of arena \"{}\"", answer.at("page").get<uint64_t>(),
                       answer.at("arena").get<std::string>());
  };
  if (command == "pin") return "pinned " + page();
  if (command == "unpin") return answer.at("result") == "unpinned" ? "unpinned " + page() : "";
  if (command == "move")
    return answer.at("result") == "there"
               ? ""
               : fmt::format("moved {} to tier {}", page(), answer.at("tier").get<std::string>());
  if (command == "evict-session")
    return fmt::format("evicted session {}", answer.at("session").get<uint64_t>());
  if (command == "record-start") return "began to record";
  if (command == "arena-create" || command == "arena-delete")
    return fmt::format("{} arena \"{}\"", answer.at("result").get<std::string>(),
                       answer.at("arena").get<std::string>());
  if (command == "tier-add")
    return fmt::format("added tier \"{}\"", answer.at("tiers").at(0).at("name").get<std::string>());
  if (command == "tier-remove")
    return fmt::format("removed tier \"{}\"", answer.at("tier").get<std::string>());
  if (command == "policy") {
    std::string text;
    for (const json& key : answer.at("set"))
      text += fmt::format("{}policy.{} to {}", text.empty() ? "set " : ", ", key.get<std::string>(),
                          answer.at("policy").at(key.get<std::string>()).dump());
    return text;
  }
  if (command == "resize" || command == "drain") {
    std::string text;
    for (const json& tier : answer.at("tiers"))
      text += fmt::format("{}arena \"{}\" is to use {} of {} frames of tier {}", text.empty() ? "" : ", ",
                          tier.at("arena").get<std::string>(), tier.at("wanted").get<uint64_t>(),
                          tier.at("frames").get<uint64_t>(), tier.at("tier").get<std::string>());
    return text;
  }
  return {};
}

// ---- why ----

const char* how_name(policy::How how) {
  switch (how) {
    case policy::How::kOffer: return "offer";
    case policy::How::kCopy: return "copy";
    case policy::How::kShadow: return "shadow";
  }
  return "?";
}

json balance_json(const policy::Balance& balance) {
  return {{"bytes_read", balance.bytes_read},
          {"bytes_slow", balance.bytes_slow},
          {"bytes_slow_best", balance.bytes_slow_best},
          {"balanced", balance.balanced}};
}

/// Names of those that stand for another kind of memory.
json emulated_of(const ArenaTable& table, const std::vector<uint32_t>& tiers) {
  json names = json::array();
  for (const uint32_t tier : tiers)
    if ((table.tier(tier).flags & KVT_TIER_EMULATED) != 0) names.push_back(table.tier(tier).name);
  return names;
}

Result<uint32_t> column_with_tiers(const keeper::Keeper& keeper, const Arena& arena, const json& request) {
  KVT_TRY_ASSIGN(const uint32_t column, column_of(arena, request));
  if (arena.tiers_of(column) < 2)
    return fail(Code::kInvalid,
                fmt::format("column {} of arena \"{}\" reads from one tier: there is nothing to place",
                            column, keeper.arena_config(arena).name));
  return column;
}

Result<json> plan_of(keeper::Keeper& keeper, const json& request) {
  KVT_TRY_ASSIGN(Arena* const arena, arena_of(keeper, request));
  KVT_TRY_ASSIGN(const uint32_t column, column_with_tiers(keeper, *arena, request));
  const keeper::DryRun run = arena->dry_run(column);
  const ArenaTable& table = arena->table();
  const auto tier_name = [&](uint32_t position) { return table.tier(run.tiers[position]).name; };
  json moves = json::array();
  for (const policy::Move& move : run.plan.moves)
    moves.push_back({{"page", move.page},
                     {"from", table.tier(table.placement(column, move.page).tier()).name},
                     {"to", tier_name(move.target_tier)},
                     {"how", how_name(move.how)},
                     {"reason", policy::reason_name(move.reason)},
                     {"expected", move.expected},
                     {"other", move.replaced},
                     {"gate", move.gate},
                     {"cost", move.cost}});
  json groups = json::array();
  for (const policy::Balance& balance : run.plan.groups) groups.push_back(balance_json(balance));
  json tiers = json::array();
  for (uint32_t i = 0; i < run.snapshot.tiers.size(); ++i) {
    const policy::TierState& tier = run.snapshot.tiers[i];
    tiers.push_back({{"name", tier_name(i)},
                     {"free", tier.free_frames},
                     {"coming", tier.coming_frames},
                     {"reserve", tier.reserve_frames},
                     {"threshold", i < run.plan.thresholds.size() ? run.plan.thresholds[i] : 0}});
  }
  return json{{"ok", true},
              {"arena", keeper.arena_config(*arena).name},
              {"column", column},
              {"policy", keeper.config().policy.name},
              {"emulated_tiers", emulated_of(table, run.tiers)},
              {"period_ms", keeper.config().period_ms},
              {"periods_ago", run.periods_ago},
              {"candidates", run.snapshot.candidates.size()},
              {"looked_at", run.snapshot.residents.size()},
              {"allowance_in_bytes", run.snapshot.allowance.in_bytes},
              {"allowance_out_bytes", run.snapshot.allowance.out_bytes},
              {"groups", groups},
              {"tiers", tiers},
              {"moves", moves},
              {"held_back", policy::held_back_name(run.plan.held_back)},
              {"coldest", run.plan.coldest},
              {"gate", run.plan.gate},
              {"stay_periods", run.snapshot.stay_periods}};
}

Result<json> explain_page(keeper::Keeper& keeper, const json& request) {
  KVT_TRY_ASSIGN(const NamedPage named, page_of(keeper, request));
  Arena& arena = *named.arena;
  KVT_TRY_ASSIGN(const uint32_t column, column_with_tiers(keeper, arena, request));
  const ArenaTable& table = arena.table();
  const Placement now = table.placement(column, named.page);
  if (now.state() == PageState::kFree)
    return failed(fmt::format("page {} is free: it has no content to place", named.page), "free");
  if (arena.is_leaving(column, named.page))
    return failed(
        fmt::format("page {} is on its way out of tier {}, of which fewer frames are used than before",
                    named.page, table.tier(now.tier()).name),
        "leaving");
  const keeper::PageReason reason = arena.explain(column, named.page);
  const policy::Explanation& why = reason.why;
  const auto tier_name = [&](uint32_t position) { return json(table.tier(reason.tiers[position]).name); };
  const Shadow shadow = table.shadow(column, named.page);
  const bool moves = why.verdict == policy::Verdict::kMoves;
  return json{{"ok", true},
              {"arena", keeper.arena_config(arena).name},
              {"page", named.page},
              {"column", column},
              {"policy", keeper.config().policy.name},
              {"emulated_tiers", emulated_of(table, reason.tiers)},
              {"period_ms", keeper.config().period_ms},
              {"state", state_name(now.state())},
              {"tier", tier_name(why.tier)},
              {"fastest_tier", tier_name(0)},
              {"shadow_tier", shadow.valid() ? json(table.tier(shadow.tier()).name) : json(nullptr)},
              {"verdict", policy::verdict_name(why.verdict)},
              {"target_tier", why.target_tier == why.tier ? json(nullptr) : tier_name(why.target_tier)},
              {"how", moves ? json(how_name(why.move.how)) : json(nullptr)},
              {"reason", moves ? json(policy::reason_name(why.move.reason)) : json(nullptr)},
              {"other", moves ? json(why.move.replaced) : json(nullptr)},
              {"expected", why.expected},
              {"heat",
               {{"reads", reason.heat.reads},
                {"fast", reason.heat.fast},
                {"slow", reason.heat.slow},
                {"mean", reason.heat.mean},
                {"last", reason.heat.last}}},
              {"advised", reason.advised},
              {"cost", why.cost},
              {"gate", why.gate},
              {"coldest", why.coldest},
              {"in_stay", why.in_stay},
              {"coldest_in_stay", why.coldest_in_stay},
              {"in_stay_gate", why.in_stay_gate},
              {"stay_periods", reason.stay_periods},
              {"threshold", why.threshold},
              {"free_frame", why.free_frame},
              {"colder_share", why.colder_share},
              {"looked_at", why.looked_at},
              {"cooling_periods", reason.cooling},
              {"balance", balance_json(why.balance)}};
}

const char* weight_name(events::Weight weight) {
  switch (weight) {
    case events::Weight::kInfo: return "info";
    case events::Weight::kWarn: return "warn";
    case events::Weight::kError: return "error";
  }
  return "?";
}

Result<json> heat_json(keeper::Keeper& keeper, const json& request) {
  KVT_TRY_ASSIGN(Arena* const arena, arena_of(keeper, request));
  KVT_TRY_ASSIGN(const uint32_t column, column_of(*arena, request));
  const HeatSample sample = heat_of(*arena, column);
  const ArenaTable& table = arena->table();
  json tiers = json::array();
  for (uint32_t i = 0; i < table.tiers(); ++i) tiers.push_back(table.tier(i).name);
  json buckets = json::array();
  for (size_t i = 0; i < sample.pages.size(); ++i) {
    json pages = json::array();
    for (uint32_t tier = 0; tier < table.tiers(); ++tier) pages.push_back(sample.pages[i][tier]);
    buckets.push_back({{"below", i < kHeatBelow.size() ? json(kHeatBelow[i]) : json(nullptr)},
                       {"pages", std::move(pages)}});
  }
  return json{{"arena", keeper.arena_config(*arena).name},
              {"column", column},
              {"pages", table.pages()},
              {"looked_at", sample.looked_at},
              {"filled", sample.filled},
              {"tiers", std::move(tiers)},
              {"buckets", std::move(buckets)}};
}

/// Of one answer: all kinds together keep more only when much has happened.
constexpr uint64_t kEventsMost = 2048;

Result<json> events_json(const events::EventLog& log, const json& request, double uptime_seconds) {
  uint64_t since = 0;
  uint64_t most = kEventsMost;
  if (request.contains("since")) {
    KVT_TRY_ASSIGN(since, number_of(request, "since", UINT64_MAX));
  }
  if (request.contains("most")) {
    KVT_TRY_ASSIGN(most, number_of(request, "most", kEventsMost + 1));
  }
  const auto now = events::EventLog::Clock::now();
  json list = json::array();
  for (const events::Event* const event : log.since(since, most)) {
    const events::KindRow& row = events::row_of(event->kind);
    list.push_back({{"serial", event->serial},
                    {"seconds_ago", std::chrono::duration<double>(now - event->at).count()},
                    {"kind", row.name},
                    {"severity", weight_name(row.weight)},
                    {"text", std::string(event->text())}});
  }
  // Another daemon has begun to count anew where the last serial is smaller than what was asked for.
  const uint64_t behind = log.last() > since ? log.last() - since : 0;
  const uint64_t left_out = behind - std::min<uint64_t>(behind, list.size());
  json kinds = json::array();
  for (const events::KindRow& row : events::kKinds) kinds.push_back(row.name);
  return json{{"pid", ::getpid()},    {"uptime_seconds", uptime_seconds}, {"last", log.last()},
              {"left_out", left_out}, {"kinds", std::move(kinds)},        {"events", std::move(list)}};
}

/// What is used, and where it comes from.
json config_json(const Config& config) {
  json values = json::array();
  for (const ConfigValue& value : config_values(config))
    values.push_back({{"section", value.section},
                      {"name", value.name.empty() ? json(nullptr) : json(value.name)},
                      {"key", value.key},
                      {"value", json::parse(value.json, nullptr, false)},
                      {"source", value.source}});
  return {{"values", std::move(values)}};
}

// ---- recordings: docs/recording.md ----

/// A recording that nobody has read from for so long gives way to another one.
constexpr std::chrono::seconds kRecordPatience{10};
/// Of one answer: a copy of a tenth of a millisecond in the loop.
constexpr uint64_t kRecordBytes = uint64_t{1} << 20;

/// The first line of the file.
json recording_header(const keeper::Keeper& keeper, const Arena& arena) {
  const ArenaTable& table = arena.table();
  json tiers = json::array();
  for (uint32_t i = 0; i < table.tiers(); ++i) {
    const kvt_abi_tier& tier = table.tier(i);
    tiers.push_back({{"name", tier.name},
                     {"emulated", (tier.flags & KVT_TIER_EMULATED) != 0},
                     {"column", tier.column},
                     {"frames", tier.frames},
                     {"read_bytes_per_second", tier.read_bytes_per_second},
                     {"write_bytes_per_second", tier.write_bytes_per_second}});
  }
  return {{"kvtier_recording", 1},
          {"version", KVT_VERSION},
          {"arena", keeper.arena_config(arena).name},
          {"page_bytes", table.page_bytes()},
          {"pages", table.pages()},
          {"columns", table.columns()},
          {"period_ms", keeper.config().period_ms},
          {"policy", keeper.config().policy.name},
          {"profile", keeper.config().policy.profile},
          {"tiers", tiers}};
}

/// The recording that a request names.
Result<keeper::Recorder*> recorder_of(Arena& arena, const json& request) {
  KVT_TRY_ASSIGN(const uint64_t recording, number_of(request, "recording", UINT64_MAX));
  if (arena.recorder() == nullptr || arena.recording() != recording)
    return fail(Code::kNotFound,
                fmt::format("there is no recording {}: it has ended, or nobody read from it for too long",
                            recording));
  return arena.recorder();
}

/// What placement obeys now; with "set", after it has been changed.
Result<json> policy_of(keeper::Keeper& keeper, const json& request) {
  json changed = json::array();
  if (const auto set = request.find("set"); set != request.end()) {
    if (!set->is_object()) return fail(Code::kInvalid, "\"set\" is an object of keys and values");
    std::string lines;  // as in the file: numbers and strings are the same there
    for (const auto& [key, value] : set->items()) {
      const bool is_key =
          !key.empty() && key.find_first_not_of("abcdefghijklmnopqrstuvwxyz_") == std::string::npos;
      if (!is_key || !(value.is_number() || value.is_string()))
        return fail(Code::kInvalid,
                    fmt::format("\"{}\": expected a key of [policy] with a number or a text", key));
      if (key == "profile")
        return fail(Code::kInvalid,
                    "policy.profile: the arenas' tables have its bandwidths; it takes a restart");
      lines += fmt::format("{} = {}\n", key, value.dump());
      changed.push_back(key);
    }
    KVT_TRY_ASSIGN(const PolicyConfig policy, changed_policy(keeper.config().policy, lines));
    keeper.set_policy(policy);
    auto given = keeper.config().given;
    for (const json& key : changed) given["policy." + key.get<std::string>()] = "policy set";
    keeper.set_sources("policy.", given);
  }
  const PolicyConfig& now = keeper.config().policy;
  return json{{"policy",
               {{"name", now.name},
                {"profile", now.profile},
                {"promote", now.promote},
                {"move_bytes_per_second", now.move_bytes_per_second},
                {"idle_credit", now.idle_credit},
                {"cooldown_ms", now.cooldown_ms}}},
              {"set", changed}};
}

/// Tests: the daemon is to be killed, or to stop, where it gets to next.
Result<json> arm_point(const json& request) {
  const std::string action =
      request.contains("action") && request["action"].is_string() ? request["action"].get<std::string>() : "";
  if (action != "kill" && action != "stop") return fail(Code::kInvalid, "\"action\" is \"kill\" or \"stop\"");
  if (!request.contains("point") || !request["point"].is_string())
    return fail(Code::kInvalid, "\"point\" is a name (kvtierd --list-points)");
  const uint64_t after = request.contains("after") && request["after"].is_number_unsigned()
                             ? request["after"].get<uint64_t>()
                             : uint64_t{1};
  KVT_TRY(restart::arm(request["point"].get<std::string>(),
                       action == "kill" ? restart::PointAction::kKill : restart::PointAction::kStop, after));
  return json::object();
}

}  // namespace

Answers::Answers(keeper::Keeper& keeper, server::Server& server, const events::EventLog& events, Tell tell)
    : keeper_(keeper),
      server_(server),
      events_(events),
      tell_(std::move(tell)),
      signs_(keeper, server),
      bursts_(keeper, tell_),
      started_(keeper::Keeper::Clock::now()) {}

void Answers::answer(const std::string& text, const std::string& who, const Reply& reply) {
  // A row for each command; all are called on the loop's thread.
  using Handler = std::function<Result<json>(const json&)>;
  const auto uptime = [&] {
    return std::chrono::duration<double>(keeper::Keeper::Clock::now() - started_).count();
  };
  const auto keep = [](json answer) -> Result<json> { return answer; };
  std::string records;  // that follow the answer's line
  const auto record_start = [&](const json& request) -> Result<json> {
    KVT_TRY_ASSIGN(Arena* const arena, arena_of(keeper_, request));
    const Clock::time_point now = Clock::now();
    if (arena->recorder() != nullptr && now - record_read_at_[arena->number()] < kRecordPatience)
      return failed(
          fmt::format("arena \"{}\" is being recorded by somebody else", keeper_.arena_config(*arena).name),
          "busy");
    record_read_at_[arena->number()] = now;
    const uint64_t recording = arena->start_recording();
    if (recording == 0)
      return failed("there is no memory to record with: 4 bytes for each page and column", "full");
    return json{{"ok", true}, {"recording", recording}, {"header", recording_header(keeper_, *arena)}};
  };
  const auto record_read = [&](const json& request, bool stop) -> Result<json> {
    KVT_TRY_ASSIGN(Arena* const arena, arena_of(keeper_, request));
    KVT_TRY_ASSIGN(keeper::Recorder* const recorder, recorder_of(*arena, request));
    record_read_at_[arena->number()] = Clock::now();
    if (stop) recorder->end();
    records = recorder->take(kRecordBytes);
    const keeper::Recorder::Totals& totals = recorder->totals();
    json answer{{"ok", true},
                {"recording", arena->recording()},
                {"bytes", records.size()},
                {"waiting", recorder->waiting()},
                {"done", stop && recorder->waiting() == 0},
                {"periods", totals.periods},
                {"entries", totals.entries},
                {"reads", totals.reads},
                {"dropped_periods", totals.dropped_periods},
                {"dropped_entries", totals.dropped_entries}};
    if (answer.at("done")) arena->forget_recording();
    return answer;
  };
  // The whole answer, of the command's own. What answers later has a copy of it.
  bool is_later = false;
  std::string command;
  const auto complete = [this, who, reply](const std::string& of, Result<json> answer, std::string bytes) {
    std::string schema = "refusal";  // the name of the answer's schema: docs/schemas has it
    json replied = answer ? std::move(*answer) : failed(answer.error().text);
    replied.emplace("ok", true);
    if (replied.at("ok").get<bool>())
      schema = of == "audit"                           ? "arenas"
               : of == "quiesce"                       ? "status"
               : of == "drain" || of == "resize-state" ? "resize"
                                                       : of;
    if (const std::string done = change_text(of, replied); !done.empty())
      tell_(of == "policy" ? events::Kind::kPolicy : events::Kind::kOperator,
            fmt::format("{}: {}", who, done));
    replied["schema"] = "kvtier." + schema + "/1";
    std::string line = replied.dump(-1, ' ', false, json::error_handler_t::replace);
    reply(bytes.empty() ? std::move(line) : line + "\n" + bytes);
  };
  const auto arena_create = [&](const json& request) -> Result<json> {
    if (waiting_ >= kWaitingMax)
      return failed(fmt::format("{} requests for arenas wait already", waiting_), "busy");
    KVT_TRY_ASSIGN(auto wanted, wanted_arena(keeper_.config(), request));
    const Clock::time_point begun = Clock::now();
    KVT_TRY(server_.create_arena(std::move(wanted.first), wanted.second,
                                 [this, complete, command, begun](Result<Arena*> arena) {
                                   --waiting_;
                                   if (!arena)
                                     return complete(command, tl::unexpected<Error>(arena.error()), {});
                                   const std::chrono::duration<double> took = Clock::now() - begun;
                                   complete(command, created_json(keeper_, **arena, took.count()), {});
                                 }));
    ++waiting_;
    is_later = true;
    return json();
  };
  const auto arena_delete = [&](const json& request) -> Result<json> {
    if (waiting_ >= kWaitingMax)
      return failed(fmt::format("{} requests for arenas wait already", waiting_), "busy");
    KVT_TRY_ASSIGN(const std::string name, arena_name(request));
    if (keeper_.find_arena(name) == nullptr && keeper_.is_coming_or_going(name))
      return failed(fmt::format("arena \"{}\" is being made, or its memory given back", name), "busy");
    KVT_TRY_ASSIGN(Arena* const arena, arena_of(keeper_, request));
    if (json refused = attached(server_, name);
        !refused.is_null() && request.value("force", json(false)) != json(true))
      return refused;
    const auto answer = std::make_shared<json>(deleted_json(keeper_, *arena));
    record_read_at_.erase(arena->number());
    ++waiting_;
    is_later = true;
    (*answer)["sessions_evicted"] = server_.delete_arena(*arena, [this, complete, command, answer] {
      --waiting_;
      complete(command, *answer, {});
    });
    return json();
  };
  const auto tier_add = [&](const json& request) -> Result<json> {
    KVT_TRY_ASSIGN(auto wanted, wanted_tier(request));
    const Clock::time_point begun = Clock::now();
    KVT_TRY(keeper_.add_tiers({wanted.first}, wanted.second,
                              [this, complete, command, begun, name = wanted.first.name](Result<void> added) {
                                --waiting_;
                                if (!added)
                                  return complete(command, tl::unexpected<Error>(added.error()), {});
                                const std::chrono::duration<double> took = Clock::now() - begun;
                                complete(command,
                                         json{{"result", "added"},
                                              {"tiers", json::array({tier_json(keeper_, name)})},
                                              {"seconds", took.count()}},
                                         {});
                              }));
    ++waiting_;
    is_later = true;
    return json();
  };
  const std::vector<std::pair<const char*, Handler>> commands = {
      {"status", [&](const json&) { return keep(status_json(keeper_, server_, signs_, uptime(), false)); }},
      {"tiers",
       [&](const json&) {
         return keep({{"tiers", tiers_json(keeper_)}, {"profile", keeper_.config().policy.profile}});
       }},
      {"arenas",
       [&](const json&) {
         return keep({{"arenas", arenas_json(keeper_, false)}});
       }},
      {"audit",
       [&](const json&) {
         return keep({{"arenas", arenas_json(keeper_, true)}});
       }},
      {"sessions",
       [&](const json&) {
         return keep({{"sessions", sessions_json(keeper_, server_)}});
       }},
      {"page",
       [&](const json& request) -> Result<json> {
         KVT_TRY_ASSIGN(const NamedPage named, page_of(keeper_, request));
         return page_json(keeper_, *named.arena, named.page);
       }},
      {"evict-session", [&](const json& request) { return evict_session(server_, request); }},
      {"arena-create", arena_create},
      {"arena-delete", arena_delete},
      {"tier-add", tier_add},
      {"tier-remove", [&](const json& request) { return remove_tier(keeper_, request); }},
      {"resize", [&](const json& request) { return resize_tier(keeper_, request); }},
      {"resize-state",
       [&](const json& request) -> Result<json> {
         KVT_TRY_ASSIGN(const Arena* const arena, arena_of(keeper_, request));
         KVT_TRY_ASSIGN(const uint32_t tier, tier_of(*arena, request));
         return json{{"tiers", json::array({resize_json(keeper_, *arena, tier)})}};
       }},
      {"drain", [&](const json& request) { return drain_tier(keeper_, request); }},
      {"pin", [&](const json& request) { return pin_page(keeper_, request); }},
      {"unpin", [&](const json& request) { return unpin_page(keeper_, request); }},
      {"move", [&](const json& request) { return move_page(keeper_, request); }},
      {"plan", [&](const json& request) { return plan_of(keeper_, request); }},
      {"policy", [&](const json& request) { return policy_of(keeper_, request); }},
      {"explain", [&](const json& request) { return explain_page(keeper_, request); }},
      {"config", [&](const json&) { return keep(config_json(keeper_.config())); }},
      {"events",
       [&](const json& request) {
         bursts_.look(Clock::now());
         return events_json(events_, request, uptime());
       }},
      {"heat", [&](const json& request) { return heat_json(keeper_, request); }},
      {"record-start", record_start},
      {"record-read", [&](const json& request) { return record_read(request, false); }},
      {"record-stop", [&](const json& request) { return record_read(request, true); }},
      {"point", [&](const json& request) { return arm_point(request); }},
      {"quiesce",
       [&](const json&) {
         keeper_.quiesce(std::chrono::milliseconds(500));
         return keep(status_json(keeper_, server_, signs_, uptime(), true));
       }},
  };
  const json request = json::parse(text, nullptr, false);
  if (!request.is_object() || !request.contains("command") || !request["command"].is_string())
    return complete(command, failed("a request is a JSON object with a \"command\""), {});
  command = request["command"];
  std::string known;
  for (const auto& [name, handler] : commands) {
    if (command != name) {
      known += (known.empty() ? "" : ", ") + std::string(name);
      continue;
    }
    Result<json> answer = handler(request);
    if (!is_later) complete(command, std::move(answer), records);
    return;
  }
  complete(command, failed("unknown command \"" + command + "\"; expected " + known), {});
}

}  // namespace kvt::control
