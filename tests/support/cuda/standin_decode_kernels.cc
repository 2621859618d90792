// SPDX-License-Identifier: Apache-2.0
//
// The kernels of kvtier-decode (kvt_decode_...) on the CPU: the same sums in the same order.
#include <algorithm>
#include <cmath>

#include "tests/support/cuda/kernels.h"

namespace kvt::standin {
namespace {

constexpr uint32_t kThreads = 128;  // of a block that adds up

/// Where the blocks of a sequence lie, for one layer.
class Blocks {
 public:
  Blocks(KernelCall& call, uint64_t layer, uint64_t stride, const int32_t* frames)
      : call_(call), layer_(layer), stride_(stride), frames_(frames) {}
  /// `count` floats that begin `at` floats into a block.
  float* find(uint32_t block, uint64_t at, uint64_t count, Use use) {
    const uint64_t address = layer_ + static_cast<uint32_t>(frames_[block]) * stride_ + at * sizeof(float);
    return call_.memory<float>(address, count, use);
  }

 private:
  KernelCall& call_;
  uint64_t layer_;
  uint64_t stride_;
  const int32_t* frames_;
};

}  // namespace

/// kvt_decode_store(char* layer, uint64_t stride, const int32_t* frames, uint32_t block, uint32_t slot,
///                  uint32_t block_tokens, uint32_t kv_heads, uint32_t head_dim, const float* keys, const float* values)
void decode_store(KernelCall& call) {
  const auto block = call.argument<uint32_t>(3);
  const auto slot = call.argument<uint32_t>(4);
  const auto block_tokens = call.argument<uint32_t>(5);
  const auto kv_heads = call.argument<uint32_t>(6);
  const auto head_dim = call.argument<uint32_t>(7);
  const uint64_t width = uint64_t{kv_heads} * head_dim;
  const auto* const frames = call.memory<int32_t>(call.argument<uint64_t>(2), block + 1, Use::kRead);
  const auto* const keys = call.memory<float>(call.argument<uint64_t>(8), width, Use::kRead);
  const auto* const values = call.memory<float>(call.argument<uint64_t>(9), width, Use::kRead);
  if (frames == nullptr || keys == nullptr || values == nullptr) return;
  Blocks blocks(call, call.argument<uint64_t>(0), call.argument<uint64_t>(1), frames);
  for (uint32_t kv_head = 0; kv_head < kv_heads; ++kv_head) {
    const uint64_t at = (uint64_t{kv_head} * block_tokens + slot) * head_dim;
    float* const key = blocks.find(block, at, head_dim, Use::kWrite);
    float* const value = blocks.find(block, width * block_tokens + at, head_dim, Use::kWrite);
    if (key == nullptr || value == nullptr) return;
    std::copy_n(keys + kv_head * head_dim, head_dim, key);
    std::copy_n(values + kv_head * head_dim, head_dim, value);
  }
}

/// kvt_decode_attend(char* layer, uint64_t stride, const int32_t* frames, const uint32_t* chosen, const uint32_t* first,
///                   uint32_t tokens, uint32_t block_tokens, uint32_t heads, uint32_t kv_heads, uint32_t head_dim,
///                   float scale, const float* queries, float* probabilities, uint64_t probabilities_stride, float* out)
void decode_attend(KernelCall& call) {
  const auto tokens = call.argument<uint32_t>(5);
  const auto block_tokens = call.argument<uint32_t>(6);
  const auto heads = call.argument<uint32_t>(7);
  const auto kv_heads = call.argument<uint32_t>(8);
  const auto head_dim = call.argument<uint32_t>(9);
  const auto scale = call.argument<float>(10);
  const auto stride = call.argument<uint64_t>(13);
  const uint64_t blocks = (uint64_t{tokens} + block_tokens - 1) / block_tokens;
  const auto* const frames = call.memory<int32_t>(call.argument<uint64_t>(2), blocks, Use::kRead);
  const auto* const first = call.memory<uint32_t>(call.argument<uint64_t>(4), kv_heads + 1, Use::kRead);
  const auto* const queries =
      call.memory<float>(call.argument<uint64_t>(11), uint64_t{heads} * head_dim, Use::kRead);
  auto* const probabilities = call.memory<float>(call.argument<uint64_t>(12), heads * stride, Use::kWrite);
  auto* const out = call.memory<float>(call.argument<uint64_t>(14), uint64_t{heads} * head_dim, Use::kWrite);
  if (frames == nullptr || first == nullptr || queries == nullptr || probabilities == nullptr ||
      out == nullptr)
    return;
  const auto* const chosen = call.memory<uint32_t>(call.argument<uint64_t>(3), first[kv_heads], Use::kRead);
  if (chosen == nullptr) return;
  Blocks memory(call, call.argument<uint64_t>(0), call.argument<uint64_t>(1), frames);
  const uint64_t values = uint64_t{kv_heads} * block_tokens * head_dim;

  for (uint32_t head = 0; head < heads; ++head) {
    const uint32_t kv_head = head / (heads / kv_heads);
    const uint32_t* const list = chosen + first[kv_head];
    const uint32_t count = first[kv_head + 1] - first[kv_head];
    const uint32_t n = (count - 1) * block_tokens + tokens - list[count - 1] * block_tokens;
    const float* const query = queries + uint64_t{head} * head_dim;
    float* const row = probabilities + head * stride;
    const uint64_t at = uint64_t{kv_head} * block_tokens * head_dim;
    for (uint32_t t = 0; t < n;) {
      const uint32_t in_block = std::min(block_tokens, n - t);
      const float* key = memory.find(list[t / block_tokens], at, uint64_t{in_block} * head_dim, Use::kRead);
      if (key == nullptr) return;
      for (const uint32_t end = t + in_block; t < end; ++t, key += head_dim) {
        float sum = 0;
        for (uint32_t d = 0; d < head_dim; ++d) sum += query[d] * key[d];
        row[t] = sum * scale;
      }
    }
    const float greatest = *std::max_element(row, row + n);
    float partial[kThreads] = {};
    for (uint32_t t = 0; t < n; ++t) {
      row[t] = std::exp(row[t] - greatest);
      partial[t % kThreads] += row[t];
    }
    float sum = partial[0];
    for (uint32_t i = 1; i < kThreads; ++i) sum += partial[i];
    const float inverse = 1.0f / sum;
    for (uint32_t t = 0; t < n; ++t) row[t] *= inverse;
    float* const mixed = out + uint64_t{head} * head_dim;
    std::fill_n(mixed, head_dim, 0.0f);
    for (uint32_t t = 0; t < n;) {
      const uint32_t in_block = std::min(block_tokens, n - t);
      const float* value =
          memory.find(list[t / block_tokens], values + at, uint64_t{in_block} * head_dim, Use::kRead);
      if (value == nullptr) return;
      for (const uint32_t end = t + in_block; t < end; ++t, value += head_dim)
        for (uint32_t d = 0; d < head_dim; ++d) mixed[d] += row[t] * value[d];
    }
  }
}

}  // namespace kvt::standin
