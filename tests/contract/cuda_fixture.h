// SPDX-License-Identifier: Apache-2.0
//
// A driver, its first device with a context of the test's own, and a stream. The driver is the one that KVT_CUDA_DRIVER
// names ("libcuda.so.1" for the real one), else the stand-in.
#pragma once

#include <cuda.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "shm/cuda/driver.h"
#include "tests/support/cuda/standin.h"

namespace kvt::cuda {

inline std::string driver_path() {
  const char* named = std::getenv("KVT_CUDA_DRIVER");
  return named == nullptr || *named == '\0' ? KVT_STANDIN_DRIVER : named;
}

/// A result with its name, for the words of a failed test.
#define KVT_EXPECT_CUDA(expected, call) EXPECT_EQ(static_cast<int>(expected), static_cast<int>(call))
#define KVT_ASSERT_CUDA(expected, call) ASSERT_EQ(static_cast<int>(expected), static_cast<int>(call))
#define KVT_OK(call) KVT_EXPECT_CUDA(CUDA_SUCCESS, call)
#define KVT_ASSERT_OK(call) KVT_ASSERT_CUDA(CUDA_SUCCESS, call)

class CudaTest : public testing::Test {
 protected:
  void SetUp() override {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    auto loaded = Driver::load(driver_path());
    ASSERT_TRUE(loaded) << loaded.error().text;
    driver_ = *loaded;
    make_context();
  }
  void TearDown() override {
    if (context_ != nullptr) end_context();
  }

  void make_context() {
    KVT_ASSERT_OK(driver_->cuDeviceGet(&device_, 0));
    KVT_ASSERT_OK(driver_->cuDevicePrimaryCtxRetain(&context_, device_));
    KVT_ASSERT_OK(driver_->cuCtxSetCurrent(context_));
    KVT_ASSERT_OK(driver_->cuStreamCreateWithPriority(&stream_, CU_STREAM_NON_BLOCKING, 0));
  }
  void end_context() {
    KVT_OK(driver_->cuCtxSetCurrent(nullptr));
    KVT_OK(driver_->cuDevicePrimaryCtxRelease(device_));
    context_ = nullptr;
  }

  CUmemAllocationProp properties(bool exportable = false) const {
    CUmemAllocationProp made{};
    made.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    made.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    made.location.id = device_;
    if (exportable) made.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    return made;
  }
  size_t granularity() const {
    size_t bytes = 0;
    const CUmemAllocationProp of = properties();
    KVT_OK(driver_->cuMemGetAllocationGranularity(&bytes, &of, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
    return bytes;
  }
  CUmemGenericAllocationHandle create(size_t bytes, bool exportable = false) const {
    CUmemGenericAllocationHandle handle = 0;
    const CUmemAllocationProp of = properties(exportable);
    KVT_OK(driver_->cuMemCreate(&handle, bytes, &of, 0));
    return handle;
  }
  CUdeviceptr reserve(size_t bytes) const {
    CUdeviceptr address = 0;
    KVT_OK(driver_->cuMemAddressReserve(&address, bytes, 0, 0, 0));
    return address;
  }
  CUresult allow(CUdeviceptr address, size_t bytes,
                 CUmemAccess_flags flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE) const {
    CUmemAccessDesc access{};
    access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    access.location.id = device_;
    access.flags = flags;
    return driver_->cuMemSetAccess(address, bytes, &access, 1);
  }
  /// Device memory that is mapped and may be used.
  CUdeviceptr mapped(CUmemGenericAllocationHandle handle, size_t bytes) const {
    const CUdeviceptr address = reserve(bytes);
    KVT_OK(driver_->cuMemMap(address, bytes, 0, handle, 0));
    KVT_OK(allow(address, bytes));
    return address;
  }
  CUdeviceptr allocate(size_t bytes) const {
    CUdeviceptr address = 0;
    KVT_OK(driver_->cuMemAlloc(&address, bytes));
    return address;
  }
  /// Memory of the host that the device sees, of the context.
  template <typename T = uint64_t>
  T* host(size_t count) const {
    void* made = nullptr;
    KVT_OK(driver_->cuMemHostAlloc(&made, count * sizeof(T), CU_MEMHOSTALLOC_PORTABLE));
    return static_cast<T*>(made);
  }
  static CUdeviceptr at(const void* pointer) { return reinterpret_cast<CUdeviceptr>(pointer); }

  void write(CUdeviceptr target, const std::vector<uint64_t>& words) const {
    KVT_OK(driver_->cuMemcpyAsync(target, at(words.data()), words.size() * 8, stream_));
    KVT_OK(driver_->cuStreamSynchronize(stream_));
  }
  std::vector<uint64_t> read(CUdeviceptr source, size_t words) const {
    std::vector<uint64_t> found(words);
    KVT_OK(driver_->cuMemcpyAsync(at(found.data()), source, words * 8, stream_));
    KVT_OK(driver_->cuStreamSynchronize(stream_));
    return found;
  }

  CUstream another_stream() const {
    CUstream made = nullptr;
    KVT_OK(driver_->cuStreamCreateWithPriority(&made, CU_STREAM_NON_BLOCKING, 0));
    return made;
  }
  CUevent event(unsigned flags = CU_EVENT_DISABLE_TIMING) const {
    CUevent made = nullptr;
    KVT_OK(driver_->cuEventCreate(&made, flags));
    return made;
  }

  std::shared_ptr<const Driver> driver_;
  CUdevice device_ = 0;
  CUcontext context_ = nullptr;
  CUstream stream_ = nullptr;
};

/// A host function that holds a stream until it is opened.
class Gate {
 public:
  ~Gate() { open(); }
  void open() {
    open_.store(true, std::memory_order_release);
    open_.notify_all();
  }
  [[nodiscard]] bool reached() const { return reached_.load(std::memory_order_acquire); }
  void wait_until_reached() const { reached_.wait(false, std::memory_order_acquire); }
  static void CUDA_CB hold(void* gate) {
    auto& self = *static_cast<Gate*>(gate);
    self.reached_.store(true, std::memory_order_release);
    self.reached_.notify_all();
    self.open_.wait(false, std::memory_order_acquire);
  }

 private:
  std::atomic<bool> reached_{false};
  std::atomic<bool> open_{false};
};

}  // namespace kvt::cuda
