// SPDX-License-Identifier: Apache-2.0
//
// Reads that kernels count in device memory. When a step ends, a kernel in its stream packs the counts into pinned
// memory; whoever finds the step over adds them to the session's counters.
#include <kvtier/cuda.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <kvtier/device.cuh>

#include "libclient/src/cuda_part.h"

using kvt::client::set_error;

namespace kvt::client {

/// Lives as long as a step may write into its memory: the caller's handle and the steps keep it. It does not keep the
/// session's windows.
struct DeviceTouches {
  /// Steps whose counts are on their way at once. Where more end, a later step takes theirs too.
  static constexpr uint32_t kLists = 8;
  static constexpr uint32_t kNone = UINT32_MAX;

  std::shared_ptr<cuda::Gpu> gpu;
  CUdeviceptr counters = 0;  ///< device::Touches, counts, list
  std::byte* pinned = nullptr;
  uint32_t capacity = 0;
  std::array<std::atomic<bool>, kLists> busy{};

  DeviceTouches() = default;
  DeviceTouches(const DeviceTouches&) = delete;
  DeviceTouches& operator=(const DeviceTouches&) = delete;
  ~DeviceTouches() {
    const cuda::Current current(gpu->driver(), gpu->context());
    if (pinned != nullptr) gpu->driver().cuMemFreeHost(pinned);
    if (counters != 0) gpu->driver().cuMemFree(counters);
  }

  [[nodiscard]] uint64_t counters_bytes(uint64_t pages) const {
    return sizeof(device::Touches) + (pages + capacity) * sizeof(uint32_t);
  }
  /// A list is its length, in eight bytes, and the pages.
  [[nodiscard]] uint64_t list_bytes() const { return 8 + uint64_t{capacity} * sizeof(device::Touched); }
  [[nodiscard]] uint32_t* count(uint32_t list) const {
    return reinterpret_cast<uint32_t*>(pinned + list * list_bytes());
  }
  [[nodiscard]] device::Touched* pages(uint32_t list) const {
    return reinterpret_cast<device::Touched*>(pinned + list * list_bytes() + 8);
  }
  uint32_t take_list() {
    for (uint32_t list = 0; list < kLists; ++list)
      if (!busy[list].exchange(true, std::memory_order_acquire)) return list;
    return kNone;
  }
};

void enqueue_touches(kvt_session& session, StepState& state) {
  DeviceTouches& touches = *state.touches;
  if (state.touches_list != DeviceTouches::kNone) return;  // an end that failed behind it
  const uint32_t list = touches.take_list();
  if (list == DeviceTouches::kNone) return;
  *touches.count(list) = 0;
  CUdeviceptr pages = device_address(touches.pages(list));
  CUdeviceptr count = device_address(touches.count(list));
  void* arguments[] = {&touches.counters, &pages, &count};
  constexpr uint32_t kThreads = 256;
  const uint32_t blocks = std::clamp<uint32_t>(touches.capacity / kThreads, 1, 64);
  // What cannot be taken now stays, for a later step.
  if (session.cuda->driver().cuLaunchKernel(session.cuda->touches_take, blocks, 1, 1, kThreads, 1, 1, 0,
                                            static_cast<CUstream>(state.stream), arguments,
                                            nullptr) == CUDA_SUCCESS)
    state.touches_list = list;
  else
    touches.busy[list].store(false, std::memory_order_relaxed);
}

void settle_touches(kvt_session& session, StepState& state, bool cut_short) {
  const std::shared_ptr<DeviceTouches> touches = std::move(state.touches);
  const uint32_t list = std::exchange(state.touches_list, DeviceTouches::kNone);
  if (list == DeviceTouches::kNone) return;
  if (!cut_short) {
    const uint32_t count = std::min(*touches->count(list), touches->capacity);
    const device::Touched* const pages = touches->pages(list);
    for (uint32_t i = 0; i < count; ++i)
      if (pages[i].page < session.table.pages()) touch(session.region, pages[i].page, pages[i].reads);
  }
  touches->busy[list].store(false, std::memory_order_release);
}

}  // namespace kvt::client

struct kvt_cuda_touches {
  kvt_session* session = nullptr;
  std::shared_ptr<kvt::client::DeviceTouches> touches;
};

using kvt::client::DeviceTouches;

extern "C" {

int kvt_cuda_touches_create(kvt_session* session, uint32_t pages_max, kvt_cuda_touches** out) noexcept {
  KVT_ENTER_CUDA(session);
  if (out == nullptr) return set_error(KVT_E_INVALID, "out is NULL");
  *out = nullptr;
  if (session->cuda->touches_take == nullptr)
    return set_error(KVT_E_STATE, "this library has no device code for " + session->cuda->gpu->info().name);
  return kvt::client::guarded([&]() -> int {
    constexpr uint32_t kPagesMax = 16384;
    const auto pages = static_cast<uint32_t>(session->table.pages());
    auto made = std::make_unique<kvt_cuda_touches>();
    made->session = session;
    made->touches = std::make_shared<DeviceTouches>();
    DeviceTouches& touches = *made->touches;
    touches.gpu = session->cuda->gpu;
    touches.capacity = std::min(pages_max == 0 ? kPagesMax : pages_max, pages);
    const kvt::cuda::Driver& driver = session->cuda->driver();
    const uint64_t bytes = touches.counters_bytes(pages);
    CUresult result = driver.cuMemAlloc(&touches.counters, bytes);
    void* pinned = nullptr;
    if (result == CUDA_SUCCESS)
      result = driver.cuMemHostAlloc(&pinned, DeviceTouches::kLists * touches.list_bytes(),
                                     CU_MEMHOSTALLOC_PORTABLE);
    touches.pinned = static_cast<std::byte*>(pinned);
    kvt::device::Touches header{};
    header.capacity = touches.capacity;
    header.pages = pages;
    CUstream stream = session->cuda->stream;
    if (result == CUDA_SUCCESS) result = driver.cuMemsetD8Async(touches.counters, 0, bytes, stream);
    if (result == CUDA_SUCCESS)
      result =
          driver.cuMemcpyAsync(touches.counters, kvt::client::device_address(&header), sizeof header, stream);
    if (result == CUDA_SUCCESS) result = driver.cuStreamSynchronize(stream);
    if (result != CUDA_SUCCESS)
      return kvt::client::check_driver(*session->cuda, result, "memory in which kernels count reads");
    *out = made.release();
    return KVT_OK;
  });
}

void kvt_cuda_touches_destroy(kvt_cuda_touches* touches) noexcept {
  if (touches == nullptr || !touches->session->fork_word.here()) return;
  delete touches;
}

void* kvt_cuda_touches_counters(const kvt_cuda_touches* touches) noexcept {
  return touches == nullptr ? nullptr : reinterpret_cast<void*>(touches->touches->counters);
}

int kvt_cuda_touches_take(kvt_cuda_touches* touches, const kvt_step* step) noexcept {
  if (touches == nullptr) return set_error(KVT_E_INVALID, "touches is NULL");
  kvt_session* const session = touches->session;
  KVT_ENTER(session);
  if (!kvt::client::is_open(*session, step) || session->steps[step->slot].stream == nullptr)
    return set_error(KVT_E_INVALID, "the step is not open, or not of kvt_cuda_step_begin");
  kvt::client::StepState& state = session->steps[step->slot];
  if (state.touches != nullptr && state.touches != touches->touches)
    return set_error(KVT_E_STATE, "the step takes what is counted elsewhere already");
  state.touches = touches->touches;
  return KVT_OK;
}

}  // extern "C"
