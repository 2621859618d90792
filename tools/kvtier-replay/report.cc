// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-replay/report.h"

#include <fmt/format.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace kvt::replay {
namespace {

std::string scaled(double value, double step, std::initializer_list<const char*> units) {
  const char* unit = *units.begin();
  for (const char* const next : units) {
    unit = next;
    if (value < step) break;
    if (next != *(units.end() - 1)) value /= step;
  }
  return value < 10 && unit != *units.begin() ? fmt::format("{:.2f} {}", value, unit)
                                              : fmt::format("{:.0f} {}", value, unit);
}

double percent(double part, double whole) { return whole > 0 ? 100 * part / whole : 0; }

void print_reads(const Outcome& outcome) {
  const Totals& totals = outcome.totals;
  uint64_t all = 0;
  for (const uint64_t bytes : totals.bytes_read) all += bytes;
  fmt::print("\nwhere {} were read, in {} decode steps\n", bytes_text(all), count_text(totals.steps));
  for (size_t i = 0; i < outcome.before.tiers.size() && i < totals.bytes_read.size(); ++i) {
    const TierStatus& tier = outcome.before.tiers[i];
    const bool stand_in = outcome.stand_in && i == 0;
    fmt::print("  {:<26}{:>12}  {:5.1f} %   size {}, {:.0f} GB/s {}\n",
               tier.name + (tier.emulated ? " (emulated)"
                            : stand_in    ? " (stand-in)"
                                          : ""),
               bytes_text(totals.bytes_read[i]),
               percent(static_cast<double>(totals.bytes_read[i]), static_cast<double>(all)),
               bytes_text(tier.bytes), tier.read_bytes_per_second / 1e9,
               tier.bandwidth_from.starts_with("profile") ? "by profile" : tier.bandwidth_from);
  }
}

const char* why_not_measured(const Outcome& outcome) {
  if (outcome.before.emulated) return "the fast tier is emulated";
  if (outcome.stand_in) return "the GPU is a stand-in";
  return outcome.cuda ? "every word is compared here" : "reads are by the CPU here";
}

void print_modelled(const Outcome& outcome) {
  const Totals& totals = outcome.totals;
  fmt::print("\nmodelled decode time of these reads, at the bandwidths {} (not measured: {})\n",
             outcome.before.by_profile() ? "of profile " + outcome.before.profile : "above",
             why_not_measured(outcome));
  fmt::print("  kvtier {:10.4f} s   {:5.1f} % of best\n", totals.seconds_kvtier,
             percent(totals.seconds_best, totals.seconds_kvtier));
  fmt::print("  static {:10.4f} s   {:5.1f} % of best   kvtier is {:.2f} times as fast\n",
             totals.seconds_static, percent(totals.seconds_best, totals.seconds_static),
             totals.seconds_kvtier > 0 ? totals.seconds_static / totals.seconds_kvtier : 0);
  fmt::print("  best   {:10.4f} s   all tiers always busy; ignores how much fits where\n",
             totals.seconds_best);
  fmt::print(
      "  A step takes as long as the slowest tier of its bytes, pages that it promotes included; the "
      "daemon's "
      "moves\n"
      "  are not charged. Static: the first pages fill the fast tier and stay.\n");
}

void print_verdict(const Outcome& outcome) {
  const Totals& totals = outcome.totals;
  fmt::print("\ncorrupt {}   lost {}   leaked {}{}\n", totals.corrupt, totals.lost,
             outcome.after_known ? std::to_string(outcome.leaked()) : "unknown",
             outcome.good() ? "   every word was right" : "");
  if (!outcome.inject.empty()) {
    const uint64_t mismatches = outcome.after_known ? outcome.after.arena(outcome.arena).mismatches : 0;
    if (outcome.integrity != "off" && outcome.after_known)
      fmt::print("checksums found {} copies and frames that were wrong, and repaired {}\n", mismatches,
                 outcome.after.arena(outcome.arena).repaired);
    const bool found = totals.corrupt + totals.lost + outcome.leaked() + mismatches != 0;
    fmt::print("fault \"{}\" was ordered: {}\n", outcome.inject, found ? "found" : "NOT FOUND");
  }
  for (const std::string& failure : outcome.failures) fmt::print("FAILED: {}\n", failure);
  if (outcome.interrupted_by != 0) fmt::print("interrupted by {}\n", strsignal(outcome.interrupted_by));
}

}  // namespace

