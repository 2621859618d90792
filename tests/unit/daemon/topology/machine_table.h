// SPDX-License-Identifier: Apache-2.0
//
// What is found on a machine, and the tiers that follow, as lines that a test can compare with a table.
#pragma once

#include <cstdio>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "daemon/topology/tiers.h"
#include "daemon/topology/topology.h"

namespace kvt::test {

inline std::string figure_text(const char* what, const Figure& figure) {
  char number[64];
  std::snprintf(number, sizeof number, "%.4g", figure.value);
  return std::string(what) +
         (figure.known() ? std::string(" ") + number + " " + source_name(figure.source) : " -");
}

inline std::string kib_text(uint64_t bytes) { return std::to_string(bytes >> 10) + " KiB"; }

/// "node 0: dram, 1024 KiB, cpus 0-3, read 100 hmat, latency 90 hmat", then tiers, then what is unused.
inline std::string table_of(const Topology& topology, const std::vector<TierProposal>& tiers) {
  std::ostringstream out;
  for (const MemoryNode& node : topology.nodes) {
    if (node.bytes == 0 && node.cpus.empty()) continue;  // counted below
    out << "node " << node.os_index << ": " << kind_name(node.kind) << ", " << kib_text(node.bytes)
        << ", cpus " << (node.cpus.empty() ? "-" : node.cpus) << ", "
        << figure_text("read", node.figures.read_gbs) << ", "
        << figure_text("latency", node.figures.latency_ns);
    if (node.side_cache_bytes != 0) out << ", behind " << kib_text(node.side_cache_bytes);
    out << "\n";
  }
  std::vector<uint32_t> empty;
  for (const MemoryNode& node : topology.nodes)
    if (node.bytes == 0 && node.cpus.empty()) empty.push_back(node.os_index);
  if (!empty.empty()) out << "empty " << cpu_list(empty) << "\n";
  for (const TierProposal& tier : tiers) {
    out << "tier " << tier.name << ": " << kind_name(tier.kind) << (tier.emulated ? " emulated" : "")
        << ", nodes " << cpu_list(tier.nodes) << ", " << kib_text(tier.bytes) << ", "
        << figure_text("read", tier.figures.read_gbs);
    if (tier.column >= 0) out << ", column " << tier.column;
    out << "\n";
  }
  for (const UnusedMemory& each : topology.unused)
    out << "unused " << each.name << ": " << kind_name(each.kind) << ", " << kib_text(each.bytes) << "\n";
  return out.str();
}

/// As kvtierctl and kvtierd do it, without a calibration.
inline std::string table_of(Topology topology) {
  const std::optional<Profile> profile = recognise_profile(topology);
  learn_figures(topology, nullptr, profile ? &*profile : nullptr);
  const std::vector<TierProposal> tiers = propose_tiers(topology, profile ? &*profile : nullptr);
  return table_of(topology, tiers);
}

/// The same of a recording; an error's words when there is no topology in it.
inline std::string table_of(TopologySource::Kind kind, const std::string& path) {
  const auto topology = discover_topology({kind, path});
  return topology ? table_of(*topology) : "error: " + topology.error().text + "\n";
}

}  // namespace kvt::test
