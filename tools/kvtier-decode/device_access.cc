// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/device_access.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace kvt::decode {
namespace {

constexpr uint32_t kStoreThreads = 128;
constexpr uint32_t kAttendThreads = 128;  // as kvt_decode_attend has it

size_t blocks_for(const KvLayout& layout, size_t tokens) {
  return (tokens + layout.block_tokens - 1) / layout.block_tokens;
}

}  // namespace

DeviceAccess::DeviceAccess(std::shared_ptr<Device> device, const Shape& shape, const KvLayout& layout,
                           size_t tokens_max)
    : device_(std::move(device)),
      shape_(shape),
      layout_(layout),
      tokens_max_(tokens_max),
      loaded_(layout.layers),
      queries_(device_, shape.query_width()),
      keys_(device_, shape.kv_width()),
      values_(device_, shape.kv_width()),
      out_(device_, shape.query_width()),
      block_keys_(device_, layout.layer_floats() / 2),
      chosen_(device_, layout.kv_heads * blocks_for(layout, tokens_max)),
      first_(device_, size_t{layout.kv_heads} + 1),
      probabilities_(device_, shape.heads * tokens_max * sizeof(float)) {}

void DeviceAccess::wait_for_layer(size_t layer) {
  if (loaded_[layer] == nullptr) return;
  device_->check(device_->driver().cuStreamWaitEvent(device_->stream(), loaded_[layer], 0),
                 "wait for a layer");
  loaded_[layer] = nullptr;
}

void DeviceAccess::store(const KvView& view, size_t layer, size_t position, const float* keys,
                         const float* values) {
  const auto current = device_->use();
  wait_for_layer(layer);
  // The kernels that read these before are done: attend() waits.
  const uint32_t width = shape_.kv_width();
  std::copy_n(keys, width, keys_.data());
  std::copy_n(values, width, values_.data());
  CUdeviceptr base = layer_base(layer);
  uint64_t stride = table_.stride;
  CUdeviceptr frames = device_address(table_.frames);
  auto block = static_cast<uint32_t>(view.blocks.size() - 1);
  auto slot = static_cast<uint32_t>(position % layout_.block_tokens);
  CUdeviceptr from_keys = device_address(keys_.data());
  CUdeviceptr from_values = device_address(values_.data());
  void* arguments[] = {&base,
                       &stride,
                       &frames,
                       &block,
                       &slot,
                       &layout_.block_tokens,
                       &layout_.kv_heads,
                       &layout_.head_dim,
                       &from_keys,
                       &from_values};
  device_->check(
      device_->driver().cuLaunchKernel(device_->store(), (width + kStoreThreads - 1) / kStoreThreads, 1, 1,
                                       kStoreThreads, 1, 1, 0, device_->stream(), arguments, nullptr),
      "store keys and values");
}

void DeviceAccess::set_attention(const float* queries, const ChosenBlocks& chosen) {
  std::copy_n(queries, shape_.query_width(), queries_.data());
  std::copy(chosen.blocks.begin(), chosen.blocks.end(), chosen_.data());
  std::copy(chosen.first.begin(), chosen.first.end(), first_.data());
}

void DeviceAccess::enqueue_attend(size_t layer, size_t position) {
  CUdeviceptr base = layer_base(layer);
  uint64_t stride = table_.stride;
  CUdeviceptr frames = device_address(table_.frames);
  CUdeviceptr chosen = device_address(chosen_.data());
  CUdeviceptr first = device_address(first_.data());
  auto tokens = static_cast<uint32_t>(position + 1);
  float scale = 1 / std::sqrt(static_cast<float>(layout_.head_dim));
  CUdeviceptr queries = device_address(queries_.data());
  CUdeviceptr probabilities = device_address(probabilities_.data());
  uint64_t probabilities_stride = tokens_max_;
  CUdeviceptr out = device_address(out_.data());
  void* arguments[] = {&base,
                       &stride,
                       &frames,
                       &chosen,
                       &first,
                       &tokens,
                       &layout_.block_tokens,
                       &shape_.heads,
                       &layout_.kv_heads,
                       &layout_.head_dim,
                       &scale,
                       &queries,
                       &probabilities,
                       &probabilities_stride,
                       &out};
  device_->check(device_->driver().cuLaunchKernel(device_->attend(), shape_.heads, 1, 1, kAttendThreads, 1, 1,
                                                  0, device_->stream(), arguments, nullptr),
                 "attention");
}

void DeviceAccess::attend(float* out, const float* queries, const KvView& /*view*/, size_t layer,
                          size_t position, const ChosenBlocks& chosen, std::vector<float>* probabilities) {
  const auto current = device_->use();
  wait_for_layer(layer);
  set_attention(queries, chosen);
  enqueue_attend(layer, position);
  if (probabilities != nullptr) {
    const size_t tokens = position + 1;
    probabilities->resize(shape_.heads * tokens);
    for (size_t head = 0; head < shape_.heads; ++head)
      device_->check(device_->driver().cuMemcpyAsync(
                         device_address(probabilities->data() + head * tokens),
                         device_address(probabilities_.data() + head * tokens_max_ * sizeof(float)),
                         tokens * sizeof(float), device_->stream()),
                     "bring probabilities home");
  }
  device_->wait(device_->stream());
  std::copy_n(out_.data(), shape_.query_width(), out);
}

const float* DeviceAccess::keys(const KvView& view, size_t block, size_t layer) {
  const auto current = device_->use();
  wait_for_layer(layer);
  device_->check(device_->driver().cuMemcpyAsync(device_address(block_keys_.data()),
                                                 device_address(view.layer(block, layer)),
                                                 layout_.layer_bytes() / 2, device_->stream()),
                 "bring keys home");
  device_->wait(device_->stream());
  return block_keys_.data();
}

}  // namespace kvt::decode
