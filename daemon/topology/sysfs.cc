// SPDX-License-Identifier: Apache-2.0
#include "daemon/topology/sysfs.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "daemon/topology/topology.h"

namespace kvt::sysfs {
namespace {

namespace fs = std::filesystem;

std::string first_line(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

/// Of a file with one number, decimal or "0x...". 0 when there is none.
uint64_t number_in(const fs::path& file) {
  const std::string text = first_line(file);
  try {
    return text.empty() ? 0 : std::stoull(text, nullptr, 0);
  } catch (const std::exception&) {
    return 0;
  }
}

/// Entries of a folder whose names are `prefix` and a number, by that number. Nothing when it is not there.
std::vector<std::pair<uint32_t, fs::path>> numbered(const fs::path& folder, const std::string& prefix) {
  std::vector<std::pair<uint32_t, fs::path>> found;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.size() <= prefix.size() || name.size() > prefix.size() + 9 || !name.starts_with(prefix) ||
        name.find_first_not_of("0123456789", prefix.size()) != std::string::npos)
      continue;
    found.emplace_back(static_cast<uint32_t>(std::stoul(name.substr(prefix.size()))), it->path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// The number in the line of a meminfo file that has `name`, bytes. "Node 0 MemTotal:  123 kB".
uint64_t meminfo_bytes(const fs::path& file, const std::string& name) {
  std::ifstream in(file);
  std::string line;
  while (std::getline(in, line)) {
    const size_t at = line.find(name + ":");
    if (at == std::string::npos) continue;
    std::istringstream words(line.substr(at + name.size() + 1));
    uint64_t kib = 0;
    words >> kib;
    return kib << 10;
  }
  return 0;
}

/// Kernels before 2.6.32, and some recordings, have the mask alone: "00000000,000f000f".
std::string list_of_mask(std::string mask) {
  mask.erase(std::remove(mask.begin(), mask.end(), ','), mask.end());
  std::vector<uint32_t> cpus;
  for (size_t i = 0; i < mask.size(); ++i) {
    const char digit = mask[mask.size() - 1 - i];
    const int bits = digit >= '0' && digit <= '9'   ? digit - '0'
                     : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10
                                                    : 0;
    for (uint32_t bit = 0; bit < 4; ++bit)
      if ((bits >> bit & 1) != 0) cpus.push_back(static_cast<uint32_t>(4 * i + bit));
  }
  return cpu_list(cpus);
}

uint64_t block_bytes(const fs::path& system) {
  return std::strtoull(first_line(system / "memory/block_size_bytes").c_str(), nullptr, 16);
}

std::string link_target(const fs::path& link) {
  std::error_code error;
  return fs::read_symlink(link, error).string();
}

}  // namespace

std::vector<Node> nodes(const std::string& root) {
  std::vector<Node> all;
  const fs::path system = fs::path(root) / "sys/devices/system";
  for (const auto& [index, folder] : numbered(system / "node", "node")) {
    Node node;
    node.os_index = index;
    node.bytes = meminfo_bytes(folder / "meminfo", "MemTotal");
    std::string cpus = first_line(folder / "cpulist");
    if (cpus.empty()) cpus = list_of_mask(first_line(folder / "cpumap"));
    if (const auto parsed = parse_cpu_list(cpus)) node.cpus = cpu_list(*parsed);
    std::istringstream distances(first_line(folder / "distance"));
    for (uint32_t distance = 0; distances >> distance;) node.distances.push_back(distance);
    const fs::path access = folder / "access0/initiators";
    node.read_mbs = static_cast<double>(number_in(access / "read_bandwidth"));
    node.write_mbs = static_cast<double>(number_in(access / "write_bandwidth"));
    node.latency_ns = static_cast<double>(number_in(access / "read_latency"));
    for (const auto& [block, path] : numbered(folder, "memory"))
      if (first_line(path / "state") == "offline") node.offline_bytes += block_bytes(system);
    all.push_back(std::move(node));
  }
  return all;
}

std::vector<Dax> dax_devices(const std::string& root) {
  std::vector<Dax> all;
  const fs::path folder = fs::path(root) / "sys/bus/dax/devices";
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    Dax dax;
    dax.name = it->path().filename().string();
    dax.bytes = number_in(it->path() / "size");
    const std::string target = first_line(it->path() / "target_node");
    if (const auto node = parse_cpu_list(target); node && node->size() == 1)
      dax.target_node = static_cast<int>(node->front());
    dax.onlined = fs::path(link_target(it->path() / "driver")).filename() == "kmem";
    // ".../devices/platform/hmem.1/dax1.0"
    const std::string target_path = link_target(it->path());
    const size_t below = target_path.find("devices/");
    dax.parent = fs::path(below == std::string::npos ? target_path : target_path.substr(below + 8))
                     .parent_path()
                     .string();
    if (dax.bytes != 0) all.push_back(std::move(dax));
  }
  std::sort(all.begin(), all.end(), [](const Dax& a, const Dax& b) { return a.name < b.name; });
  return all;
}

std::vector<CxlMemory> cxl_devices(const std::string& root) {
  std::vector<CxlMemory> all;
  const fs::path bus = fs::path(root) / "sys/bus/cxl/devices";
  for (const auto& [index, folder] : numbered(bus, "mem")) {
    CxlMemory memory;
    memory.name = "mem" + std::to_string(index);
    memory.persistent_bytes = number_in(folder / "pmem/size");
    memory.bytes = number_in(folder / "ram/size") + memory.persistent_bytes;
    all.push_back(std::move(memory));
  }
  // A device's endpoint has the decoders that map its memory into a region.
  for (const auto& [index, folder] : numbered(bus, "endpoint")) {
    const std::string device = fs::path(link_target(folder / "uport")).filename().string();
    const auto found =
        std::find_if(all.begin(), all.end(), [&](const CxlMemory& memory) { return memory.name == device; });
    if (found == all.end()) continue;
    for (const auto& [number, decoder] : numbered(bus, "decoder" + std::to_string(index) + "."))
      found->mapped_bytes += number_in(decoder / "dpa_size");
  }
  return all;
}

std::vector<Gpu> gpus(const std::string& root) {
  std::vector<Gpu> all;
  const fs::path folder = fs::path(root) / "proc/driver/nvidia/gpus";
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::ifstream in(it->path() / "numa_status");
    Gpu gpu;
    gpu.address = it->path().filename().string();
    std::string line;
    while (std::getline(in, line)) {
      std::istringstream words(line);
      std::string key;
      std::string value;
      words >> key >> value;
      if (key == "Status:") gpu.status = value;
      if (key == "Size:") gpu.bytes = std::strtoull(value.c_str(), nullptr, 16);
      if (const auto node = parse_cpu_list(value); key == "Node:" && node && node->size() == 1)
        gpu.node = static_cast<int>(node->front());
    }
    if (gpu.node >= 0) all.push_back(std::move(gpu));
  }
  std::sort(all.begin(), all.end(), [](const Gpu& a, const Gpu& b) { return a.address < b.address; });
  return all;
}

std::string cpu_part(const std::string& root) {
  std::ifstream in(fs::path(root) / "proc/cpuinfo");
  std::string line;
  while (std::getline(in, line)) {
    if (!line.starts_with("CPU part")) continue;
    const size_t begin = line.find("0x");
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

std::optional<std::vector<uint32_t>> allowed_nodes(const std::string& root) {
  std::ifstream in(fs::path(root) / "proc/self/status");
  const std::string key = "Mems_allowed_list:";
  std::string line;
  while (std::getline(in, line)) {
    if (!line.starts_with(key)) continue;
    const size_t begin = line.find_first_not_of(" \t", key.size());
    if (begin != std::string::npos) return parse_cpu_list(line.substr(begin));
  }
  return std::nullopt;
}

size_t possible_nodes(const std::string& root) {
  const std::string text = first_line(fs::path(root) / "sys/devices/system/node/possible");
  const auto list = parse_cpu_list(text);
  return list ? list->size() : 0;
}

uint64_t offline_bytes_of_no_node(const std::string& root) {
  const fs::path system = fs::path(root) / "sys/devices/system";
  uint64_t blocks = 0;
  for (const auto& [block, path] : numbered(system / "memory", "memory")) {
    if (first_line(path / "state") != "offline") continue;
    if (numbered(path, "node").empty()) ++blocks;
  }
  return blocks * block_bytes(system);
}

uint64_t machine_bytes(const std::string& root) {
  return meminfo_bytes(fs::path(root) / "proc/meminfo", "MemTotal");
}

}  // namespace kvt::sysfs
