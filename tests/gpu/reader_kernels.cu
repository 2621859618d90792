// SPDX-License-Identifier: Apache-2.0
//
// Kernels of gpu_clients: readers of pages that use all of kvtier/device.cuh.
#include <kvtier/device.cuh>

using namespace kvt::device;

/// reads of each of `count` pages
extern "C" __global__ void kvt_test_touch(Touches* touches, const uint32_t* pages, uint32_t count,
                                          uint32_t reads) {
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
    touch(touches, pages[i], reads);
}

/// A block a page, by block id: sums[i] = xor of the 64-bit words of page pages[i]. While a plane is read, the next page's
/// comes near; where targets[i] is a frame, the page is stored there; the read is counted.
extern "C" __global__ void kvt_test_read(View view, const uint32_t* map, Touches* touches,
                                         const int32_t* pages, const uint32_t* targets, uint32_t count,
                                         uint32_t planes, unsigned long long* sums) {
  for (uint32_t i = blockIdx.x; i < count; i += gridDim.x) {
    const uint32_t frame = frame_of(map, pages[i]);
    const uint32_t target = targets == nullptr ? KVT_NO_FRAME : targets[i];
    const uint32_t next = i + gridDim.x < count ? frame_of(map, pages[i + gridDim.x]) : frame;
    unsigned long long sum = 0;
    for (uint32_t plane = 0; plane < planes; ++plane) {
      if (threadIdx.x < 32) {
        if (plane == 0)
          prefetch<Keep::kLast>(view.at(next, plane), view.plane_bytes);
        else
          prefetch_pages(view, &next, 1, plane, true);
      }
      for (uint64_t offset = threadIdx.x * uint64_t{16}; offset < view.plane_bytes;
           offset += blockDim.x * uint64_t{16}) {
        const uint4 value = read_through(view, frame, target, plane, offset);
        sum ^= (value.x | static_cast<unsigned long long>(value.y) << 32) ^
               (value.z | static_cast<unsigned long long>(value.w) << 32);
      }
    }
    atomicXor(&sums[i], sum);
    if (threadIdx.x == 0) touch(touches, static_cast<uint32_t>(pages[i]));
  }
}
