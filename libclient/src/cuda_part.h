// SPDX-License-Identifier: Apache-2.0
//
// What a session with a GPU has beside the others. Destroyed before the windows are unmapped.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "libclient/src/session.h"
#include "shm/cuda/gpu.h"

namespace kvt::client {

/// Device memory of a tier, as far as it is there and mapped.
struct DeviceTier {
  uint32_t tier = 0;
  cuda::DeviceWindow window;
};

struct CudaPart {
  std::shared_ptr<cuda::Gpu> gpu;
  std::vector<DeviceTier> windows;
  std::mutex windows_mutex;                        ///< of their chunks, once the session is attached
  std::vector<cuda::HostRegistration> registered;  ///< host windows, and this member's step slots
  CUstream stream = nullptr;                       ///< the library's own, for copies that a caller waits for
  std::vector<CUmodule> modules;
  // Device code; null: none in this build, or none for this GPU.
  CUfunction map_apply = nullptr;
  CUfunction translate = nullptr;
  CUfunction touches_take = nullptr;

  CudaPart() = default;
  ~CudaPart();
  CudaPart(const CudaPart&) = delete;
  CudaPart& operator=(const CudaPart&) = delete;
  [[nodiscard]] const cuda::Driver& driver() const { return gpu->driver(); }
};

inline CUdeviceptr device_address(const void* address) { return reinterpret_cast<CUdeviceptr>(address); }

/// A stream as StepState keeps it: never null, and back.
inline void* stream_mark(CUstream stream) { return stream == nullptr ? CU_STREAM_LEGACY : stream; }

/// KVT_OK, or the code and the words of what the driver said.
int check_driver(const CudaPart& part, CUresult result, const char* what);

/// Unmaps what the daemon has given up of device memory, and maps what is there again.
void follow_chunks(kvt_session& session);

/// KVT_OK where steps begin, end and enqueue: not inside a graph that is being captured, whose work runs later.
int check_not_captured(const CudaPart& part, CUstream stream);

/// First lines of every public function of cuda.h, after KVT_ENTER.
#define KVT_ENTER_CUDA(session)                                                                          \
  KVT_ENTER(session);                                                                                    \
  if ((session)->cuda == nullptr) [[unlikely]]                                                           \
    return ::kvt::client::set_error(KVT_E_STATE, "the session has no GPU: attach with KVT_ATTACH_CUDA"); \
  const ::kvt::cuda::Current current((session)->cuda->driver(), (session)->cuda->gpu->context())

}  // namespace kvt::client
