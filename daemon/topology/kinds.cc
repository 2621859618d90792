// SPDX-License-Identifier: Apache-2.0
#include "daemon/topology/kinds.h"

#include <algorithm>
#include <cctype>

namespace kvt {
namespace {

/// A node this much faster than DRAM is HBM; this much slower, an expander behind a link.
constexpr double kHbmRatio = 1.5;
constexpr double kCxlRatio = 0.75;

void set(MemoryNode& node, MemoryKind kind, std::string why) {
  node.kind = kind;
  node.kind_from = std::move(why);
}

/// Told by a name alone; kUnknown where none tells. `special`: without CPUs, or onlined from a device. Of two
/// speeds hwloc may call the faster HBM and the slower DRAM where they are DRAM and an expander; HBM beside
/// CPUs is special.
MemoryKind named_kind(const MemoryNode& node, bool special) {
  const std::string& subtype = node.subtype;
  if (subtype == "GPUMemory") return MemoryKind::kGpu;
  if (subtype == "MCDRAM" || (subtype == "HBM" && special)) return MemoryKind::kHbm;
  if (subtype == "NVM" || subtype == "CXL-NVM") return MemoryKind::kNvm;
  if (subtype.starts_with("CXL")) return MemoryKind::kCxl;
  if (subtype == "LPDDR") return MemoryKind::kLpddr;
  return MemoryKind::kUnknown;
}

/// NVIDIA's Grace has LPDDR5X and nothing else; its cores are Neoverse V2 (Arm's part 0xd4f).
bool is_grace(const Topology& topology) {
  const bool gpu = std::any_of(topology.nodes.begin(), topology.nodes.end(),
                               [](const MemoryNode& node) { return node.kind == MemoryKind::kGpu; });
  const auto names = [&](const char* word) {
    return topology.machine.find(word) != std::string::npos ||
           topology.cpu_model.find(word) != std::string::npos;
  };
  return names("Grace") || names("GH200") || names("GB200") || names("GB300") ||
         // Recordings without an architecture have the reader's.
         (gpu && (names("0xd4f") || names("Neoverse-V2") ||
                  (topology.architecture == "aarch64" && topology.cpu_model.empty())));
}

}  // namespace

MemoryKind kind_of_device(const std::string& parent) {
  if (parent.find("ndbus") != std::string::npos || parent.find("nfit") != std::string::npos)
    return MemoryKind::kNvm;
  // A CXL region is a child of the CXL root: ".../ACPI0017:00/root0/decoder0.0/region0/dax_region0/dax0.0".
  for (const char* word : {"ACPI0017", "cxl", "decoder0.", "dax_region"})
    if (parent.find(word) != std::string::npos) return MemoryKind::kCxl;
  return MemoryKind::kUnknown;
}

void classify(Topology& topology, const std::map<uint32_t, NodeHints>& hints) {
  const auto hint = [&](const MemoryNode& node) {
    const auto found = hints.find(node.os_index);
    return found == hints.end() ? NodeHints{} : found->second;
  };
  for (MemoryNode& node : topology.nodes) {
    const NodeHints known = hint(node);
    const bool special = !node.has_cpus() || !known.dax_parent.empty();
    if (known.gpu) {
      set(node, MemoryKind::kGpu, "the GPU's driver says so");
    } else if (const MemoryKind kind = named_kind(node, special); kind != MemoryKind::kUnknown) {
      set(node, kind, "hwloc calls it " + node.subtype);
    } else if (const MemoryKind device = kind_of_device(known.dax_parent); device != MemoryKind::kUnknown) {
      set(node, device, "onlined from " + known.dax_parent);
    } else {
      set(node, MemoryKind::kUnknown, "");
    }
  }
  // What DRAM does here: the median of the nodes with CPUs that are nothing special.
  std::vector<double> plain;
  for (const MemoryNode& node : topology.nodes)
    if (node.kind == MemoryKind::kUnknown && node.has_cpus() && hint(node).dax_parent.empty() &&
        node.figures.read_gbs.known())
      plain.push_back(node.figures.read_gbs.value);
  std::sort(plain.begin(), plain.end());
  const double dram = plain.empty() ? 0 : plain[plain.size() / 2];
  const MemoryKind host = is_grace(topology) ? MemoryKind::kLpddr : MemoryKind::kDram;
  for (MemoryNode& node : topology.nodes) {
    if (node.kind != MemoryKind::kUnknown || node.bytes == 0) continue;
    const bool special = !node.has_cpus() || !hint(node).dax_parent.empty();
    if (!special) {
      set(node, host, host == MemoryKind::kLpddr ? "the memory of a Grace CPU" : "a node with CPUs");
      continue;
    }
    const double own = node.figures.read_gbs.known() ? node.figures.read_gbs.value : 0;
    const std::string what = node.has_cpus() ? "onlined from " + hint(node).dax_parent : "no CPUs";
    if (dram > 0 && own >= kHbmRatio * dram)
      set(node, MemoryKind::kHbm, what + ", faster than DRAM");
    else if (dram > 0 && own > 0 && own <= kCxlRatio * dram)
      set(node, MemoryKind::kCxl, what + ", slower than DRAM");
    else if (dram > 0 && own > 0)
      set(node, MemoryKind::kDram, what + ", as fast as DRAM");
    else
      set(node, MemoryKind::kUnknown, what + ", and nothing says how fast it is");
  }
}

}  // namespace kvt
