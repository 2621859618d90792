// SPDX-License-Identifier: Apache-2.0
#include "tests/support/fake_sysfs.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace kvt::test {
namespace {

namespace fs = std::filesystem;

void write(const fs::path& file, const std::string& text) {
  fs::create_directories(file.parent_path());
  std::ofstream out(file);
  out << text << "\n";
  out.close();
  if (!out) throw std::runtime_error("write " + file.string());
}

void link(const fs::path& from, const fs::path& to) {
  fs::create_directories(from.parent_path());
  fs::create_directories(to);
  fs::create_symlink(fs::relative(to, from.parent_path()), from);
}

/// Its own, so that a test does not ask the code that it tests.
std::vector<uint32_t> cpus_of(const std::string& list) {
  std::vector<uint32_t> cpus;
  std::istringstream parts(list);
  for (std::string part; std::getline(parts, part, ',');) {
    const size_t dash = part.find('-');
    const auto first = static_cast<uint32_t>(std::stoul(part));
    const auto last =
        dash == std::string::npos ? first : static_cast<uint32_t>(std::stoul(part.substr(dash + 1)));
    for (uint32_t cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
  }
  return cpus;
}

/// "00000000,0000000f": words of 32 CPUs, the highest first.
std::string mask_of(const std::string& list) {
  std::vector<uint32_t> words(1, 0);
  for (const uint32_t cpu : cpus_of(list)) {
    words.resize(std::max<size_t>(words.size(), cpu / 32 + 1), 0);
    words[cpu / 32] |= 1u << (cpu % 32);
  }
  std::string text;
  char word[16];
  for (size_t i = words.size(); i-- > 0;) {
    std::snprintf(word, sizeof word, "%08x", words[i]);
    text += (text.empty() ? "" : ",") + std::string(word);
  }
  return text;
}

std::string hex(uint64_t value) {
  char text[32];
  std::snprintf(text, sizeof text, "%llx", static_cast<unsigned long long>(value));
  return text;
}

std::string joined(const std::vector<uint32_t>& numbers, const char* separator) {
  std::string text;
  for (const uint32_t number : numbers) text += (text.empty() ? "" : separator) + std::to_string(number);
  return text;
}

void write_cpus(const fs::path& root, const FakeMachine& machine) {
  const fs::path folder = root / "sys/devices/system/cpu";
  std::vector<uint32_t> all;
  std::string info;
  for (size_t package = 0; package < machine.packages.size(); ++package) {
    for (const uint32_t cpu : cpus_of(machine.packages[package])) {
      all.push_back(cpu);
      const std::string own = std::to_string(cpu);
      const fs::path topology = folder / ("cpu" + own) / "topology";
      write(topology / "physical_package_id", std::to_string(package));
      write(topology / "core_id", own);
      write(topology / "thread_siblings", mask_of(own));
      write(topology / "core_siblings", mask_of(machine.packages[package]));
      if (cpu != 0) write(folder / ("cpu" + own) / "online", "1");
      info += "processor\t: " + own + "\n";
      if (machine.architecture == "aarch64")
        info +=
            "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: " + machine.cpu +
            "\n\n";
      else
        info += "vendor_id\t: GenuineIntel\nphysical id\t: " + std::to_string(package) +
                "\nmodel name\t: " + machine.cpu + "\n\n";
    }
  }
  std::sort(all.begin(), all.end());
  for (const char* name : {"online", "present", "possible"}) write(folder / name, joined(all, ","));
  write(root / "proc/cpuinfo", info);
}

std::string meminfo(const std::string& prefix, uint64_t bytes) {
  const std::string kib = std::to_string(bytes >> 10);
  return prefix + "MemTotal:       " + kib + " kB\n" + prefix + "MemFree:        " + kib + " kB\n" + prefix +
         "HugePages_Total:     0";
}

void write_nodes(const fs::path& root, const FakeMachine& machine) {
  const fs::path system = root / "sys/devices/system";
  std::vector<uint32_t> indices;
  uint64_t bytes = 0;
  uint32_t block = 1000;  // behind those that are online, which are not written
  write(system / "memory/block_size_bytes", hex(machine.block_bytes));
  for (const FakeNode& node : machine.nodes) {
    const fs::path folder = system / "node" / ("node" + std::to_string(node.os_index));
    indices.push_back(node.os_index);
    bytes += node.bytes;
    write(folder / "meminfo", meminfo("Node " + std::to_string(node.os_index) + " ", node.bytes));
    write(folder / "cpulist", node.cpus);
    write(folder / "cpumap", mask_of(node.cpus));
    if (!node.distances.empty()) write(folder / "distance", joined(node.distances, " "));
    for (uint32_t i = 0; i < node.offline_blocks; ++i, ++block) {
      const std::string name = "memory" + std::to_string(block);
      write(system / "memory" / name / "state", "offline");
      link(folder / name, system / "memory" / name);
      link(system / "memory" / name / folder.filename(), folder);
    }
    if (node.side_cache_bytes != 0) {
      write(folder / "memory_side_cache/index1/size", std::to_string(node.side_cache_bytes));
      write(folder / "memory_side_cache/index1/line_size", "64");
      write(folder / "memory_side_cache/index1/indexing", "0");
    }
    if (!node.access) continue;
    const fs::path access = folder / "access0/initiators";
    write(access / "read_bandwidth", std::to_string(node.access->read_mbs));
    write(access / "write_bandwidth", std::to_string(node.access->write_mbs));
    write(access / "read_latency", std::to_string(node.access->latency_ns));
    write(access / "write_latency", std::to_string(node.access->latency_ns));
    for (const uint32_t initiator : node.access->initiators) {
      const std::string name = "node" + std::to_string(initiator);
      link(access / name, system / "node" / name);
    }
  }
  for (uint32_t i = 0; i < machine.homeless_offline_blocks; ++i, ++block)
    write(system / "memory" / ("memory" + std::to_string(block)) / "state", "offline");
  for (const char* name : {"online", "possible"}) write(system / "node" / name, joined(indices, ","));
  write(root / "proc/meminfo", meminfo("", bytes));
}

void write_devices(const fs::path& root, const FakeMachine& machine) {
  const fs::path devices = root / "sys/devices";
  for (const FakeDax& dax : machine.dax) {
    const fs::path folder = devices / dax.parent / dax.name;
    write(folder / "size", std::to_string(dax.bytes));
    write(folder / "target_node", std::to_string(dax.target_node));
    link(root / "sys/bus/dax/devices" / dax.name, folder);
    if (!dax.driver.empty()) link(folder / "driver", root / "sys/bus/dax/drivers" / dax.driver);
  }
  const fs::path bus = root / "sys/bus/cxl/devices";
  for (const FakeCxl& cxl : machine.cxl) {
    const std::string index = std::to_string(cxl.index);
    const fs::path memory = devices / ("pci0000:00/0000:0d:00." + index) / ("mem" + index);
    write(memory / "ram/size", "0x" + hex(cxl.ram_bytes));
    write(memory / "pmem/size", "0x" + hex(cxl.persistent_bytes));
    link(bus / ("mem" + index), memory);
    const std::string endpoint = std::to_string(cxl.index + 2);  // numbered with ports, not with devices
    const fs::path port = devices / "platform/ACPI0017:00/root0/port1" / ("endpoint" + endpoint);
    link(port / "uport", memory);
    link(bus / ("endpoint" + endpoint), port);
    const fs::path decoder = port / ("decoder" + endpoint + ".0");
    write(decoder / "dpa_size", "0x" + hex(cxl.mapped_bytes));
    link(bus / decoder.filename(), decoder);
  }
  for (const FakeGpu& gpu : machine.gpus)
    write(root / "proc/driver/nvidia/gpus" / gpu.address / "numa_status",
          "Node:      " + std::to_string(gpu.node) + "\nStatus:    " + gpu.status +
              "\nAddress:   40000000000\nSize:      " + hex(gpu.bytes));
}

}  // namespace

std::vector<std::vector<uint32_t>> plain_distances(size_t nodes, uint32_t remote) {
  std::vector<std::vector<uint32_t>> rows(nodes, std::vector<uint32_t>(nodes, remote));
  for (size_t i = 0; i < nodes; ++i) rows[i][i] = 10;
  return rows;
}

TemporaryFolder::TemporaryFolder() {
  // Machines are thousands of small files: in memory where it can be.
  const bool memory = std::getenv("TMPDIR") == nullptr && ::access("/dev/shm", W_OK) == 0;
  std::string path =
      ((memory ? fs::path("/dev/shm") : fs::temp_directory_path()) / "kvtier-test-XXXXXX").string();
  if (::mkdtemp(path.data()) == nullptr) throw std::runtime_error("mkdtemp " + path);
  path_ = path;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code error;
  fs::remove_all(path_, error);
}

FakeSysfs::FakeSysfs(const FakeMachine& machine) {
  const fs::path root = folder_.path();
  write_cpus(root, machine);
  write_nodes(root, machine);
  write_devices(root, machine);
  write(root / "proc/hwloc-nofile-info",
        "OSName: Linux\nArchitecture: " + machine.architecture +
            "\nPageSize: " + (machine.architecture == "aarch64" ? "65536" : "4096"));
  if (!machine.product.empty()) write(root / "sys/class/dmi/id/product_name", machine.product);
  if (!machine.allowed_nodes.empty())
    write(root / "proc/self/status", "Name:\ttest\nMems_allowed_list:\t" + machine.allowed_nodes);
}

}  // namespace kvt::test
