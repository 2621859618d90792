// SPDX-License-Identifier: Apache-2.0
#include "daemon/metrics/families.h"

#include <prometheus/text_serializer.h>

#include <algorithm>
#include <sstream>
#include <utility>

namespace kvt::metrics {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

double number(uint64_t count) { return static_cast<double>(count); }
const char* truth(bool is) { return is ? "true" : "false"; }

/// One family, to be filled with metrics.
class Family {
 public:
  Family(std::vector<MetricFamily>& all, MetricType type, const char* name, const char* help)
      : family_(all.emplace_back()) {
    family_.name = name;
    family_.help = help;
    family_.type = type;
  }
  Family& add(Labels labels, double value) {
    ClientMetric& metric = family_.metric.emplace_back();
    metric.label = std::move(labels);
    (family_.type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
    return *this;
  }
  Family& add(Labels labels, const keeper::Durations& durations) {
    ClientMetric& metric = family_.metric.emplace_back();
    metric.label = std::move(labels);
    uint64_t count = 0;
    for (size_t i = 0; i < durations.kBounds.size(); ++i)
      metric.histogram.bucket.push_back({count += durations.counts[i], durations.kBounds[i]});
    metric.histogram.sample_count = count + durations.counts.back();
    metric.histogram.sample_sum = durations.seconds;
    return *this;
  }
  /// A bucket for each power of two.
  Family& add(Labels labels, const StepTimes& steps) {
    ClientMetric& metric = family_.metric.emplace_back();
    metric.label = std::move(labels);
    uint64_t count = 0;
    for (size_t i = 0; i + 1 < steps.counts.size(); ++i) {
      count += steps.counts[i];
      if (i % 4 == 0) metric.histogram.bucket.push_back({count, static_cast<double>(step_time_to(i)) * 1e-9});
    }
    metric.histogram.sample_count = count + steps.counts.back();
    metric.histogram.sample_sum = static_cast<double>(steps.ns) * 1e-9;
    return *this;
  }

 private:
  MetricFamily& family_;
};

/// Families of a snapshot, in the order of the calls.
class Builder {
 public:
  explicit Builder(const Snapshot& snapshot) : snapshot_(snapshot) {
    all_.reserve(128);
  }  // Family has references

  Family gauge(const char* name, const char* help) { return {all_, MetricType::Gauge, name, help}; }
  Family counter(const char* name, const char* help) { return {all_, MetricType::Counter, name, help}; }
  Family histogram(const char* name, const char* help) { return {all_, MetricType::Histogram, name, help}; }

  /// One value an arena.
  template <typename Value>
  void of_arenas(Family family, Value&& value) {
    for (const ArenaSample& arena : snapshot_.arenas)
      family.add({{"arena", arena.name}}, static_cast<double>(value(arena)));
  }
  /// Several an arena, told apart by one more label.
  template <typename Values>
  void of_arenas(Family family, const char* label, Values&& values) {
    for (const ArenaSample& arena : snapshot_.arenas)
      for (const std::pair<const char*, double>& each : values(arena))
        family.add({{"arena", arena.name}, {label, each.first}}, each.second);
  }
  /// One value an arena and tier.
  template <typename Value>
  void of_arena_tiers(Family family, Value&& value) {
    for (const ArenaSample& arena : snapshot_.arenas)
      for (size_t tier = 0; tier < arena.tier_names.size(); ++tier)
        family.add(tier_labels(arena, tier), static_cast<double>(value(arena, tier)));
  }
  static Labels tier_labels(const ArenaSample& arena, size_t tier) {
    return {{"arena", arena.name},
            {"tier", arena.tier_names[tier]},
            {"emulated", truth(arena.tier_emulated[tier])}};
  }
  /// One value a tier of the machine.
  template <typename Value>
  void of_tiers(Family family, Value&& value) {
    for (const TierSample& tier : snapshot_.tiers)
      family.add({{"tier", tier.name}, {"kind", tier.kind}, {"emulated", truth(tier.emulated)}},
                 static_cast<double>(value(tier)));
  }

  std::vector<MetricFamily> all_;

