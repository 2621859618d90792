// SPDX-License-Identifier: Apache-2.0
//
// The page table on the device: what has moved is written into it, block ids are translated by it.
#include <cstdint>

/// map[changes[i].x] = changes[i].y. REQUIRES: no index twice. `changes` may be host memory: it is read once, in order.
extern "C" __global__ void kvt_map_apply(uint32_t* map, const uint2* changes, uint32_t count) {
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    const uint2 change = changes[i];
    map[change.x] = change.y;
  }
}

/// frames[i] = where page pages[i] is; the scratch frame where that is no index of the map's `length`, or the page is gone.
extern "C" __global__ void kvt_translate(const uint32_t* map, const int32_t* pages, int32_t* frames,
                                         uint32_t count, uint32_t length) {
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    const auto page = static_cast<uint32_t>(pages[i]);
    const uint32_t frame = page < length ? map[page] : 0;
    frames[i] = frame == 0xffffffffu ? 0 : static_cast<int32_t>(frame);
  }
}
