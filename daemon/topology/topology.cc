// SPDX-License-Identifier: Apache-2.0
#include "daemon/topology/topology.h"

#include <hwloc.h>

namespace kvt {

const MemoryNode* Topology::find(uint32_t os_index) const {
  for (const MemoryNode& node : nodes)
    if (node.os_index == os_index) return &node;
  return nullptr;
}

Result<Topology> discover_topology() {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) return fail_errno("hwloc_topology_init");
  Topology topology;
  hwloc_topology_set_all_types_filter(raw, HWLOC_TYPE_FILTER_KEEP_STRUCTURE);
  if (hwloc_topology_load(raw) != 0) {
    const auto failed = fail_errno("hwloc_topology_load");
    hwloc_topology_destroy(raw);
    return failed;
  }
  hwloc_obj_t object = nullptr;
  while ((object = hwloc_get_next_obj_by_type(raw, HWLOC_OBJ_NUMANODE, object)) != nullptr) {
    MemoryNode node;
    node.os_index = object->os_index;
    node.bytes = object->attr->numanode.local_memory;
    node.has_cpus = object->cpuset != nullptr && hwloc_bitmap_iszero(object->cpuset) == 0;
    node.subtype = object->subtype != nullptr ? object->subtype : "";
    topology.nodes.push_back(node);
  }
  hwloc_topology_destroy(raw);
  if (topology.nodes.empty()) return fail(Code::kNotFound, "hwloc found no NUMA node");
  return topology;
}

}  // namespace kvt
