// SPDX-License-Identifier: Apache-2.0
//
// A GPU as both sides of the protocol use it: its memory in pieces that other processes map, addresses that hold
// device and host memory side by side, and host memory that its engines and kernels reach.
//
//   addresses (the driver's)   | device window        | host window                  |
//   behind them                | handles, cuMemMap    | memfd, mmap and registered   |
//
// Every function makes the GPU's primary context current for its duration. Thread-safe, except where one object is
// used by two threads. Objects keep their Gpu, and a Gpu its driver, for as long as they live.
#pragma once

#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "shm/base/fd.h"
#include "shm/base/mapping.h"
#include "shm/base/uuid.h"
#include "shm/cuda/driver.h"

namespace kvt::cuda {

using Uuid = std::array<uint8_t, 16>;
/// "GPU-01234567-89ab-..." as nvidia-smi prints it.
std::string uuid_text(const Uuid& uuid);

struct GpuInfo {
  int ordinal = -1;  ///< as this process counts them (CUDA_VISIBLE_DEVICES)
  Uuid uuid{};
  std::string name;                  ///< "NVIDIA H200"
  std::string pci_address;           ///< "0000:17:00.0"
  uint64_t bytes = 0;                ///< of its memory, used or not
  int capability = 0;                ///< 90 for compute capability 9.0
  int numa_node = -1;                ///< the host node that is nearest; -1: unknown
  bool stream_writes = false;        ///< a stream can write 64 bits to registered memory
  bool registers_read_only = false;  ///< memory that is mapped read-only can be registered
  bool allocates_host = false;       ///< host memory on a NUMA node, in handles like its own memory
  /// Empty: its memory can be a tier. Else why not: no virtual memory management, no POSIX descriptors ...
  std::string unfit;
};

/// All GPUs that the driver shows to this process, by ordinal.
Result<std::vector<GpuInfo>> list_gpus(const Driver& driver);

class Gpu {
 public:
  /// Retains the primary context: the one that the CUDA runtime of the same process uses. kNotFound for no such
  /// ordinal; kMismatch when it is unfit, with the reason.
  static Result<std::shared_ptr<Gpu>> open(std::shared_ptr<const Driver> driver, int ordinal);
  ~Gpu();
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  [[nodiscard]] const Driver& driver() const { return *driver_; }
  [[nodiscard]] std::shared_ptr<const Driver> shared_driver() const { return driver_; }
  [[nodiscard]] CUcontext context() const { return context_; }
  [[nodiscard]] CUdevice device() const { return device_; }
  [[nodiscard]] const GpuInfo& info() const { return info_; }
  /// Bytes of its memory that nobody uses now.
  [[nodiscard]] Result<uint64_t> free_bytes() const;
  /// Bytes of one piece: windows and chunks are multiples.
  [[nodiscard]] uint64_t granularity() const { return granularity_; }

 private:
  Gpu() = default;
  std::shared_ptr<const Driver> driver_;
  CUdevice device_ = 0;
  CUcontext context_ = nullptr;
  GpuInfo info_;
  uint64_t granularity_ = 0;
};

/// Whether the GPU of one ordinal can reach the memory of another's, over NVLink or PCIe; never its own, and not where the
/// driver does not say.
bool can_access_peer(const Driver& driver, int ordinal, int peer);

/// Reserves addresses, aligned to `alignment`, in which device memory can be mapped, and host memory over the rest:
/// the driver gives them, since it takes a wish for an address only where it suits it. kSystem when it has none.
Result<AddressRange> reserve_addresses(const std::shared_ptr<Gpu>& gpu, uint64_t bytes, uint64_t alignment);

/// Device memory mapped at an address of a reserved range, in chunks. Unmaps and lets go of it when it is destroyed;
/// the memory itself lives until the last process that has mapped it, or has a descriptor of it, lets go.
class DeviceWindow {
 public:
  /// Takes new memory and fills it with zeros: the GPU's, or with `host_node` that of a NUMA node, which the driver makes
  /// (CU_MEM_LOCATION_TYPE_HOST_NUMA): GPUs map it as they map their own. kFull when there is not so much.
  static Result<DeviceWindow> create(const std::shared_ptr<Gpu>& gpu, std::byte* address, uint64_t bytes,
                                     uint64_t chunk_bytes, int host_node = -1);
  /// Maps another process's, whose first chunks these descriptors are. kInvalid for descriptors of another kind.
  static Result<DeviceWindow> import(const std::shared_ptr<Gpu>& gpu, std::byte* address, uint64_t bytes,
                                     uint64_t chunk_bytes, std::span<const Fd> chunks, int host_node = -1);
  DeviceWindow(DeviceWindow&& other) noexcept;
  DeviceWindow& operator=(DeviceWindow&& other) noexcept;
  ~DeviceWindow();

