// SPDX-License-Identifier: Apache-2.0
//
// The little of the CUDA driver that cuda_decode calls, loaded when the program runs, as libkvtier does it: so it is built with
// cuda.h alone. With the CUDA runtime it is cudaStreamCreate, cudaMallocHost, cudaMemcpyAsync and cudaEventRecord.
#pragma once

#include <cuda.h>
#include <dlfcn.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

class Gpu {
 public:
  Gpu() {
    CUdevice device = 0;
    CUcontext context = nullptr;
    check(cuInit(0), "cuInit");
    check(cuDeviceGet(&device, 0), "cuDeviceGet");
    // The primary context, which libkvtier and the CUDA runtime use, too.
    check(cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
    check(cuCtxSetCurrent(context), "cuCtxSetCurrent");
    check(cuStreamCreateWithPriority(&stream_, CU_STREAM_NON_BLOCKING, 0), "cuStreamCreateWithPriority");
  }
  [[nodiscard]] CUstream stream() const { return stream_; }
  /// Pinned host memory and events are for the life of the program.
  [[nodiscard]] char* pinned(size_t bytes) const {
    void* made = nullptr;
    check(cuMemHostAlloc(&made, bytes, CU_MEMHOSTALLOC_PORTABLE), "cuMemHostAlloc");
    return static_cast<char*>(made);
  }
  [[nodiscard]] CUevent event() const {
    CUevent made = nullptr;
    check(cuEventCreate(&made, CU_EVENT_DISABLE_TIMING), "cuEventCreate");
    return made;
  }
  void record(CUevent event) const { check(cuEventRecord(event, stream_), "cuEventRecord"); }
  void wait(CUevent event) const { check(cuEventSynchronize(event), "cuEventSynchronize"); }
  /// In the stream's order; either side may be device memory.
  void copy(void* to, const void* from, size_t bytes) const {
    const auto target = reinterpret_cast<CUdeviceptr>(to), source = reinterpret_cast<CUdeviceptr>(from);
    check(cuMemcpyAsync(target, source, bytes, stream_), "cuMemcpyAsync");
  }

 private:
  static void check(CUresult result, const char* what) {
    if (result != CUDA_SUCCESS)
      throw std::runtime_error(std::string(what) + ": CUDA error " + std::to_string(result));
  }
  static void* find(const char* name) {
    static const auto get = [] {
      const char* const named = std::getenv("KVTIER_CUDA_DRIVER");
      void* const library = dlopen(named != nullptr ? named : "libcuda.so.1", RTLD_NOW);
      if (library == nullptr) throw std::runtime_error(dlerror());
      return reinterpret_cast<decltype(&::cuGetProcAddress)>(dlsym(library, "cuGetProcAddress_v2"));
    }();
    void* found = nullptr;
    CUdriverProcAddressQueryResult status{};
    if (get == nullptr || get(name, &found, 12000, CU_GET_PROC_ADDRESS_DEFAULT, &status) != CUDA_SUCCESS ||
        found == nullptr)
      throw std::runtime_error(std::string("the driver has no ") + name);
    return found;
  }

#define GPU_ENTRY(name) decltype(&::name) name = reinterpret_cast<decltype(&::name)>(find(#name))
  GPU_ENTRY(cuInit);
  GPU_ENTRY(cuDeviceGet);
  GPU_ENTRY(cuDevicePrimaryCtxRetain);
  GPU_ENTRY(cuCtxSetCurrent);
  GPU_ENTRY(cuStreamCreateWithPriority);
  GPU_ENTRY(cuMemHostAlloc);
  GPU_ENTRY(cuEventCreate);
  GPU_ENTRY(cuEventRecord);
  GPU_ENTRY(cuEventSynchronize);
  GPU_ENTRY(cuMemcpyAsync);
#undef GPU_ENTRY
  CUstream stream_ = nullptr;
};
