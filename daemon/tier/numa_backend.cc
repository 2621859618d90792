// SPDX-License-Identifier: Apache-2.0
#include <numa.h>
#include <numaif.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <thread>
#include <vector>

#include "daemon/tier/backend.h"

namespace kvt::tier {
namespace {

constexpr uint64_t kChunkBytes = 64ull << 20;

/// Binds the memory behind a mapping to one node. The policy stays with the memfd's inode, so a later first touch by
/// another process obeys it too.
Result<void> bind_to_node(std::byte* data, uint64_t bytes, uint32_t node) {
  std::vector<unsigned long> mask(node / (8 * sizeof(unsigned long)) + 1, 0);
  mask[node / (8 * sizeof(unsigned long))] |= 1ul << (node % (8 * sizeof(unsigned long)));
  if (::mbind(data, bytes, MPOL_BIND, mask.data(), mask.size() * 8 * sizeof(unsigned long) + 1, 0) != 0) {
    if (errno == EINVAL) return fail(Code::kNotFound, "NUMA node " + std::to_string(node) + " is not there, or not allowed to this process");
    return fail_errno("mbind to node " + std::to_string(node));
  }
  return {};
}

/// Where the OS pages really are: asked of the kernel, for up to `samples` of them.
void verify_placement(Window& window, std::byte* data, uint32_t node) {
  constexpr uint64_t kSamples = 4096;
  const uint64_t os_page = os_page_bytes();
  const uint64_t count = std::min(kSamples, window.bytes / os_page);
  if (count == 0) return;
  const uint64_t step = window.bytes / count / os_page * os_page;
  std::vector<void*> addresses(count);
  std::vector<int> status(count, -1);
  for (uint64_t i = 0; i < count; ++i) addresses[i] = data + i * step;
  if (::move_pages(0, count, addresses.data(), nullptr, status.data(), 0) != 0) return;
  for (const int where : status) {
    if (where < 0) continue;
    ++window.verified_os_pages;
    if (static_cast<uint32_t>(where) != node) ++window.misplaced_os_pages;
  }
}

/// Touches everything with `threads` threads, chunk by chunk.
Result<void> prefault(std::byte* data, const WindowRequest& request) {
  std::atomic<uint64_t> next{0};
  std::atomic<uint64_t> done{0};
  std::vector<Result<void>> outcomes(request.threads);
  const auto work = [&](uint32_t worker) {
    for (;;) {
      const uint64_t at = next.fetch_add(kChunkBytes);
      if (at >= request.bytes || !outcomes[worker]) return;
      const uint64_t bytes = std::min(kChunkBytes, request.bytes - at);
      outcomes[worker] = populate(data + at, bytes);
      const uint64_t total = done.fetch_add(bytes) + bytes;
      if (worker == 0 && request.progress) request.progress(total);
    }
  };
  std::vector<std::thread> threads;
  for (uint32_t i = 1; i < request.threads; ++i) threads.emplace_back(work, i);
  work(0);
  for (std::thread& thread : threads) thread.join();
  for (const auto& outcome : outcomes) KVT_TRY(outcome);
  if (request.progress) request.progress(request.bytes);
  return {};
}

/// The smallest memory limit and its use along this process's cgroup v2 path; UINT64_MAX when there is none.
uint64_t cgroup_headroom_bytes() {
  std::ifstream self("/proc/self/cgroup");
  std::string line;
  std::string path;
  while (std::getline(self, line))
    if (line.starts_with("0::")) path = line.substr(3);
  uint64_t headroom = UINT64_MAX;
  while (!path.empty()) {
    std::ifstream limit("/sys/fs/cgroup" + path + "/memory.max");
    std::ifstream use("/sys/fs/cgroup" + path + "/memory.current");
    uint64_t max = 0;
    uint64_t current = 0;
    if (limit >> max && use >> current) headroom = std::min(headroom, max > current ? max - current : 0);
    if (path == "/") break;
    path.resize(path.rfind('/'));
  }
  return headroom;
}

}  // namespace

Result<Window> NumaBackend::make_window(const WindowRequest& request) {
  Window window;
  window.bytes = request.bytes;
  KVT_TRY_ASSIGN(window.fd, make_memfd("kvt-" + request.name, request.bytes));
  KVT_TRY_ASSIGN(const Mapping mapping, Mapping::map(window.fd, request.bytes, Access::kReadWrite));
  advise_huge(mapping.data(), mapping.bytes());
  if (request.node >= 0) KVT_TRY(bind_to_node(mapping.data(), mapping.bytes(), static_cast<uint32_t>(request.node)));
  if (request.prefault) {
    if (auto done = prefault(mapping.data(), request); !done)
      return fail(Code::kFull, request.name + ": " + done.error().text + "; make the tier smaller");
    if (request.node >= 0) verify_placement(window, mapping.data(), static_cast<uint32_t>(request.node));
  }
  return window;
}

Result<uint64_t> available_memory_bytes() {
  std::ifstream meminfo("/proc/meminfo");
  std::string name;
  uint64_t value_kib = 0;
  std::string unit;
  uint64_t available = 0;
  uint64_t total = 0;
  while (meminfo >> name >> value_kib) {
    std::getline(meminfo, unit);
    if (name == "MemAvailable:") available = value_kib << 10;
    if (name == "MemTotal:") total = value_kib << 10;
  }
  if (total == 0) return fail(Code::kSystem, "/proc/meminfo has no MemTotal");
  available = std::min(available, cgroup_headroom_bytes());
  const uint64_t margin = std::min(total / 16, uint64_t{2} << 30);
  return available > margin ? available - margin : 0;
}

}  // namespace kvt::tier
