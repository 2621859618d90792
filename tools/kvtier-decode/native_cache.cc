// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/native_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace kvt::decode {

NativeCache::NativeCache(const ArenaOptions& options, const KvLayout& layout, KeyChain keys)
    : layout_(layout), keys_(std::move(keys)), session_(options, layout) {
  session_.attach();
}

NativeCache::~NativeCache() {
  // Published pages stay for others.
  if (session_.attached()) kvt_release(session_.get(), pages_.data(), pages_.size(), nullptr);
}

CacheCounts NativeCache::counts() const {
  CacheCounts counts = counts_;
  counts.arena_moves = session_.arena_moves();
  return counts;
}

size_t NativeCache::prepare(std::span<const Token> tokens) {
  for (;;) {
    if (ended_) lose_session();
    if (!looked_up_) find_prefix(tokens);
    if (length_ < pages_.size() * layout_.block_tokens || allocate()) return length_;
    ended_ = true;
  }
}

/// At least one token is left to be computed: its logits are what is wanted.
void NativeCache::find_prefix(std::span<const Token> tokens) {
  looked_up_ = true;
  block_of_index_.assign(session_.geometry().pages, kNoBlock);
  const auto keys = keys_.keys(tokens, (tokens.size() - 1) / layout_.block_tokens);
  std::vector<kvt_page> found(keys.size());
  const int n =
      kvt_lookup(session_.get(), keys.data(), keys.size(), KVT_LOOKUP_HOLD | KVT_LOOKUP_CHAIN, found.data());
  if (n < 0) fail("lookup", n);
  for (size_t block = 0; block < static_cast<size_t>(n); ++block) add_block(found[block]);
  settled_ = pages_.size();
  length_ = pages_.size() * layout_.block_tokens;
  counts_.blocks_found += pages_.size();
}

bool NativeCache::allocate() {
  const auto end = std::chrono::steady_clock::now() + session_.options().patience;
  for (;;) {
    kvt_page page = KVT_NO_PAGE;
    const int code = kvt_allocate(session_.get(), &page, 1);
    if (code == 1) {
      add_block(page);
      return true;
    }
    if (code == KVT_E_ENDED) return false;
    if (code != KVT_E_AGAIN || std::chrono::steady_clock::now() > end) fail("allocate a page", code);
    ++counts_.daemon_away;
    pause_for_daemon();
  }
}

void NativeCache::add_block(kvt_page page) {
  pages_.push_back(KVT_NO_PAGE);
  frames_.push_back(KVT_NO_FRAME);
  addresses_.push_back(nullptr);
  moved_.push_back(0);
  replace_page(pages_.size() - 1, page);
}

void NativeCache::replace_page(size_t block, kvt_page page) {
  if (pages_[block] != KVT_NO_PAGE) block_of_index_[KVT_PAGE_INDEX(pages_[block])] = kNoBlock;
  pages_[block] = page;
  frames_[block] = KVT_NO_FRAME;
  block_of_index_[KVT_PAGE_INDEX(page)] = static_cast<uint32_t>(block);
  page_came(block, page);
}

/// The session has ended on the daemon's side: pages, holds and keys are gone with it. The prefix may be
/// there again, if others share it; the rest is computed anew.
void NativeCache::lose_session() {
  leave_session();
  session_.detach();
  ++counts_.sessions_lost;
  session_.attach_patiently();
  pages_.clear();
  frames_.clear();
  addresses_.clear();
  moved_.clear();
  length_ = settled_ = resolved_ = 0;
  cursor_valid_ = looked_up_ = ended_ = false;
}

KvView NativeCache::begin_step() {
  if (const int code = open_step(step_); code != KVT_OK) fail("begin a step", code);
  refresh();
  // Frames of a page that is being filled are where it is written, too.
  auto* const current = const_cast<std::byte*>(addresses_.back());
  return {addresses_, current, session_.plane_bytes()};
}

