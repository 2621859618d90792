// SPDX-License-Identifier: Apache-2.0
#include "daemon/tier/budget.h"

#include <numa.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>

namespace kvt::tier {
namespace {

/// "MemFree:  123 kB" or "Node 0 MemFree:  123 kB", in bytes by name.
std::map<std::string, uint64_t> read_meminfo(const std::string& path) {
  std::map<std::string, uint64_t> values;
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const size_t blank = line.rfind(' ', colon);
    std::istringstream rest(line.substr(colon + 1));
    uint64_t kib = 0;
    if (rest >> kib)
      values[line.substr(blank == std::string::npos ? 0 : blank + 1,
                         colon - (blank == std::string::npos ? 0 : blank + 1))] = kib << 10;
  }
  return values;
}

uint64_t read_number(const std::string& path) {
  std::ifstream file(path);
  uint64_t number = 0;
  file >> number;
  return number;
}

/// Files of a cgroup's limit. v1 and v2 name them differently.
struct LimitFiles {
  const char* controller;  ///< v1: as in /proc/self/cgroup
  const char* max;
  const char* high;  ///< above it the kernel slows who allocates; empty: there is none
  const char* use;
  /// The line of memory.stat with file pages that are given back when they are wanted
  const char* file_pages;
};
constexpr LimitFiles kMemoryV2{"", "memory.max", "memory.high", "memory.current", "inactive_file"};
constexpr LimitFiles kMemoryV1{"memory", "memory.limit_in_bytes", "", "memory.usage_in_bytes",
                               "total_inactive_file"};
constexpr LimitFiles kHugeV2{"", "hugetlb.2MB.max", "", "hugetlb.2MB.current", ""};
constexpr LimitFiles kHugeV1{"hugetlb", "hugetlb.2MB.limit_in_bytes", "", "hugetlb.2MB.usage_in_bytes", ""};

uint64_t stat_bytes(const std::string& path, const std::string& wanted) {
  std::ifstream file(path);
  std::string name;
  uint64_t value = 0;
  while (file >> name >> value)
    if (name == wanted) return value;
  return 0;
}

/// What the limits of a cgroup and of all above it leave; UINT64_MAX when there is none.
uint64_t headroom_bytes(const std::string& root, std::string path, const LimitFiles& files) {
  uint64_t headroom = UINT64_MAX;
  for (;;) {
    const std::string folder = root + path + "/";
    uint64_t current = 0;
    if (std::ifstream(folder + files.use) >> current) {
      if (files.file_pages[0] != '\0')
        current -= std::min(current, stat_bytes(folder + "memory.stat", files.file_pages));
      for (const char* const limit : {files.max, files.high}) {
        uint64_t max = 0;
        if (limit[0] != '\0' && std::ifstream(folder + limit) >> max)
          headroom = std::min(headroom, max > current ? max - current : 0);
      }
    }
    if (path.empty() || path == "/") return headroom;
    path.resize(path.rfind('/'));
  }
}

uint64_t cgroup_headroom_bytes(const std::string& root, const LimitFiles& v2, const LimitFiles& v1) {
  std::ifstream self(root + "proc/self/cgroup");
  std::string line;
  uint64_t headroom = UINT64_MAX;
  while (std::getline(self, line)) {  // "0::/path" is v2, "9:memory:/path" v1
    const size_t controllers = line.find(':') + 1;
    const size_t path = line.find(':', controllers) + 1;
    if (controllers == 0 || path == 0) continue;
    const std::string which = line.substr(controllers, path - 1 - controllers);
    if (which.empty())
      headroom = std::min(headroom, headroom_bytes(root + "sys/fs/cgroup", line.substr(path), v2));
    else if (which == v1.controller)
      headroom =
          std::min(headroom, headroom_bytes(root + "sys/fs/cgroup/" + v1.controller, line.substr(path), v1));
  }
  return headroom;
}

uint64_t memory_headroom_bytes(const std::string& root) {
  return cgroup_headroom_bytes(root, kMemoryV2, kMemoryV1);
}

/// The word in brackets of "always [madvise] never".
std::string chosen(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  const size_t begin = line.find('[');
  const size_t end = line.find(']', begin);
  return begin == std::string::npos || end == std::string::npos ? ""
                                                                : line.substr(begin + 1, end - begin - 1);
}

uint64_t less_margin(uint64_t bytes, uint64_t margin) { return bytes > margin ? bytes - margin : 0; }

}  // namespace

