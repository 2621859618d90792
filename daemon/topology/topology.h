// SPDX-License-Identifier: Apache-2.0
//
// The memory of this machine as hwloc finds it: NUMA nodes by OS index. A value; made once at start.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "shm/base/result.h"

namespace kvt {

struct MemoryNode {
  uint32_t os_index = 0;  ///< what mbind wants; hwloc's logical index is another number
  uint64_t bytes = 0;
  bool has_cpus = true;
  std::string subtype;  ///< hwloc's name for a special kind ("MCDRAM", "GPUMemory"); empty for plain DRAM
};

struct Topology {
  std::vector<MemoryNode> nodes;
  [[nodiscard]] const MemoryNode* find(uint32_t os_index) const;
};

/// Reads the machine (HWLOC_XMLFILE and HWLOC_FSROOT are hwloc's own way to read another one).
Result<Topology> discover_topology();

}  // namespace kvt