  /// Another GPU's copies and kernels reach it too, in this process alone, and what grow() and map() add. REQUIRES:
  /// can_access_peer(). kSystem as the driver says; then it is as before.
  Result<void> allow_peer(int ordinal);

  /// Chunks that are mapped: the first ones.
  [[nodiscard]] uint64_t chunks() const { return mapped_.size(); }
  /// Maps the next chunks, by their descriptors. On an error some of them may be mapped.
  Result<void> map(std::span<const Fd> next);
  /// Takes new memory, filled with zeros, for the next chunks until so many are there. kFull; on an error there are as
  /// many as before.
  Result<void> grow(uint64_t chunks);
  /// Unmaps all but the first `chunks`, and lets go of their descriptors. REQUIRES: no work of this GPU uses the others.
  void shrink(uint64_t chunks);

  /// One descriptor a chunk; of a window that was made here, or was given them. An imported handle cannot be exported again:
  /// whoever wants to give the memory on, keeps the descriptors.
  [[nodiscard]] const std::vector<Fd>& fds() const { return fds_; }
  void keep(std::vector<Fd> fds) { fds_ = std::move(fds); }
  [[nodiscard]] std::byte* data() const { return address_; }
  [[nodiscard]] uint64_t bytes() const { return bytes_; }

 private:
  DeviceWindow() = default;
  DeviceWindow(std::shared_ptr<Gpu> gpu, std::byte* address, uint64_t bytes, uint64_t chunk_bytes,
               int host_node)
      : gpu_(std::move(gpu)),
        address_(address),
        bytes_(bytes),
        chunk_bytes_(chunk_bytes),
        host_node_(host_node) {}
  /// Bytes of all chunks before this one; of the window for what would come after the last.
  [[nodiscard]] uint64_t offset_of(uint64_t chunk) const { return std::min(chunk * chunk_bytes_, bytes_); }
  Result<void> map_chunk(CUmemGenericAllocationHandle handle);
  Result<void> allow_access(CUdevice device, uint64_t offset, uint64_t bytes, const std::string& whose);
  [[nodiscard]] std::string memory_text() const;

  std::shared_ptr<Gpu> gpu_;
  std::byte* address_ = nullptr;
  uint64_t bytes_ = 0;
  uint64_t chunk_bytes_ = 0;
  int host_node_ = -1;            // of what grow() makes; -1: the GPU's memory
  std::vector<CUdevice> peers_;   // that reach it, too
  std::vector<uint64_t> mapped_;  // bytes of each mapped chunk, in order
  std::vector<Fd> fds_;
};

/// Host memory that GPUs reach under its own address. In pieces, since a copy must not cross from one into another:
/// frames lie in one piece each where pieces are multiples of the page.
class HostRegistration {
 public:
  /// Registers [data, data + bytes) in pieces of `piece_bytes` (a multiple of the OS page; the last is what is left).
  /// `progress` is called now and then with the bytes done; may be empty. kMismatch when the device sees the memory
  /// under another address, or cannot register what is mapped read-only; kSystem as the driver says.
  static Result<HostRegistration> make(const std::shared_ptr<Gpu>& gpu, std::byte* data, uint64_t bytes,
                                       uint64_t piece_bytes, Access access,
                                       const std::function<void(uint64_t bytes)>& progress);
  HostRegistration() = default;
  HostRegistration(HostRegistration&& other) noexcept;
  HostRegistration& operator=(HostRegistration&& other) noexcept;
  ~HostRegistration();

  [[nodiscard]] size_t pieces() const { return pieces_.size(); }

 private:
  std::shared_ptr<Gpu> gpu_;
  std::vector<std::byte*> pieces_;
};

/// Bytes of a piece of host memory in which whole pages of `page_bytes` lie, about a gigabyte.
uint64_t piece_bytes_of(uint64_t page_bytes);

}  // namespace kvt::cuda
