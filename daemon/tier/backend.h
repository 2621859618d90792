// SPDX-License-Identifier: Apache-2.0
//
// How a tier's memory is had. A backend makes *windows*: one arena's frames in one tier, as a descriptor that clients
// map. The contract suite (tests/contract) runs over every backend. Not synchronised; used at start.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "shm/base/fd.h"
#include "shm/base/mapping.h"
#include "shm/base/result.h"

namespace kvt::tier {

struct WindowRequest {
  std::string name;    ///< of the memfd, without "kvt-"
  uint64_t bytes = 0;  ///< a multiple of the OS page
  int32_t node = -1;   ///< OS index of the NUMA node; -1: any
  bool prefault = true;
  uint32_t threads = 1;                          ///< that prefault in parallel; at least one
  std::function<void(uint64_t bytes)> progress;  ///< called now and then with what has been prefaulted; may be empty
};

struct Window {
  Fd fd;
  uint64_t bytes = 0;
  uint64_t verified_os_pages = 0;   ///< looked at by move_pages after the prefault
  uint64_t misplaced_os_pages = 0;  ///< of these, on another node than asked for
};

class Backend {
 public:
  virtual ~Backend() = default;
  [[nodiscard]] virtual const char* name() const = 0;
  /// kInvalid for no bytes or no thread, kFull when the memory is not there, kNotFound when the node is not; kSystem
  /// when the kernel refuses, as it does more bytes than there are addresses.
  virtual Result<Window> make_window(const WindowRequest& request) = 0;
};

/// memfd memory bound to a NUMA node: DRAM, LPDDR, CXL, HBM that is a node, and the emulated HBM.
class NumaBackend final : public Backend {
 public:
  [[nodiscard]] const char* name() const override { return "numa"; }
  Result<Window> make_window(const WindowRequest& request) override;
};

/// Bytes that this process could still allocate: free memory and the cgroup's limit, less a margin for everybody
/// else (1/16 of the machine, at most 2 GiB).
Result<uint64_t> available_memory_bytes();

}  // namespace kvt::tier
