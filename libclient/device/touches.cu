// SPDX-License-Identifier: Apache-2.0
//
// What kernels have counted (kvtier/device.cuh) goes home.
#include <kvtier/device.cuh>

/// taken[0 .. *count) = pages with their counts, which begin anew. `taken` and `count` are host memory, written once.
extern "C" __global__ void kvt_touches_take(kvt::device::Touches* touches, kvt::device::Touched* taken,
                                            uint32_t* count) {
  const uint32_t length = min(touches->length, touches->capacity);
  const uint32_t* const list = touches->list();
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < length; i += gridDim.x * blockDim.x) {
    const uint32_t page = list[i];
    taken[i] = {page, atomicExch(touches->counts() + page, 0u)};
  }
  // The last block to come here begins the next step: all have read the length.
  __syncthreads();
  if (threadIdx.x != 0) return;
  __threadfence();
  if (atomicAdd(&touches->blocks_done, 1u) != gridDim.x - 1) return;
  touches->length = 0;
  touches->blocks_done = 0;
  *count = length;
}
