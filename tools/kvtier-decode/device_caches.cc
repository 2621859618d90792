// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/device_caches.h"

#include <fmt/format.h>

#include <numeric>
#include <utility>

#include "tools/kvtier-decode/device.h"
#include "tools/kvtier-decode/errors.h"

namespace kvt::decode {
namespace {

size_t blocks_for(const KvLayout& layout, size_t tokens) {
  return (tokens + layout.block_tokens - 1) / layout.block_tokens;
}

}  // namespace

// ---- private ----

DevicePrivateCache::DevicePrivateCache(std::shared_ptr<Device> device, const Shape& shape,
                                       const KvLayout& layout, size_t tokens_max)
    : layout_(layout),
      memory_(device, blocks_for(layout, tokens_max) * layout.layers * layout.layer_bytes()),
      frames_(device, blocks_for(layout, tokens_max)),
      access_(device, shape, layout, tokens_max) {
  std::iota(frames_.data(), frames_.data() + blocks_for(layout, tokens_max), 0);
  access_.set_table(
      {memory_.data(), layout.layers * layout.layer_bytes(), layout.layer_bytes(), frames_.data()});
}

size_t DevicePrivateCache::prepare(std::span<const Token> /*tokens*/) {
  if (length_ == addresses_.size() * layout_.block_tokens)
    addresses_.push_back(memory_.data() + addresses_.size() * layout_.layers * layout_.layer_bytes());
  return length_;
}

KvView DevicePrivateCache::begin_step() { return {addresses_, nullptr, layout_.layer_bytes()}; }

void DevicePrivateCache::end_step(std::span<const Token> /*tokens*/,
                                  std::span<const uint32_t> /*blocks_read*/) {
  ++length_;
}

// ---- native ----

DeviceNativeCache::DeviceNativeCache(std::shared_ptr<Device> device, const ArenaOptions& options,
                                     const Shape& shape, const KvLayout& layout, KeyChain keys,
                                     size_t tokens_max)
    : NativeCache(options, layout, std::move(keys)),
      device_(std::move(device)),
      access_(device_, shape, layout, tokens_max),
      pages_(device_, blocks_for(layout, tokens_max)),
      frames_(device_, blocks_for(layout, tokens_max)) {}

DeviceNativeCache::~DeviceNativeCache() { leave_session(); }

void DeviceNativeCache::leave_session() {
  kvt_cuda_map_destroy(map_);
  map_ = nullptr;
  came_.clear();
}

void DeviceNativeCache::page_came(size_t block, kvt_page page) {
  // What translated the entry that was there is done: attention has been waited for.
  pages_.data()[block] = static_cast<int32_t>(KVT_PAGE_INDEX(page));
  came_.push_back(page);
}

int DeviceNativeCache::open_step(kvt_step& step) {
  if (map_ == nullptr) {
    const int code = kvt_cuda_map_create(session().get(), &map_);
    if (code == KVT_E_STATE)
      throw MissingError(fmt::format("native mode needs the page table on the device: {}", kvt_last_error()));
    if (code != KVT_OK) return code;
  }
  return kvt_cuda_step_begin(session().get(), device_->stream(), &step);
}

KvView DeviceNativeCache::begin_step() {
  const KvView view = NativeCache::begin_step();
  int code = kvt_cuda_map_update(map_, &step(), came_.data(), came_.size());
  if (code < 0) fail("update the page table", code);
  came_.clear();
  code = kvt_cuda_translate(map_, pages_.data(), frames_.data(), view.blocks.size(), device_->stream());
  if (code != KVT_OK) fail("translate the block table", code);
  const kvt_geometry& geometry = session().geometry();
  access_.set_table({static_cast<const std::byte*>(geometry.base), geometry.stride, session().plane_bytes(),
                     frames_.data()});
  return view;
}

int DeviceNativeCache::close_step(const kvt_step& step, const kvt_page* full) {
  // Sealed when the kernels that write it are done.
  const int sealed = full != nullptr ? kvt_seal(session().get(), full, 1, &step) : KVT_OK;
  const int ended = kvt_cuda_step_end(session().get(), &step);
  return sealed != KVT_OK ? sealed : ended;
}

void DeviceNativeCache::wait_for_steps() {
  const auto current = device_->use();
  device_->wait(device_->stream());
  if (const int open = kvt_cuda_poll(session().get()); open != 0) fail("poll steps that have ended", open);
}

// ---- connector ----

struct DeviceConnectorCache::Tensor {
  Tensor(std::shared_ptr<Device> device, size_t bytes) : memory(std::move(device), bytes) {}
  DeviceMemory memory;
};

DeviceConnectorCache::DeviceConnectorCache(std::shared_ptr<Device> device, const ArenaOptions& options,
                                           const Shape& shape, const KvLayout& layout, KeyChain keys,
                                           size_t tokens_max)
    : DeviceConnectorCache(std::make_unique<Tensor>(
                               device, blocks_for(layout, tokens_max) * layout.layers * layout.layer_bytes()),
                           device, options, shape, layout, std::move(keys), tokens_max) {}

DeviceConnectorCache::DeviceConnectorCache(std::unique_ptr<Tensor> tensor, std::shared_ptr<Device> device,
                                           const ArenaOptions& options, const Shape& shape,
                                           const KvLayout& layout, KeyChain keys, size_t tokens_max)
    : ConnectorCache(options, layout, std::move(keys), tokens_max, tensor->memory.data()),
      device_(std::move(device)),
      tensor_(std::move(tensor)),
      layout_(layout),
      frames_(device_, blocks_for(layout, tokens_max)),
      access_(device_, shape, layout, tokens_max),
      loaded_(layout.layers) {
  const auto current = device_->use();
  std::iota(frames_.data(), frames_.data() + blocks_for(layout, tokens_max), 0);
  access_.set_table({tensor_->memory.data(), layout.layer_bytes(), layer_stride(), frames_.data()});
  device_->check(device_->driver().cuStreamCreateWithPriority(&loads_, CU_STREAM_NON_BLOCKING, 0),
                 "a stream");
  for (CUevent& event : loaded_)
    device_->check(device_->driver().cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), "an event");
}

