// SPDX-License-Identifier: Apache-2.0
//
// Kernels of gpu_measure.
#include <cstdint>

/// Stores to both addresses for as long as the context lives: a count, so that who watches sees each store.
extern "C" __global__ void kvt_test_scribble(volatile uint64_t* host, volatile uint64_t* device) {
  for (uint64_t i = 1; i != 0; ++i) {
    *host = i;
    *device = i;
    __threadfence_system();
    __nanosleep(1000);
  }
}

__device__ uint64_t kvt_test_word(uint64_t index, uint64_t seed) {
  return (index * 0x9e3779b97f4a7c15ull) ^ seed;
}

extern "C" __global__ void kvt_test_fill(uint64_t* data, uint64_t words, uint64_t seed) {
  for (uint64_t i = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x; i < words;
       i += uint64_t{gridDim.x} * blockDim.x)
    data[i] = kvt_test_word(i, seed);
}

extern "C" __global__ void kvt_test_count_wrong(const uint64_t* data, uint64_t words, uint64_t seed,
                                                unsigned long long* wrong) {
  unsigned long long found = 0;
  for (uint64_t i = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x; i < words;
       i += uint64_t{gridDim.x} * blockDim.x)
    found += data[i] != kvt_test_word(i, seed) ? 1 : 0;
  if (found != 0) atomicAdd_system(wrong, found);
}