std::string bytes_text(uint64_t bytes) {
  return scaled(static_cast<double>(bytes), 1024, {"B", "KiB", "MiB", "GiB", "TiB"});
}

std::string count_text(uint64_t count) {
  std::string text = scaled(static_cast<double>(count), 1000, {"", "k", "M", "G", "T"});
  if (text.back() == ' ') text.pop_back();
  return text;
}

Moves moves_between(const Moves& before, const Moves& after) {
  return {after.promoted - before.promoted, after.promoted_by_readers - before.promoted_by_readers,
          after.demoted_copy - before.demoted_copy, after.demoted_free - before.demoted_free,
          after.aborted - before.aborted};
}

uint64_t Outcome::leaked() const {
  if (!after_known) return 0;
  const ArenaStatus& end = after.arena(arena);
  // Other sessions' pages are in use, not leaked.
  if (before.sessions > 0) return end.frames_leaked;
  return end.frames_leaked + end.filling + (end.sealed > end.keyed ? end.sealed - end.keyed : 0);
}

bool Outcome::good() const {
  return totals.corrupt == 0 && totals.lost == 0 && leaked() == 0 && failures.empty() && after_known;
}

void print_report(const Outcome& outcome) {
  const Totals& totals = outcome.totals;
  const ArenaStatus& arena = outcome.before.arena(outcome.arena);
  fmt::print("\n==== kvtier replay: {:.1f} s, {} client processes, policy {} ====\n", outcome.wall_seconds,
             outcome.pids.size(), outcome.before.policy);
  fmt::print("source    {}: its first {} requests ({:.0f} s of traffic){}\n", outcome.source,
             outcome.planned_requests, outcome.source_seconds,
             outcome.bad_lines == 0 ? "" : fmt::format("; {} bad lines skipped", outcome.bad_lines));
  fmt::print("pages     {} pages of {} for a block (a real block is up to 64 MiB)\n", arena.pages,
             bytes_text(arena.page_bytes));
  if (outcome.cuda) fmt::print("device    cuda, driver {}\n", outcome.driver);
  fmt::print("reads     modelled, traces do not say them: {}\n",
             outcome.read_model == ReadModel::kDense
                 ? "dense, every step reads the whole context"
                 : fmt::format("sparse: first block, recent ones, drifting content ({})", outcome.gates));
  fmt::print("requests  {} of {}; {} ended early to make room, {} cut to what fits\n", totals.requests,
             outcome.planned_requests, totals.requests_cut, totals.requests_shortened + outcome.prompts_cut);
  fmt::print("prefixes  {} of {} blocks found: hit ratio {:.1f} % (of the trace itself: {:.1f} %)\n",
             count_text(totals.blocks_found), count_text(totals.blocks_asked), 100 * totals.hit_ratio(),
             100 * outcome.planned_reuse);
  fmt::print("written   {} blocks, {} of them published by another process first; {} pages of new tokens\n",
             count_text(totals.blocks_written), totals.publish_present, count_text(totals.pages_appended));
  fmt::print(
      "verified  {} words of 8 bytes in a process other than the writer's; {} of them in a page that had "
      "moved;\n"
      "          {} pages whose place changed while they were being read; {} words of own pages besides\n",
      count_text(totals.words_verified), count_text(totals.words_verified_moved),
      count_text(totals.pages_verified_in_move), count_text(totals.words_verified_own));
  if (outcome.after_known) {
    const ArenaStatus& end = outcome.after.arena(outcome.arena);
    const Moves moves = moves_between(arena.moves, end.moves);
    fmt::print(
        "moves     {} promoted, {} of them by their readers; {} demoted by copy, {} for free; {} aborted; {} "
        "pages "
        "evicted\n",
        moves.promoted, moves.promoted_by_readers, moves.demoted_copy, moves.demoted_free, moves.aborted,
        end.evicted - arena.evicted);
    fmt::print("daemon    {:.2f} s of CPU in {:.1f} s, {} resident\n",
               outcome.after.cpu_seconds - outcome.before.cpu_seconds,
               outcome.after.uptime_seconds - outcome.before.uptime_seconds,
               bytes_text(outcome.after.rss_bytes));
  }
  print_reads(outcome);
  print_modelled(outcome);
  print_verdict(outcome);
}

