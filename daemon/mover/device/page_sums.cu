// SPDX-License-Identifier: Apache-2.0
//
// Checksums of pages where they lie, so that those in HBM are checked without the link. A CTA has up to 64 KiB of a page
// under way, which is what the latency of HBM asks for; the lanes of the tile before are brought up to date beside that.
#include "daemon/mover/device/page_sums.h"

using namespace kvt::mover::device;

namespace {

__constant__ Constants constants_of_all = kConstants;

}  // namespace

extern "C" __global__ void __launch_bounds__(kSumThreads)
    kvt_page_sums(const uint64_t* pages, uint64_t* sums, uint32_t count, uint64_t bytes) {
  __shared__ Tile tile[2];
  __shared__ uint64_t lanes[kLanes];
  __shared__ Constants constants;  // a warp reads several of them at once, which constant memory is slow at
  if (threadIdx.x == 0) constants = constants_of_all;
  __syncthreads();
  const uint64_t last = tiles(bytes);
  const bool reads = threadIdx.x < kTileThreads;
  const uint32_t lane = threadIdx.x - kTileThreads;
  uint64_t next = pages[blockIdx.x];  // a page ahead: the list is on the other side of the link
  for (uint32_t at = blockIdx.x; at < count; at += gridDim.x) {
    const auto* const page = reinterpret_cast<const std::byte*>(next);
    if (at + gridDim.x < count) next = pages[at + gridDim.x];
    uint64_t value = reads || lane >= kLanes ? 0 : constants.first[lane];
    for (uint64_t number = 0; number <= last; ++number) {
      if (reads) {
        if (number < last) sum_part(tile[number % 2], page, bytes, number, threadIdx.x, constants);
      } else if (lane < kLanes && number > 0) {
        value = take_tile(value, tile[(number - 1) % 2], bytes, number - 1, lane, constants);
      }
      __syncthreads();
    }
    if (reads) continue;
    if (lane < kLanes) lanes[lane] = value;
    __syncwarp();
    if (lane == 0) sums[at] = finish(lanes, bytes, constants);
    __syncwarp();
  }
}