Result<uint64_t> available_memory_bytes(const std::string& root) {
  const auto meminfo = read_meminfo(root + "proc/meminfo");
  const auto total = meminfo.find("MemTotal");
  const auto available = meminfo.find("MemAvailable");
  if (total == meminfo.end() || available == meminfo.end())
    return fail(Code::kSystem, root + "proc/meminfo has no MemTotal and MemAvailable");
  return less_margin(std::min(available->second, memory_headroom_bytes(root)),
                     std::min(total->second / 16, uint64_t{2} << 30));
}

bool cgroup_limits_memory(const std::string& root) {
  return memory_headroom_bytes(root) < read_meminfo(root + "proc/meminfo")["MemAvailable"];
}

uint64_t available_on_node(uint32_t node, const std::string& root) {
  auto meminfo = read_meminfo(root + "sys/devices/system/node/node" + std::to_string(node) + "/meminfo");
  // As the kernel's MemAvailable: file pages that nobody has dirtied are given back when they are wanted.
  const uint64_t file = (meminfo["Active(file)"] + meminfo["Inactive(file)"]) / 2;
  return less_margin(meminfo["MemFree"] + file, std::min(meminfo["MemTotal"] / 32, uint64_t{256} << 20));
}

std::optional<uint64_t> memory_of_node(uint32_t node, const std::string& root) {
  const std::string folder = root + "sys/devices/system/node/node" + std::to_string(node);
  if (::access(folder.c_str(), F_OK) != 0) return errno == ENOENT ? std::optional<uint64_t>(0) : std::nullopt;
  const auto meminfo = read_meminfo(folder + "/meminfo");
  const auto total = meminfo.find("MemTotal");
  return total == meminfo.end() ? std::nullopt : std::optional(total->second);
}

uint64_t free_huge_bytes(std::optional<uint32_t> node, const std::string& root) {
  const std::string pages = "hugepages/hugepages-2048kB/";
  const std::string folder = node
                                 ? root + "sys/devices/system/node/node" + std::to_string(*node) + "/" + pages
                                 : root + "sys/kernel/mm/" + pages;
  const uint64_t free = read_number(folder + "free_hugepages");
  // Promised to mappings that have not touched them yet; the kernel counts them for the machine alone.
  const uint64_t promised = read_number(root + "sys/kernel/mm/" + pages + "resv_hugepages");
  const uint64_t bytes = less_margin(free, promised) * kHugePageBytes;
  // A container sees the host's pages, and may be allowed none of them.
  return node ? bytes : std::min(bytes, cgroup_headroom_bytes(root, kHugeV2, kHugeV1));
}

bool shmem_gets_huge_pages(std::string& why, const std::string& root) {
  const std::string folder = root + "sys/kernel/mm/transparent_hugepage/";
  const std::string shmem = chosen(folder + "shmem_enabled");
  if (shmem == "always" || shmem == "within_size" || shmem == "advise" || shmem == "force") return true;
  why = shmem.empty() ? "this kernel has no huge pages for shared memory"
                      : folder + "shmem_enabled is " + shmem + "; \"advise\" lets kvtierd ask for huge pages";
  return false;
}

bool has_swap(const std::string& root) {
  std::ifstream swaps(root + "proc/swaps");
  std::string line;
  size_t lines = 0;
  while (std::getline(swaps, line)) ++lines;
  return lines > 1;  // the first one is the heading
}

bool node_is_allowed(uint32_t node) {
  if (::numa_available() < 0) return true;
  const std::unique_ptr<bitmask, void (*)(bitmask*)> allowed(::numa_get_mems_allowed(), ::numa_bitmask_free);
  return allowed == nullptr || ::numa_bitmask_isbitset(allowed.get(), node) != 0;
}

}  // namespace kvt::tier
