// SPDX-License-Identifier: Apache-2.0
//
// hwloc's view of a machine, completed by sysfs.h. The only file that sees hwloc.
#include <hwloc.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <sstream>

#include "daemon/topology/kinds.h"
#include "daemon/topology/sysfs.h"
#include "daemon/topology/topology.h"

namespace kvt {
namespace {

/// An environment variable for one scope; hwloc has no other way to say some things.
class ScopedVariable {
 public:
  ScopedVariable(const char* name, const char* value) : name_(name) {
    if (const char* const before = std::getenv(name)) before_ = before;
    ::setenv(name, value, 1);
  }
  ScopedVariable(const ScopedVariable&) = delete;
  ScopedVariable& operator=(const ScopedVariable&) = delete;
  ~ScopedVariable() {
    if (before_)
      ::setenv(name_, before_->c_str(), 1);
    else
      ::unsetenv(name_);
  }

 private:
  const char* name_;
  std::optional<std::string> before_;
};

struct Destroy {
  void operator()(hwloc_topology* topology) const { hwloc_topology_destroy(topology); }
};
using Raw = std::unique_ptr<hwloc_topology, Destroy>;

Result<Raw> make_raw() {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) return fail_errno("hwloc_topology_init");
  return Raw(raw);
}

const char* info_of(hwloc_obj_t object, const char* name) {
  const char* const value = hwloc_obj_get_info_by_name(object, name);
  return value != nullptr ? value : "";
}

std::string list_of(hwloc_const_bitmap_t set) {
  if (set == nullptr) return "";
  std::vector<uint32_t> cpus;
  for (int bit = hwloc_bitmap_first(set); bit >= 0; bit = hwloc_bitmap_next(set, bit))
    cpus.push_back(static_cast<uint32_t>(bit));
  return cpu_list(cpus);
}

/// "262144KiB" or, from older hwloc, a number of KiB.
uint64_t size_info(hwloc_obj_t object, const char* name) {
  return std::strtoull(info_of(object, name), nullptr, 10) << 10;
}

/// Firmware and hwloc count bandwidth in 10^6 bytes a second.
constexpr double kMegabyte = 1e-3;

Initiator& initiator_of(MemoryNode& node, const std::string& cpus) {
  for (Initiator& each : node.initiators)
    if (each.cpus == cpus) return each;
  node.initiators.push_back({cpus});
  return node.initiators.back();
}

void read_attribute(hwloc_topology_t raw, hwloc_obj_t object, MemoryNode& node, hwloc_memattr_id_t attribute,
                    double Initiator::*field, double unit) {
  unsigned count = 0;
  if (hwloc_memattr_get_initiators(raw, attribute, object, 0, &count, nullptr, nullptr) != 0 || count == 0)
    return;
  std::vector<hwloc_location> initiators(count);
  std::vector<hwloc_uint64_t> values(count);
  if (hwloc_memattr_get_initiators(raw, attribute, object, 0, &count, initiators.data(), values.data()) != 0)
    return;
  for (unsigned i = 0; i < std::min<size_t>(count, values.size()); ++i) {
    if (values[i] == 0) continue;  // all zero is how firmware says that it does not know
    const bool set = initiators[i].type == HWLOC_LOCATION_TYPE_CPUSET;
    Initiator& initiator = initiator_of(
        node, set ? list_of(initiators[i].location.cpuset) : list_of(initiators[i].location.object->cpuset));
    if (initiator.*field == 0) initiator.*field = static_cast<double>(values[i]) * unit;
  }
}

/// Where reading and writing are told apart they come first.
void read_attributes(hwloc_topology_t raw, hwloc_obj_t object, MemoryNode& node) {
  read_attribute(raw, object, node, HWLOC_MEMATTR_ID_READ_BANDWIDTH, &Initiator::read_gbs, kMegabyte);
  read_attribute(raw, object, node, HWLOC_MEMATTR_ID_WRITE_BANDWIDTH, &Initiator::write_gbs, kMegabyte);
  read_attribute(raw, object, node, HWLOC_MEMATTR_ID_READ_LATENCY, &Initiator::latency_ns, 1);
  read_attribute(raw, object, node, HWLOC_MEMATTR_ID_BANDWIDTH, &Initiator::read_gbs, kMegabyte);
  read_attribute(raw, object, node, HWLOC_MEMATTR_ID_BANDWIDTH, &Initiator::write_gbs, kMegabyte);
  read_attribute(raw, object, node, HWLOC_MEMATTR_ID_LATENCY, &Initiator::latency_ns, 1);
}

/// The best of what the initiators see.
void learn_from_initiators(MemoryNode& node) {
  double read = 0;
  double write = 0;
  double latency = 0;
  for (const Initiator& each : node.initiators) {
    read = std::max(read, each.read_gbs);
    write = std::max(write, each.write_gbs);
    if (each.latency_ns > 0) latency = latency == 0 ? each.latency_ns : std::min(latency, each.latency_ns);
  }
  node.figures.read_gbs.learn(read, FigureSource::kHmat);
  node.figures.write_gbs.learn(write, FigureSource::kHmat);
  node.figures.latency_ns.learn(latency, FigureSource::kHmat);
}

/// A memory-side cache stands above the node, or is called so where it is an L3 of old processors.
uint64_t side_cache_of(hwloc_obj_t node) {
  for (hwloc_obj_t above = node->parent; above != nullptr; above = above->parent) {
    if (above->type == HWLOC_OBJ_MEMCACHE) return above->attr->cache.size;
    if (above->type == HWLOC_OBJ_L3CACHE && above->subtype != nullptr &&
        std::string(above->subtype) == "MemorySideCache")
      return above->attr->cache.size;
  }
  return 0;
}

void read_nodes(hwloc_topology_t raw, Topology& topology) {
  hwloc_obj_t object = nullptr;
  while ((object = hwloc_get_next_obj_by_type(raw, HWLOC_OBJ_NUMANODE, object)) != nullptr) {
    MemoryNode node;
    node.os_index = object->os_index;
    node.bytes = object->attr->numanode.local_memory;
    node.near_cpus = list_of(object->cpuset);
    node.subtype = object->subtype != nullptr ? object->subtype : "";
    if (node.subtype == "GPUMemory") node.gpu = info_of(object, "PCIBusID");
    // In front of plain memory; where MCDRAM or HBM stands beside it, that is not cached by itself.
    if (node.subtype.empty() || node.subtype == "DRAM") node.side_cache_bytes = side_cache_of(object);
    read_attributes(raw, object, node);
    learn_from_initiators(node);
    if (topology.find(node.os_index) == nullptr) topology.nodes.push_back(std::move(node));
  }
}

void read_packages(hwloc_topology_t raw, Topology& topology) {
  hwloc_obj_t object = nullptr;
  while ((object = hwloc_get_next_obj_by_type(raw, HWLOC_OBJ_PACKAGE, object)) != nullptr) {
    for (const char* name : {"CPUModel", "CPUPart"})  // Arm's have a part number alone
      if (topology.cpu_model.empty()) topology.cpu_model = info_of(object, name);
    if (hwloc_bitmap_iszero(object->cpuset) == 0)
      topology.packages.push_back({object->os_index, list_of(object->cpuset)});
  }
  const hwloc_obj_t root = hwloc_get_root_obj(raw);
  if (topology.packages.empty()) topology.packages.push_back({0, list_of(root->cpuset)});
  for (const char* name : {"CPUModel", "CPUPart"})
    if (topology.cpu_model.empty()) topology.cpu_model = info_of(root, name);
  for (const char* name : {"DMIProductName", "PlatformModel", "PlatformName"})
    if (topology.machine.empty()) topology.machine = info_of(root, name);
  topology.architecture = info_of(root, "Architecture");
}

/// The distance of each node from the nearest CPUs, where hwloc has a matrix.
void read_distances(hwloc_topology_t raw, Topology& topology) {
  unsigned count = 1;
  hwloc_distances_s* matrix = nullptr;
  if (hwloc_distances_get_by_type(raw, HWLOC_OBJ_NUMANODE, &count, &matrix,
                                  HWLOC_DISTANCES_KIND_MEANS_LATENCY, 0) != 0 ||
      count == 0)
    return;
  for (unsigned to = 0; to < matrix->nbobjs; ++to) {
    MemoryNode* const node = topology.find(matrix->objs[to]->os_index);
    for (unsigned from = 0; from < matrix->nbobjs && node != nullptr; ++from) {
      const MemoryNode* const cpus = topology.find(matrix->objs[from]->os_index);
      if (cpus == nullptr || !cpus->has_cpus()) continue;
      const auto distance =
          static_cast<uint32_t>(std::min<hwloc_uint64_t>(matrix->values[from * matrix->nbobjs + to], 65535));
      if (node->distance == 0 || distance < node->distance) node->distance = distance;
    }
  }
  hwloc_distances_release(raw, matrix);
}

/// XML has the CPUs that are near a node and no list of its own. Of plain nodes the one with the fewest has
/// them; one that is near to nothing but the CPUs of others has none.
void guess_cpus(Topology& topology) {
  std::vector<MemoryNode*> plain;
  std::map<const MemoryNode*, std::vector<uint32_t>> near;
  for (MemoryNode& node : topology.nodes) {
    if (!node.subtype.empty() && node.subtype != "DRAM") continue;
    plain.push_back(&node);
    near[&node] = parse_cpu_list(node.near_cpus).value_or(std::vector<uint32_t>{});
  }
  std::stable_sort(plain.begin(), plain.end(),
                   [&](const MemoryNode* a, const MemoryNode* b) { return near[a].size() < near[b].size(); });
  std::set<uint32_t> taken;
  for (MemoryNode* const node : plain) {
    const std::vector<uint32_t>& cpus = near[node];
    if (std::all_of(cpus.begin(), cpus.end(), [&](uint32_t cpu) { return taken.contains(cpu); })) continue;
    node->cpus = node->near_cpus;
    taken.insert(cpus.begin(), cpus.end());
  }
}

/// Memory devices that an XML file lists and that no node has.
void read_unused_devices(hwloc_topology_t raw, Topology& topology) {
  std::set<std::string> in_use;  // of CXL memory that is onlined the node has the names: "mem0,mem1"
  hwloc_obj_t object = nullptr;
  while ((object = hwloc_get_next_obj_by_type(raw, HWLOC_OBJ_NUMANODE, object)) != nullptr) {
    std::istringstream names(info_of(object, "CXLDevice"));
    for (std::string name; std::getline(names, name, ',');) in_use.insert(name);
  }
  object = nullptr;
  while ((object = hwloc_get_next_osdev(raw, object)) != nullptr) {
    const std::string subtype = object->subtype != nullptr ? object->subtype : "";
    const std::string name = object->name != nullptr ? object->name : "?";
    if (in_use.contains(name)) continue;
    if (subtype == "CXLMem") {
      const uint64_t persistent = size_info(object, "CXLPMEMSize");
      topology.unused.push_back({name, MemoryKind::kCxl, size_info(object, "CXLRAMSize") + persistent,
                                 "CXL memory that is not onlined"});
    } else if (name.starts_with("dax")) {
      const MemoryKind kind =
          subtype == "NVM" ? MemoryKind::kNvm : kind_of_device(info_of(object, "DAXParent"));
      topology.unused.push_back(
          {name, kind, size_info(object, "Size"), "a DAX device that is not onlined as memory"});
    }
  }
  std::sort(topology.unused.begin(), topology.unused.end(),
            [](const UnusedMemory& a, const UnusedMemory& b) { return a.name < b.name; });
}

/// What /sys knows beside hwloc. `root` is "/" for this machine.
void complete_from_sysfs(const std::string& root, Topology& topology, std::map<uint32_t, NodeHints>& hints) {
  const std::vector<sysfs::Node> nodes = sysfs::nodes(root);
  const auto is_cpus = [&nodes](size_t from) { return from < nodes.size() && !nodes[from].cpus.empty(); };
  for (const sysfs::Node& known : nodes) {
    MemoryNode* node = topology.find(known.os_index);
    if (node == nullptr) {  // hwloc leaves out nodes whose CPUs contradict another's
      node = &topology.nodes.emplace_back();
      node->os_index = known.os_index;
    }
    if (known.bytes != 0) node->bytes = known.bytes;
    node->cpus = known.cpus;
    if (!known.cpus.empty()) node->near_cpus = known.cpus;
    node->figures.read_gbs.learn(known.read_mbs * kMegabyte, FigureSource::kHmat);
    node->figures.write_gbs.learn(known.write_mbs * kMegabyte, FigureSource::kHmat);
    node->figures.latency_ns.learn(known.latency_ns, FigureSource::kHmat);
    node->distance = 0;
    for (size_t from = 0; from < known.distances.size(); ++from) {
      if (!is_cpus(from) || known.distances.size() != nodes.size()) continue;
      // The matrix may be asymmetric; a row says how far its CPUs have it to the others.
      const auto to = static_cast<size_t>(&known - nodes.data());
      const uint32_t distance =
          nodes[from].distances.size() == nodes.size() ? nodes[from].distances[to] : known.distances[from];
      if (node->distance == 0 || distance < node->distance) node->distance = distance;
    }
    if (known.offline_bytes != 0)
      topology.unused.push_back({"node" + std::to_string(known.os_index), MemoryKind::kUnknown,
                                 known.offline_bytes, "memory blocks that are offline"});
  }
  // On some virtual machines a node's own count is short of what was added later; where one node is possible
  // it has all.
  if (topology.nodes.size() == 1 && sysfs::possible_nodes(root) == 1)
    topology.nodes[0].bytes = std::max(topology.nodes[0].bytes, sysfs::machine_bytes(root));
  if (const uint64_t bytes = sysfs::offline_bytes_of_no_node(root); bytes != 0)
    topology.unused.push_back({"memory", MemoryKind::kUnknown, bytes,
                               "memory blocks that are offline, of a node that is not online"});

  for (const sysfs::Dax& dax : sysfs::dax_devices(root)) {
    if (dax.onlined && dax.target_node >= 0) {
      hints[static_cast<uint32_t>(dax.target_node)].dax_parent = dax.parent;
      continue;
    }
    topology.unused.push_back(
        {dax.name, kind_of_device(dax.parent), dax.bytes,
         "a DAX device that is not onlined as memory (daxctl reconfigure-device --mode=system-ram " +
             dax.name + ")"});
  }
  for (const sysfs::CxlMemory& memory : sysfs::cxl_devices(root)) {
    if (memory.mapped_bytes >= memory.bytes) continue;
    topology.unused.push_back({memory.name, MemoryKind::kCxl, memory.bytes - memory.mapped_bytes,
                               "CXL memory that no region has (cxl create-region)"});
  }
  // hwloc reads Arm's part number on Arm alone, also of a recording.
  if (topology.cpu_model.empty()) topology.cpu_model = sysfs::cpu_part(root);
  for (const sysfs::Gpu& gpu : sysfs::gpus(root)) {
    MemoryNode* const node = topology.find(static_cast<uint32_t>(gpu.node));
    if (node != nullptr) {
      hints[node->os_index].gpu = true;
      node->gpu = gpu.address;
    }
    if ((node == nullptr || node->bytes == 0) && gpu.bytes != 0)
      topology.unused.push_back({"gpu " + gpu.address, MemoryKind::kGpu, gpu.bytes,
                                 "GPU memory that is not onlined (the driver says: " +
                                     (gpu.status.empty() ? "nothing" : gpu.status) + ")"});
  }
}

/// A cpuset takes nodes away that are there for others.
void leave_out_forbidden(const std::string& root, Topology& topology) {
  const auto allowed = sysfs::allowed_nodes(root);
  if (!allowed) return;
  for (MemoryNode& node : topology.nodes) {
    if (node.bytes == 0 || std::binary_search(allowed->begin(), allowed->end(), node.os_index)) continue;
    topology.unused.push_back(
        {"node" + std::to_string(node.os_index), node.kind, node.bytes,
         "this process may use the memory of nodes " + cpu_list(*allowed) + " alone (cpuset.mems)"});
    node.bytes = 0;
  }
}

/// `root`: null for a topology that is not of files (XML).
Result<Topology> finish(Raw raw, const std::string* root) {
  Topology topology;
  std::map<uint32_t, NodeHints> hints;
  read_nodes(raw.get(), topology);
  read_packages(raw.get(), topology);
  if (root != nullptr) {
    complete_from_sysfs(*root, topology, hints);
  } else {
    guess_cpus(topology);
    read_unused_devices(raw.get(), topology);
    read_distances(raw.get(), topology);
  }
  std::sort(topology.nodes.begin(), topology.nodes.end(),
            [](const MemoryNode& a, const MemoryNode& b) { return a.os_index < b.os_index; });
  if (topology.nodes.empty()) return fail(Code::kNotFound, "hwloc found no NUMA node");
  classify(topology, hints);
  if (root != nullptr) leave_out_forbidden(*root, topology);
  return topology;
}

/// Loads what a raw topology has been told to be. hwloc speaks to people on stderr of what it finds odd; so
/// do we not.
Result<void> load(hwloc_topology_t raw, const std::string& what) {
  const ScopedVariable quiet("HWLOC_HIDE_ERRORS", "2");
  const ScopedVariable gpu_nodes("HWLOC_KEEP_NVIDIA_GPU_NUMA_NODES", "1");
  const ScopedVariable side_caches("HWLOC_KNL_MSCACHE_L3", "0");  // a KNL's is no L3
  hwloc_topology_set_type_filter(raw, HWLOC_OBJ_MEMCACHE, HWLOC_TYPE_FILTER_KEEP_ALL);
  if (hwloc_topology_load(raw) != 0)
    return fail(Code::kInvalid, what + ": hwloc cannot make a topology of it");
  return {};
}

constexpr size_t kXmlBytesMax = size_t{64} << 20;

/// hwloc 2 refuses files of hwloc 3 by their number; what is read of them here has not changed.
void read_as_version_2(std::string& xml) {
  const std::string version = "<topology version=\"";
  const size_t at = xml.substr(0, 4096).find(version + "3.");
  if (at != std::string::npos && HWLOC_API_VERSION < 0x00030000)
    xml.replace(at, version.size() + 3, version + "2.0");
}

Result<Topology> from_xml(const std::string& what, std::string xml) {
  if (xml.size() > kXmlBytesMax) return fail(Code::kInvalid, what + ": expected at most 64 MiB");
  read_as_version_2(xml);
  KVT_TRY_ASSIGN(Raw raw, make_raw());
  // Of devices only these matter, and they are there only when all are kept.
  hwloc_topology_set_io_types_filter(raw.get(), HWLOC_TYPE_FILTER_KEEP_ALL);
  const ScopedVariable quiet("HWLOC_HIDE_ERRORS", "2");
  if (hwloc_topology_set_xmlbuffer(raw.get(), xml.c_str(), static_cast<int>(xml.size() + 1)) != 0)
    return fail(Code::kInvalid, what + ": expected a topology in hwloc's XML (lstopo --of xml)");
  KVT_TRY(load(raw.get(), what));
  return finish(std::move(raw), nullptr);
}

Result<Topology> from_xml_file(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error))
    return fail(Code::kNotFound, path + ": expected an XML file of hwloc's (lstopo --of xml)");
  std::ifstream file(path, std::ios::binary);
  if (!file) return fail_errno("open " + path);
  std::string xml(
      static_cast<size_t>(std::min<uintmax_t>(std::filesystem::file_size(path, error), kXmlBytesMax + 1)),
      '\0');
  file.read(xml.data(), static_cast<std::streamsize>(xml.size()));
  xml.resize(static_cast<size_t>(file.gcount()));
  return from_xml(path, std::move(xml));
}

}  // namespace

