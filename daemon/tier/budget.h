// SPDX-License-Identifier: Apache-2.0
//
// How much memory can be had: of the machine, of a NUMA node, as huge pages. Every number is read anew from
// /proc and /sys below `root` ("/" but in tests). No state; thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "shm/base/result.h"

namespace kvt::tier {

inline constexpr uint64_t kHugePageBytes = 2ull << 20;

/// Bytes that this process could still allocate: free memory and the limits of its cgroup and of all above
/// it, less a margin for everybody else (1/16 of the machine, at most 2 GiB).
Result<uint64_t> available_memory_bytes(const std::string& root = "/");

/// Whether it is a cgroup's limit that makes it no more, and not the machine's free memory.
bool cgroup_limits_memory(const std::string& root = "/");

/// The same of one node: what is free or easily given back there, less 1/32 of the node, at most 256 MiB. 0
/// for a node that is not there.
uint64_t available_on_node(uint32_t node, const std::string& root = "/");

/// All memory of a node, used or not; 0: the node has none, or is not there; nothing: it cannot be told now.
std::optional<uint64_t> memory_of_node(uint32_t node, const std::string& root = "/");

/// Huge pages of 2 MiB that are reserved for nobody yet, in bytes: on a node; where `node` is nothing on all,
/// as far as the limits of the cgroup allow.
uint64_t free_huge_bytes(std::optional<uint32_t> node, const std::string& root = "/");

/// Whether shared memory gets huge pages when it asks for them; with false `why` says what forbids it.
bool shmem_gets_huge_pages(std::string& why, const std::string& root = "/");

/// Whether there is a place that memory can be swapped out to.
bool has_swap(const std::string& root = "/");

/// Whether this process may allocate on the node (cpuset).
bool node_is_allowed(uint32_t node);

}  // namespace kvt::tier
