// SPDX-License-Identifier: Apache-2.0
//
// What /sys and /proc say of memory and hwloc does not: nodes that it leaves out, memory that nobody has
// onlined, GPU memory that is a node, bandwidths without an initiator. Reads files below a root; no state;
// thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace kvt::sysfs {

struct Node {
  uint32_t os_index = 0;
  uint64_t bytes = 0;               ///< MemTotal
  uint64_t offline_bytes = 0;       ///< memory blocks of it that are offline
  std::string cpus;                 ///< as a list
  std::vector<uint32_t> distances;  ///< to each node of nodes(), in their order; empty: not said
  double read_mbs = 0;              ///< 10^6 bytes a second, by its best initiators; 0: not said
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
  std::string parent;    ///< path of the device behind it: ".../ndbus0/region5/dax5.1", "platform/hmem.1"
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

/// A GPU whose memory is, or could be, a NUMA node, as NVIDIA's driver says.
struct Gpu {
  std::string address;  ///< on PCI, "0004:05:00.0"
  int node = -1;
  uint64_t bytes = 0;  ///< 0: not said
  std::string status;  ///< "online", "offline", "online_failed"; empty: not said
};
/// By PCI address, which is how nvidia-smi counts them.
std::vector<Gpu> gpus(const std::string& root);

/// Part number of an Arm processor, "0xd4f"; empty on others.
std::string cpu_part(const std::string& root);

/// Nodes that this process may allocate on (its cpuset); nothing when the kernel does not say.
std::optional<std::vector<uint32_t>> allowed_nodes(const std::string& root);

/// How many nodes the machine can ever have online; 0: not said.
size_t possible_nodes(const std::string& root);

/// Memory blocks that are offline and that no node in nodes() has.
uint64_t offline_bytes_of_no_node(const std::string& root);

/// MemTotal of the machine, bytes; 0: not said.
uint64_t machine_bytes(const std::string& root);

}  // namespace kvt::sysfs
