// SPDX-License-Identifier: Apache-2.0
#include "daemon/control/health.h"

#include <fmt/format.h>

#include <algorithm>

namespace kvt::control {
namespace {

/// Steps take milliseconds: whose step is open for so long is stopped, hangs, or has forgotten it.
constexpr double kLimboSeconds = 5;
constexpr double kRefusedSeconds = 60;
/// Below, what is counted in a minute says nothing.
constexpr uint64_t kPagesThatCount = 256;

std::string count_of(uint64_t n, const char* noun, const char* nouns) {
  return fmt::format("{} {}", n, n == 1 ? noun : nouns);
}

class Judge {
 public:
  void bad(const char* code, std::string what, std::string action) {
    problems.push_back({code, Severity::kBad, std::move(what), std::move(action)});
  }
  void warn(const char* code, std::string what, std::string action) {
    problems.push_back({code, Severity::kWarn, std::move(what), std::move(action)});
  }
  void note(const char* code, std::string what, std::string action) {
    problems.push_back({code, Severity::kNote, std::move(what), std::move(action)});
  }
  std::vector<Problem> problems;
};

std::string who_text(const Who& who) {
  return fmt::format("session {} (process {}{})", who.session, who.pid, who.is_stopped ? ", stopped" : "");
}

void judge_limbo(const ArenaVitals& arena, Judge& judge) {
  if (arena.limbo == 0 || arena.limbo_seconds < kLimboSeconds) return;
  const Who& who = arena.holds_limbo;
  std::string what = fmt::format("arena {}: {} of {} frames wait in limbo, the first for {:.0f} s",
                                 arena.name, arena.limbo, arena.frames, arena.limbo_seconds);
  if (who.session != 0) what += ": an open step of " + who_text(who) + " keeps them";
  std::string action = "see OLDEST in kvtierctl sessions, and end that process";
  if (who.session != 0)
    action = fmt::format("{} process {}; if that cannot be done: kvtierctl evict-session {}",
                         who.is_stopped ? "continue or kill" : "look at", who.pid, who.session);
  if (arena.limbo >= arena.frames / 4)
    judge.bad("limbo_held", std::move(what), std::move(action));
  else
    judge.warn("limbo_held", std::move(what), std::move(action));
}

void judge_memory(const ArenaVitals& arena, Judge& judge) {
  for (const ArenaVitals::Tier& tier : arena.tiers) {
    if (tier.degraded)
      judge.bad("tier_degraded",
                fmt::format("arena {}: the GPU of tier {} does nothing any more, the tier is not used",
                            arena.name, tier.name),
                "make the GPU well (nvidia-smi, dmesg), then restart kvtierd");
    if (tier.nodes_lost)
      judge.bad("tier_degraded",
                fmt::format("arena {}: no NUMA node of tier {} has memory any more, the tier is not used",
                            arena.name, tier.name),
                fmt::format("bring the memory online again, then: kvtierctl resize {} {} all", arena.name,
                            tier.name));
    else if (tier.closed != 0)
      judge.note(
          "tier_closed",
          fmt::format("arena {}: an operator has closed {} of {} frames of tier {}", arena.name, tier.closed,
                      tier.frames, tier.name),
          fmt::format("kvtierctl resize {} {} all, when it is to be used again", arena.name, tier.name));
    if (tier.retired != 0)
      judge.warn("frames_retired",
                 fmt::format("arena {}: the memory of {} of tier {} has gone bad", arena.name,
                             count_of(tier.retired, "frame", "frames"), tier.name),
                 "replace the module (dmesg: memory failure); a new daemon uses the frames again");
  }
  if (arena.lost_pages != 0)
    judge.bad("pages_lost",
              fmt::format("arena {}: {} lost since the start, no frame had them any more", arena.name,
                          count_of(arena.lost_pages, "page was", "pages were")),
              "kvtierctl events has them; engines compute them again. Cleared by a restart");
  if (arena.mismatches != 0)
    judge.warn("checksum_mismatch",
               fmt::format("arena {}: {} had not the page's checksum", arena.name,
                           count_of(arena.mismatches, "frame or copy", "frames or copies")),
               "look for bad memory, and for a process that writes where it should not (kvtierctl events)");
}

void judge_use(const ArenaVitals& arena, Judge& judge) {
  const Minute& minute = arena.minute;
  if (minute.starved != 0 && arena.free_pages == 0)
    judge.bad("arena_full",
              fmt::format("arena {} is full: {} in the last minute asked for a page and got none", arena.name,
                          count_of(minute.starved, "session or more", "times a session")),
              "HELD and UNKEYED in kvtierctl sessions say who has the pages; or more pages: arena.bytes");
  for (const Who& who : arena.broken)
    judge.warn(
        "commands_broken",
        fmt::format("arena {}: commands of a process of {} are not taken any more: its ring made no sense",
                    arena.name, who_text(who)),
        "restart that engine; it has a bug, or somebody writes into its memory");
  if (arena.sessions >= arena.sessions_max)
    judge.warn("sessions_at_limit",
               fmt::format("arena {} has {} sessions, as many as it can have", arena.name, arena.sessions),
               "more are refused; let processes of an engine join its session");
  // Even if nothing else had been read up there, a page that was moved there was read less than twice.
  if (minute.promoted >= kPagesThatCount && minute.promoted * arena.page_bytes > minute.bytes_read_above / 2)
    judge.warn("moves_do_not_pay",
               fmt::format("arena {}: {} pages were moved up in the last minute, and so little is read there "
                           "that each was read less than twice",
                           arena.name, minute.promoted),
               "a lower policy.move_bytes_per_second, or a policy.cooldown_ms; look at kvtierctl plan");
  if (minute.offers_made >= kPagesThatCount && minute.offers_lapsed > minute.offers_made / 4 * 3)
    judge.warn("offers_lapse",
               fmt::format("arena {}: of {} pages offered to readers in the last minute {} were not taken",
                           arena.name, minute.offers_made, minute.offers_lapsed),
               "engines do not resolve what they touch, read it less often than every 80 ms, or attach "
               "without offers: policy.promote = \"copies\"");
}

void judge_restart(const Vitals& vitals, Judge& judge) {
  if (vitals.rows_damaged != 0)
    judge.bad("rows_damaged",
              fmt::format("{} of the daemon before this one: their pages are lost",
                          count_of(vitals.rows_damaged, "row was damaged", "rows were damaged")),
              "engines compute them again; look for what has written into kvtierd's memory");
  if (vitals.regions_lost != 0)
    judge.warn("regions_lost",
               fmt::format("the memory of {} was lost at the restart: nothing of their arenas is freed",
                           count_of(vitals.regions_lost, "session", "sessions")),
               "restart their engines: kvtierctl sessions");
  if (!vitals.is_kept)
    judge.note("not_kept", "nothing keeps kvtierd's descriptors: when it ends, all pages are gone",
               "run it by systemd/kvtierd.service, or with --keep");
  else if (vitals.kept_descriptors >= vitals.kept_descriptors_max / 10 * 9)
    judge.warn("store_nearly_full",
               fmt::format("{} of {} descriptors are kept for a restart; an attach beyond is refused",
                           vitals.kept_descriptors, vitals.kept_descriptors_max),
               "raise FileDescriptorStoreMax of the unit and daemon.descriptors_max");
}

}  // namespace

const char* severity_name(Severity severity) {
  switch (severity) {
    case Severity::kNote: return "note";
    case Severity::kWarn: return "warn";
    case Severity::kBad: return "bad";
  }
  return "?";
}

std::vector<Problem> problems_of(const Vitals& vitals) {
  Judge judge;
  if (vitals.memory_reserve_used)
    judge.bad("memory_reserve", "the system gives kvtierd no memory: it begins nothing new for anybody",
              "free memory, or raise its limits (LimitAS, vm.overcommit_memory)");
  for (const ArenaVitals& arena : vitals.arenas) {
    judge_memory(arena, judge);
    judge_limbo(arena, judge);
    judge_use(arena, judge);
  }
  judge_restart(vitals, judge);
  for (const std::string& why : vitals.left_out)
    judge.warn("tier_left_out", why + "; pages lie in the other tiers alone",
               "kvtierctl doctor looks for the driver; without_device = \"fail\" makes this an error");
  if (vitals.refused != 0 && vitals.refused_seconds_ago < kRefusedSeconds)
    judge.warn("attach_refused",
               fmt::format("an attach was refused {:.0f} s ago, {} since the start",
                           vitals.refused_seconds_ago, vitals.refused),
               "kvtierctl events says whose and why");
  if (vitals.descriptors_max != 0 && vitals.descriptors >= vitals.descriptors_max / 10 * 9)
    judge.warn("descriptors_nearly_used",
               fmt::format("kvtierd has {} of {} descriptors open; beyond it who attaches is refused",
                           vitals.descriptors, vitals.descriptors_max),
               "raise LimitNOFILE");
  if (vitals.is_numa_balancing)
    judge.warn("numa_balancing", "the kernel moves memory between nodes by itself (kernel.numa_balancing)",
               "sysctl kernel.numa_balancing=0: it works against placement, and its faults cost readers");
  if (vitals.policy != "balance")
    judge.note("policy_is_off", fmt::format("policy {}: pages are not placed by what is read", vitals.policy),
               "policy.name = \"balance\", unless this is meant");
  std::stable_sort(judge.problems.begin(), judge.problems.end(),
                   [](const Problem& a, const Problem& b) { return a.severity > b.severity; });
  return std::move(judge.problems);
}

bool is_healthy(const std::vector<Problem>& problems) {
  return std::all_of(problems.begin(), problems.end(),
                     [](const Problem& problem) { return problem.severity == Severity::kNote; });
}

}  // namespace kvt::control
