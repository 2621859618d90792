// SPDX-License-Identifier: Apache-2.0
//
// Native mode: the KV data of the sequence lies in pages of the arena, a block in a page, and is read and
// written where it is. The cache keeps handles; where their frames are is learnt in each step, from the
// change log. Blocks are published under their content keys when they are full, and a prefix that somebody
// has published is found and shared.
//
// A block goes through three states:
//   filling    this cache writes it, inside steps
//   full       all its tokens are there; asked to be published, maybe more than once while the daemon is away
//   settled    sealed: never changes, may move; the change log says where to
// Not thread-safe.
#pragma once

#include "tools/kvtier-decode/arena_session.h"
#include "tools/kvtier-decode/keys.h"
#include "tools/kvtier-decode/kv_cache.h"

namespace kvt::decode {

class NativeCache : public KvCache {
 public:
  /// Attaches; see ArenaSession::attach for what it throws.
  NativeCache(const ArenaOptions& options, const KvLayout& layout, KeyChain keys);
  ~NativeCache() override;

  size_t prepare(std::span<const Token> tokens) override;
  KvView begin_step() override;
  void end_step(std::span<const Token> tokens, std::span<const uint32_t> blocks_read) override;
  [[nodiscard]] CacheCounts counts() const override;

 protected:
  // What is different where a GPU reads the pages.
  virtual int open_step(kvt_step& step) { return kvt_step_begin(session_.get(), &step); }
  /// `full`: null, or the page that the step has filled.
  virtual int close_step(const kvt_step& step, const kvt_page* /*full*/) {
    return kvt_step_end(session_.get(), &step);
  }
  /// Waits until the steps that were closed are over.
  virtual void wait_for_steps() {}
  /// A page has come into the block table, or another one in its place.
  virtual void page_came(size_t /*block*/, kvt_page /*page*/) {}
  /// Before the session is detached.
  virtual void leave_session() {}
  [[nodiscard]] ArenaSession& session() { return session_; }
  [[nodiscard]] const kvt_step& step() const { return step_; }

 private:
  static constexpr uint32_t kNoBlock = UINT32_MAX;

  void find_prefix(std::span<const Token> tokens);
  /// A page for the next block; false: the session has ended.
  bool allocate();
  void add_block(kvt_page page);
  void replace_page(size_t block, kvt_page page);
  void refresh();
  void apply(const kvt_change& change);
  void move_to(size_t block, kvt_frame frame);
  void publish_full(std::span<const Token> tokens);
  /// What has become of one block that was asked to be published.
  void settle(size_t block, const kvt_publish_entry& entry);
  void lose_session();

  KvLayout layout_;
  KeyChain keys_;
  ArenaSession session_;
  bool looked_up_ = false;
  bool ended_ = false;  ///< the session has; reading goes on until the next prepare
  size_t length_ = 0;

  // The block table: by block of the sequence, and back from page indices.
  std::vector<kvt_page> pages_;
  std::vector<kvt_frame> frames_;
  std::vector<const std::byte*> addresses_;
  std::vector<uint8_t> moved_;
  std::vector<uint32_t> block_of_index_;
  size_t settled_ = 0;   ///< blocks before this one are settled
  size_t resolved_ = 0;  ///< blocks before this one have a frame that the change log keeps right
  uint64_t cursor_ = 0;
  bool cursor_valid_ = false;

  kvt_step step_{};
  std::vector<kvt_page> touched_;
  CacheCounts counts_;
};

}  // namespace kvt::decode
