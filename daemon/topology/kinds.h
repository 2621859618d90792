// SPDX-License-Identifier: Apache-2.0
//
// Which kind of memory a node is, from what hwloc and /sys say of it. Pure functions.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "daemon/topology/topology.h"

namespace kvt {

/// What else is known of a node than its own fields.
struct NodeHints {
  bool gpu = false;        ///< a GPU's driver says that the node is its memory
  std::string dax_parent;  ///< the device that the node's memory was onlined from; empty: plain memory
};

/// The kind of a device behind memory by its name: "ndbus0/region5" is NVM, a CXL region or root is CXL;
/// unknown where the name does not tell, as with "hmem.1".
MemoryKind kind_of_device(const std::string& parent);

/// Sets kind and kind_from of each node. Firmware has no table that says "this is HBM": what hwloc and
/// drivers name counts first, then the device that the memory comes from, then how a node's bandwidth
/// compares with that of the nodes that have CPUs and are nothing special.
void classify(Topology& topology, const std::map<uint32_t, NodeHints>& hints);

}  // namespace kvt
