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

/// What the limits of a cgroup and of all above it leave; UINT64_MAX when there is none. v1 and v2 name their files
/// differently.
uint64_t headroom_bytes(const std::string& root, std::string path, const char* limit_file, const char* use_file) {
  uint64_t headroom = UINT64_MAX;
  for (;;) {
    std::ifstream limit(root + path + "/" + limit_file);
    std::ifstream use(root + path + "/" + use_file);
    uint64_t max = 0;
    uint64_t current = 0;
    if (limit >> max && use >> current) headroom = std::min(headroom, max > current ? max - current : 0);
    if (path.empty() || path == "/") return headroom;
    path.resize(path.rfind('/'));
  }
}

uint64_t cgroup_headroom_bytes() {
  std::ifstream self("/proc/self/cgroup");
  std::string line;
  uint64_t headroom = UINT64_MAX;
  while (std::getline(self, line)) {  // "0::/path" is v2, "9:memory:/path" v1
    const size_t controllers = line.find(':') + 1;
    const size_t path = line.find(':', controllers) + 1;
    if (controllers == 0 || path == 0) continue;
    const std::string which = line.substr(controllers, path - 1 - controllers);
    if (which.empty())
      headroom = std::min(headroom, headroom_bytes("/sys/fs/cgroup", line.substr(path), "memory.max", "memory.current"));
    else if (which == "memory")
      headroom = std::min(headroom, headroom_bytes("/sys/fs/cgroup/memory", line.substr(path), "memory.limit_in_bytes", "memory.usage_in_bytes"));
  }
  return headroom;
}

}  // namespace

Result<Window> NumaBackend::make_window(const WindowRequest& request) {
  Window window;
  window.bytes = request.bytes;
  const auto about = [&request](const Error& error) { return fail(error.code, request.name + ": " + error.text); };
  if (request.bytes == 0 || request.threads == 0)
    return fail(Code::kInvalid, request.name + ": " + std::to_string(request.bytes) + " bytes by " + std::to_string(request.threads) +
                                    " threads; expected at least an OS page and one thread");
  auto fd = make_memfd("kvt-" + request.name, request.bytes);
  if (!fd) return about(fd.error());
  window.fd = std::move(*fd);
  auto mapped = Mapping::map(window.fd, request.bytes, Access::kReadWrite);
  if (!mapped) return about(mapped.error());
  const Mapping mapping = std::move(*mapped);
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
