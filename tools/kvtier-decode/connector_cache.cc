// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/connector_cache.h"

#include <stdexcept>

namespace kvt::decode {

ConnectorCache::ConnectorCache(const ArenaOptions& options, const KvLayout& layout, KeyChain keys,
                               size_t tokens_max)
    : ConnectorCache(options, layout, std::move(keys), tokens_max, nullptr) {
  own_ = std::make_unique<std::byte[]>(layout.layers * layer_stride());
  tensor_ = own_.get();
}

ConnectorCache::ConnectorCache(const ArenaOptions& options, const KvLayout& layout, KeyChain keys,
                               size_t tokens_max, std::byte* tensor)
    : layout_(layout),
      keys_(std::move(keys)),
      session_(options, layout),
      blocks_max_(blocks_for(layout, tokens_max)),
      tensor_(tensor) {
  session_.attach();
}

ConnectorCache::~ConnectorCache() { hold_as_parent(KVT_NO_PAGE); }

CacheCounts ConnectorCache::counts() const {
  CacheCounts counts = counts_;
  counts.arena_moves = session_.arena_moves();
  return counts;
}

size_t ConnectorCache::prepare(std::span<const Token> tokens) {
  if (!looked_up_) load_prefix(tokens);
  const size_t blocks = length_ / layout_.block_tokens + 1;
  if (blocks > blocks_max_) throw std::logic_error("a sequence is longer than its cache was made for");
  while (addresses_.size() < blocks) addresses_.push_back(address(addresses_.size()));
  return length_;
}

KvView ConnectorCache::begin_step() { return {addresses_, address(addresses_.size() - 1), layer_stride()}; }

void ConnectorCache::end_step(std::span<const Token> tokens, std::span<const uint32_t> /*blocks_read*/) {
  ++length_;
  if (length_ % layout_.block_tokens == 0) store(tokens);
}

kvt_copy ConnectorCache::copy_of(size_t block, kvt_page page) const {
  kvt_copy copy{};
  copy.page = page;
  copy.memory = address(block);
  copy.page_stride = session_.plane_bytes();
  copy.memory_stride = layer_stride();
  copy.row_bytes = layout_.layer_bytes();
  copy.rows = layout_.layers;
  return copy;
}

int ConnectorCache::copy(uint32_t direction, const std::vector<kvt_copy>& copies) {
  uint64_t job = 0;
  const int code = kvt_copy_submit(session_.get(), direction, copies.data(), copies.size(), &job);
  return code == KVT_OK ? kvt_copy_wait(session_.get(), job) : code;
}

void ConnectorCache::load_prefix(std::span<const Token> tokens) {
  looked_up_ = true;
  // At least one token is left to be computed: its logits are what is wanted.
  const auto keys = keys_.keys(tokens, (tokens.size() - 1) / layout_.block_tokens);
  std::vector<kvt_page> pages(keys.size());
  const int found =
      kvt_lookup(session_.get(), keys.data(), keys.size(), KVT_LOOKUP_HOLD | KVT_LOOKUP_CHAIN, pages.data());
  if (found < 0) fail("lookup", found);
  pages.resize(static_cast<size_t>(found));
  if (pages.empty()) return;
  std::vector<kvt_copy> copies;
  for (size_t block = 0; block < pages.size(); ++block) copies.push_back(copy_of(block, pages[block]));
  if (const int code = copy(KVT_COPY_LOAD, copies); code != KVT_OK) fail("load", code);
  length_ = pages.size() * layout_.block_tokens;
  stored_ = pages.size();
  counts_.blocks_found = pages.size();
  hold_as_parent(pages.back());
  pages.pop_back();
  kvt_release(session_.get(), pages.data(), pages.size(), nullptr);
}

void ConnectorCache::store(std::span<const Token> tokens) {
  if (!session_.attached() && session_.try_attach() != KVT_OK) {
    ++counts_.daemon_away;
    return;
  }
  kvt_session* const session = session_.get();
  const size_t full = length_ / layout_.block_tokens;
  const auto keys = keys_.keys(tokens, full);
  while (stored_ < full) {
    kvt_page page = KVT_NO_PAGE;
    uint8_t result = 0;
    int code = kvt_reserve(session, &keys[stored_], 1, &page, &result);
    if (code > 0 && result == KVT_RESERVE_NEW) {
      kvt_publish_entry entry{};
      entry.page = page;
      entry.key = keys[stored_];
      entry.parent = parent_;
      code = copy(KVT_COPY_STORE, {copy_of(stored_, page)});
      if (code == KVT_OK) code = kvt_publish(session, &entry, 1);
      if (code > 0 && entry.result < 0) code = entry.result;
      if (code < 0) kvt_release(session, &page, 1, nullptr);
      if (code > 0) ++counts_.blocks_published;
    } else if (code > 0 && result == KVT_RESERVE_PRESENT) {
      ++counts_.blocks_present;
    } else if (code > 0) {
      return;  // another session is storing it, or there is no room now
    }
    if (code == KVT_E_FULL) return;
    if (code == KVT_E_AGAIN) {
      ++counts_.daemon_away;
      return;
    }
    if (code == KVT_E_ENDED) return lose_session();
    if (code < 0) fail("store a block", code);
    hold_as_parent(page);
    ++stored_;
  }
}

void ConnectorCache::hold_as_parent(kvt_page page) {
  if (parent_ != KVT_NO_PAGE && session_.attached()) kvt_release(session_.get(), &parent_, 1, nullptr);
  parent_ = page;
}

/// The session has ended on the daemon's side. The blocks are here: they are stored again, in a new session,
/// when the next one is full.
void ConnectorCache::lose_session() {
  parent_ = KVT_NO_PAGE;
  stored_ = 0;
  ++counts_.sessions_lost;
  session_.detach();
}

}  // namespace kvt::decode
