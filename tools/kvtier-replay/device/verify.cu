// SPDX-License-Identifier: Apache-2.0
//
// Reads pages where they are, in device memory or through the link, and compares every word.
#include "tools/kvtier-replay/device/verify.h"

using kvt::replay::content_word;
using kvt::replay::kPieceWords;
using kvt::replay::kVerifyThreads;
using kvt::replay::PageCheck;
using kvt::replay::PageResult;

using Counter = unsigned long long;  // as atomics want it
static_assert(sizeof(Counter) == sizeof(uint64_t));

namespace {

__device__ Counter* counter(uint64_t& of) { return reinterpret_cast<Counter*>(&of); }

}  // namespace

extern "C" __global__ void __launch_bounds__(kVerifyThreads)
    kvt_replay_verify(const PageCheck* checks, PageResult* results, uint32_t count, uint64_t words) {
  __shared__ Counter read_by_block;
  __shared__ Counter wrong_by_block;
  __shared__ Counter first_by_block;
  const uint64_t begin = uint64_t{blockIdx.y} * kPieceWords;
  const uint64_t end = begin + kPieceWords < words ? begin + kPieceWords : words;
  for (uint32_t page = blockIdx.x; page < count; page += gridDim.x) {
    if (threadIdx.x == 0) read_by_block = wrong_by_block = first_by_block = 0;
    __syncthreads();
    const PageCheck check = checks[page];
    const auto* const in = reinterpret_cast<const ulonglong2*>(check.address);
    Counter read = 0;
    Counter wrong = 0;
    Counter first = 0;
    const auto look = [&](uint64_t offset, Counter word) {
      ++read;
      if (word == content_word(check.start, check.stride, offset)) return;
      ++wrong;
      if (first == 0) first = words - offset;  // offsets ascend
    };
    // Each word is read once: past the caches that others need.
    for (uint64_t at = begin / 2 + threadIdx.x; at < end / 2; at += blockDim.x) {
      const ulonglong2 pair = __ldcs(in + at);
      look(2 * at, pair.x);
      look(2 * at + 1, pair.y);
    }
    atomicAdd(&read_by_block, read);
    if (wrong != 0) {
      atomicAdd(&wrong_by_block, wrong);
      atomicMax(&first_by_block, first);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      PageResult& result = results[page];
      atomicAdd(counter(result.words_read), read_by_block);
      if (wrong_by_block != 0) {
        atomicAdd(counter(result.words_wrong), wrong_by_block);
        atomicMax(counter(result.first_wrong_to_end), first_by_block);
      }
      __threadfence();  // before the count: the block that counts last sees all of them
      if (atomicAdd(counter(result.pieces_done), Counter{1}) == gridDim.y - 1) {
        __threadfence();
        const Counter to_end = atomicMax(counter(result.first_wrong_to_end), Counter{0});
        if (to_end != 0)
          result.found = __ldcv(reinterpret_cast<const Counter*>(check.address) + (words - to_end));
      }
    }
    __syncthreads();  // the counts are begun anew
  }
}

extern "C" __global__ void __launch_bounds__(kVerifyThreads)
    kvt_replay_fill(uint64_t* data, uint64_t words, uint64_t start, uint64_t stride) {
  for (uint64_t at = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; at < words;
       at += uint64_t{gridDim.x} * blockDim.x)
    data[at] = content_word(start, stride, at);
}
