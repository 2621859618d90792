// SPDX-License-Identifier: Apache-2.0
#include <numa.h>
#include <numaif.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <system_error>
#include <thread>

#include "daemon/tier/backend.h"
#include "daemon/tier/budget.h"

namespace kvt::tier {
namespace {

constexpr uint64_t kChunkBytes = 64ull << 20;
/// Populating holds the lock of the address space, shared: in steps, so that whoever wants it alone is not
/// kept waiting.
constexpr uint64_t kPopulateBytes = 4ull << 20;
/// Each chunk of several nodes is a mapping of its own while it is bound; a process has 65,530 of them.
constexpr uint64_t kChunksMax = 8192;

uint64_t round_up(uint64_t value, uint64_t step) { return (value + step - 1) / step * step; }

/// Binds the memory behind a mapping to one node. The policy of usual pages stays with the memfd's inode, so
/// a later first touch by another process obeys it too; that of huge pages is the mapping's alone.
Result<void> bind_to_node(std::byte* data, uint64_t bytes, uint32_t node) {
  std::vector<unsigned long> mask(node / (8 * sizeof(unsigned long)) + 1, 0);
  mask[node / (8 * sizeof(unsigned long))] |= 1ul << (node % (8 * sizeof(unsigned long)));
  if (::mbind(data, bytes, MPOL_BIND, mask.data(), mask.size() * 8 * sizeof(unsigned long) + 1, 0) != 0) {
    if (errno == EINVAL)
      return fail(Code::kNotFound,
                  "NUMA node " + std::to_string(node) + " is not there, or not allowed to this process");
    return fail_errno("mbind to node " + std::to_string(node));
  }
  return {};
}

/// Where the OS pages really are: asked of the kernel, for up to `samples` of them.
void verify_placement(Window& window, std::byte* data) {
  constexpr uint64_t kSamples = 4096;
  const uint64_t os_page = os_page_bytes();
  const uint64_t each = std::max<uint64_t>(1, kSamples / window.chunks.size());
  for (const Chunk& chunk : window.chunks) {
    const uint64_t count = std::min(each, chunk.bytes / os_page);
    if (count == 0 || chunk.node < 0) continue;
    const uint64_t step = chunk.bytes / count / os_page * os_page;
    std::vector<void*> addresses(count);
    std::vector<int> status(count, -1);
    for (uint64_t i = 0; i < count; ++i) addresses[i] = data + chunk.offset + i * step;
    if (::move_pages(0, count, addresses.data(), nullptr, status.data(), 0) != 0) return;
    for (const int where : status) {
      if (where < 0) continue;
      ++window.verified_os_pages;
      if (where != chunk.node) ++window.misplaced_os_pages;
    }
  }
}

using CpuMask = std::unique_ptr<bitmask, void (*)(bitmask*)>;

/// CPUs near a node's memory: its own, or those of the nearest node that has some. Null: any. Not
/// thread-safe, as libnuma's table of CPUs is not.
CpuMask cpus_near(int32_t node) {
  CpuMask cpus(nullptr, ::numa_bitmask_free);
  if (node < 0 || ::numa_available() < 0) return cpus;
  cpus.reset(::numa_allocate_cpumask());
  int nearest = -1;
  int nearest_distance = 0;
  for (int candidate = 0; candidate <= ::numa_max_node(); ++candidate) {
    const int distance = ::numa_distance(node, candidate);
    if (nearest >= 0 && (distance == 0 || distance >= nearest_distance)) continue;
    if (::numa_node_to_cpus(candidate, cpus.get()) != 0 || ::numa_bitmask_weight(cpus.get()) == 0) continue;
    nearest = candidate;
    nearest_distance = distance == 0 ? INT32_MAX : distance;
  }
  if (nearest < 0 || ::numa_node_to_cpus(nearest, cpus.get()) != 0) cpus.reset();
  return cpus;
}

/// Runs `work` once for each chunk, in `threads` threads, or as many as can be had. Threads are shared out
/// among the nodes, and run near the memory where that is possible; one that has finished its node's chunks
/// takes another's. Stops at the first failure.
template <typename Work>
Result<void> for_each_chunk(const std::vector<Chunk>& chunks, uint32_t threads, const Work& work) {
  std::vector<int32_t> nodes;
  for (const Chunk& chunk : chunks)
    if (std::find(nodes.begin(), nodes.end(), chunk.node) == nodes.end()) nodes.push_back(chunk.node);
  std::vector<CpuMask> near;
  std::vector<std::vector<size_t>> by_node(nodes.size());
  for (const int32_t node : nodes) near.push_back(cpus_near(node));
  for (size_t i = 0; i < chunks.size(); ++i)
    by_node[static_cast<size_t>(std::find(nodes.begin(), nodes.end(), chunks[i].node) - nodes.begin())]
        .push_back(i);
  std::vector<std::atomic<size_t>> next(nodes.size());
  std::vector<Result<void>> outcomes(threads);
  std::atomic<bool> failed{false};
  std::atomic<bool> go{false};  // making a thread maps its stack, and would wait for those that work
  const auto run = [&](uint32_t thread) {
    go.wait(false);
    for (size_t turn = 0; turn < nodes.size(); ++turn) {
      const size_t at = (thread + turn) % nodes.size();
      if (near[at] != nullptr) ::numa_sched_setaffinity(0, near[at].get());
      for (size_t i = next[at].fetch_add(1); i < by_node[at].size(); i = next[at].fetch_add(1)) {
        if (failed.load(std::memory_order_relaxed)) return;
        outcomes[thread] = work(thread, chunks[by_node[at][i]]);
        if (!outcomes[thread]) return failed.store(true, std::memory_order_relaxed);
      }
    }
  };
  const CpuMask before(::numa_allocate_cpumask(), ::numa_bitmask_free);
  const bool known = ::numa_available() >= 0 && ::numa_sched_getaffinity(0, before.get()) > 0;
  std::vector<std::thread> running;
  try {
    for (uint32_t i = 1; i < threads; ++i) running.emplace_back(run, i);
  } catch (const std::system_error&) {
    // A limit of processes is in the way: fewer do the same work.
  }
  go = true;
  go.notify_all();
  run(0);
  if (known) ::numa_sched_setaffinity(0, before.get());
  for (std::thread& thread : running) thread.join();
  for (const auto& outcome : outcomes) KVT_TRY(outcome);
  return {};
}

Result<void> prefault(std::byte* data, const WindowRequest& request, const std::vector<Chunk>& chunks) {
  std::atomic<uint64_t> done{0};
  const auto touch = [&](uint32_t thread, const Chunk& chunk) -> Result<void> {
    for (uint64_t at = 0; at < chunk.bytes; at += kPopulateBytes) {
      if (request.stop != nullptr && request.stop->load(std::memory_order_relaxed))  // no data comes with it
        return fail(Code::kAgain, "given up, the daemon stops");
      KVT_TRY(populate(data + chunk.offset + at, std::min(kPopulateBytes, chunk.bytes - at)));
    }
    const uint64_t total = done.fetch_add(chunk.bytes) + chunk.bytes;
    if (thread == 0 && request.progress) request.progress(total);
    return {};
  };
  KVT_TRY(for_each_chunk(chunks, request.threads, touch));
  if (request.progress) request.progress(request.bytes);
  return {};
}

}  // namespace

std::vector<Chunk> divide(uint64_t bytes, const std::vector<NodePart>& nodes) {
  std::vector<Chunk> chunks;
  uint64_t step = std::max(kChunkBytes, round_up(bytes / kChunksMax, kHugePageBytes));
  if (nodes.size() > 1)
    step = std::clamp(round_up(bytes / (8 * nodes.size()), kHugePageBytes), kHugePageBytes, step);
  double total = 0;
  for (const NodePart& part : nodes) total += static_cast<double>(part.weight);
  std::vector<double> given(nodes.size(), 0);
  double so_far = 0;
  for (uint64_t offset = 0; offset < bytes; offset += step) {
    Chunk chunk{offset, std::min(step, bytes - offset), -1};
    so_far += static_cast<double>(chunk.bytes);
    size_t neediest = 0;
    for (size_t i = 1; i < nodes.size(); ++i) {
      const auto missing = [&](size_t at) {
        return so_far * static_cast<double>(nodes[at].weight) / total - given[at];
      };
      if (missing(i) > missing(neediest)) neediest = i;
    }
    if (!nodes.empty()) {
      given[neediest] += static_cast<double>(chunk.bytes);
      chunk.node = static_cast<int32_t>(nodes[neediest].node);
    }
    chunks.push_back(chunk);
  }
  return chunks;
}

Result<void> lock_window(const Mapping& mapping, const std::vector<Chunk>& chunks, uint32_t threads) {
  return for_each_chunk(chunks, threads, [&](uint32_t, const Chunk& chunk) -> Result<void> {
    if (::mlock(mapping.data() + chunk.offset, chunk.bytes) == 0) return {};
    const int error = errno;
    rlimit limit{};
    ::getrlimit(RLIMIT_MEMLOCK, &limit);
    if ((error == ENOMEM || error == EPERM || error == EAGAIN) && limit.rlim_cur != RLIM_INFINITY)
      return fail(Code::kSystem, "RLIMIT_MEMLOCK is " + std::to_string(limit.rlim_cur >> 10) +
                                     " KiB (systemd: LimitMEMLOCK=infinity)");
    return fail_errno("mlock " + std::to_string(chunk.bytes) + " bytes", error);
  });
}

Result<Window> NumaBackend::make_window(const WindowRequest& request) {
  Window window;
  window.bytes = request.bytes;
  const auto about = [&request](const Error& error) {
    return fail(error.code, request.name + ": " + error.text);
  };
  const bool huge = request.pages == OsPages::kHuge2M;
  if (request.bytes == 0 || request.threads == 0 || (huge && request.bytes % kHugePageBytes != 0))
    return fail(Code::kInvalid, request.name + ": " + std::to_string(request.bytes) + " bytes by " +
                                    std::to_string(request.threads) +
                                    " threads; expected at least an OS page" +
                                    (huge ? ", whole huge pages," : "") + " and one thread");
  auto fd = make_memfd("kvt-" + request.name, request.bytes, request.pages);
  if (!fd) return about(fd.error());
  window.fd = std::move(*fd);
  AddressRange own;  // aligned, so that huge pages fit
  if (request.range == nullptr) {
    auto range = AddressRange::reserve(request.bytes, kHugePageBytes);
    if (!range) return about(range.error());
    own = std::move(*range);
  }
  auto mapped =
      (request.range != nullptr ? *request.range : own)
          .map(window.fd, request.bytes, Access::kReadWrite, request.range != nullptr ? request.offset : 0);
  if (!mapped)
    return about(mapped.error().system_errno == ENOMEM && huge
                     ? Error{Code::kFull, ENOMEM, "not enough free huge pages of 2 MiB"}
                     : mapped.error());
  Mapping mapping = std::move(*mapped);
  advise_pages(mapping.data(), mapping.bytes(), request.pages);
  window.chunks = divide(request.bytes, request.nodes);
  for (const Chunk& chunk : window.chunks)
    if (chunk.node >= 0)
      if (auto bound =
              bind_to_node(mapping.data() + chunk.offset, chunk.bytes, static_cast<uint32_t>(chunk.node));
          !bound)
        return about(bound.error());
  if (request.prefault || (huge && !request.nodes.empty())) {
    if (auto done = prefault(mapping.data(), request, window.chunks); !done)
      return fail(Code::kFull, request.name + ": " + done.error().text + "; make the tier smaller");
    if (!request.nodes.empty()) verify_placement(window, mapping.data());
  }
  if (request.range != nullptr) window.mapping = std::move(mapping);
  return window;
}

}  // namespace kvt::tier
