// SPDX-License-Identifier: Apache-2.0
//
// The three caches of a run on a GPU. Which pages there are, under which keys, is the business of the caches that they
// are made of; here is how a GPU reads and writes them. Not thread-safe.
#pragma once

#include <kvtier/cuda.h>

#include <memory>
#include <vector>

#include "tools/kvtier-decode/connector_cache.h"
#include "tools/kvtier-decode/device_access.h"
#include "tools/kvtier-decode/native_cache.h"

namespace kvt::decode {

/// Device memory of this process alone: what the others are compared with.
class DevicePrivateCache : public KvCache {
 public:
  DevicePrivateCache(std::shared_ptr<Device> device, const Shape& shape, const KvLayout& layout,
                     size_t tokens_max);

  size_t prepare(std::span<const Token> tokens) override;
  KvView begin_step() override;
  void end_step(std::span<const Token> tokens, std::span<const uint32_t> blocks_read) override;
  KvAccess* access() override { return &access_; }

 private:
  KvLayout layout_;
  DeviceMemory memory_;          ///< [block][layer]
  PinnedArray<int32_t> frames_;  ///< 0, 1, 2, ...
  DeviceAccess access_;
  std::vector<const std::byte*> addresses_;
  size_t length_ = 0;
};

/// Native mode: the stream ends the steps. A table on the device says where pages are, and the sequence's block table is
/// made from it there, in the order of the stream.
class DeviceNativeCache : public NativeCache {
 public:
  DeviceNativeCache(std::shared_ptr<Device> device, const ArenaOptions& options, const Shape& shape,
                    const KvLayout& layout, KeyChain keys, size_t tokens_max);
  ~DeviceNativeCache() override;

  KvView begin_step() override;
  KvAccess* access() override { return &access_; }

 protected:
  int open_step(kvt_step& step) override;
  int close_step(const kvt_step& step, const kvt_page* full) override;
  void wait_for_steps() override;
  void page_came(size_t block, kvt_page page) override;
  void leave_session() override;

 private:
  std::shared_ptr<Device> device_;
  DeviceAccess access_;
  PinnedArray<int32_t> pages_;   ///< block table: page indices
  PinnedArray<int32_t> frames_;  ///< the same translated, by the device
  std::vector<kvt_page> came_;   ///< into the block table since the last step
  kvt_cuda_map* map_ = nullptr;  ///< of the session that is attached; made with its first step
};

/// Connector mode: blocks in device memory, [layer][block]. Stores and loads are copies in stream order; a layer's
/// attention waits for the load of that layer.
class DeviceConnectorCache : public ConnectorCache {
 public:
  DeviceConnectorCache(std::shared_ptr<Device> device, const ArenaOptions& options, const Shape& shape,
                       const KvLayout& layout, KeyChain keys, size_t tokens_max);
  ~DeviceConnectorCache() override;

  KvAccess* access() override { return &access_; }

 protected:
  int copy(uint32_t direction, const std::vector<kvt_copy>& copies) override;

 private:
  struct Tensor;
  DeviceConnectorCache(std::unique_ptr<Tensor> tensor, std::shared_ptr<Device> device,
                       const ArenaOptions& options, const Shape& shape, const KvLayout& layout, KeyChain keys,
                       size_t tokens_max);
  int load(const std::vector<kvt_copy>& copies);

  std::shared_ptr<Device> device_;
  std::unique_ptr<Tensor> tensor_;
  KvLayout layout_;
  PinnedArray<int32_t> frames_;  ///< 0, 1, 2, ...
  DeviceAccess access_;
  CUstream loads_ = nullptr;
  std::vector<CUevent> loaded_;  ///< by layer
};

}  // namespace kvt::decode
