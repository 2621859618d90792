// SPDX-License-Identifier: Apache-2.0
//
// KV data in this process's own memory: what the other caches are compared with. Not thread-safe.
#pragma once

#include <memory>

#include "tools/kvtier-decode/kv_cache.h"

namespace kvt::decode {

class PrivateCache : public KvCache {
 public:
  explicit PrivateCache(const KvLayout& layout) : layout_(layout) {}

  size_t prepare(std::span<const Token> tokens) override;
  KvView begin_step() override;
  void end_step(std::span<const Token> tokens, std::span<const uint32_t> blocks_read) override;

 private:
  KvLayout layout_;
  std::vector<std::unique_ptr<std::byte[]>> blocks_;
  std::vector<const std::byte*> addresses_;
  size_t length_ = 0;
};

}  // namespace kvt::decode