DeviceConnectorCache::~DeviceConnectorCache() {
  const auto current = device_->use();
  device_->driver().cuStreamSynchronize(loads_);
  device_->driver().cuStreamSynchronize(device_->stream());
  for (const CUevent event : loaded_) device_->driver().cuEventDestroy(event);
  device_->driver().cuStreamDestroy(loads_);
}

int DeviceConnectorCache::copy(uint32_t direction, const std::vector<kvt_copy>& copies) {
  if (direction == KVT_COPY_LOAD) return load(copies);
  if (const int code =
          kvt_cuda_copy(session().get(), KVT_COPY_STORE, copies.data(), copies.size(), device_->stream());
      code != KVT_OK)
    return code;
  // It is published next: not before its bytes are there.
  const auto current = device_->use();
  device_->wait(device_->stream());
  return KVT_OK;
}

/// Layer by layer: the first one's attention begins while the last ones are on their way.
int DeviceConnectorCache::load(const std::vector<kvt_copy>& copies) {
  for (uint32_t layer = 0; layer < layout_.layers; ++layer) {
    std::vector<kvt_copy> of_layer = copies;
    for (kvt_copy& copy : of_layer) {
      copy.page_offset += layer * copy.page_stride;
      copy.memory = static_cast<std::byte*>(copy.memory) + layer * copy.memory_stride;
      copy.rows = 1;
    }
    if (const int code =
            kvt_cuda_copy(session().get(), KVT_COPY_LOAD, of_layer.data(), of_layer.size(), loads_);
        code != KVT_OK)
      return code;
    const auto current = device_->use();
    device_->check(device_->driver().cuEventRecord(loaded_[layer], loads_), "mark a layer's load");
    access_.wait_before(layer, loaded_[layer]);
  }
  return KVT_OK;
}

std::unique_ptr<KvCache> make_device_cache(const Model& model, const RunOptions& options, size_t tokens_max) {
  const KvLayout layout(model.shape, options.block_tokens);
  if (options.place == Place::kPrivate)
    return std::make_unique<DevicePrivateCache>(options.device, model.shape, layout, tokens_max);
  ArenaOptions arena = options.arena;
  arena.fingerprint = fingerprint_of(model, layout);
  arena.cuda = true;
  arena.cuda_device = options.device->ordinal();
  arena.cuda_driver = options.device->driver_path();
  KeyChain keys(options.attention, options.block_tokens, options.salt, arithmetic_of(options.device.get()));
  if (options.place == Place::kNative)
    return std::make_unique<DeviceNativeCache>(options.device, arena, model.shape, layout, std::move(keys),
                                               tokens_max);
  return std::make_unique<DeviceConnectorCache>(options.device, arena, model.shape, layout, std::move(keys),
                                                tokens_max);
}

}  // namespace kvt::decode
