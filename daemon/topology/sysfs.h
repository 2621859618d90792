// SPDX-License-Identifier: Apache-2.0
//
// What /sys and /proc say of memory and hwloc does not: nodes that it leaves out, memory that nobody has onlined, GPU
// memory that is a node, bandwidths without an initiator. Reads files below a root; no state; thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvt::sysfs {

struct Node {
  uint32_t os_index = 0;
  uint64_t bytes = 0;          ///< MemTotal
  uint64_t offline_bytes = 0;  ///< memory blocks of it that are offline
  std::string cpus;            ///< as a list
  std::vector<uint32_t> distances;  ///< to each node of nodes(), in their order; empty: not said
  double read_mbs = 0;         ///< 10^6 bytes a second, by its best initiators; 0: not said
  double write_mbs = 0;
  double latency_ns = 0;
};
/// Nodes that are online, by OS index.
std::vector<Node> nodes(const std::string& root);

/// A range of memory that the kernel keeps as a device, or has given to a node.
struct Dax {
  std::string name;
  uint64_t bytes = 0;
  int target_node = -1;
  bool onlined = false;  ///< driver kmem has it: it is memory of target_node
  std::string parent;    ///< path of the device behind it: "ndbus0/region5" is NVM, "region0" of CXL, "hmem.1" by firmware
};
std::vector<Dax> dax_devices(const std::string& root);

/// A CXL memory device, and what of it no region has.
struct CxlMemory {
  std::string name;
  uint64_t bytes = 0;
  uint64_t persistent_bytes = 0;
  uint64_t mapped_bytes = 0;
};
std::vector<CxlMemory> cxl_devices(const std::string& root);

/// OS indices of nodes that are GPU memory, as NVIDIA's driver says.
std::vector<uint32_t> gpu_nodes(const std::string& root);

/// How many nodes the machine can ever have online; 0: not said.
size_t possible_nodes(const std::string& root);

/// Memory blocks that are offline and that no node in nodes() has.
uint64_t offline_bytes_of_no_node(const std::string& root);

/// MemTotal of the machine, bytes; 0: not said.
uint64_t machine_bytes(const std::string& root);

}  // namespace kvt::sysfs
