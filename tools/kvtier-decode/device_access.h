// SPDX-License-Identifier: Apache-2.0
//
// KV data that kernels read and write, in device memory or host memory, in the order of the device's stream. Queries,
// keys, values and results lie in host memory that the kernels reach. Not thread-safe.
#pragma once

#include <memory>
#include <vector>

#include "tools/kvtier-decode/device_gpu.h"
#include "tools/kvtier-decode/kv_access.h"

namespace kvt::decode {

/// Where the blocks of a sequence are: block b begins at base + frames[b] * stride, its layers `layer_stride` apart.
struct DeviceTable {
  const std::byte* base = nullptr;
  uint64_t stride = 0;
  uint64_t layer_stride = 0;
  const int32_t* frames = nullptr;  ///< in memory that the device reaches
};

class DeviceAccess : public KvAccess {
 public:
  /// For sequences of at most `tokens_max` tokens.
  DeviceAccess(std::shared_ptr<Device> device, const Shape& shape, const KvLayout& layout, size_t tokens_max);

  /// What the next calls go by.
  void set_table(const DeviceTable& table) { table_ = table; }
  /// The next use of the layer waits for the event, in stream order. REQUIRES: it lives until that is done.
  void wait_before(size_t layer, CUevent loaded) { loaded_[layer] = loaded; }

  void store(const KvView& view, size_t layer, size_t position, const float* keys,
             const float* values) override;
  void attend(float* out, const float* queries, const KvView& view, size_t layer, size_t position,
              const ChosenBlocks& chosen, std::vector<float>* probabilities) override;
  const float* keys(const KvView& view, size_t block, size_t layer) override;

  // The parts of `attend`, for who wants to enqueue it in another way. REQUIRES: Device::use().
  void set_attention(const float* queries, const ChosenBlocks& chosen);
  void enqueue_attend(size_t layer, size_t position);
  [[nodiscard]] const float* result() const { return out_.data(); }

 private:
  void wait_for_layer(size_t layer);
  [[nodiscard]] CUdeviceptr layer_base(size_t layer) const {
    return device_address(table_.base + layer * table_.layer_stride);
  }

  std::shared_ptr<Device> device_;
  Shape shape_;
  KvLayout layout_;
  size_t tokens_max_;
  DeviceTable table_;
  std::vector<CUevent> loaded_;  ///< by layer; null: nothing to wait for
  PinnedArray<float> queries_;
  PinnedArray<float> keys_;
  PinnedArray<float> values_;
  PinnedArray<float> out_;
  PinnedArray<float> block_keys_;  ///< a layer's keys of one block, brought home
  PinnedArray<uint32_t> chosen_;
  PinnedArray<uint32_t> first_;
  DeviceMemory probabilities_;  ///< float[heads][tokens_max]
};

}  // namespace kvt::decode
