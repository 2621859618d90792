// SPDX-License-Identifier: Apache-2.0
//
// What the kernels of the replay take and give, and the arithmetic of a page's words: one text for the compiler of the
// device, for the host, and for whatever runs the kernels in a device's place. Pure.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define KVT_BOTH_SIDES __host__ __device__
#else
#define KVT_BOTH_SIDES
#endif

namespace kvt::replay {

/// Word `offset` of a page whose content has this start and stride (Content).
KVT_BOTH_SIDES inline uint64_t content_word(uint64_t start, uint64_t stride, uint64_t offset) {
  const uint64_t x = start + offset * stride;
  return x ^ (x >> 29);
}

/// A page to compare: where it is, and what must be there.
struct PageCheck {
  uint64_t address;
  uint64_t start;
  uint64_t stride;
};

/// What came of it. All zero before the launch.
struct PageResult {
  uint64_t words_read;
  uint64_t words_wrong;
  uint64_t first_wrong_to_end;  ///< words from the first wrong one to the page's end; 0: none is wrong
  uint64_t found;               ///< what the first wrong word was when the page had been read
  uint64_t pieces_done;         ///< of the launch alone
};

/// Blocks of a launch share a page in pieces of so many words, so that a few large pages fill a device too.
inline constexpr uint32_t kPieceWords = 16384;
inline constexpr uint32_t kVerifyThreads = 256;

// kvt_replay_verify(const PageCheck* checks, PageResult* results, uint32_t count, uint64_t words)
//   grid: pages, pieces of a page; `words` of a page, an even number.
// kvt_replay_fill(uint64_t* data, uint64_t words, uint64_t start, uint64_t stride)

}  // namespace kvt::replay