/// Brings the block table up to date inside the step: settled blocks by the change log, the others by asking.
void NativeCache::refresh() {
  kvt_session* const session = session_.get();
  while (cursor_valid_) {
    kvt_change changes[256];
    const int n = kvt_changes(session, &step_, &cursor_, changes, std::size(changes));
    if (n == 0) break;
    if (n < 0) cursor_valid_ = false;  // KVT_E_OVERRUN: everything again
    for (int i = 0; i < n; ++i) apply(changes[i]);
  }
  if (!cursor_valid_) {  // first the cursor, then the frames: a change in between is seen twice, never missed
    if (const int code = kvt_changes_begin(session, &step_, &cursor_); code != KVT_OK) fail("changes", code);
    cursor_valid_ = true;
    resolved_ = 0;
  }
  std::vector<kvt_frame> frames(pages_.size() - resolved_);
  const int code = kvt_resolve(session, &step_, pages_.data() + resolved_, frames.size(), frames.data());
  if (code < 0) fail("resolve", code);
  for (size_t i = 0; i < frames.size(); ++i) move_to(resolved_ + i, frames[i]);
  resolved_ = settled_;
}

void NativeCache::apply(const kvt_change& change) {
  const uint32_t block = block_of_index_[change.index];
  if (block == kNoBlock || block >= resolved_ || pages_[block] != change.page) return;
  move_to(block, change.frame);
}

void NativeCache::move_to(size_t block, kvt_frame frame) {
  if (frame == KVT_NO_FRAME)
    throw std::runtime_error(fmt::format("block {}, page {}: it is held, and cannot be read", block,
                                         KVT_PAGE_INDEX(pages_[block])));
  if (frames_[block] == frame) return;
  if (frames_[block] != KVT_NO_FRAME) {
    ++counts_.frames_changed;
    if (session_.on_device(frames_[block]) != session_.on_device(frame)) ++counts_.frames_crossed;
    if (moved_[block] == 0) ++counts_.blocks_moved;
    moved_[block] = 1;
  }
  frames_[block] = frame;
  addresses_[block] = session_.address(frame);
}

void NativeCache::end_step(std::span<const Token> tokens, std::span<const uint32_t> blocks_read) {
  touched_.clear();
  for (const uint32_t block : blocks_read) touched_.push_back(pages_[block]);
  const int touched = kvt_touch(session_.get(), touched_.data(), touched_.size());
  const bool full = (length_ + 1) % layout_.block_tokens == 0;
  const int ended = close_step(step_, full ? &pages_.back() : nullptr);
  if (touched < 0) fail("touch", touched);
  if (ended != KVT_OK) fail("end a step", ended);
  ++length_;
  // Full blocks that the daemon did not take are offered again with the next one.
  if (full) publish_full(tokens);
}

void NativeCache::publish_full(std::span<const Token> tokens) {
  wait_for_steps();
  const size_t full = length_ / layout_.block_tokens;
  const auto keys = keys_.keys(tokens, full);
  std::vector<kvt_publish_entry> entries;
  for (size_t block = settled_; block < full; ++block) {
    kvt_publish_entry entry{};
    entry.page = pages_[block];
    entry.key = keys[block];
    entry.parent = block == 0 ? KVT_NO_PAGE : pages_[block - 1];
    entries.push_back(entry);
  }
  const int code = kvt_publish(session_.get(), entries.data(), entries.size());
  if (code == KVT_E_AGAIN) ++counts_.daemon_away;
  if (code == KVT_E_ENDED) ended_ = true;
  if (code == KVT_E_AGAIN || code == KVT_E_ENDED) return;
  if (code < 0) fail("publish", code);
  for (const kvt_publish_entry& entry : entries) settle(settled_++, entry);
}

void NativeCache::settle(size_t block, const kvt_publish_entry& entry) {
  switch (entry.result) {
    case KVT_PUBLISHED: ++counts_.blocks_published; break;
    case KVT_PRESENT: {
      // Somebody else was first: read theirs, and give the own page back.
      ++counts_.blocks_present;
      if (kvt_hold(session_.get(), &entry.present, 1, nullptr) != 1) break;  // evicted meanwhile
      kvt_release(session_.get(), &entry.page, 1, nullptr);
      replace_page(block, entry.present);
      break;
    }
    case KVT_E_FULL:  // no room for one more that others can have: it stays this session's own
      if (const int code = kvt_seal(session_.get(), &entry.page, 1, nullptr);
          code != KVT_OK && code != KVT_E_STATE)
        fail("seal", code);
      break;
    default: fail("publish", entry.result);
  }
}

}  // namespace kvt::decode
