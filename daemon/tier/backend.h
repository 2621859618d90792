// SPDX-License-Identifier: Apache-2.0
//
// How a tier's memory is had. A backend makes *windows*: one arena's frames in one tier, as a descriptor that
// clients map. The contract suite (tests/contract) runs over every backend. Not synchronised: used by one thread, at start
// the loop's, then keeper::Background's.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "shm/base/fd.h"
#include "shm/base/mapping.h"
#include "shm/base/result.h"

namespace kvt::tier {

/// Whose memory a window has, and how much of it beside the other nodes'.
struct NodePart {
  uint32_t node = 0;    ///< OS index
  uint64_t weight = 1;  ///< such as the bytes that can be had there; at least 1
};

struct WindowRequest {
  std::string name;    ///< of the memfd, without "kvt-"
  uint64_t bytes = 0;  ///< a multiple of the OS page; with kHuge2M of 2 MiB
  /// Chunk by chunk in turn, by weight; empty: any node. Of a GPU's backend: empty for its own memory; one node for memory
  /// of the host that its driver allocates there.
  std::vector<NodePart> nodes;
  OsPages pages = OsPages::kUsual;
  uint64_t chunk_bytes =
      0;  ///< of device memory: behind each descriptor, the last one's less; the table says it to clients
  bool prefault = true;  ///< with kHuge2M and nodes always: huge pages are bound where they are first touched
  uint32_t threads = 1;  ///< that prefault in parallel, each on a CPU near the memory; at least one
  std::function<void(uint64_t bytes)>
      progress;  ///< called now and then with what has been prefaulted; may be empty
  const std::atomic<bool>* stop =
      nullptr;  ///< true: the prefault of host memory is given up (kAgain); null: never
  /// Of device memory: the chunks that an earlier daemon has made, by their descriptors, which the window takes; null: new
  std::shared_ptr<std::vector<Fd>> adopt;
  std::vector<int> peers;  ///< of device memory: other GPUs that are to reach it (Gpus::can_access), ordinals
  /// Where this process wants it mapped: the prefault then fills these page tables, too, and nothing is
  /// unmapped. Null: nowhere. The range outlives the call; `offset` as for AddressRange::map, a multiple of 2
  /// MiB.
  AddressRange* range = nullptr;
  uint64_t offset = 0;
};

/// A piece of a window that lies on one node: the unit of binding, of prefaulting, of locking, and of
/// registering with a device.
struct Chunk {
  uint64_t offset = 0;
  uint64_t bytes = 0;
  int32_t node = -1;  ///< OS index; -1: any
};

/// A window of device memory in chunks, from its beginning on, mapped in its range, and their descriptors. Unmapped when it
/// is destroyed; who else has mapped a chunk, or has its descriptor, keeps it. One thread at a time.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  /// Of the chunks that are there; each lives as long as its chunk is there.
  [[nodiscard]] virtual std::vector<int> fds() const = 0;
  /// Takes memory until so many chunks are there. kFull; on an error there are as many as before.
  virtual Result<void> grow(size_t chunks) = 0;
  /// Gives up all but the first `chunks`. REQUIRES: no copy of this process uses them.
  virtual void shrink(size_t chunks) = 0;
};

struct Window {
  Fd fd;                                 ///< of host memory
  Mapping mapping;                       ///< in the request's range; not valid without one
  std::shared_ptr<DeviceMemory> device;  ///< device memory instead; before its range is destroyed
  std::vector<int> peers;  ///< that do reach it; and what the driver said of the first that does not
  std::string peers_left_out;
  uint64_t bytes = 0;
  std::vector<Chunk> chunks;        ///< in order, without gaps
  uint64_t verified_os_pages = 0;   ///< looked at by move_pages after the prefault
  uint64_t misplaced_os_pages = 0;  ///< of these, on another node than asked for
};

class Backend {
 public:
  virtual ~Backend() = default;
  [[nodiscard]] virtual const char* name() const = 0;
  /// kInvalid for no bytes or no thread, kFull when the memory is not there, kNotFound when a node is not;
  /// kSystem when the kernel refuses, as it does more bytes than there are addresses.
  virtual Result<Window> make_window(const WindowRequest& request) = 0;
};

/// memfd memory bound to NUMA nodes: DRAM, LPDDR, CXL, HBM that is a node, and the emulated HBM.
class NumaBackend final : public Backend {
 public:
  [[nodiscard]] const char* name() const override { return "numa"; }
  Result<Window> make_window(const WindowRequest& request) override;
};

/// How a window is divided: `bytes` among the nodes by weight, in chunks large enough for few mappings and
/// small enough that any large part of the window has a share of each node.
std::vector<Chunk> divide(uint64_t bytes, const std::vector<NodePart>& nodes);

/// Locks a mapped window into memory, chunk by chunk, with `threads` threads: it is never swapped out.
/// kSystem with a sentence when a limit (RLIMIT_MEMLOCK) forbids it; what has been locked stays so.
Result<void> lock_window(const Mapping& mapping, const std::vector<Chunk>& chunks, uint32_t threads);

}  // namespace kvt::tier