 private:
  const Snapshot& snapshot_;
};

using Values = std::vector<std::pair<const char*, double>>;

void add_daemon(Builder& b, const Snapshot& s, const ExporterCounts& exporter) {
  b.gauge("kvtier_build_info", "1; version of kvtierd, and whether it was built with the CUDA tier")
      .add({{"version", KVT_VERSION}, {"cuda", truth(KVT_HAVE_CUDA_HEADERS != 0)}}, 1);
  b.gauge("kvtier_policy_info", "1; the policy, and the profile of tiers of which nothing else is known")
      .add({{"policy", s.policy}, {"profile", s.profile}}, 1);
  b.gauge("kvtier_uptime_seconds", "Since this daemon began to serve").add({}, s.uptime_seconds);
  b.gauge("kvtier_period_seconds", "Placement is decided this often while clients read")
      .add({}, s.period_ms / 1e3);
  b.gauge("kvtier_snapshot_age_seconds", "Age of these numbers: grows while the loop is busy, or hangs")
      .add({}, exporter.snapshot_age_seconds);
  b.gauge("kvtier_snapshot_seconds", "What copying these numbers took of the loop's time")
      .add({}, s.took_seconds);
  b.counter("kvtier_metrics_requests_total", "Requests for metrics that were answered")
      .add({}, number(exporter.requests));
  b.counter("kvtier_metrics_connections_dropped_total",
            "Connections for metrics closed because they were too slow or too many")
      .add({}, number(exporter.connections_dropped));
  b.histogram("kvtier_loop_turn_seconds",
              "A turn of the loop, from waking up to going to sleep: nobody is served sooner")
      .add({}, s.loop.turns);
  b.counter("kvtier_log_lines_left_out_total",
            "Lines about clients that were not logged, to keep the log small")
      .add({}, number(s.loop.lines_left_out));
  b.counter("kvtier_memory_reserve_used_total",
            "Times that the system gave the daemon no memory and it took its reserve")
      .add({}, number(s.loop.memory_reserve_used));
  b.gauge("kvtier_memory_short",
          "1 while the reserve is used up and cannot be had again: no session can begin")
      .add({}, s.loop.is_memory_short ? 1 : 0);
}

void add_connections(Builder& b, const Snapshot& s) {
  b.gauge("kvtier_connections", "Connections of attach.sock").add({}, number(s.connections));
  b.counter("kvtier_connections_dropped_total",
            "Connections of attach.sock closed for bad messages, or to make room")
      .add({}, number(s.connections_dropped));
  static constexpr std::pair<uint32_t, const char*> kReasons[] = {
      {KVT_WIRE_E_PROTOCOL, "protocol"},   {KVT_WIRE_E_VERSION, "version"},
      {KVT_WIRE_E_NOT_FOUND, "not_found"}, {KVT_WIRE_E_PERMISSION, "permission"},
      {KVT_WIRE_E_MISMATCH, "mismatch"},   {KVT_WIRE_E_LIMIT, "limit"},
      {KVT_WIRE_E_FULL, "full"},           {KVT_WIRE_E_SYSTEM, "system"},
      {KVT_WIRE_E_ENDED, "ended"}};
  Family refused = b.counter("kvtier_attach_refused_total",
                             "Requests of clients to attach, join or resume that were refused");
  for (const auto& [status, reason] : kReasons)
    refused.add({{"reason", reason}}, number(s.attach_refused[status]));
}

void add_restart(Builder& b, const Snapshot& s) {
  b.gauge("kvtier_pages_survive", "1 where a service manager keeps what the next daemon needs")
      .add({}, s.descriptors_kept ? 1 : 0);
  b.gauge("kvtier_descriptors_stored", "Descriptors that the service manager keeps")
      .add({}, number(s.descriptors_stored));
  b.gauge("kvtier_descriptors_stored_limit", "That it keeps at most: an attach that would pass it is refused")
      .add({}, number(s.descriptors_max));
  const keeper::Adoption& adoption = s.adoption;
  b.gauge("kvtier_adopted_arenas",
          "Arenas that this daemon has taken over from the one before; 0: it began anew")
      .add({}, number(adoption.arenas));
  b.gauge("kvtier_adopted_sessions", "Sessions that it has taken over").add({}, number(adoption.sessions));
  b.gauge("kvtier_adopted_pages", "Pages of the arenas that it has taken over")
      .add({}, number(adoption.pages));
  b.gauge("kvtier_adopt_seconds", "How long taking over took").add({}, adoption.seconds);
  b.gauge("kvtier_adopt_damaged_rows",
          "Rows that no daemon leaves, found when taking over: their pages are lost")
      .add({}, number(adoption.damaged));
  b.gauge("kvtier_adopt_lost_regions",
          "Sessions whose regions could not be taken over: nothing of their arenas is freed while they live")
      .add({}, number(adoption.regions_lost));
}

void add_tiers(Builder& b) {
  b.of_tiers(b.gauge("kvtier_tier_bytes", "Capacity of a tier"), [](const TierSample& t) { return t.bytes; });
  b.of_tiers(b.gauge("kvtier_tier_deliverable_read_bytes_per_second",
                     "What placement reckons that the tier's consumer can read from it; 0: not known"),
             [](const TierSample& t) { return t.read_bytes_per_second; });
  b.of_tiers(b.gauge("kvtier_tier_deliverable_write_bytes_per_second",
                     "What placement reckons that the tier's consumer can write to it; 0: not known"),
             [](const TierSample& t) { return t.write_bytes_per_second; });
}

void add_frames(Builder& b, const Snapshot& s) {
  Family frames = b.gauge("kvtier_frames", "Frames of an arena in a tier, by what they are used for");
  for (const ArenaSample& arena : s.arenas)
    for (size_t tier = 0; tier < arena.tier_names.size(); ++tier) {
      const keeper::FrameTable::Counts& counts = arena.counts.tiers[tier].counts;
      for (const auto& [state, count] : Values{{"free", number(counts.free)},
                                               {"named", number(counts.named)},
                                               {"limbo", number(counts.limbo)},
                                               {"reserved", number(counts.reserved)},
                                               {"retired", number(counts.retired)},
                                               {"aside", number(counts.aside)}}) {
        Labels labels = Builder::tier_labels(arena, tier);
        labels.push_back({"state", state});
        frames.add(std::move(labels), count);
      }
    }
  b.of_arena_tiers(b.gauge("kvtier_reserve_frames",
                           "Frames that are kept free, for new pages and for pages that leave a faster tier"),
                   [](const ArenaSample& a, size_t tier) { return a.reserve_frames[tier]; });
  b.of_arena_tiers(b.gauge("kvtier_tier_degraded",
                           "1 where the tier's GPU does nothing any more, or its NUMA nodes have no memory"),
                   [](const ArenaSample& a, size_t tier) { return a.tier_degraded[tier] ? 1 : 0; });
  b.of_arena_tiers(
      b.counter("kvtier_read_bytes_total", "Bytes that clients said they read, by the tier that they lay in"),
      [](const ArenaSample& a, size_t tier) { return a.counts.tiers[tier].bytes_read; });
  b.of_arena_tiers(
      b.gauge("kvtier_read_bytes_per_second",
              "Bytes read a second, smoothed over some periods; stays as it was while nobody reads"),
      [](const ArenaSample& a, size_t tier) { return a.counts.tiers[tier].bytes_read_per_second; });
}

void add_pages(Builder& b) {
  b.of_arenas(b.gauge("kvtier_page_bytes", "Bytes of a page"),
              [](const ArenaSample& a) { return a.page_bytes; });
  b.of_arenas(b.gauge("kvtier_pages", "Pages by state"), "state", [](const ArenaSample& a) {
    return Values{{"free", number(a.counts.free)},
                  {"filling", number(a.counts.filling)},
                  {"sealed", number(a.counts.sealed)},
                  {"evicting", number(a.counts.evicting)},
                  {"retired", number(a.counts.retired)}};
  });
  b.of_arenas(b.gauge("kvtier_keyed_pages", "Sealed pages that are published under a key"),
              [](const ArenaSample& a) { return a.counts.keyed; });
  b.of_arenas(
      b.gauge("kvtier_shadow_frames", "Second frames of pages: those pages leave the fast tier for free"),
      [](const ArenaSample& a) { return a.counts.shadows; });
  b.of_arenas(b.gauge("kvtier_pinned_pages", "Pages that operators have pinned"),
              [](const ArenaSample& a) { return a.counts.pinned; });
  b.of_arenas(b.gauge("kvtier_held_pages",
                      "Pages that sessions hold, summed over sessions; an estimate where there are many"),
              [](const ArenaSample& a) { return a.held_pages; });
  b.of_arenas(
      b.gauge("kvtier_unkeyed_pages", "Pages that sessions have and have not published, fresh ones included"),
      [](const ArenaSample& a) { return a.unkeyed_pages; });
  b.of_arenas(b.gauge("kvtier_magazine_pages", "Fresh pages that wait for sessions"),
              [](const ArenaSample& a) { return a.magazine_pages; });
  b.of_arenas(b.gauge("kvtier_guaranteed_pages", "Unpublished pages that sessions can always have"),
              [](const ArenaSample& a) { return a.guarantee_pages; });
  b.of_arenas(b.counter("kvtier_published_pages_total", "Pages published under a key"),
              [](const ArenaSample& a) { return a.counters.published; });
  b.of_arenas(b.counter("kvtier_evicted_pages_total", "Pages evicted to make room"),
              [](const ArenaSample& a) { return a.counters.evicted; });
  b.of_arenas(
      b.gauge("kvtier_nothing_evictable", "1 where there was nothing to evict when room was last looked for"),
      [](const ArenaSample& a) { return a.counts.nothing_evictable ? 1 : 0; });
  b.of_arenas(b.counter("kvtier_starved_total",
                        "Times that a session had no fresh page, asked for one, and there was none"),
              [](const ArenaSample& a) { return a.counts.starved; });
  b.of_arenas(b.counter("kvtier_periods_cut_short_total",
                        "Periods in which more was read than the loop looks at: the rest counts later"),
              [](const ArenaSample& a) { return a.counts.periods_cut_short; });
  b.of_arenas(
      b.counter("kvtier_lost_pages_total", "Pages of which no frame was left: bad memory, or a lost GPU"),
      [](const ArenaSample& a) { return a.counts.lost_pages; });
  b.of_arenas(b.counter("kvtier_checked_pages_total", "Pages that were read for their checksum alone"),
              [](const ArenaSample& a) { return a.counts.checks.pages; });
  b.of_arenas(
      b.counter("kvtier_checksum_mismatches_total", "Frames and copies that had not their page's checksum"),
      [](const ArenaSample& a) { return a.counts.checks.mismatches; });
  b.of_arenas(
      b.counter("kvtier_checksum_repairs_total",
                "Mismatches that were mended: copied again, or left for a frame that has the checksum"),
      [](const ArenaSample& a) { return a.counts.checks.repaired; });
  b.of_arenas(b.counter("kvtier_checksum_lost_pages_total", "Pages of which no frame had the checksum"),
              [](const ArenaSample& a) { return a.counts.checks.lost; });
}

void add_moves(Builder& b) {
  b.of_arenas(b.counter("kvtier_moves_total", "Moves of pages that were made, by how"), "how",
              [](const ArenaSample& a) {
                return Values{{"promoted_by_copy", number(a.counts.moved.up_by_copy)},
                              {"promoted_by_reader", number(a.counts.moved.up_by_reader)},
                              {"demoted_by_copy", number(a.counts.moved.down_by_copy)},
                              {"demoted_free", number(a.counts.moved.down_free)}};
              });
  b.of_arenas(b.counter("kvtier_moved_bytes_total", "Bytes that these moves have copied, by how"), "how",
              [](const ArenaSample& a) {
                const double page = number(a.page_bytes);
                return Values{{"promoted_by_copy", page * number(a.counts.moved.up_by_copy)},
                              {"promoted_by_reader", page * number(a.counts.moved.up_by_reader)},
                              {"demoted_by_copy", page * number(a.counts.moved.down_by_copy)}};
              });
  b.of_arenas(
      b.counter("kvtier_moves_begun_total", "Moves that the policy has begun, by its reason"), "reason",
      [](const ArenaSample& a) {
        const auto of = [&](policy::Reason r) { return number(a.counts.begun[static_cast<size_t>(r)]); };
        return Values{
            {"free_frame", of(policy::Reason::kFreeFrame)}, {"swap", of(policy::Reason::kSwap)},
            {"reuse", of(policy::Reason::kReuse)},          {"make_room", of(policy::Reason::kMakeRoom)},
            {"reserve", of(policy::Reason::kReserve)},      {"churn", of(policy::Reason::kChurn)}};
      });
  b.of_arenas(
      b.counter("kvtier_plans_total", "Plans of placement, by what kept the hottest page that stayed"),
      "held_back", [](const ArenaSample& a) {
        const auto of = [&](policy::HeldBack h) {
          return number(a.counts.held_back[static_cast<size_t>(h)]);
        };
        return Values{{"nothing", of(policy::HeldBack::kNothing)},
                      {"no_candidate", of(policy::HeldBack::kNoCandidate)},
                      {"gate", of(policy::HeldBack::kGate)},
                      {"allowance", of(policy::HeldBack::kAllowance)},
                      {"moves_max", of(policy::HeldBack::kMovesMax)},
                      {"no_room", of(policy::HeldBack::kNoRoom)}};
      });
  b.of_arenas(b.counter("kvtier_moves_aborted_total",
                        "Copies whose page had changed meanwhile, or that came out wrong"),
              [](const ArenaSample& a) { return a.counters.aborted; });
  b.of_arenas(
      b.counter("kvtier_copies_failed_total", "Copies that failed: bad memory, or a GPU that is lost"),
      [](const ArenaSample& a) { return a.counts.copies_failed; });
  b.of_arenas(b.gauge("kvtier_copies_under_way", "Pages that are being copied"),
              [](const ArenaSample& a) { return a.counts.copies; });
  b.of_arenas(
      b.gauge("kvtier_move_budget_bytes_per_second", "What the arena may move now, in each direction"),
      [](const ArenaSample& a) { return a.budget_bytes_per_second; });
  b.of_arenas(b.gauge("kvtier_offers_out", "Frames that readers may fill now"),
              [](const ArenaSample& a) { return a.counts.offers.out; });
  b.of_arenas(b.counter("kvtier_offers_made_total", "Pages that were offered to readers to promote"),
              [](const ArenaSample& a) { return a.counts.offers.made; });
  b.of_arenas(b.counter("kvtier_offers_ended_total", "Offers that have ended, by how"), "outcome",
              [](const ArenaSample& a) {
                return Values{{"taken", number(a.counts.offers.taken)},
                              {"lapsed", number(a.counts.offers.lapsed)},
                              {"withdrawn", number(a.counts.offers.withdrawn)}};
              });
  b.of_arenas(
      b.counter("kvtier_offers_refused_total", "Reports of readers about an offer that was not out any more"),
      [](const ArenaSample& a) { return a.counts.offers.refused; });
}

void add_benefit(Builder& b) {
  b.of_arenas(
      b.counter(
          "kvtier_modelled_read_seconds_total",
          "How long the counted reads take from where their pages were, at the tiers' bandwidths: a model"),
      [](const ArenaSample& a) { return a.counts.modelled.seconds; });
  b.of_arenas(b.counter("kvtier_modelled_best_read_seconds_total",
                        "How long they would take if all tiers were always busy: no placement reads faster"),
              [](const ArenaSample& a) { return a.counts.modelled.best_seconds; });
  const auto balance_of = [](const ArenaSample& a) {
    policy::Balance sum;
    for (const policy::Balance& group : a.counts.last_plan.groups) {
      sum.bytes_read += group.bytes_read;
      sum.bytes_slow += group.bytes_slow;
      sum.bytes_slow_best += group.bytes_slow_best;
    }
    return sum;
  };
  b.of_arenas(b.gauge("kvtier_plan_read_bytes", "Bytes read in the period of the last plan, in column 0"),
              [&](const ArenaSample& a) { return balance_of(a).bytes_read; });
  b.of_arenas(
      b.gauge("kvtier_plan_fast_read_bytes", "Bytes of kvtier_plan_read_bytes that came from the fast tier"),
      [&](const ArenaSample& a) {
        const policy::Balance sum = balance_of(a);
        return sum.bytes_read - sum.bytes_slow;
      });
  b.of_arenas(b.gauge("kvtier_plan_fast_read_best_bytes",
                      "Bytes of kvtier_plan_read_bytes with which, from the fast tier, all tiers would take "
                      "equally long"),
              [&](const ArenaSample& a) {
                const policy::Balance sum = balance_of(a);
                return sum.bytes_read - sum.bytes_slow_best;
              });
  b.of_arenas(
      b.counter("kvtier_payback_watched_total", "Moves that were watched to see whether they pay: a sample"),
      "kind", [](const ArenaSample& a) {
        return Values{{"promoted", number(a.counts.payback.promotions)},
                      {"demoted", number(a.counts.payback.demotions)}};
      });
  b.of_arenas(b.counter("kvtier_payback_cost_bytes_total",
                        "What the watched promotions cost, as reads from the slower tier"),
              [](const ArenaSample& a) { return a.counts.payback.cost_bytes; });
  b.of_arenas(b.counter("kvtier_payback_saved_bytes_total",
                        "Reads of watched promoted pages while they stay: so much less from the slower tier"),
              [](const ArenaSample& a) { return a.counts.payback.saved_bytes; });
  b.of_arenas(
      b.counter("kvtier_payback_lost_bytes_total", "Reads of watched pages that had left the fast tier"),
      [](const ArenaSample& a) { return a.counts.payback.lost_bytes; });
}

void add_sessions(Builder& b, const Snapshot& s) {
  b.of_arenas(b.gauge("kvtier_sessions", "Attached sessions"),
              [](const ArenaSample& a) { return a.sessions; });
  b.of_arenas(b.gauge("kvtier_session_members", "Processes of sessions"),
              [](const ArenaSample& a) { return a.members; });
  b.of_arenas(b.gauge("kvtier_orphan_sessions", "Sessions whose socket is gone and whose process lives"),
              [](const ArenaSample& a) { return a.orphans; });
  b.of_arenas(
      b.gauge("kvtier_quarantined_processes", "Dead processes whose GPU work may go on: their claims count"),
      [](const ArenaSample& a) { return a.quarantined; });
  b.of_arenas(b.gauge("kvtier_broken_members", "Processes whose commands are not taken any more"),
              [](const ArenaSample& a) { return a.broken_members; });
  b.of_arenas(b.gauge("kvtier_open_steps", "Steps that are open"),
              [](const ArenaSample& a) { return a.open_steps; });
  b.of_arenas(b.gauge("kvtier_oldest_step_epochs", "Age of the oldest open step, in epochs; 0: none is open"),
              [](const ArenaSample& a) { return a.oldest_step_epochs; });
  Family steps = b.histogram("kvtier_step_seconds",
                             "Steps by how long they took, as clients have measured them; steps that a GPU's "
                             "stream ends are not among them");
  for (const ArenaSample& arena : s.arenas) steps.add({{"arena", arena.name}}, arena.counts.steps);
  b.of_arenas(b.counter("kvtier_epochs_total", "Epochs: each is one withdrawal of frames"),
              [](const ArenaSample& a) { return a.epoch; });
  b.of_arenas(
      b.gauge("kvtier_limbo_oldest_seconds", "For so long a frame that was left has waited for open steps"),
      [](const ArenaSample& a) { return a.counts.limbo_oldest_seconds; });
  Family reclaims = b.histogram("kvtier_reclaim_seconds",
                                "From the end of a process until all that it freed can be used again");
  for (const ArenaSample& arena : s.arenas) reclaims.add({{"arena", arena.name}}, arena.counts.reclaims);
}

void add_process(Builder& b, const ProcessSample& process) {
  b.counter("process_cpu_seconds_total", "User and system time").add({}, process.cpu_seconds);
  b.gauge("process_resident_memory_bytes", "Resident memory, shared memory included")
      .add({}, number(process.resident_bytes));
  b.gauge("process_virtual_memory_bytes", "Address space").add({}, number(process.virtual_bytes));
  b.gauge("process_open_fds", "Open descriptors").add({}, number(process.open_descriptors));
  b.gauge("process_max_fds", "Descriptors that it may have").add({}, number(process.descriptors_max));
  b.gauge("process_threads", "Threads").add({}, number(process.threads));
  b.gauge("process_start_time_seconds", "Since 1970, when the process began")
      .add({}, process.start_time_seconds);
}

}  // namespace

std::vector<MetricFamily> families(const Snapshot& snapshot, const ProcessSample& process,
                                   const ExporterCounts& exporter) {
  Builder b(snapshot);
  add_daemon(b, snapshot, exporter);
  add_connections(b, snapshot);
  add_restart(b, snapshot);
  add_tiers(b);
  add_frames(b, snapshot);
  add_pages(b);
  add_moves(b);
  add_benefit(b);
  add_sessions(b, snapshot);
  add_process(b, process);
  return std::move(b.all_);
}

std::string exposition(const std::vector<MetricFamily>& families) {
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, families);
  return std::move(out).str();
}

}  // namespace kvt::metrics
