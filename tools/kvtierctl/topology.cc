// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtierctl/topology.h"

#include <fmt/format.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "daemon/topology/measure.h"
#include "daemon/topology/tiers.h"
#include "daemon/topology/topology.h"
#include "tools/kvtierctl/table.h"

namespace kvt::ctl {
namespace {

using json = nlohmann::ordered_json;

template <typename Value>
Value value_of(Result<Value> result) {
  if (!result) throw NoTopology(result.error().text);
  return std::move(*result);
}

json figure_json(const Figure& figure) { return figure.known() ? json(figure.value) : json(nullptr); }

/// "335 GB/s, profile"; "-" when unknown.
std::string figure_text(const Figure& figure, const char* unit) {
  if (!figure.known()) return "-";
  return fmt::format("{:.{}f} {}, {}", figure.value, figure.value < 100 ? 1 : 0, unit,
                     source_name(figure.source));
}

json nodes_json(const Topology& topology) {
  json nodes = json::array();
  for (const MemoryNode& node : topology.nodes) {
    const Figures& figures = node.figures;
    json initiators = json::array();
    for (const Initiator& each : node.initiators)
      initiators.push_back({{"cpus", each.cpus},
                            {"read_gbs", each.read_gbs > 0 ? json(each.read_gbs) : json(nullptr)},
                            {"write_gbs", each.write_gbs > 0 ? json(each.write_gbs) : json(nullptr)},
                            {"latency_ns", each.latency_ns > 0 ? json(each.latency_ns) : json(nullptr)}});
    nodes.push_back({{"os_index", node.os_index},
                     {"kind", kind_name(node.kind)},
                     {"kind_from", node.kind_from},
                     {"bytes", node.bytes},
                     {"cpus", node.cpus},
                     {"read_gbs", figure_json(figures.read_gbs)},
                     {"read_gbs_source", source_name(figures.read_gbs.source)},
                     {"write_gbs", figure_json(figures.write_gbs)},
                     {"write_gbs_source", source_name(figures.write_gbs.source)},
                     {"latency_ns", figure_json(figures.latency_ns)},
                     {"latency_ns_source", source_name(figures.latency_ns.source)},
                     {"distance", node.distance == 0 ? json(nullptr) : json(node.distance)},
                     {"memory_side_cache_bytes", node.side_cache_bytes},
                     {"initiators", initiators}});
  }
  return nodes;
}

json tiers_json(const std::vector<TierProposal>& tiers) {
  json all = json::array();
  for (const TierProposal& tier : tiers)
    all.push_back({{"name", tier.name},
                   {"kind", kind_name(tier.kind)},
                   {"backend", "numa"},
                   {"nodes", tier.nodes},
                   {"bytes", tier.bytes},
                   {"read_gbs", figure_json(tier.figures.read_gbs)},
                   {"read_gbs_source", source_name(tier.figures.read_gbs.source)},
                   {"emulated", tier.emulated},
                   {"column", tier.column < 0 ? json(nullptr) : json(tier.column)}});
  return all;
}

json unused_json(const Topology& topology) {
  json all = json::array();
  for (const UnusedMemory& each : topology.unused)
    all.push_back({{"name", each.name},
                   {"kind", kind_name(each.kind)},
                   {"bytes", each.bytes},
                   {"reason", each.reason}});
  return all;
}

/// "0, 2-5"
std::string nodes_text(const std::vector<uint32_t>& nodes) {
  return (nodes.size() == 1 ? "node " : "nodes ") + cpu_list(nodes);
}

std::string topology_text(const Topology& topology, const std::vector<TierProposal>& tiers,
                          const std::string& notes) {
  std::string out;
  const std::string machine = topology.machine +
                              (topology.machine.empty() || topology.cpu_model.empty() ? "" : ", ") +
                              topology.cpu_model;
  if (!machine.empty()) out += "machine  " + shortened(machine, 70) + "\n\n";
  Table nodes;
  nodes.column("NODE")
      .column("KIND", kLeft)
      .column("SIZE")
      .column("CPUS", kLeft)
      .column("READ", kLeft)
      .column("LATENCY", kLeft)
      .column("DISTANCE");
  for (const MemoryNode& node : topology.nodes)
    nodes.row({fmt::to_string(node.os_index), kind_name(node.kind), bytes_text(node.bytes),
               node.has_cpus() ? shortened(node.cpus, 16) : "none",
               figure_text(node.figures.read_gbs, "GB/s"), figure_text(node.figures.latency_ns, "ns"),
               node.distance == 0 ? "-" : fmt::to_string(node.distance)});
  out += nodes.text() + "\n";
  for (const MemoryNode& node : topology.nodes) {
    out += fmt::format("node {} is taken for {}: {}", node.os_index, kind_name(node.kind),
                       node.kind_from.empty() ? "it has no memory" : node.kind_from);
    if (node.side_cache_bytes != 0)
      out += fmt::format("; behind a memory-side cache of {}", bytes_text(node.side_cache_bytes));
    out += "\n";
  }
  out += "\n";
  Table table;
  table.column("TIER", kLeft)
      .column("KIND", kLeft)
      .column("SIZE")
      .column("READ", kLeft)
      .column("WHERE", kLeft);
  for (const TierProposal& tier : tiers)
    table.row({tier.name, std::string(kind_name(tier.kind)) + (tier.emulated ? " (emulated)" : ""),
               bytes_text(tier.bytes), figure_text(tier.figures.read_gbs, "GB/s"),
               nodes_text(tier.nodes) + (tier.column < 0 ? "" : fmt::format(", column {}", tier.column))});
  out += table.text();
  if (!topology.unused.empty()) out += "\n";
  for (const UnusedMemory& each : topology.unused)
    out += fmt::format("unused: {} of {}{}: {}\n", bytes_text(each.bytes), each.name,
                       each.kind == MemoryKind::kUnknown ? "" : std::string(", ") + kind_name(each.kind),
                       each.reason);
  return out + notes;
}

}  // namespace

std::string default_state_dir() {
  const char* const variable = std::getenv("KVTIER_STATE_DIR");
  return variable != nullptr && variable[0] != '\0' ? variable : "/var/lib/kvtier";
}

std::string topology_report(const TopologyOptions& options) {
  TopologySource source;
  if (!options.xml.empty()) source = {TopologySource::Kind::kXml, options.xml};
  if (!options.fsroot.empty()) source = {TopologySource::Kind::kFsroot, options.fsroot};
  Topology topology = value_of(discover_topology(source));
  std::optional<Profile> profile = recognise_profile(topology);
  if (!options.profile.empty()) {
    profile = find_profile(options.profile);
    if (!profile)
      throw NoTopology("no profile \"" + options.profile + "\"; expected one of " + profile_names());
  }
  std::optional<Calibration> calibration;
  std::string notes;
  if (source.kind == TopologySource::Kind::kThisMachine) {
    auto loaded = load_calibration(calibration_path(options.state_dir), topology);
    if (loaded)
      calibration = std::move(*loaded);
    else if (loaded.error().code == Code::kNotFound)
      notes = "\nnot measured yet: kvtierctl calibrate\n";
    else
      notes = "\nnot used: " + loaded.error().text + "\n";
  }
  learn_figures(topology, calibration ? &*calibration : nullptr, profile ? &*profile : nullptr);
  const std::vector<TierProposal> tiers = propose_tiers(topology, profile ? &*profile : nullptr);
  if (!options.json) return topology_text(topology, tiers, notes);
  const json report{{"schema", "kvtier.topology/1"},
                    {"machine", topology.machine},
                    {"cpu_model", topology.cpu_model},
                    {"architecture", topology.architecture},
                    {"profile", profile ? json(profile->name) : json(nullptr)},
                    {"measured_at", calibration ? json(calibration->measured_at) : json(nullptr)},
                    {"nodes", nodes_json(topology)},
                    {"tiers", tiers_json(tiers)},
                    {"unused", unused_json(topology)}};
  return report.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

std::string calibrate_report(const CalibrateOptions& options,
                             const std::function<void(const std::string&)>& progress) {
  const Topology topology = value_of(discover_topology());
  MeasureOptions wanted;
  wanted.bytes = options.bytes;
  wanted.repetitions = options.repetitions;
  wanted.nodes = options.nodes;
  wanted.progress = progress;
  const Calibration calibration = value_of(measure(topology, wanted));
  const std::string path = calibration_path(options.state_dir);
  if (options.keep)
    if (const auto saved = save_calibration(path, calibration); !saved)
      throw NoTopology(saved.error().text + "; --no-keep measures without keeping");
  if (options.json) {
    json speeds = json::array();
    for (const NodeSpeed& speed : calibration.speeds)
      speeds.push_back({{"package", speed.package},
                        {"node", speed.node},
                        {"kind", kind_name(topology.find(speed.node)->kind)},
                        {"threads", speed.threads},
                        {"read_gbs", speed.read_gbs},
                        {"write_gbs", speed.write_gbs},
                        {"copy_gbs", speed.copy_gbs},
                        {"latency_ns", speed.latency_ns > 0 ? json(speed.latency_ns) : json(nullptr)},
                        {"spread", speed.spread}});
    const json report{{"schema", "kvtier.calibration/1"},
                      {"measured_at", calibration.measured_at},
                      {"machine", calibration.machine},
                      {"kept_in", options.keep ? json(path) : json(nullptr)},
                      {"speeds", speeds}};
    return report.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
  }
  Table table;
  table.column("NODE")
      .column("KIND", kLeft)
      .column("PACKAGE")
      .column("CORES")
      .column("READ")
      .column("WRITE")
      .column("COPY")
      .column("LATENCY")
      .column("SPREAD");
  for (const NodeSpeed& speed : calibration.speeds)
    table.row({fmt::to_string(speed.node), kind_name(topology.find(speed.node)->kind),
               fmt::to_string(speed.package), fmt::to_string(speed.threads),
               fmt::format("{:.1f}", speed.read_gbs), fmt::format("{:.1f}", speed.write_gbs),
               fmt::format("{:.1f}", speed.copy_gbs),
               speed.latency_ns > 0 ? fmt::format("{:.0f} ns", speed.latency_ns) : "-",
               fmt::format("{:.0f} %", 100 * speed.spread)});
  return table.text() + "GB/s, medians of " + fmt::to_string(options.repetitions) +
         "; copy: from the node to memory near the cores\n" +
         (options.keep ? "kept in " + path + "\n" : "not kept\n");
}

}  // namespace kvt::ctl
