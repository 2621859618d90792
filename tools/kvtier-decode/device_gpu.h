// SPDX-License-Identifier: Apache-2.0
//
// The GPU of a run: its stream, its kernels, memory of both kinds. Its context is the primary one, which libkvtier
// uses, too. Failures of the driver are std::runtime_error. Not thread-safe.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "shm/cuda/gpu.h"

namespace kvt::decode {

class Device {
 public:
  /// See open_device.
  Device(const std::string& driver, int ordinal);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  [[nodiscard]] const cuda::Driver& driver() const { return gpu_->driver(); }
  [[nodiscard]] const cuda::Gpu& gpu() const { return *gpu_; }
  [[nodiscard]] int ordinal() const { return ordinal_; }
  /// As it was asked for.
  [[nodiscard]] const std::string& driver_path() const { return driver_path_; }
  /// Where everything is enqueued, but for what a second stream is made for.
  [[nodiscard]] CUstream stream() const { return stream_; }
  [[nodiscard]] CUfunction store() const { return store_; }
  [[nodiscard]] CUfunction attend() const { return attend_; }
  /// Makes its context current for a scope.
  [[nodiscard]] cuda::Current use() const { return {driver(), gpu_->context()}; }
  /// Waits for all that is in a stream. REQUIRES: use().
  void wait(CUstream stream) const;
  void check(CUresult result, const char* what) const;

 private:
  std::string driver_path_;
  int ordinal_;
  std::shared_ptr<cuda::Gpu> gpu_;
  CUstream stream_ = nullptr;
  CUmodule module_ = nullptr;
  CUfunction store_ = nullptr;
  CUfunction attend_ = nullptr;
};

inline CUdeviceptr device_address(const void* address) { return reinterpret_cast<CUdeviceptr>(address); }

/// HBM of this process alone. The CPU cannot read it.
class DeviceMemory {
 public:
  DeviceMemory(std::shared_ptr<Device> device, size_t bytes);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  [[nodiscard]] std::byte* data() const { return reinterpret_cast<std::byte*>(address_); }

 private:
  std::shared_ptr<Device> device_;
  CUdeviceptr address_ = 0;
};

/// Host memory that kernels reach under the same address.
template <typename T>
class PinnedArray {
 public:
  PinnedArray(std::shared_ptr<Device> device, size_t count) : device_(std::move(device)) {
    const auto current = device_->use();
    void* memory = nullptr;
    device_->check(device_->driver().cuMemHostAlloc(&memory, count * sizeof(T), CU_MEMHOSTALLOC_PORTABLE),
                   "host memory for a kernel's arguments");
    data_ = static_cast<T*>(memory);
  }
  ~PinnedArray() {
    const auto current = device_->use();
    device_->driver().cuMemFreeHost(data_);
  }
  PinnedArray(const PinnedArray&) = delete;
  PinnedArray& operator=(const PinnedArray&) = delete;
  [[nodiscard]] T* data() const { return data_; }

 private:
  std::shared_ptr<Device> device_;
  T* data_ = nullptr;
};

}  // namespace kvt::decode