void write_json(const Outcome& outcome, const std::string& path) {
  const Totals& totals = outcome.totals;
  const DaemonStatus& last = outcome.after_known ? outcome.after : outcome.before;
  const Moves moves =
      moves_between(outcome.before.arena(outcome.arena).moves, last.arena(outcome.arena).moves);
  nlohmann::ordered_json json;
  json["emulated"] = last.emulated || outcome.stand_in;
  json["device"] = outcome.cuda ? "cuda" : "cpu";
  json["driver"] = outcome.driver;
  json["pids"] = outcome.pids;
  json["daemon_pid"] = last.pid;
  json["socket_dir"] = outcome.socket_dir;
  json["requests"] = totals.requests;
  json["blocks_asked"] = totals.blocks_asked;
  json["prefix_hit_ratio"] = totals.hit_ratio();
  json["words_verified"] = totals.words_verified;
  json["words_verified_moved"] = totals.words_verified_moved;
  json["pages_verified_in_move"] = totals.pages_verified_in_move;
  json["corrupt"] = totals.corrupt;
  json["lost"] = totals.lost;
  json["leaked"] = outcome.leaked();
  json["moves"] = {{"promoted", moves.promoted},
                   {"promoted_by_readers", moves.promoted_by_readers},
                   {"demoted_copy", moves.demoted_copy},
                   {"demoted_free", moves.demoted_free},
                   {"aborted", moves.aborted}};
  nlohmann::ordered_json bytes_read = nlohmann::ordered_json::object();
  for (size_t i = 0; i < last.tiers.size() && i < totals.bytes_read.size(); ++i)
    bytes_read[last.tiers[i].name] = totals.bytes_read[i];
  json["bytes_read"] = bytes_read;
  json["profile"] = last.profile;
  json["modelled_decode_seconds"] = {
      {"kvtier", totals.seconds_kvtier}, {"static", totals.seconds_static}, {"best", totals.seconds_best}};
  // Of the replay itself: what the daemon needed to start (it allocates all memory then) is not in it.
  json["daemon"] = {{"cpu_seconds", last.cpu_seconds - outcome.before.cpu_seconds},
                    {"rss_bytes", last.rss_bytes},
                    {"wall_seconds", last.uptime_seconds - outcome.before.uptime_seconds}};
  // Beyond the contract.
  json["modelled_together_seconds"] = totals.seconds_together;
  json["policy"] = last.policy;
  json["inject"] = outcome.inject;
  if (outcome.after_known)
    json["integrity"] = {{"mode", outcome.integrity},
                         {"mismatches", outcome.after.arena(outcome.arena).mismatches},
                         {"repaired", outcome.after.arena(outcome.arena).repaired}};
  json["read_model"] = outcome.read_model == ReadModel::kDense ? "dense" : "sparse";
  json["planned_requests"] = outcome.planned_requests;
  json["planned_hit_ratio"] = outcome.planned_reuse;
  json["steps"] = totals.steps;
  json["words_verified_own"] = totals.words_verified_own;
  json["bad_lines"] = outcome.bad_lines;
  json["wall_seconds"] = outcome.wall_seconds;
  json["failures"] = outcome.failures;
  json["interrupted"] = outcome.interrupted_by != 0;
  std::ofstream file(path);
  file << json.dump(2) << "\n";
  if (!file.flush()) throw std::runtime_error(fmt::format("{}: cannot be written", path));
}

}  // namespace kvt::replay