Result<Topology> topology_from_xml(const std::string& xml) { return from_xml("the XML text", xml); }

Result<Topology> discover_topology(const TopologySource& given) {
  namespace fs = std::filesystem;
  std::error_code error;
  TopologySource source = given;
  if (source.kind == TopologySource::Kind::kThisMachine) {  // hwloc's own way to say "another one"
    if (const char* const xml = std::getenv("HWLOC_XMLFILE"))
      source = {TopologySource::Kind::kXml, xml};
    else if (const char* const root = std::getenv("HWLOC_FSROOT"))
      source = {TopologySource::Kind::kFsroot, root};
  }
  switch (source.kind) {
    case TopologySource::Kind::kXml: return from_xml_file(source.path);
    case TopologySource::Kind::kFsroot: {
      if (!fs::is_directory(fs::path(source.path) / "sys/devices/system", error))
        return fail(
            Code::kNotFound,
            source.path +
                ": expected a folder with a machine's sys/devices/system (hwloc-gather-topology makes one)");
      KVT_TRY_ASSIGN(Raw raw, make_raw());
      const ScopedVariable root("HWLOC_FSROOT", source.path.c_str());
      const ScopedVariable other("HWLOC_THISSYSTEM", "0");
      const ScopedVariable components("HWLOC_COMPONENTS", "-x86");  // which would ask this machine's CPUs
      const ScopedVariable dumped("HWLOC_DUMPED_HWDATA_DIR",
                                  "/var/run/hwloc");  // below the root; the library's own is elsewhere
      KVT_TRY(load(raw.get(), source.path));
      return finish(std::move(raw), &source.path);
    }
    case TopologySource::Kind::kThisMachine: break;
  }
  KVT_TRY_ASSIGN(Raw raw, make_raw());
  hwloc_topology_set_all_types_filter(raw.get(), HWLOC_TYPE_FILTER_KEEP_STRUCTURE);
  hwloc_topology_set_type_filter(raw.get(), HWLOC_OBJ_PACKAGE, HWLOC_TYPE_FILTER_KEEP_ALL);
  KVT_TRY(load(raw.get(), "this machine"));
  const std::string here = "/";
  return finish(std::move(raw), &here);
}

}  // namespace kvt
