// SPDX-License-Identifier: Apache-2.0
//
// The CUDA driver, loaded at run time: one binary serves hosts with and without a GPU. A table of the entry points
// that kvtier calls, had through cuGetProcAddress, each in the version named here, so that a newer driver cannot
// change a signature under us. Immutable after load(); thread-safe as the driver is.
//
// Needs the toolkit's cuda.h to be compiled, and nothing of it to be linked.
#pragma once

#include <cuda.h>

#include <memory>
#include <string>

#include "shm/base/result.h"

namespace kvt::cuda {

/// Drivers before 12.0 have no cuGetProcAddress that says why a symbol is missing.
inline constexpr int kOldestDriver = 12000;

// X(name, version): needed. The version is the one whose signature cuda.h declares under this name.
#define KVT_CUDA_NEEDED(X)                 \
  X(cuInit, 12000)                         \
  X(cuDriverGetVersion, 12000)             \
  X(cuGetErrorName, 12000)                 \
  X(cuGetErrorString, 12000)               \
  X(cuDeviceGetCount, 12000)               \
  X(cuDeviceGet, 12000)                    \
  X(cuDeviceGetName, 12000)                \
  X(cuDeviceGetUuid, 12000)                \
  X(cuDeviceGetAttribute, 12000)           \
  X(cuDeviceGetPCIBusId, 12000)            \
  X(cuDeviceTotalMem, 12000)               \
  X(cuDeviceCanAccessPeer, 12000)          \
  X(cuDevicePrimaryCtxRetain, 12000)       \
  X(cuDevicePrimaryCtxRelease, 12000)      \
  X(cuCtxPushCurrent, 12000)               \
  X(cuCtxPopCurrent, 12000)                \
  X(cuCtxGetCurrent, 12000)                \
  X(cuCtxGetDevice, 12000)                 \
  X(cuCtxSetCurrent, 12000)                \
  X(cuCtxSynchronize, 12000)               \
  X(cuCtxGetStreamPriorityRange, 12000)    \
  X(cuMemGetInfo, 12000)                   \
  X(cuMemAlloc, 12000)                     \
  X(cuMemFree, 12000)                      \
  X(cuMemHostAlloc, 12000)                 \
  X(cuMemFreeHost, 12000)                  \
  X(cuMemHostRegister, 12000)              \
  X(cuMemHostUnregister, 12000)            \
  X(cuMemHostGetDevicePointer, 12000)      \
  X(cuMemGetAllocationGranularity, 12000)  \
  X(cuMemCreate, 12000)                    \
  X(cuMemRelease, 12000)                   \
  X(cuMemExportToShareableHandle, 12000)   \
  X(cuMemImportFromShareableHandle, 12000) \
  X(cuMemAddressReserve, 12000)            \
  X(cuMemAddressFree, 12000)               \
  X(cuMemMap, 12000)                       \
  X(cuMemUnmap, 12000)                     \
  X(cuMemSetAccess, 12000)                 \
  X(cuMemcpyAsync, 12000)                  \
  X(cuMemcpy2DAsync, 12000)                \
  X(cuMemsetD8Async, 12000)                \
  X(cuMemsetD32Async, 12000)               \
  X(cuStreamCreateWithPriority, 12000)     \
  X(cuStreamDestroy, 12000)                \
  X(cuStreamSynchronize, 12000)            \
  X(cuStreamQuery, 12000)                  \
  X(cuStreamWaitEvent, 12000)              \
  X(cuStreamGetCtx, 12000)                 \
  X(cuStreamIsCapturing, 12000)            \
  X(cuStreamBeginCapture, 12000)           \
  X(cuStreamEndCapture, 12000)             \
  X(cuStreamWriteValue64, 12000)           \
  X(cuLaunchHostFunc, 12000)               \
  X(cuEventCreate, 12000)                  \
  X(cuEventDestroy, 12000)                 \
  X(cuEventRecord, 12000)                  \
  X(cuEventQuery, 12000)                   \
  X(cuEventSynchronize, 12000)             \
  X(cuEventElapsedTime, 12000)             \
  X(cuModuleLoadData, 12000)               \
  X(cuModuleUnload, 12000)                 \
  X(cuModuleGetFunction, 12000)            \
  X(cuFuncSetAttribute, 12000)             \
  X(cuLaunchKernel, 12000)                 \
  X(cuGraphInstantiateWithFlags, 12000)    \
  X(cuGraphLaunch, 12000)                  \
  X(cuGraphExecDestroy, 12000)             \
  X(cuGraphDestroy, 12000)

// X(name, version): null where the driver has none.
#if CUDA_VERSION >= 13000
#define KVT_CUDA_OPTIONAL(X) X(cuMemcpyBatchAsync, 13000)
#else
#define KVT_CUDA_OPTIONAL(X)
#endif

class Driver {
 public:
  /// Loads `path` (empty: "libcuda.so.1", as the linker finds it) and initialises it. kNotFound: there is no such
  /// library, or no device behind it; kMismatch: it is older than kOldestDriver, or lacks an entry point; kSystem:
  /// cuInit failed. The text says which and names the library.
  static Result<std::shared_ptr<const Driver>> load(const std::string& path);
  ~Driver();
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  [[nodiscard]] int version() const { return version_; }  ///< 1000 * major + 10 * minor
  [[nodiscard]] const std::string& path() const { return path_; }

  /// An error with the driver's name of `result` and its sentence; nothing when it is CUDA_SUCCESS. kFull when it is
  /// a lack of memory.
  [[nodiscard]] Result<void> check(CUresult result, const std::string& what) const;

#define KVT_CUDA_MEMBER(name, version) decltype(&::name) name = nullptr;
  KVT_CUDA_NEEDED(KVT_CUDA_MEMBER)
  KVT_CUDA_OPTIONAL(KVT_CUDA_MEMBER)
#undef KVT_CUDA_MEMBER

 private:
  Driver() = default;
  void* library_ = nullptr;
  std::string path_;
  int version_ = 0;
};

/// Whether nothing can be done any more in the context that this came from: it has to be made anew.
bool is_sticky(CUresult result);

/// "13.0"
std::string version_text(int version);

/// Makes a context current for a scope, and puts back what was there.
class Current {
 public:
  Current(const Driver& driver, CUcontext context) : driver_(driver) {
    pushed_ = driver_.cuCtxPushCurrent(context) == CUDA_SUCCESS;
  }
  ~Current() {
    CUcontext popped = nullptr;
    if (pushed_) driver_.cuCtxPopCurrent(&popped);
  }
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  const Driver& driver_;
  bool pushed_ = false;
};

}  // namespace kvt::cuda
