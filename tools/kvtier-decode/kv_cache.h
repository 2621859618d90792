// SPDX-License-Identifier: Apache-2.0
//
// Where the KV data of one sequence lives. A decoder asks, for each token:
//
//   position = prepare(tokens)      how many tokens have their KV data; makes room for one more
//   view = begin_step()             addresses, good until the end of the step
//   ... forward pass ...
//   end_step(tokens, blocks read)
//
// `prepare` usually says one more than before. It says more after a prefix was found, and less after the data
// were lost (another daemon serves): the decoder then computes the same tokens again. Not thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tools/kvtier-decode/kv_access.h"
#include "tools/kvtier-decode/kv_layout.h"
#include "tools/kvtier-decode/tokens.h"

namespace kvt::decode {

/// What a cache has done; counts since it was made.
struct CacheCounts {
  uint64_t blocks_found = 0;      ///< by lookup, at the beginning and after a loss
  uint64_t blocks_published = 0;  ///< stored under their keys by this program
  uint64_t blocks_present = 0;    ///< that somebody else had stored meanwhile
  uint64_t frames_changed = 0;  ///< native: a page of the sequence was in another frame than the step before
  uint64_t blocks_moved = 0;    ///< native: blocks for which that has happened
  uint64_t frames_crossed = 0;  ///< native: of frames_changed, those between device memory and host memory
  uint64_t daemon_away = 0;     ///< calls that were answered KVT_E_AGAIN
  uint64_t sessions_lost = 0;   ///< KVT_E_ENDED: attached anew
  uint64_t arena_moves = 0;  ///< pages that the daemon has moved, of the arena, in the sessions of this cache
};

class KvCache {
 public:
  virtual ~KvCache() = default;
  /// The number of leading tokens whose KV data is there, less than tokens.size(): the position to compute
  /// next. May wait for the daemon. Throws std::runtime_error when there is no room, or the daemon does not
  /// come back. REQUIRES: tokens begins with those of the call before.
  virtual size_t prepare(std::span<const Token> tokens) = 0;
  virtual KvView begin_step() = 0;
  /// `blocks_read`: ascending. The position that `prepare` said has its KV data now.
  virtual void end_step(std::span<const Token> tokens, std::span<const uint32_t> blocks_read) = 0;
  [[nodiscard]] virtual CacheCounts counts() const { return {}; }
  /// Who reads and writes the blocks; null: this CPU can.
  virtual KvAccess* access() { return nullptr; }
};

}  // namespace kvt::decode
