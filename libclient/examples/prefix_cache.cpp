// SPDX-License-Identifier: Apache-2.0
//
// A prefix cache in C++17: each request holds the blocks of its prompt that are there, computes and publishes
// the others, and decodes with a block table that follows the daemon's moves.
//
//   c++ -std=c++17 prefix_cache.cpp $(pkg-config --cflags --libs kvtier) -o prefix_cache
//   ./prefix_cache [DECODE_STEPS]
//
// Needs a running kvtierd; KVTIER_SOCKET_DIR names its folder where that is not /run/kvtier.
#include <cstdio>
#include <cstring>
#include <kvtier/kvtier.hpp>
#include <unordered_map>

namespace {

constexpr uint64_t kSalt = 0x9e3779b97f4a7c15;  // of this model: equal keys must mean equal KV data

/// The key of each block: a hash of its tokens and of the key before, so that equal keys are equal prefixes.
std::vector<kvt_key> keys_of(const std::vector<int>& tokens, size_t block_tokens) {
  std::vector<kvt_key> keys;
  kvt_key key{kSalt, ~kSalt};
  for (size_t at = 0; at + block_tokens <= tokens.size(); at += block_tokens) {
    for (size_t i = 0; i < block_tokens; ++i) {
      key.lo = (key.lo ^ static_cast<uint64_t>(tokens[at + i])) * 0x100000001b3;
      key.hi = (key.hi ^ key.lo) * kSalt;
    }
    keys.push_back(key);
  }
  return keys;
}

/// The block table of a running sequence: where each of its held pages is in the current step.
class BlockTable {
 public:
  explicit BlockTable(const std::vector<kvt_page>& pages) : pages_(pages) {
    for (size_t slot = 0; slot < pages.size(); ++slot) slot_of_[KVT_PAGE_INDEX(pages[slot])] = slot;
  }

  /// Frames by slot, good until `step` ends. Only what has moved since the last step is looked at.
  const std::vector<kvt_frame>& update(const kvt::Step& step) {
    kvt_change changes[64];
    while (resolved_) {
      const std::optional<size_t> n = step.changes(cursor_, changes, 64);
      if (n == size_t{0}) return frames_;
      if (!n) resolved_ = false;  // too far behind
      for (size_t i = 0; i < n.value_or(0); ++i) {
        const auto slot = slot_of_.find(changes[i].index);
        if (slot == slot_of_.end()) continue;
        frames_[slot->second] = changes[i].frame;
        ++moves;
      }
    }
    cursor_ = step.changes_begin();  // first the cursor, then the frames
    frames_ = step.resolve(pages_);
    resolved_ = true;
    return frames_;
  }
  size_t moves = 0;

 private:
  const std::vector<kvt_page>& pages_;
  std::unordered_map<uint32_t, size_t> slot_of_;
  std::vector<kvt_frame> frames_;
  uint64_t cursor_ = 0;
  bool resolved_ = false;
};

/// Stands for prefill: each word of the block's KV data is its key's.
void prefill(const kvt::Session& session, uint64_t page_bytes, kvt_page page, const kvt_key& key) {
  auto* const words = static_cast<uint64_t*>(session.data(page));
  for (uint64_t i = 0; i < page_bytes / sizeof(uint64_t); ++i) words[i] = key.lo;
}

/// Serves one request; true when every block that its decode steps read was the right one.
bool serve(const kvt::Session& session, const char* name, const std::vector<int>& prompt, int decode_steps) {
  const kvt_geometry arena = session.geometry();
  const std::vector<kvt_key> keys = keys_of(prompt, arena.block_tokens);
  kvt::Hold blocks = session.hold_prefix(keys);
  const size_t hits = blocks.size();
  blocks.append(session.allocate(keys.size() - hits));
  if (blocks.size() < keys.size())
    throw std::runtime_error("the arena is full: release, preempt, or do without");
  std::vector<kvt_publish_entry> entries;
  for (size_t i = hits; i < keys.size(); ++i) {
    prefill(session, arena.page_bytes, blocks[i], keys[i]);
    entries.push_back({blocks[i], keys[i], i == 0 ? KVT_NO_PAGE : blocks[i - 1], 0, 0, KVT_NO_PAGE});
  }
  session.publish(entries);
  for (const kvt_publish_entry& entry : entries)  // one that is KVT_PRESENT stays this request's own
    if (entry.result < 0) throw kvt::Exception(entry.result);

  bool right = true;
  BlockTable table(blocks.pages());
  for (int i = 0; i < decode_steps; ++i) {
    const kvt::Step step(session);
    const std::vector<kvt_frame>& frames = table.update(step);
    for (size_t slot = 0; slot < frames.size(); ++slot) {  // stands for the attention kernel
      uint64_t first = 0;
      std::memcpy(&first, static_cast<const char*>(arena.base) + frames[slot] * arena.stride, sizeof first);
      right = right && first == keys[slot].lo;
    }
    session.touch(blocks.pages());
  }
  std::printf("%s: %zu blocks, %zu of them from the cache, %zu moves followed\n", name, keys.size(), hits,
              table.moves);
  return right;
}  // `blocks` gives its holds back; what was published stays for the next request

}  // namespace

int main(int argc, char** argv) {
  try {
    const int steps = argc > 1 ? std::stoi(argv[1]) : 200;
    const kvt::Session session = kvt::Session::attach({});
    const size_t block = session.geometry().block_tokens;
    std::vector<int> shared(8 * block, 7);  // a system prompt
    std::vector<int> longer = shared;
    longer.insert(longer.end(), 4 * block, 11);
    const bool right = serve(session, "first", shared, steps) && serve(session, "second", longer, steps);
    if (!right) std::puts("a block was not the right one");
    return right ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "prefix_cache: %s\n", error.what());
    return 1;
  }
}
