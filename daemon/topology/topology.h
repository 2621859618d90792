// SPDX-License-Identifier: Apache-2.0
//
// The memory of a machine: its NUMA nodes by OS index, what kind of memory each is, how fast it is and how
// that is known, and memory that is there but not in use. A value; made once at start, from this machine or
// from a recording of another. The tiers that follow from it are in tiers.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "shm/base/result.h"

namespace kvt {

enum class MemoryKind : uint8_t { kUnknown, kDram, kHbm, kCxl, kLpddr, kGpu, kNvm };
const char* kind_name(MemoryKind kind);  ///< "dram", "hbm", "cxl", "lpddr", "gpu", "nvm", "unknown"
std::optional<MemoryKind> find_kind(std::string_view name);

/// How a figure is known, weakest first: a stronger source replaces a weaker one.
enum class FigureSource : uint8_t {
  kUnknown,
  kGuessed,     ///< from a node of the same kind, by distance
  kProfile,     ///< of a machine whose figures are published
  kHmat,        ///< firmware's tables (ACPI HMAT, CDAT), or what hwloc knows of the processor
  kMeasured,    ///< by `kvtierctl calibrate`, on this machine
  kConfigured,  ///< an operator's word
};
const char* source_name(
    FigureSource source);  ///< "unknown", "guessed", "profile", "hmat", "measured", "configuration"

struct Figure {
  double value = 0;
  FigureSource source = FigureSource::kUnknown;

  [[nodiscard]] bool known() const { return source != FigureSource::kUnknown; }
  /// Takes a value above 0 unless a stronger source has spoken. 0 says nothing: firmware writes it for
  /// "unknown".
  void learn(double given, FigureSource from) {
    if (given > 0 && from > source) *this = {given, from};
  }
};

struct Figures {
  Figure read_gbs;   ///< 10^9 bytes a second
  Figure write_gbs;  ///< 10^9 bytes a second
  Figure latency_ns;
};

/// What firmware says of a node as one group of CPUs sees it. 0: not said.
struct Initiator {
  std::string cpus;  ///< as a list, "0-15"; empty: firmware names none
  double read_gbs = 0;
  double write_gbs = 0;
  double latency_ns = 0;
};

struct MemoryNode {
  uint32_t os_index = 0;  ///< what mbind wants; hwloc's logical index is another number
  uint64_t bytes = 0;     ///< 0: no memory (yet), such as a node kept for a partition of a GPU
  MemoryKind kind = MemoryKind::kUnknown;
  std::string kind_from;  ///< why it is taken for that, in words
  std::string cpus;       ///< its own CPUs as a list, "0-3,8"; empty: it has none
  std::string near_cpus;  ///< the CPUs that are nearest to it; for a node with CPUs its own
  std::string subtype;    ///< hwloc's name for a special kind ("MCDRAM", "GPUMemory"); empty for plain memory
  std::string gpu;        ///< PCI address of the GPU whose memory it is, "0004:05:00.0"; may be empty
  uint64_t side_cache_bytes = 0;  ///< of a memory-side cache in front of it
  uint32_t distance = 0;          ///< from the nearest CPUs: 10 is local, 20 twice as far; 0: not said
  Figures figures;                ///< as the best initiator sees it
  std::vector<Initiator> initiators;

  [[nodiscard]] bool has_cpus() const { return !cpus.empty(); }
};

/// Memory that is there and that nobody can allocate.
struct UnusedMemory {
  std::string name;  ///< "dax0.0", "mem1", "node2"
  MemoryKind kind = MemoryKind::kUnknown;
  uint64_t bytes = 0;
  std::string reason;
};

/// What reads from memory when there is no GPU.
struct CpuPackage {
  uint32_t os_index = 0;
  std::string cpus;  ///< as a list
};

struct Topology {
  std::vector<MemoryNode> nodes;  ///< by OS index
  std::vector<CpuPackage> packages;
  std::vector<UnusedMemory> unused;
  std::string machine;       ///< what the machine calls itself; may be empty
  std::string cpu_model;     ///< may be empty
  std::string architecture;  ///< "x86_64", "aarch64"; may be empty

  [[nodiscard]] const MemoryNode* find(uint32_t os_index) const;
  [[nodiscard]] MemoryNode* find(uint32_t os_index);
};

/// Where to look: this machine, hwloc's XML of another, or a copy of another's /sys and /proc.
struct TopologySource {
  enum class Kind : uint8_t { kThisMachine, kXml, kFsroot };
  Kind kind = Kind::kThisMachine;
  std::string path;  ///< of the XML file or of the copied root; not looked at for this machine
};

/// Reads a machine and tells the kinds of its nodes (classify()). kNotFound: no such file, or no NUMA node in
/// it; kInvalid: no topology. Not thread-safe: it sets hwloc's environment variables while it runs.
Result<Topology> discover_topology(const TopologySource& source = {});
/// The same from the text of an XML file.
Result<Topology> topology_from_xml(const std::string& xml);

/// An operator's word on what discovery says of one node, or of all nodes of a kind.
struct MemoryOverride {
  int32_t node = -1;                          ///< OS index; -1: by kind
  MemoryKind of_kind = MemoryKind::kUnknown;  ///< with node -1: all that discovery takes for this kind
  std::optional<MemoryKind> kind;             ///< what it is
  double read_gbps = 0;                       ///< 10^9 bytes a second; 0: as known
  double write_gbps = 0;
  double latency_ns = 0;
  bool use = true;  ///< false: no tier may have it
};
/// In their order: of two that say the same thing of a node the later one counts. kNotFound when an override
/// names a node, or a kind, that the machine has not.
Result<void> apply_overrides(Topology& topology, const std::vector<MemoryOverride>& overrides);

/// "0-3,8" -> {0, 1, 2, 3, 8}; nothing when the text is no list. At most 65,536 CPUs.
std::optional<std::vector<uint32_t>> parse_cpu_list(std::string_view text);
/// The opposite; ascending.
std::string cpu_list(const std::vector<uint32_t>& cpus);

}  // namespace kvt
