// SPDX-License-Identifier: Apache-2.0
//
// Copies many small pages between host and device memory in one launch. A copy engine takes 0.8 to 1 us to begin each
// page, in which the link could have moved 50 KiB: below that the multiprocessors are faster (docs/measurements/gpu.md).
#include <cstdint>

/// pairs[i] = {source, target} of page i; `bytes` of each, a multiple of 512. Blocks take pages in turn; four loads of 16
/// bytes a thread are under way, which is what the latency of the link asks for.
extern "C" __global__ void __launch_bounds__(256)
    kvt_copy_pages(const ulonglong2* pairs, uint32_t count, uint64_t bytes) {
  constexpr uint32_t kAhead = 4;
  const auto words = static_cast<uint32_t>(bytes / sizeof(uint4));
  for (uint32_t page = blockIdx.x; page < count; page += gridDim.x) {
    const auto* const source = reinterpret_cast<const uint4*>(pairs[page].x);
    auto* const target = reinterpret_cast<uint4*>(pairs[page].y);
    for (uint32_t at = threadIdx.x; at < words; at += kAhead * blockDim.x) {
      uint4 word[kAhead];
#pragma unroll
      for (uint32_t k = 0; k < kAhead; ++k)
        if (at + k * blockDim.x < words) word[k] = __ldcs(source + at + k * blockDim.x);
#pragma unroll
      for (uint32_t k = 0; k < kAhead; ++k)
        if (at + k * blockDim.x < words) __stcs(target + at + k * blockDim.x, word[k]);
    }
  }
}
