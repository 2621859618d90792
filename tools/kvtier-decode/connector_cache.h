// SPDX-License-Identifier: Apache-2.0
//
// Connector mode: the KV data of the sequence lies in this process's own memory, a tensor [layer][block] as
// engines have it. Blocks that are full are stored into the arena by key; before the first step the longest
// prefix that is there is loaded. Nothing depends on the daemon after that: while it is away, blocks wait to
// be stored. Not thread-safe.
#pragma once

#include <memory>

#include "tools/kvtier-decode/arena_session.h"
#include "tools/kvtier-decode/keys.h"
#include "tools/kvtier-decode/kv_cache.h"

namespace kvt::decode {

class ConnectorCache : public KvCache {
 public:
  /// For sequences of at most `tokens_max` tokens. Attaches; see ArenaSession::attach for what it throws.
  ConnectorCache(const ArenaOptions& options, const KvLayout& layout, KeyChain keys, size_t tokens_max);
  ~ConnectorCache() override;

  size_t prepare(std::span<const Token> tokens) override;
  KvView begin_step() override;
  void end_step(std::span<const Token> tokens, std::span<const uint32_t> blocks_read) override;
  [[nodiscard]] CacheCounts counts() const override;

 protected:
  /// With `tensor` as its own memory: layers * layer_stride() bytes, which the caller keeps as long as this lives.
  ConnectorCache(const ArenaOptions& options, const KvLayout& layout, KeyChain keys, size_t tokens_max,
                 std::byte* tensor);
  static size_t blocks_for(const KvLayout& layout, size_t tokens_max) {
    return (tokens_max + layout.block_tokens - 1) / layout.block_tokens;
  }
  /// Copies between pages and the tensor. Loads may still be under way when it returns, if who reads the tensor waits.
  virtual int copy(uint32_t direction, const std::vector<kvt_copy>& copies);
  [[nodiscard]] ArenaSession& session() { return session_; }
  [[nodiscard]] uint64_t layer_stride() const { return blocks_max_ * layout_.layer_bytes(); }

 private:
  [[nodiscard]] std::byte* address(size_t block) const { return tensor_ + block * layout_.layer_bytes(); }
  /// All layers of a block between its page and the tensor.
  [[nodiscard]] kvt_copy copy_of(size_t block, kvt_page page) const;
  void load_prefix(std::span<const Token> tokens);
  /// Stores full blocks from stored_ on. What it cannot now, it does with the next block.
  void store(std::span<const Token> tokens);
  /// Keeps `page` held as the parent of the next block, and lets the one before go.
  void hold_as_parent(kvt_page page);
  void lose_session();

  KvLayout layout_;
  KeyChain keys_;
  ArenaSession session_;
  size_t blocks_max_;
  std::unique_ptr<std::byte[]> own_;
  std::byte* tensor_;
  std::vector<const std::byte*> addresses_;
  bool looked_up_ = false;
  size_t length_ = 0;
  size_t stored_ = 0;              ///< blocks before this one are in the arena, or were
  kvt_page parent_ = KVT_NO_PAGE;  ///< of block stored_ - 1; held
  CacheCounts counts_;
};

}  // namespace kvt::decode
