// SPDX-License-Identifier: Apache-2.0
//
// What touches KV data, on the GPU: plain, and the same bits wherever the blocks lie. Every sum has a fixed order, which
// is a function of the tokens alone, and products are rounded before they are added.
//
// The block that is n-th in the sequence begins, for this layer, at  layer + frames[n] * stride.  In it, in floats:
//   keys [kv head][token][head_dim], values [kv head][token][head_dim]
#include <cstdint>

namespace {

/// Threads of a block of kvt_decode_attend. Sums over tokens are taken apart by it.
constexpr uint32_t kThreads = 128;

__device__ float* block_of(char* layer, uint64_t stride, const int32_t* frames, uint32_t block) {
  return reinterpret_cast<float*>(layer +
                                  static_cast<uint64_t>(static_cast<uint32_t>(frames[block])) * stride);
}

}  // namespace

/// Writes keys and values [kv_heads][head_dim] of one token into a block. A thread an element.
extern "C" __global__ void kvt_decode_store(char* layer, uint64_t stride, const int32_t* frames,
                                            uint32_t block, uint32_t slot, uint32_t block_tokens,
                                            uint32_t kv_heads, uint32_t head_dim, const float* keys,
                                            const float* values) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= kv_heads * head_dim) return;
  float* const data = block_of(layer, stride, frames, block);
  const uint32_t at = (i / head_dim * block_tokens + slot) * head_dim + i % head_dim;
  data[at] = keys[i];
  data[kv_heads * block_tokens * head_dim + at] = values[i];
}

/// out[heads][head_dim]: attention of one token at position `tokens` - 1. A block of kThreads a query head. KV head h
/// reads the blocks chosen[first[h]] .. chosen[first[h + 1] - 1], ascending, the sequence's last among them.
/// probabilities[heads][probabilities_stride] is what each head gives each token of its blocks.
extern "C" __global__ void __launch_bounds__(kThreads)
    kvt_decode_attend(char* layer, uint64_t stride, const int32_t* frames, const uint32_t* chosen,
                      const uint32_t* first, uint32_t tokens, uint32_t block_tokens, uint32_t heads,
                      uint32_t kv_heads, uint32_t head_dim, float scale, const float* queries,
                      float* probabilities, uint64_t probabilities_stride, float* out) {
  __shared__ float partial[kThreads];
  __shared__ float greatest;
  __shared__ float inverse;
  const uint32_t head = blockIdx.x;
  const uint32_t kv_head = head / (heads / kv_heads);
  const uint32_t* const list = chosen + first[kv_head];
  const uint32_t blocks = first[kv_head + 1] - first[kv_head];
  const uint32_t in_last = tokens - list[blocks - 1] * block_tokens;
  const uint32_t n = (blocks - 1) * block_tokens + in_last;
  const float* const query = queries + static_cast<uint64_t>(head) * head_dim;
  float* const row = probabilities + head * probabilities_stride;
  const uint64_t values = static_cast<uint64_t>(kv_heads) * block_tokens * head_dim;

  float highest = -INFINITY;
  for (uint32_t t = threadIdx.x; t < n; t += kThreads) {
    const float* const key = block_of(layer, stride, frames, list[t / block_tokens]) +
                             (kv_head * block_tokens + t % block_tokens) * head_dim;
    float sum = 0;
    for (uint32_t d = 0; d < head_dim; ++d) sum = __fadd_rn(sum, __fmul_rn(query[d], key[d]));
    row[t] = __fmul_rn(sum, scale);
    highest = fmaxf(highest, row[t]);
  }
  partial[threadIdx.x] = highest;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (uint32_t i = 1; i < kThreads; ++i) highest = fmaxf(highest, partial[i]);
    greatest = highest;
  }
  __syncthreads();

  float sum = 0;
  for (uint32_t t = threadIdx.x; t < n; t += kThreads) {
    row[t] = expf(__fsub_rn(row[t], greatest));
    sum = __fadd_rn(sum, row[t]);
  }
  partial[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (uint32_t i = 1; i < kThreads; ++i) sum = __fadd_rn(sum, partial[i]);
    inverse = __fdiv_rn(1.0f, sum);
  }
  __syncthreads();
  for (uint32_t t = threadIdx.x; t < n; t += kThreads) row[t] = __fmul_rn(row[t], inverse);
  __syncthreads();

  for (uint32_t d = threadIdx.x; d < head_dim; d += kThreads) {
    float mixed = 0;
    for (uint32_t t = 0; t < n; ++t) {
      const float* const value = block_of(layer, stride, frames, list[t / block_tokens]) + values +
                                 (kv_head * block_tokens + t % block_tokens) * head_dim;
      mixed = __fadd_rn(mixed, __fmul_rn(row[t], value[d]));
    }
    out[static_cast<uint64_t>(head) * head_dim + d] = mixed;
  }
}
