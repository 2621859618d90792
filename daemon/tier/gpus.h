// SPDX-License-Identifier: Apache-2.0
//
// The GPUs of this host as pools of memory. Nothing of CUDA is in this header: in a build without its headers
// open() answers kNotFound, and nothing else is reached. Used at start and by the loop; not synchronised, but for GPUs that
// have a context: of these free_bytes, reserve_addresses, backend and register_host are any thread's.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "daemon/tier/backend.h"
#include "shm/base/mapping.h"
#include "shm/base/result.h"

namespace kvt::cuda {
class Gpu;
}

namespace kvt::tier {

using DeviceUuid = std::array<uint8_t, 16>;

struct GpuMemory {
  int ordinal = -1;  ///< as the driver counts them for this process
  DeviceUuid uuid{};
  std::string uuid_text;  ///< "GPU-01234567-..."
  std::string name;       ///< "NVIDIA H200"
  std::string pci_address;
  uint64_t bytes = 0;           ///< of its memory, used or not
  int numa_node = -1;           ///< the host's that is nearest; -1: unknown
  bool allocates_host = false;  ///< its driver can make windows of host memory, too
  std::string unfit;            ///< not empty: why it cannot be a tier
};

/// What keeps device memory mapped, or host memory registered; destroyed, it no longer is.
using Kept = std::shared_ptr<void>;

/// 10^9 bytes a second, measured.
struct GpuFigures {
  double in_gbs = 0;    ///< copy from host memory
  double out_gbs = 0;   ///< to it
  double both_gbs = 0;  ///< in and out at once, together
  double copy_gbs = 0;  ///< within its memory; bytes read and bytes written both count
  double read_gbs = 0;  ///< what a kernel reads of host memory; 0: not known, there is no device code for it
};

class Gpus {
 public:
  virtual ~Gpus() = default;
  /// Loads the driver (empty: libcuda.so.1). kNotFound: there is none, no GPU behind it, or this build has no CUDA;
  /// kMismatch: it is too old; kSystem: it does not start. The text says what to do without.
  static Result<std::shared_ptr<Gpus>> open(const std::string& driver_path);

  [[nodiscard]] virtual const std::vector<GpuMemory>& list() const = 0;
  /// "libcuda.so.1, CUDA 13.0"
  [[nodiscard]] virtual std::string driver_text() const = 0;
  /// `which` as configured: an ordinal, or a UUID or the beginning of one. kNotFound, kInvalid, kMismatch (unfit).
  [[nodiscard]] Result<GpuMemory> find(const std::string& which) const;

  // REQUIRES of all: `ordinal` is that of a fit GPU of list(). The first call makes its context: 300 to 500 MiB.
  virtual Result<uint64_t> free_bytes(int ordinal) = 0;
  virtual Result<AddressRange> reserve_addresses(int ordinal, uint64_t bytes, uint64_t alignment) = 0;
  /// Device memory needs request.range, reserved by reserve_addresses of the same GPU.
  virtual Result<std::unique_ptr<Backend>> backend(int ordinal) = 0;
  /// Makes a window of host memory a source and a target of the GPU's copies, at its own address.
  virtual Result<Kept> register_host(int ordinal, const Mapping& window, uint64_t page_bytes,
                                     const std::function<void(uint64_t bytes)>& progress) = 0;
  /// Whether one GPU's copies can reach another's memory, as the driver says; not that they do (WindowRequest::peers).
  /// False of its own.
  [[nodiscard]] virtual bool can_access(int ordinal, int peer) const = 0;
  /// Copies 64 MiB to and fro, and reads as many by a kernel, best of three: a tenth of a second.
  virtual Result<GpuFigures> measure(int ordinal) = 0;
  virtual Result<std::shared_ptr<cuda::Gpu>> gpu(int ordinal) = 0;
  /// Which processes have a context on any GPU, as the driver's management library tells; nothing where that is not
  /// there or cannot know (another PID namespace). A call of the driver for each GPU.
  virtual std::optional<std::set<int>> processes() = 0;
};

/// Bytes behind each descriptor of a device window.
uint64_t device_chunk_bytes(uint64_t window_bytes);

}  // namespace kvt::tier
